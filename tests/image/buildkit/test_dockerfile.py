from __future__ import annotations

import pytest

from buildtools.image.buildkit.dockerfile import directives, instructions, locate
from buildtools.image.buildkit.progress import Vertex

DOCKERFILE = """\
# syntax=docker/dockerfile:1
FROM debian:12 AS builder
ARG WORD=hello
RUN echo one && \\
    # a remark in between

    echo two
workdir /src
COPY . .
RUN <<EOF
make
FROM nothing
EOF
FROM scratch
COPY --from=builder /src /a
COPY --from=registry.example.com/tools:1 /tool /b
RUN echo $WORD
RUN echo $WORD again
"""


def test_instructions_have_their_lines_and_stages() -> None:
    assert [
        (2, 2, "FROM debian:12 AS builder", 0),
        (3, 3, "ARG WORD=hello", 0),
        (4, 7, "RUN echo one && echo two", 0),
        (8, 8, "WORKDIR /src", 0),
        (9, 9, "COPY . .", 0),
        (10, 13, "RUN <<EOF", 0),
        (14, 14, "FROM scratch", 1),
        (15, 15, "COPY --from=builder /src /a", 1),
        (16, 16, "COPY --from=registry.example.com/tools:1 /tool /b", 1),
        (17, 17, "RUN echo $WORD", 1),
        (18, 18, "RUN echo $WORD again", 1),
    ] == [(each.first, each.last, each.text, each.stage) for each in instructions(DOCKERFILE)]


@pytest.mark.parametrize(
    ("vertex", "line"),
    [
        (Vertex(stage="builder", text="RUN echo one &&     echo two", number=2, total=5), 4),
        (Vertex(stage="builder", text="COPY . .", number=4, total=5), 9),
        (Vertex(stage="linux/arm64 builder", text="WORKDIR /src", number=3, total=5), 8),
        # Named with its variable replaced: the number decides.
        (Vertex(stage="stage-1", text="RUN echo hello", number=3, total=4), 17),
        (Vertex(stage="stage-1", text="RUN echo hello again", number=4, total=4), 18),
        # Two more steps than the Dockerfile has: an ONBUILD of the base image.
        (Vertex(stage="builder", text="RUN onbuild", number=2, total=7), None),
        (Vertex(stage="builder", text="FROM docker.io/library/debian:12", number=1, total=5), 2),
        (Vertex(text="[internal] load metadata for docker.io/library/debian:12"), 2),
        (Vertex(text="FROM registry.example.com/tools:1@sha256:00"), 16),
        (Vertex(text="exporting to image"), None),
        (Vertex(stage="elsewhere", text="RUN true", number=1, total=1), None),
    ],
)
def test_a_step_is_found_in_its_dockerfile(vertex: Vertex, line: int | None) -> None:
    found = locate(DOCKERFILE, vertex)
    assert line == (found.first if found else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DOCKERFILE, {"syntax": "docker/dockerfile:1"}),
        ("#!/usr/bin/env docker\n#Syntax = a/b:1 \n# escape=`\nFROM x\n", {"syntax": "a/b:1", "escape": "`"}),
        ("\ufeff# escape=`\n\n# syntax=too/late\n", {"escape": "`"}),
        ("# only a remark\n# syntax=too/late\n", {}),
        ("FROM scratch\n", {}),
        ("", {}),
    ],
)
def test_directives_count_only_at_the_top(text: str, expected: dict[str, str]) -> None:
    assert expected == directives(text)


def test_another_escape_character_continues_lines() -> None:
    text = "# escape=`\nFROM base\nRUN dir C:\\\nRUN one `\n  two\n"
    assert ["FROM base", "RUN dir C:\\", "RUN one two"] == [each.text for each in instructions(text)]
