from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from buildtools import Cancelled, Refused
from buildtools.events import Finished, Log, Outcome, Started, Step, Warned
from buildtools.image.engine.buildkit.failure import BuildFailed
from tests.image.building import Builder


def test_the_engine_has_what_was_built_under_every_tag(builder: Builder) -> None:
    folder = builder.folder("FROM BASE\nCOPY hello /\nRUN cat /hello\n", hello="good day\n")
    tags = (f"{builder.prefix}/app:1", f"{builder.prefix}/other:2")

    image = builder.build(folder, tags=tags, labels={"org.example.team": "widgets"})

    assert [image.image_id] * 2 == [(builder.engine.inspect(tag) or {})["Id"] for tag in tags]
    assert "widgets" == (builder.engine.inspect(image.image_id) or {})["Config"]["Labels"]["org.example.team"]
    assert ["good day"] == builder.output()


def test_events_tell_steps_with_their_numbers_and_what_was_cached(builder: Builder) -> None:
    folder = builder.folder("FROM BASE\nCOPY Dockerfile /\nRUN true\n")
    builder.build(folder)
    builder.events.clear()

    image = builder.build(folder, no_cache=False)

    assert Started("app", "build") == builder.events[0]
    steps = [(step.text, step.number, step.total, step.cached) for step in builder.heard(Step) if step.number]
    assert [("COPY Dockerfile /", 2, 3, True), ("RUN true", 3, 3, True)] == steps[-2:]
    finished = builder.events[-1]
    assert isinstance(finished, Finished)
    assert (Outcome.DONE, image.image_id) == (finished.outcome, finished.detail)


def test_a_program_of_another_platform_is_told_with_what_to_do(builder: Builder) -> None:
    folder = builder.folder("FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN true\n", sh=b"\x7fELF" + bytes(100))

    with pytest.raises(BuildFailed, match="for the engine cannot run this program") as caught:
        builder.build(folder)

    assert 3 == caught.value.line
    assert "apt-get install qemu-user-static" in caught.value.remedy


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_name_that_is_not_utf8_is_built_or_told(builder: Builder, kind: str) -> None:
    folder = builder.folder("FROM scratch\nCOPY . /c/\n", other="x")
    name = os.fsdecode(b"caf\xe9")
    if kind == "file":
        (folder / name).write_text("x")
    else:
        (folder / "link").symlink_to(name)
    reason = ""
    try:
        builder.build(folder)
    except BuildFailed as failed:
        reason = failed.reason
    # Engines from 28 on take no such name, and do not say which it is.
    shown = "caf\\xe9" if kind == "file" else "link"
    assert reason in ("", f"{folder}/{shown} cannot be sent to this engine (its name or its target is not UTF-8)")


def test_a_failure_names_line_instruction_status_and_last_words(builder: Builder) -> None:
    folder = builder.folder(
        "FROM BASE AS one\nRUN true\nFROM one\n# a remark\nENV WHAT=boom\nRUN echo $WHAT; \\\n    exit 7\n"
    )

    with pytest.raises(BuildFailed) as caught:
        builder.build(folder)

    failed = caught.value
    assert ("app", folder / "Dockerfile", 6, 7, ("boom",)) == (
        failed.image,
        failed.dockerfile,
        failed.line,
        failed.status,
        failed.log,
    )
    assert "RUN echo $WHAT; exit 7" == failed.instruction
    assert f"app: RUN echo $WHAT; exit 7: exit code 7 ({folder}/Dockerfile:6)" == failed.fact
    assert [
        "  5 | ENV WHAT=boom",
        "> 6 | RUN echo $WHAT; \\",
        "> 7 |     exit 7",
        "its last lines:",
        "  | boom",
        failed.fact,
    ] == str(failed).splitlines()
    finished = builder.events[-1]
    assert isinstance(finished, Finished)
    assert (Outcome.FAILED, failed.fact) == (finished.outcome, finished.detail)


@pytest.mark.parametrize(
    ("dockerfile", "line", "reason"),
    [
        ("FROM scratch\n\nRUNN x\n", 3, "unknown instruction: RUNN"),
        ("FROM BASE\nCOPY nothing /\n", 2, "COPY nothing /: /nothing: not found in the context"),
        ("FROM BASE AS one\nFROM BASE\nCOPY --from=one /nothing /\n", 3, "/nothing: not found"),
        ("FROM BASE\nRUN --mount=type=secret,id=no,required=true true\n", 2, "secret no"),
        ("FROM BASE\nCOPY --nothing a /\n", 2, "nothing (DOCKERFILE:2): correct it, or, where newer frontends"),
        ("", 0, "cannot be empty"),
    ],
)
def test_a_failure_without_a_command_says_where_and_why(
    builder: Builder, dockerfile: str, line: int, reason: str
) -> None:
    with pytest.raises(BuildFailed) as caught:
        builder.build(builder.folder(dockerfile))
    assert line == caught.value.line
    assert reason in str(caught.value).replace(str(caught.value.dockerfile), "DOCKERFILE")


