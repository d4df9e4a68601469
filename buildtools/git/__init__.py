"""Repository to version: describe, worktree state, release tags. dulwich is imported nowhere else."""
