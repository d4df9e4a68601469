"""Attribute files, judged by ``git check-attr``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools.git.repository import Repository
from buildtools.git.worktree.attributes import Attributes, AttributeValue
from buildtools.git.worktree.status import WorkTree
from tests.git.reference import environment, git

PATHS = (
    "a",
    "a.c",
    "A.C",
    "dir/a",
    "dir/b.c",
    "dir/sub/c.txt",
    "dir/sub/[x]",
    "with space",
    'q"uote',
    "!bang",
    "#hash",
)
NAMES = ("one", "two", "text", "binary", "diff", "mac")


def gits_values(folder: Path) -> dict[str, dict[str, str]]:
    """By path, what git says of every name that is not unspecified."""
    asked = git(folder, "check-attr", "--stdin", "-z", *NAMES, given="\0".join(PATHS).encode())
    words = asked.decode().split("\0")
    found: dict[str, dict[str, str]] = {path: {} for path in PATHS}
    for path, name, value in zip(words[0::3], words[1::3], words[2::3], strict=False):
        if value != "unspecified":
            found[path][name] = value
    return found


def shown(values: Mapping[bytes, AttributeValue]) -> dict[str, str]:
    words = {True: "set", False: "unset"}
    return {
        name.decode(): value.decode() if isinstance(value, bytes) else words[value]
        for name, value in values.items()
        if value is not None and name.decode() in NAMES
    }


def our_values(folder: Path) -> dict[str, dict[str, str]]:
    with WorkTree(Repository.open(folder, environment(folder / "home"))) as work_tree:
        attributes = work_tree.files.attributes()
        return {path: shown(attributes.of(path.encode())) for path in PATHS}


def make(folder: Path, files: Mapping[str, str], *settings: str) -> None:
    for name in ("home", "dir/sub"):
        (folder / name).mkdir(parents=True)
    git(folder, "init", "-q")
    for setting in settings:
        git(folder, "config", *setting.split("="))
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())


CASES: dict[str, dict[str, str]] = {
    "later lines and deeper folders win": {
        ".gitattributes": "* one\n*.c one=1 two\na.c -one\n",
        "dir/.gitattributes": "b.c !one\n*.txt one=deep\nsub/* two=3\n",
        ".git/info/attributes": "dir/a one=info\n",
    },
    "a macro is expanded where it is set": {
        ".gitattributes": "[attr]mac one -two text=auto\n*.c mac\na.c -mac\ndir/b.c mac !one\n* two\n",
    },
    "a macro below the top is not a macro": {"dir/.gitattributes": "[attr]mac one\n* mac\n"},
    "macros can nest and be binary": {".gitattributes": "[attr]mac binary one\n*.c mac\na binary\n"},
    "user file": {"home/.config/git/attributes": "* one=user\n*.c two\n", ".gitattributes": "a.c one\n"},
    "quoting": {".gitattributes": '"with space" one\n"q\\"uote" two\n"\\141" text\n"\\41bang" one\n\\#hash two\n'},
    "bad lines are passed over": {
        ".gitattributes": "!bang one\n#hash one\na -=x\na one b@d\n   dir/a   two\t\r\n[attr]b@d one\na.c one=\n",
    },
    "patterns": {
        ".gitattributes": "dir/*.c one\n/a two\nsub/c.txt one\n**/c.txt two\ndir/** text\ndir/sub/ diff\n"
        "dir/sub/\\[x\\] one=x\n[aA].[cC] diff=cc\n*/a mac\n",
    },
    "a byte order mark": {".gitattributes": "\ufeffa one\n"},
    "a long line": {".gitattributes": "a one" + " " * 2048 + "\n*.c two\n"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ignore_case", ["false", "true"])
def test_values_are_gits(tmp_path: Path, case: str, ignore_case: str) -> None:
    make(tmp_path, CASES[case], f"core.ignorecase={ignore_case}")
    assert gits_values(tmp_path) == our_values(tmp_path)


def test_the_configured_file_takes_the_place_of_the_users(tmp_path: Path) -> None:
    files = {"home/mine": "* one=mine\n", "home/.config/git/attributes": "* two\n"}
    make(tmp_path, files, "core.attributesfile=~/mine")
    assert gits_values(tmp_path) == our_values(tmp_path)
    assert our_values(tmp_path)["a"] == {"one": "mine"}


def test_the_index_stands_in_for_a_file_that_is_not_checked_out(tmp_path: Path) -> None:
    make(tmp_path, {"dir/.gitattributes": "* one\n"})
    git(tmp_path, "add", ".")
    (tmp_path / "dir" / ".gitattributes").unlink()
    assert {"one": "set"} == our_values(tmp_path)["dir/a"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    make(tmp_path, {"rules": "* one\n"})
    (tmp_path / ".gitattributes").symlink_to("rules")
    assert gits_values(tmp_path) == our_values(tmp_path)
    assert {} == our_values(tmp_path)["a"]


def test_without_files_nothing_is_said() -> None:
    assert {} == Attributes(b"/nowhere", lambda _: None).of(b"a")


PIECES = st.sampled_from(["a", "*", "**", "?", "/", ".c", "dir", "sub", "[a-c]", "[!a]", "\\", "b", "x"])
PATTERNS = st.lists(PIECES, min_size=1, max_size=5).map("".join)
STATES = st.lists(
    st.sampled_from(["one", "-one", "!one", "one=1", "two", "-two", "mac", "-mac", "!mac", "text"]), min_size=1
)
LINES = st.tuples(PATTERNS | st.just("[attr]mac"), STATES).map(lambda line: f"{line[0]} {' '.join(line[1])}")
FILES = st.dictionaries(
    st.sampled_from([".gitattributes", "dir/.gitattributes", "dir/sub/.gitattributes", ".git/info/attributes"]),
    st.lists(LINES, max_size=6).map("\n".join),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(FILES)
def test_any_files_say_what_git_reads_in_them(files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), files)
        assert gits_values(Path(name)) == our_values(Path(name))
