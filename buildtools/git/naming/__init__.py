"""From a commit to its name and back: what ``git describe`` does, and names as users write them."""
