"""The log daemon as a process: what goes in comes out, whatever happens to it meanwhile."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.payload.conftest import VERSION
from tests.waiting import until


@dataclass
class Daemon:
    """The daemon with folders of its own; ``running`` are the processes that a test started."""

    script: Path
    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def upload(self) -> Path:
        return self.folder / "upload"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def start(self, *arguments: str, first: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
        command = [str(self.script), "--work", str(self.work), "--upload", str(self.upload), *arguments]
        process = subprocess.Popen(
            command,
            # It ends before the thorough compiler of the JVM has paid for itself.
            env={**os.environ, "JAVA_OPTS": "-XX:TieredStopAtLevel=1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=first,
        )
        self.running.append(process)
        return process

    def run(self, content: bytes, *arguments: str) -> str:
        """What the daemon says about standard input of this content."""
        process = self.start(*arguments)
        _, said = process.communicate(content, timeout=60)
        assert 0 == process.returncode, said.decode()
        return said.decode()

    def stop(self, process: subprocess.Popen[bytes]) -> str:
        process.terminate()
        said = self.end(process)
        assert 0 == process.returncode, said
        return said

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        self.end(process)
        assert -signal.SIGKILL == process.returncode

    def end(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stderr
        _, said = process.communicate(timeout=60)
        return said.decode()

    def batches(self) -> list[list[bytes]]:
        """The lines of each finished batch, in the order of their names."""
        return [gzip.decompress(file.read_bytes()).splitlines() for file in sorted(self.upload.glob("[!.]*"))]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for batch in self.batches() for line in batch]

    def rejects(self) -> bytes:
        return (self.work / "rejects.log").read_bytes()

    def spool_file(self, name: str, content: bytes) -> Path:
        """A file that was moved into the spool."""
        written = self.spool / f".{name}"
        written.write_bytes(content)
        return written.rename(self.spool / name)


@pytest.fixture
def daemon(logdaemon: Path, tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(logdaemon, tmp_path)
    for folder in (made.work, made.upload, made.spool):
        folder.mkdir()
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            made.end(process)


def numbered(count: int, start: int = 0) -> bytes:
    return b"".join(b'{"n":%d,"url":"https://example.org/%x"}\n' % (n, n * n) for n in range(start, start + count))


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["n"] for event in events]


def unfinished(daemon: Daemon) -> bytes:
    """What a successor could recover of the batch that is being written."""
    content = b""
    for part in daemon.work.glob("*.part"):
        with gzip.open(part) as stream:
            try:
                while piece := stream.read1():
                    content += piece
            except EOFError:
                pass
    return content


def test_version_is_the_text_it_was_built_with(logdaemon: Path) -> None:
    assert f"{VERSION}\n".encode() == subprocess.run([logdaemon, "--version"], capture_output=True, check=True).stdout


def test_help_names_every_option(logdaemon: Path) -> None:
    said = subprocess.run([logdaemon, "--help"], capture_output=True, check=True, text=True).stdout
    for option in ("input", "work", "upload", "rejects", "host", "batch-seconds", "batch-bytes", "batch-events"):
        assert f"--{option} " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-events", "0"], "--batch-events 0: a whole number from 1 to 1099511627776 is needed"),
        (["--batch-seconds", "soon"], "--batch-seconds soon: a whole number from 1 to 604800 is needed"),
        (["--batch-bytes"], "--batch-bytes needs a value: see --help"),
        (["--wrok", "x"], "unknown argument --wrok: see --help"),
        (["--input", "/nowhere"], "--input /nowhere: there is no such folder"),
        (["--host", "a/b"], "--host a/b: a name of letters, digits, '.', '_' and '-' is needed"),
        (["--work", "."], "--work is given twice"),
        (["--rejects", "/nowhere/r"], "--rejects /nowhere/r: a file in a folder that exists is needed"),
    ],
)
def test_bad_argument_is_one_line_and_status_2(daemon: Daemon, arguments: list[str], message: str) -> None:
    process = daemon.start(*arguments)
    assert f"logdaemon: {message}\n" == daemon.end(process)
    assert 2 == process.returncode


def test_missing_folder_is_named(logdaemon: Path) -> None:
    done = subprocess.run([logdaemon, "--upload", "/"], capture_output=True, check=False, text=True)
    assert (2, "logdaemon: --work is missing: see --help\n") == (done.returncode, done.stderr)


def test_folders_on_two_file_systems_are_refused(daemon: Daemon) -> None:
    elsewhere = Path("/dev/shm")
    if elsewhere.stat().st_dev == daemon.folder.stat().st_dev:
        pytest.skip("one file system holds everything here")
    left = sorted(elsewhere.iterdir())
    process = subprocess.Popen(
        [daemon.script, "--work", daemon.work, "--upload", elsewhere], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert f"logdaemon: --work {daemon.work} and --upload {elsewhere} must be on one file system\n" == daemon.end(
        process
    )
    assert 2 == process.returncode
    assert (left, []) == (sorted(elsewhere.iterdir()), list(daemon.work.glob(".*")))


def test_second_daemon_in_a_work_folder_is_refused(daemon: Daemon) -> None:
    first = daemon.start()
    assert first.stdin
    first.stdin.write(b"{}\n")
    first.stdin.flush()
    until(lambda: unfinished(daemon))
    second = daemon.start()
    assert "another logdaemon is at work there" in daemon.end(second)
    assert 2 == second.returncode
    daemon.stop(first)
    assert 1 == len(daemon.events())


def test_event_is_kept_and_annotated(daemon: Daemon) -> None:
    before = time.time()
    daemon.run(b'{"b":1.50, "a":"\xc3\xbc\\u00fc"}\r\n{ }\n', "--host", "web-1")
    (first, second) = daemon.batches()[0]
    assert first.startswith(b'{"b":1.50, "a":"\xc3\xbc\\u00fc","logdaemon":{')
    assert second.startswith(b'{ "logdaemon":{')
    notes = [json.loads(line)["logdaemon"] for line in (first, second)]
    assert [
        ("web-1", VERSION, 1),
        ("web-1", VERSION, 2),
    ] == [(note["host"], note["version"], note["sequence"]) for note in notes]
    assert notes[1]["run"] == notes[0]["run"]
    received = [
        time.mktime(time.strptime(note["received"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone for note in notes
    ]
    assert all(before - 1 <= moment <= time.time() for moment in received)


def test_line_without_end_is_an_event(daemon: Daemon) -> None:
    daemon.run(b'{"n":1}\n{"n":2}')
    assert [1, 2] == numbers(daemon.events())


def test_empty_lines_are_nothing(daemon: Daemon) -> None:
    said = daemon.run(b"\n\n \t\r\n")
    assert "0 events, 0 lines rejected" in said
    assert [] == daemon.batches()


# Each line that is not an event, and what is said of it.
NO_EVENTS = [
    (b"share clicked", "not a JSON object, at byte 1"),
    (b"[1]", "not a JSON object, at byte 1"),
    (b'\xef\xbb\xbf{"a":1}', "not a JSON object, at byte 1"),
    (b'{"a":1', "expected ',' or '}', at byte 7"),
    (b'{"a":1}}', "text after the object, at byte 8"),
    (b'{"a":1}{"a":2}', "text after the object, at byte 8"),
    (b'{"a":NaN}', "expected a value, at byte 6"),
    (b'{"a":01}', "expected ',' or '}', at byte 7"),
    (b"{'a':1}", "expected a key, at byte 2"),
    (b'{"a":"\xff"}', "not UTF-8, at byte 7"),
    (b'{"a":"\xc0\x80"}', "not UTF-8, at byte 7"),
    (b'{"a":"\xed\xa0\x80"}', "not UTF-8, at byte 7"),
    (b'{"a":"\x00"}', "a control character in a string, at byte 8"),
    (b'{"a":"\\ud800"}', "half of a surrogate pair, at byte 13"),
    (b'{"a":"\\x"}', "an unknown escape, at byte 9"),
    (b'{"logdaemon":1}', 'the key "logdaemon" is reserved, at byte 13'),
    (b'{"log\\u0064aemon":1}', 'the key "logdaemon" is reserved, at byte 18'),
    (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "nested deeper than 200, at byte 205"),
]


def test_lines_that_are_not_events_are_kept_as_they_came(daemon: Daemon) -> None:
    lines = [line for line, _ in NO_EVENTS]
    said = daemon.run(b"\n".join((b'{"n":1}', *lines, b'{"n":2}')))
    assert [1, 2] == numbers(daemon.events())
    assert b"".join(line + b"\n" for line in lines) == daemon.rejects()
    reasons = [line.split(": ", 2)[2] for line in said.splitlines() if "rejected a line" in line]
    assert [reason for _, reason in NO_EVENTS] == reasons
    assert f"2 events, {len(lines)} lines rejected" in said


def test_takes_what_python_takes_as_json(daemon: Daemon) -> None:
    """5,000 lines, made from good ones by small random changes; Python's parser, made strict, is the oracle."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def is_event(line: bytes) -> bool:
        try:
            value = json.loads(line.decode(), parse_constant=refuse)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict)

    seeds = [
        b'{"a":[1,-2.5e+10,0,true,false,null,{"b":{}}],"c":"\\u00e9\\ud83d\\ude00\\n\\"\xc3\xa9\xf0\x9f\x98\x80"}',
        b'{ "x" : -0.0 , "y" : [ ] , "z" : "" }',
        b'{"url":"https:\\/\\/example.org\\/?a=b","n":1E-7,"deep":[[[[{"k":[0]}]]]]}',
    ]
    change = random.Random(20170601)
    alphabet = b'{}[],:"\\u0123456789abcdefE+-. truefalsn\x01\x7f\xc3\xa9\xed\xf0\x9f\x98\x80'
    lines = list(seeds)
    while len(lines) < 5000:
        line = bytearray(change.choice(seeds))
        for _ in range(change.randint(1, 3)):
            at = change.randrange(len(line))
            line[at : at + change.randint(0, 2)] = change.choices(alphabet, k=change.randint(0, 2))
        lines.append(bytes(line))
    good = [line for line in lines if is_event(line)]
    assert 500 < len(good) < 4500

    daemon.run(b"\n".join(lines))
    taken = [line[: line.rindex(b'"logdaemon":')] for (batch) in daemon.batches() for line in batch]
    assert [line.rstrip()[:-1].rstrip(b",") for line in good] == [line.rstrip(b",") for line in taken]
    assert [line for line in lines if line.strip() and not is_event(line)] == daemon.rejects().splitlines()


