from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.events import Event, Log, Started, Step, Warned
from buildtools.image.assembly import Assembly, BuildOutcome, LocalImage, assemble
from buildtools.image.bases import find_bases
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.client import Engine
from buildtools.image.engine.engine_builder import EngineBuilder
from buildtools.image.folder.folders import image_folders
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import FINGERPRINT_LABEL
from buildtools.image.survey import BuildState, ImageStatus, engine_statuses, survey
from buildtools.settings import ImageSettings, Provenance, Settings
from buildtools.version import Version
from tests.conftest import EngineService
from tests.servers import Quiet, serving

VERSION = Version.parse("1.0.0")


class Project:
    """Image folders ``base`` and ``app`` (built on it), under names that no other test has."""

    def __init__(self, root: Path, engine: Engine, busybox: str) -> None:
        self.root, self.engine = root, engine
        self.busybox = busybox
        self.settings: dict[str, ImageSettings] = {}
        self.names: Callable[[str], tuple[str, ...]] = lambda name: (f"{name}:1.0.0",)
        self.mark = secrets.token_hex(4)
        self.base, self.app = f"base-{self.mark}", f"app-{self.mark}"
        self.write(self.base, f"FROM {busybox}\nRUN echo {self.mark} >/who\n")
        self.write(self.app, f"FROM {self.base}\nCOPY file /file\nRUN cat /who\n", file="one")

    def write(self, name: str, dockerfile: str, **files: str) -> None:
        folder = self.root / "src/docker" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in {"Dockerfile": dockerfile, **files}.items():
            (folder / file).write_text(text)

    def survey(
        self, base_errors: Mapping[str, BuildToolsError] | None = None, **proxies: str
    ) -> tuple[ImageStatus, ...]:
        folders = image_folders(Settings(root=self.root, image=self.settings), VERSION, proxies=proxies)
        cache = self.root / "cache"
        own_names = {f"{folder.name}:1.0.0" for folder in folders}
        bases = find_bases(folders, self.engine, Registry, Cache(cache), own_names)
        return engine_statuses(
            survey(folders, bases, cache=cache, base_errors=base_errors),
            self.engine,
            cache=cache,
        )

    def assemble(
        self,
        report: Callable[[Event], None] = lambda event: None,
        base_errors: Mapping[str, BuildToolsError] | None = None,
        anew: Collection[str] = (),
        targets: Collection[str] = (),
        **proxies: str,
    ) -> dict[str, LocalImage]:
        statuses = self.survey(base_errors, **proxies)
        return assemble(
            statuses,
            targets or [status.name for status in statuses],
            Assembly(self.root, self.root / "cache", {}, self.names, str, anew),
            builder=EngineBuilder(self.engine, Credentials(self.root, {}), {}),
            jobs=2,
            report=report,
            cancelled=threading.Event(),
        )

    def steps(self) -> list[str]:
        """What the engine says that it does."""
        heard: list[Event] = []
        self.assemble(heard.append)
        return [event.text for event in heard if isinstance(event, Step)]


@pytest.fixture
def project(connected: Engine, engine: EngineService, tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, connected, engine.base_busybox)
    yield made
    for image in connected.images(FINGERPRINT_LABEL):
        for tag in image.tags:
            if made.mark in tag:
                connected.untag(tag)


def test_what_is_up_to_date_is_only_named(project: Project) -> None:
    first = project.assemble()
    assert [BuildOutcome.BUILT, BuildOutcome.BUILT] == [image.outcome for image in first.values()]
    second = project.assemble()
    assert [BuildOutcome.UP_TO_DATE, BuildOutcome.UP_TO_DATE] == [image.outcome for image in second.values()]
    assert [image.image_id for image in first.values()] == [image.image_id for image in second.values()]


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_that_changes_while_it_is_built_makes_no_image(project: Project, named: bool) -> None:
    if not named:
        # As most variants of an image for several platforms are: known by their fingerprint alone.
        project.names = lambda _: ()

    def meddle(event: Event) -> None:
        if isinstance(event, Step) and event.subject == project.app:
            project.write(project.app, f"FROM {project.base}\nCOPY file /file\nRUN cat /who\n", file="two")

    with pytest.raises(BuildToolsError, match=r"changed while it was built .*file changed"):
        project.assemble(meddle)
    assert None is project.engine.inspect(f"{project.app}:1.0.0")
    assert [BuildState.UP_TO_DATE, BuildState.NOT_BUILT] == [status.state for status in project.survey()]


