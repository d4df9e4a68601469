"""Send a tree of files to the engine, but only what it lacks: ``moby.filesync.v1.FileSync/DiffCopy``.

We list everything (STAT packets), the engine compares that with its copy from last time and requests what is new (REQ),
and we send it (DATA). See https://github.com/tonistiigi/fsutil: ``send.go`` and ``types/wire.proto``.
"""

from __future__ import annotations

import hashlib
import os
import stat
import urllib.parse
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.frozen import frozen
from buildtools.image.engine.buildkit.grpc import NOT_FOUND, UNKNOWN, Handler, Status, Stream, frame_prefix, framed
from buildtools.image.engine.buildkit.protobuf import Message, bytes_field, int_field, string_field, varint
from buildtools.image.folder.context import Entry, Selection, walk
from buildtools.image.folder.patterns import Patterns

_REQ, _DATA, _FIN, _ERR = 1, 2, 3, 4  # Packet.type; STAT is 0

# https://pkg.go.dev/io/fs#FileMode: Go's own bits, not those of Unix.
_GO_KIND = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
}
_GO_SPECIAL = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))

_CHUNK = 256 * 1024  # an engine of 2020 takes messages of at most 4 MiB
_BATCH = 64 * 1024
_LIST_BATCH = 16 * 1024  # the engine compares one part of a list while we prepare the next


@frozen
class Item:
    """One entry in the list. ``content`` is its bytes or the path of its file, None if it has no content."""

    stat: bytes
    content: str | bytes | None = None
    size: int = 0


Tree = Callable[[Selection], Iterator[Item]]


def folder(root: Path, selection: Selection | None = None) -> Tree:
    """The files below a folder: the given selection, or what the engine asks for.

    Like in the official client, owners are not sent, because caches are shared by all users.
    """

    def items(engine_selection: Selection) -> Iterator[Item]:
        for entry in walk(root, engine_selection if selection is None else selection):
            has_content = stat.S_ISREG(entry.stat.st_mode) and not entry.is_hard_link
            yield Item(_stat_of(entry), entry.absolute if has_content else None, entry.stat.st_size)

    return items


def refuse_undecodable_names(root: Path, selection: Selection | None = None) -> None:
    """Find an entry below a folder whose name or link target is not UTF-8; engines from 28 on refuse those.

    :raises BuildToolsError: if there is one; the message names the first.
    """
    for entry in walk(root, selection or Selection(Patterns(()))):
        try:
            f"{entry.path}{entry.link_target}".encode()
        except UnicodeEncodeError:
            path = os.fsencode(entry.absolute).decode("utf-8", "backslashreplace")
            raise BuildToolsError(
                f"{path} cannot be sent to this engine (its name or its target is not UTF-8)",
                "rename it, or exclude it in .dockerignore",
            ) from None


def files(contents: Mapping[str, bytes]) -> Tree:
    """Files in memory, in one flat directory."""

    def items(selection: Selection) -> Iterator[Item]:
        del selection
        for name, content in sorted(contents.items()):
            # The engine only compares size and time; a time derived from the content always changes with it.
            time = int.from_bytes(hashlib.sha256(content).digest()[:7])
            yield Item(
                string_field(1, name) + int_field(2, 0o644) + int_field(5, len(content)) + int_field(6, time),
                content,
                len(content),
            )

    return items


def diff_copy(trees: Mapping[str, Tree], progress: Callable[[str, int, int], None]) -> Handler:
    """A handler that offers ``trees`` by name.

    ``progress`` is called now and then with the name of a tree, the bytes of its files sent so far, and the bytes
    requested.
    """

    def handle(stream: Stream) -> None:
        name = "".join(_values(stream, "dir-name")[:1])
        tree = trees.get(name)
        if tree is None:
            raise Status(NOT_FOUND, f"there is no directory {name!r} in this build")
        _Sender(stream, lambda sent, total: progress(name, sent, total)).send(_requested_items(tree, stream))

    return handle


def _requested_items(tree: Tree, stream: Stream) -> Iterator[Item]:
    """The part of a tree that the engine requests.

    An invalid pattern fails while listing, which reports it to the engine.
    """
    yield from tree(
        Selection(
            exclude=Patterns(_values(stream, "exclude-patterns")),
            include=_values(stream, "include-patterns"),
            follow=_values(stream, "followpaths"),
        )
    )


def _values(stream: Stream, key: str) -> list[str]:
    values = stream.metadata.get(key, [])
    # BuildKit's encodeStringForHeader: newer engines escape what an HTTP header cannot contain, and say so.
    if stream.metadata.get(f"{key}-encoded", ["0"])[0] in ("1", "true"):
        return [urllib.parse.unquote_plus(value, errors="surrogateescape") for value in values]
    return values


