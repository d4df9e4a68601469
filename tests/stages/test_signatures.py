"""Releases that are signed, those that are forged, and what each verb makes of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buildtools import Drifted, Refused
from buildtools.cancellation import Cancellation
from buildtools.crypto.envelope import opened, sealed
from buildtools.crypto.keys import SigningKey
from buildtools.events import Event, Warned, unheard
from buildtools.git.checkout import Checkout
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import tag_digest
from buildtools.image.registry.manifest import Manifest
from buildtools.image.registry.simple_signing import (
    ImageSignature,
    add_signature,
    payload_of,
    read_signatures,
    signature_tag,
)
from buildtools.pipeline import promote
from buildtools.platform import Platform
from buildtools.release import Release, ReleasedImage, attestation_key, manifest_key
from buildtools.run import Run
from buildtools.settings import SIGNING_PASSWORD, Layer
from buildtools.settings_reader import merge_layers
from buildtools.stages import releases, signatures
from buildtools.stages.channels import move_forward, roll_back, show_channel
from buildtools.stages.fetch import Fetched, FetchRequest, fetch_release
from buildtools.stages.promotion import target_task
from buildtools.stages.pruning import prune_releases
from buildtools.stages.releases import released_version
from buildtools.stages.service_folder import write_service_folder
from buildtools.stages.signatures import check_keys, sign_release
from buildtools.stages.trial import try_out
from buildtools.stages.verification import verify_all, verify_named
from buildtools.stages.version_images import VersionImages
from buildtools.statement import Origin, statement_of
from buildtools.task_context import TaskContext
from buildtools.version import Version
from tests.conftest import Repository, S3Service
from tests.cosign import Cosign
from tests.crypto.test_keys import ENCRYPTED, make_key, make_pair
from tests.faults.proxy import wire_to
from tests.releases import ReleasePlace, release_place

SOURCE = "https://git.example/widgets.git"


@dataclass(frozen=True)
class SignedPlace:
    """A place whose releases are signed with the key in ``sign.pem``, and verified with that in ``verify.pub``."""

    place: ReleasePlace
    key: SigningKey

    @contextmanager
    def task(self, version: str) -> Iterator[TaskContext]:
        """A task about the checkout of a version."""
        with self.place.task() as task:
            yield task.with_checkout(Checkout(Version.parse(version), 0, SOURCE))

    def publish(self, version: str) -> Release:
        """A version that is signed and released, or found to be."""
        staged = self.place.stage(version)
        with self.task(version) as task:
            releases.claim_version(task, Version.parse(version), staged.commit)
            return releases.commit(task, sign_release(task, staged))[0]

    def rewrite(self, release: Release) -> None:
        """Put another manifest in the place of a version's."""
        key = manifest_key(Version.parse(release.version))
        content = self.place.store.read(key)
        assert content
        assert self.place.store.replace(key, release.manifest(), content.etag, "application/json")

    def error(self, version: str) -> str:
        """Why a version does not pass ``verify``; empty where it does."""
        with self.place.task() as task:
            error = verify_named(task, [version], deep=False).error()
        assert error is None or error.exit_code == 5
        return error.fact if error else ""


def signing_project(tmp_path: Path) -> tuple[Path, bytes]:
    """The folder of a project with a pair of keys, ``sign.pem`` and ``verify.pub``, and the first of them."""
    folder = tmp_path / "project"
    folder.mkdir()
    Repository(folder).git("init", "--quiet")
    private, public = make_pair(tmp_path, "P-256")
    (folder / "sign.pem").write_bytes(private)
    (folder / "verify.pub").write_bytes(public)
    return folder, private


