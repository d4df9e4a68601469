"""Cutting a release tag and pushing it: what speaks against it, who makes it, signatures, remotes."""
