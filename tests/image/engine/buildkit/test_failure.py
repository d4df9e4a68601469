from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from buildtools.image.engine.buildkit.failure import explained
from buildtools.image.engine.buildkit.grpc import Status
from buildtools.image.engine.buildkit.progress import Vertex
from buildtools.image.engine.buildkit.protobuf import bytes_field, int_field, string_field

DOCKERFILE = "FROM scratch\nRUN one\nRUN two\nRUN three\n"
PATH = Path("src/docker/app/Dockerfile")


def details(**values: Any) -> bytes:
    """A ``google.rpc.Status`` as engines since 23.0 send it."""
    return int_field(1, 2) + b"".join(
        bytes_field(
            3,
            string_field(1, f"github.com/moby/buildkit/{name.replace('_', '.')}+json")
            + bytes_field(2, json.dumps(value).encode()),
        )
        for name, value in values.items()
    )


def test_what_the_engine_says_of_the_place_wins_over_what_was_found() -> None:
    error = Status(
        2,
        'failed to solve: process "/bin/sh -c two" did not complete successfully: exit code: 7',
        details(
            stack_Stack={"frames": []},
            errdefs_Source={
                "info": {"filename": "Dockerfile", "data": base64.b64encode(DOCKERFILE.encode()).decode()},
                "ranges": [{"start": {"line": 3}, "end": {"line": 4}}],
            },
            gatewayapi_ExitMessage={"Code": 7},
        ),
    )
    failed = explained("app", PATH, DOCKERFILE, error, None)
    assert (3, 7) == (failed.line, failed.status)
    assert [
        "  2 | RUN one",
        "> 3 | RUN two",
        "> 4 | RUN three",
        "app: exit code 7 (src/docker/app/Dockerfile:3)",
    ] == str(failed).splitlines()


def test_details_that_make_no_sense_are_passed_over() -> None:
    vertex = Vertex(text="RUN two", number=2, total=3)
    for broken in (
        b"\xff",
        details(errdefs_Source=[1]),
        details(gatewayapi_ExitMessage={}),
        details(errdefs_Source=None),
    ):
        failed = explained("app", PATH, DOCKERFILE, Status(2, "something: exit code: 3", broken), vertex)
        assert (3, 3, "RUN two") == (failed.line, failed.status, failed.instruction)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ('failed to compute cache key: "/docs/secret.txt" not found: not found', "/docs/secret.txt"),
        ('failed to calculate checksum of ref ab12::cd34: "/docs/secret.txt": not found', "/docs/secret.txt"),
        (
            "failed to compute cache key: failed to walk /var/lib/docker/tmp/buildkit-mount15/docs: "
            "lstat /var/lib/docker/tmp/buildkit-mount15/docs: no such file or directory",
            "/docs",
        ),
    ],
)
def test_a_file_that_is_not_in_the_context_is_named_without_the_engines_own_paths(words: str, path: str) -> None:
    text = "FROM scratch\nCOPY docs/secret.txt /\n"
    vertex = Vertex(text="COPY docs/secret.txt /", number=1, total=1)
    failed = explained("app", PATH, text, Status(2, f"failed to solve: {words}", b""), vertex)
    assert f"app: COPY docs/secret.txt /: {path}: not found in the context ({PATH}:2)" == failed.fact
    assert "see that it is there, and that .dockerignore does not leave it out" == failed.remedy


