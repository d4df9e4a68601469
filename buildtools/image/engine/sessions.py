"""Sessions that builds share.

The variants of an image for several platforms are offered the same context. Those that are built at the same time share
a session, so that it is listed, sent and kept once for all of them, and the engine takes the steps that they have in
common once. Each is a build of its own for all that, with its own labels, parents and outcome. Who comes after the last
one has left gets a new session, for the engine reads a tree only once in each.
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
    """A session that builds share: what is offered there, how many they are, and what ends it."""

    def __init__(self, offer: SessionOffer) -> None:
        self.offer = offer
        self.builds = 0
        self.lock = threading.Lock()
        self.session: Session | None = None
        self.stack = ExitStack()


class Sessions:
    """The sessions that builds of one run have open with one host. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._openings: dict[Hashable, _Opening] = {}

    @contextmanager
    def join(self, host: BuildkitHost, offer: SessionOffer) -> Iterator[tuple[Session, SessionOffer]]:
        """Join, or open, a session in which the same is offered; it, and the offer that it was opened for.

        :raises EngineError: the engine declines.
        :raises Unreachable: it does not answer.
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
