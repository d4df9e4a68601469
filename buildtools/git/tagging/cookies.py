"""The cookies in ``http.cookieFile``, in the formats that curl reads. https://curl.se/docs/http-cookies.html"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult

from buildtools import Refused

_FIELDS = 7
# curl sends secure cookies to these hosts without TLS.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def cookie_header(path: str, url: SplitResult) -> str:
    """The value of the Cookie header for a URL; empty if it has no cookies.

    :raises Refused: if the file cannot be read.
    """
    try:
        lines = Path(path).read_text("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise Refused(f"cannot read http.cookieFile {path} ({error.strerror})", "correct it, or unset it") from None
    return "; ".join(_cookies(lines, url))


def _cookies(lines: list[str], url: SplitResult) -> Iterator[str]:
    host = url.hostname or ""
    for line in lines:
        if line.lower().startswith("set-cookie:"):
            # Like in curl, a cookie without a domain is for every host.
            pair, _, attributes = line.partition(":")[2].strip().partition(";")
            if "domain=" not in attributes.lower():
                yield pair
            continue
        fields = line.removeprefix("#HttpOnly_").split("\t")
        if len(fields) != _FIELDS or line.startswith("# "):
            continue
        domain, subdomains, folder, secure, expiry, name, value = fields
        domain = domain.removeprefix(".").lower()
        is_host = host == domain or (subdomains.upper() == "TRUE" and host.endswith(f".{domain}"))
        is_path = f"{url.path}/".startswith(f"{folder.rstrip('/')}/")
        is_fresh = not expiry.isdigit() or int(expiry) == 0 or int(expiry) > time.time()
        is_safe = secure.upper() != "TRUE" or url.scheme == "https" or host in _LOOPBACK
        if is_host and is_path and is_fresh and is_safe:
            yield f"{name}={value}"
