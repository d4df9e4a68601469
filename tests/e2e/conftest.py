"""A place to release into, and projects in it that leave nothing in the engine."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from buildtools.sandbox.process import free_ports
from tests.conftest import EngineService, HtpasswdRegistry, S3Service
from tests.e2e.project import Place, Project, make_project


class MakeProject(Protocol):
    """Makes a project, in the place that all share unless another is given."""

    def __call__(self, place: Place | None = None) -> Project: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With a BUILDKIT_HOST the tests here build with that daemon, but for those that need images in an engine."""
    if "BUILDKIT_HOST" in os.environ:
        for item in items:
            if item.get_closest_marker("images_in_engine"):
                item.add_marker(pytest.mark.skip(reason="a BuildKit daemon keeps no images"))


@pytest.fixture(scope="session")
def place(
    engine: EngineService,
    registry_htpasswd: HtpasswdRegistry,
    s3: S3Service,
    environment: Mapping[str, str],
    request: pytest.FixtureRequest,
) -> Place:
    """The engine, or BUILDKIT_HOST, a registry that asks for a login, and a bucket of this worker's own."""
    passed_on = {name: value for name, value in environment.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    if "BUILDKIT_HOST" in os.environ:
        passed_on["BUILDKIT_HOST"] = os.environ["BUILDKIT_HOST"]
        engine = replace(engine, base_busybox=request.getfixturevalue("registry_busybox"))
    login = f"{registry_htpasswd.user}:{registry_htpasswd.password}"
    return Place(
        registry_htpasswd.host,
        login,
        s3,
        s3.bucket(),
        engine,
        {
            **passed_on,
            **engine.environment,
            **s3.environment,
            "DOCKER_CONFIG": str(registry_htpasswd.docker_config),
            "TERM": "dumb",
        },
        (registry_htpasswd.password, s3.secret_key),
    )


@pytest.fixture
def content_place(place: Place, request: pytest.FixtureRequest) -> Place:
    """The same, with an engine that keeps images as content; with BUILDKIT_HOST that daemon builds here too."""
    if "BUILDKIT_HOST" in os.environ:
        return place
    content_engine: EngineService = request.getfixturevalue("content_engine")
    return replace(place, engine=content_engine, variables={**place.variables, **content_engine.environment})


@pytest.fixture
def closed() -> str:
    """``HOST:PORT`` where nobody listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture(scope="module")
def make_project_here(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeProject]:
    """Makes projects that live as long as a module's tests."""
    yield from _making(place, lambda: tmp_path_factory.mktemp("project"))


@pytest.fixture
def project_in(place: Place, tmp_path: Path) -> Iterator[MakeProject]:
    """Makes projects of this test's own."""
    numbers = itertools.count()

    def folder() -> Path:
        made = tmp_path / f"project{next(numbers)}"
        made.mkdir()
        return made

    yield from _making(place, folder)


@pytest.fixture
def project(project_in: MakeProject) -> Project:
    """An empty project of this test's own."""
    return project_in()


def _making(usual: Place, folder: Callable[[], Path]) -> Iterator[MakeProject]:
    made: list[Project] = []

    def make(place: Place | None = None) -> Project:
        made.append(make_project(folder(), place or usual, secrets.token_hex(5)))
        return made[-1]

    yield make
    for project in made:
        project.forget_images()
