"""The registry protocol: authentication, manifests, blobs, and what a registry holds."""
