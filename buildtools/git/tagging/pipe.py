"""One run of a program that speaks git's protocol, as dulwich's ssh client takes it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

_PATIENCE = 5.0


class Pipe:
    """Starts the program when the client wants to connect.

    ``status`` is what it ended with, ``None`` while it runs or where it never did; ``missing`` is whether there is no
    such program.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._arguments, self._environment = list(arguments), dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        # A file, so that a talkative program never waits for somebody to read it.
        self._errors: IO[bytes] | None = None
        self._said = b""
        self.status: int | None = None
        self.missing = False

    def run_command(self, *_: object, **__: object) -> Pipe:
        """The started program. What the client would have run is not asked for: the arguments are complete."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the pipe
        try:
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment,
                bufsize=0,
            )
        except OSError:
            self._errors.close()
            self.missing = True
            raise
        return self

    def said(self) -> list[str]:
        """The lines that the program wrote to its standard error, once it is closed."""
        return [line.rstrip() for line in self._said.decode("utf-8", "replace").splitlines() if line.strip()]

    def can_read(self) -> bool:
        """Whether a read would return at once; nobody asks who only pushes."""
        raise NotImplementedError

    def read(self, count: int) -> bytes:
        """As many bytes as asked for, fewer at the end."""
        assert self._process
        assert self._process.stdout
        pieces = []
        while count > 0 and (piece := self._process.stdout.read(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def write(self, data: bytes) -> int:
        """All of the bytes."""
        assert self._process
        assert self._process.stdin
        rest = memoryview(data)
        while rest:
            rest = rest[self._process.stdin.write(rest) :]
        return len(data)

    def close(self) -> None:
        """Let go of the program and wait for its end."""
        assert self._process
        assert self._process.stdin
        assert self._process.stdout
        assert self._errors
        self._process.stdin.close()
        self._process.stdout.close()
        for end in (self._process.terminate, self._process.kill):
            try:
                self.status = self._process.wait(_PATIENCE)
                break
            except subprocess.TimeoutExpired:
                end()
        self.status = self._process.wait()
        self._errors.seek(0)
        self._said = self._errors.read()
        self._errors.close()
