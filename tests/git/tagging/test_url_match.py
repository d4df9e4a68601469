"""Which settings of http.<url>.* apply to a URL; C git is the oracle."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from buildtools.git.config import Config
from buildtools.git.tagging.url_match import context_values, matching_values, normalize

HOSTS = ("example.com", "a.example.com", "EXAMPLE.com", "example.com.", "[::1]", "a_b.c")
PATTERN_HOSTS = (*HOSTS, "*.example.com", "*.*.com", "a.*.com", "*")
USERS = ("", "", "bob@", "al%20ice@", "bob:pw@", "al ice@")
PORTS = ("", "", ":443", ":80", ":0443", ":8080", ":")
PATHS = ("", "/", "/a", "/a/", "/a/b", "/a/./b", "/a/../b", "/a%2Fb", "/a%62", "/b?x=1", "/%7euser", "/~user", "/a b")


def url(draw: random.Random, hosts: tuple[str, ...]) -> str:
    scheme = draw.choice(("http", "https", "HTTPS"))
    return f"{scheme}://{draw.choice(USERS)}{draw.choice(hosts)}{draw.choice(PORTS)}{draw.choice(PATHS)}"


def test_settings_apply_to_the_urls_that_git_applies_them_to(tmp_path: Path) -> None:
    draw = random.Random(23)
    differences = []
    for _ in range(200):
        config = Config()
        text = ""
        for number in range(draw.randint(1, 6)):
            key, pattern = draw.choice(("proxy", "extraheader")), draw.choice(("", url(draw, PATTERN_HOSTS)))
            config.add(f"http.{pattern}.{key}" if pattern else f"http.{key}", str(number))
            text += f'[http "{pattern}"]\n{key}={number}\n' if pattern else f"[http]\n{key}={number}\n"
        (tmp_path / "config").write_text(text)
        question = url(draw, HOSTS)
        command = ["git", "config", "--file", str(tmp_path / "config"), "--get-urlmatch", "http", question]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        expected = dict(line.split(" ", 1) for line in answer.splitlines())
        values = matching_values(config, "http", question)
        if expected != (ours := {name: values.get(name) for name in values.names()}):
            differences.append((question, text, expected, ours))
    assert [] == differences


@pytest.mark.parametrize("text", ["", "h/x", "http://", "http://h:99999/", "http://h/../x", "http:///x", "://h"])
def test_a_text_that_is_not_a_whole_url_matches_nothing(text: str) -> None:
    assert normalize(text) is None


@pytest.mark.parametrize(
    ("pattern", "applies"),
    [
        ("https://h.example/team", True),
        ("https://h.example/team/r.git", True),
        ("https://", True),
        ("h.example", True),
        ("https://*.example", True),
        ("bob@h.example", False),
        ("alice@h.example", True),
        ("http://", False),
        ("example", False),
        ("https://h.example/other", False),
    ],
)
def test_a_credential_setting_may_leave_out_parts_of_its_url(pattern: str, applies: bool) -> None:
    config = Config()
    config.add(f"credential.{pattern}.helper", "x")
    values = context_values(config, "https://alice@h.example/team/r.git")
    assert applies == ("x" == values.get("credential.helper"))
