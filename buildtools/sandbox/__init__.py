"""A registry, an S3 server and, if none is running, an engine, all on loopback."""

from buildtools.sandbox.box import Sandbox, Service, down, status, up

__all__ = ["Sandbox", "Service", "down", "status", "up"]
