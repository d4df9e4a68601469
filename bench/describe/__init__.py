"""How long describe takes next to a ``git describe`` process."""
