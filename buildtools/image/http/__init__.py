"""Connections, responses and proxies, shared by the clients of engine and registry."""
