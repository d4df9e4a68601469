"""BuildKit's own API, ``moby.buildkit.v1.Control``, which the engine forwards at ``POST /grpc``.

Unlike ``POST /build`` it has typed errors (from BuildKit 0.11), named contexts and cache exports, and lets the client
choose the frontend. Messages: https://github.com/moby/buildkit/blob/master/api/services/control/
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field

from buildtools.build_cache import BuildCache
from buildtools.frozen import frozen
from buildtools.image.engine.buildkit.grpc import Connection, Gone, Status
from buildtools.image.engine.buildkit.host import BuildkitHost
from buildtools.image.engine.buildkit.protobuf import Message, bytes_field, int_field, map_field, string_field
from buildtools.image.engine.buildkit.upgrade import RouteMissing, upgrade

_PATIENCE = 0.1  # seconds between two checks for cancellation
# The engine checks every five seconds that we are alive. After this many seconds without a check it has stopped, or the
# connection is dead. An overloaded machine is late by a few.
_LONGEST_SILENCE = 60.0
# After the result a build may still send some progress; a failed one may send nothing and still not close.
_LAST_WORDS = 2.0


class SolveCancelled(Exception):
    """The build was cancelled and has stopped."""


@frozen
class Export:
    """What to do with a build's result: the kind of exporter, and its options.

    ``moby`` is an engine's own image store, of either kind; ``image`` is the store of a BuildKit daemon, which pushes
    from there.
    """

    kind: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@frozen
class Solve:
    """One build in BuildKit's terms. ``attributes`` are the Dockerfile frontend's options.

    ``inputs`` are definitions of what the frontend would otherwise locate itself: its ``context``. ``caches`` are those
    to write; those to read are an option of the frontend.
    """

    session_id: str
    attributes: Mapping[str, str]
    export: Export
    caches: Sequence[BuildCache] = ()
    inputs: Mapping[str, bytes] = field(default_factory=dict)

    def encoded(self, reference: str) -> bytes:
        """The ``SolveRequest``."""
        export = string_field(1, self.export.kind) + map_field(2, self.export.attributes)
        inputs = [string_field(1, name) + bytes_field(2, definition) for name, definition in self.inputs.items()]
        exports = [string_field(1, cache.kind) + map_field(2, cache.attributes) for cache in self.caches]
        return (
            string_field(1, reference)
            # Engines before 23.0 only know the first way to name an exporter; later ones require the second.
            + string_field(3, self.export.kind)
            + map_field(4, self.export.attributes)
            + string_field(5, self.session_id)
            + string_field(6, "dockerfile.v0")
            + map_field(7, self.attributes)
            + bytes_field(8, b"".join(bytes_field(4, entry) for entry in exports))
            + b"".join(bytes_field(10, entry) for entry in inputs)
            # "internal": not recorded in BuildKit's history, which costs more than half of a small build's writes.
            + int_field(11, 1)
            + bytes_field(13, export)
        )


def connect_control(host: BuildkitHost) -> Connection:
    """A connection for calls to BuildKit's API.

    :raises Refused: if something between us and the engine forbids it.
    :raises EngineError: if the engine declines.
    :raises Unreachable: if the connection was lost.
    """
    # It is dialled outside of the handler, so that an error is not taken for one that the missing route caused.
    with contextlib.suppress(RouteMissing):
        return Connection(*upgrade(host, "/grpc"))
    return Connection(host.dial())


def solve(
    host: BuildkitHost,
    request: Solve,
    *,
    heard: Callable[[Message], None],
    cancel: threading.Event,
    silence: Callable[[], float] = float,
) -> Mapping[str, str]:
    """Run a build and pass every ``StatusResponse`` to ``heard``; returns the exporter's response.

    ``silence`` returns the seconds since the last sign of life from the engine.

    :raises Status: if the build failed.
    :raises Gone: if the connection was lost.
    :raises SolveCancelled: if ``cancel`` was set; the engine stops what it was running.
    """
    connection = connect_control(host)
    reference = secrets.token_hex(16)
    outcome: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(_last(connection.call("/moby.buildkit.v1.Control/Solve", request.encoded(reference))))
        except Exception as error:  # noqa: BLE001  it is raised where the outcome is awaited
            outcome.put(error)

    def follow() -> None:
        try:
            for message in connection.call("/moby.buildkit.v1.Control/Status", string_field(1, reference)):
                heard(Message(message))
        except (Status, Gone, ValueError):
            return  # the build itself reports what happened; only progress is lost

    threads = [threading.Thread(target=target, name="buildkit-solve", daemon=True) for target in (run, follow)]
    try:
        for thread in threads:
            thread.start()
        result = _wait_for(outcome, cancel, silence)
        threads[1].join(_LAST_WORDS)
    finally:
        # Only this stops a build that is still running.
        connection.close()
        for thread in threads:
            thread.join()
    if isinstance(result, Exception):
        raise result
    try:
        return Message(result).table(1)
    except ValueError as error:
        raise Gone(f"the result of the build cannot be read ({error})") from None


def _wait_for(
    outcome: queue.SimpleQueue[bytes | Exception], cancel: threading.Event, silence: Callable[[], float]
) -> bytes | Exception:
    while not cancel.is_set():
        if silence() > _LONGEST_SILENCE:
            return Gone(f"it has not said anything for {_LONGEST_SILENCE:.0f} s")
        try:
            return outcome.get(timeout=_PATIENCE)
        except queue.Empty:
            continue
    raise SolveCancelled


def _last(messages: Iterable[bytes]) -> bytes:
    last = b""
    for message in messages:
        last = message
    return last
