"""Distributions: the deterministic tarball, its checksums, and the store for it."""
