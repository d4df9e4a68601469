"""A place to release into, and projects in it that leave nothing in the engine."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import EngineService, HtpasswdRegistry, S3Service
from tests.e2e.project import Place, Project, make_project

MakeProject = Callable[[], Project]


@pytest.fixture(scope="session")
def place(
    engine: EngineService, registry_htpasswd: HtpasswdRegistry, s3: S3Service, environment: Mapping[str, str]
) -> Place:
    """The engine, a registry that asks for a login, and a bucket of this worker's own."""
    passed_on = {name: value for name, value in environment.items() if name not in ("HOME", "XDG_CACHE_HOME")}
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


@pytest.fixture(scope="module")
def make_project_here(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeProject]:
    """Makes projects that live as long as a module's tests."""
    yield from _making(place, lambda: tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(place: Place, tmp_path: Path) -> Iterator[Project]:
    """An empty project of this test's own."""
    for make in _making(place, lambda: tmp_path):
        yield make()


def _making(place: Place, folder: Callable[[], Path]) -> Iterator[MakeProject]:
    made: list[Project] = []

    def make() -> Project:
        made.append(make_project(folder(), place, secrets.token_hex(5)))
        return made[-1]

    yield make
    for project in made:
        project.forget_images()
