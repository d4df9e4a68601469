from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from buildtools import BuildToolsError
from buildtools.image.engine.buildkit.content import ContentStore, NoContent
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.push.layers import LayerReader, _Unpacked, compress, export, read_content
from buildtools.image.push.spools import Spool, Spools
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.manifest import DOCKER_LAYER, Descriptor
from tests.image import images
from tests.servers import Quiet, serving

MIB = 1024 * 1024


@pytest.fixture(params=["in memory", "in files"])
def spools(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spools]:
    with Spools(tmp_path) if request.param == "in memory" else Spools(tmp_path, memory=-1) as spools:
        yield spools


def spooled(spools: Spools, content: bytes) -> Spool:
    spool = spools.make(len(content))
    with spool.writer() as file:
        file.write(content)
    return spool


def content_of(spool: Spool) -> bytes:
    with spool.open() as file:
        return file.read()


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7])
def test_what_is_compressed_unpacks_to_the_same_bytes(spools: Spools, size: int) -> None:
    content, target = os.urandom(size), spools.make(size)
    layer = compress(spooled(spools, content), target)
    packed = content_of(target)
    assert content == gzip.decompress(packed)
    assert Descriptor(DOCKER_LAYER, f"sha256:{hashlib.sha256(packed).hexdigest()}", len(packed)) == layer


def test_a_variant_is_the_same_content_under_another_digest(spools: Spools) -> None:
    source = spooled(spools, b"content")
    targets = [spools.make(7) for _ in range(3)]
    layers = [compress(source, target, variant) for variant, target in enumerate(targets)]
    assert 3 == len({layer.digest for layer in layers})
    assert [b"content"] * 3 == [gzip.decompress(content_of(target)) for target in targets]


def test_the_same_content_is_the_same_bytes_on_every_machine_for_ever(spools: Spools) -> None:
    # Fails when a new ISA-L compresses differently: then CODEC in cache.py must change too.
    content = b"".join(hashlib.sha256(b"%d" % number).hexdigest().encode() for number in range(40_000))
    layer = compress(spooled(spools, content), spools.make(len(content)))
    assert ("sha256:c5024a36d264f130595e32eaca418af110290feaea9f1c8f514090bda54f7262", 1395098) == (
        layer.digest,
        layer.size,
    )


def test_what_memory_has_no_room_for_is_in_a_file_until_memory_is_given_back(tmp_path: Path) -> None:
    def are_in_files(*spools: Spool) -> list[bool]:
        return [spool._file is not None for spool in spools]

    with Spools(tmp_path, memory=10) as spools:
        first, second, third = (spooled(spools, body) for body in (b"seven b", b"four", b"too"))
        assert [False, True, False] == are_in_files(first, second, third)
        assert [b"seven b", b"four", b"too"] == [content_of(spool) for spool in (first, second, third)]
        first.delete()
        second.delete()
        fourth = spooled(spools, b"seven b")
        assert [False] == are_in_files(fourth)
        assert b"seven b" == content_of(fourth)


def test_images_that_share_layers_give_them_out_once(connected: Engine, tmp_path: Path) -> None:
    shared, one, two = {"a": os.urandom(5000)}, {"b": b"1"}, {"b": b"2"}
    ids = [images.load(connected, [shared, own], "0" * 64) for own in (one, two)]
    wanted = [f"sha256:{hashlib.sha256(images.layer_tar(layer)).hexdigest()}" for layer in (shared, two)]
    found: dict[str, bytes] = {}
    seen: list[str] = []

    def take(diff_id: str, spool: Spool) -> None:
        seen.append(diff_id)
        found[diff_id] = content_of(spool)

    with Spools(tmp_path, memory=-1) as spools:
        configs = export(connected, ids, LayerReader(wanted, spools, take, Cache(tmp_path)))
    for image_id in ids:
        connected.api.remove_image(image_id)
    assert sorted(wanted) == sorted(seen)
    assert [images.layer_tar(shared), images.layer_tar(two)] == [found[diff_id] for diff_id in wanted]
    assert sorted(ids) == sorted(configs)
    diff_ids = [json.loads(configs[image_id])["rootfs"]["diff_ids"] for image_id in ids]
    assert ([wanted[0]] * 2, wanted[1]) == ([each[0] for each in diff_ids], diff_ids[1][1])


def test_what_is_remembered_survives_and_what_is_damaged_is_forgotten(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    layer = Descriptor(DOCKER_LAYER, "sha256:" + "a" * 64, 12)
    diff_id, config = "sha256:" + "b" * 64, b'{"config":{}}'
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert cache.layer(diff_id) is None
    assert cache.config(digest) is None
    cache.remember_layer(diff_id, layer)
    cache.remember_config(config)
    assert (layer, config) == (Cache(cache.folder).layer(diff_id), Cache(cache.folder).config(digest))
    for file in cache.folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"[")
    assert cache.layer(diff_id) is None
    assert cache.config(digest) is None


def test_content_that_an_engine_lacks_or_does_not_give_out_is_told_apart_from_bytes(connected: Engine) -> None:
    absent = "sha256:" + "0" * 64
    with closing(ContentStore(connected)) as content:
        assert read_content(content, absent) is None
        with pytest.raises(NoContent):
            content.open(absent, 1).read()


