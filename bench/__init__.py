"""Benchmarks against what people use today; ``bench/README.md`` has what was found."""

import os

# An installed program has its bytecode. Where this is set, an editable one would compile itself in each run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
