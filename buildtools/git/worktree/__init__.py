"""Whether the work tree is dirty: HEAD, the index and the files, compared as git compares them."""
