"""Results as tables for people, as documents for programs, and as the final sentence of a run."""
