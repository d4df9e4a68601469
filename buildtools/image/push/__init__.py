"""From an engine into a registry."""
