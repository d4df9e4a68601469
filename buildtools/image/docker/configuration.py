"""Docker's own configuration: the folder that ``DOCKER_CONFIG`` names, and the engine and proxies chosen in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildtools import Refused
from buildtools.user_folders import home_folder

_DEFAULT = "default"
_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "ftpProxy": "FTP_PROXY",
    "noProxy": "NO_PROXY",
    "allProxy": "ALL_PROXY",
}


def configuration_folder(environment: Mapping[str, str]) -> Path:
    """The configuration folder: ``DOCKER_CONFIG``, or the user's own."""
    return Path(environment.get("DOCKER_CONFIG") or home_folder(environment) / ".docker")


def read_configuration(folder: Path) -> Mapping[str, Any]:
    """The content of ``config.json`` in this folder; empty if there is none.

    :raises Refused: if it cannot be read, or is not a JSON object.
    """
    path = folder / "config.json"
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read ({error})", "correct it and run again") from None
    if not isinstance(document, Mapping):
        raise Refused(f"{path} is not a JSON object", "correct it and run again")
    return document


def chosen_engine(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with ``DOCKER_HOST`` and its certificates set to the engine that the docker CLI would use.

    ``DOCKER_HOST`` wins, then ``DOCKER_CONTEXT``, then the choice of ``docker context use``:
    https://docs.docker.com/engine/manage-resources/contexts/.

    :raises Refused: if the named context does not exist, or has no engine.
    """
    if environment.get("DOCKER_HOST"):
        return environment
    folder = configuration_folder(environment)
    name = environment.get("DOCKER_CONTEXT") or read_configuration(folder).get("currentContext") or _DEFAULT
    if name == _DEFAULT:
        return environment
    key = hashlib.sha256(str(name).encode()).hexdigest()
    path = folder / "contexts/meta" / key / "meta.json"
    try:
        engine = json.loads(path.read_bytes())["Endpoints"]["docker"]
        selection = {**environment, "DOCKER_HOST": str(engine["Host"])}
        trusting = bool(engine.get("SkipTLSVerify"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Refused(
            f"Docker's context {name!r} names no engine ({path} does not exist, or is damaged)",
            "see `docker context ls`, then set DOCKER_CONTEXT or use `docker context use`",
        ) from None
    certificates = folder / "contexts/tls" / key / "docker"
    if certificates.is_dir():
        verify = "" if trusting else "1"
        selection |= {"DOCKER_CERT_PATH": str(certificates), "DOCKER_TLS": "1", "DOCKER_TLS_VERIFY": verify}
    return selection


def proxy_arguments(environment: Mapping[str, str], host: str) -> Mapping[str, str]:
    """The build arguments that configure proxies for commands in a build on the engine at ``host``.

    No Dockerfile needs to declare them, and they are not recorded in caches or images:
    https://docs.docker.com/engine/cli/proxy/#configure-the-docker-client.
    """
    proxies = read_configuration(configuration_folder(environment)).get("proxies")
    section = (proxies.get(host) or proxies.get(_DEFAULT)) if isinstance(proxies, Mapping) else None
    if not isinstance(section, Mapping):
        return {}
    variables = {name: str(section[key]) for key, name in _PROXIES.items() if section.get(key)}
    return {**variables, **{name.lower(): value for name, value in variables.items()}}
