"""A repository whose work tree is changed step by step, each step a small piece of data, for comparison with git."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.git.describe import describe
from buildtools.git.repository import Repository
from buildtools.git.worktree.status import WorkTree
from tests.compat.oracle import WALK
from tests.git.reference import environment, tried

# What is done, to which of the paths, and in which of several ways.
Step = tuple[str, int, int]

PATHS = (
    *("a.txt", "b.bin", "crlf.txt", "dir/c.txt", "dir/e.c", "dir/sub/d.sh", "empty", "lnk", "out/f.txt", "utf.txt"),
    *("it's $x \u00fc.txt", ".gitmodules"),
)
CONTENTS = (
    b"one\ntwo\n",
    b"one\r\ntwo\r\n",
    b"one\r\ntwo\n",
    b"ONE\nTWO\n",
    b"$Id$\nx\n",
    b"$Id: 0123 $\nx\n",
    b"a\0b\r\n",
    b"lone\rcr\r\n",
    b"",
    "gr\u00fc\u00df\n".encode("utf-16"),
    "gr\u00fc\u00df\n".encode(),
    b"three\n",
)
ATTRIBUTES = (
    "",
    "* text=auto\n",
    "*.txt text eol=crlf\n*.bin binary\n",
    "* text=auto\n*.c -text\ndir/** ident\n",
    "*.txt ident\n*.c filter=upper\n",
    "[attr]odd filter=upper ident text\n*.txt odd\na.txt -odd\n",
    "*.txt filter=named\nutf.txt !filter working-tree-encoding=UTF-16\n",
    "utf.txt working-tree-encoding=UTF-16LE-BOM text\n*.c crlf=input\n",
    "*.sh filter=fails\n*.c filter=missing\n",
    "dir/*.c filter=must\n",
    "*.txt filter=long\n",
    '"a.t\\170t" text\n!x text\n/dir/c.txt eol=crlf\nbad=attr =x\n',
    "*.txt text\n[attr]text\n*.c text=auto eol=lf\nA.TXT -text\n",
    "utf.txt working-tree-encoding=latin-1\n*.bin working-tree-encoding=nonsense\n",
    "\ufeff*.txt text\n",
    "*.bin working-tree-encoding\n",
)
SETTINGS = (
    ("core.autocrlf", "true"),
    ("core.autocrlf", "input"),
    ("core.autocrlf", "false"),
    ("core.filemode", "false"),
    ("core.filemode", "true"),
    ("core.symlinks", "false"),
    ("core.symlinks", "true"),
    ("core.trustctime", "false"),
    ("core.trustctime", "true"),
    ("core.checkstat", "minimal"),
    ("core.checkstat", "default"),
    ("core.ignorecase", "true"),
    ("core.ignorecase", "false"),
    ("core.ignorestat", "true"),
    ("core.safecrlf", "true"),
    ("core.eol", "crlf"),
    ("diff.ignoresubmodules", "all"),
    ("status.showuntrackedfiles", "no"),
    ("sparse.expectfilesoutsideofpatterns", "true"),
    ("core.untrackedcache", "true"),
)
SUBMODULE_SETTINGS = (
    ("status.showuntrackedfiles", "no"),
    ("status.showuntrackedfiles", "all"),
    ("diff.ignoresubmodules", "dirty"),
    ("diff.ignoresubmodules", "none"),
    ("core.excludesfile", ".gitignore"),
    ("core.filemode", "false"),
)
IGNORE = ("all", "dirty", "untracked", "none")

# A long-running filter that turns text into upper case, gives up on content with "two", and breaks on "lone".
LONG_FILTER = r"""
import sys
i, o = sys.stdin.buffer, sys.stdout.buffer
def receive():
    out = []
    while (n := int(i.read(4) or b"-1", 16)):
        if n < 0:
            sys.exit()
        out.append(i.read(n - 4))
    return out
def send(*lines):
    for line in lines:
        o.write(b"%04x" % (len(line) + 4) + line)
    o.write(b"0000")
    o.flush()
receive()
send(b"git-filter-server\n", b"version=2\n")
receive()
send(b"capability=clean\n")
while True:
    receive()
    data = b"".join(receive())
    if b"lone" in data:
        sys.exit(1)
    if b"two" in data:
        send(b"status=error\n")
        continue
    send(b"status=success\n")
    send(*[data[at:at + 60000].upper() for at in range(0, len(data), 60000)])
    send()
