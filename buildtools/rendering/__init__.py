"""Results as tables for people, as documents for programs, and as the one sentence a run ends with."""