@contextmanager
def engine_that_exports(archive: bytes, promised: int) -> Iterator[Engine]:
    """An engine whose export is ``archive``, of which it said that it has ``promised`` bytes."""

    class Exporting(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = archive if "/images/get" in self.path else b"OK"
            self.send_response(200)
            self.send_header("Api-Version", "1.44")
            self.send_header("ContentStore-Length", str(promised if body is archive else len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    with serving(Exporting) as host, closing(Engine.connect({"DOCKER_HOST": f"tcp://{host}"})) as engine:
        yield engine


def test_an_export_in_the_layout_of_newer_engines_is_read_too(tmp_path: Path) -> None:
    layer, config = images.layer_tar({"a": b"1"}), b'{"rootfs":{}}'
    diff_id, image_id = (f"sha256:{hashlib.sha256(body).hexdigest()}" for body in (layer, config))
    archive = images.layer_tar(
        {f"blobs/sha256/{digest[7:]}": body for digest, body in ((image_id, config), (diff_id, layer))}
        | {"blobs/sha256/" + "0" * 64: b"an index", "manifest.json": b"[]", "oci-layout": b"{}"}
    )
    found: dict[str, bytes] = {}
    with engine_that_exports(archive, len(archive)) as engine:

        def take(diff_id: str, spool: Spool) -> None:
            found[diff_id] = content_of(spool)

        configs = export(engine, [image_id], LayerReader([diff_id], Spools(tmp_path), take, Cache(tmp_path)))
    assert ({image_id: config}, {diff_id: layer}) == (configs, found)


@pytest.mark.parametrize("length", [100, 700, 30_000, 41_000])
def test_an_export_that_breaks_off_is_an_error(tmp_path: Path, length: int) -> None:
    layer = images.layer_tar({"a": b"1" * 30_000})
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    archive = images.layer_tar({"a/layer.tar": layer, "b/layer.tar": b"x" * 1000})
    found: list[str] = []
    spools, image_ids = Spools(tmp_path), ["sha256:" + "0" * 64]
    reader = LayerReader([diff_id], spools, lambda name, _: found.append(name), Cache(tmp_path))
    with engine_that_exports(archive[:length], len(archive)) as engine, pytest.raises(BuildToolsError):
        export(engine, image_ids, reader)
    assert found in ([], [diff_id])


def test_an_engine_that_declines_is_quoted(connected: Engine, tmp_path: Path) -> None:
    reader = LayerReader([], Spools(tmp_path), lambda name, _: None, Cache(tmp_path))
    with pytest.raises(EngineError, match=r"answers .*sha256:000"):
        export(connected, ["sha256:" + "0" * 64], reader)


def test_a_disk_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(BuildToolsError, match=rf"to {tmp_path}/gone \(No such file or directory\): free some space"):
        spooled(Spools(tmp_path / "gone", memory=-1), b"content")


def test_a_layer_on_disk_has_no_name_that_a_killed_run_could_leave(tmp_path: Path) -> None:
    with Spools(tmp_path, memory=-1) as spools:
        spool = spooled(spools, b"content")
        assert [] == list(tmp_path.iterdir())
        with spool.open() as one, spool.open() as other:
            assert (b"con", b"content", b"tent") == (one.read(3), other.read(), one.read())


def test_a_cache_that_cannot_be_written_is_not_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "cache")
    cache.remember_config(b"{}")
    assert cache.config(f"sha256:{hashlib.sha256(b'{}').hexdigest()}") is None


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_compressed_bytes_are_read_whole_however_they_are_cut(block: int) -> None:
    content = os.urandom(5000) + bytes(300_000)
    packed = gzip.compress(content[:7000]) + gzip.compress(content[7000:])
    unpacked = _Unpacked(packed[:2], io.BytesIO(packed[2:]))
    assert content == b"".join(iter(lambda: unpacked.read(block), b""))


def test_what_only_begins_like_gzip_ends_where_that_is_seen() -> None:
    assert b"" == _Unpacked(b"\x1f\x8b", io.BytesIO(b"nothing of the kind")).read(100)


def test_a_compressed_layer_that_nobody_wants_is_unpacked_once(tmp_path: Path) -> None:
    cache, packed = Cache(tmp_path / "cache"), gzip.compress(b"a layer")
    digest, diff_id = (f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (packed, b"a layer"))
    path = Path("blobs/sha256") / digest.partition(":")[2]
    taken: list[tuple[str, bytes, int]] = []

    def rest_of(wanted: list[str]) -> bytes:
        """What an export that has this layer leaves unread of it."""
        content = io.BytesIO(packed)
        with Spools(tmp_path) as spools:

            def take(diff_id: str, spool: Spool) -> None:
                taken.append((diff_id, content_of(spool), spool.size))

            LayerReader(wanted, spools, take, cache).take(path, len(packed), content)
        return content.read()

    assert (b"", packed[2:], b"") == (rest_of([]), rest_of([]), rest_of([diff_id]))
    assert [(diff_id, b"a layer", 7)] == taken
