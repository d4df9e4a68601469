"""Every document of a task is on the page about JSON, with every value that a field can have."""

from __future__ import annotations

import re
from dataclasses import fields
from enum import Enum
from typing import Any

import pytest

from buildtools import BuildToolsError
from buildtools.audit import Audit, Finding, MemberState, Verification
from buildtools.git.tagging.tags import TagState
from buildtools.image.assembly import BuildOutcome
from buildtools.image.registry.image_to_push import PushRoute
from buildtools.image.survey import BuildState
from buildtools.release import Release, ReleasedImage
from buildtools.rendering.json_rendering import document
from buildtools.rendering.release_rendering import verification_document
from buildtools.sandbox import Service
from buildtools.stages.doctor import Health
from buildtools.stages.fetch import FetchState
from buildtools.stages.history import HistoryEntry, VersionState
from buildtools.stages.leftovers import LeftoverKind
from buildtools.stages.pruning import PruneState
from buildtools.stages.stack import Condition, StackService
from buildtools.stages.trial import Trial
from buildtools.tasks import namespace
from tests.json_page import SCHEMAS, sections

SECTIONS = {section.title: section for section in sections()}


def test_every_task_with_a_document_is_on_the_page() -> None:
    tasks = {name for name in namespace.task_names if "json" in [each.name for each in namespace[name].get_arguments()]}
    said = {title for title, section in SECTIONS.items() for title in [title, *_others(section.text)]}
    assert set() == tasks - said


def _others(text: str) -> list[str]:
    """``tag`` in "`tag` has the same"."""
    return re.findall(r"^`(\w+)` has the same", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("build", BuildOutcome),
        ("doctor", Health),
        ("fetch", FetchState),
        ("history", VersionState),
        ("list", BuildState),
        ("clean", LeftoverKind),
        ("prune", PruneState),
        ("push", PushRoute),
        ("release", TagState),
        ("stage", Condition),
        ("verify", MemberState),
    ],
)
def test_every_value_of_a_field_is_on_the_page(task: str, kind: type[Enum]) -> None:
    assert [] == [each.value for each in kind if f"`{each.value}`" not in SECTIONS[task].text]


def test_the_schemas_of_documents_take_what_is_written_and_nothing_less() -> None:
    release = Release(
        "1.0.0", "c" * 40, "2026-11-23T08:00:00Z", (ReleasedImage("app", "r", "w/app", "1.0.0", "sha256:1"),), ()
    )
    audit = Audit(release, (Finding("image", "app", "r/w/app:1.0.0", "sha256:1", "", MemberState.MISSING),))
    documents: dict[str, Any] = {
        "history": document([HistoryEntry("1.0.0", VersionState.RELEASED, "c" * 40)]),
        "verify": verification_document(Verification((audit,), (BuildToolsError("broken"),))),
    }
    for task, written in documents.items():
        SCHEMAS[task].validate(written)
        first = written["items"][0]
        shorter = [{**written, "items": [{key: first[key] for key in first if key != name}]} for name in first]
        assert [False] * len(first) == [SCHEMAS[task].is_valid(each) for each in shorter]


@pytest.mark.parametrize(
    ("task", "prefix", "kind"),
    [("stage", "", Trial), ("stage", "services[].", StackService), ("sandbox.status", "items[].", Service)],
)
def test_what_the_page_has_no_example_of_has_the_fields_of_its_value(task: str, prefix: str, kind: Any) -> None:
    # `services` is the list of those.
    expected = {f"{prefix}{each.name}" for each in fields(kind)} - {"services"}
    documented = {path for path in SECTIONS[task].fields if path.rpartition(".")[0] == prefix.rstrip(".")}
    assert expected == documented
