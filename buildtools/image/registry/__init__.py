"""The registry protocol: authentication, manifests, blobs, and looking up images."""
