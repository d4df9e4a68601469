"""The engine that answers is taken; where none does, one is started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildtools import Refused, Unreachable
from buildtools.sandbox.engine import DEFAULT_HOST, EngineAddress, refuse_start
from tests.conftest import EngineService

_START_AND_STOP = """
import os, pathlib, sys
from buildtools.sandbox import engine, process
folder = pathlib.Path(sys.argv[1])
found = engine.EngineAddress.named({})
answers = [found.answers()]
assert engine.start(folder, environment=os.environ) == found
answers += [found.answers(), found.has("lockstep-sandbox/nothing:1")]
process.stop(engine.NAME, folder)
print(*answers, found.answers())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start an engine")
def test_an_engine_is_started_where_none_answers(
    tmp_path: Path, environment: Mapping[str, str], engine: EngineService
) -> None:
    # In a world of its own, where the machine's engine, its socket, store and network are not seen.
    own_world = 'mount -t tmpfs none /run && mount -t tmpfs none /var/lib && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", own_world, "sh", sys.executable, "-c", _START_AND_STOP, tmp_path],
        env={name: value for name, value in environment.items() if name != "DOCKER_HOST"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("False True False False\n", "")


@pytest.mark.parametrize(
    ("given", "expected"), [({}, DEFAULT_HOST), ({"DOCKER_HOST": ""}, DEFAULT_HOST), ({"DOCKER_HOST": "x"}, "x")]
)
def test_the_environment_names_the_engine(given: Mapping[str, str], expected: str) -> None:
    assert EngineAddress.named(given).host == expected


def test_an_engine_that_was_named_is_not_replaced_by_another() -> None:
    with pytest.raises(Unreachable, match="unset DOCKER_HOST"):
        refuse_start(EngineAddress("tcp://127.0.0.1:1"))


@pytest.mark.parametrize("host", ["ssh://build@example.com", "tcp://", "docker"])
def test_an_address_that_cannot_be_spoken_to_is_refused(host: str) -> None:
    with pytest.raises(Refused, match="cannot speak to an engine at"):
        EngineAddress(host).answers()


def test_a_dead_socket_is_not_an_engine(tmp_path: Path) -> None:
    assert not EngineAddress(f"unix://{tmp_path}/docker.sock").answers()


def test_a_file_that_is_not_a_tar_is_refused_by_the_engine(engine: EngineService, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"no tar" * 1000)
    with pytest.raises(Unreachable, match="did not import lockstep-test/bad:1"):
        EngineAddress(engine.host).import_image("lockstep-test/bad:1", bad)
