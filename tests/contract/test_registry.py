"""What every registry must do for us: without a login, with Basic, with tokens, and behind TLS."""

from __future__ import annotations

import io
import json
import os
import secrets
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.image.docker.credentials import Credentials
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    OCI_INDEX,
    Descriptor,
    Manifest,
    digest_of,
    encode,
)
from buildtools.sandbox import process
from tests import fronts
from tests.conftest import HtpasswdRegistry
from tests.contract.registries import (
    IDENTITY,
    PASSWORD,
    USER,
    TokenService,
    make_certificate,
    own_registry,
    token_options,
    token_service,
)


@dataclass(frozen=True)
class Tokens:
    """A registry with a token service."""

    host: str
    service: TokenService


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Iterator[Tokens]:
    folder = tmp_path_factory.mktemp("tokens")
    with token_service(folder) as service, own_registry(folder, environment, **token_options(service)) as own:
        yield Tokens(own.host, service)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """The host of a registry with TLS, and the file of its authority."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(folder)
    http = {"tls": {"certificate": str(certificate), "key": str(key)}}
    with own_registry(folder, environment, http=http) as own:
        yield own.host, certificate


def logged_in(folder: Path, host: str, **entry: str) -> Credentials:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {host: entry}}))
    return Credentials(folder, {})


@pytest.fixture(params=["anonymous", "basic", "token", "identity token", "tls"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A client of each kind of registry in turn, as someone who may push."""
    match request.param:
        case "anonymous":
            made = Registry(request.getfixturevalue("registry"), pause=0.01)
        case "basic":
            basic: HtpasswdRegistry = request.getfixturevalue("registry_htpasswd")
            made = Registry(basic.host, Credentials(basic.docker_config, {}), pause=0.01)
        case "token":
            host = request.getfixturevalue("tokens").host
            made = Registry(host, logged_in(tmp_path / "d", host, username=USER, password=PASSWORD), pause=0.01)
        case "identity token":
            host = request.getfixturevalue("tokens").host
            made = Registry(host, logged_in(tmp_path / "d", host, identitytoken=IDENTITY), pause=0.01)
        case _:
            host, certificate = request.getfixturevalue("tls")
            made = Registry(host, ca=str(certificate), pause=0.01)
    yield made
    made.close()


@pytest.fixture
def repository() -> str:
    return f"test-{secrets.token_hex(6)}/app"


def an_image(client: Registry, repository: str, text: bytes = b"{}") -> Manifest:
    layer = os.urandom(1000)
    config = Descriptor(DOCKER_CONFIG, client.put_blob(repository, text), len(text))
    return Manifest.make(config, [Descriptor(DOCKER_LAYER, client.put_blob(repository, layer), len(layer))])


def test_it_answers_and_lets_us_push(client: Registry, repository: str) -> None:
    client.ping()
    client.check_push_access(repository)
    assert [] == client.tags(repository)


def test_a_blob_comes_back_as_it_was_sent(client: Registry, repository: str) -> None:
    body = os.urandom(3_000_000)
    digest = digest_of(body)
    told: list[int] = []
    assert client.blob_size(repository, digest) is None
    assert client.get_blob(repository, digest) is None
    client.upload_blob(repository, digest, len(body), lambda: io.BytesIO(body), told.append)
    assert len(body) == client.blob_size(repository, digest)
    assert body == client.get_blob(repository, digest)
    assert len(body) == told[-1]
    assert sorted(told) == told


def test_a_blob_of_any_size_is_handed_on_as_it_comes(client: Registry, repository: str) -> None:
    body, blocks = os.urandom(3_000_000), list[bytes]()
    assert not client.download_blob(repository, digest_of(body), blocks.append)
    client.put_blob(repository, body)
    assert client.download_blob(repository, digest_of(body), blocks.append)
    assert (body, True) == (b"".join(blocks), len(blocks) > 1)


def test_an_empty_blob_can_be_stored(client: Registry, repository: str) -> None:
    client.upload_blob(repository, digest_of(b""), 0, lambda: io.BytesIO(b""))
    assert b"" == client.get_blob(repository, digest_of(b""))


def test_bytes_that_are_not_what_the_digest_says_are_not_stored(client: Registry, repository: str) -> None:
    wrong = digest_of(b"something else")
    with pytest.raises(BuildToolsError, match=r"400.*digest"):
        client.upload_blob(repository, wrong, 4, lambda: io.BytesIO(b"data"))
    assert client.blob_size(repository, wrong) is None


def test_a_blob_is_mounted_from_a_sibling_and_from_nowhere_else(client: Registry, repository: str) -> None:
    sibling = f"{repository}-sibling"
    digest = client.put_blob(repository, b"shared")
    assert not client.mount_blob(sibling, digest, f"{repository}-nobody")
    assert client.blob_size(sibling, digest) is None
    assert client.mount_blob(sibling, digest, repository)
    assert b"shared" == client.get_blob(sibling, digest)


