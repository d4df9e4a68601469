"""The configuration of submodules: which of their changes make the surrounding tree dirty.

https://git-scm.com/docs/gitmodules,
https://git-scm.com/docs/git-config#Documentation/git-config.txt-submoduleltnamegtignore
"""

from __future__ import annotations

import os

from buildtools.git.config import parse_config
from buildtools.git.errors import BadConfig
from buildtools.git.worktree.index import FLAGS, STAGE
from buildtools.git.worktree.tracked_files import Files

IGNORE_VALUES = ("all", "dirty", "untracked", "none")


class Submodules:
    """The submodules of one work tree. ``default`` is what to ignore in those without a setting of their own."""

    def __init__(self, files: Files, default: str) -> None:
        self._files = files
        self._default = default
        self._names: dict[str, str] = {}
        self._ignored: dict[str, str] = {}
        self._read_gitmodules()

    def _read_gitmodules(self) -> None:
        files = self._files
        position = files.index.position(b".gitmodules")
        if position is not None and files.index.fields[position][FLAGS] & STAGE:
            return
        try:
            with open(files.top + b"/.gitmodules", "rb") as stream:
                data: bytes | None = stream.read()
        except OSError:
            data = files.read_indexed(b".gitmodules")
        for key, value in parse_config(data or b"", ".gitmodules"):
            section, _, rest = key.partition(".")
            name, dot, item = rest.rpartition(".")
            if section != "submodule" or not dot or value is None:
                continue
            if item == "path" and not value.startswith("-"):
                self._names = {path: other for path, other in self._names.items() if other != name}
                self._names[value] = name
            elif item == "ignore" and value in IGNORE_VALUES:
                self._ignored[name] = value

    def ignored(self, path: bytes) -> str:
        """What is ignored in the submodule at ``path``: ``all``, ``dirty``, ``untracked`` or ``none``.

        :raises BadConfig: if the configuration has another value.
        """
        name = self._names.get(os.fsdecode(path))
        if name is None:
            return self._default
        value = self._files.repository.config.get(f"submodule.{name}.ignore")
        if value is not None and value not in IGNORE_VALUES:
            raise BadConfig(f"submodule.{name}.ignore is {value!r}", f"write one of {', '.join(IGNORE_VALUES)}")
        return value or self._ignored.get(name, self._default)

    def ignores_all(self, path: bytes) -> bool:
        """Whether all changes of the submodule at ``path`` are ignored, even another commit."""
        return self.ignored(path) == "all"
