from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from buildtools import BuildToolsError
from buildtools.events import Transferred
from buildtools.image.engine.buildkit.failure import BuildFailed
from buildtools.image.engine.buildkit.filesync import diff_copy, files, folder
from buildtools.image.engine.buildkit.grpc import Status
from buildtools.image.engine.buildkit.protobuf import Message, int_field
from tests.image.building import Builder

STAT, REQ, DATA, FIN, ERR = range(5)


class Receiver:
    """The engine's side of one sync: asks for all regular files once it has the whole list."""

    number = 1

    def __init__(self, metadata: dict[str, list[str]], listed: Callable[[], object] = lambda: None) -> None:
        self.metadata = metadata
        self.paths: list[str] = []
        self.contents: dict[str, bytes] = {}
        self.errors: list[str] = []
        self.largest_write = 0
        self._listed = listed
        self._unread = bytearray()
        self._replies: deque[bytes] = deque()
        self._asked: dict[int, str] = {}

    def write(self, data: bytes) -> None:
        self.largest_write = max(self.largest_write, len(data))
        self._unread += data
        while len(self._unread) >= 5 and len(self._unread) >= 5 + (size := int.from_bytes(self._unread[1:5])):
            self._take(Message(bytes(self._unread[5 : 5 + size])))
            del self._unread[: 5 + size]

    def send(self, message: bytes) -> None:
        self._take(Message(message))

    def waits(self) -> bool:
        return not self._replies

    def receive(self) -> bytes | None:
        return self._replies.popleft() if self._replies else None

    def _take(self, packet: Message) -> None:
        kind, stat = packet.number(1), packet.message(2)
        if kind == STAT and stat:
            self.paths.append(os.fsdecode(stat.blob(1)))
            if not stat.number(2) >> 25 and not stat.blob(7):
                self._asked[len(self.paths) - 1] = self.paths[-1]
        elif kind == STAT:
            self._listed()
            self._replies += [int_field(1, REQ) + int_field(3, index) for index in reversed(self._asked)]
            if not self._asked:
                self._replies.append(int_field(1, FIN))
        elif kind == DATA and packet.blob(4):
            name = self._asked[packet.number(3)]
            self.contents[name] = self.contents.get(name, b"") + packet.blob(4)
        elif kind == DATA:
            name = self._asked.pop(packet.number(3))
            self.contents.setdefault(name, b"")
            if not self._asked:
                self._replies.append(int_field(1, FIN))
        elif kind == ERR:
            self.errors.append(packet.text(4))


def sync(root: Path, receiver: Receiver) -> None:
    diff_copy({"context": folder(root)}, lambda *_: None)(receiver)  # type: ignore[arg-type]  # as much of a stream as it needs


def test_every_file_that_is_asked_for_arrives_whole(tmp_path: Path) -> None:
    contents = {"a": b"", "b/c": b"small", "b/d": bytes(range(256)) * 4096, "e": b"x" * 300_001}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    receiver = Receiver({"dir-name": ["context"]})
    sync(tmp_path, receiver)
    assert ["a", "b", "b/c", "b/d", "e"] == receiver.paths
    assert contents == receiver.contents
    assert receiver.largest_write < 1_000_000


def test_the_choice_may_be_escaped(tmp_path: Path) -> None:
    for name in ("ünï", "a b", "c+d", "other"):
        (tmp_path / name).write_text(name)
    plain = Receiver({"dir-name": ["context"], "followpaths": ["ünï", "a b", "c+d"]})
    sync(tmp_path, plain)
    escaped = Receiver(
        {
            "dir-name": ["context"],
            "followpaths-encoded": ["1"],
            "followpaths": ["%C3%BCn%C3%AF", "a+b", "c%2Bd"],
            "exclude-patterns-encoded": ["1"],
            "exclude-patterns": ["o%74her"],
        }
    )
    sync(tmp_path, escaped)
    assert ["a b", "c+d", "ünï"] == plain.paths == escaped.paths


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: path.write_text("s"), "it became shorter"),
    ],
)
def test_a_file_that_changes_under_our_hands_is_named_to_both_sides(
    tmp_path: Path, change: Callable[[Path], None], why: str
) -> None:
    (tmp_path / "file").write_text("something")
    receiver = Receiver({"dir-name": ["context"]}, listed=lambda: change(tmp_path / "file"))
    with pytest.raises(BuildToolsError) as caught:
        sync(tmp_path, receiver)
    assert f"{tmp_path}/file cannot be sent to the engine ({why})" == caught.value.fact
    assert [str(caught.value)] == receiver.errors


