"""A large archive is sent while images are built, and does not appear unless the version gets that far."""

from __future__ import annotations

import threading
from contextlib import closing

from tests.e2e.project import Project
from tests.faults.proxy import wire_to


def test_an_archive_is_sent_before_the_version_is_claimed_and_nothing_stays_of_it_where_an_image_fails(
    project: Project,
) -> None:
    name = project.name("daemon")
    project.configure(
        distribution={name: {"command": "mkdir -p build/d && head -c 17M /dev/urandom >build/d/jar", "root": "build/d"}}
    )
    project.image("app", "FROM {base}\nRUN exit 7\n")
    project.commit("all")
    project.tag("1.0.0")
    assert 1 == project.invoke("publish").code
    with closing(project.place.client()) as client:
        answer = client.list_multipart_uploads(Bucket=project.place.bucket, Prefix=project.mark)
    assert ([], False) == (answer.get("Uploads", []), project.mark in str(project.place.objects()))

    project.image("app", "FROM scratch\nCOPY mark /\n", mark=project.mark)
    project.commit("correct it")
    project.tag("1.1.0")
    is_sent, claims = threading.Event(), []

    def hold_claim(data: bytes) -> bytes:
        if b"partNumber=1" in data and name.encode() in data:
            is_sent.set()
        elif data.startswith(b"PUT ") and b"/claims/" in data:
            claims.append(is_sent.wait(30))
        return data

    with wire_to(project.place.s3.endpoint.removeprefix("http://")) as wire:
        wire.sent = hold_claim
        project.done("publish", AWS_ENDPOINT_URL_S3=f"http://{wire.address}")
    assert [True] == claims