def test_a_manifest_comes_back_byte_for_byte(client: Registry, repository: str) -> None:
    manifest = an_image(client, repository)
    assert client.head_manifest(repository, "1.0") is None
    assert client.get_manifest(repository, "1.0") is None
    assert manifest.digest == client.put_manifest(repository, "1.0", manifest)
    assert manifest == client.get_manifest(repository, "1.0")
    assert manifest == client.get_manifest(repository, manifest.digest)
    assert Descriptor(manifest.media_type, manifest.digest, len(manifest.body)) == client.head_manifest(
        repository, "1.0"
    )


def test_an_index_is_stored_and_read_too(client: Registry, repository: str) -> None:
    one = an_image(client, repository)
    client.put_manifest(repository, one.digest, one)
    entry = Descriptor(one.media_type, one.digest, len(one.body)).document()
    index = Manifest(OCI_INDEX, encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}))
    client.put_manifest(repository, "1.0", index)
    found = client.get_manifest(repository, "1.0")
    assert index == found
    assert found.is_index
    with pytest.raises(BuildToolsError, match="not that of one image"):
        _ = found.config


def test_tags_are_listed_and_go_with_their_manifest(client: Registry, repository: str) -> None:
    one, two = an_image(client, repository, b"{}"), an_image(client, repository, b'{"a":1}')
    for tag in ("1.0", "1.1"):
        client.put_manifest(repository, tag, one)
    client.put_manifest(repository, "2.0", two)
    assert ["1.0", "1.1", "2.0"] == sorted(client.tags(repository))
    assert client.delete_manifest(repository, one.digest)
    assert ["2.0"] == client.tags(repository)


def test_a_manifest_that_names_what_is_not_there_is_not_stored(client: Registry, repository: str) -> None:
    missing = Descriptor(DOCKER_LAYER, digest_of(b"missing"), 7)
    manifest = Manifest.make(Descriptor(DOCKER_CONFIG, client.put_blob(repository, b"{}"), 2), [missing])
    with pytest.raises(BuildToolsError, match="blob unknown"):
        client.put_manifest(repository, "1.0", manifest)


def test_a_registry_that_allows_no_layer_elsewhere_is_not_taken_for_one_that_is_down(
    registry: str, repository: str
) -> None:
    with closing(Registry(registry)) as client:
        config = Descriptor(DOCKER_CONFIG, client.put_blob(repository, b"{}"), 2)
        kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        layer = Descriptor(kind, digest_of(b"layer"), 5, ("https://elsewhere.example/layer",))
        with pytest.raises(BuildToolsError, match=r"a layer is at https://elsewhere\.example/layer: allow") as caught:
            client.put_manifest(repository, "1", Manifest.make(config, [layer]))
    assert 1 == caught.value.exit_code


def test_without_a_login_the_message_says_how_to_log_in(registry_htpasswd: HtpasswdRegistry, repository: str) -> None:
    client = Registry(registry_htpasswd.host)
    with pytest.raises(Refused) as caught:
        client.check_push_access(repository)
    client.close()
    host = registry_htpasswd.host
    assert (
        f"access to registry {host} denied, pull,push for {repository} (401: authentication required)"
        == caught.value.fact
    )
    assert f"no credentials found; run `docker login {host}`" == caught.value.remedy


def test_a_wrong_password_is_refused_by_a_registry_and_by_a_token_service(
    registry_htpasswd: HtpasswdRegistry, tokens: Tokens, repository: str, tmp_path: Path
) -> None:
    for host in (registry_htpasswd.host, tokens.host):
        client = Registry(host, logged_in(tmp_path, host, username=USER, password="hunter2"))
        with pytest.raises(Refused) as caught:
            client.check_push_access(repository)
        client.close()
        assert f"{host} denied, pull,push for {repository}" in caught.value.fact
        assert f"log in as a user with that right: `docker login {host}`" == caught.value.remedy
        assert "hunter2" not in str(caught.value)


def test_a_reader_may_read_but_not_write(tokens: Tokens, repository: str, tmp_path: Path) -> None:
    writer = Registry(tokens.host, logged_in(tmp_path, tokens.host, username=USER, password=PASSWORD))
    digest = writer.put_blob(repository, b"data")
    writer.close()
    reader = Registry(tokens.host)
    assert b"data" == reader.get_blob(repository, digest)
    with pytest.raises(Refused, match=f"denied, pull,push for {repository}"):
        reader.put_blob(repository, b"other")
    reader.close()


