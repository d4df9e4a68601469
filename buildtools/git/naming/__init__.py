"""From a commit to its name and back: ``git describe``, and names as users write them."""
