"""A folder with everything in it that a build context is seldom tried with."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def make_nasty_tree(root: Path) -> None:
    """Fill ``root``. What only root may make is left out for others."""
    for name, content in {
        "plain.txt": b"plain\n",
        "empty": b"",
        "a/b/c/deep.txt": b"deep\n",
        "a/b/sibling.txt": b"sibling\n",
        "a-b": b"sorts between a and a/b in some orders\n",
        "a.b/file": b"and this one too\n",
        "docs/readme.md": b"# docs\n",
        "docs/secret.txt": b"secret\n",
        "docs/deep/er/keep.md": b"keep\n",
        "src/main.c": b"int main;\n",
        "src/main.o": b"\0object",
        "src/.hidden": b"hidden\n",
        "build/output.bin": bytes(range(256)) * 2000,
        "logs/one.log": b"1\n",
        "logs/two.log": b"2\n",
        "logs/keep/three.log": b"3\n",
        " leading space": b"space\n",
        "trailing space ": b"space\n",
        "new\nline": b"newline\n",
        "tab\there": b"tab\n",
        "back\\slash": b"backslash\n",
        "star*": b"star\n",
        "[brackets]": b"brackets\n",
        "quote'\"quote": b"quotes\n",
        "ünïcödé/日本語.txt": b"unicode\n",
        "-dash": b"dash\n",
        "#hash": b"hash\n",
        "!bang": b"bang\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "empty directory").mkdir()

    links = root / "links"
    links.mkdir()
    for name, target in {
        "relative": "../plain.txt",
        "absolute": "/docs/readme.md",
        "directory": "../docs",
        "dangling": "nowhere",
        "escaping": "../../../etc/hostname",
        "loop": "loop",
        "untidy": ".././/plain.txt",
        "chain": "relative",
        "through": "directory/deep/er",
    }.items():
        (links / name).symlink_to(target)

    hard = root / "hard"
    hard.mkdir()
    (hard / "first").write_bytes(b"one inode\n")
    os.link(hard / "first", hard / "second")
    # The first name of this inode is one that some of the ignore files leave out.
    os.link(hard / "first", root / "build" / "another-name")
    os.link(links / "relative", hard / "name-of-a-link", follow_symlinks=False)

    modes = root / "modes"
    modes.mkdir()
    for mode in (0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1644, 0o000):
        path = modes / f"{mode:04o}"
        path.write_bytes(b"mode\n")
        path.chmod(mode if mode or os.geteuid() == 0 else 0o600)
    (modes / "sticky").mkdir()
    (modes / "sticky").chmod(0o1777)
    os.mkfifo(modes / "fifo")
    # No socket: the official client of 2020 sends an empty file for one, later ones leave it out, as we do.
    os.utime(root / "plain.txt", ns=(0, 1))
    os.utime(root / "empty", ns=(0, -1_500_000_000))
    with suppress(OSError):  # not every file system has them
        os.setxattr(root / "plain.txt", "user.colour", b"green")
    if os.geteuid() == 0:
        os.chown(root / "docs" / "readme.md", 1234, 5678)
        os.mknod(modes / "device", 0o600 | 0o020000, os.makedev(1, 3))
