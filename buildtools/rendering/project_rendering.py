"""The results of ``init`` and ``check``."""

from __future__ import annotations

from typing import Any

from buildtools.rendering.json_rendering import document
from buildtools.rendering.words import count_text
from buildtools.stages.check import Checked
from buildtools.stages.new_project import NewProject


def new_project_document(project: NewProject) -> Any:
    """The output of ``init --json``: only paths."""
    files = [file.path for file in project.files]
    return document({"files": files, "unchanged": project.unchanged, "commands": project.commands})


def new_project_summary(project: NewProject, *, dry_run: bool) -> str:
    """The result of ``init``."""
    paths = {
        "wrote": [file.path for file in project.files if not file.is_added_to],
        "added to": [file.path for file in project.files if file.is_added_to],
        "kept": project.unchanged,
    }
    words = "; ".join(f"{word} {', '.join(paths[word])}" for word in paths if paths[word])
    return f"{'dry run, nothing was touched: ' if dry_run else ''}{words}; next: the commands above"


def checked_summary(checked: Checked) -> str:
    """The result of a successful ``check``."""
    images, distributions = len(checked.images), len(checked.distributions)
    return f"no errors: {count_text(images, 'image folder')} and {count_text(distributions, 'distribution')} checked"
