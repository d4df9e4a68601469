"""Builders that push what they build into a registry, and keep no images themselves."""
