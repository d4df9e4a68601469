"""Refs in tables. The git at hand may be too old to make any (before 2.45), so they are written here, byte by byte."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildtools.git.describe import describe
from buildtools.git.errors import DamagedRepository
from buildtools.git.repository import Repository
from buildtools.git.storage.refs import LogEntry
from tests.compat.workshop import CLEAN, Workshop


def varint(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        value -= 1
        out.append(0x80 | value & 0x7F)
    return bytes(reversed(out))


def records(entries: list[tuple[bytes, int, bytes]]) -> tuple[bytes, list[int]]:
    """Prefix-compressed records, and where the first of every four starts, whose name is written in full."""
    out, restarts, previous = b"", [], b""
    for number, (key, kind, value) in enumerate(sorted(entries)):
        shared = 0
        if number % 4:
            shared = next((at for at, byte in enumerate(previous) if key[at : at + 1] != bytes([byte])), len(previous))
        else:
            restarts.append(len(out))
        out += varint(shared) + varint((len(key) - shared) << 3 | kind) + key[shared:] + value
        previous = key
    return out, restarts


@dataclass
class Table:
    """What is to be in one table: values are an id, a pair of ids, the name of a ref, or ``None`` for deleted."""

    refs: dict[str, str | tuple[str, str] | None]
    logs: dict[str, list[tuple[int, str, str, str]]] | None = None
    block_size: int = 0
    refs_per_block: int = 1000
    sha256: bool = False

    def encoded(self) -> bytes:
        header = b"REFT" + bytes([2 if self.sha256 else 1]) + self.block_size.to_bytes(3, "big") + bytes(7) + b"\1"
        header += bytes(7) + b"\5" + (b"s256" if self.sha256 else b"")
        entries = [(name.encode(), *self._value(value)) for name, value in sorted(self.refs.items())]
        data = header
        for start in range(0, len(entries), self.refs_per_block):
            data += self._block(b"r", entries[start : start + self.refs_per_block], len(data) if not start else 0)
            if self.block_size:
                data = data.ljust(-(-len(data) // self.block_size) * self.block_size, b"\0")
        logs_at = len(data) if self.logs else 0
        if self.logs:
            kept = [
                (name.encode() + b"\0" + (0xFFFFFFFFFFFFFFFF - index).to_bytes(8, "big"), 1, self._log(*entry))
                for name, changes in self.logs.items()
                for index, entry in enumerate(changes, 1)
            ]
            plain = self._block(b"g", kept, len(header) if not entries else 0)
            data += plain[:4] + zlib.compress(plain[4:])
        footer = header + bytes(24) + (logs_at if entries else 0).to_bytes(8, "big") + bytes(8)
        return data + footer + zlib.crc32(footer).to_bytes(4, "big")

    def _block(self, kind: bytes, entries: list[tuple[bytes, int, bytes]], before: int) -> bytes:
        body, restarts = records(entries)
        tail = b"".join((before + 4 + at).to_bytes(3, "big") for at in restarts) + len(restarts).to_bytes(2, "big")
        return kind + (before + 4 + len(body) + len(tail)).to_bytes(3, "big") + body + tail

    def _value(self, value: str | tuple[str, str] | None) -> tuple[int, bytes]:
        if value is None:
            return 0, varint(3)
        if isinstance(value, tuple):
            return 2, varint(3) + bytes.fromhex(value[0] + value[1])
        if value.startswith("refs/"):
            return 3, varint(3) + varint(len(value)) + value.encode()
        return 1, varint(3) + bytes.fromhex(value)

    def _log(self, time: int, old: str, new: str, message: str) -> bytes:
        return (
            bytes.fromhex(old + new)
            + varint(1)
            + b"C"
            + varint(5)
            + b"c@x.y"
            + varint(time)
            + b"\0\0"
            + varint(len(message) + 1)
            + message.encode()
            + b"\n"
        )


def use(shop: Workshop, *tables: Table, git_dir: Path | None = None) -> None:
    """Make the repository keep its refs in these tables, the last one being the newest."""
    folder = (git_dir or shop.git_dir) / "reftable"
    folder.mkdir()
    for number, table in enumerate(tables):
        (folder / f"{number}.ref").write_bytes(table.encoded())
    (folder / "tables.list").write_text("".join(f"{number}.ref\n" for number in range(len(tables))))
    (shop.git_dir / "HEAD").write_text("ref: refs/heads/.invalid\n")
    config = (shop.git_dir / "config").read_text().replace("repositoryformatversion = 0", "repositoryformatversion = 1")
    (shop.git_dir / "config").write_text(config + "[extensions]\n\trefstorage = reftable\n")


@pytest.fixture(params=["sha1", "sha256"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "repository", request.param)


def history(shop: Workshop) -> tuple[list[str], str]:
    """Three commits, and an annotated tag of the first."""
    commits: list[str] = []
    for number in range(3):
        commits.append(shop.commit(commits[-1:], 1_000_000_000 + number))
    return commits, shop.tag_object(commits[0], "v1")


@pytest.mark.parametrize("block_size", [0, 256, 4096])
def test_tags_are_found_in_blocks_of_any_size(shop: Workshop, block_size: int) -> None:
    commits, tag = history(shop)
    refs: dict[str, str | tuple[str, str] | None] = {f"refs/heads/topic-{number}": commits[0] for number in range(9)}
    refs |= {"HEAD": "refs/heads/main", "refs/heads/main": commits[2], "refs/tags/v1": (tag, commits[0])}
    use(shop, Table(refs, block_size=block_size, refs_per_block=2, sha256=shop.object_format == "sha256"))
    found = describe(shop.path, environment=CLEAN)
    assert (f"v1-2-g{commits[2][:7]}", "v1", 2, commits[2]) == (found.text, found.tag, found.distance, found.commit)
    assert "topic-8" in describe(shop.path, environment=CLEAN, all=True, match=["topic-8"]).text


def test_a_newer_table_changes_and_deletes(shop: Workshop) -> None:
    commits, tag = history(shop)
    wide = shop.object_format == "sha256"
    use(
        shop,
        Table(
            {"HEAD": "refs/heads/main", "refs/heads/main": commits[2], "refs/tags/v1": (tag, commits[0])}, sha256=wide
        ),
        Table({"refs/heads/main": commits[1], "refs/tags/light": commits[1]}, sha256=wide),
        Table({"refs/tags/light": None}, sha256=wide),
    )
    assert f"v1-1-g{commits[1][:7]}" == describe(shop.path, environment=CLEAN, tags=True).text


def test_earlier_values_come_from_the_log(shop: Workshop) -> None:
    commits, tag = history(shop)
    zero = "0" * len(commits[0])
    changes = [(10, zero, commits[0], "commit: 1"), (20, commits[0], commits[2], "commit: 2")]
    wide = shop.object_format == "sha256"
    use(
        shop,
        Table({"HEAD": "refs/heads/main", "refs/heads/main": commits[2]}, {"refs/heads/main": changes}, sha256=wide),
        Table({"refs/tags/v1": (tag, commits[0])}, sha256=wide),
        Table({}, {"HEAD": changes[:1]}, sha256=wide),
    )
    entries = Repository.open(shop.path, CLEAN).refs.log(b"refs/heads/main")
    ids = [bytes.fromhex(oid) for oid in (zero, commits[0], commits[2])]
    assert [LogEntry(ids[0], ids[1], 10, b"commit: 1"), LogEntry(ids[1], ids[2], 20, b"commit: 2")] == entries
    assert [LogEntry(ids[0], ids[1], 10, b"commit: 1")] == Repository.open(shop.path, CLEAN).refs.log(b"HEAD")
    assert "v1" == describe(shop.path, commit="main@{1}", environment=CLEAN).text


def test_a_worktree_has_its_own_head(shop: Workshop) -> None:
    commits, tag = history(shop)
    wide = shop.object_format == "sha256"
    use(shop, Table({"HEAD": "refs/heads/main", "refs/heads/main": commits[2], "refs/tags/v1": tag}, sha256=wide))
    admin = shop.git_dir / "worktrees" / "w"
    admin.mkdir(parents=True)
    (admin / "commondir").write_text("../..\n")
    (admin / "HEAD").write_text("ref: refs/heads/.invalid\n")
    (admin / "refs").mkdir()
    tree = shop.path.parent / "tree"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {admin}\n")
    (admin / "reftable").mkdir()
    (admin / "reftable" / "0.ref").write_bytes(Table({"HEAD": commits[0]}, sha256=wide).encoded())
    (admin / "reftable" / "tables.list").write_text("0.ref\n")
    assert commits[0] == describe(tree, environment=CLEAN, always=True).commit


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "no table"])
def test_a_damaged_table_is_an_error(shop: Workshop, damage: str) -> None:
    commits, tag = history(shop)
    wide = shop.object_format == "sha256"
    use(shop, Table({"HEAD": "refs/heads/main", "refs/heads/main": commits[2], "refs/tags/v1": tag}, sha256=wide))
    file = shop.git_dir / "reftable" / "0.ref"
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        data[-1] ^= damage == "flipped"
        file.write_bytes(data[: {"cut": -9, "no table": 0}.get(damage)])
    with pytest.raises(DamagedRepository, match=r"0\.ref"):
        describe(shop.path, environment=CLEAN)
