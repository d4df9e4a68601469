"""Seyren's stack: its order, its backup and its restore, with stand-ins for the two images."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildtools.events import unheard
from buildtools.sandbox import base
from buildtools.sandbox import engine as engines
from buildtools.sandbox.process import free_ports
from tests.conftest import EngineService
from tests.payload.conftest import require
from tests.waiting import until

ROOT = Path(__file__).parent.parent.parent
SEYREN = ROOT / "deploy/seyren"

# Answers a while after it was started, and from then on tells what its volume holds; `mongo` asks it.
MONGO = """\
import pathlib, socket, sys, time
if sys.argv[0].endswith("mongo"):
    sys.exit(not pathlib.Path("/tmp/ready").exists())
time.sleep(1)
data = pathlib.Path("/data/db/checks")
data.exists() or data.write_text("none")
server = socket.create_server(("", 27017))
pathlib.Path("/tmp/ready").touch()
while True:
    client, _ = server.accept()
    client.sendall(data.read_bytes())
    client.close()
"""
# Ends at once where MongoDB does not answer, and shows what that holds.
WEB = """\
import http.server, os, socket, urllib.parse
place = urllib.parse.urlsplit(os.environ["MONGO_URL"])
def checks():
    with socket.create_connection((place.hostname, place.port)) as connection:
        return connection.makefile().read()
checks()
assert place.hostname == os.environ["MONGO_PORT_27017_TCP_ADDR"]
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(checks().encode())
http.server.HTTPServer(("", 8080), Page).serve_forever()
"""


@dataclass(frozen=True)
class Stack:
    """A copy of the stack's folder, and what its commands are run with."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=dict(self.environment), check=check, capture_output=True, text=True
        )

    @property
    def checks(self) -> str:
        """What Seyren shows."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.environment['SEYREN_PORT']}/") as answer:
            return str(answer.read().decode())

    def write(self, text: str) -> None:
        self.run("docker-compose", "exec", "-T", "mongo", "sh", "-c", f"echo {text} >/data/db/checks")

    def is_up(self) -> bool:
        try:
            return bool(self.checks)
        except OSError:
            return False


@pytest.fixture
def stack(engine: EngineService, environment: Mapping[str, str], tmp_path: Path) -> Iterator[Stack]:
    require("docker-compose")
    python = base.python(engines.EngineAddress.named(engine.environment), environment=environment, report=unheard)
    mark = secrets.token_hex(4)
    variables = {
        **environment,
        **engine.environment,
        "HOME": str(tmp_path),
        "COMPOSE_PROJECT_NAME": f"seyren-{mark}",
        "SEYREN_PORT": str(free_ports(1)[0]),
        "MONGO_IMAGE": f"mongo-{mark}",
        "SEYREN_IMAGE": f"seyren-{mark}",
    }
    shutil.copytree(SEYREN, tmp_path / "deploy")
    made = Stack(tmp_path / "deploy", variables)
    for name, program, version in (("mongo", MONGO, "4.4"), ("seyren", WEB, "latest")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(f"#!/usr/bin/env python3\n{program}")
        (folder / name).chmod(0o755)
        copies = f"COPY {name} /usr/local/bin/{name}\nCOPY {name} /usr/local/bin/{name}d\n"
        (folder / "Dockerfile").write_text(f'FROM {python}\n{copies}CMD ["{name}d"]\n')
        made.run("/usr/bin/docker", "build", "--quiet", "--tag", f"{name}-{mark}:{version}", str(folder))
    yield made
    made.run("docker-compose", "down", "--volumes", "--timeout", "0")
    made.run("/usr/bin/docker", "rmi", "--force", f"mongo-{mark}:4.4", f"seyren-{mark}:latest")


@pytest.mark.exhaustive
def test_seyren_waits_for_its_database_whose_volume_can_be_backed_up_and_restored(stack: Stack, tmp_path: Path) -> None:
    stack.run("docker-compose", "up", "--detach")
    until(stack.is_up)
    # It was started once: when the database answered.
    (identity,) = stack.run("docker-compose", "ps", "--quiet", "seyren").stdout.split()
    assert "0\n" == stack.run("/usr/bin/docker", "inspect", "--format", "{{.RestartCount}}", identity).stdout
    assert "none" == stack.checks
    stack.write("five")
    stack.run(stack.folder / "backup", tmp_path / "backup.tgz")
    until(stack.is_up)
    stack.write("more")
    (tmp_path / "cut.tgz").write_bytes((tmp_path / "backup.tgz").read_bytes()[:-20])
    assert 0 != stack.run(stack.folder / "restore", tmp_path / "cut.tgz", check=False).returncode
    assert "more\n" == stack.checks
    # Another machine: an empty volume.
    stack.run("docker-compose", "down", "--volumes", "--timeout", "0")
    stack.run(stack.folder / "restore", tmp_path / "backup.tgz")
    until(stack.is_up)
    assert ("five\n", 0o600) == (stack.checks, (tmp_path / "backup.tgz").stat().st_mode & 0o777)
    assert [] == list(tmp_path.glob("*.partial"))


@pytest.mark.exhaustive
def test_compose_finds_nothing_wrong_with_it(environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [require("docker-compose"), "config", "--quiet"], cwd=SEYREN, env=environment, capture_output=True, text=True
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_checks_are_of_metrics_that_the_uploader_sends() -> None:
    checks = json.loads((SEYREN / "checks.json").read_text())
    # https://github.com/scobal/seyren/blob/master/API.md#create-a-check
    assert [] == [each["name"] for each in checks if not {"name", "target", "warn", "error", "enabled"} <= each.keys()]
    asked = {re.search(r"loguploader\.(\w+)", each["target"])[1] for each in checks}  # type: ignore[index]  # or it fails
    program = (ROOT / "src/docker/loguploader/loguploader.py").read_text()
    sent = set(re.findall(r'metrics\.(?:count|gauge)\("(\w+)"|counter = "(\w+)"', program))
    assert asked <= {name for pair in sent for name in pair}
