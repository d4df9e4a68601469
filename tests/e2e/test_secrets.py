"""What is secret is seen nowhere: not in output, labels, layers, files that the tool writes, or process lists."""

from __future__ import annotations

import json
import secrets
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from buildtools.image.engine.client import Engine
from buildtools.settings import SIGNING_PASSWORD
from tests.crypto.test_keys import make_key
from tests.e2e.conftest import MakeProject
from tests.e2e.project import MANIFEST_KINDS, Outcome, Project


@dataclass(frozen=True)
class Told:
    """A project that was published with secrets: what it printed, and each process list seen meanwhile."""

    project: Project
    secrets: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    processes: bytes


@pytest.fixture(scope="module")
def told(make_project_here: MakeProject) -> Told:
    made = make_project_here()
    from_environment, from_file, password = (secrets.token_hex(16) for _ in range(3))
    key = make_key("Ed25519", "-aes256", "-pass", f"pass:{password}").decode()
    all_secrets = (*made.place.secrets, from_environment, from_file, password, key.splitlines()[1])
    project = replace(made, place=replace(made.place, secrets=all_secrets))
    variables = {"A_SECRET": from_environment, "A_KEY": key, SIGNING_PASSWORD: password}
    mounted = "--mount=type=secret,id=one --mount=type=secret,id=two"
    project.image("app", f"FROM {{base}}\nRUN {mounted} cat /run/secrets/* | sed 's/^/it is /' && echo {{mark}} >/x\n")
    project.image("bad", f"FROM {{base}}\nRUN {mounted} echo {{mark}} $(cat /run/secrets/one) && false\n")
    kept = project.home / "secret"
    kept.write_text(from_file)
    both = {"one": "env:A_SECRET", "two": str(kept)}
    images: dict[str, dict[str, Any]] = {project.name(short): {"secrets": both} for short in ("app", "bad")}
    images[project.name("app")]["before"] = "echo it sees $A_KEY $COSIGN_PASSWORD"
    project.configure(image=images, sign={"key": "env:A_KEY"})
    project.commit("all")
    project.tag("1.0.0")
    refused = project.invoke("publish", **{**variables, SIGNING_PASSWORD: "wrong"})
    assert (2, True) == (refused.code, "sign.key cannot be decrypted: " in refused.last)
    assert ({}, []) == (project.images(), [key for key in project.place.objects() if project.mark in key])
    planned = project.done("publish", "--dry-run", **variables)
    assert "1.0.0 would be signed" in planned.out
    failed = project.invoke("publish", **variables)
    assert 1 == failed.code
    project.image("bad", "FROM {base}\nRUN echo {mark}\n")
    project.git("tag", "--delete", "1.0.0")
    project.commit("better")
    project.tag("1.0.0")
    seen: list[bytes] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.extend(_command_lines())

    watching = threading.Thread(target=watch)
    watching.start()
    published = project.done("publish", "--progress", "json", **variables)
    assert "released and signed" in published.last
    over.set()
    watching.join()
    again = project.done("list", "--why", project.name("app"), A_SECRET=from_environment)
    return Told(project, project.place.secrets, (failed, published, again), b"\n".join(seen))


def _command_lines() -> Iterator[bytes]:
    # A glob looks at each path again, and fails where the process has ended meanwhile.
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                yield (process / "cmdline").read_bytes()


def test_no_output_has_them(told: Told) -> None:
    text = "".join(outcome.out + outcome.err for outcome in told.outcomes)
    assert [] == [secret for secret in told.secrets if secret in text]
    assert "it is " in text, "the builds did not print what they were to hide"


def test_no_process_list_has_them(told: Told) -> None:
    assert b"publish" in told.processes
    assert [] == [secret for secret in told.secrets if secret.encode() in told.processes]


def test_no_file_has_them(told: Told) -> None:
    roots = (told.project.path, told.project.home)
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and path.name != "secret"]
    assert any("lockstep-buildtools" in path.parts for path in files)
    assert [] == [path for path in files for secret in told.secrets if secret.encode() in path.read_bytes()]


@pytest.mark.images_in_engine
def test_neither_image_nor_manifest_has_them(told: Told) -> None:
    place, repository = told.project.place, told.project.repository("app")
    body = place.request("GET", f"{repository}/manifests/1.0.0", Accept=MANIFEST_KINDS)[1]
    config = place.request("GET", f"{repository}/blobs/{json.loads(body)['config']['digest']}")[1]
    written = [body, config, *(place.read(key) for key in place.objects() if told.project.mark in key)]
    with closing(Engine.connect(place.engine.environment)) as engine:
        image = b"".join(engine.api.get_image(f"{told.project.name('app')}:1.0.0"))
    with tarfile.open(fileobj=BytesIO(image)) as archive:
        written += [archive.extractfile(member).read() for member in archive if member.isfile()]  # type: ignore[union-attr]  # files have content
    assert [] == [secret for secret in told.secrets for content in written if secret.encode() in content]
