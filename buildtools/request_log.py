"""One log line for each request to a registry, an engine, a store or BuildKit, through ``logging``.

The logger is ``buildtools.requests``, at level DEBUG. A line shows the request and its outcome::

    registry HEAD https://registry.example.com/v2/app/manifests/1.0 200, 0 bytes sent, 428 received, 3 ms, attempt 1

Secrets are never logged: no headers, no bodies, and of a URL neither the login nor the values of query parameters that
are not known to be harmless.

When it is off it costs nothing: it does not import ``logging``, and formats a line only if the logger accepts it.
"""

from __future__ import annotations

import sys
import time
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from buildtools import Refused

LOGGER = "buildtools.requests"
# The libraries that send our requests. Their DEBUG output contains signatures and credentials.
_LIBRARIES = ("boto3", "botocore", "docker", "requests", "s3transfer", "urllib3")

# Query parameters of registries, engines and S3 that are names. Others may be signatures, tokens or upload states.
_HARMLESS = frozenset(
    (
        *("digest", "filters", "from", "fromImage", "fromSrc", "last", "list-type", "mount", "n", "names", "noprune"),
        *("partNumber", "platform", "prefix", "repo", "scope", "service", "tag", "uploads"),
    )
)
# All other characters from a server's URL are escaped, because a log is read on terminals.
_PRINTED_AS_THEY_ARE = "!#$%&'()*+,/:;=?@[]~"


class Stopwatch:
    """Times one attempt of a request and logs its line. ``attempt`` counts from 1."""

    __slots__ = ("_attempt", "_began", "_logger")

    def __init__(self, attempt: int = 1) -> None:
        self._attempt = attempt
        self._logger = _logger()
        self._began = time.perf_counter() if self._logger else 0.0

    def log(self, service: str, method: str, url: str, outcome: object, *, sent: int = 0, received: int = 0) -> None:
        """Log the line of a finished request; ``outcome`` is its status, or why it has none."""
        if self._logger:
            milliseconds = (time.perf_counter() - self._began) * 1000
            self._logger.debug(
                "%s %s %s %s, %d bytes sent, %d received, %.0f ms, attempt %d",
                *(service, method, without_secrets(url), outcome, sent, received, milliseconds, self._attempt),
            )


def without_secrets(url: str) -> str:
    """The URL without its login and without the values of query parameters that may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that cannot be read)"
    pairs = [pair.partition("=") for pair in parts.query.split("&")] if parts.query else []
    query = "&".join(
        f"{name}{equals}{value if unquote(name) in _HARMLESS or not value else '***'}" for name, equals, value in pairs
    )
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment="").geturl()
    return quote(address, safe=_PRINTED_AS_THEY_ARE)


def open_log(target: str) -> bool:
    """Write the lines to ``target``: ``debug`` for standard error, or the path of a file.

    Without a target they go where ``logging`` is configured to write, as by ``invoke -d``. What other libraries log
    about requests is kept out, since it contains headers and signatures. Returns whether lines go to standard error.

    :raises Refused: if the file cannot be written.
    """
    import logging

    is_debugging = logging.getLogger().isEnabledFor(logging.DEBUG)
    if is_debugging:
        for library in _LIBRARIES:
            logging.getLogger(library).setLevel(logging.WARNING)
    if not target:
        return is_debugging
    try:
        # Other users of this machine need not see the requests.
        handler = logging.StreamHandler() if target == "debug" else _private_handler(target)
    except OSError as error:
        raise Refused(
            f"BUILDTOOLS_LOG={target} cannot be written ({error.strerror})",
            "set it to `debug` or to the path of a file",
        ) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    return target == "debug"


def _private_handler(path: str) -> Any:
    import logging
    import os

    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    return logging.FileHandler(path)


def _logger() -> Any:
    logging = sys.modules.get("logging")
    if logging is None:
        return None
    logger = logging.getLogger(LOGGER)
    return logger if logger.isEnabledFor(logging.DEBUG) else None
