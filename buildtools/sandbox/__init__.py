"""A registry, an S3 server and, where none answers, an engine, all on loopback."""
