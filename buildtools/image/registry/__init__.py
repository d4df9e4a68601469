"""A registry, its logins, what it holds, and how images get there."""