def test_a_base_image_that_needs_a_login_says_so() -> None:
    error = Status(
        2,
        "failed to solve with frontend dockerfile.v0: failed to create LLB definition: "
        "unexpected status code [manifests 1]: 401 Unauthorized",
    )
    vertex = Vertex(
        name="[internal] load metadata for r.example.com/base:1",
        text="[internal] load metadata for r.example.com/base:1",
    )
    failed = explained("app", PATH, "FROM r.example.com/base:1\n", error, vertex)
    assert (
        "> 1 | FROM r.example.com/base:1\n"
        "app: FROM r.example.com/base:1: unexpected status code [manifests 1]: 401 Unauthorized "
        "(src/docker/app/Dockerfile:1): if the image exists, log in to its registry with docker login"
    ) == str(failed)
    assert 1 == failed.exit_code


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("http: server gave HTTP response to HTTPS client", '[registry."r.example.com:5000"] with http = true'),
        (
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            '[registry."r.example.com:5000"] with ca = ["FILE"]',
        ),
    ],
)
def test_a_registry_that_the_builder_must_be_told_of_says_where(reason: str, remedy: str) -> None:
    name = "r.example.com:5000/base"
    request = f'failed to do request: Head "https://r.example.com:5000/v2/base/manifests/1": {reason}'
    loading = Vertex(name="x", text=f"[internal] load metadata for {name}:1")
    error = Status(2, f"failed to solve: {name}:1: failed to resolve source metadata for {name}:1: {request}")
    failed = explained("app", PATH, f"FROM {name}:1\n", error, loading)
    assert f"FROM {name}:1: {request}" == failed.fact.partition("app: ")[2].partition(" (src/")[0]
    assert remedy in failed.remedy

    pushing = Vertex(name="exporting to image", text="exporting to image")
    failed = explained(
        "app", PATH, DOCKERFILE, Status(2, f"failed to solve: failed to push {name}: {request}"), pushing
    )
    assert remedy in failed.remedy


def test_a_registry_that_is_away_is_worth_a_retry() -> None:
    vertex = Vertex(name="x", text="[internal] load metadata for r.example.com/base:1")
    error = Status(
        2, 'failed to do request: Head "https://r.example.com": dial tcp: lookup r.example.com: no such host'
    )
    failed = explained("app", PATH, "FROM r.example.com/base:1\n", error, vertex)
    assert (4, "run again when the builder can reach it") == (failed.exit_code, failed.remedy)
    # This machine's own names are not those of a builder in a container.
    error = Status(2, 'failed to do request: Head "http://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: refused')
    failed = explained("app", PATH, "FROM 127.0.0.1:5000/base:1\n", error, vertex)
    assert (4, True) == (failed.exit_code, "needs another address" in failed.remedy)
    # What a command of the Dockerfile could not reach is the Dockerfile's own affair.
    step = Vertex(text="RUN two", number=2, total=3)
    assert 1 == explained("app", PATH, DOCKERFILE, Status(2, "dial tcp: exit code: 1"), step).exit_code


def test_a_long_instruction_is_shortened_in_the_summary_but_not_in_the_attribute() -> None:
    instruction = f"RUN {'x' * 300}"
    vertex = Vertex(text=instruction, number=1, total=1)
    failed = explained("app", PATH, f"FROM scratch\n{instruction}\n", Status(2, "exit code: 1"), vertex)
    assert instruction == failed.instruction
    assert len(failed.fact) < 200


@pytest.mark.parametrize(
    ("entitlement", "flag"), [("security.insecure", "--security=insecure"), ("network.host", "--network=host")]
)
def test_what_needs_an_entitlement_is_told_with_its_line(entitlement: str, flag: str) -> None:
    error = Status(2, f"failed to solve: failed to load LLB: {entitlement} is not allowed")
    failed = explained("app", PATH, f"FROM base\nRUN {flag} id\n", error, None)
    assert [
        "  1 | FROM base",
        f"> 2 | RUN {flag} id",
        f"app: RUN {flag} id: {flag} needs an entitlement, and builds have none (src/docker/app/Dockerfile:2): "
        "leave it out",
    ] == str(failed).splitlines()


def test_an_agent_that_was_not_offered_says_how() -> None:
    vertex = Vertex(text="RUN --mount=type=ssh,required=true two", number=2, total=3)
    error = Status(2, 'failed to solve: no SSH key "" forwarded from the client')
    failed = explained("app@linux/arm64", PATH, DOCKERFILE, error, vertex)
    assert "set ssh = true under [tool.buildtools.image.app]" == failed.remedy


def test_what_git_says_is_one_line() -> None:
    vertex = Vertex(text="ADD https://example.com/x.git /x", number=1, total=1)
    error = Status(2, "failed to solve: failed to fetch remote x: git stderr:\nfatal: no route\n: exit status 128")
    failed = explained("app", PATH, "FROM scratch\nADD https://example.com/x.git /x\n", error, vertex)
    assert "failed to fetch remote x: git stderr: fatal: no route : exit status 128" == failed.reason


def test_a_full_disk_says_how_to_free_it() -> None:
    error = Status(2, "failed to solve: write /var/lib/buildkit/snapshots/2/fs/big: no space left on device")
    assert "buildctl prune" in explained("app", PATH, DOCKERFILE, error, None).remedy
