"""Configuration, with ``git config --list`` as the oracle."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools.git.config import Reader, boolean, number, parse_config
from buildtools.git.errors import BadConfig
from tests.compat.workshop import CLEAN, Workshop, git

FILES = [
    "[core]\n\tabbrev = 7\n",
    "[core] abbrev=7\n[a.B]c=1\n",
    '[remote "o\\"r\\\\i"]\nurl = "a b" ; comment\n\turl=c#d\n',
    "[a]\n\tb\n\tc =\n\td = \n",
    '[a]\n\tb = x \\\n  y\n\tc = "q\\tr\\n" z  \n',
    "\ufeff[a]\r\n\tb = 1\r\n# comment\r\n; other\r\n",
    '[a "Sub.Section"]\n\tKey-Name = "  kept  "  \n',
    "[a]b=1 2\t3\n[c]d=e;f\n",
    "",
    "b = no section\n",
    "[A]\nB=no newline at the end",
    '[a]\nb = "x # y" # z\n',
    '[a]\nb = \\"quoted\\" \\\\ back\n',
]
BROKEN = ["[a\nb=1\n", '[a]\nb = "open\n', "[a]\nb = \\x\n", "[a]\n1b = 2\n", "[a b]\nc=1\n", "[a]\nb c\n"]


def listed(text: str) -> list[tuple[str, str | None]]:
    """The pairs in what ``git config --list -z`` prints."""
    found = []
    for item in text.split("\0")[:-1]:
        name, newline, value = item.partition("\n")
        found.append((name, value if newline else None))
    return found


@pytest.mark.parametrize("text", FILES)
def test_a_file_is_read_as_git_reads_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_bytes(text.encode())
    expected = listed(git(tmp_path, "config", "--list", "-z", "--file", str(file)))
    assert expected == parse_config(text.encode(), str(file))


@pytest.mark.parametrize("text", BROKEN)
def test_what_git_refuses_is_an_error_with_the_line(text: str) -> None:
    with pytest.raises(BadConfig, match="of FILE"):
        parse_config(text.encode(), "FILE")


PIECES = ("[a]", '[a "b c"]', "[A.b]", "[", "]", "key", "=", " = ", "value", '"', "\\", "\\\n", "\\n", "#", ";", "\n")
SPACES = (" ", "\t", "\r", "\r\n", "\f", "\v", "\x01", "\x1c", "\u00a0", "\u2003", "\n", "", "-", "9", "_")


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES + SPACES), max_size=12))
def test_any_text_is_read_or_refused_as_by_git(pieces: list[str]) -> None:
    data = "".join(pieces).encode()
    listing = subprocess.run(
        ["git", "config", "--list", "-z", "--file", "-"], input=data, capture_output=True, env=CLEAN, check=False
    )
    expected = None if listing.returncode else listed(listing.stdout.decode())
    try:
        actual = parse_config(data, "FILE")
    except BadConfig:
        actual = None
    assert expected == actual


def test_everything_git_would_list_is_found(tmp_path: Path) -> None:
    home, shop = tmp_path / "home", Workshop(tmp_path / "r")
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "config").write_text("[x]\n\tfirst = xdg\n")
    (home / ".gitconfig").write_text(
        "[x]\n\tsecond = home\n[include]\n\tpath = ~/more\n\tpath = absent\n"
        f'[includeIf "gitdir:{shop.path}/"]\n\tpath = inside\n'
        '[includeIf "gitdir:r/.git"]\n\tpath = by-name\n'
        '[includeIf "gitdir/i:**/R/.git"]\n\tpath = by-case\n'
        '[includeIf "gitdir:~/"]\n\tpath = elsewhere\n'
        '[includeIf "onbranch:ma*"]\n\tpath = branch\n'
    )
    for name in ("more", "inside", "by-name", "by-case", "elsewhere", "branch"):
        (home / name).write_text(f"[x]\n\tfrom = {name}\n")
    shop.configure("[x]\n\tthird = local")
    environment = {
        "HOME": str(home),
        "PATH": CLEAN["PATH"],
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "X.Fourth",
        "GIT_CONFIG_VALUE_0": "counted",
        "GIT_CONFIG_PARAMETERS": "'x.fifth'='a'\\''b' 'x.sixth'",
    }
    told = subprocess.run(
        ["git", "config", "--list", "-z"], cwd=shop.path, env=environment, capture_output=True, check=True
    ).stdout.decode()
    expected: dict[str, list[str | None]] = {}
    for name, value in listed(told):
        expected.setdefault(name, []).append(value)
    reader = Reader(environment, str(shop.git_dir), lambda: "main")
    reader.read_user()
    reader.read_file(str(shop.git_dir / "config"))
    reader.read_environment()
    actual = {name: reader.config.get_all(name) for name in reader.config.names()}
    assert {name: [value for value in values if value is not None] for name, values in expected.items()} == actual
    assert {"more", "inside", "by-name", "by-case", "branch"} == set(actual["x.from"])


def test_files_that_include_each_other_end_in_an_error(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("[include]\n\tpath = config\n")
    with pytest.raises(BadConfig, match="include each other"):
        Reader({}).read_file(str(file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("Yes", True), ("on", True), ("1", True), ("2k", True), ("", False), ("OFF", False), ("0", False)],
)
def test_booleans_are_spelled_as_git_spells_them(text: str, expected: bool) -> None:
    assert expected is boolean(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("12", 12), ("-3", -3), ("1k", 1024), ("2M", 2 << 20), ("0x10", 16), ("010", 8), ("x", None)]
)
def test_numbers_have_gits_units(text: str, expected: int | None) -> None:
    assert expected == number(text)