def test_line_that_is_too_long_is_kept_whole(daemon: Daemon) -> None:
    fits = b'{"n":1,"x":"%s"}' % (b"y" * (100_000 - 14))
    long, longer = (b'{"x":"%s"}' % (b"z" * size) for size in (100_001, 3_000_000))
    said = daemon.run(b"\n".join((fits, long, b'{"n":2}', longer, b'{"n":3}', longer)), "--line-bytes", "100000")
    assert [1, 2, 3] == numbers(daemon.events())
    assert long + b"\n" + longer + b"\n" + longer + b"\n" == daemon.rejects()
    assert "rejected a line: longer than 100000 bytes" in said


def test_batch_ends_at_a_number_of_events(daemon: Daemon) -> None:
    daemon.run(numbered(12_000), "--batch-events", "5000")
    assert [5000, 5000, 2000] == [len(batch) for batch in daemon.batches()]
    assert list(range(12_000)) == numbers(daemon.events())


def test_batch_ends_with_the_event_that_fills_its_bytes(daemon: Daemon) -> None:
    daemon.run(numbered(12_000), "--batch-bytes=500000")
    *full, last = [sum(len(line) + 1 for line in batch) for batch in daemon.batches()]
    assert len(full) >= 3
    assert all(500_000 <= size < 500_000 + 1000 for size in full)
    assert 0 < last < 500_000 + 1000
    assert list(range(12_000)) == numbers(daemon.events())


