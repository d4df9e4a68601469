"""Distributions: the deterministic tarball and its S3 store. boto3 is imported nowhere else."""