@pytest.fixture
def signed(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[SignedPlace]:
    bucket = s3.bucket()
    folder, private = signing_project(tmp_path)
    target = {"production": {"namespace": f"{bucket}/production", "artifacts": f"s3://{bucket}/production"}}
    settings = {"sign": {"key": "sign.pem"}, "verify_key": "verify.pub", "target": target}
    with release_place(folder, registry, s3, environment, **settings) as place:
        yield SignedPlace(place, SigningKey.read(private, "sign.pem", None))


def world(place: ReleasePlace) -> dict[str, str]:
    """All that a store and the repositories of app and web hold."""
    objects = {entry.key: entry.etag for entry in place.store.list()}
    for name in ("app", "web"):
        repository = f"{place.settings.namespace}/{name}"
        objects |= {
            f"{name}:{tag}": tag_digest(place.client, repository, tag) or "" for tag in place.client.tags(repository)
        }
    return objects


@pytest.mark.parametrize("judge", ["cosign", pytest.param("newer_cosign", marks=pytest.mark.exhaustive)])
def test_cosign_takes_each_image_and_each_member_as_signed(
    judge: str, signed: SignedPlace, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cosign: Cosign = request.getfixturevalue(judge)
    release = signed.publish("1.0.0")
    public = signed.place.settings.root / "verify.pub"
    for image in release.images:
        assert "" == cosign.verify(public, f"{image.registry}/{image.repository}@{image.digest}")
        assert "" == cosign.verify(public, image.reference)
    statement = signed.place.store.read(attestation_key(release.attestation))
    assert statement
    (tmp_path / "statement.json").write_bytes(statement.data)
    (tmp_path / "daemon.tgz").write_bytes(b"daemon 1.0.0")
    assert "" == cosign.verify_member(public, tmp_path / "statement.json", tmp_path / "daemon.tgz")
    (tmp_path / "daemon.tgz").write_bytes(b"daemon 1.0.1")
    refusal = cosign.verify_member(public, tmp_path / "statement.json", tmp_path / "daemon.tgz")
    assert "no matching subject digest found" in refusal


@pytest.mark.exhaustive
def test_beside_a_bundle_of_another_key_a_newer_cosign_must_be_told_to_look_at_ours(
    signed: SignedPlace, newer_cosign: Cosign
) -> None:
    image = signed.publish("1.0.0").images[0]
    private, _ = newer_cosign.key_pair("other")
    unlogged = ("--use-signing-config=false", "--tlog-upload=false", "--allow-insecure-registry")
    done = newer_cosign.run("sign", "--yes", "--key", private, *unlogged, image.reference)
    assert 0 == done.returncode, done.stderr
    key = ("--insecure-ignore-tlog", "--key", signed.place.settings.root / "verify.pub")
    assert 1 == newer_cosign.run("verify", *key, image.reference).returncode
    assert 0 == newer_cosign.run("verify", *key, "--new-bundle-format=false", image.reference).returncode
    assert "" == signed.error("1.0.0")


def test_cosign_takes_an_image_for_several_platforms_as_signed(signed: SignedPlace, cosign: Cosign) -> None:
    client, (image, _) = signed.place.client, signed.place.stage("1.0.0").images
    manifest = client.get_manifest(image.repository, image.digest)
    assert manifest
    index = Manifest.index({Platform.parse(text): manifest for text in ("linux/amd64", "linux/arm64")})
    digest = client.put_manifest(image.repository, image.tag, index)
    sign_image(signed, replace(image, digest=digest), signed.key)
    assert "" == cosign.verify(signed.place.settings.root / "verify.pub", image.reference)
    assert "no signatures found" in cosign.verify(
        signed.place.settings.root / "verify.pub", f"{image.registry}/{image.repository}@{image.digest}"
    )


def test_a_signed_release_is_intact_and_publishing_it_again_writes_nothing(signed: SignedPlace) -> None:
    release = signed.publish("1.0.0")
    assert "" == signed.error("1.0.0")
    before = world(signed.place)
    assert release == signed.publish("1.0.0")
    assert before == world(signed.place)
    with signed.place.task() as task:
        (audit,) = verify_named(task, ["1.0.0"], deep=False).audits
    assert ["image", "image", "archive", "statement", "signature", "signature"] == [
        each.kind for each in audit.findings
    ]


def test_publishing_again_puts_back_what_was_lost(signed: SignedPlace) -> None:
    release = signed.publish("1.0.0")
    before = [*world(signed.place)]
    delete_statement(signed, release)
    delete_signature(signed, release)
    assert "release 1.0.0 has drifted (statement 1.0.0 missing, signature app missing)" == signed.error("1.0.0")
    assert release == signed.publish("1.0.0")
    assert (before, "") == ([*world(signed.place)], signed.error("1.0.0"))


def test_a_release_that_is_not_committed_yet_is_signed_the_same_again(signed: SignedPlace) -> None:
    staged = signed.place.stage("1.0.0")
    with signed.task("1.0.0") as task:
        first = sign_release(task, staged)
        before = world(signed.place)
        assert first == sign_release(task, staged)
    assert before == world(signed.place)
    assert first.attestation


def test_another_key_adds_its_signatures_and_a_release_keeps_its_statement(signed: SignedPlace, cosign: Cosign) -> None:
    release = signed.publish("1.0.0")
    root = signed.place.settings.root
    private, public = make_pair(root, "Ed25519")
    (root / "sign.pem").write_bytes(private)
    first = (root / "verify.pub").read_bytes()
    (root / "verify.pub").write_bytes(public + first)
    assert release == signed.publish("1.0.0")
    for key in (public, first):
        (cosign.home / "one.pub").write_bytes(key)
        assert "" == cosign.verify(cosign.home / "one.pub", release.images[0].reference)
    assert "" == signed.error("1.0.0")


def test_a_signature_that_another_key_overwrites_at_the_same_moment_is_restored(
    tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    folder, private = signing_project(tmp_path)
    other_key = SigningKey.read(make_key("Ed25519"), "other.pem", None)
    about_to_write, may_write = threading.Event(), threading.Event()
    looks = 0

    def hold(data: bytes) -> bytes:
        if data.startswith(b"PUT ") and b".sig HTTP/" in data:
            about_to_write.set()
            assert may_write.wait(60)
        return data

    with wire_to(registry) as wire, wire_to(registry) as other_wire, closing(Registry(other_wire.address)) as client:
        other_wire.sent = hold
        settings = {"sign": {"key": "sign.pem"}, "verify_key": "verify.pub"}
        with release_place(folder, wire.address, s3, environment, **settings) as place:
            signed = SignedPlace(place, SigningKey.read(private, "sign.pem", None))
            image = place.stage("1.0.0").images[0]
            payload = payload_of(image.registry, image.repository, image.digest)
            theirs = ImageSignature(payload, other_key.sign(payload))
            other = threading.Thread(target=add_signature, args=(client, image.repository, image.digest, theirs))

            def note(data: bytes) -> bytes:
                nonlocal looks
                if data.startswith(f"GET /v2/{image.repository}/manifests/{signature_tag(image.digest)}".encode()):
                    looks += 1
                    # The first two are before ours is written, the third right after that.
                    if looks == 4:
                        may_write.set()
                        other.join()
                return data

            other.start()
            assert about_to_write.wait(60)
            wire.sent = note
            signed.publish("1.0.0")
            assert "" == signed.error("1.0.0")
            assert theirs in read_signatures(client, image.repository, image.digest)
    assert looks > 4


def test_what_was_released_unsigned_stays_so_and_says_so(signed: SignedPlace) -> None:
    signed.place.release("1.0.0", archives=("daemon",))
    unchecked = SignedPlace(replace(signed.place, settings=replace(signed.place.settings, verify_key="")), signed.key)
    with unchecked.task("1.0.0") as task:
        assert "" == releases.commit(task, sign_release(task, signed.place.stage("1.0.0")))[0].attestation
    assert ["1.0.0 was released unsigned, and stays so; its images are signed now"] == [
        event.message for event in signed.place.events if isinstance(event, Warned)
    ]
    assert "release 1.0.0 has drifted (statement 1.0.0 missing)" == signed.error("1.0.0")
    with signed.task("1.0.0") as task, pytest.raises(Drifted, match=r"statement 1.0.0 missing"):
        releases.commit(task, sign_release(task, signed.place.stage("1.0.0")))


def test_what_another_agent_without_a_key_released_meanwhile_says_so(signed: SignedPlace) -> None:
    staged = signed.place.stage("1.0.0")
    unchecked = SignedPlace(replace(signed.place, settings=replace(signed.place.settings, verify_key="")), signed.key)
    with unchecked.task("1.0.0") as task:
        ours = sign_release(task, staged)
        signed.place.release("1.0.0", archives=("daemon",))
        assert ("", False) == ((found := releases.commit(task, ours))[0].attestation, found[1])
    assert ["1.0.0 was released unsigned, and stays so; its images are signed now"] == [
        event.message for event in signed.place.events if isinstance(event, Warned)
    ]


def test_what_is_signed_names_the_tag_and_its_object(signed: SignedPlace) -> None:
    repository = Repository(signed.place.settings.root)
    repository.commit("all")
    repository.tag("1.0.0")
    release = signed.publish("1.0.0")
    content = signed.place.store.read(attestation_key(release.attestation))
    assert content
    document = json.loads(opened(content.data, signed.key.public))
    commit, tag = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert (f"git+{SOURCE}", release.commit) == (commit["uri"], commit["digest"]["gitCommit"])
    assert ("refs/tags/1.0.0", repository.git("rev-parse", "refs/tags/1.0.0")) == (tag["name"], tag["digest"]["gitTag"])


# Ways to forge a release: what is done to it, and what is found.


def drop_member(signed: SignedPlace, release: Release) -> None:
    signed.rewrite(replace(release, images=release.images[:1]))


def change_commit(signed: SignedPlace, release: Release) -> None:
    signed.rewrite(replace(release, commit="e" * 40))


def swap_image(signed: SignedPlace, release: Release) -> None:
    app, web = release.images
    signed.place.client.put_manifest(app.repository, app.tag, other_manifest(signed, app))
    other = replace(app, digest=tag_digest(signed.place.client, app.repository, app.tag) or "")
    sign_image(signed, other, signed.key)
    signed.rewrite(replace(release, images=(other, web)))


def other_manifest(signed: SignedPlace, image: ReleasedImage) -> Any:
    evil = signed.place.put_image("app", "9.9.9")
    return signed.place.client.get_manifest(image.repository, evil.digest)


def change_checksum_of_store(signed: SignedPlace, release: Release) -> None:
    (archive,) = release.archives
    signed.rewrite(replace(release, archives=(replace(archive, composite="b3RoZXI="),)))


def name_no_statement(signed: SignedPlace, release: Release) -> None:
    signed.rewrite(replace(release, attestation=""))


def sign_with_another_key(signed: SignedPlace, release: Release) -> None:
    forged = replace(release, images=release.images[:1])
    name_statement(signed, forged, sealed(statement_of(forged, Origin()), other_key(signed)))


def name_what_is_not_signed(signed: SignedPlace, release: Release) -> None:
    name_statement(signed, release, b"{}\n")


def name_statement(signed: SignedPlace, release: Release, envelope: bytes) -> None:
    with signed.place.task() as task:
        signed.rewrite(replace(release, attestation=signatures.put_statement(task, envelope)))


def delete_statement(signed: SignedPlace, release: Release) -> None:
    signed.place.store.delete(attestation_key(release.attestation))


def delete_signature(signed: SignedPlace, release: Release) -> None:
    app = release.images[0]
    digest = tag_digest(signed.place.client, app.repository, signature_tag(app.digest))
    assert digest
    assert signed.place.client.delete_manifest(app.repository, digest)


def replace_signature(signed: SignedPlace, release: Release) -> None:
    delete_signature(signed, release)
    sign_image(signed, release.images[0], other_key(signed))


def move_signature(signed: SignedPlace, release: Release) -> None:
    """One of another image, under the tag of this one."""
    delete_signature(signed, release)
    app, web = release.images
    payload = payload_of(web.registry, web.repository, web.digest)
    moved = ImageSignature(payload, signed.key.sign(payload))
    add_signature(signed.place.client, app.repository, app.digest, moved)


def sign_image(signed: SignedPlace, image: ReleasedImage, key: SigningKey) -> None:
    payload = payload_of(image.registry, image.repository, image.digest)
    add_signature(signed.place.client, image.repository, image.digest, ImageSignature(payload, key.sign(payload)))


def other_key(signed: SignedPlace) -> SigningKey:
    return SigningKey.read(make_pair(signed.place.settings.root, "Ed25519")[0], "other.pem", None)


FORGED = Version.parse("1.1.0")
OTHER = "it is not signed with the key of verify_key"
FORGERIES: dict[Callable[[SignedPlace, Release], None], str] = {
    drop_member: "statement VERSION changed: web:VERSION is missing in the manifest",
    change_commit: "statement VERSION changed: the commit is another one",
    swap_image: "statement VERSION changed: app:VERSION is another one",
    change_checksum_of_store: "statement VERSION changed: daemon-VERSION.tgz is another one",
    name_no_statement: "statement VERSION missing",
    sign_with_another_key: f"statement VERSION changed: {OTHER}",
    name_what_is_not_signed: "statement VERSION changed: it is not a signed in-toto statement",
    delete_statement: "statement VERSION missing",
    delete_signature: "signature app missing",
    replace_signature: f"signature app changed: {OTHER}",
    move_signature: f"signature app changed: {OTHER}",
}


def test_each_forgery_is_found_and_called_by_its_name(signed: SignedPlace) -> None:
    expected = {}
    for number, (forge, finding) in enumerate(FORGERIES.items()):
        version = f"1.{number}.0"
        forge(signed, signed.publish(version))
        expected[version] = f"release {version} has drifted ({finding.replace('VERSION', version)})"
    with signed.place.task() as task:
        audits = verify_all(task, deep=False).audits
    errors = {audit.release.version: error for audit in audits if (error := audit.error())}
    assert expected == {version: error.fact for version, error in errors.items()}
    unsigned = f"1.{[*FORGERIES].index(name_no_statement)}.0"
    assert errors.pop(unsigned).remedy.startswith("it was released unsigned, or its manifest was replaced")
    assert {"see whether verify_key is the key that it was signed with; if it is, do not use this release"} == {
        error.remedy for error in errors.values()
    }


def fetch(task: TaskContext, to: Path) -> Fetched:
    return fetch_release(task, FetchRequest(released_version(task, FORGED), to, layout=True))


VERBS: dict[str, Callable[[TaskContext, Path], object]] = {
    "promote": lambda task, _: promote(task.run, "1.1.0", "production"),
    "fetch": fetch,
    "channel": lambda task, _: move_forward(task, "candidate", FORGED),
    "rollback": lambda task, _: roll_back(task, "stage", FORGED),
}


@pytest.mark.parametrize(
    "forge",
    [
        drop_member,
        *(pytest.param(each, marks=pytest.mark.exhaustive) for each in FORGERIES if each is not drop_member),
    ],
    ids=lambda forge: forge.__name__,
)
def test_no_verb_takes_a_forged_release_and_nothing_moves(
    forge: Callable[[SignedPlace, Release], None], signed: SignedPlace, tmp_path: Path
) -> None:
    place = signed.place
    release = signed.publish("1.1.0")
    signed.publish("1.2.0")
    with place.task() as task:
        move_forward(task, "stage", Version.parse("1.2.0"))
    forge(signed, release)
    before = world(place)
    for verb, work in VERBS.items():
        with place.task() as task, pytest.raises(Drifted) as refusal:
            work(task, tmp_path / "there")
        assert FORGERIES[forge].replace("VERSION", "1.1.0") in refusal.value.fact, verb
    assert before == world(place)
    assert not (tmp_path / "there" / "current").exists()


def test_nothing_follows_a_manifest_that_was_forged_meanwhile(signed: SignedPlace) -> None:
    place = signed.place
    for version in ("1.0.0", "1.1.0"):
        release = signed.publish(version)
    with place.task() as task:
        move_forward(task, "stage", FORGED)
        app = release.images[0]
        old = tag_digest(place.client, app.repository, "1.0.0") or ""
        signed.rewrite(replace(release, images=(replace(app, digest=old), *release.images[1:])))
        before = world(place)
        with pytest.raises(Drifted, match=r"app:1.1.0 is another one"):
            show_channel(task, "stage")
        with pytest.raises(Drifted, match=r"app:1.1.0 is another one"):
            write_service_folder(task, "app", place.settings.root / "service", "1.1.0")
        with pytest.raises(Drifted, match=r"app:1.1.0 is another one"):
            try_out(task, VersionImages.of(released_version(task, FORGED)))
    assert before == world(place)


def test_a_promoted_release_has_the_same_signatures_and_statement(signed: SignedPlace, cosign: Cosign) -> None:
    release = signed.publish("1.0.0")
    place = signed.place
    with place.task() as task:
        replica = promote(task.run, "1.0.0", "production").release
        assert release.attestation == replica.attestation
        with target_task(task, "production") as target:
            assert None is verify_named(target, ["1.0.0"], deep=False).error()
            assert target.services.store.read(attestation_key(release.attestation)) == place.store.read(
                attestation_key(release.attestation)
            )
    for here, there in zip(release.images, replica.images, strict=True):
        tag = signature_tag(here.digest)
        assert tag_digest(place.client, here.repository, tag) == tag_digest(place.client, there.repository, tag)
        assert "" == cosign.verify(place.settings.root / "verify.pub", there.reference)


@pytest.mark.exhaustive
def test_a_promotion_keeps_the_signatures_that_the_target_has(signed: SignedPlace, cosign: Cosign) -> None:
    release, place = signed.publish("1.0.0"), signed.place
    with place.task() as task:
        there = promote(task.run, "1.0.0", "production").release.images[0]
        delete_signature(signed, replace(release, images=(there,)))
        private, public = make_pair(place.settings.root, "Ed25519")
        sign_image(signed, there, SigningKey.read(private, "other.pem", None))
        promote(task.run, "1.0.0", "production")
    (cosign.home / "other.pub").write_bytes(public)
    for key in (place.settings.root / "verify.pub", cosign.home / "other.pub"):
        assert "" == cosign.verify(key, there.reference)


def test_a_pruned_release_goes_with_its_signatures_and_its_statement(signed: SignedPlace) -> None:
    repository = Repository(signed.place.settings.root)
    repository.commit("all")
    repository.tag("0.9.0")
    signed.publish("1.1.0")
    before = world(signed.place)
    signed.publish("1.0.0")
    with signed.place.task() as task:
        prune_releases(task, keep=1, days=0)
    assert before == world(signed.place)
    assert "" == signed.error("1.1.0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sign": {"key": "nowhere.pem"}}, r"sign.key: nowhere.pem cannot be read"),
        ({"sign": {"key": "verify.pub"}}, r"sign.key is not a private key in PEM"),
        ({"sign": {"key": "env:KEY"}}, r"sign.key is in the variable KEY, which is not set"),
        ({"verify_key": "nowhere.pub"}, r"verify_key: nowhere.pub cannot be read"),
        ({"verify_key": "sign.pem"}, r"verify_key is a private key"),
        ({"sign": {}}, r"verify_key would not accept this release: there is no sign.key"),
        ({"sign": {"key": "other.pem"}}, r"verify_key would not accept this release: .*sign.key is another key"),
    ],
)
def test_a_preflight_refuses_keys_that_are_no_good(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    private, public = make_pair(tmp_path, "P-256")
    for name, content in {"sign.pem": private, "verify.pub": public, "other.pem": make_key("P-256")}.items():
        (tmp_path / name).write_bytes(content)
    layer = Layer("pyproject.toml", {"sign": {"key": "sign.pem"}, "verify_key": "verify.pub", **settings})
    run = Run(merge_layers(tmp_path, [layer]), {}, unheard, Cancellation(), tmp_path)
    with TaskContext(run) as task, pytest.raises(Refused, match=message):
        check_keys(task)


@pytest.mark.parametrize(
    ("mode", "options", "is_warned_of"), [(0o644, (), True), (0o640, (), False), (0o644, ENCRYPTED, False)]
)
def test_a_key_that_every_user_can_use_is_warned_of(
    mode: int, options: tuple[str, ...], is_warned_of: bool, tmp_path: Path
) -> None:
    (tmp_path / "sign.pem").write_bytes(make_key("Ed25519", *options))
    (tmp_path / "sign.pem").chmod(mode)
    settings = merge_layers(tmp_path, [Layer("pyproject.toml", {"sign": {"key": "sign.pem"}})])
    events: list[Event] = []
    with TaskContext(Run(settings, {SIGNING_PASSWORD: "of a test"}, events.append, Cancellation(), tmp_path)) as task:
        check_keys(task)
    assert is_warned_of == any(isinstance(each, Warned) and "chmod 600" in each.message for each in events)
