"""Connections, answers and proxies: what the clients of engine and registry share."""
