"""A repository of a stranger that uses the tool, and the world it releases into, looked at without the tool."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from buildtools.image.registry.manifest import ACCEPTED
from tests.conftest import EngineService, Repository, S3Service, make_repository

MANIFEST_KINDS = ", ".join(ACCEPTED)
_INVOKE = (sys.executable, "-m", "invoke")


@dataclass(frozen=True)
class Outcome:
    """How one command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line of all that a person sees."""
        return (self.err or self.out).rstrip("\n").rpartition("\n")[2]

    @property
    def document(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Place:
    """A registry, a bucket and an engine, and what opens them. ``secrets`` must never be seen anywhere."""

    registry: str
    login: str = field(repr=False)
    s3: S3Service
    bucket: str
    engine: EngineService
    variables: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def request(
        self, method: str, path: str, content: bytes | None = None, /, **headers: str
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """One answer of the registry."""
        authorization = (
            {"Authorization": f"Basic {base64.b64encode(self.login.encode()).decode()}"} if self.login else {}
        )
        url = f"http://{self.registry}/v2/{path}"
        request = urllib.request.Request(url, content, method=method, headers={**authorization, **headers})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)

    def digest(self, repository: str, tag: str) -> str:
        """What a tag points to; empty where there is none."""
        status, _, headers = self.request("HEAD", f"{repository}/manifests/{tag}", Accept=MANIFEST_KINDS)
        return headers["Docker-Content-Digest"] if status == 200 else ""

    def tags(self, *repositories: str) -> dict[str, str]:
        """Every tag of these repositories and what it points to."""
        found = {}
        for repository in repositories:
            status, body, _ = self.request("GET", f"{repository}/tags/list")
            for tag in (json.loads(body)["tags"] or ()) if status == 200 else ():
                found[f"{repository}:{tag}"] = self.digest(repository, tag)
        return found

    def objects(self, *, of_preflight: bool = False) -> dict[str, tuple[str, str]]:
        """Every object of the bucket, its ETag and when it was written; on request with what a preflight leaves."""
        with closing(self.client()) as client:
            listed = client.list_objects_v2(Bucket=self.bucket).get("Contents", ())
            return {
                entry["Key"]: (entry["ETag"], str(entry["LastModified"]))
                for entry in listed
                if of_preflight or not entry["Key"].endswith("/.buildtools-access")
            }

    def read(self, key: str) -> bytes:
        """An object's content."""
        with closing(self.client()) as client:
            content: bytes = client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            return content

    def client(self) -> Any:
        """A client of the S3 server, to be closed."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.s3.endpoint,
            region_name=self.s3.region,
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
        )


@dataclass(frozen=True)
class Project(Repository):
    """A repository that uses the tool. ``mark`` is part of every name in it, for the engine is shared by all tests."""

    place: Place = field(repr=False)
    mark: str = ""
    home: Path = field(default=Path("/nonexistent"))

    def name(self, short: str) -> str:
        """The image or distribution called so here."""
        return f"{short}-{self.mark}"

    def repository(self, short: str) -> str:
        """An image's repository in the registry."""
        return f"e2e/{self.mark}/{self.name(short)}"

    def reference(self, short: str, tag: str) -> str:
        """An image's full reference."""
        return f"{self.place.registry}/{self.repository(short)}:{tag}"

    def configure(self, **extra: Any) -> None:
        """Write ``pyproject.toml``; a table is given as ``{"args": {...}}``."""
        settings = {
            "registry": self.place.registry,
            "namespace": f"e2e/{self.mark}",
            "artifacts": f"s3://{self.place.bucket}/{self.mark}",
            **extra,
        }
        lines = ["[tool.buildtools]", *toml_lines(settings, "tool.buildtools")]
        self.write("pyproject.toml", "\n".join(lines) + "\n")

    def image(self, short: str, dockerfile: str, **files: str) -> None:
        """Write an image folder. ``{base}`` is a base image with a shell, ``{mark}`` makes names of siblings."""
        text = dockerfile.replace("{base}", self.place.engine.base_busybox).replace("{mark}", self.mark)
        self.write(f"src/docker/{self.name(short)}/Dockerfile", text)
        for name, content in files.items():
            self.write(f"src/docker/{self.name(short)}/{name}", content)

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of a command here."""
        own = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        return {**self.place.variables, **own, **variables}

    def invoke(self, *arguments: str, **variables: str) -> Outcome:
        """Run ``invoke`` as a user does; it must neither print a traceback nor a secret."""
        done = subprocess.run(
            [*_INVOKE, *arguments],
            cwd=self.path,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        outcome = Outcome(done.returncode, done.stdout, done.stderr)
        self.check(outcome)
        return outcome

    def check(self, outcome: Outcome) -> None:
        """What must hold for every command: no traceback, and nothing that is secret."""
        assert "Traceback" not in outcome.err + outcome.out, outcome.err
        assert [] == [secret for secret in self.place.secrets if secret in outcome.out + outcome.err]

    def done(self, *arguments: str, **variables: str) -> Outcome:
        """:meth:`invoke`, which must succeed."""
        outcome = self.invoke(*arguments, **variables)
        assert 0 == outcome.code, outcome.err
        return outcome

    def start(
        self, *arguments: str, stderr: IO[bytes] | int = subprocess.PIPE, **variables: str
    ) -> subprocess.Popen[str]:
        """Start ``invoke`` in a process group of its own, to be interrupted."""
        return subprocess.Popen(
            [*_INVOKE, *arguments],
            cwd=self.path,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> Outcome:
        """Wait for a command that was started."""
        out, err = process.communicate()
        outcome = Outcome(process.returncode, out, err or "")
        self.check(outcome)
        return outcome

    def clone(self, folder: Path) -> Project:
        """A clone of this repository on an agent of its own, with a home and caches of its own."""
        home = folder / "home"
        home.mkdir(parents=True)
        self.git("clone", "--quiet", str(self.path), str(folder / "repository"))
        return replace(self, path=folder / "repository", home=home)

    def images(self) -> dict[str, str]:
        """Every name of this project's images in the engine, and the id of each."""
        from buildtools.image.engine.client import Engine

        with closing(Engine.connect(self.place.engine.environment)) as engine:
            names = ((tag, image["Id"]) for image in engine.api.images() for tag in image["RepoTags"] or ())
            # Engines with containerd's store list digests, too.
            return {tag: image_id for tag, image_id in names if self.mark in tag and "@" not in tag}

    def forget_images(self) -> None:
        """Take this project's images out of the engine."""
        from buildtools.image.engine.client import Engine, EngineError

        with closing(Engine.connect(self.place.engine.environment)) as engine:
            listed = engine.api.images()
            # What was pulled by digest has no tag.
            names = [name for image in listed for kind in ("RepoTags", "RepoDigests") for name in image[kind] or ()]
            # Debian 13's engine does not list what it has pulled without the layers whose files it had.
            versions = self.git("tag", check=False).split()
            names += [f"{self.place.registry}/{each}:{version}" for each in self.folders() for version in versions]
            for name in names:
                if self.mark in name:
                    with suppress(EngineError), engine.errors():
                        engine.api.remove_image(name, force=True)

    def folders(self) -> list[str]:
        """The repositories that this project may have in the registry."""
        return sorted(f"e2e/{self.mark}/{path.name}" for path in (self.path / "src/docker").glob("*"))

    def world(self) -> dict[str, Any]:
        """All that a release may change: names in the engine, tags, objects, and files here and in the cache."""
        files = {
            str(path): (path.read_bytes(), path.stat().st_mtime_ns)
            for folder in (self.path, self.home)
            for path in folder.rglob("*")
            if path.is_file() and ".git" not in path.parts and "__pycache__" not in path.parts
        }
        return {
            "images": self.images(),
            "tags": self.place.tags(*self.folders()),
            "objects": self.place.objects(of_preflight=True),
            "files": files,
        }


def make_project(folder: Path, place: Place, mark: str) -> Project:
    """An empty repository that uses the tool, below ``folder``."""
    made = make_repository(folder / "repository")
    home = folder / "home"
    home.mkdir()
    project = Project(made.path, place, mark, home)
    project.write("tasks.py", "from buildtools.tasks import namespace\n")
    project.write(".gitignore", "build/\ndist/\n__pycache__/\n")
    project.configure()
    return project


def fresh_agent(project: Project, engine: EngineService, folder: Path) -> Project:
    """The same project on an agent whose engine has built nothing of it."""
    agent = project.clone(folder)
    variables = {**project.place.variables, **engine.environment}
    return replace(agent, place=replace(project.place, engine=engine, variables=variables))


def toml_lines(values: Mapping[str, Any], path: str) -> list[str]:
    """The lines of a table and of those below it."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    tables = [
        line
        for key, value in values.items()
        if isinstance(value, Mapping)
        for line in (f"[{path}.{key}]", *toml_lines(value, f"{path}.{key}"))
    ]
    return [*plain, *tables]
