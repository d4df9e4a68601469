"""The ways to a BuildKit daemon; who answers at their ends is an engine's BuildKit."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from buildtools import Refused, Unreachable
from buildtools.image.engine.buildkit.daemon import Daemon
from buildtools.image.engine.client import Engine
from buildtools.platform import Platform, local_platform
from tests.conftest import EngineService
from tests.fronts import container, front, server_context


def platforms(address: str, certificates: Path | None = None, engine: Engine | None = None) -> tuple[Platform, ...]:
    def no_engine() -> Engine:
        assert engine
        return engine

    return Daemon.at(address, certificates, no_engine).platforms


def test_a_daemon_says_what_it_can_run_its_own_platform_first(modern_engine: str) -> None:
    assert local_platform() == platforms(modern_engine)[0]
    with front(modern_engine) as address:
        assert platforms(modern_engine) == platforms(f"tcp://{address}")


def test_a_daemon_behind_tls_is_offered_http2_and_shown_our_certificate(modern_engine: str, tmp_path: Path) -> None:
    # A server that has no protocol in common with what it is offered ends the handshake.
    context = server_context(tmp_path, ["h2"])
    with front(modern_engine, context) as address:
        assert local_platform() == platforms(f"tcp://{address}", tmp_path)[0]
        # It takes us for somebody who does not know TLS.
        with pytest.raises((Refused, Unreachable)):
            platforms(f"tcp://{address}")


def test_a_daemon_that_we_do_not_trust_is_not_spoken_to(modern_engine: str, tmp_path: Path) -> None:
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    context = server_context(tmp_path / "theirs", ["h2"])
    server_context(tmp_path / "ours")
    with (
        front(modern_engine, context) as address,
        pytest.raises(Refused, match="do not trust each other's certificates"),
    ):
        platforms(f"tcp://{address}", tmp_path / "ours")
    with front(modern_engine, context) as address, pytest.raises(Refused, match=r"certificates in .*nowhere"):
        platforms(f"tcp://{address}", tmp_path / "nowhere")


def test_a_daemon_in_a_container_is_reached_through_the_engine(
    engine: EngineService, modern_engine: str, tmp_path: Path
) -> None:
    with front(modern_engine) as address:
        host, _, port = address.partition(":")
        script = f'[ "$*" = dial-stdio ] || exit 2\necho hello >&2\nexec nc {host} {port}'
        with container(engine, tmp_path, script) as (connection, daemon):
            assert local_platform() == platforms(daemon, engine=connection)[0]


@pytest.mark.parametrize(
    ("buildctl", "reason"),
    [
        ("echo error: dial unix: nobody listens >&2; exit 1", "error: dial unix: nobody listens"),
        ("", 'exec: "buildctl": executable file not found'),
    ],
)
def test_why_a_container_cannot_reach_its_daemon_is_told(
    engine: EngineService, tmp_path: Path, buildctl: str, reason: str
) -> None:
    with (
        container(engine, tmp_path, buildctl) as (connection, daemon),
        pytest.raises(Unreachable, match=rf"{daemon} does not answer \(buildctl dial-stdio in it says: .*{reason}"),
    ):
        platforms(daemon, engine=connection)


def test_a_container_that_is_not_there_is_named(engine: EngineService) -> None:
    with (
        closing(Engine.connect(engine.environment)) as connection,
        pytest.raises(Unreachable, match="the container nobody-has-it cannot be used"),
    ):
        platforms("docker-container://nobody-has-it", engine=connection)


def test_what_is_no_daemon_is_told(registry: str, tmp_path: Path) -> None:
    # An engine since 29.2 would do: it speaks as a daemon does.
    with pytest.raises(Refused, match=r"what answers at .* is not BuildKit"):
        platforms(f"tcp://{registry}")
    with pytest.raises(Unreachable, match="no BuildKit daemon answers"):
        platforms(f"unix://{tmp_path}/nothing")
    with pytest.raises(Refused, match="is not the address of a BuildKit daemon"):
        platforms("ssh://host")
