"""One run of a program that speaks git's protocol, in the form that dulwich's ssh client needs."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

# A program ends when its pipes are closed; one that hangs is terminated, then killed, after this many seconds.
_GRACE_SECONDS = 5.0


class Pipe:
    """Starts the program when the client connects.

    ``status`` is its exit status, ``None`` while it runs or if it was never started; ``missing`` is whether there is
    no such program.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._arguments, self._environment = list(arguments), dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        # A file, because a pipe that nobody reads would fill up and block the program.
        self._errors: IO[bytes] | None = None
        self._error_output = b""
        self.status: int | None = None
        self.missing = False

    def run_command(self, *_: object, **__: object) -> Pipe:
        """Start the program. The command that the client passes is ignored: the arguments are complete."""
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

    def error_lines(self) -> list[str]:
        """The lines that the program wrote to its standard error; empty before :meth:`close`."""
        return [line.rstrip() for line in self._error_output.decode("utf-8", "replace").splitlines() if line.strip()]

    def can_read(self) -> bool:
        """Whether a read would return at once; dulwich does not call this when it pushes."""
        raise NotImplementedError

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes, fewer only at the end of the stream."""
        assert self._process
        assert self._process.stdout
        pieces = []
        while count > 0 and (piece := self._process.stdout.read(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def write(self, data: bytes) -> int:
        """Write all of ``data``, and return its length."""
        assert self._process
        assert self._process.stdin
        rest = memoryview(data)
        while rest:
            rest = rest[self._process.stdin.write(rest) :]
        return len(data)

    def close(self) -> None:
        """Close the program's input and output and wait until it ends."""
        assert self._process
        assert self._process.stdin
        assert self._process.stdout
        assert self._errors
        self._process.stdin.close()
        self._process.stdout.close()
        for end in (self._process.terminate, self._process.kill):
            try:
                self.status = self._process.wait(_GRACE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                end()
        self.status = self._process.wait()
        self._errors.seek(0)
        self._error_output = self._errors.read()
        self._errors.close()
