"""What is documented is what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from buildtools.settings import KEYS, BuilderSettings, DistributionSettings, ImageSettings, StageSettings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def test_the_task_reference_is_what_the_tasks_say() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "script" / "reference", "--check"], capture_output=True, text=True, check=False
    )
    assert ("", 0) == (checked.stderr, checked.returncode)


def test_every_configuration_key_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    keys = [*(key for key in KEYS if key not in ("image", "distribution", "target", "stage", "pool"))]
    kinds = (ImageSettings, DistributionSettings, StageSettings, BuilderSettings)
    keys += [field.name for kind in kinds for field in fields(kind)]
    assert [] == [key for key in keys if f"| `{key}`" not in page]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_every_task_in_the_readme_exists() -> None:
    from buildtools.tasks import namespace

    named = re.findall(r"^\| `([a-z.]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert named
    assert set() == {name for name in named if name not in namespace.task_names}
