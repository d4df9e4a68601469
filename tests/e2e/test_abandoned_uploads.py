"""What a killed run left of an upload is taken back by a later release, where that is allowed."""

from __future__ import annotations

import re
from contextlib import closing

from tests.e2e.project import Project
from tests.faults.proxy import Wire, wire_to


def aged(data: bytes) -> bytes:
    return re.sub(rb"<Initiated>\d{4}-\d\d-\d\d", b"<Initiated>2020-01-01", data)


def release_with_what_was_left(project: Project, wire: Wire) -> set[str]:
    """The keys of unfinished uploads that are still there after a release."""
    project.image("app", "FROM scratch\nCOPY mark /\n", mark=project.mark)
    name = project.name("daemon")
    project.configure(distribution={name: {"command": "mkdir -p build/d && cp *.toml build/d", "root": "build/d"}})
    project.commit("all")
    project.tag("1.0.0")
    with closing(project.place.client()) as client:
        for key in (f"{name}/{name}-0.9.0.tgz", "other/other-0.9.0.tgz"):
            client.create_multipart_upload(Bucket=project.place.bucket, Key=f"{project.mark}/{key}")
        project.done("publish", AWS_ENDPOINT_URL_S3=f"http://{wire.address}")
        left = client.list_multipart_uploads(Bucket=project.place.bucket, Prefix=project.mark)
        return {upload["Key"].partition("/")[2] for upload in left.get("Uploads", ())}


def test_an_old_upload_of_the_same_distribution_is_taken_back(project: Project) -> None:
    with wire_to(project.place.s3.endpoint.removeprefix("http://")) as wire:
        wire.answered = aged
        assert {"other/other-0.9.0.tgz"} == release_with_what_was_left(project, wire)


def test_a_young_upload_may_still_run(project: Project) -> None:
    with wire_to(project.place.s3.endpoint.removeprefix("http://")) as wire:
        assert 2 == len(release_with_what_was_left(project, wire))


def test_a_release_needs_no_right_to_list_uploads(project: Project) -> None:
    asked = []

    def deny(data: bytes) -> bytes:
        denied = re.sub(rb"^(GET \S*\?)(\S*uploads\S*)", rb"\1x=y&\2", data)
        asked.append(denied != data)
        return denied

    with wire_to(project.place.s3.endpoint.removeprefix("http://")) as wire:
        # What is not what was signed is answered with 403.
        wire.sent, wire.answered = deny, aged
        assert 2 == len(release_with_what_was_left(project, wire))
    assert 1 == sum(asked)
