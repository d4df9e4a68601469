"""The content git would store, judged by ``git hash-object``."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools.git.errors import DamagedRepository
from buildtools.git.repository import Repository
from buildtools.git.worktree.status import WorkTree
from tests.compat.dirty_states import LONG_FILTER
from tests.git.reference import environment, git, tried

SETTINGS = {
    "filter.upper.clean": "tr a-z A-Z",
    "filter.named.clean": "cat; echo %f %% %x",
    "filter.fails.clean": "cat; false",
    "filter.deaf.clean": "echo nothing is read",
    "filter.empty.clean": "",
    "filter.must.clean": "grep -v lone",
    "filter.must.required": "true",
    "filter.bare.required": "true",
    "filter.absent.process": "/nowhere/to/be/found",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path)
    return tmp_path


def make(folder: Path) -> None:
    (folder / "home").mkdir()
    git(folder, "init", "-q")
    (folder / "long.py").write_text(LONG_FILTER)
    with (folder / ".git" / "config").open("a") as config:
        for name, value in {**SETTINGS, "filter.long.process": f"{sys.executable} long.py"}.items():
            section, driver, key = name.split(".")
            config.write(f'[{section} "{driver}"]\n\t{key} = "{value}"\n')


def gits_ids(folder: Path, contents: list[bytes], name: str = "f") -> list[str]:
    """The ids git gives, ``fatal`` where it gives none."""
    found = []
    for content in contents:
        asked = tried(folder, folder / "home", "hash-object", "--stdin", "--path", name, given=content)
        found.append(asked.stdout.decode().strip() if asked.returncode == 0 else "fatal")
    return found


def our_ids(folder: Path, contents: list[bytes], name: str = "f") -> list[str]:
    found = []
    with WorkTree(Repository.open(folder, environment(folder / "home"))) as work_tree:
        conversion = work_tree.files.conversion
        for content in contents:
            try:
                plan = conversion.plan(name.encode())
                stored = conversion.to_git(name.encode(), content, plan) if plan else content
                found.append(hashlib.sha1(b"blob %d\0" % len(stored) + stored, usedforsecurity=False).hexdigest())
            except DamagedRepository:
                found.append("fatal")
    return found


CONTENTS = [
    b"",
    b"a\r\nb\r\n",
    b"a\r\nb\n",
    b"a\rb\r\n",
    b"a\0\r\n",
    b"lone\r\r\n",
    b"\r\n" + b"x" * 300 + b"\x01\x02",
    b"\r\n" + b"x" * 300 + b"\x01\x02\x1a",
    b"\r\n" + b"x" * 255 + b"\x7f",
    b"\x1b\t\b\f\r\n",
    b"$Id$ $Id: x $ $Id: y\n$ $Id:$ $$Id:z$",
    b"$Id:\r\n$Id: a$b$\r\n",
]
ATTRIBUTES = [
    "text", "-text", "text=auto", "text=input", "text=odd", "eol=lf", "eol=crlf", "-text eol=crlf",
    "text=auto eol=crlf", "crlf", "-crlf", "crlf=input", "crlf=auto", "text=odd -crlf", "!text crlf", "ident", "-ident",
    "ident=x", "ident text", "binary", "binary text",
]  # fmt: skip


@pytest.mark.parametrize("autocrlf", ["", "true", "input", "false"])
def test_line_ends_and_ident_are_converted_as_git_converts_them(folder: Path, autocrlf: str) -> None:
    if autocrlf:
        git(folder, "config", "core.autocrlf", autocrlf)
    names = [f"f{number}" for number in range(len(ATTRIBUTES))]
    for name in [*names, "unmentioned"]:
        for number, content in enumerate(CONTENTS):
            (folder / f"{name}.{number}").write_bytes(content)
    rules = [f"{name}.* {states}\n" for name, states in zip(names, ATTRIBUTES, strict=True)]
    (folder / ".gitattributes").write_text("".join(rules))
    files = [f"{name}.{number}" for name in [*names, "unmentioned"] for number in range(len(CONTENTS))]
    gits = git(folder, "hash-object", "--stdin-paths", given="\n".join(files).encode()).decode().split()
    ours = [our_ids(folder, [(folder / file).read_bytes()], file)[0] for file in files]
    assert dict(zip(files, gits, strict=True)) == dict(zip(files, ours, strict=True))


@pytest.mark.parametrize(
    "driver", ["upper", "named", "fails", "deaf", "empty", "must", "bare", "absent", "unknown", "long"]
)
def test_filters_give_what_they_give_git(folder: Path, driver: str) -> None:
    (folder / ".gitattributes").write_text(f"* filter={driver}\n")
    contents = [b"", b"some text\n", b"one\ntwo\n", b"lone\n", b"x" * 200_000]
    assert gits_ids(folder, contents, "it's $f") == our_ids(folder, contents, "it's $f")


def test_a_long_running_filter_goes_on_after_it_broke(folder: Path) -> None:
    (folder / ".gitattributes").write_text("* filter=long\n")
    contents = [b"abc\n", b"two\n", b"def\n", b"lone\n", b"ghi\n", b""]
    assert gits_ids(folder, contents) == our_ids(folder, contents)


def test_a_required_filter_that_fails_names_filter_and_file(folder: Path) -> None:
    (folder / ".gitattributes").write_text("* filter=must\n")
    with WorkTree(Repository.open(folder, environment(folder / "home"))) as work_tree:
        conversion = work_tree.files.conversion
        plan = conversion.plan(b"some/file")
        assert plan is not None
        with pytest.raises(DamagedRepository, match="'must' failed on some/file"):
            conversion.to_git(b"some/file", b"lone\n", plan)


TEXT = "gr\u00fc\u00df\u4e16\n\U0001f600"


@pytest.mark.parametrize(
    "encoding",
    [
        "UTF-16", "utf16", "UTF-16LE", "UTF-16BE", "UTF-16LE-BOM", "UTF-16BE-BOM", "UTF-32", "UTF-32LE", "utf-8",
        "UTF8", "latin-1", "ISO-8859-1", "SHIFT-JIS", "EUC-JP", "cp1252", "UCS-2", "nonsense", "",
    ],
)  # fmt: skip
def test_encodings_are_converted_as_git_converts_them(folder: Path, encoding: str) -> None:
    (folder / ".gitattributes").write_text(f"* working-tree-encoding={encoding} text\n")
    contents = [TEXT.encode(codec) for codec in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")]
    contents += [b"", b"\xfe\xff\0a", b"abc\r\n", b"\x81\x82\xe4", b"\xff\xfea", bytes(range(128, 256)), b"\\~\x80"]
    assert gits_ids(folder, contents) == our_ids(folder, contents)


@pytest.mark.parametrize(
    ("state", "expected"), [("working-tree-encoding", "fatal"), ("-working-tree-encoding", "kept")]
)
def test_an_encoding_must_have_a_name(folder: Path, state: str, expected: str) -> None:
    (folder / ".gitattributes").write_text(f"* {state}\n")
    ours = our_ids(folder, [b"x"])
    assert gits_ids(folder, [b"x"]) == ours
    assert (expected == "fatal") == (ours == ["fatal"])


BYTES = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"$Id", b"$", b":", b"\x01", b"\x1a", b"\0", b"b" * 128])
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(BYTES.map(b"".join), min_size=3, max_size=3), st.sampled_from(ATTRIBUTES))
def test_any_content_is_stored_as_git_stores_it(contents: list[bytes], states: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        (Path(name) / ".gitattributes").write_text(f"* {states}\n")
        assert gits_ids(Path(name), contents) == our_ids(Path(name), contents)
