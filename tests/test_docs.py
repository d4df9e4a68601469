"""What is documented is what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

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
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]*))?", page.read_text())
    assert [] == [link for link, _ in links if not (page.parent / link).exists()]
    assert [] == [(link, name) for link, name in links if name and name not in anchors(page.parent / link)]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_site_has_every_page_once() -> None:
    pages = [f"{path.relative_to(ROOT / 'docs')}" for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages) == sorted(_pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))


def _pages(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    else:
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from _pages(entry)


def test_the_site_is_built_and_all_its_links_and_anchors_lead_somewhere(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    done = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert (tmp_path / "build/site/release/index.html").exists()


def test_a_transcript_stands_only_where_it_is_run() -> None:
    elsewhere = [*ROOT.glob("*.md"), *(ROOT / "bench").glob("*.md")]
    assert [] == [page.name for page in elsewhere if page.name != "README.md" and "```console" in page.read_text()]


def test_every_task_in_the_readme_exists() -> None:
    from buildtools.tasks import namespace

    named = re.findall(r"^\| `([a-z.]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert named
    assert set() == {name for name in named if name not in namespace.task_names}
