from __future__ import annotations

import pytest

from buildtools.image.engine.buildkit.error_location import locate
from buildtools.image.engine.buildkit.progress import Vertex

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


def test_a_step_over_several_lines_is_shown_whole() -> None:
    found = locate(DOCKERFILE, Vertex(stage="builder", text="RUN echo one &&     echo two", number=2, total=5))
    assert found
    assert (4, 7, "RUN echo one && echo two") == (found.first, found.last, found.text)


def test_a_dockerfile_that_cannot_be_read_has_no_places() -> None:
    assert locate("FROM a\nRUN <<EOF\n", Vertex(text="RUN <<EOF", number=1, total=1)) is None
