"""An image folder: its Dockerfile, its context, its parents, its fingerprint."""
