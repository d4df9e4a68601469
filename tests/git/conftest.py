"""Places to release to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.git.remotes import Site, SshServer, ssh_server


@pytest.fixture(scope="session")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.create(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(_model: Site, tmp_path: Path) -> Site:
    """A bare repository and a clone of it."""
    shutil.copytree(_model.folder, tmp_path / "site", symlinks=True)
    return Site(tmp_path / "site")


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """An ssh server on loopback."""
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server