class _Sender:
    def __init__(self, stream: Stream, progress: Callable[[int, int], None]) -> None:
        self._stream = stream
        self._progress = progress
        self._batch: list[bytes] = []
        self._size = 0
        self._sent = 0
        self._total = 0

    def send(self, items: Iterator[Item]) -> None:
        try:
            self._serve(self._list(items))
        except (BuildToolsError, OSError) as error:
            self._stream.send(int_field(1, _ERR) + string_field(4, str(error)))
            raise

    def _list(self, items: Iterator[Item]) -> dict[int, Item]:
        contents = {}
        for index, item in enumerate(items):
            if item.content is not None:
                contents[index] = item
            self._put(framed(bytes_field(2, item.stat)))
            if self._size >= _LIST_BATCH:
                self._flush()
        self._put(framed(b""))
        return contents

    def _serve(self, items: dict[int, Item]) -> None:
        requests: deque[tuple[int, Item]] = deque()
        while True:
            # Read all pending requests before serving the next, so that the total is known soon.
            if requests and self._stream.waits():
                self._send_content(*requests.popleft())
                continue
            if self._stream.waits():
                self._flush()
            message = self._stream.receive()
            if message is None:
                raise Status(UNKNOWN, "the engine stopped before it had all files")
            packet = Message(message)
            kind = packet.number(1)
            if kind == _REQ:
                index = packet.number(3)
                if index not in items:
                    raise Status(NOT_FOUND, f"there is no file number {index} to ask for")
                requests.append((index, items.pop(index)))
                self._total += requests[-1][1].size
            elif kind == _FIN:
                self._put(framed(int_field(1, _FIN)))
                self._flush()
                return
            elif kind == _ERR:
                raise Status(UNKNOWN, packet.text(4))

    def _send_content(self, index: int, item: Item) -> None:
        head = int_field(1, _DATA) + int_field(3, index)
        for chunk in _chunks(item):
            start = head + b"\x22" + varint(len(chunk))  # field 4, bytes
            self._put(frame_prefix(len(start) + len(chunk)) + start)
            self._put(chunk)
            self._sent += len(chunk)
        self._put(framed(head))

    def _put(self, data: bytes) -> None:
        self._batch.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            self._stream.write(b"".join(self._batch))
            self._batch = []
            self._size = 0
            if self._sent:
                self._progress(self._sent, self._total)


def _chunks(item: Item) -> Iterator[bytes]:
    if isinstance(item.content, bytes):
        if item.content:  # an empty packet means the end
            yield item.content
        return
    path = str(item.content)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unsendable(path, str(error.strerror)) from None
    try:
        left = item.size
        while left:
            chunk = os.read(file, min(left, _CHUNK))
            if not chunk:
                raise _unsendable(path, "it became shorter")
            left -= len(chunk)
            yield chunk
    except OSError as error:
        raise _unsendable(path, str(error.strerror)) from None
    finally:
        os.close(file)


def _unsendable(path: str, why: str) -> BuildToolsError:
    return BuildToolsError(
        f"{path} cannot be sent to the engine ({why})",
        "make it readable and leave it unchanged while images are built, or exclude it in .dockerignore",
    )


def _stat_of(entry: Entry) -> bytes:
    status = entry.stat
    kind = stat.S_IFMT(status.st_mode)
    message = string_field(1, entry.path) + _mode_of(status.st_mode)
    if kind != stat.S_IFDIR:
        message += int_field(5, status.st_size)
    message += int_field(6, _time_of(status)) + string_field(7, entry.link_target)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        message += int_field(8, os.major(status.st_rdev)) + int_field(9, os.minor(status.st_rdev))
    return message + _extended_attributes(entry.absolute)


@lru_cache
def _mode_of(mode: int) -> bytes:
    go_mode = mode & 0o777 | _GO_KIND.get(stat.S_IFMT(mode), 0)
    for unix, go in _GO_SPECIAL:
        if mode & unix:
            go_mode |= go
    return int_field(2, go_mode)


def _time_of(status: os.stat_result) -> int:
    """The modification time in nanoseconds; the part below a millisecond is derived from the change time as well.

    The engine only requests files whose size or modification time differs, so it would miss content that was replaced
    with both unchanged; but nobody can set the change time. Layers store whole seconds, and the engine's cache ignores
    times.
    """
    seal = zlib.crc32(b"%d %d" % (status.st_ctime_ns, status.st_ino))
    return status.st_mtime_ns // 1_000_000 * 1_000_000 + seal % 1_000_000


def _extended_attributes(path: str) -> bytes:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        if not names:
            return b""
        return b"".join(
            bytes_field(10, string_field(1, name) + bytes_field(2, os.getxattr(path, name, follow_symlinks=False)))
            for name in names
        )
    except OSError:  # a file system without them, or an attribute that we may not read
        return b""
