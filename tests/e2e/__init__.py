"""The real commands, run as a user runs them, against a real engine, registry and store."""
