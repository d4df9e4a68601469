"""Repositories to measure with: image folders in three levels, each with a context of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from bench.repository import Repository

FILES = 24
LEVELS = (0.1, 0.3, 0.6)


@dataclass(frozen=True)
class Tree(Repository):
    """A git repository with image folders. ``levels`` are their names, parents before children."""

    levels: tuple[tuple[str, ...], ...]
    prefix: str

    @property
    def names(self) -> list[str]:
        """All image folders, parents before children."""
        return [name for level in self.levels for name in level]

    def parent(self, name: str) -> str:
        """What a folder's image is built from; empty for the first level."""
        for above, level in zip(self.levels, self.levels[1:], strict=False):
            if name in level:
                return above[level.index(name) % len(above)]
        return ""

    def salt(self, name: str) -> str:
        """What the image of this folder must hold in ``/opt/NAME/salt``."""
        return (self.root / "src/docker" / name / "files/salt").read_text()

    def set_salt(self, name: str, text: str) -> None:
        """Change a folder's content."""
        (self.root / "src/docker" / name / "files/salt").write_text(text)


def make_tree(root: Path, count: int, size: int, salt: str, base: str, prefix: str) -> Tree:
    """A tree of ``count`` image folders with ``size`` bytes of contexts, none of which any other tree has."""
    counts = [max(1, round(count * share)) for share in LEVELS[:-1]]
    counts.append(count - sum(counts))
    levels = tuple(tuple(f"level{level}-{number:04}" for number in range(many)) for level, many in enumerate(counts, 1))
    tree = Tree(root, levels, prefix)
    numbers = random.Random(salt)
    for name in tree.names:
        files = root / "src/docker" / name / "files"
        files.mkdir(parents=True)
        parent = tree.parent(name)
        source = f"${{REGISTRY}}/{parent}:${{VERSION}}" if parent else base
        (files.parent / "Dockerfile").write_text(
            f"ARG REGISTRY\nARG VERSION\nFROM {source}\nCOPY files /opt/{name}\nRUN echo done > /opt/{name}/done\n"
        )
        for number in range(FILES if size else 0):
            (files / f"file{number}").write_bytes(_content(numbers, size // count // FILES, number))
        tree.set_salt(name, f"{salt} {name}\n")
    registry, _, namespace = prefix.partition("/")
    (root / "pyproject.toml").write_text(
        f'[tool.buildtools]\nregistry = "{registry}"\nnamespace = "{namespace}"\nregistry_plain_http = true\n'
    )
    (root / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    tree.git("init", "--quiet", "--initial-branch", "main")
    tree.release("1.0.0")
    return tree


def _content(numbers: random.Random, size: int, number: int) -> bytes:
    """A third each of what cannot be compressed, what can by half, and what can very well."""
    if number % 3 == 0:
        return numbers.randbytes(size)
    if number % 3 == 1:
        return numbers.randbytes(size // 2).hex().encode()
    line = numbers.randbytes(40).hex().encode() + b"\n"
    return (line * (size // len(line) + 1))[:size]
