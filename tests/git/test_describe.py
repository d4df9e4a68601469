"""``describe`` in process: what it tells, and what it refuses where git would go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Refused
from buildtools.git.describe import describe
from buildtools.git.errors import (
    BadConfig,
    BadRevision,
    DamagedRepository,
    NoCommit,
    NoTag,
    NotARepository,
    ShallowClone,
)
from buildtools.git.naming.description import Description
from buildtools.git.repository import Repository
from tests.compat.workshop import CLEAN, Workshop, git


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "repository")


def line(shop: Workshop, count: int) -> list[str]:
    """So many commits, one after the other, and main at the last."""
    commits: list[str] = []
    for number in range(count):
        commits.append(shop.commit(commits[-1:], 1_000_000_000 + number))
    shop.ref("refs/heads/main", commits[-1])
    return commits


def text(shop: Workshop, **options: object) -> str:
    return describe(shop.path, environment=CLEAN, **options).text  # type: ignore[arg-type]  # options of any type


def test_a_description_has_all_its_parts(shop: Workshop) -> None:
    commits = line(shop, 4)
    shop.annotate("v1", commits[0])
    expected = Description(f"v1-3-g{commits[3][:7]}", "v1", 3, commits[3], commits[3][:7], dirty=False)
    assert expected == describe(shop.path, environment=CLEAN)


def test_an_exact_tag_stands_alone(shop: Workshop) -> None:
    commits = line(shop, 2)
    shop.annotate("v1", commits[1])
    assert Description("v1", "v1", 0, commits[1], "") == describe(shop.path, environment=CLEAN)
    assert f"v1-0-g{commits[1][:9]}" == text(shop, long=True, abbrev=9)


def test_the_tags_own_name_is_shown_when_its_ref_is_called_otherwise(shop: Workshop) -> None:
    commits = line(shop, 2)
    shop.ref("refs/tags/renamed", shop.tag_object(commits[0], "v1"))
    found = describe(shop.path, environment=CLEAN)
    assert (f"v1-1-g{commits[1][:7]}", "v1") == (found.text, found.tag)


def test_a_repository_without_tags_is_refused_with_the_way_to_make_one(shop: Workshop) -> None:
    commits = line(shop, 1)
    with pytest.raises(NoTag, match="invoke release --first"):
        text(shop)
    assert commits[0][:7] == text(shop, always=True)


def test_only_lightweight_tags_are_none(shop: Workshop) -> None:
    commits = line(shop, 2)
    shop.ref("refs/tags/v1", commits[0])
    with pytest.raises(NoTag, match="no annotated tag"):
        text(shop)
    assert f"v1-1-g{commits[1][:7]}" == text(shop, tags=True)


def test_a_branch_without_a_commit_is_refused(shop: Workshop) -> None:
    shop.annotate("v1", shop.commit())
    with pytest.raises(NoCommit):
        text(shop)


def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARepository):
        describe(tmp_path, environment={**CLEAN, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})
    with pytest.raises(NotARepository):
        describe(tmp_path / "absent", environment=CLEAN)


def test_somebody_elses_repository_is_refused_until_it_is_trusted(shop: Workshop) -> None:
    commits = line(shop, 1)
    shop.annotate("v1", commits[0])
    if subprocess.run(["chown", "-R", "12345", str(shop.path)], check=False, capture_output=True).returncode:
        pytest.skip("only root can give files away")
    with pytest.raises(NotARepository, match=r"safe\.directory"):
        text(shop)
    trusting = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": str(shop.path)}
    assert "v1" == describe(shop.path, environment={**CLEAN, **trusting}).text


@pytest.mark.parametrize("value", ["3", "x", "41"])
def test_an_impossible_abbreviation_is_refused(shop: Workshop, value: str) -> None:
    line(shop, 1)
    shop.configure(f"[core]\n\tabbrev = {value}")
    with pytest.raises(BadConfig, match=r"core\.abbrev"):
        text(shop, always=True)


@pytest.mark.parametrize("name", ["absent", "HEAD~9", "HEAD^2", "HEAD^{tree}", "HEAD@{99}", "@{u}", "", "main@{x y}"])
def test_a_name_that_leads_nowhere_is_refused(shop: Workshop, name: str) -> None:
    commits = line(shop, 1)
    shop.annotate("v1", commits[0])
    with pytest.raises(BadRevision):
        text(shop, commit=name)


def shallow_clone(shop: Workshop, depth: int) -> Path:
    """A clone by git that has no more than so many commits."""
    clone = shop.path.parent / "clone"
    git(shop.path.parent, "clone", "-q", f"--depth={depth}", f"file://{shop.path}", str(clone))
    return clone


@pytest.mark.parametrize("tagged", [0, 3])
def test_a_shallow_clone_is_refused_when_the_tag_may_lie_beyond(shop: Workshop, tagged: int) -> None:
    commits = line(shop, 6)
    shop.annotate("v1", commits[tagged])
    with pytest.raises(ShallowClone, match=r"git fetch --unshallow --tags.*Jenkins"):
        describe(shallow_clone(shop, 2), environment=CLEAN)
    with pytest.raises(ShallowClone):
        describe(shop.path.parent / "clone", environment=CLEAN, always=True)


@pytest.mark.parametrize(("tagged", "expected"), [(5, "v1"), (4, "v1-1-g"), (3, "v1-2-g")])
def test_a_shallow_clone_that_reaches_the_tag_is_fine(shop: Workshop, tagged: int, expected: str) -> None:
    commits = line(shop, 6)
    shop.annotate("v1", commits[tagged])
    assert describe(shallow_clone(shop, 3), environment=CLEAN).text.startswith(expected)


def test_a_shallow_clone_is_described_as_by_git_when_not_strict(shop: Workshop) -> None:
    commits = line(shop, 6)
    shop.annotate("v1", commits[0])
    assert commits[5][:7] == describe(shallow_clone(shop, 2), environment=CLEAN, always=True, strict=False).text


def test_a_merge_whose_other_side_is_cut_off_is_refused(shop: Workshop) -> None:
    commits = line(shop, 3)
    side = shop.commit(commits[:1], 1_000_000_005)
    head = shop.commit([commits[2], side], 1_000_000_006)
    shop.ref("refs/heads/main", head)
    shop.annotate("v1", commits[2])
    (shop.git_dir / "shallow").write_text(f"{side}\n")
    with pytest.raises(ShallowClone):
        text(shop)


def cut_a_pack(shop: Workshop, commits: list[str]) -> None:
    shop.git("repack", "-adq")
    (pack,) = shop.objects.glob("pack/*.pack")
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])


def cut_an_index(shop: Workshop, commits: list[str]) -> None:
    shop.git("repack", "-adq")
    (index,) = shop.objects.glob("pack/*.idx")
    index.chmod(0o644)
    index.write_bytes(index.read_bytes()[:700])


def flip_the_pack(shop: Workshop, commits: list[str]) -> None:
    shop.git("repack", "-adq")
    (pack,) = shop.objects.glob("pack/*.pack")
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[12:-20] = bytes(byte ^ 0x5A for byte in data[12:-20])
    pack.write_bytes(data)


def remove_a_parent(shop: Workshop, commits: list[str]) -> None:
    shop.remove(commits[2])


def remove_the_head(shop: Workshop, commits: list[str]) -> None:
    shop.remove(commits[-1])


def empty_an_object(shop: Workshop, commits: list[str]) -> None:
    (shop.objects / commits[2][:2] / commits[2][2:]).write_bytes(b"")


def garble_an_object(shop: Workshop, commits: list[str]) -> None:
    file = shop.objects / commits[2][:2] / commits[2][2:]
    file.write_bytes(file.read_bytes()[:-3] + b"xyz")


def swap_an_object(shop: Workshop, commits: list[str]) -> None:
    tree = shop.objects / shop.empty_tree[:2] / shop.empty_tree[2:]
    (shop.objects / commits[2][:2] / commits[2][2:]).write_bytes(tree.read_bytes())


def cut_packed_refs(shop: Workshop, commits: list[str]) -> None:
    shop.git("pack-refs", "--all")
    file = shop.git_dir / "packed-refs"
    file.write_bytes(file.read_bytes()[:-5])


def remove_the_tag_object(shop: Workshop, commits: list[str]) -> None:
    shop.git("pack-refs", "--all")
    shop.remove(shop.git("rev-parse", "v1"))


@pytest.mark.parametrize(
    "damage",
    [
        cut_a_pack,
        cut_an_index,
        flip_the_pack,
        remove_a_parent,
        remove_the_head,
        empty_an_object,
        garble_an_object,
        swap_an_object,
        cut_packed_refs,
        remove_the_tag_object,
    ],
)
def test_damage_is_an_error_and_never_a_version(shop: Workshop, damage: Callable[[Workshop, list[str]], None]) -> None:
    commits = line(shop, 5)
    shop.annotate("v1", commits[0])
    assert text(shop).startswith("v1-4-g")
    damage(shop, commits)
    with pytest.raises(DamagedRepository):
        text(shop)


def test_what_was_read_once_does_not_hide_later_damage(shop: Workshop) -> None:
    commits = line(shop, 5)
    shop.annotate("v1", commits[0])
    shop.git("repack", "-adq")
    assert text(shop) == text(shop)
    flip_the_pack(shop, commits)
    with pytest.raises(DamagedRepository):
        text(shop)


def test_what_was_read_once_does_not_hide_a_replacement(shop: Workshop) -> None:
    commits = line(shop, 5)
    shop.annotate("v1", commits[0])
    shop.git("repack", "-adq")
    assert f"v1-4-g{commits[4][:7]}" == text(shop)
    shop.git("replace", "--graft", commits[4], commits[1])
    assert f"v1-2-g{commits[4][:7]}" == text(shop)


def test_a_ref_with_a_null_in_it_names_nothing(shop: Workshop) -> None:
    commits = line(shop, 2)
    shop.annotate("v1", commits[0])
    shop.ref("refs/tags/odd", "ref: refs/heads/a\0b")
    assert f"v1-1-g{commits[1][:7]}" == text(shop)


def test_objects_in_several_packs_count_once_where_an_index_over_all_says_so(shop: Workshop) -> None:
    names = [shop.blob(str(number).encode()) for number in range(40)]
    for few in (names[:30], names[10:]):
        git(shop.path, "pack-objects", "-q", str(shop.objects / "pack" / "pack"), stdin="\n".join(few).encode())
    assert 60 == Repository.open(shop.path, CLEAN).objects.count()
    shop.git("multi-pack-index", "write")
    assert 40 == Repository.open(shop.path, CLEAN).objects.count()
    shop.configure("[core]\n\tmultiPackIndex = false")
    assert 60 == Repository.open(shop.path, CLEAN).objects.count()


@pytest.mark.parametrize("place", [4, 5, 6, 8, 700, 1100, -30])
def test_a_damaged_commit_graph_never_changes_the_version(shop: Workshop, place: int) -> None:
    commits = line(shop, 30)
    shop.annotate("v1", commits[0])
    expected = text(shop)
    shop.git("commit-graph", "write", "--reachable")
    assert expected == text(shop)
    file = shop.objects / "info" / "commit-graph"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:place])
    assert expected == text(shop)


def test_every_error_says_what_to_do_and_is_expected() -> None:
    for kind in (BadConfig, BadRevision, NoCommit, NotARepository, NoTag, ShallowClone):
        assert issubclass(kind, Refused)
    assert issubclass(DamagedRepository, BuildToolsError)
    assert "git fsck" in DamagedRepository("x").remedy


def test_starting_the_program_imports_little() -> None:
    heavy = {"dulwich", "docker", "boto3", "rich", "argparse", "dataclasses", "inspect", "json", "subprocess", "semver"}
    code = "import buildtools.git.describe, buildtools.git.naming.describe_command, sys; print(*sys.modules)"
    clean = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, check=True
    )
    loaded = set(clean.stdout.decode().split())
    assert set() == loaded & (heavy | {"buildtools.settings", "buildtools.version", "pathlib"})
    assert "buildtools.git.naming.walk" in loaded