def test_a_build_knows_of_proxies_of_which_the_image_tells_nothing(project: Project) -> None:
    project.write(project.app, f"FROM {project.base}\nRUN echo {project.mark} by $HTTPS_PROXY\n")
    lines: list[str] = []

    def heard(event: Event) -> None:
        if isinstance(event, Log):
            lines.append(event.line)

    (_, app) = project.assemble(heard, HTTPS_PROXY="http://me:secret@proxy.example").values()
    assert f"{project.mark} by http://me:secret@proxy.example" in lines
    found = json.dumps([project.engine.inspect(app.image_id), project.engine.api.history(app.image_id)])
    assert "proxy.example" not in found
    # Through another proxy the same comes out.
    assert BuildOutcome.UP_TO_DATE == project.assemble(HTTPS_PROXY="http://other.example")[project.app].outcome


def test_a_build_is_offered_what_its_fingerprint_counts(project: Project) -> None:
    kept = "RUN test -e /all/kept && test ! -e /all/dropped && test ! -e /all/.dockerignore\n"
    files = {"kept": "", "dropped": "", ".dockerignore": "dropped\n.*\n"}
    project.write(project.app, f"FROM {project.base}\nCOPY . /all/\n{kept}", **files)
    assert not any("load .dockerignore" in step for step in project.steps())


def test_what_a_base_image_takes_by_itself_is_offered(project: Project) -> None:
    project.write(project.base, f"FROM {project.busybox}\nONBUILD COPY file /taken\nRUN echo {project.mark}\n")
    project.write(project.app, f"FROM {project.busybox}\n")
    image = project.assemble()[project.base]
    outside = f"{project.mark}-outside:1"
    project.engine.tag(image.image_id, outside)
    project.write(project.app, f"FROM {outside}\nRUN grep one /taken\n", file="one")
    try:
        assert BuildOutcome.BUILT is project.assemble()[project.app].outcome
    finally:
        project.engine.untag(outside)


@pytest.mark.parametrize("reason", ["a frontend of its own", "a base image that nobody has seen"])
def test_where_that_is_not_known_the_engine_chooses(project: Project, reason: str) -> None:
    if reason == "a frontend of its own":
        syntax = f"# syntax=docker/dockerfile:{project.mark}\n"
        project.write(project.app, f"{syntax}FROM {project.base}\nCOPY file /\n")
        (_, status) = project.survey()
    else:
        project.write(project.app, f"FROM localhost:1/{project.mark}@sha256:{'0' * 64}\nCOPY file /\n")
        (status, _) = project.survey()
    assert None is status.selection()


def test_a_base_that_cannot_be_had_stops_only_what_is_built_on_it(project: Project) -> None:
    nowhere, child = f"localhost:1/{project.mark}", f"child-{project.mark}"
    project.write(f"alone-{project.mark}", f"FROM {nowhere}\n")
    project.write(child, f"FROM alone-{project.mark}\n")
    error = Unreachable(f"the engine cannot pull {nowhere}", "start its registry")
    with pytest.raises(Unreachable, match=rf"1 of 4 images failed: alone-.*skipped for that: {child}") as caught:
        project.assemble(base_errors={nowhere: error})
    assert str(error) in str(caught.value)
    states = {status.name: status.state for status in project.survey()}
    assert [BuildState.UP_TO_DATE] * 2 == [states[project.base], states[project.app]]


@pytest.mark.parametrize(
    ("syntax", "names"),
    [("", {"READ"}), ("docker/dockerfile:1-labs", {"READ"}), ("x/y:1", {"READ", "UNREAD", "VERSION"})],
)
def test_only_a_frontend_that_we_do_not_know_gets_undeclared_arguments(
    project: Project, syntax: str, names: set[str]
) -> None:
    header = f"# syntax={syntax}\n" if syntax else ""
    project.write(project.app, f"{header}FROM scratch\nARG READ\n")
    project.settings[project.app] = ImageSettings(args={"READ": "1", "UNREAD": "2"})
    (status,) = [each for each in project.survey() if each.name == project.app]
    assert names == set(status.arguments())
    assert bool(syntax) == (status.selection() is None)


def test_a_proxy_with_a_login_is_not_told_to_a_build_that_publishes_its_arguments(project: Project) -> None:
    login, plain = "http://me:secret@proxy.example", "http://proxy.example"
    project.settings[project.app] = ImageSettings(provenance=Provenance.MAX)
    with pytest.raises(Refused) as refusal:
        project.assemble(https_proxy=login, NO_PROXY="me@home")
    assert f'image.{project.app}: provenance = "max" would publish the login in https_proxy' in refusal.value.fact
    assert "secret" not in str(refusal.value)
    # An engine with the classic store cannot attest anything, and says that instead.
    expected = (
        nullcontext() if project.engine.containerd_store else pytest.raises(Refused, match=r"^provenance \(of app-")
    )
    with expected:
        project.assemble(https_proxy=plain, UNDECLARED=login)


