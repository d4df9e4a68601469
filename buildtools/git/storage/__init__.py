"""What lies in the git folder: objects, packs, commits, refs."""
