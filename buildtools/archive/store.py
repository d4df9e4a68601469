"""Objects below one prefix of an S3 bucket: written only where there is none, read back, never replaced by chance."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from buildtools import BuildToolsError, Conflict, Refused, Unreachable
from buildtools.archive import errors
from buildtools.archive.gzip import Sink
from buildtools.archive.upload import Summed, Upload
from buildtools.events import Report, Transferred, unheard
from buildtools.frozen import frozen

_CHUNK = 1 << 20
# What a conditional write answers where the condition does not hold; some say so by the status alone.
_EXISTS = frozenset({"PreconditionFailed", "412"})
_COLLISION = "ConditionalRequestConflict"
_ABSENT = frozenset({"NoSuchKey", "NotFound", "404"})
_TRIES = 5
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@frozen
class StoredObject:
    """An object as the service describes it. ``key`` is relative to the store's prefix, ``size`` in bytes.

    ``checksum`` is what the service computed itself: SHA-256 in base64, for an object of N parts S3's composite with
    ``-N``, empty where it has none. ``sha256`` is that of the whole content, in hex: as the service computed it, else
    as the uploader noted it down, else empty.
    """

    key: str
    size: int
    etag: str
    checksum: str = ""
    sha256: str = ""


@frozen
class Content:
    """An object's bytes, and the ``etag`` that :meth:`Store.replace` asks for."""

    data: bytes
    etag: str


@frozen
class StoredArchive:
    """An archive as it was found in the store after it was written, or before, where it was there already."""

    key: str
    size: int
    sha256: str
    checksum: str
    written: bool


