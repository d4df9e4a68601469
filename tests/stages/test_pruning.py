"""Releases are taken away from a real registry and a real store, and what is needed stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from buildtools import BuildToolsError, Conflict, Drifted, Refused, pipeline
from buildtools.audit import Verification
from buildtools.channel import Channel, channel_key
from buildtools.events import Warned
from buildtools.gates import Gates, gates_key
from buildtools.image.registry.lookup import fingerprint_tag, move_tag, tag_digest
from buildtools.release import Release, manifest_key, prunes_of
from buildtools.stages.channels import move_forward, roll_back, show_channel
from buildtools.stages.promotion import target_task
from buildtools.stages.pruning import PruneState, prune_releases
from buildtools.stages.releases import claim_version, commit, refuse_pruned
from buildtools.stages.verification import audit_releases, verify_all
from buildtools.version import Version
from tests.conftest import S3Service, make_repository
from tests.contract.registries import own_registry
from tests.faults.proxy import Wire, wire_to
from tests.releases import ReleasePlace, digests, release_place

OLD, RECENT = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def deleting_registry(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Iterator[str]:
    with own_registry(tmp_path_factory.mktemp("own"), environment) as registry:
        yield registry.host


@pytest.fixture
def place(
    tmp_path: Path, deleting_registry: str, s3: S3Service, environment: Mapping[str, str]
) -> Iterator[ReleasePlace]:
    repository = make_repository(tmp_path / "repository")
    repository.commit("all")
    repository.tag("v0.9.0")
    with release_place(repository.path, deleting_registry, s3, environment, tag_prefix="v") as place:
        yield place


def prune(place: ReleasePlace, keep: int = 1, days: int = 30, *, dry_run: bool = False) -> dict[str, str]:
    """What keeps each version; empty for one that was pruned."""
    with place.task(dry_run=dry_run) as task:
        entries = prune_releases(task, keep, days)
    assert [bool(entry.why) for entry in entries if entry.state is PruneState.KEPT].count(False) == 0
    return {entry.version: entry.why if entry.state is PruneState.KEPT else "" for entry in entries}


def begin_to_prune(place: ReleasePlace, release: Release) -> str:
    """The key of the record that a run leaves that is killed before it deletes anything."""
    key = f"{prunes_of(Version.parse(release.version))}killed.json"
    assert place.store.create(key, release.manifest(), "application/json")
    return key


def keys(place: ReleasePlace) -> list[str]:
    return [entry.key for entry in place.store.list()]


def keys_below(place: ReleasePlace, prefix: str) -> list[str]:
    return [key for key in keys(place) if key.startswith(prefix)]


def is_intact(place: ReleasePlace) -> bool:
    with place.task() as task:
        return verify_all(task, deep=False).error() is None


def test_an_old_release_goes_with_all_that_it_has_and_the_others_stay(place: ReleasePlace) -> None:
    old = place.release("1.0.0", archives=("daemon",), created=OLD)
    new = place.release("1.1.0", archives=("daemon",), created=OLD)
    assert {"1.1.0": "one of the newest 1", "1.0.0": ""} == prune(place)
    assert {"app": "", "web": ""} == place.tags("1.0.0")
    assert [None] == [place.store.head(old.archives[0].key)]
    assert ["claims/1.1.0.json", new.archives[0].key, "releases/1.1.0.json"] == keys(place)
    assert is_intact(place)
    assert {"1.1.0": "one of the newest 1"} == prune(place)


def test_a_dry_run_says_the_same_and_touches_nothing(place: ReleasePlace) -> None:
    for version in ("1.0.0", "1.1.0"):
        place.release(version, archives=("daemon",), created=OLD)
    before = keys(place)
    assert {"1.1.0": "one of the newest 1", "1.0.0": ""} == prune(place, dry_run=True)
    assert before == keys(place)
    assert is_intact(place)


def test_versions_of_one_prefix_are_pruned_alone(place: ReleasePlace) -> None:
    for version in ("1.4.0", "1.4.1", "1.5.0", "1.40.0"):
        place.release(version, ("app",), created=OLD)
    with place.task() as task:
        entries = {entry.version: entry.why for entry in prune_releases(task, 1, 30, "1.4.")}
    assert {"1.4.1": "one of the newest 1 of 1.4.", "1.4.0": ""} == entries
    assert ["1.4.1", "1.40.0", "1.5.0"] == [key[9:-5] for key in keys(place) if key.startswith("releases/")]
    assert is_intact(place)


def test_what_something_points_to_is_kept(place: ReleasePlace) -> None:
    for version in ("0.9.0", "1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0"):
        place.release(version, ("app",), created=OLD)
    place.release("1.6.0", ("app",), created=RECENT)
    with place.task() as task:
        for version in ("1.1.0", "1.2.0", "1.3.0"):
            move_forward(task, "stage", Version.parse(version))
        roll_back(task, "stage", None)
    promoted = Gates("1.4.0", "c" * 40).with_gate("production")
    place.store.create(gates_key(Version.parse("1.4.0")), promoted.document(), "application/json")
    # A passed trial is none that somebody needs.
    tried = Gates("1.3.0", "d" * 40).with_gate("stage")
    place.store.create(gates_key(Version.parse("1.3.0")), tried.document(), "application/json")
    assert {
        "1.6.0": "one of the newest 1",
        "1.5.0": "",
        "1.4.0": "it was promoted",
        "1.3.0": "",
        "1.2.0": "the channel stage needs it",
        "1.1.0": "the channel stage needs it",
        "1.0.0": "",
        "0.9.0": "there is a git tag of it",
    } == prune(place)
    assert is_intact(place)
    assert ["releases/1.4.0.gates.json"] == [key for key in keys(place) if key.endswith(".gates.json")]
    with place.task() as task:
        assert "1.1.0" == roll_back(task, "stage", None).version


def test_what_the_tags_of_a_channel_still_point_to_is_kept(place: ReleasePlace) -> None:
    old, new = place.release("1.0.0", ("app", "web"), created=OLD), place.release("1.1.0", created=OLD)
    place.release("1.2.0", created=RECENT)
    for version in ("1.0.0", "1.1.0"):
        with place.task() as task:
            move_forward(task, "stage", Version.parse(version))
    # A run that rolled it back was killed when it had moved one tag.
    place.store.delete(channel_key("stage"))
    channel = Channel("stage").moved_to(old).moved_to(new).moved_to(old)
    assert place.store.create(channel_key("stage"), channel.document(), "application/json")
    move_tag(place.client, old.images[0].repository, "stage", old.images[0].digest)
    assert "tags of the channel stage are still there" == prune(place)["1.1.0"]
    with place.task() as task:
        assert 1 == len(show_channel(task, "stage").tags)
    assert "" == prune(place)["1.1.0"]
    assert digests(old) == place.tags("stage")


def test_a_young_release_is_kept(place: ReleasePlace) -> None:
    for version, created in (("1.0.0", OLD), ("1.1.0", RECENT), ("1.2.0", "some day"), ("1.3.0", OLD)):
        place.release(version, ("app",), created=created.replace(" ", "-"))
    kept = prune(place)
    assert {"1.2.0": "younger than 30 days", "1.1.0": "younger than 30 days", "1.0.0": ""} == {
        version: why for version, why in kept.items() if version != "1.3.0"
    }


def test_images_and_fingerprints_of_other_releases_stay(place: ReleasePlace) -> None:
    old, new = place.release("1.0.0", created=OLD), place.release("1.1.0", created=OLD)
    app, web = old.images
    for image, fingerprint in ((app, "a" * 64), (web, "b" * 64)):
        built = place.put_image(image.name, fingerprint_tag(fingerprint))
        assert built.digest == tag_digest(place.client, image.repository, fingerprint_tag(fingerprint))
    # The app of the newer release is the very same image, its web was built from the same inputs.
    move_tag(place.client, app.repository, "1.1.0", app.digest)
    rewrite(place, replace(old, images=(replace(app, fingerprint="a" * 64), replace(web, fingerprint="b" * 64))))
    images = (replace(app, tag="1.1.0", fingerprint="c" * 64), replace(new.images[1], fingerprint="b" * 64))
    rewrite(place, replace(new, images=images))
    assert "" == prune(place)["1.0.0"]
    assert is_intact(place)
    tags = [fingerprint_tag(letter * 64) for letter in "ab"]
    assert [None, True] == [
        tag_digest(place.client, image.repository, tag) and True for image, tag in zip((app, web), tags, strict=True)
    ]


def rewrite(place: ReleasePlace, release: Release) -> None:
    key = manifest_key(Version.parse(release.version))
    place.store.delete(key)
    assert place.store.create(key, release.manifest(), "application/json")


def test_what_cannot_be_read_may_point_to_anything(place: ReleasePlace) -> None:
    for version in ("1.0.0", "1.1.0"):
        place.release(version, ("app",), created=OLD)
    for key in ("channels/stage.json", "releases/1.2.0.json"):
        place.store.create(key, b"<html>", "application/json")
        with pytest.raises(BuildToolsError, match="is not a"):
            prune(place)
        place.store.delete(key)
    assert is_intact(place)


def test_without_git_tags_nothing_is_pruned(
    tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    repository = make_repository(tmp_path / "repository")
    repository.commit("all")
    with release_place(repository.path, registry, s3, environment) as place:
        for version in ("1.0.0", "1.1.0"):
            place.release(version, ("app",), created=OLD)
        with pytest.raises(Refused, match="this repository has no tags"):
            prune(place)
        assert is_intact(place)


def test_nobody_publishes_or_points_to_a_version_that_is_being_pruned(place: ReleasePlace) -> None:
    release = place.release("1.0.0", ("app",), created=OLD)
    version = Version.parse("1.0.0")
    place.store.delete("claims/1.0.0.json")
    begin_to_prune(place, release)
    for _ in range(2):
        with place.task() as task, pytest.raises(Conflict, match="is being pruned"):
            claim_version(task, version, release.commit)
    with place.task() as task, pytest.raises(Conflict, match="is being pruned"):
        move_forward(task, "stage", version)
    assert None is place.store.head("channels/stage.json")


def test_a_version_that_is_pruned_while_it_is_released_again_gets_no_manifest(place: ReleasePlace) -> None:
    version = Version.parse("1.0.0")
    release = place.release("1.0.0", ("app",), created=OLD)
    place.release("1.1.0", ("app",), created=OLD)
    # All was read back; then it is pruned: begun with, and done.
    place.store.delete(manifest_key(version))
    begin_to_prune(place, release)
    with place.task() as task, pytest.raises(Conflict, match="is being pruned"):
        commit(task, release)
    assert {"1.1.0": "one of the newest 1", "1.0.0": ""} == prune(place)
    with (
        place.task() as task,
        pytest.raises(Conflict, match=r"1\.0\.0 was pruned while it was released: run the same command again"),
    ):
        commit(task, release)
    assert is_intact(place)
    assert None is place.store.head(manifest_key(version))


def test_who_prunes_sees_a_channel_that_was_moved_meanwhile(place: ReleasePlace) -> None:
    release = place.release("1.0.0", ("app",), created=OLD)
    begin_to_prune(place, release)
    channel = Channel("stage").moved_to(release).document()
    place.store.create("channels/stage.json", channel, "application/json")
    place.release("1.1.0", ("app",), created=OLD)
    assert "the channel stage needs it" == prune(place)["1.0.0"]


@pytest.fixture
def raced(
    tmp_path: Path, deleting_registry: str, s3: S3Service, environment: Mapping[str, str]
) -> Iterator[tuple[ReleasePlace, Wire]]:
    """A place whose store is reached over a wire."""
    repository = make_repository(tmp_path / "repository")
    repository.commit("all")
    repository.tag("0.1.0")
    with (
        wire_to(s3.endpoint.removeprefix("http://")) as wire,
        release_place(
            repository.path, deleting_registry, s3, environment, s3_endpoint=f"http://{wire.address}"
        ) as place,
    ):
        yield place, wire


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_channel_stays_where_it_was_if_the_version_is_pruned_before_it_is_seen_there(
    is_finished: bool, raced: tuple[ReleasePlace, Wire]
) -> None:
    place, wire = raced
    old, _ = (place.release(version, ("app",), created=OLD) for version in ("1.0.0", "1.2.0"))
    with place.task() as task:
        move_forward(task, "stage", Version.parse("1.2.0"))
    outcomes: list[dict[str, str]] = []

    def prune_before_the_write(data: bytes) -> bytes:
        if data.startswith(b"PUT ") and b"/channels/stage.json " in data and not outcomes:
            outcomes.append({})
            if is_finished:
                outcomes[0] |= prune(place)
            else:
                begin_to_prune(place, old)
        return data

    wire.sent = prune_before_the_write
    reason = "was pruned while stage was moved to it" if is_finished else "is being pruned"
    with place.task() as task, pytest.raises(Conflict, match=reason):
        roll_back(task, "stage", Version.parse("1.0.0"))
    with place.task() as task:
        state = show_channel(task, "stage")
    assert (["1.2.0"], ()) == ([move.version for move in state.channel.moves], state.tags)
    assert "" == prune(place).get("1.0.0", "")


def test_who_keeps_a_version_does_not_hide_another_run_that_prunes_it(raced: tuple[ReleasePlace, Wire]) -> None:
    place, wire = raced
    old, _ = (place.release(version, ("app",), created=OLD) for version in ("1.0.0", "1.1.0"))
    other_is_about_to_delete, may_delete = Event(), Event()
    with ThreadPoolExecutor() as pool:
        others: list[Future[dict[str, str]]] = []

        def move_a_channel_in_between(data: bytes) -> bytes:
            if data.startswith(b"DELETE ") and b"/releases/1.0.0.json " in data:
                other_is_about_to_delete.set()
                assert may_delete.wait(60)
            elif data.startswith(b"PUT ") and b"/prunes/1.0.0/" in data and not others:
                others.append(pool.submit(prune, place))
                assert other_is_about_to_delete.wait(60)
                channel = Channel("stage").moved_to(old).document()
                assert place.store.create("channels/stage.json", channel, "application/json")
            return data

        wire.sent = move_a_channel_in_between
        try:
            assert "the channel stage needs it" == prune(place)["1.0.0"]
            # So the run that moved the channel moves it back.
            with place.task() as task, pytest.raises(Conflict, match="is being pruned"):
                refuse_pruned(task, Version.parse("1.0.0"))
        finally:
            may_delete.set()
        assert [""] == [other.result()["1.0.0"] for other in others]


@pytest.mark.parametrize("look", range(1, 5), ids=["manifest", "archive", "images", "claim"])
def test_a_slow_run_that_another_has_finished_leaves_a_version_alone_that_was_published_again(
    look: int, raced: tuple[ReleasePlace, Wire]
) -> None:
    place, wire = raced
    for version in ("1.0.0", "1.1.0"):
        place.release(version, archives=("daemon",), created=OLD)
    looks: list[bytes] = []

    def be_slow(data: bytes) -> bytes:
        if data.startswith(b"HEAD ") and b"/prunes/1.0.0/" in data:
            looks.append(data)
            if len(looks) == look:
                wire.sent = bytes
                assert "" == prune(place)["1.0.0"]
                place.release("1.0.0", archives=("daemon",), created=OLD)
        return data

    wire.sent = be_slow
    assert "" == prune(place)["1.0.0"]
    assert [] == keys_below(place, "prunes/")
    assert "1.0.0" in prune(place, keep=5)
    assert is_intact(place)


def test_two_runs_that_prune_at_once_delete_the_same(place: ReleasePlace) -> None:
    for version in ("1.0.0", "1.1.0"):
        place.release(version, archives=("daemon",), created=OLD)
    with ThreadPoolExecutor() as pool:
        outcomes = [each.result() for each in [pool.submit(prune, place) for _ in range(2)]]
    assert {""} == {outcome.get("1.0.0", "") for outcome in outcomes}
    assert {"app": "", "web": ""} == place.tags("1.0.0")
    assert ["claims/1.1.0.json", "daemon/daemon-1.1.0.tgz", "releases/1.1.0.json"] == keys(place)
    assert is_intact(place)


def test_what_a_killed_run_began_is_finished(place: ReleasePlace) -> None:
    old = place.release("1.0.0", archives=("daemon",), created=OLD)
    place.release("1.1.0", created=OLD)
    version = Version.parse("1.0.0")
    begin_to_prune(place, old)
    place.store.delete(manifest_key(version))
    assert {"1.1.0": "one of the newest 5", "1.0.0": ""} == prune(place, keep=5)
    assert ["claims/1.1.0.json", "releases/1.1.0.json"] == keys(place)
    assert {"app": "", "web": ""} == place.tags("1.0.0")


def test_what_a_killed_run_began_and_this_one_keeps_is_named(place: ReleasePlace) -> None:
    release = place.release("1.0.0", ("app",), created=OLD)
    place.release("1.1.0", ("app",), created=OLD)
    record = begin_to_prune(place, release)
    assert "one of the newest 5" == prune(place, keep=5)["1.0.0"]
    (message,) = [event.message for event in place.events if isinstance(event, Warned)]
    assert message.endswith(f"delete {place.store.location(record)} to keep it")
    # Another run may be about to delete the manifest.
    assert place.store.head(record)


def test_a_registry_that_does_not_delete_keeps_its_tags_and_is_named(
    tmp_path: Path, s3: S3Service, environment: Mapping[str, str]
) -> None:
    repository = make_repository(tmp_path / "repository")
    repository.commit("all")
    repository.tag("0.1.0")
    storage = {
        "filesystem": {"rootdirectory": str(tmp_path / "store")},
        "maintenance": {"uploadpurging": {"enabled": False}},
    }
    with (
        own_registry(tmp_path / "registry", environment, storage=storage) as registry,
        release_place(repository.path, registry.host, s3, environment) as place,
    ):
        for version in ("1.0.0", "1.1.0"):
            place.release(version, ("app", "web"), created=OLD)
        assert "" == prune(place)["1.0.0"]
        (message,) = [event.message for event in place.events if isinstance(event, Warned)]
        assert message.startswith("the registry does not delete, so images of 1.0.0 stay: ")
        assert message.endswith("/app:1.0.0 and 1 more")
        with place.task() as task:
            (audit,) = audit_releases(task, [place.release("1.2.0", ("app",))])
        assert None is Verification((audit,)).error()
    assert "releases/1.0.0.json" not in keys(place)


def test_a_release_that_is_pruned_while_it_is_promoted_is_not_in_the_target_in_part(
    tmp_path: Path, deleting_registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    repository = make_repository(tmp_path / "repository")
    repository.commit("all")
    repository.tag("0.1.0")
    bucket = s3.bucket()
    target = {"production": {"namespace": f"{bucket}/production", "artifacts": f"s3://{bucket}/production"}}
    with (
        wire_to(deleting_registry) as wire,
        release_place(repository.path, wire.address, s3, environment, target=target) as place,
    ):
        for version in ("1.0.0", "1.1.0"):
            place.release(version, ("app",), ("daemon",), created=OLD)
        outcomes: list[dict[str, str]] = []

        def prune_at_first_blob(data: bytes) -> bytes:
            if b"?mount=" in data and not outcomes:
                outcomes.append({})
                outcomes[0] |= prune(place)
            return data

        wire.sent = prune_at_first_blob
        with place.task() as task, pytest.raises(Drifted, match=r"daemon-1\.0\.0\.tgz does not exist"):
            pipeline.promote(task.run, "1.0.0", "production")
        assert "" == outcomes[0]["1.0.0"]
        with place.task() as task, target_task(task, "production") as production:
            assert Verification(()) == verify_all(production, deep=False)
        assert is_intact(place)
