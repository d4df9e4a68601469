"""The S3 implementation: objects below one prefix of a bucket, created only if they do not exist, and read back."""

from __future__ import annotations

import base64
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from buildtools import BuildToolsError, Conflict, Drifted, Refused, Unreachable, expected_failures
from buildtools.archive.checksums import PART, Checksums, ChecksumWriter, Sink
from buildtools.archive.object_store import botocore_client
from buildtools.archive.object_store.bucket import Bucket, Patience, checksum_algorithm
from buildtools.archive.object_store.part_copier import JOINTS, PartCopier, is_left_over
from buildtools.archive.object_store.refusals import COLLISION, EXISTS, code
from buildtools.archive.object_store.server_copy import copy_parts
from buildtools.archive.object_store.upload import Upload
from buildtools.archive.store import ARCHIVE_TYPE, ArtifactStore, Basis, Content, StoredArchive, StoredObject
from buildtools.events import Report, Transferred, unheard
from buildtools.schedule import awaited, side_by_side

_ABSENT = frozenset({"NoSuchKey", "NotFound", "404"})
# HEAD is refused, for a reason that only the response to GET has: a token that has expired, a wrong clock; or the
# service knows no HEAD, and the object may exist.
_NO_HEAD = frozenset({"400", "403", "MethodNotAllowed", "405", "NotImplemented", "501"})
# Colliding writers of one key are told to try again; losing five times in three seconds is more than a few collisions.
_COLLISIONS = 5
# Enough to hide the latency of a distant store.
_READERS = 8
# The object that shows whether a service refuses to create what exists. It stays, so a later preflight needs one
# request, no permission to delete, and cannot be misled by another preflight that deletes it.
_PROBE = ".buildtools-access"
_PROBE_CONTENT = b"buildtools asks here whether this service refuses to create an object that exists\n"
_NO_CONDITIONS = (
    "{bucket} overwrites an object in spite of {condition}: two runs could replace what the other one has written",
    "use a service with conditional writes, or set s3_conditional_writes = false and publish one at a time",
)