def test_a_token_is_asked_for_once_and_renewed_when_the_registry_says_so(
    tokens: Tokens, repository: str, tmp_path: Path
) -> None:
    client = Registry(tokens.host, logged_in(tmp_path, tokens.host, username=USER, password=PASSWORD))
    tokens.service.asked.clear()
    tokens.service.stale = 1
    for number in range(3):
        client.put_blob(repository, b"%d" % number)
    client.close()
    once = {"service": ["own registry"], "scope": [f"repository:{repository}:pull,push"], "account": [USER]}
    assert [once, once] == tokens.service.asked


@pytest.fixture
def strict(tokens: Tokens) -> Iterator[TokenService]:
    """The token service, from which a test wants refusals."""
    yield tokens.service
    tokens.service.refused = "nothing"


def test_who_may_not_delete_may_push(tokens: Tokens, strict: TokenService, repository: str, tmp_path: Path) -> None:
    strict.refused = "delete"
    client = Registry(tokens.host, logged_in(tmp_path, tokens.host, username=USER, password=PASSWORD))
    client.check_push_access(repository)
    client.close()


def test_what_may_not_be_read_is_not_mounted(
    tokens: Tokens, strict: TokenService, repository: str, tmp_path: Path
) -> None:
    client = Registry(tokens.host, logged_in(tmp_path, tokens.host, username=USER, password=PASSWORD))
    digest = client.put_blob(f"{repository}-secret", b"data")
    strict.refused = f"{repository}-secret:pull"
    assert not client.mount_blob(repository, digest, f"{repository}-secret")
    client.close()


def test_a_registry_of_a_private_authority_is_trusted_only_with_its_certificate(
    tls: tuple[str, Path], tmp_path: Path
) -> None:
    host, certificate = tls
    with pytest.raises(Refused, match=r"certificate of .* is not trusted .*: set registry_ca"):
        Registry(host).ping()
    convention = tmp_path / "certs.d"
    (convention / host).mkdir(parents=True)
    (convention / host / "ca.crt").write_bytes(certificate.read_bytes())
    client = Registry(host, certificates=convention)
    client.ping()
    client.close()


@pytest.mark.parametrize(
    ("name", "days", "remedy"),
    [
        ("IP:127.0.0.1", -1, "expired.*: renew it"),
        ("DNS:elsewhere", 1, "mismatch.*: name the registry by a host that is in its certificate"),
    ],
    ids=["expired", "another host's"],
)
def test_a_certificate_that_no_authority_can_help_is_refused_with_what_can(
    name: str, days: int, remedy: str, tmp_path: Path
) -> None:
    fronts.make_certificate(tmp_path, "-addext", f"subjectAltName={name}")
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    sign = ["openssl", "x509", "-in", str(certificate), "-signkey", str(key), "-days", str(days)]
    subprocess.run([*sign, "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with (
        fronts.front("/nobody", context) as host,
        closing(Registry(host, ca=str(certificate))) as client,
        pytest.raises(Refused, match=remedy),
    ):
        client.ping()


def test_a_registry_that_wants_a_certificate_is_shown_the_one_that_docker_would_show(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = {"certificate": str(certificate), "key": str(key), "clientcas": [str(certificate)]}
    with own_registry(tmp_path / "registry", environment, http={"tls": tls}) as own:
        folder = tmp_path / "certs.d" / own.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate.read_bytes())

        def ping() -> None:
            with closing(Registry(own.host, certificates=folder.parent)) as client:
                client.ping()

        with pytest.raises(
            Refused, match=r"requires a client certificate .*: put one into .*client.cert and client.key"
        ):
            ping()
        (folder / "client.cert").write_bytes(certificate.read_bytes())
        with pytest.raises(Refused, match=r"client.cert and .*client.key cannot be used \(No such file"):
            ping()
        (folder / "client.key").write_bytes(key.read_bytes())
        ping()


def test_an_authority_that_is_not_a_certificate_is_named(tls: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nonsense")
    with pytest.raises(Refused, match=r"ca.crt cannot be read as certificates"):
        Registry(tls[0], ca=str(tmp_path / "ca.crt")).ping()


def test_a_registry_that_is_not_there_is_an_outage() -> None:
    (port,) = process.free_ports(1)
    with pytest.raises(Unreachable, match=rf"127.0.0.1:{port} cannot be reached \(Connection refused\)"):
        Registry(f"127.0.0.1:{port}", pause=0.001).ping()


def test_plain_http_is_not_spoken_beyond_loopback_unless_configured(registry: str) -> None:
    # Every machine has this second name for itself, which is not on the loopback list.
    port = registry.rpartition(":")[2]
    host = f"0.0.0.0:{port}"
    with pytest.raises(Refused, match="does not speak TLS: set registry_plain_http = true"):
        Registry(host, pause=0.001).ping()
    client = Registry(host, plain_http=True)
    client.ping()
    client.close()