def test_batch_ends_by_time_while_nothing_comes(daemon: Daemon) -> None:
    process = daemon.start("--batch-seconds", "1")
    assert process.stdin
    process.stdin.write(numbered(3))
    process.stdin.flush()
    until(daemon.batches)
    assert process.poll() is None
    assert [0, 1, 2] == numbers(daemon.events())
    daemon.stop(process)
    assert 1 == len(daemon.batches())


def test_stop_with_events_in_flight_loses_none(daemon: Daemon) -> None:
    process = daemon.start("--batch-events", "20000")
    assert process.stdin
    process.stdin.write(numbered(100_000))
    process.stdin.flush()
    # The last pieces are still in the pipe and in the daemon.
    said = daemon.stop(process)
    assert list(range(100_000)) == numbers(daemon.events())
    assert "ended: 100000 events" in said
    assert ["lock", "rejects.log"] == sorted(path.name for path in daemon.work.iterdir())


def test_upload_folder_never_shows_part_of_a_file(daemon: Daemon) -> None:
    process = daemon.start("--batch-events", "1000")
    assert process.stdin
    seen: dict[str, bytes] = {}
    for start in range(0, 100_000, 5_000):
        process.stdin.write(numbered(5_000, start))
        for file in daemon.upload.iterdir():
            if not file.name.startswith("."):
                seen.setdefault(file.name, file.read_bytes())
    daemon.stop(process)
    assert len(seen) >= 5
    assert seen == {name: (daemon.upload / name).read_bytes() for name in seen}
    assert all(gzip.decompress(content) for content in seen.values())


