"""The store that is a bucket of S3, or of a service that speaks its protocol. boto3 is imported nowhere else."""
