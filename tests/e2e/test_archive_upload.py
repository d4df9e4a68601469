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


def test_an_upload_that_fails_ends_the_builds_and_claims_nothing(project: Project) -> None:
    name = project.name("daemon")
    project.configure(
        distribution={name: {"command": "mkdir -p build/d && head -c 17M /dev/urandom >build/d/jar", "root": "build/d"}}
    )
    project.image("slow", "FROM {base}\nCOPY mark /\nRUN sleep 600\n", mark=project.mark)
    project.image("web", "FROM {base}\nCOPY mark /\nRUN true\n", mark=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    is_building = threading.Event()

    def forge_part(data: bytes) -> bytes:
        first_line = data.partition(b"\r\n")[0]
        if b"partNumber=1" in first_line and name.encode() in first_line:
            is_building.wait(30)
            return data.replace(b"partNumber=1", b"partNumber=2", 1)
        return data

    with wire_to(project.place.s3.endpoint.removeprefix("http://")) as wire:
        wire.sent = forge_part
        process = project.start("publish", "--jobs", "1", AWS_ENDPOINT_URL_S3=f"http://{wire.address}")
        assert process.stderr
        for line in process.stderr:
            if "sleep 600" in line:
                is_building.set()
                break
        failed = project.finish(process)
    assert (2, True) == (failed.code, "rejects the S3 secret key" in failed.last), failed.err
    ends = [f"[{project.name(image)}] build {end}" for image, end in (("slow", "cancelled"), ("web", "done"))]
    assert [True, False] == [end in failed.err for end in ends]
    assert not any("claims/" in key for key in project.place.objects() if project.mark in key)
