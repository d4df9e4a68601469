"""Distributions: the deterministic tarball, its checksums, and the store that it goes to."""
