"""A store in an S3 bucket, or a service with the same protocol. Only this package imports boto3."""
