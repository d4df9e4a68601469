"""Waits until the process that runs the tests is gone, then stops the services in a folder and removes it.

``python keeper.py PID FOLDER``, started by conftest.py. It waits for the process itself, so that the services end with
a run that was killed, too.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from buildtools.sandbox.box import stop_all


def keep(owner: int, folder: Path) -> None:
    """Stop every service that has a record in ``folder`` once ``owner`` has ended."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(owner)
        (folder / "keeper.ready").touch()
        select.select([handle], [], [])
    # Under another name, so that a worker that outlives its run cannot start another service in it.
    folder = folder.rename(folder.with_suffix(".over"))
    (folder / "keeper.pid").unlink()
    stop_all(folder)
    shutil.rmtree(folder)


if __name__ == "__main__":
    keep(int(sys.argv[1]), Path(sys.argv[2]))
