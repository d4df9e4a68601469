"""BuildKit's session and control protocols over the engine's own API."""
