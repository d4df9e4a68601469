"""Image folders, contexts, fingerprints, the engine, BuildKit and the registry. docker is imported nowhere else."""
