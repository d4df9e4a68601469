"""Whatever a registry sends, its client ends with a result or with one message, never with a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools import BuildToolsError
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import (
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Damaged,
    Descriptor,
    Manifest,
    check_image,
    digest_of,
    stamp,
)
from buildtools.image.registry.simple_signing import (
    ImageSignature,
    add_signature,
    copy_signatures,
    read_signatures,
)
from tests.faults.raw_server import json_documents, raw_server, responses

DIGEST = digest_of(b"content")
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": "a/b", "size": 7, "digest": DIGEST},
        "layers": [{"mediaType": "a/b", "size": 7, "digest": DIGEST}],
    }
).encode()

JSON = json_documents(("errors", "tags", "manifests", "config", "layers", "token", "expires_in", "digest", "size"))
BODIES = (
    st.sampled_from(
        [b"", b"content", MANIFEST, b"{}", b"[" * 5000, b"<html>502</html>", b'{"tags": null}', b"\xff\xfe"]
    )
    | JSON
    | st.binary(max_size=30)
)
VALUES = st.sampled_from(
    (
        *("", DIGEST, "sha256:", "0-6", "bytes 0-0/7", "bytes */7", "/v2/a", "http://[", "://", "text/html"),
        *("Basic", 'Bearer realm="x"', 'Bearer realm="http://127.0.0.1:1/",service=,', "Negotiate", ",,=", "-1", "7"),
        *("<a>; rel=next", "<http://[>; rel=next", "1e9", "chunked", "close", "é", DOCKER_MANIFEST),
    )
)
NAMES = st.sampled_from(
    (
        *("Content-Type", "Docker-Content-Digest", "Location", "Range", "Content-Range", "WWW-Authenticate", "Link"),
        *("Transfer-Encoding", "Content-Length", "Connection", "Docker-Upload-UUID"),
    )
)
STATUSES = st.sampled_from(
    [100, 103, 200, 201, 202, 204, 206, 301, 307, 400, 401, 403, 404, 405, 413, 416, 429, 500, 503, 999]
)

ANSWERS = responses(STATUSES, st.tuples(NAMES, VALUES), BODIES)

OPERATIONS: list[Callable[[Registry], object]] = [
    lambda client: client.ping(),
    lambda client: client.check_push_access("a"),
    lambda client: client.head_manifest("a", "1"),
    lambda client: client.get_manifest("a", "1"),
    lambda client: client.put_manifest("a", "1", Manifest(DOCKER_MANIFEST, MANIFEST)),
    lambda client: client.delete_manifest("a", DIGEST),
    lambda client: client.tags("a"),
    lambda client: client.blob_size("a", DIGEST),
    lambda client: client.get_blob("a", DIGEST),
    lambda client: client.mount_blob("a", DIGEST, "b"),
    lambda client: client.put_blob("a", b"content"),
    lambda client: read_signatures(client, "a", DIGEST),
    lambda client: add_signature(client, "a", DIGEST, ImageSignature(b"content", b"signature")),
    lambda client: copy_signatures(client, "a", client, "b", DIGEST),
]


@settings(max_examples=800, deadline=None, derandomize=True)
@given(
    st.lists(ANSWERS, min_size=1, max_size=4),
    st.sampled_from(range(len(OPERATIONS))),
)
def test_any_response_gives_a_result_or_one_message(script: list[bytes], operation: int) -> None:
    with (
        raw_server() as server,
        closing(Registry(server.host, plain_http=True, pause=0, replication_seconds=0)) as client,
        suppress(BuildToolsError),
    ):
        server.play(script)
        OPERATIONS[operation](client)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(BODIES, BODIES)
def test_any_manifest_and_configuration_is_an_image_or_damaged(manifest: bytes, config: bytes) -> None:
    with suppress(Damaged):
        check_image(Manifest.received("", manifest), config)
        stamp(config, {"a": "b"})


@settings(max_examples=300, deadline=None, derandomize=True)
@given(BODIES)
def test_any_file_in_the_cache_is_an_entry_or_nothing(body: bytes) -> None:
    with TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        cache.remember_layer(DIGEST, Descriptor(DOCKER_LAYER, DIGEST, 7))
        (entry,) = Path(folder).glob("layers-*/*")
        entry.write_bytes(body)
        assert cache.layer(DIGEST) is None
