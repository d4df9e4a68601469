"""The user's Docker configuration: contexts, credentials, proxies for builds."""
