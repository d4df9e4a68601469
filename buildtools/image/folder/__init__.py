"""What an image folder is: its Dockerfile, its context, its place among its siblings, its fingerprint."""
