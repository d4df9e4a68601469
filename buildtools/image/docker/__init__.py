"""What a user's Docker configuration says: contexts, credentials, proxies for builds."""
