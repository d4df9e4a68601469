"""The address of an engine, as ``DOCKER_HOST`` and the variables for TLS give it, read as the docker program does."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from buildtools import Refused

_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


def address_of(environment: Mapping[str, str]) -> str:
    """The address of the engine that these variables choose, without a login, which the docker program ignores."""
    return re.sub("^tcp://[^/]*@", "tcp://", environment.get("DOCKER_HOST", "").strip()) or _DEFAULT_ADDRESS


def read_address(address: str, environment: Mapping[str, str]) -> tuple[urllib.parse.SplitResult, Any]:
    """The engine's address as the SDK writes it, and the SDK's ``TLSConfig``, if TLS is used."""
    # As with the docker program, certificates alone are no reason to use them.
    uses_tls = bool(environment.get("DOCKER_TLS_VERIFY") or environment.get("DOCKER_TLS"))
    if address.startswith("unix:///") and not uses_tls:
        return urllib.parse.SplitResult("http+unix", "", address.removeprefix("unix://"), "", ""), None
    if address.startswith("ssh://"):
        return _ssh_url(address), None
    import docker.errors
    import docker.utils

    try:
        options = docker.utils.kwargs_from_env(environment) if uses_tls else {}
        url = urllib.parse.urlsplit(docker.utils.parse_host(_full_address(address, uses_tls), tls="tls" in options))
        url.port  # noqa: B018  complains about a port that is too large
    except docker.errors.TLSParameterError:
        folder = environment.get("DOCKER_CERT_PATH") or "~/.docker"
        raise Refused(
            f"DOCKER_TLS_VERIFY is set, and {folder} lacks ca.pem, cert.pem or key.pem",
            "set DOCKER_CERT_PATH to the folder that has them, or unset DOCKER_TLS_VERIFY if the engine needs no TLS",
        ) from None
    except (docker.errors.DockerException, ValueError) as error:
        raise Refused(f"DOCKER_HOST={address} cannot be used ({error})", "correct DOCKER_HOST") from None
    return url, options.get("tls")


def _full_address(address: str, uses_tls: bool) -> str:
    """The address with what may be missing: ``tcp://`` and a port."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "tcp", address
    if scheme != "tcp":
        return address
    host = rest.partition("/")[0]
    port = "" if re.search(":[0-9]+$", host) else f":{2376 if uses_tls else 2375}"
    return f"tcp://{host}{port}"


def _ssh_url(address: str) -> urllib.parse.SplitResult:
    """An address for ssh. The SDK would add the port 22, and take no path."""
    try:
        url = urllib.parse.urlsplit(address)
        url.port  # noqa: B018  complains about a port that is not one
    except ValueError as error:
        raise Refused(f"DOCKER_HOST={address} cannot be used ({error})", "correct DOCKER_HOST") from None
    if not url.hostname or url.password is not None or url.query or url.fragment:
        remedy = "correct DOCKER_HOST; ssh takes no password"
        raise Refused("DOCKER_HOST is not ssh://[USER@]HOST[:PORT][/PATH]", remedy)
    return url
