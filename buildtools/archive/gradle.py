"""The distributions that a Gradle build makes, as far as its files show without running it.

The plug-in ``application``, which ``gradle init`` uses, includes ``distribution`` and its ``installDist``:
https://docs.gradle.org/current/userguide/distribution_plugin.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from buildtools.frozen import frozen

_COMMENT = re.compile(r"/\*.*?\*/|(?<!:)//[^\n]*", re.DOTALL)
_NAME = re.compile(r"""^\s*rootProject\.name\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_INCLUDE = re.compile(r"""\binclude\b\s*\(?((?:\s*["'][^"']+["']\s*,?)+)""")
_TEXT = re.compile(r"""["']([^"']+)["']""")
# By its quoted id, or that of a convention of the project's own, as `gradle init` makes them; in Kotlin also unquoted.
_QUOTED = re.compile(r"""["'`](?!com\.android\.)(?:[\w.-]+[.-])?(?:application|distribution)(?:-conventions?)?["'`]""")
_BARE = re.compile(r"""plugins\s*\{[^}]*(?<![\w."'`-])(?:application|distribution)(?![\w."'`-])""")


@frozen
class GradleDistribution:
    """One project's distribution: its name, the task that installs it, and the project's folder (empty at the root)."""

    name: str
    task: str
    folder: str

    @property
    def root(self) -> str:
        """The folder that the task creates."""
        return f"{self.build_folder}/install/{self.name}"

    @property
    def build_folder(self) -> str:
        """The folder that the project's build writes to."""
        return f"{self.folder}/build" if self.folder else "build"


def gradle_distributions(root: Path) -> Iterator[GradleDistribution]:
    """The distributions of the build whose root project is in ``root``.

    :raises OSError: if a file cannot be read.
    """
    settings = _script(root, "settings")
    if _makes_one(root):
        name = _NAME.search(settings)
        yield GradleDistribution(name[1] if name else root.name, "installDist", "")
    for included in _INCLUDE.findall(settings):
        for project in _TEXT.findall(included):
            words = project.strip(":").split(":")
            folder = "/".join(words)
            if _makes_one(root / folder):
                yield GradleDistribution(words[-1], f":{':'.join(words)}:installDist", folder)


def _makes_one(folder: Path) -> bool:
    script = _script(folder, "build")
    return bool(_QUOTED.search(script) or _BARE.search(script))


def _script(folder: Path, name: str) -> str:
    files = (folder / f"{name}.{kind}" for kind in ("gradle", "gradle.kts"))
    return _COMMENT.sub("", "".join(file.read_text("utf-8", "replace") for file in files if file.is_file()))
