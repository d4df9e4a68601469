"""A real registry on loopback: Distribution's ``docker-registry`` with a folder as its store."""

from __future__ import annotations

import base64
import ctypes
import http.client
import json
from collections.abc import Mapping
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.files import write_private
from buildtools.sandbox import process

NAME = "registry"


def start(
    directory: Path, port: int, *, environment: Mapping[str, str], user: str = "", password: str = "", name: str = NAME
) -> None:
    """Start a registry at ``127.0.0.1:port`` with its store below ``directory``; with a user it requires the login.

    :raises Unreachable: if it does not start.
    """
    auth = {}
    if user:
        passwords = directory / f"{name}.htpasswd"
        write_private(passwords, f"{user}:{bcrypt(password)}\n")
        auth = {"auth": {"htpasswd": {"realm": "sandbox", "path": str(passwords)}}}
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / f"{name}.store")},
            "delete": {"enabled": True},
            # Disabled: in Distribution 2.8 the first purge of an empty store fails.
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
        **auth,
    }
    file = directory / f"{name}.yml"
    # JSON is YAML, https://yaml.org/spec/1.2.2/#1-introduction-to-yaml
    write_private(file, json.dumps(config))
    process.start(
        name,
        ["docker-registry", "serve", str(file)],
        directory,
        environment=process.bare(environment),
        answers=lambda: answers(port),
    )


def answers(port: int) -> bool:
    """Whether a registry answers at this port.

    https://distribution.github.io/distribution/spec/api/#api-version-check
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/")
        answer = connection.getresponse()
        return answer.status in (200, 401) and answer.headers.get("Docker-Distribution-Api-Version") == "registry/2.0"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def write_docker_config(folder: Path, host: str, user: str, password: str) -> None:
    """Make ``folder`` a private Docker configuration (``DOCKER_CONFIG``) with the login for ``host``."""
    folder.mkdir(mode=0o700, exist_ok=True)
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    write_private(folder / "config.json", json.dumps({"auths": {host: {"auth": login}}}, indent=2) + "\n")


def bcrypt(password: str) -> str:
    """The password's bcrypt hash, the only kind that a registry's htpasswd file accepts.

    Python has no bcrypt, but the C library's crypt(5) has.

    :raises BuildToolsError: if this machine's libcrypt has no bcrypt.
    """
    try:
        library = ctypes.CDLL("libcrypt.so.1")
        library.crypt.restype = library.crypt_gensalt.restype = ctypes.c_char_p
        library.crypt_gensalt.argtypes = [ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int]
        salt = library.crypt_gensalt(b"$2b$", 5, None, 0)
        digest: bytes = library.crypt(password.encode(), salt) if salt else b""
    except (OSError, AttributeError):
        digest = b""
    if not digest.startswith(b"$2"):
        raise BuildToolsError(
            "this machine's C library cannot hash a password with bcrypt", "install Debian's libcrypt1"
        )
    return digest.decode()
