"""Connect to a BuildKit daemon in a container, through a program there that forwards its input and output.

The program is ``buildctl dial-stdio``, which comes with the daemon; ``docker exec`` would use it in the same way:
https://docs.docker.com/reference/api/engine/, "Exec". The engine sends the program's output in frames, each with a
header of eight bytes: which stream it is, and its length.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading

from buildtools import BuildToolsError, Unreachable
from buildtools.image.engine.buildkit.upgrade import upgrade
from buildtools.image.engine.client import Engine

_HEAD = struct.Struct(">BxxxI")
_OUTPUT = 1
_COMMAND = ["buildctl", "dial-stdio"]
# As much of the program's error output as a message can contain.
_LONGEST_COMPLAINT = 400


def dial_in_container(engine: Engine, name: str) -> socket.socket:
    """A connection to the BuildKit daemon in a container of the engine.

    :raises Unreachable: if the container does not exist, or is not running.
    """
    streams = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    try:
        with engine.errors():
            process = engine.api.exec_create(name, _COMMAND, stdin=True)["Id"]
        request = json.dumps({"Detach": False, "Tty": False, **streams}).encode()
        headers = [("Content-Type", "application/json")]
        outside, received = upgrade(engine, f"/exec/{process}/start", headers, body=request, protocol="tcp")
    except BuildToolsError as error:
        raise Unreachable(
            f"the container {name} cannot be used ({error.fact})", f"start it: docker start {name}"
        ) from None
    ours, theirs = socket.socketpair()
    for work in (lambda: _send(theirs, outside), lambda: _receive(outside, received, theirs)):
        threading.Thread(target=work, name="buildkit-container", daemon=True).start()
    return ours


def _send(plain: socket.socket, outside: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := plain.recv(65536):
            outside.sendall(data)
    # The program ends when its input ends, and the engine then closes the connection.
    with contextlib.suppress(OSError):
        outside.shutdown(socket.SHUT_WR)


def _receive(outside: socket.socket, received: bytes, plain: socket.socket) -> None:
    buffer = bytearray(received)
    with outside, plain, contextlib.suppress(OSError):
        while True:
            at = 0
            while len(buffer) - at >= _HEAD.size:
                kind, size = _HEAD.unpack_from(buffer, at)
                end = at + _HEAD.size + size
                if len(buffer) < end:
                    break
                if kind == _OUTPUT:
                    plain.sendall(buffer[at + _HEAD.size : end])
                at = end
            del buffer[:at]
            data = outside.recv(65536)
            if not data:
                break
            buffer += data
