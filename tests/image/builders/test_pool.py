"""Who builds what in a pool, with sites that build nothing; ``tests/e2e/test_pool.py`` has real ones."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Cancelled, Refused, Unreachable
from buildtools.events import Event, Report, Step, Warned, unheard
from buildtools.image.builder import BuildRequest
from buildtools.image.builders.pool import BuilderPool
from buildtools.image.engine.buildkit.failure import BuildFailed
from buildtools.image.engine.client import UnusableEngine
from buildtools.platform import Platform

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
DOCKERFILE = Path("/nonexistent/Dockerfile")


@dataclass
class Recorder:
    """A site that only remembers what it was asked for; ``work`` is called for each build."""

    platforms: tuple[Platform, ...] = (AMD64,)
    keeps_content: bool = True
    work: Callable[[BuildRequest], object] = lambda _: None
    names: list[str] = field(default_factory=list)
    requests: list[BuildRequest] = field(default_factory=list)

    def push_build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        self.names.append(request.name)
        self.requests.append(request)
        self.work(request)
        return "sha256:0"


@dataclass
class Unanswering:
    """A site that is not there, whose platforms are configured."""

    error: BuildToolsError = field(default_factory=lambda: Unreachable("it is away"))
    platforms: tuple[Platform, ...] = (AMD64,)

    @property
    def keeps_content(self) -> bool:
        raise self.error

    def push_build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        raise AssertionError


def untrusted() -> Unanswering:
    return Unanswering(UnusableEngine("its certificate is another's"))


def request(name: str, *, platform: str = "", content: bytes = b"FROM scratch\n") -> BuildRequest:
    return BuildRequest(name, Path(), DOCKERFILE, (), content=content, platform=platform, native="linux/amd64")


def pool(**sites: Recorder | Unanswering) -> BuilderPool:
    return BuilderPool(sites, dict.fromkeys(sites, 1))


def build(one: BuilderPool, each: BuildRequest, report: Report = unheard) -> None:
    one.push_build(each, report, threading.Event())


def gone(_: BuildRequest) -> None:
    raise Unreachable("it went away")


def test_an_image_meets_the_same_builder_again_on_every_machine() -> None:
    sites = {name: Recorder() for name in ("a", "b", "c")}
    images = [f"image{number}" for number in range(300)]
    for name in images:
        build(pool(**sites), request(name))
    shares = {name: set(site.names) for name, site in sites.items()}
    assert {name for share in shares.values() for name in share} == set(images)
    # Of 300 by 3, 100 each; five standard deviations are 41.
    assert all(60 < len(share) < 140 for share in shares.values()), shares

    fewer = {name: Recorder() for name in ("a", "b")}
    for name in images:
        build(pool(**fewer), request(name))
    assert all(shares[name] <= set(fewer[name].names) for name in fewer), "only what c had moves"


def test_a_builder_that_is_free_takes_what_another_has_no_time_for() -> None:
    both_at_work = threading.Barrier(2, timeout=10)
    sites = {name: Recorder(work=lambda _: both_at_work.wait()) for name in ("a", "b")}
    one = pool(**sites)
    with ThreadPoolExecutor(max_workers=4) as threads:
        list(threads.map(lambda number: build(one, request(f"image{number}")), range(4)))
    assert [2, 2] == [len(site.names) for site in sites.values()]


def test_an_image_goes_to_builders_of_its_own_platform() -> None:
    native, emulating = Recorder((ARM64,)), Recorder((AMD64, ARM64))
    one = pool(native=native, emulating=emulating)
    for number in range(8):
        build(one, request(f"image{number}", platform="linux/arm64"))
    assert (8, 0) == (len(native.names), len(emulating.names))
    build(one, request("own"))
    assert ["own"] == emulating.names
    assert "linux/amd64" == emulating.requests[0].platform


def test_without_a_native_builder_one_emulates_and_without_that_any_tries() -> None:
    emulating, other = Recorder((AMD64, ARM64)), Recorder((AMD64,))
    one = pool(emulating=emulating, other=other)
    for number in range(8):
        build(one, request(f"image{number}", platform="linux/arm64"))
    assert 8 == len(emulating.names)
    build(one, request("rare", platform="linux/s390x"))
    assert 1 == (emulating.names + other.names).count("rare")


def test_a_dockerfile_that_reads_the_platform_of_its_builder_gets_that_builder() -> None:
    native, cross = Recorder((ARM64,)), Recorder((AMD64,))
    content = b"FROM --platform=$BUILDPLATFORM scratch AS build\nFROM scratch\n"
    build(pool(native=native, cross=cross), request("app", platform="linux/arm64", content=content))
    assert ["app"] == cross.names


def test_a_dockerfile_that_reads_the_platform_of_its_builder_is_not_built_on_another() -> None:
    other, cross = Recorder((ARM64,)), Recorder((AMD64,), work=gone)
    content = b"FROM --platform=$BUILDPLATFORM scratch AS build\nFROM scratch\n"
    with pytest.raises(Unreachable, match=r"no builder of linux/amd64, as a BUILDPLATFORM wants it, is left \(it went"):
        build(pool(other=other, cross=cross), request("app", platform="linux/arm64", content=content))
    assert [] == other.names


def test_what_a_lost_builder_was_building_is_built_elsewhere_once() -> None:
    events: list[Event] = []
    sites = {"a": Recorder(work=gone), "b": Recorder(), "c": Recorder()}
    one = pool(**sites)
    for number in range(12):
        build(one, request(f"image{number}"), events.append)
    assert {"a": "it went away"} == {name: loss.fact for name, loss in one.losses.items()}
    assert 1 == len(sites["a"].names), "it is not used any more"
    assert {f"image{number}": 1 for number in range(12)} == Counter(sites["b"].names + sites["c"].names)
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert "a was lost (it went away); it is built elsewhere" == warning.message
    assert 13 == len([event for event in events if isinstance(event, Step)])


def test_an_image_that_costs_two_builders_gets_no_third() -> None:
    sites = {name: Recorder(work=gone) for name in ("a", "b", "c")}
    one = pool(**sites)
    with pytest.raises(Unreachable, match="were lost while they built it"):
        build(one, request("poison"))
    assert 2 == len(one.losses)


def test_with_nobody_left_the_reasons_are_told() -> None:
    one = pool(a=Recorder(work=gone), b=Unanswering())
    with pytest.raises(Unreachable, match=r"no builder is left \(it is away; it went away\)"):
        build(one, request("app"))


def test_a_builder_that_is_not_trusted_gets_nothing_and_the_others_get_its_share() -> None:
    one = pool(a=untrusted(), b=Recorder(), c=Recorder(keeps_content=False))
    assert not one.keeps_content
    for number in range(8):
        build(one, request(f"image{number}"))
    assert ["a"] == list(one.losses)
    assert pool(a=untrusted(), b=Recorder()).keeps_content


def test_where_no_builder_is_trusted_another_run_does_not_help() -> None:
    with pytest.raises(Refused, match=r"no builder is left \(its certificate is another's\)"):
        build(pool(a=untrusted()), request("app"))
    with pytest.raises(Unreachable):
        build(pool(a=untrusted(), b=Unanswering()), request("app"))


def failing_build(reason: str = "exit code 1", log: Sequence[str] = ()) -> Callable[[BuildRequest], object]:
    def fail(_: BuildRequest) -> None:
        raise BuildFailed("app", DOCKERFILE, reason, log=log)

    return fail


FULL = "write x: no space left on device"


def test_a_build_that_fails_is_not_tried_elsewhere() -> None:
    sites = {name: Recorder(work=failing_build()) for name in ("a", "b")}
    with pytest.raises(BuildFailed):
        build(pool(**sites), request("app"))
    assert 1 == sum(len(site.names) for site in sites.values())


@pytest.mark.parametrize("fail", [failing_build(FULL), failing_build(log=[FULL])])
def test_a_builder_whose_disk_is_full_is_lost_once_another_has_built_the_image(fail: Callable[..., object]) -> None:
    first = pool(a=Recorder(), b=Recorder()).preferred("app", "", "linux/amd64", b"")
    one = pool(**{name: Recorder(work=fail if name == first else lambda _: None) for name in ("a", "b")})
    build(one, request("app"))
    assert {first} == set(one.losses)
    assert "its disk is full: free space there" in str(one.losses[first])


def test_a_command_that_fills_a_disk_of_its_own_costs_no_builder() -> None:
    sites = {name: Recorder(work=failing_build(log=[FULL])) for name in ("a", "b", "c")}
    one = pool(**sites)
    with pytest.raises(BuildFailed):
        build(one, request("app"))
    assert [0, 1, 1] == sorted(len(site.names) for site in sites.values())
    assert {} == one.losses
    alone = pool(a=Recorder(work=failing_build(log=[FULL])))
    with pytest.raises(BuildFailed):
        build(alone, request("app"))


def test_who_waits_for_a_builder_hears_of_an_interrupt() -> None:
    at_work, cancelled, end = threading.Event(), threading.Event(), threading.Event()

    def wait(_: BuildRequest) -> None:
        at_work.set()
        assert end.wait(10)

    one = pool(a=Recorder(work=wait))
    with ThreadPoolExecutor(max_workers=2) as threads:
        first = threads.submit(build, one, request("first"))
        assert at_work.wait(10)
        second = threads.submit(one.push_build, request("second"), unheard, cancelled)
        cancelled.set()
        with pytest.raises(Cancelled):
            second.result(10)
        end.set()
        first.result(10)
