"""Where engine and registry meet: how images get from one into the other."""