def test_a_secret_that_a_dockerfile_requires_is_asked_for_before_its_parent_is_built(project: Project) -> None:
    project.write(project.app, f"FROM {project.base}\nRUN --mount=type=secret,id=token,required true\n")
    events: list[Event] = []
    with pytest.raises(Refused, match=f"^image.{project.app}: its Dockerfile requires the secret token: name it in"):
        project.assemble(events.append)
    assert [] == [event for event in events if isinstance(event, Started)]


def test_digests_of_files_are_loaded_once_for_all_images(project: Project) -> None:
    project.write(project.base, f"FROM {project.busybox}\nCOPY file /\nRUN echo {project.mark} >/who\n", file="one")

    def forge(event: Event) -> None:
        if isinstance(event, Started) and event.subject == project.app:
            file = project.root / "src/docker" / project.app / "file"
            status = file.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
            text = json.dumps({str(file): f"{stamp} {'0' * 64}"}).encode()
            (project.root / "cache/contents").write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)

    assert [BuildOutcome.BUILT, BuildOutcome.BUILT] == [image.outcome for image in project.assemble(forge).values()]


def test_a_parent_whose_version_tag_is_moved_meanwhile_is_still_the_right_parent(project: Project) -> None:
    other = Project(project.root / "other", project.engine, "scratch")
    other.write(other.base, "FROM scratch\nCOPY file /other\n", file="x")
    other.write(other.app, f"FROM {other.base}\nCOPY file /file\n", file="y")
    stranger = other.assemble()[other.base].image_id

    def meddle(event: Event) -> None:
        if isinstance(event, Started) and event.subject == project.app:
            project.engine.tag(stranger, f"{project.base}:1.0.0")

    built = project.assemble(meddle)
    layers = {
        name: project.engine.inspect(image.image_id)["RootFS"]["Layers"]  # type: ignore[index]  # it was just built
        for name, image in built.items()
    }
    assert layers[project.base] == layers[project.app][: len(layers[project.base])]
    for name in (other.base, other.app):
        project.engine.untag(f"{name}:1.0.0")


def test_what_is_made_on_top_of_an_image_is_not_taken_for_it(project: Project) -> None:
    built = project.assemble()[project.app].image_id
    container = project.engine.api.create_container(built, "true")
    project.engine.api.commit(container, repository=project.app, tag="patched")
    project.engine.api.remove_container(container)
    assert [built] == [status.image_id for status in project.survey() if status.name == project.app]
    for tag in next(status.tags for status in project.survey() if status.name == project.app):
        project.engine.untag(tag)
    assert [BuildState.UP_TO_DATE, BuildState.STALE] == [status.state for status in project.survey()]


def test_another_projects_image_of_the_same_name_is_not_taken_for_an_older_one(project: Project) -> None:
    project.assemble()
    other = Project(project.root / "other", project.engine, "scratch")
    other.mark, other.base, other.app = project.mark, project.base, project.app
    for name in (other.base, other.app):
        other.write(name, "FROM scratch\nCOPY file /other\n", file=name)
    statuses = {each.name: each for each in other.survey()}
    for name in (project.base, project.app):
        why = f"the engine's newest {name} has other inputs, and this project has no record of them here"
        assert (BuildState.NOT_BUILT, (why,)) == (statuses[name].state, statuses[name].why)


def test_what_is_too_old_is_built_without_what_the_engine_remembers(project: Project) -> None:
    project.write(project.base, f"FROM {project.busybox}\nRUN cat /proc/sys/kernel/random/uuid >/who\n")
    project.settings[project.base] = ImageSettings(rebuild_after=1e-9)
    first, second = project.assemble(), project.assemble()
    assert BuildOutcome.BUILT is second[project.base].outcome
    layers = [
        project.engine.inspect(each[project.base].image_id)["RootFS"]["Layers"]  # type: ignore[index]  # just built
        for each in (first, second)
    ]
    assert layers[0] != layers[1]


def test_a_parent_that_was_built_anew_makes_its_children_stale(project: Project) -> None:
    project.write(project.base, f"FROM {project.busybox}\nRUN cat /proc/sys/kernel/random/uuid >/who\n")
    first = project.assemble()
    again = project.assemble(anew=[project.base], targets=[project.base])
    assert first[project.base].image_id != again[project.base].image_id
    (base, app) = project.survey()
    assert (BuildState.UP_TO_DATE, BuildState.STALE) == (base.state, app.state)
    assert (f"built on another build of its parent {project.base}",) == app.why
    assert [BuildOutcome.UP_TO_DATE, BuildOutcome.BUILT] == [image.outcome for image in project.assemble().values()]
    assert [BuildState.UP_TO_DATE] * 2 == [status.state for status in project.survey()]