class Store:
    """The objects below one prefix of one bucket; keys are relative to the prefix. Safe to share between threads.

    Every method raises ``Refused`` for credentials, rights, bucket, region and clock, and ``Unreachable`` where the
    service does not answer or asks to wait, after bounded retries.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, endpoint: str, *, checksums: bool) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint
        self._checksums = checksums
        self._mode = {"ChecksumMode": "ENABLED"} if checksums else {}

    @classmethod
    def connect(cls, url: str, *, endpoint: str = "", environment: Mapping[str, str], checksums: bool = True) -> Store:
        """The store at ``s3://bucket/prefix``; sends nothing yet.

        ``endpoint`` is empty for ``AWS_ENDPOINT_URL_S3`` or Amazon's own. Credentials come from ``AWS_*`` of the
        environment, else from where botocore looks (profile, role, instance). ``checksums`` is false for services
        that reject SHA-256 checksums; then contents are proven by reading them back.

        :raises Refused: the URL or the endpoint is none, the endpoint holds a login, or the profile is not there.
        """
        bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
        if not url.startswith("s3://") or not bucket:
            raise Refused(f"{url!r} is no place for archives", "give s3://BUCKET or s3://BUCKET/PREFIX")
        endpoint = endpoint or environment.get("AWS_ENDPOINT_URL_S3", "") or environment.get("AWS_ENDPOINT_URL", "")
        _refuse_login(endpoint)
        client = _client(bucket, endpoint, environment, checksums=checksums)
        # AWS's own configuration file may name one too.
        _refuse_login(client.meta.endpoint_url)
        return cls(client, bucket, prefix, urlsplit(client.meta.endpoint_url).netloc, checksums=checksums)

    def location(self, key: str) -> str:
        """``s3://bucket/prefix/key``, for people."""
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def check_access(self) -> tuple[str, ...]:
        """All complaints that would stop a release, found by a write that leaves nothing behind, and a listing.

        :raises Unreachable: the service does not answer.
        """
        complaints: dict[str, None] = {}
        for probe in (self._probe_writing, self._probe_listing):
            try:
                probe()
            except Unreachable:
                raise
            except BuildToolsError as error:
                complaints[str(error)] = None
        return tuple(complaints)

    def head(self, key: str) -> StoredObject | None:
        """What the service knows of an object without reading it; None where there is none."""
        with self._errors(key):
            try:
                answer = self._client.head_object(**self._target(key), **self._mode)
            except self._client.exceptions.ClientError as error:
                if errors.code(error.response) not in _ABSENT:
                    raise
                # An answer to HEAD has no body: only GET tells a missing object from a missing bucket.
                with suppress(self._client.exceptions.NoSuchKey):
                    self._client.get_object(**self._target(key))["Body"].close()
                return None
        return _described(key, answer)

    def read(self, key: str) -> Content | None:
        """A small object's content; None where there is none."""
        with self._errors(key):
            try:
                answer = self._client.get_object(**self._target(key))
            except self._client.exceptions.NoSuchKey:
                return None
            return Content(answer["Body"].read(), answer["ETag"])

    def digest(self, key: str, *, deep: bool = False) -> str | None:
        """The SHA-256 of an object's content in hex; None where there is none.

        Without ``deep`` it is what the service vouches for, where it does; else all of the object is read.
        """
        found = self.head(key)
        if found is None:
            return None
        if found.checksum and found.sha256 and not deep:
            return found.sha256
        return self._read_sha256(key)

    def create(self, key: str, data: bytes, content_type: str) -> bool:
        """Writes an object where there is none, and tells whether it did; False also where it was there before.

        A write whose answer was lost and that was sent again finds its own object: compare before you complain.
        """
        return self._put(key, data, content_type, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str, content_type: str) -> bool:
        """Overwrites an object that still is what it was when it was read; False where it no longer is."""
        return self._put(key, data, content_type, IfMatch=etag)

    def list(self, prefix: str = "") -> tuple[StoredObject, ...]:
        """The objects whose keys start with ``prefix``, without their checksums."""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return tuple(
                StoredObject(entry["Key"].removeprefix(self._prefix), entry["Size"], entry["ETag"])
                for page in pages
                for entry in page.get("Contents", ())
            )

    def delete(self, key: str) -> None:
        """Removes an object; nothing where there is none."""
        with self._errors(key):
            self._client.delete_object(**self._target(key))

    def discard_unfinished(self, prefix: str, begun_before: datetime) -> int:
        """Takes back the uploads to keys below ``prefix`` that a killed run left; how many.

        No listing of objects shows them, but they cost space. An upload that still runs fails when it is taken back, so
        leave the younger ones alone.
        """
        with self._errors(prefix):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            left = [
                upload for page in pages for upload in page.get("Uploads", ()) if upload["Initiated"] < begun_before
            ]
            for upload in left:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(left)

    def upload(
        self,
        key: str,
        write: Callable[[Sink], object],
        *,
        content_type: str = "application/gzip",
        sha256: str = "",
        subject: str = "",
        report: Report = unheard,
    ) -> StoredArchive:
        """Uploads what ``write`` writes while it writes it, then reads back what the service has.

        Where ``sha256`` is known it is noted down with the object, and an object that has it already is left alone
        without writing anything; else ``write`` runs once more to compare. Transferred bytes go to ``report``.

        :raises Conflict: there is another content under this key, before or after.
        :raises BuildToolsError: what was written has another SHA-256 than told.
        """
        existing = self.head(key)
        if existing:
            if sha256:
                return self._same(existing, lambda found: self._vouched(found) == sha256, sha256)
            local = Summed()
            write(local)
            local.end()
            return self._same(existing, lambda found: self._holds(found, local), local.sha256)
        attributes: dict[str, Any] = {"ContentType": content_type}
        if sha256:
            attributes["Metadata"] = {"sha256": sha256}
        with (
            self._errors(key),
            Upload(
                self._client,
                self._target(key),
                attributes,
                checksums=self._checksums,
                sent=lambda done: report(Transferred(subject or key, done)),
            ) as upload,
        ):
            write(upload)
            if sha256 and upload.sha256 != sha256:
                raise BuildToolsError(
                    f"{key} has sha256 {upload.sha256[:12]} instead of {sha256[:12]}: it changed after it was packed",
                    "run again, with nothing else writing to it",
                )
            written = self._completed(upload)
        stored = self.head(key)
        if stored is None:
            raise Unreachable(f"{self.location(key)} is not there after it was written", "try again")
        found = self._same(stored, lambda found: self._holds(found, upload), upload.sha256)
        return replace(found, written=written)

    def _completed(self, upload: Upload) -> bool:
        try:
            upload.complete()
        except self._client.exceptions.ClientError as error:
            # An answer that was lost and asked for again finds no upload, but perhaps its own object.
            if errors.code(error.response) in {*_EXISTS, _COLLISION, "NoSuchUpload", "NoSuchKey"}:
                return False
            raise
        return True

    def _same(self, existing: StoredObject, same: Callable[[StoredObject], bool], sha256: str) -> StoredArchive:
        if not same(existing):
            raise Conflict(
                f"{self.location(existing.key)} already exists with other content "
                f"(sha256 {self._vouched(existing)[:12]} instead of {sha256[:12]})",
                "a released archive never changes; commit, cut a new version, and publish that",
            )
        return StoredArchive(existing.key, existing.size, sha256, existing.checksum, written=False)

    def _holds(self, found: StoredObject, local: Summed) -> bool:
        if found.size != local.size:
            return False
        if found.checksum and found.checksum == local.checksum:
            return True
        # No checksum, or one of parts of another size: only the content itself can tell.
        return self._read_sha256(found.key) == local.sha256

    def _vouched(self, found: StoredObject) -> str:
        if found.checksum and found.sha256:
            return found.sha256
        return self._read_sha256(found.key) or ""

    def _read_sha256(self, key: str) -> str | None:
        whole = hashlib.sha256()
        with self._errors(key):
            try:
                answer = self._client.get_object(**self._target(key))
            except self._client.exceptions.NoSuchKey:
                return None
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                whole.update(chunk)
        return whole.hexdigest()

    def _put(self, key: str, data: bytes, content_type: str, **condition: str) -> bool:
        digest = hashlib.sha256(data)
        checksum = {"ChecksumSHA256": base64.b64encode(digest.digest()).decode()} if self._checksums else {}
        for attempt in range(_TRIES):
            with self._errors(key):
                try:
                    self._client.put_object(
                        **self._target(key),
                        **checksum,
                        **condition,
                        Body=data,
                        ContentType=content_type,
                        Metadata={"sha256": digest.hexdigest()},
                    )
                except self._client.exceptions.ClientError as error:
                    if errors.code(error.response) in {*_EXISTS, "NoSuchKey"}:
                        return False
                    if errors.code(error.response) != _COLLISION:
                        raise
                else:
                    return True
            # Two writers met and neither is told who won: S3 asks to send it again.
            time.sleep(0.1 * 2**attempt)
        raise Unreachable(f"{self.location(key)} is being written by others all the time", "try again")

    def _probe_writing(self) -> None:
        # An upload that is begun and taken back needs the right to write and leaves no object, not even for a moment.
        with self._errors(""):
            target = self._target(".buildtools-access")
            answer = self._client.create_multipart_upload(**target)
            self._client.abort_multipart_upload(**target, UploadId=answer["UploadId"])

    def _probe_listing(self) -> None:
        with self._errors(""):
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        with errors.translated(self._bucket, self._endpoint, self.location(key)):
            yield


