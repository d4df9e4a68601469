"""Creates the release tag and pushes it: checks, tagger, signature, remotes."""
