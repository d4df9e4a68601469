"""The contents of the git folder: objects, packs, commits, refs."""
