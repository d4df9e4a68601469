"""docs/json.md as a table: for each task the command that shows its document, and the fields that this has."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "json.md").read_text()
# The JSON Schemas that the page names, by task.
SCHEMAS = {
    task: Draft202012Validator(json.loads((DOCS / f"{task}.schema.json").read_text()))
    for task in re.findall(r"\]\((\w+)\.schema\.json\)", TEXT)
}


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    title: str
    text: str

    @property
    def command(self) -> str:
        """What prints the document."""
        match = re.search(r"^`(buildtools .*--json)`$", self.text, re.MULTILINE)
        return match[1] if match else ""

    @property
    def fields(self) -> set[str]:
        """The paths of its fields, as ``items[].name``."""
        cells = re.findall(r"^\| (`.*?) \| ", self.text, re.MULTILINE)
        return {path for cell in cells for path in re.findall(r"`([^`]+)`", cell)}


def sections() -> list[Section]:
    """Every section, in order."""
    parts = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    return [Section(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


def paths(document: Any, path: str = "") -> set[str]:
    """The paths of a document's fields. ``schema`` is in all of them."""
    if isinstance(document, dict):
        inner = {key: value for key, value in document.items() if path or key != "schema"}
        return {each for key, value in inner.items() for each in paths(value, f"{path}.{key}" if path else key)}
    if isinstance(document, list) and any(isinstance(item, dict) for item in document):
        return {each for item in document for each in paths(item, f"{path}[]")}
    return {path}


def differences(documented: set[str], document: Any) -> list[str]:
    """The fields that are only in one of both. Of an empty list nobody can tell what it would hold."""
    actual = paths(document)
    empty = {path for path in actual if any(each.startswith(f"{path}[]") for each in documented)}
    only_documented = {path for path in documented - actual if not any(path.startswith(f"{each}[]") for each in empty)}
    return sorted(
        [f"not documented: {path}" for path in actual - documented - empty]
        + [f"not there: {path}" for path in only_documented]
    )
