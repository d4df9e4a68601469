"""Signatures: made before a version exists, and verified wherever one is used.

One key signs two things. First, each image's digest, in the registry, in cosign's format, so that anybody who runs an
image can verify it without this project. Second, the release as a whole, by a statement that names all of its images
and archives. It proves that they belong together, to which version and commit, and that none is missing; the signature
of an image cannot prove that.

The statement is in the store under its own digest, which the manifest names. So it exists before the version does, and
no manifest can be edited: one that leaves out a member or names another commit contradicts the statement, and a changed
statement is not signed. The statement does not say where members are, so a release is promoted with its statement and
its signatures, byte for byte.

Everything written here has the same bytes for the same release and key, so the next run finishes what a killed run
began.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from buildtools import Conflict, Drifted, Failures, Refused, Unreachable
from buildtools.audit import SIGNATURE, STATEMENT, Question, audit
from buildtools.crypto.envelope import NotSigned, opened, sealed
from buildtools.crypto.keys import PublicKeys, SigningKey
from buildtools.events import Warned, timed
from buildtools.image.registry.manifest import Damaged, digest_of
from buildtools.image.registry.simple_signing import (
    ImageSignature,
    add_signature,
    copy_signatures,
    payload_of,
    read_signatures,
)
from buildtools.release import Release, ReleasedImage, attestation_key, manifest_key
from buildtools.schedule import all_ended, awaited, run_graph
from buildtools.stages.planned import Planned
from buildtools.statement import Origin, contradictions, statement_of
from buildtools.task_context import TaskContext
from buildtools.version import Version

_Value = TypeVar("_Value")

_JOBS = 8
# Between reading the signatures of an image and writing them, a job sends two other requests.
_OTHERS_WRITE_SECONDS = 0.25
_LOOKS = 5
_PROBE = b"preflight"


def check_keys(task: TaskContext) -> None:
    """Check that a release can be signed, and that its signature would be accepted.

    :raises Refused: if a key cannot be read, or the signature would not be accepted.
    """
    key, keys, settings = task.services.signing_key, task.services.verify_keys, task.settings
    signature = key.sign(_PROBE) if key else b""
    if keys and not keys.verifies(_PROBE, signature):
        why = f"{settings.place('sign.key')} is another key" if key else "there is no sign.key"
        raise Refused(
            f"{settings.place('verify_key')} would not accept this release: {why}",
            "set sign = { key = … } to the private half of verify_key",
        )
    if key and not key.is_encrypted:
        path = settings.root / settings.sign["key"]
        # With `env:NAME` there is no such file.
        if path.is_file() and path.stat().st_mode & stat.S_IROTH:
            fact = f"{settings.place('sign.key')} is not encrypted, and every user of this machine can read {path}"
            task.run.report(Warned("", f"{fact}: `chmod 600` it"))


def sign_release(task: TaskContext, staged: Release) -> Release:
    """Sign a staged release; returns it with the digest of its statement, or unchanged if no key is set."""
    key = task.services.signing_key
    return timed(task.run.report, staged.version, "sign", partial(_sign, task, staged, key)) if key else staged


def signing_plan(task: TaskContext) -> tuple[Planned, ...]:
    """The plan to sign the release, if it would be signed."""
    is_signed = task.services.signing_key and not task.version.dirty
    return (Planned(task.version.text, "be signed"),) if is_signed else ()


def copy_release_signatures(task: TaskContext, target: TaskContext, release: Release, replica: Release) -> None:
    """Copy the signatures and the statement of a release to a target, byte for byte."""
    places = {image.name: image.repository for image in replica.images}

    def copy(image: ReleasedImage) -> None:
        source, place = task.services.registry_at(image.registry), places[image.name]
        try:
            copy_signatures(source, image.repository, target.services.registry, place, image.digest)
        except Refused:
            # Some registries deny access to what does not exist, such as the signatures of an unsigned release.
            if release.attestation:
                raise

    _each(release, copy)
    if release.attestation:
        put_statement(target, read_statement(task, release))


def read_statement(task: TaskContext, release: Release) -> bytes:
    """The signed statement about a release from the store; empty if the release has none.

    :raises Drifted: if it is not the one that the manifest names.
    """
    if not release.attestation:
        return b""
    content = task.services.store.read(attestation_key(release.attestation))
    if content is None or digest_of(content.data) != release.attestation:
        raise Drifted(f"the statement about {release.version} has changed", "restore it from a backup, and run again")
    return content.data


def refuse_unsigned(task: TaskContext, release: Release) -> None:
    """Raise :class:`Drifted` unless a release is signed as ``verify_key`` requires. Without that key, do nothing.

    :raises Drifted: if it is not signed, or not what was signed.
    """
    if task.services.verify_keys:
        without_members = replace(release, images=(), archives=())
        (proven,) = audit((without_members,), lambda _: None, lambda _: None, lambda _: proofs(task, release))
        if error := proven.error():
            raise error


def warn_of_unsigned(task: TaskContext, version: Version) -> None:
    """Warn that a version that this run has signed is released without its statement."""
    task.run.report(Warned("", f"{version} was released unsigned, and stays so; its images are signed now"))


def proofs(
    task: TaskContext,
    release: Release,
    ask: Callable[[str, Callable[[], str | None]], str | None] = lambda _, question: question(),
) -> list[Question]:
    """The questions about the signatures of a release.

    If its manifest names a statement, does that exist? With a ``verify_key``, has that key signed the statement and
    each image? ``ask`` sends a question to the service with the given name.
    """
    keys = task.services.verify_keys
    questions = []
    if keys or release.attestation:
        place = attestation_key(release.attestation) if release.attestation else "not named by the manifest"
        look_up = partial(ask, "store", partial(_statement_digest, task, release, keys))
        questions.append(Question(STATEMENT, release.version, place, release.attestation, look_up))
    if keys:
        questions += [
            Question(
                SIGNATURE,
                image.name,
                image.reference,
                image.digest,
                partial(ask, image.registry, partial(_signed_digest, task, image, keys)),
            )
            for image in release.images
        ]
    return questions


def _sign(task: TaskContext, staged: Release, key: SigningKey) -> Release:
    with ThreadPoolExecutor(1) as pool:
        images = pool.submit(_sign_images, task, staged, key)
        # The statement needs none of their signatures, and they take a while.
        signed = _with_statement(task, staged, key)
        all_ended((images,))
        images.result()
    return signed


def _sign_images(task: TaskContext, staged: Release, key: SigningKey) -> None:
    for _ in range(_LOOKS):
        if not any(_each(staged, partial(_sign_image, task, key)).values()):
            break
        # A job that signs with another key may be about to overwrite what it has not seen.
        task.run.cancelled.wait(_OTHERS_WRITE_SECONDS)


def _with_statement(task: TaskContext, staged: Release, key: SigningKey) -> Release:
    from buildtools.git.checkout import tag_object

    tag = f"{task.settings.tag_prefix}{task.version.base}" if task.version.is_release else ""
    tag_id = tag_object(task.settings.root, tag, task.run.environment) if tag else ""
    envelope = sealed(statement_of(staged, Origin(task.checkout.source, tag, tag_id)), key)
    version, store = Version.parse(staged.version), task.services.store
    content = store.read(manifest_key(version))
    existing = Release.parse(content.data, store.location(manifest_key(version))) if content else None
    # A released version keeps its statement, which may have another key, or come from another version of this tool.
    if existing and not existing.differences(staged) and existing.attestation != digest_of(envelope):
        if not existing.attestation:
            warn_of_unsigned(task, version)
        return replace(staged, attestation=existing.attestation)
    return replace(staged, attestation=put_statement(task, envelope))


def _sign_image(task: TaskContext, key: SigningKey, image: ReleasedImage) -> bool:
    payload = payload_of(image.registry, image.repository, image.digest)
    signature = ImageSignature(payload, key.sign(payload))
    return add_signature(task.services.registry_at(image.registry), image.repository, image.digest, signature)


def _is_signed(image: ReleasedImage, signatures: Sequence[ImageSignature], keys: PublicKeys) -> bool:
    return any(each.digest == image.digest and keys.verifies(each.payload, each.signature) for each in signatures)


def put_statement(task: TaskContext, envelope: bytes) -> str:
    """Store a signed statement and read it back; returns its digest.

    :raises Conflict: if there is something else in its place.
    """
    store, digest = task.services.store, digest_of(envelope)
    key = attestation_key(digest)
    store.create(key, envelope, "application/json")
    # A replicated store may show an object with a delay.
    content = awaited(lambda: store.read(key))
    if content is None:
        raise Unreachable(f"{store.location(key)} is not there after it was written", "check the store")
    if content.data != envelope:
        raise Conflict(f"{store.location(key)} has other content than its name says", "look at it, then delete it")
    return digest


def _statement_digest(task: TaskContext, release: Release, keys: PublicKeys | None) -> str | None:
    """The digest of the statement that a manifest names; None if it names none, or the statement does not exist.

    :raises Drifted: if none of the keys has signed it, or the manifest contradicts it.
    """
    content = task.services.store.read(attestation_key(release.attestation)) if release.attestation else None
    if content is None:
        return None
    digest = digest_of(content.data)
    if keys and digest == release.attestation:
        try:
            clauses = contradictions(opened(content.data, keys), release)
        except NotSigned as error:
            clauses = (error.fact,)
        if clauses:
            raise Drifted("; ".join(clauses))
    return digest


def _signed_digest(task: TaskContext, image: ReleasedImage, keys: PublicKeys) -> str | None:
    """The digest of an image that one of the keys has signed; None if it has no signature.

    :raises Drifted: if only other keys have signed it.
    """
    try:
        signatures = read_signatures(task.services.registry_at(image.registry), image.repository, image.digest)
    except Damaged as error:
        raise Drifted(error.fact) from None
    if signatures and not _is_signed(image, signatures, keys):
        raise Drifted("it is not signed with the key of verify_key")
    return image.digest if signatures else None


def _each(release: Release, work: Callable[[ReleasedImage], _Value]) -> Mapping[str, _Value]:
    """The results of ``work`` for each image, by name; several run at once.

    :raises BuildToolsError: with every failure.
    """
    images = {image.name: image for image in release.images}
    results = run_graph(dict.fromkeys(images, ()), lambda name: work(images[name]), jobs=_JOBS)
    if results.failed:
        raise Failures(results.failed.values()).combined(
            f"{len(results.failed)} of {len(images)} images are not signed", "fix the errors above and run again"
        )
    return results.done
