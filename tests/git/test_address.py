"""Addresses of repositories: what git makes of them, and how they are shown."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from buildtools.git.address import HttpAddress, LocalAddress, SshAddress, parse_address, without_login

PIECES = (
    *(
        "ssh://",
        "git+ssh://",
        "ssh+git://",
        "file://",
        "git@",
        "u:p@",
        "@",
        "Host.Example",
        "h",
        "[",
        "]",
        "::1",
        "[::1]",
    ),
    *(
        ":",
        ":22",
        ":0",
        ":65536",
        ":+5",
        "/",
        "//",
        "~",
        "~u",
        "#",
        "?",
        "%40",
        "%2f",
        "%00",
        "%zz",
        "-",
        " ",
        "..",
        "é",
    ),
)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository to ask C git in."""
    folder = tmp_path_factory.mktemp("oracle")
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


def by_git(oracle: Path, address: str) -> SshAddress | LocalAddress | None:
    answer = subprocess.run(["git", "fetch-pack", "--diag-url", address], cwd=oracle, capture_output=True, check=False)
    lines = answer.stdout.decode().split("Diag: ")[1:]
    fields = dict(line.rstrip("\n").split("=", 1) for line in lines)
    if answer.returncode or fields["protocol"] not in ("ssh", "file"):
        return None
    if fields["protocol"] == "file":
        return LocalAddress(fields["path"])
    port = "" if fields["port"] == "NONE" else fields["port"]
    return SshAddress(fields["userandhost"], port, fields["path"])


def by_us(address: str) -> SshAddress | LocalAddress | HttpAddress | None:
    try:
        return parse_address(address)
    except ValueError:
        return None


@pytest.mark.parametrize(
    "address",
    [
        "ssh://git@Host.Example:2222/x",
        "[git@h:22]:r.git",
        "[git@h]:r.git",
        "git@[::1]:r.git",
        "[::1]:r.git",
        "[::1]:22:r.git",
        "user@h:22:p",
        "ssh://[::1]:22/~u/r",
        "ssh://git@[::1]/r",
        "ssh://[git@h:33]/p",
        "ssh://h/~u/r",
        "h:~u/r",
        "h:/~u/r",
        "h:",
        "ssh://h",
        "ssh://h:/p",
        "ssh://h:name/p",
        "ssh://h:65536/p",
        "git+ssh://h/p",
        "ssh+git://h/p",
        "ssh://u%40x@h/p?q#f",
        "ssh://h/job@2/r.git",
        "h:job@2/r.git",
        "SSH://h/p",
        "file:///a%20b/c@d",
        "file://h/a",
        "file:///a#b?c",
        "file://",
        "./a:b",
        "/x/a:b",
        "../a@b",
        "a",
        "git://h",
        "unknown://h/p",
    ],
)
def test_an_address_means_what_git_says(oracle: Path, address: str) -> None:
    assert by_git(oracle, address) == by_us(address)


def is_left_out(address: str, ours: object, theirs: object) -> bool:
    """What git reads in another way than it connects: options for names, helpers, brackets in local paths."""
    is_option = isinstance(theirs, SshAddress) and theirs.host[:1] in ("", "-")
    is_path = isinstance(ours, LocalAddress) and isinstance(theirs, LocalAddress)
    return is_option or bool(re.match("-|[A-Za-z0-9+.-]*::", address)) or (is_path and "[" in address)


def test_odd_addresses_mean_what_git_says(oracle: Path) -> None:
    draw = random.Random(19)
    addresses = {"".join(draw.choices(PIECES, k=draw.randint(2, 8))) for _ in range(400)}
    answers = [(address, by_us(address), by_git(oracle, address)) for address in sorted(addresses)]
    assert [] == [answer for answer in answers if answer[1] != answer[2] and not is_left_out(*answer)]


@pytest.mark.parametrize(
    "address", ["ext::sh -c true", "hg::https://h/x", "ssh://-oProxyCommand=x/p", "h:-x", "://x", ""]
)
def test_an_address_that_git_would_not_open_itself_is_refused(address: str) -> None:
    assert by_us(address) is None


@pytest.mark.parametrize("address", ["http://alice:secret/x@h/", "https://", "https://h:secret/", "http://[::1/x"])
def test_a_bad_http_address_is_refused_without_quoting_it(address: str) -> None:
    with pytest.raises(ValueError, match=r"^invalid host or port$"):
        parse_address(address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://alice:secret@h.example/p", "https://h.example/p"),
        ("https://token@h.example:8443/p", "https://h.example:8443/p"),
        ("https://alice:p@ss@h.example/p", "https://h.example/p"),
        ("https://alice:p/a@ss@h.example/p", "https://h.example/p"),
        ("https://h.example/job@2/p", "https://h.example/job@2/p"),
        ("https://h.example:8443/job@2/p", "https://h.example:8443/job@2/p"),
        ("https://alice:secret@h.example/job@2/p", "https://h.example/job@2/p"),
        ("https://alice@[::1]:80/p@q?r@s#t@u", "https://[::1]:80/p@q?r@s#t@u"),
        ("ssh://git@Host.Example:22/job@2", "ssh://Host.Example:22/job@2"),
        ("ssh://[git@h:22]/p", "ssh://[h:22]/p"),
        ("git@h.example:job@2/p", "h.example:job@2/p"),
        ("[git@h:22]:p", "[h:22]:p"),
        ("git@[::1]:p", "[::1]:p"),
        ("[::1]:p", "[::1]:p"),
        ("h:p@q", "h:p@q"),
        ("file:///w/job@2/p", "file:///w/job@2/p"),
        ("/w/job@2/p", "/w/job@2/p"),
        ("../job@2:x", "../job@2:x"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_its_login_and_otherwise_as_it_is(address: str, expected: str) -> None:
    assert expected == without_login(address)