"""


class Playground:
    """One repository with a submodule in it, in a folder of its own."""

    def __init__(self, folder: Path, python: str, object_format: str = "sha1") -> None:
        self.top = folder / "work"
        self.home = folder / "home"
        self.top.mkdir(parents=True)
        self.home.mkdir()
        self.environment = environment(self.home)
        script = folder / "long.py"
        script.write_text(LONG_FILTER)
        (self.home / ".gitconfig").write_text(
            "[advice]\n detachedHead = false\n[gc]\n auto = 0\n[init]\n defaultBranch = main\n"
            '[filter "upper"]\n clean = tr a-z A-Z\n'
            '[filter "named"]\n clean = "cat; echo %f %%"\n'
            '[filter "fails"]\n clean = "cat; false"\n'
            '[filter "must"]\n clean = "grep -v lone"\n required = true\n'
            f'[filter "long"]\n process = {python} {script}\n'
        )
        self.git("init", "-q", f"--object-format={object_format}")
        for number, path in enumerate(PATHS[:-1]):
            self.write(path, CONTENTS[number % len(CONTENTS)])
        (self.top / "lnk").unlink()
        (self.top / "lnk").symlink_to("a.txt")
        self._make_submodule()
        self.git("add", "-A")
        self.git("commit", "-qm", "first")
        self.git("tag", "-a", "v1", "-m", "v1")

    def _make_submodule(self) -> None:
        sub = self.top / "sub"
        for place in (sub, sub / "inner"):
            place.mkdir()
            self.git("init", "-q", at=place)
            (place / "file").write_text("content\n")
            (place / ".gitignore").write_text("*.log\n/build/\n!keep.log\n")
        self.git("add", "-A", at=sub / "inner")
        self.git("commit", "-qm", "inner", at=sub / "inner")
        (sub / ".gitmodules").write_text('[submodule "in"]\n\tpath = inner\n\turl = ./inner\n')
        self.git("add", "-A", at=sub)
        self.git("commit", "-qm", "sub", at=sub)
        (self.top / ".gitmodules").write_text('[submodule "the.sub"]\n\tpath = sub\n\turl = ./sub\n')

    def git(self, *args: str, at: Path | None = None, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run git; many steps do not fit the state they meet, and then change nothing."""
        return tried(at or self.top, self.home, *args, given=given)

    def write(self, path: str, data: bytes) -> None:
        """Put content in place, unless something is in the way."""
        place = self.top / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        except OSError:
            pass

    def index_file(self) -> tuple[bytes, int] | None:
        """Content and time stamp of the index, if there is one."""
        index = self.top / ".git" / "index"
        return (index.read_bytes(), index.stat().st_mtime_ns) if index.exists() else None

    def gits_answer(self, mark: str) -> str:
        """What ``git describe`` prints; nothing where it fails."""
        # Without the lock git would write the index anew, and the next question would be another one.
        lock = self.top / ".git" / "index.lock"
        lock.touch()
        try:
            return self.git("describe", "--always", f"--{mark}").stdout.decode().strip()
        finally:
            lock.unlink()

    def our_answer(self, mark: str) -> str:
        """What we say in its place."""
        marks = {mark: f"-{mark}"}
        try:
            return describe(
                self.top, environment=self.environment, always=True, walk=WALK, dirty=marks.get("dirty"),
                broken=marks.get("broken"),
            ).text  # fmt: skip
        except BuildToolsError:
            return ""

    def gits_paths(self) -> set[bytes] | None:
        """The paths that ``git diff-index`` lists; ``None`` where it fails."""
        asked = self.git("diff-index", "--name-only", "-z", "HEAD", "--")
        return None if asked.returncode else set(asked.stdout.split(b"\0")) - {b""}

    def our_paths(self) -> set[bytes] | None:
        """The paths by which we say the tree differs."""
        try:
            with WorkTree(Repository.open(self.top, self.environment), refresh=False) as work_tree:
                return set(work_tree.changes())
        except BuildToolsError:
            return None

    def play(self, step: Step) -> None:
        """Take one step."""
        name, target, way = step
        STEPS[name](self, PATHS[target % len(PATHS)], way)


def _write(play: Playground, path: str, way: int) -> None:
    play.write(path, CONTENTS[way % len(CONTENTS)])


