"""The long-running filter protocol, version 2: one process cleans many files.

https://git-scm.com/docs/gitattributes#_long_running_filter_process
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

_LARGEST_PACKET = 65516


class FilterProcess:
    """One ``filter.NAME.process`` command, started on first use and again after a failure."""

    def __init__(self, command: str, work_tree: bytes, environment: Mapping[str, str]) -> None:
        self._command = command
        self._work_tree = work_tree
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._can_clean = False

    def clean(self, path: bytes, data: bytes) -> bytes | None:
        """The cleaned content; ``None`` if the filter returned none."""
        try:
            if self._process is None:
                self._start()
            if not self._can_clean:
                return None
            self._send([b"command=clean\n", b"pathname=%s\n" % path])
            self._send([data[at : at + _LARGEST_PACKET] for at in range(0, len(data), _LARGEST_PACKET)])
            status = self._status(b"")
            if status == b"success":
                content = b"".join(self._receive())
                status = self._status(status)
                if status == b"success":
                    return content
            if status == b"abort":
                self._can_clean = False
            elif status != b"error":
                self.close()
        except (OSError, EOFError, ValueError):
            self.close()
        return None

    def close(self) -> None:
        """End the process by closing its input."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._work_tree,
            env=self._environment,
        )
        self._send([b"git-filter-client\n", b"version=2\n"])
        if [line.rstrip(b"\n") for line in self._receive()] != [b"git-filter-server", b"version=2"]:
            raise ValueError("another protocol")
        self._send([b"capability=clean\n", b"capability=smudge\n", b"capability=delay\n"])
        self._can_clean = b"capability=clean" in [line.rstrip(b"\n") for line in self._receive()]

    def _send(self, packets: list[bytes]) -> None:
        assert self._process is not None
        stream = self._process.stdin
        assert stream is not None
        for packet in packets:
            stream.write(b"%04x" % (len(packet) + 4) + packet)
        stream.write(b"0000")
        stream.flush()

    def _receive(self) -> list[bytes]:
        """The packets up to the next flush."""
        assert self._process is not None
        stream = self._process.stdout
        assert stream is not None
        packets: list[bytes] = []
        while True:
            head = stream.read(4)
            if len(head) < 4:
                raise EOFError
            size = int(head, 16)
            if size == 0:
                return packets
            packet = stream.read(size - 4) if size >= 4 else b""
            if len(packet) != size - 4:
                raise EOFError
            packets.append(packet)

    def _status(self, before: bytes) -> bytes:
        """The status list that comes next; an empty one keeps the previous status."""
        status = before
        for line in self._receive():
            key, _, value = line.rstrip(b"\n").partition(b"=")
            if key == b"status":
                status = value
        return status
