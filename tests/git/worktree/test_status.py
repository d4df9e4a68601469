"""What makes a work tree dirty, what does not, and what is said of it. The rest of the proof is in tests/compat."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildtools.git.errors import DamagedRepository, NoCommit, NotARepository
from buildtools.git.repository import Repository
from buildtools.git.worktree.status import changed_paths, is_dirty
from tests.git.reference import environment, git


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A clean checkout: ``a``, ``dir/b``, ``dir/c`` and the link ``l``."""
    for name in ("a", "dir/b", "dir/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}\n")
    (tmp_path / "l").symlink_to("a")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    settle(tmp_path)
    return tmp_path


def settle(folder: Path) -> None:
    """Let files and index lie in the past, the index later than all: nothing is racy."""
    now = time.time_ns()
    for place, names, files in os.walk(folder):
        if ".git" in names:
            names.remove(".git")
        for name in files:
            os.utime(Path(place) / name, ns=(now, now - 20 * 10**9), follow_symlinks=False)
    git(folder, "update-index", "-q", "--refresh")
    os.utime(folder / ".git" / "index", ns=(now, now - 10 * 10**9))


def opened(folder: Path, **more: str) -> Repository:
    return Repository.open(folder, environment(folder / "home") | more)


def paths(folder: Path) -> tuple[str, ...]:
    assert is_dirty(opened(folder)) == bool(changed_paths(opened(folder)))
    return changed_paths(opened(folder))


def test_a_fresh_checkout_is_clean(work: Path) -> None:
    assert () == paths(work)


def test_untracked_files_do_not_count(work: Path) -> None:
    (work / "new").write_text("new")
    assert () == paths(work)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda work: (work / "a").write_text("other"), ("a",)),
        (lambda work: (work / "dir" / "b").unlink(), ("dir/b",)),
        (lambda work: (work / "a").chmod(0o755), ("a",)),
        (lambda work: shutil.rmtree(work / "dir"), ("dir/b", "dir/c")),
        (lambda work: git(work, "rm", "-q", "--cached", "dir/c"), ("dir/c",)),
        (lambda work: git(work, "update-index", "--chmod=+x", "a"), ("a",)),
        (lambda work: git(work, "update-index", "--force-remove", "a"), ("a",)),
    ],
)
def test_every_change_is_named(work: Path, change: Callable[[Path], object], expected: tuple[str, ...]) -> None:
    change(work)
    assert expected == paths(work)


def test_changed_paths_are_sorted_and_can_be_limited(work: Path) -> None:
    for name in ("dir/c", "a", "dir/b"):
        (work / name).write_text("other")
    git(work, "add", "dir")
    assert ("a", "dir/b", "dir/c") == changed_paths(opened(work))
    assert ("a", "dir/b") == changed_paths(opened(work), limit=2)


def test_a_file_that_was_only_touched_is_clean(work: Path) -> None:
    (work / "a").touch()
    assert () == paths(work)
    assert is_dirty(opened(work), refresh=False)