def _line_ends(play: Playground, path: str, way: int) -> None:
    place = play.top / path
    if place.is_file():
        data = place.read_bytes().replace(b"\r\n", b"\n")
        play.write(path, data.replace(b"\n", b"\r\n") if way % 2 else data)


def _same_size(play: Playground, path: str, way: int) -> None:
    place = play.top / path
    if place.is_file() and not place.is_symlink():
        before = place.stat()
        place.write_bytes(place.read_bytes()[::-1])
        if way % 2:
            os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))


def _touch(play: Playground, path: str, way: int) -> None:
    for place in play.top / path, play.top / ".git" / "index":
        way, rest = divmod(way, 4)
        if rest and place.exists():
            now = place.stat().st_mtime_ns
            later = {1: now + 10**9, 2: now - 5 * 10**9, 3: now // 10**9 * 10**9 + 123}[rest]
            os.utime(place, ns=(later, later))


def _rewrite(play: Playground, path: str, way: int) -> None:
    place = play.top / path
    if place.is_file():
        data = place.read_bytes()
        if way % 2:
            place.unlink()
        play.write(path, data)


def _chmod(play: Playground, path: str, way: int) -> None:
    place = play.top / path
    if place.is_file():
        place.chmod((0o644, 0o755, 0o744, 0o655, 0o600)[way % 5])


def _remove(play: Playground, path: str, way: int) -> None:
    place = play.top / path
    if way % 4 == 3:
        place = place.parent
    if place == play.top:
        return
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _replace(play: Playground, path: str, way: int) -> None:
    place = play.top / path
    kind = way % 5
    if kind == 4 and place.parent != play.top and place.parent.is_dir() and not place.parent.is_symlink():
        moved = play.top / f"moved{way}"
        if not moved.exists():
            place.parent.rename(moved)
            place.parent.symlink_to(moved)
        return
    _remove(play, path, 0)
    if place.parent.is_dir():
        if kind == 0:
            place.symlink_to("a.txt")
        elif kind == 1:
            place.symlink_to("nowhere")
        elif kind == 2:
            place.mkdir()
            (place / "below").write_text("x")
        else:
            place.mkdir()
            play.git("init", "-q", at=place)
            if way % 2:
                play.git("commit", "-q", "--allow-empty", "-m", "x", at=place)


def _index(play: Playground, path: str, way: int) -> None:
    commands = (
        ["add", "-A", "--", path],
        ["add", "-A"],
        ["rm", "-q", "--cached", "--", path],
        ["rm", "-q", "-r", "--cached", "--", path.partition("/")[0]],
        ["update-index", "--assume-unchanged", path],
        ["update-index", "--no-assume-unchanged", path],
        ["update-index", "--skip-worktree", path],
        ["update-index", "--no-skip-worktree", path],
        ["update-index", "--chmod=+x", path],
        ["update-index", "--chmod=-x", path],
        ["update-index", "-q", "--refresh"],
        ["update-index", "--really-refresh"],
        ["describe", "--dirty"],
        ["read-tree", "HEAD"],
        ["reset", "-q"],
        ["checkout", "-q", "HEAD", "--", path],
        ["checkout", "-q", "-f", "HEAD"],
        ["commit", "-qm", "next"],
        ["commit", "-qam", "next"],
        ["status", "-s"],
    )
    play.git(*commands[way % len(commands)])


def _new_file(play: Playground, path: str, way: int) -> None:
    name = f"{path}.new"
    play.write(name, CONTENTS[way % len(CONTENTS)])
    if way % 3:
        play.git("add", *(["-N"] if way % 3 == 1 else []), "--", name)
    if way % 4 == 3:
        (play.top / name).unlink(missing_ok=True)


def _conflict(play: Playground, path: str, way: int) -> None:
    oid = play.git("hash-object", "-w", "--stdin", given=b"other\n").stdout.decode().strip()
    stages = [stage for stage in (1, 2, 3) if way >> stage & 1] or [2]
    lines = [f"0 {'0' * len(oid)}\t{path}\n", *(f"100644 {oid} {stage}\t{path}\n" for stage in stages)]
    play.git("update-index", "--index-info", given="".join(lines).encode())


def _setting(play: Playground, path: str, way: int) -> None:
    play.git("config", *SETTINGS[way % len(SETTINGS)])


def _attributes(play: Playground, path: str, way: int) -> None:
    text = ATTRIBUTES[way % len(ATTRIBUTES)].encode()
    place = (way // len(ATTRIBUTES) + len(path)) % 5
    if place == 0:
        play.write(".git/info/attributes", text)
    elif place == 1:
        play.write("dir/.gitattributes", text)
    elif place == 2:
        (play.home / ".config/git").mkdir(parents=True, exist_ok=True)
        (play.home / ".config/git/attributes").write_bytes(text)
    else:
        play.write(".gitattributes", text)
        if place == 4:
            play.git("add", ".gitattributes")
            (play.top / ".gitattributes").unlink(missing_ok=True)


def _format(play: Playground, path: str, way: int) -> None:
    commands = (
        ["update-index", "--index-version", "2"],
        ["update-index", "--index-version", "4"],
        ["update-index", "--split-index"],
        ["update-index", "--no-split-index"],
        ["update-index", "--untracked-cache"],
        ["update-index", "--index-version", "3"],
    )
    kind = way % (len(commands) + 1)
    if kind < len(commands):
        play.git(*commands[kind])
    elif way % 5 == 0:
        play.write(".git/index", b"garbage")
    elif way % 5 == 1:
        (play.top / ".git" / "index").unlink(missing_ok=True)


def _sparse(play: Playground, path: str, way: int) -> None:
    commands = (
        ["sparse-checkout", "set", "--cone", "dir"],
        ["sparse-checkout", "set", "--cone", "--sparse-index", "dir/sub"],
        ["sparse-checkout", "set", "--no-cone", "/dir/*.txt", "/a.txt"],
        ["sparse-checkout", "disable"],
        ["sparse-checkout", "reapply"],
    )
    play.git(*commands[way % len(commands)])


def _submodule(play: Playground, path: str, way: int) -> None:
    way, kind = divmod(way, 10)
    place = play.top / ("sub" if way % 2 else "sub/inner")
    if not place.is_dir():
        return
    if kind == 0:
        play.git("commit", "-q", "--allow-empty", "-m", "more", at=place)
    elif kind == 1:
        (place / "file").write_text("changed\n")
    elif kind == 2:
        (place / ("new", "new.log", "keep.log", "build", ".gitignore")[way % 5]).write_text("new\n")
    elif kind == 3:
        (place / "deep" / "er").mkdir(parents=True, exist_ok=True)
        if way % 3:
            (place / "deep" / "er" / ("x.log", "x")[way % 2]).touch()
    elif kind == 4:
        play.git("add", "-A", at=place)
    elif kind == 5:
        play.git("reset", "-q", "--hard", at=place)
        play.git("clean", "-qfdx", at=place)
    elif kind == 6:
        play.git("config", f"submodule.{'the.sub' if way % 2 else 'in'}.ignore", IGNORE[way % 4], at=place.parent)
    elif kind == 7:
        play.git("config", "-f", ".gitmodules", f"submodule.{'the.sub' if way % 2 else 'in'}.ignore", IGNORE[way % 4],
                 at=place.parent)  # fmt: skip
    elif kind == 8:
        play.git("config", *SUBMODULE_SETTINGS[way % len(SUBMODULE_SETTINGS)], at=place)
    elif (place / ".git").is_dir():
        _break_submodule(place, way)


def _break_submodule(place: Path, way: int) -> None:
    kind = way % 5
    if kind == 0:
        shutil.rmtree(place / ".git")
    elif kind == 1:
        (place / ".git" / "HEAD").unlink(missing_ok=True)
    elif kind == 2:
        (place / ".git" / "HEAD").write_text("ref: refs/heads/unborn\n")
    elif kind == 3:
        (place / ".git").rename(place.parent / f".moved{way}")
        (place / ".git").write_text(f"gitdir: ../.moved{way}\n")
    else:
        (place / ".git" / "index").write_bytes(b"garbage")


STEPS: Mapping[str, Callable[[Playground, str, int], None]] = {
    "write": _write,
    "line ends": _line_ends,
    "same size": _same_size,
    "touch": _touch,
    "rewrite": _rewrite,
    "chmod": _chmod,
    "remove": _remove,
    "replace": _replace,
    "index": _index,
    "new file": _new_file,
    "conflict": _conflict,
    "setting": _setting,
    "attributes": _attributes,
    "format": _format,
    "sparse": _sparse,
    "submodule": _submodule,
}
