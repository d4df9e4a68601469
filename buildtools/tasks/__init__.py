"""The Invoke tasks: from arguments to one pipeline call to the output.

A repository only needs ``from buildtools.tasks import namespace`` in its ``tasks.py``. Data goes to standard output,
everything else to standard error. Importing it does not change the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.collection import Collection

# The signal handling used to be here, and others import it from here.
from buildtools.cancellation import cancel_on_signals as _signals  # noqa: F401
from buildtools.invocation import exit_codes
from buildtools.tasks.channel_tasks import channel, promote, prune, rollback, stage
from buildtools.tasks.host_tasks import fetch, runit
from buildtools.tasks.image_tasks import build, list_images, plan, push, tag
from buildtools.tasks.project_tasks import check, init, version
from buildtools.tasks.release_tasks import dist, history, publish, release, verify
from buildtools.tasks.sandbox_tasks import sandbox_down, sandbox_status, sandbox_up
from buildtools.tasks.upkeep_tasks import clean, doctor

namespace = Collection(
    version,
    init,
    check,
    list_images,
    plan,
    build,
    tag,
    push,
    dist,
    publish,
    release,
    verify,
    channel,
    rollback,
    stage,
    promote,
    prune,
    fetch,
    history,
    runit,
    doctor,
    clean,
    sandbox=Collection(sandbox_up, sandbox_down, sandbox_status),
)


def _check_project_file() -> None:
    """End with a message where ``invoke`` would end with a traceback, right after it loads this module.

    Other programs that import this module have no such file, or read it in their own way.
    """
    from buildtools.invoke_config import refuse_invalid_file

    if "invoke.main" in sys.modules:
        # Invoke puts the folder of the tasks file there before it loads the file.
        with exit_codes():
            refuse_invalid_file(Path(sys.path[0]))


_check_project_file()
