"""The container engine: its API, and building with its BuildKit."""