def test_a_file_that_grows_is_sent_as_long_as_it_was_listed(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\n")
    receiver = Receiver({"dir-name": ["context"]}, listed=lambda: (tmp_path / "log").write_text("one\ntwo\n"))
    sync(tmp_path, receiver)
    assert {"log": b"one\n"} == receiver.contents


def test_a_tree_that_is_not_offered_is_not_sent(tmp_path: Path) -> None:
    with pytest.raises(Status, match="there is no directory 'secrets'"):
        sync(tmp_path, Receiver({"dir-name": ["secrets"]}))


def test_an_engine_that_stops_listening_is_noticed(tmp_path: Path) -> None:
    receiver = Receiver({"dir-name": ["context"]}, listed=lambda: None)
    receiver._asked[99] = "a file that does not exist"
    with pytest.raises(Status, match="there is no file number 99"):
        sync(tmp_path, receiver)


def test_files_that_are_not_on_disk_change_their_time_with_their_content() -> None:
    seen = []
    for content in (b"FROM a\n", b"FROM b\n", b"FROM a\n"):
        receiver = Receiver({"dir-name": ["dockerfile"]})
        diff_copy({"dockerfile": files({"Dockerfile": content})}, lambda *_: None)(receiver)  # type: ignore[arg-type]  # as above
        assert {"Dockerfile": content} == receiver.contents
        seen.append(next(iter(files({"Dockerfile": content})(None))).stat)  # type: ignore[arg-type]  # it is not looked at
    assert seen[0] == seen[2] != seen[1]


def test_only_what_changed_is_sent_again(builder: Builder) -> None:
    folder = builder.folder("FROM BASE\nCOPY . /all\n", big=os.urandom(2_000_000), other=b"one")

    def sent() -> int:
        builder.events.clear()
        builder.build(folder)
        transfers: list[Transferred] = builder.heard(Transferred)
        return max((event.done for event in transfers), default=0)

    assert 2_000_003 + len((folder / "Dockerfile").read_bytes()) == sent()
    assert 0 == sent()
    (folder / "other").write_bytes(b"x" * 50_000)
    assert 50_000 == sent()


def test_all_that_was_asked_for_is_the_total_before_it_is_sent(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(bytes(100_000))
    progress: list[tuple[str, int, int]] = []
    receiver = Receiver({"dir-name": ["context"]})
    diff_copy({"context": folder(tmp_path)}, lambda *now: progress.append(now))(receiver)  # type: ignore[arg-type]  # as above
    assert {300_000} == {total for _, _, total in progress}
    assert ("context", 300_000, 300_000) == progress[-1]


def test_a_file_that_cannot_be_read_fails_the_build_by_its_name(builder: Builder) -> None:
    # The kernel says that this file has 4096 bytes, and gives fewer: as one that somebody cuts short meanwhile.
    context = Path("/sys/devices/virtual/net/lo")
    dockerfile = builder.folder("FROM BASE\nCOPY mtu /\n") / "Dockerfile"
    with pytest.raises(BuildFailed) as caught:
        builder.build(context, dockerfile=dockerfile)
    assert f"lo: {context}/mtu cannot be sent to the engine (it became shorter)" in str(caught.value)


def test_thousands_of_rules_reach_us(builder: Builder) -> None:
    rules = "".join(f"a-rather-long-directory-name-{number}/with/more/below\n" for number in range(3000))
    folder = builder.folder(
        "FROM BASE\nCOPY . /all\nRUN ls /all\n", **{".dockerignore": f"{rules}out\n", "out": "", "in": ""}
    )
    builder.build(folder)
    assert ["Dockerfile", "in"] == builder.output()
