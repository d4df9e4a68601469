"""Connect to a BuildKit daemon in a container, through a program there that forwards its input and output.

The program is ``buildctl dial-stdio``, which comes with the daemon; ``docker exec`` would use it in the same way:
https://docs.docker.com/reference/api/engine/, "Exec". The engine sends the program's output in frames, each with a
header of eight bytes: which stream it is, and its length.
"""

from __future__ import annotations

import json
import struct

from buildtools import BuildToolsError, Unreachable
from buildtools.image.engine.buildkit.grpc import ByteChannel
from buildtools.image.engine.buildkit.upgrade import upgrade
from buildtools.image.engine.client import Engine

_HEAD = struct.Struct(">BxxxI")
_OUTPUT = 1
_COMMAND = ["buildctl", "dial-stdio"]
# What the engine writes in place of a program's output if it cannot be started.
_NOT_STARTED = b"OCI runtime exec failed"
# As much of the program's error output as a message can contain.
_LONGEST_COMPLAINT = 400
_READ = 65536


class ContainerChannel:
    """A ``ByteChannel`` to a program in a container: its input and output, in the frames of ``attached``."""

    def __init__(self, attached: ByteChannel, received: bytes) -> None:
        self._attached = attached
        self._buffer = bytearray(received)
        self._complaint = b""

    def recv(self, _size: int, /) -> bytes:
        """The program's next output, however long; empty at its end.

        :raises OSError: if the connection broke, or the program ended with a complaint.
        """
        while True:
            while (frame := self._next_frame()) is not None:
                kind, data = frame
                if kind == _OUTPUT and data and not data.startswith(_NOT_STARTED):
                    return data
                self._complaint = (self._complaint + data)[-_LONGEST_COMPLAINT:]
            received = self._attached.recv(_READ)
            if not received:
                break
            self._buffer += received
        if complaint := " ".join(self._complaint.decode("utf-8", "replace").split()):
            raise ConnectionError(f"{' '.join(_COMMAND)} in it says: {complaint}")
        return b""

    def _next_frame(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < _HEAD.size:
            return None
        kind, size = _HEAD.unpack_from(self._buffer)
        end = _HEAD.size + size
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        return kind, data

    def sendall(self, data: bytes, /) -> None:
        """Send bytes to the program's input."""
        self._attached.sendall(data)

    def shutdown(self, how: int, /) -> None:
        """End its input and output; the program then ends."""
        self._attached.shutdown(how)

    def close(self) -> None:
        """Close the connection."""
        self._attached.close()


def dial_in_container(engine: Engine, name: str) -> ContainerChannel:
    """A connection to the BuildKit daemon in a container of the engine.

    :raises Unreachable: if the container does not exist, or is not running.
    """
    streams = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    try:
        with engine.errors():
            process = engine.api.exec_create(name, _COMMAND, stdin=True)["Id"]
        request = json.dumps({"Detach": False, "Tty": False, **streams}).encode()
        headers = [("Content-Type", "application/json")]
        return ContainerChannel(*upgrade(engine, f"/exec/{process}/start", headers, body=request, protocol="tcp"))
    except BuildToolsError as error:
        raise Unreachable(
            f"the container {name} cannot be used ({error.fact})", f"start it: docker start {name}"
        ) from None