def test_a_target_and_arguments_choose_what_is_built(builder: Builder) -> None:
    folder = builder.folder("FROM BASE AS first\nARG WORD\nRUN echo $WORD\nFROM first\nRUN exit 1\n")
    builder.build(folder, target="first", args={"WORD": "of honour"})
    assert ["of honour"] == builder.output()


def test_a_secret_reaches_the_command_but_neither_the_log_nor_the_image(builder: Builder) -> None:
    secret = builder.root / "token"
    secret.write_text("hunter2-token\n")
    builder.environment = {**builder.environment, "TOKEN": "hunter2-variable"}
    folder = builder.folder(
        "FROM BASE\nRUN --mount=type=secret,id=file --mount=type=secret,id=variable "
        "cat /run/secrets/file /run/secrets/variable && wc -c < /run/secrets/variable\n"
    )

    image = builder.build(folder, secrets={"file": str(secret), "variable": "env:TOKEN"})

    assert ["***", "***16"] == builder.output()
    with builder.engine.errors():
        saved = b"".join(builder.engine.api.get_image(image.tags[0]))
    assert b"hunter2" not in saved


def test_a_secret_that_is_not_there_is_refused_before_anything_is_built(builder: Builder) -> None:
    folder = builder.folder("FROM BASE\n")
    with pytest.raises(Refused, match="the variable NO_SUCH_VARIABLE, which is not set"):
        builder.build(folder, secrets={"token": "env:NO_SUCH_VARIABLE"})
    with pytest.raises(Refused, match="the secret token in /no/such/file cannot be read"):
        builder.build(folder, secrets={"token": "/no/such/file"})


def test_cancelling_stops_the_command_on_the_engine(builder: Builder) -> None:
    cancel = threading.Event()
    folder = builder.folder("FROM BASE\nRUN echo begun; sleep 3600\n")

    with pytest.raises(Cancelled):
        builder.build(folder, cancel=cancel, heard=lambda event: cancel.set() if isinstance(event, Log) else None)

    finished = builder.events[-1]
    assert isinstance(finished, Finished)
    assert Outcome.CANCELLED == finished.outcome


def test_a_frontend_that_cannot_be_pulled_gives_way_to_the_engines_own(builder: Builder) -> None:
    folder = builder.folder("# syntax=docker/dockerfile:99.99-none\nFROM BASE\nRUN echo built\n")
    builder.build(folder)
    assert ["built"] == builder.output()
    (warned,) = builder.heard(Warned)
    assert "docker/dockerfile:99.99-none could not be pulled" in warned.message


def test_a_step_that_fails_under_the_engines_own_frontend_is_the_one_that_is_told(builder: Builder) -> None:
    folder = builder.folder("# syntax=docker/dockerfile:99.99-none\nFROM BASE\nRUN echo boom; exit 7\n")
    with pytest.raises(BuildFailed) as caught:
        builder.build(folder)
    assert (3, 7, ("boom",)) == (caught.value.line, caught.value.status, caught.value.log)
    load = "[internal] load build definition from Dockerfile"
    assert 1 == len([step for step in builder.heard(Step) if step.text == load])


def test_a_here_document_is_built_or_the_frontend_is_told_to_be_too_old_for_it(builder: Builder) -> None:
    folder = builder.folder("# syntax=docker/dockerfile:99.99-none\nFROM BASE\nCOPY <<EOF /file\nsome words\nEOF\n")
    # Those of engines since 23.0 know them.
    if builder.engine.api_version not in ("1.40", "1.41"):
        builder.build(folder)
        return
    with pytest.raises(BuildFailed, match="does not know here-documents") as caught:
        builder.build(folder)
    assert 3 == caught.value.line
    assert "see that the engine can pull docker/dockerfile:99.99-none, or build with a newer" in caught.value.remedy


def test_another_frontend_is_not_replaced(builder: Builder) -> None:
    folder = builder.folder("# syntax=127.0.0.1:1/some/frontend:1\nFROM BASE\n")
    with pytest.raises(BuildFailed, match=r"127\.0\.0\.1:1/") as caught:
        builder.build(folder)
    assert 4 == caught.value.exit_code


def test_a_context_and_a_dockerfile_may_lie_anywhere(builder: Builder) -> None:
    context = builder.folder("", name="shared", **{"data/file": "shared data\n"})
    dockerfile = builder.root / "elsewhere" / "Containerfile"
    dockerfile.parent.mkdir()
    dockerfile.write_text(f"FROM {builder.base}\nCOPY . /all\nRUN cd /all && find . -type f\n")
    dockerfile.with_name("Containerfile.dockerignore").write_text("Dockerfile\n")

    builder.build(context, dockerfile=dockerfile)

    assert ["./data/file"] == builder.output()


def test_a_context_that_is_not_a_folder_is_refused(builder: Builder) -> None:
    folder = builder.folder("FROM BASE\n")
    with pytest.raises(Refused, match="is not a folder"):
        builder.build(folder, context=Path("/no/such/folder"))
    with pytest.raises(Refused, match="cannot be read"):
        builder.build(folder, dockerfile=folder / "None")
