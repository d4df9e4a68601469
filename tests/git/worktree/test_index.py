"""The index file as git writes it, and as it must not be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildtools.git.errors import DamagedRepository
from buildtools.git.worktree.index import FLAGS, INTENT_TO_ADD, MODE, OID, SKIP_WORKTREE, STAGE, Index, read_index
from tests.git.reference import git

LONG = "long/" + "n" * 200 + "/" + "m" * 200 + "/" + "o" * 3900


def repository(folder: Path, *args: str) -> Path:
    git(folder, "init", "-q", *args)
    for name in ("a", "a.b", "b/c", "b/d/e", "b/d/f", "z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    git(folder, "add", "-A")
    return folder


def read(folder: Path, oid_length: int = 20) -> Index:
    return read_index(f"{folder}/.git/index", f"{folder}/.git", oid_length)


def staged(folder: Path) -> list[tuple[int, bytes, int, bytes]]:
    """Mode, object id, stage and name of every entry, as git lists them."""
    found = []
    for line in git(folder, "ls-files", "-s", "-z").split(b"\0")[:-1]:
        head, _, name = line.partition(b"\t")
        mode, oid, stage = head.split()
        found.append((int(mode, 8), bytes.fromhex(oid.decode()), int(stage), name))
    return found


def entries(index: Index) -> list[tuple[int, bytes, int, bytes]]:
    return [
        (fields[MODE], fields[OID], (fields[FLAGS] & STAGE) >> 12, name)
        for name, fields in zip(index.names, index.fields, strict=True)
    ]


@pytest.mark.parametrize("version", ["2", "4"])
@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_every_version_and_hash_is_read(tmp_path: Path, version: str, object_format: str) -> None:
    repository(tmp_path, f"--object-format={object_format}")
    oid = git(tmp_path, "hash-object", "-w", "--stdin", given=b"x").decode().strip()
    given_entries = f"100644 {oid} 0\t{LONG}\n" + "".join(
        f"100755 {oid} {stage}\tb/d/conflict\n" for stage in (1, 2, 3)
    )
    git(tmp_path, "update-index", "--index-info", given=given_entries.encode())
    git(tmp_path, "update-index", "--index-version", version)
    assert staged(tmp_path) == entries(read(tmp_path, 20 if object_format == "sha1" else 32))


def test_extended_flags_are_read(tmp_path: Path) -> None:
    repository(tmp_path)
    (tmp_path / "new").write_text("new")
    git(tmp_path, "add", "-N", "new")
    git(tmp_path, "update-index", "--skip-worktree", "b/c")
    index = read(tmp_path)
    flagged = {name: fields[FLAGS] for name, fields in zip(index.names, index.fields, strict=True)}
    assert {b"b/c"} == {name for name, flags in flagged.items() if flags & SKIP_WORKTREE}
    assert {b"new"} == {name for name, flags in flagged.items() if flags & INTENT_TO_ADD}


def test_a_split_index_is_put_together(tmp_path: Path) -> None:
    repository(tmp_path)
    git(tmp_path, "config", "splitIndex.maxPercentChange", "100")
    git(tmp_path, "update-index", "--split-index")
    (tmp_path / "a.b").write_text("changed")
    (tmp_path / "n").write_text("new")
    (tmp_path / "b" / "c").unlink()
    git(tmp_path, "add", "-A")
    assert any(path.name.startswith("sharedindex.") for path in (tmp_path / ".git").iterdir())
    assert staged(tmp_path) == entries(read(tmp_path))


def test_a_missing_shared_index_is_damage(tmp_path: Path) -> None:
    repository(tmp_path)
    git(tmp_path, "update-index", "--split-index")
    for path in (tmp_path / ".git").glob("sharedindex.*"):
        path.unlink()
    with pytest.raises(DamagedRepository, match="sharedindex"):
        read(tmp_path)


def test_the_cache_tree_knows_the_trees_that_git_would_write(tmp_path: Path) -> None:
    repository(tmp_path)
    tree = git(tmp_path, "write-tree").decode().strip()
    inner = git(tmp_path, "rev-parse", f"{tree}:b/d").decode().strip()
    index = read(tmp_path)
    assert bytes.fromhex(tree) == index.root_tree()
    assert bytes.fromhex(inner) == index.cached_tree(b"b/d/")


def test_the_cache_tree_forgets_what_changed(tmp_path: Path) -> None:
    repository(tmp_path)
    git(tmp_path, "write-tree")
    (tmp_path / "b" / "c").write_text("changed")
    git(tmp_path, "add", "b/c")
    index = read(tmp_path)
    assert (None, None) == (index.root_tree(), index.cached_tree(b"b/"))
    assert index.cached_tree(b"b/d/") is not None


def test_no_file_is_an_empty_index(tmp_path: Path) -> None:
    assert ([], 0) == (read(tmp_path).names, read(tmp_path).mtime)


def test_an_extension_that_must_be_understood_is_damage(tmp_path: Path) -> None:
    repository(tmp_path)
    path = tmp_path / ".git" / "index"
    data = path.read_bytes()
    path.write_bytes(data[:-20] + b"what\0\0\0\0" + data[-20:])
    with pytest.raises(DamagedRepository, match="what"):
        read(tmp_path).root_tree()


def test_an_extension_that_may_be_passed_over_is_passed_over(tmp_path: Path) -> None:
    repository(tmp_path)
    path = tmp_path / ".git" / "index"
    data = path.read_bytes()
    path.write_bytes(data[:-20] + b"WHAT\0\0\0\0" + data[-20:])
    assert staged(tmp_path) == entries(read(tmp_path))


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Indexes of several kinds, to be damaged."""
    found = []
    for arguments in (["--index-version", "2"], ["--index-version", "4"], ["--split-index"]):
        folder = repository(tmp_path_factory.mktemp("index"))
        git(folder, "write-tree")
        git(folder, "update-index", *arguments)
        found.append((folder / ".git" / "index").read_bytes())
    return found


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2), st.integers(0, 2000), st.integers(0, 255), st.booleans())
def test_damage_never_ends_in_a_traceback(
    indexes: list[bytes], tmp_path: Path, which: int, at: int, byte: int, cut: bool
) -> None:
    data = indexes[which]
    at %= len(data)
    path = tmp_path / "index"
    path.write_bytes(data[:at] if cut else data[:at] + bytes([byte]) + data[at + 1 :])
    try:
        index = read_index(str(path), str(tmp_path))
        index.cached_tree(b"b/")
    except DamagedRepository:
        return
    assert len(index.names) == len(index.fields)
