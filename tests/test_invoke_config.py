from __future__ import annotations

from pathlib import Path

import pytest

from buildtools import Refused
from buildtools.invoke_config import project_context, read_settings
from buildtools.settings import Settings


def settings(folder: Path, table: str, platform: str) -> Settings:
    (folder / "pyproject.toml").write_text(f"[tool.buildtools]\n{table}\n")
    environment = {"DOCKER_DEFAULT_PLATFORM": platform}
    return read_settings(project_context(folder, environment), environment)


@pytest.mark.parametrize(
    ("table", "platforms"),
    [
        ("", ("linux/arm64",)),
        ('image.app.platform = "linux/386"', ("linux/386",)),
        ('platform = "linux/amd64"', ("linux/amd64",)),
        ('platforms = ["linux/amd64", "linux/386"]', ("linux/amd64", "linux/386")),
    ],
)
def test_the_platform_of_the_docker_program_applies_where_none_is_configured(
    tmp_path: Path, table: str, platforms: tuple[str, ...]
) -> None:
    assert platforms == settings(tmp_path, table, "linux/arm64").platforms_of("app")


def test_a_platform_of_the_docker_program_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="DOCKER_DEFAULT_PLATFORM: platform must be one platform"):
        settings(tmp_path, "", "lunix")