def test_killed_daemon_leaves_its_events_to_the_next(daemon: Daemon) -> None:
    process = daemon.start()
    assert process.stdin
    process.stdin.write(numbered(10_000))
    process.stdin.flush()
    until(lambda: unfinished(daemon).count(b"\n") == 10_000)
    assert [] == daemon.batches()
    daemon.kill(process)

    said = daemon.run(numbered(5, 10_000))
    assert "recovered 10000 events" in said
    assert list(range(10_005)) == numbers(daemon.events())
    assert [] == list(daemon.work.glob("*.part*"))


def test_batch_torn_in_the_middle_is_recovered_up_to_the_last_whole_line(daemon: Daemon) -> None:
    process = daemon.start()
    assert process.stdin
    process.stdin.write(numbered(20_000))
    process.stdin.flush()
    until(lambda: unfinished(daemon).count(b"\n") == 20_000)
    daemon.kill(process)
    (part,) = daemon.work.glob("*.part")
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])

    daemon.run(b"")
    found = numbers(daemon.events())
    assert 4_000 < len(found) < 16_000
    assert list(range(len(found))) == found


def test_damaged_batch_is_kept_for_a_human(daemon: Daemon) -> None:
    damaged = daemon.work / "pipe-20260101T000000.000Z-web-00000000-000001.json.gz.part"
    damaged.write_bytes(b"no gzip at all")
    said = daemon.run(b'{"n":1}\n')
    assert "is damaged and kept" in said
    assert b"no gzip at all" == damaged.with_name(f"{damaged.name}.damaged").read_bytes()
    assert [1] == numbers(daemon.events())


def test_full_disk_is_one_line_and_status_1_and_what_was_written_is_recovered(daemon: Daemon) -> None:
    limit = 200_000
    process = daemon.start(first=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, said = process.communicate(numbered(200_000), timeout=60)
    assert 1 == process.returncode
    assert b"logdaemon: stopped: java.io.IOException: File too large\n" in said
    daemon.run(b"")
    found = numbers(daemon.events())
    assert len(found) > 1000
    assert list(range(len(found))) == found


def test_spool_file_stays_until_its_batch_is_finished(daemon: Daemon) -> None:
    files = [daemon.spool_file(f"{n}.json", numbered(1000, 1000 * n)) for n in range(3)]
    hidden = daemon.spool / ".coming.json"
    hidden.write_bytes(b'{"n":-1}\n')
    process = daemon.start("--input", str(daemon.spool))
    until(lambda: unfinished(daemon).count(b"\n") == 3000)
    assert all(file.exists() for file in files)
    daemon.stop(process)
    assert list(range(3000)) == numbers(daemon.events())
    assert [hidden] == list(daemon.spool.iterdir())


def test_killed_daemon_leaves_the_spool_to_the_next(daemon: Daemon) -> None:
    daemon.spool_file("a.json", numbered(1000))
    process = daemon.start("--input", str(daemon.spool))
    until(lambda: unfinished(daemon).count(b"\n") == 1000)
    daemon.kill(process)

    again = daemon.start("--input", str(daemon.spool), "--batch-events", "10")
    until(lambda: not list(daemon.spool.iterdir()))
    daemon.stop(again)
    assert list(range(1000)) == numbers(daemon.events())


def test_spool_file_that_was_replaced_is_read_too(daemon: Daemon) -> None:
    daemon.spool_file("a.json", b'{"n":1}\n')
    process = daemon.start("--input", str(daemon.spool))
    until(lambda: unfinished(daemon).count(b"\n") == 1)
    daemon.spool_file("a.json", b'{"n":2}\n')
    daemon.stop(process)
    assert [1] == numbers(daemon.events())

    again = daemon.start("--input", str(daemon.spool), "--batch-events", "1")
    until(lambda: not list(daemon.spool.iterdir()))
    daemon.stop(again)
    assert [1, 2] == numbers(daemon.events())


def test_spool_file_without_an_event_is_removed(daemon: Daemon) -> None:
    daemon.spool_file("a.json", b"no event\n")
    daemon.spool_file("b.json", b"")
    process = daemon.start("--input", str(daemon.spool))
    until(lambda: not list(daemon.spool.iterdir()))
    assert b"no event\n" == daemon.rejects()
    daemon.stop(process)
    assert [] == daemon.batches()


def test_spool_is_read_oldest_first(daemon: Daemon) -> None:
    for name, age in (("b.json", 2), ("a.json", 1), ("c.json", 3)):
        file = daemon.spool_file(name, b'{"n":%d}\n' % age)
        subprocess.run(["touch", f"--date=@{1_700_000_000 - age}", file], check=True)
    process = daemon.start("--input", str(daemon.spool))
    until(lambda: unfinished(daemon).count(b"\n") == 3)
    daemon.stop(process)
    assert [3, 2, 1] == numbers(daemon.events())