def _refuse_login(endpoint: str) -> None:
    # Nobody reads it there, and every message that names the endpoint would tell it.
    if "@" in endpoint:
        raise Refused(
            f"the endpoint of S3 holds a login (…@{endpoint.rpartition('@')[2]})",
            "take it out there, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )


def _client(bucket: str, endpoint: str, environment: Mapping[str, str], *, checksums: bool) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    when = "when_supported" if checksums else "when_required"
    with errors.translated(bucket, endpoint or "S3", "the configuration"):
        try:
            config = Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 4},
                request_checksum_calculation=when,
                response_checksum_validation=when,
                proxies={} if urlsplit(endpoint).hostname in _LOOPBACK else None,
                # A server at an own address seldom has a name for each bucket.
                s3={"addressing_style": "path" if endpoint else "auto"},
            )
            # What is None is looked for where botocore looks: profile, role, instance.
            session = Session(
                aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
                aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
                aws_session_token=environment.get("AWS_SESSION_TOKEN"),
                region_name=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
                profile_name=environment.get("AWS_PROFILE") or None,
            )
            return session.client(
                "s3",
                region_name=session.region_name or "us-east-1",
                endpoint_url=endpoint or None,
                config=config,
            )
        except ValueError:
            raise Refused(
                f"{endpoint!r} is no endpoint of S3", "give s3_endpoint as https://HOST or https://HOST:PORT"
            ) from None


def _described(key: str, answer: Mapping[str, Any]) -> StoredObject:
    checksum = answer.get("ChecksumSHA256", "")
    noted = answer.get("Metadata", {}).get("sha256", "")
    whole = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else noted
    return StoredObject(key, answer["ContentLength"], answer["ETag"], checksum, whole)
