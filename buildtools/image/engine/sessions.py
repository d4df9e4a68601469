"""Sessions that builds share.

The variants of an image for several platforms have the same context. Those that are built at the same time share a
session, so that the context is listed, sent and stored once for all of them, and the engine runs their common steps
once. Otherwise each is a separate build, with its own labels, parents and result. A build that comes after the last one
has left gets a new session, because the engine reads a tree only once in each.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildtools.image.engine.buildkit.host import BuildkitHost
    from buildtools.image.engine.buildkit.session import Session
    from buildtools.image.engine.offer import SessionOffer


class _Opening:
    """A session that builds share: its offer, the number of its builds, and the context that ends it."""

    def __init__(self, offer: SessionOffer) -> None:
        self.offer = offer
        self.builds = 0
        self.lock = threading.Lock()
        self.session: Session | None = None
        self.stack = ExitStack()


class Sessions:
    """The open sessions of one run's builds with one host. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._openings: dict[Hashable, _Opening] = {}

    @contextmanager
    def join(self, host: BuildkitHost, offer: SessionOffer) -> Iterator[tuple[Session, SessionOffer]]:
        """Join, or open, a session with an equal offer; yields it, and the offer that it was opened for.

        :raises EngineError: if the engine declines.
        :raises Unreachable: if it does not answer.
        """
        key = offer if offer.key is None else offer.key
        with self._lock:
            opening = self._openings.setdefault(key, _Opening(offer))
            opening.builds += 1
        try:
            with opening.lock:
                session = opening.session or opening.stack.enter_context(opening.offer.begin(host))
                opening.session = session
            yield session, opening.offer
        finally:
            with self._lock:
                opening.builds -= 1
                is_over = not opening.builds
                if is_over:
                    del self._openings[key]
            if is_over:
                opening.stack.close()