class S3Store:
    """An :class:`buildtools.archive.store.ArtifactStore` in a bucket; the contract is there.

    ``checksums`` is False for services that reject SHA-256 checksums; then contents are verified by reading them back.
    ``conditional_writes`` is False for services that ignore conditions, if the user allows that: then an object is
    looked up before it is created, and two concurrent writers can overwrite each other.
    """

    def __init__(self, bucket: Bucket, *, checksums: bool, conditional_writes: bool) -> None:
        self._bucket = bucket
        self._checksums = checksums
        self._conditional = conditional_writes
        # Whether the service is known to respect the condition of ``replace``.
        self._replaces = False
        self._mode: dict[str, Any] = {"ChecksumMode": "ENABLED"} if checksums else {}

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        endpoint: str = "",
        environment: Mapping[str, str],
        checksums: bool = True,
        conditional_writes: bool = True,
        patience: Patience = Patience(),  # noqa: B008  frozen
    ) -> S3Store:
        """The store at ``s3://bucket/prefix``; nothing is sent yet.

        :raises Refused: if URL or endpoint are invalid, the endpoint contains a login, or the profile does not exist.
        """
        name, prefix = botocore_client.parse_url(url)
        client = botocore_client.connect(endpoint, environment, patience, checksums=checksums)
        host = urlsplit(client.meta.endpoint_url).netloc
        bucket = Bucket(client, name, prefix, host, patience)
        return cls(bucket, checksums=checksums, conditional_writes=conditional_writes)

    def elsewhere(self, url: str, *, conditional_writes: bool = True) -> S3Store:
        """The store at another URL of the same service, over the same connections.

        :raises Refused: if the URL is invalid.
        """
        bucket = self._bucket.elsewhere(*botocore_client.parse_url(url))
        return S3Store(bucket, checksums=self._checksums, conditional_writes=conditional_writes)

    @property
    def bucket(self) -> Bucket:
        """The bucket, for a store that copies from this one."""
        return self._bucket

    def location(self, key: str) -> str:
        """``s3://bucket/prefix/key``, for display."""
        return self._bucket.location(key)

    def check_access(self, *, dry_run: bool = False) -> tuple[str, ...]:
        """Every reason why a release could not be written, one message each; empty if there is none.

        The first check leaves a small object, by which it and all later ones find out whether the service respects
        conditions. If it were deleted, two concurrent checks could misjudge a service that does. A ``dry_run`` leaves
        nothing, and finds out less.

        :raises Unreachable: if the service does not answer.
        """
        with ThreadPoolExecutor(3, "access") as pool:
            probe_exists = pool.submit(self._probe_exists if dry_run else self._probe_creating)
            probes = (
                probe_exists,
                pool.submit(self._probe_parts, probe_exists.result),
                pool.submit(self._probe_listing),
            )
        errors = expected_failures(filter(None, (probe.exception() for probe in probes)))
        reasons = [error for error in errors if not isinstance(error, Unreachable)]
        # A known problem is worth more than an outage.
        if errors and not reasons:
            raise errors[0]
        return tuple(dict.fromkeys(map(str, reasons)))

    def head(self, key: str) -> StoredObject | None:
        """The service's description of an object, without reading it; None if it does not exist."""
        response = self._bucket.ask("head_object", key, tolerates=_ABSENT | _NO_HEAD, **self._mode)
        if code(response) or not {"ETag", "ContentLength"} <= response.keys():
            # A response to HEAD has no body: only GET distinguishes a missing object, a missing bucket and a foreign
            # response.
            response = self._bucket.ask(
                "get_object", key, tolerates=("NoSuchKey",), requires=("ETag", "ContentLength"), **self._mode
            )
            if code(response):
                return None
            response["Body"].close()
        return _stored_object(key, response)

    def read(self, key: str) -> Content | None:
        """A small object's content; None if it does not exist."""
        out = io.BytesIO()
        entry = self.download(key, out)
        return Content(out.getvalue(), entry.etag) if entry else None

    def read_all(self, keys: Sequence[str]) -> list[Content | None]:
        """The contents of many small objects, in the order of their keys; several are read at once."""
        return side_by_side([partial(self._read_quickly, key) for key in keys], jobs=_READERS)

    def _read_quickly(self, key: str) -> Content | None:
        content = self._bucket.read_plainly(key)
        # The usual way handles every other response.
        return Content(*content) if content else self.read(key)

    def download(self, key: str, out: Sink) -> StoredObject | None:
        """Write an object's content to ``out``; None if it does not exist."""
        response = self._bucket.download(key, out)
        return _stored_object(key, response) if response else None

    def digest(self, key: str, checksums: Checksums | None = None, *, deep: bool = False) -> str | None:
        """The SHA-256 of an object's content, which is read unless the service's checksum agrees with ours."""
        if checksums and not deep:
            entry = self.head(key)
            if entry is None:
                return None
            if entry.size == checksums.size and checksums.agrees(entry.checksum):
                return checksums.sha256
        content = ChecksumWriter()
        return content.checksums().sha256 if self.download(key, content) else None

    def create(self, key: str, data: bytes, content_type: str) -> bool:
        """Create an object unless it exists; returns whether it was created."""
        if not self._conditional and self.head(key):
            return False
        return self._put(key, data, content_type, self._if_absent)

    def replace(self, key: str, data: bytes, etag: str, content_type: str) -> bool:
        """Overwrite an object if it still has this ETag (compare-and-swap); returns False if it does not."""
        if not self._conditional:
            entry = self.head(key)
            return entry is not None and entry.etag == etag and self._put(key, data, content_type, {})
        if not self._replaces:
            self._probe_replacing()
        return self._put(key, data, content_type, {"IfMatch": etag})

    def list(self, prefix: str = "") -> tuple[StoredObject, ...]:
        """The objects whose keys start with ``prefix``, without their checksums."""
        pages = self._pages("list_objects_v2", prefix, {"ContinuationToken": "NextContinuationToken"})
        return tuple(
            StoredObject(entry["Key"].removeprefix(self._prefix), entry["Size"], entry["ETag"])
            for entry in self._entries(pages, "Contents", ("Key", "Size", "ETag"))
        )

    def delete(self, key: str) -> None:
        """Delete an object; do nothing if it does not exist."""
        self._bucket.ask("delete_object", key)

    def discard_unfinished(self, prefix: str, older_than: datetime) -> int:
        """Abort the uploads to keys below ``prefix`` that killed runs left; returns their number."""
        # These first: who made them may delete them, and need not be able to list uploads.
        joints = [entry.key for entry in self.list(JOINTS) if is_left_over(entry.key, older_than)]
        for key in joints:
            self.delete(key)
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        uploads = []
        for start in (prefix, JOINTS):
            pages = self._pages("list_multipart_uploads", start, markers)
            entries = self._entries(pages, "Uploads", ("Key", "UploadId", "Initiated"))
            uploads += [entry for entry in entries if entry["Initiated"] < older_than]
        for upload in uploads:
            key = upload["Key"].removeprefix(self._prefix)
            self._bucket.ask("abort_multipart_upload", key, tolerates=("NoSuchUpload",), UploadId=upload["UploadId"])
        return len(uploads) + len(joints)

    def upload(
        self,
        key: str,
        write: Callable[[Sink], object],
        checksums: Checksums,
        *,
        content_type: str = ARCHIVE_TYPE,
        basis: Basis | None = None,
        subject: str = "",
        report: Report = unheard,
        before_end: Callable[[], object] | None = None,
        is_absent: bool = False,
    ) -> StoredArchive:
        """Upload what ``write`` writes, whose ``checksums`` are known, and read back what the service has."""
        # A service without conditions would overwrite what has appeared meanwhile.
        if not (is_absent and self._conditional) and (existing := self.head(key)):
            return self._same(existing, checksums)
        with Upload(
            self._bucket,
            key,
            _attributes(content_type, checksums),
            self._if_absent,
            checksums=self._checksums,
            arrived=lambda size: report(Transferred(subject or key, size, checksums.size)),
            copier=self._copier(basis, checksums) if basis else None,
        ) as upload:
            write(upload)
            upload.send_rest(checksums)
            if before_end:
                before_end()
                # A service without conditions would overwrite what has appeared meanwhile.
                if not self._conditional and (existing := self.head(key)):
                    return self._same(existing, checksums)
            is_new = upload.complete()
        return self._read_back(key, checksums, is_new=is_new)

    def copy(
        self,
        key: str,
        source: ArtifactStore,
        checksums: Checksums,
        *,
        subject: str = "",
        report: Report = unheard,
    ) -> StoredArchive:
        """Copy the archive with the same key from ``source``, and read back what the service has."""
        existing = self.head(key)
        if existing:
            return self._same(existing, checksums)
        entry = source.head(key)
        if entry is None or entry.size != checksums.size:
            difference = f"has {entry.size} bytes instead of {checksums.size}" if entry else "does not exist"
            raise Drifted(
                f"{source.location(key)} {difference}", "restore it; `invoke verify` tells what else is damaged"
            )
        # A single part is sent by the request that creates the object; copying it in the service would take three.
        if checksums.size > PART and isinstance(source, S3Store) and self._bucket.is_beside(source.bucket):
            is_new = self._copy_inside(entry, source, checksums)
            if is_new is not None:
                return self._read_back(key, checksums, is_new=is_new)
        if not checksums.composite:
            content = ChecksumWriter()
            source.download(key, content)
            checksums = replace(checksums, composite=content.checksums().composite)
        return self.upload(key, lambda out: source.download(key, out), checksums, subject=subject, report=report)

    def _copier(self, basis: Basis, checksums: Checksums) -> PartCopier | None:
        # Only a service that tells checksums proves what it copied; content of one part is one request anyway.
        if not self._checksums or checksums.size <= PART:
            return None
        source = self.head(basis.key)
        return PartCopier(self._bucket, source, basis.ranges, checksums.size, self._if_absent) if source else None

    def _copy_inside(self, entry: StoredObject, source: S3Store, checksums: Checksums) -> bool | None:
        """Whether a copy made by the service itself is new; None if it makes none."""
        # Unless the service's checksum proves the source, its bytes must be checked while they are sent.
        if not checksums.agrees(entry.checksum):
            return None
        attributes = _attributes(ARCHIVE_TYPE, checksums)
        try:
            return copy_parts(
                self._bucket, source.bucket, entry, attributes, self._if_absent, checksums=self._checksums
            )
        except Unreachable:
            raise
        except BuildToolsError:
            # Not every service can copy, or lets the login of one bucket read the other.
            return None

    def _read_back(self, key: str, checksums: Checksums, *, is_new: bool) -> StoredArchive:
        # A replicated store may show an object with a delay.
        entry = awaited(lambda: self.head(key))
        if entry is None:
            raise Unreachable(f"{self.location(key)} is not there after it was written", "try again")
        return replace(self._same(entry, checksums), is_new=is_new)

    @property
    def _prefix(self) -> str:
        return self._bucket.prefix

    @property
    def _if_absent(self) -> dict[str, Any]:
        return {"IfNoneMatch": "*"} if self._conditional else {}

    def _same(self, existing: StoredObject, checksums: Checksums) -> StoredArchive:
        sha256 = None
        if existing.size == checksums.size:
            is_proven = checksums.agrees(existing.checksum)
            sha256 = checksums.sha256 if is_proven else self.digest(existing.key, deep=True)
        if sha256 != checksums.sha256:
            difference = f"sha256 {(sha256 or '')[:12]} instead of {checksums.sha256[:12]}"
            if existing.size != checksums.size:
                difference = f"{existing.size} bytes instead of {checksums.size}"
            raise Conflict(
                f"{self.location(existing.key)} already exists with other content ({difference})",
                "a released archive never changes; commit, cut a new version, and publish that",
            )
        return StoredArchive(existing.key, checksums, is_new=False)

    def _put(self, key: str, data: bytes, content_type: str, condition: Mapping[str, Any]) -> bool:
        for attempt in range(_COLLISIONS):
            response = self._bucket.ask(
                "put_object",
                key,
                tolerates={*EXISTS, COLLISION, "NoSuchKey"},
                requires=("ETag",),
                Body=data,
                ContentType=content_type,
                Metadata={"sha256": hashlib.sha256(data).hexdigest()},
                **checksum_algorithm(checksums=self._checksums),
                **self._checksum(data),
                **condition,
            )
            if code(response) != COLLISION:
                return not code(response)
            # Two writers collided and neither was told which one won: S3 asks to send it again.
            time.sleep(0.1 * 2**attempt)
        raise Unreachable(f"write conflict on {self.location(key)} persists after {_COLLISIONS} attempts", "try again")

    def _checksum(self, data: bytes) -> dict[str, Any]:
        return {"ChecksumSHA256": base64.b64encode(hashlib.sha256(data).digest()).decode()} if self._checksums else {}

    def _probe_exists(self) -> bool:
        return self.head(_PROBE) is not None

    def _probe_creating(self) -> bool:
        # The second creation must fail, or the first, if an earlier preflight has created it.
        if self.create(_PROBE, _PROBE_CONTENT, "text/plain") and self.create(_PROBE, _PROBE_CONTENT, "text/plain"):
            self._refuse_overwriting()
        return True

    def _probe_parts(self, probe_exists: Callable[[], bool]) -> None:
        # A multipart object is created by another request, which may ignore what a PUT respects.
        algorithm = checksum_algorithm(checksums=self._checksums)
        upload_id = self._bucket.ask("create_multipart_upload", _PROBE, requires=("UploadId",), **algorithm)["UploadId"]
        try:
            if not self._conditional:
                return
            checksum = self._checksum(_PROBE_CONTENT)
            part = self._bucket.ask(
                "upload_part",
                _PROBE,
                requires=("ETag",),
                UploadId=upload_id,
                PartNumber=1,
                Body=_PROBE_CONTENT,
                **checksum,
            )
            if not probe_exists():
                return
            response = self._bucket.ask(
                "complete_multipart_upload",
                _PROBE,
                tolerates={*EXISTS, COLLISION},
                UploadId=upload_id,
                MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"], **checksum}]},
                IfNoneMatch="*",
            )
            if not code(response):
                self._refuse_overwriting()
        finally:
            self._bucket.ask("abort_multipart_upload", _PROBE, tolerates=("NoSuchUpload",), UploadId=upload_id)

    def _probe_replacing(self) -> None:
        # No object has this ETag. A service that ignores the condition rewrites the same content.
        try:
            is_ignored = self._put(_PROBE, _PROBE_CONTENT, "text/plain", {"IfMatch": '"0"'})
        except Refused:
            # A user who may only write certain objects need not be able to find out.
            is_ignored = False
        if is_ignored:
            self._refuse_overwriting("If-Match")
        self._replaces = True

    def _refuse_overwriting(self, condition: str = "If-None-Match") -> None:
        fact, remedy = _NO_CONDITIONS
        raise Refused(fact.format(bucket=self.location("").rstrip("/"), condition=condition), remedy)

    def _probe_listing(self) -> None:
        next(self._pages("list_objects_v2", "", {}, MaxKeys=1))

    def _pages(
        self, operation: str, prefix: str, markers: Mapping[str, str], **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        """The pages of a listing; ``markers`` maps each request parameter to the response field with its next value."""
        while True:
            page = self._bucket.ask(
                operation, None, requires=("IsTruncated",), Prefix=self._prefix + prefix, **parameters
            )
            yield page
            following = {name: page[source] for name, source in markers.items() if page.get(source)}
            if not page["IsTruncated"] or not following:
                return
            parameters = {**parameters, **following}

    def _entries(
        self, pages: Iterator[dict[str, Any]], name: str, requires: tuple[str, ...]
    ) -> Iterator[dict[str, Any]]:
        """The entries under ``name`` in the pages of a listing, with all of ``requires``."""
        for page in pages:
            for entry in page.get(name, ()):
                missing = [key for key in requires if key not in entry]
                if missing:
                    raise self._bucket.foreign(f"an entry without {missing[0]}")
                yield entry


def _stored_object(key: str, response: Mapping[str, Any]) -> StoredObject:
    return StoredObject(key, response["ContentLength"], response["ETag"], response.get("ChecksumSHA256", ""))


def _attributes(content_type: str, checksums: Checksums) -> dict[str, Any]:
    # For people who look at the bucket; nothing here trusts it.
    return {"ContentType": content_type, "Metadata": {"sha256": checksums.sha256}}
