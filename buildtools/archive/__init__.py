"""Distributions: the deterministic tarball and its S3 store. botocore is imported nowhere else."""