def test_a_parent_of_which_only_a_copy_was_taken_counts_too(project: Project) -> None:
    project.write(project.base, f"FROM {project.busybox}\nRUN cat /proc/sys/kernel/random/uuid >/{project.mark}\n")
    project.write(project.app, f"FROM scratch\nCOPY --from={project.base} /{project.mark} /\n")
    project.assemble()
    project.assemble(anew=[project.base], targets=[project.base])
    assert BuildOutcome.BUILT is project.assemble()[project.app].outcome


def test_a_parent_that_is_the_same_when_it_is_built_anew_stays_the_same_parent(project: Project) -> None:
    project.write(project.base, f"FROM scratch\nCOPY file /{project.mark}\n", file="")
    project.write(project.app, f"FROM {project.base}\nCOPY file /file\n", file="one")
    (project.root / "src/docker" / project.base / "file").write_text(project.mark)
    project.assemble()
    project.assemble(anew=[project.base], targets=[project.base])
    assert [BuildState.UP_TO_DATE] * 2 == [status.state for status in project.survey()]


class Clock(Quiet, BaseHTTPRequestHandler):
    """Answers each GET with something else."""

    def do_GET(self) -> None:
        body = secrets.token_hex().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_what_is_added_from_a_url_is_asked_for_again(project: Project) -> None:
    with serving(Clock) as address:
        url = f"http://{address}/file"
        project.write(project.app, f"FROM {project.busybox}\nADD {url} /{project.mark}\n")
        first = project.assemble()[project.app]
        (status,) = (each for each in project.survey() if each.name == project.app)
        assert BuildState.STALE is status.state
        assert (f"ADD {url} may bring something else by now: give it a checksum or a commit",) == status.why
        second = project.assemble()[project.app]
    assert first.image_id != second.image_id


def test_a_name_that_another_project_has_given_its_image_is_moved_with_a_warning(
    project: Project, tmp_path: Path
) -> None:
    other = Project(tmp_path / "other", project.engine, project.busybox)
    other.base, other.app = project.base, project.app
    other.write(other.app, f"FROM {project.busybox}\nCOPY file /file\n", file="other")
    heard: list[Event] = []
    first = other.assemble()[project.app]
    ours = project.assemble(heard.append)[project.app]
    name = f"{project.app}:1.0.0"
    (warning,) = (event.message for event in heard if isinstance(event, Warned) and event.subject == project.app)
    assert warning.startswith(f"{name} was another image, {first.image_id}")
    assert ours.image_id == (project.engine.inspect(name) or {})["Id"]

    # The other one is up to date, and puts its name right.
    heard.clear()
    assert BuildOutcome.UP_TO_DATE is other.assemble(heard.append)[project.app].outcome
    assert first.image_id == (project.engine.inspect(name) or {})["Id"]
    assert [warning.replace(first.image_id, ours.image_id)] == [e.message for e in heard if isinstance(e, Warned)]


def test_a_name_of_an_image_that_was_built_here_is_moved_without_a_word(project: Project) -> None:
    heard: list[Event] = []
    project.assemble()
    # A build that fails between them replaces nothing.
    project.write(project.app, f"FROM {project.base}\nCOPY absent /\n")
    with pytest.raises(BuildToolsError, match="absent: not found"):
        project.assemble()
    project.write(project.app, f"FROM {project.base}\nCOPY file /file\n", file="two")
    project.assemble(heard.append)
    assert [] == [event for event in heard if isinstance(event, Warned)]


def test_an_image_from_outside_that_is_called_like_ours_stays_the_base(project: Project) -> None:
    name = f"{project.app}:1.0.0"
    project.engine.tag((project.engine.inspect(project.busybox) or {})["Id"], name)
    project.write(project.app, f"FROM {name}\nCOPY file /file\n", file="one")
    project.write(project.base, f"FROM {name}\nRUN test ! -e /file\n")
    first = project.assemble()
    assert first[project.app].image_id == (project.engine.inspect(name) or {})["Id"]
    assert [BuildState.UP_TO_DATE] * 2 == [status.state for status in project.survey()]
    project.write(project.app, f"FROM {name}\nRUN test ! -e /file\n")
    assert BuildOutcome.BUILT is project.assemble()[project.app].outcome
    project.engine.untag(f"{name}-outside")
    states = {status.name: status.state for status in project.survey()}
    assert {project.app: BuildState.UNKNOWN, project.base: BuildState.UNKNOWN} == states