def test_a_change_in_the_same_second_is_found_although_the_status_is_the_same(work: Path) -> None:
    git(work, "config", "core.trustctime", "false")
    place = work / "a"
    before = place.stat()
    place.write_text(place.read_text().upper())
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    # The index is later than the file, so git does not look; with the same second it does.
    assert () == paths(work)
    os.utime(work / ".git" / "index", ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert ("a",) == paths(work)


def test_whole_seconds_are_compared_as_the_git_at_hand_does(work: Path) -> None:
    git(work, "config", "core.trustctime", "false")
    place = work / "a"
    second = place.stat().st_mtime_ns // 10**9 * 10**9
    place.write_text(place.read_text().upper())
    os.utime(place, ns=(second, second + 123_456_789))
    git(work, "tag", "-a", "-m", "x", "v1")
    assert b"v1\n" == git(work, "describe", "--dirty")
    assert () == paths(work)


def test_a_file_behind_a_link_is_gone(work: Path) -> None:
    (work / "dir").rename(work / "moved")
    (work / "dir").symlink_to("moved")
    assert ("dir/b", "dir/c") == paths(work)


def test_nothing_is_written(work: Path) -> None:
    (work / "a").touch()
    index = work / ".git" / "index"
    before = (index.read_bytes(), index.stat().st_mtime_ns, sorted((work / ".git").iterdir()))
    assert () == paths(work)
    assert before == (index.read_bytes(), index.stat().st_mtime_ns, sorted((work / ".git").iterdir()))


def test_another_index_can_be_named(work: Path) -> None:
    git(work, "rm", "-q", "--cached", "a")
    (work / ".git" / "index").rename(work / ".git" / "other")
    git(work, "read-tree", "HEAD")
    assert not is_dirty(opened(work))
    assert ("a",) == changed_paths(opened(work, GIT_INDEX_FILE=".git/other"))


def test_a_linked_worktree_has_an_index_of_its_own(work: Path, tmp_path: Path) -> None:
    git(work, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    (tmp_path / "linked" / "a").write_text("other")
    assert ("a",) == changed_paths(opened(tmp_path / "linked"))
    assert not is_dirty(opened(work))


def test_a_folder_within_is_asked_for_the_whole_tree(work: Path) -> None:
    (work / "a").write_text("other")
    assert ("a",) == changed_paths(opened(work / "dir"))


def test_a_bare_repository_has_no_tree_to_be_dirty(work: Path) -> None:
    with pytest.raises(NotARepository, match="no work tree"):
        is_dirty(opened(work / ".git"))


def test_before_the_first_commit_there_is_nothing_to_compare_with(work: Path) -> None:
    git(work, "checkout", "-q", "--orphan", "new")
    with pytest.raises(NoCommit):
        is_dirty(opened(work))


def test_a_cut_off_index_is_damage(work: Path) -> None:
    index = work / ".git" / "index"
    index.write_bytes(index.read_bytes()[:150])
    with pytest.raises(DamagedRepository, match="index"):
        is_dirty(opened(work))


def test_a_missing_tree_is_damage(work: Path) -> None:
    (work / "dir" / "b").write_text("other")
    git(work, "add", "-A")
    tree = git(work, "rev-parse", "HEAD^{tree}").decode().strip()
    (work / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(DamagedRepository, match=tree):
        is_dirty(opened(work))


def test_a_sparse_checkout_is_clean_until_something_is_where_nothing_was(work: Path) -> None:
    git(work, "sparse-checkout", "set", "--cone", "--sparse-index", "elsewhere")
    assert not (work / "dir").exists()
    assert () == paths(work)
    (work / "dir").mkdir()
    (work / "dir" / "b").write_text("other")
    assert ("dir/b",) == paths(work)


@pytest.mark.parametrize("checked_out", ["elsewhere", "dir/in", "dir", "di"])
def test_attributes_in_the_index_count_where_a_sparse_checkout_reaches(work: Path, checked_out: str) -> None:
    place = work / "dir" / "in" / "crlf"
    place.parent.mkdir()
    place.write_bytes(b"1\r\n2\r\n")
    (work / "dir" / ".gitattributes").write_text("crlf text\n")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "attributes")
    git(work, "tag", "-a", "-m", "x", "v1")
    git(work, "sparse-checkout", "set", "--cone", checked_out)
    place.parent.mkdir(parents=True, exist_ok=True)
    (work / "dir" / ".gitattributes").unlink(missing_ok=True)
    git(work, "update-index", "--skip-worktree", "dir/.gitattributes")
    git(work, "config", "core.checkstat", "minimal")
    place.write_bytes(b"1\r\n2\r\n")
    size_unknown = git(work, "ls-files", "-s", "dir/in/crlf")
    git(work, "rm", "-q", "--cached", "--sparse", "dir/in/crlf")
    git(work, "update-index", "--add", "--index-info", given=size_unknown)
    gits = git(work, "describe", "--dirty").strip().removeprefix(b"v1")
    assert gits == (b"-dirty" if is_dirty(opened(work)) else b"")


@pytest.fixture
def sub(work: Path) -> Path:
    """A submodule, ``dir/sub`` in the checkout."""
    place = work / "dir" / "sub"
    place.mkdir()
    git(place, "init", "-q")
    (place / "file").write_text("content\n")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "sub")
    (work / ".gitmodules").write_text('[submodule "s"]\n\tpath = dir/sub\n\turl = ./s\n')
    git(work, "add", "-A")
    git(work, "commit", "-qm", "with a submodule")
    return place


def test_a_submodule_is_clean_with_untracked_files_unless_they_are_asked_for(work: Path, sub: Path) -> None:
    (sub / "new").write_text("new")
    assert () == paths(work)
    git(work, "config", "submodule.s.ignore", "none")
    assert ("dir/sub",) == paths(work)
    (sub / ".git" / "info" / "exclude").write_text("ne?\n")
    assert () == paths(work)


def test_a_changed_file_in_a_submodule_counts_unless_it_is_ignored(work: Path, sub: Path) -> None:
    (sub / "file").write_text("other\n")
    assert ("dir/sub",) == paths(work)
    git(work, "config", "submodule.s.ignore", "dirty")
    assert () == paths(work)


def test_another_commit_in_a_submodule_counts_unless_all_is_ignored(work: Path, sub: Path) -> None:
    git(sub, "commit", "-q", "--allow-empty", "-m", "more")
    git(work, "config", "submodule.s.ignore", "dirty")
    assert ("dir/sub",) == paths(work)
    git(work, "config", "submodule.s.ignore", "all")
    assert () == paths(work)


def test_a_broken_submodule_is_damage_that_names_it(work: Path, sub: Path) -> None:
    (sub / ".git" / "index").write_bytes(b"garbage")
    with pytest.raises(DamagedRepository, match="dir/sub"):
        is_dirty(opened(work))


def test_a_submodule_that_is_not_checked_out_is_clean(work: Path, sub: Path) -> None:
    shutil.rmtree(sub)
    sub.mkdir()
    assert () == paths(work)
