"""Files that only we may read, written so that nobody ever sees half of one."""

from __future__ import annotations

import os
from pathlib import Path


def write_private(file: Path, text: str) -> None:
    """Write ``text`` to ``file``, mode 0600, replacing what was there in one step."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:  # noqa: PTH123  a descriptor
        stream.write(text)
    new.replace(file)
