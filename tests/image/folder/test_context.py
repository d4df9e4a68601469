"""What a walk through a build context gives, and in which order."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Refused
from buildtools.image.folder.context import Selection, followed_paths, ignore_rules, walk
from buildtools.image.folder.patterns import Patterns


def make(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(os.fsencode(file))


def paths(root: Path, rules: Sequence[str] = (), **choice: Sequence[str]) -> list[str]:
    return [entry.path for entry in walk(root, Selection(Patterns.parse(rules), **choice))]


def test_entries_come_depth_first_and_by_the_bytes_of_their_names(tmp_path: Path) -> None:
    make(tmp_path, "a/z", "a/b/c", "a.b", "a-b", "B", "\udcff", "\ue000")
    assert ["B", "a", "a/b", "a/b/c", "a/z", "a-b", "a.b", "\ue000", "\udcff"] == paths(tmp_path)


def test_what_the_rules_drop_is_left_out_with_all_below(tmp_path: Path) -> None:
    make(tmp_path, "src/a.py", "src/a.pyc", "src/deep/b.pyc", "node_modules/x/y", ".git/config")
    assert ["src", "src/a.py", "src/deep"] == paths(tmp_path, ["**/*.pyc", "node_modules", ".git"])


def test_a_dropped_directory_comes_just_before_the_first_entry_that_is_kept(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c", "a/b/keep/x", "a/z", "other/keep.txt", "other/q")
    rules = ["*", "!a/b/keep", "!**/keep.txt"]
    assert ["a", "a/b", "a/b/keep", "a/b/keep/x", "other", "other/keep.txt"] == paths(tmp_path, rules)


def test_only_what_include_patterns_match_is_listed(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c", "a/d", "e/f.txt", "g")
    assert ["a", "a/b", "a/b/c", "g"] == paths(tmp_path, include=["a/b", "g"])
    assert ["e", "e/f.txt"] == paths(tmp_path, include=["**/*.txt"])


def test_followed_links_bring_their_targets(tmp_path: Path) -> None:
    make(tmp_path, "real/file", "real/unused", "other")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "absolute").symlink_to("/real/file")
    (tmp_path / "climbing").symlink_to("../../../other")
    (tmp_path / "loop").symlink_to("loop")
    assert ["link", "real", "real/file"] == paths(tmp_path, follow=["link/file"])
    assert ["absolute", "real", "real/file"] == paths(tmp_path, follow=["absolute"])
    assert ["climbing", "other"] == paths(tmp_path, follow=["climbing"])
    assert ["loop"] == paths(tmp_path, follow=["loop"])
    assert [] == paths(tmp_path, follow=["missing"])


def test_a_glob_on_a_followed_path_reaches_through_links(tmp_path: Path) -> None:
    make(tmp_path, "real/file", "other")
    (tmp_path / "link1").symlink_to("real")
    (tmp_path / "link2").symlink_to("other")
    assert ["link*", "other", "real"] == followed_paths(str(tmp_path), ["link*"])
    assert ["*.txt", "sub/*"] == followed_paths(str(tmp_path), ["*.txt", "sub/*"])


def test_a_followed_root_means_everything(tmp_path: Path) -> None:
    make(tmp_path, "a", "b")
    assert ["a", "b"] == paths(tmp_path, follow=["a", "."])


def test_a_followed_path_of_white_space_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert [] == list(walk(tmp_path, Selection(Patterns(()), follow=[" "])))


def test_a_followed_path_with_a_nul_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert [] == list(walk(tmp_path, Selection(Patterns(()), follow=["a\0", "b\0/*"])))


def test_the_second_name_of_a_file_is_a_link_to_the_first_that_is_listed(tmp_path: Path) -> None:
    make(tmp_path, "a")
    for name in ("b", "c"):
        os.link(tmp_path / "a", tmp_path / name)
    entries = [(e.path, e.link_target, e.is_hard_link) for e in walk(tmp_path, Selection(Patterns(())))]
    assert [("a", "", False), ("b", "a", True), ("c", "a", True)] == entries
    entries = [(e.path, e.link_target, e.is_hard_link) for e in walk(tmp_path, Selection(Patterns(["a"])))]
    assert [("b", "", False), ("c", "b", True)] == entries


def test_a_symbolic_link_keeps_its_target_to_the_letter(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(".//x/./y")
    assert [".//x/./y"] == [entry.link_target for entry in walk(tmp_path, Selection(Patterns(())))]


def test_sockets_are_left_out_and_pipes_are_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(tmp_path, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/socket")  # a socket's own path is limited to 107 bytes
        finally:
            os.close(directory)
        entries = list(walk(tmp_path, Selection(Patterns(()))))
    assert [("pipe", True)] == [(entry.path, stat.S_ISFIFO(entry.stat.st_mode)) for entry in entries]


def test_a_missing_context_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(BuildToolsError, match=r"missing cannot be read \(No such file or directory\)"):
        paths(tmp_path / "missing")


def test_an_ignore_file_beside_the_dockerfile_wins(tmp_path: Path) -> None:
    dockerfile = tmp_path / "image" / "Dockerfile"
    make(tmp_path, "image/Dockerfile")
    assert not ignore_rules(tmp_path, dockerfile)
    (tmp_path / ".dockerignore").write_text("a")
    assert (True, False) == tuple(ignore_rules(tmp_path, dockerfile).matches(name) for name in "ab")
    (tmp_path / "image" / "Dockerfile.dockerignore").write_text("b")
    assert (False, True) == tuple(ignore_rules(tmp_path, dockerfile).matches(name) for name in "ab")


def test_a_bad_line_names_its_file(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("ok\n[\n")
    with pytest.raises(Refused) as refusal:
        ignore_rules(tmp_path, tmp_path / "Dockerfile")
    assert refusal.value.fact.startswith(f"{tmp_path}/.dockerignore line 2 is an invalid pattern")
