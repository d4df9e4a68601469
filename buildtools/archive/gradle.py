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
    """One project's distribution: a name that no other of the build has, and the task that installs it.

    ``root`` is the folder that the task creates, ``folder`` that of the project, which is empty for the root project.
    """

    name: str
    task: str
    root: str
    folder: str


def gradle_distributions(root: Path) -> Iterator[GradleDistribution]:
    """The distributions of the build whose root project is in ``root``.

    :raises OSError: if a file cannot be read.
    """
    settings = _script(root, "settings")
    names: set[str] = set()
    if _makes_one(root):
        match = _NAME.search(settings)
        name = match[1] if match else root.name
        names.add(name)
        yield GradleDistribution(name, "installDist", f"build/install/{name}", "")
    for included in _INCLUDE.findall(settings):
        for project in _TEXT.findall(included):
            words = project.strip(":").split(":")
            folder = "/".join(words)
            if _makes_one(root / folder):
                # Projects of one name in several folders have distributions of one name.
                name = "-".join(words) if words[-1] in names else words[-1]
                names.add(name)
                task = f":{':'.join(words)}:installDist"
                yield GradleDistribution(name, task, f"{folder}/build/install/{words[-1]}", folder)


def _makes_one(folder: Path) -> bool:
    script = _script(folder, "build")
    return bool(_QUOTED.search(script) or _BARE.search(script))


def _script(folder: Path, name: str) -> str:
    files = (folder / f"{name}.{kind}" for kind in ("gradle", "gradle.kts"))
    return _COMMENT.sub("", "".join(file.read_text("utf-8", "replace") for file in files if file.is_file()))
