"""The published JSON Schema of the configuration takes what the reader takes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from buildtools import Refused
from buildtools.settings import Layer
from buildtools.settings_reader import merge_layers

ROOT = Path(__file__).parent.parent
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs/configuration.schema.json").read_text()))


def examples() -> dict[str, Any]:
    """The configurations that the pages show."""
    return {
        f"{page.name} {number}": tomllib.loads(block).get("tool", {}).get("buildtools", {})
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for number, block in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL), 1)
    }


EXAMPLES = examples()


@pytest.mark.parametrize("values", EXAMPLES.values(), ids=EXAMPLES)
def test_what_the_pages_show_is_valid(values: Any) -> None:
    SCHEMA.validate(values)
    merge_layers(ROOT, [Layer("pyproject.toml", values)])


@pytest.mark.parametrize(
    "values",
    [
        {"registri": "r.example"},
        {"jobs": -1},
        {"jobs": 1.5},
        {"moving_tags": [1]},
        {"media_types": "dockers"},
        {"args": {"X": 1}},
        {"image": {"app": {"contxt": "."}}},
        {"image": {"app": {"ssh": "perhaps"}}},
        {"image": {"app": {"rebuild_after": 10**7}}},
        {"distribution": {"daemon": 7}},
        {"target": {"production": {"requires": "stage", "registry": []}}},
        {"root": "elsewhere"},
    ],
)
def test_what_the_reader_refuses_is_invalid(values: Any) -> None:
    assert not SCHEMA.is_valid(values)
    with pytest.raises(Refused):
        merge_layers(ROOT, [Layer("pyproject.toml", values)])
