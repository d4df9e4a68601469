"""A repository of many image folders, and a registry that has their images as a push leaves them there."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.images.tree import LEVELS
from bench.repository import Repository
from buildtools.image.engine.client import Engine
from buildtools.image.generation import PARENTS_LABEL, generation_of, parents_label
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import fingerprint_tag
from buildtools.image.registry.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    FINGERPRINT_LABEL,
    Descriptor,
    Manifest,
    digest_of,
    encode,
)

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Costs:
    """Seconds: of the clock, of the client's processor time, and of the registry's."""

    seconds: float
    client: float
    registry: float

    @property
    def processor(self) -> float:
        """What both sides computed. Other work on the machine does not blur that as it blurs the clock."""
        return self.client + self.registry

    def plus(self, other: Costs) -> Costs:
        return Costs(self.seconds + other.seconds, self.client + other.client, self.registry + other.registry)

    def over(self, count: int) -> Costs:
        return Costs(self.seconds / count, self.client / count, self.registry / count)

    def minus(self, other: Costs) -> Costs:
        return Costs(self.seconds - other.seconds, self.client - other.client, self.registry - other.registry)


@dataclass(frozen=True)
class Measured:
    """One run: what it cost, the most memory it held in bytes, and what it printed."""

    costs: Costs
    memory: int
    out: str = field(repr=False)


def processor_seconds(pid: int) -> float:
    """The processor time of a process so far; 0 without one."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def usage_of(process: subprocess.Popen[bytes]) -> tuple[int, resource.struct_rusage]:
    """The exit code of a process, and what it used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


@dataclass(frozen=True)
class Project(Repository):
    """A git repository with ``names`` for image folders, in three levels; each copies one small file.

    ``registry`` is the registry's process, and ``variables`` are what our program gets besides.
    """

    host: str
    names: Sequence[str]
    registry: int = 0
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def namespace(self) -> str:
        return self.root.name

    def environment(self, **variables: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("INVOKE_")}
        return {**own, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.root / ".cache")} | {
            **self.variables,
            **variables,
        }

    def run(self, *arguments: str, **variables: str) -> Measured:
        """One ``invoke`` in a process of its own."""
        out, err = self.root / ".cache/out", self.root / ".cache/err"
        out.parent.mkdir(exist_ok=True)
        before, began = processor_seconds(self.registry), time.perf_counter()
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "invoke", *arguments],
                cwd=self.root,
                env=self.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
            code, usage = usage_of(process)
        seconds = time.perf_counter() - began
        if code:
            raise SystemExit(f"invoke {' '.join(arguments)} in {self.root} failed:\n{err.read_text()[-4000:]}")
        costs = Costs(seconds, usage.ru_utime + usage.ru_stime, processor_seconds(self.registry) - before)
        return Measured(costs, usage.ru_maxrss * 1024, out.read_text())

    def change_leaf(self, content: str) -> None:
        """Change what the last image holds."""
        (self.root / "src/docker" / self.names[-1] / "data").write_text(content)

    def forget_images(self) -> None:
        """Take what was built, and its parents, out of the engine."""
        with closing(Engine.connect(os.environ)) as engine:
            for image in engine.images(FINGERPRINT_LABEL):
                for tag in image.tags:
                    name = tag.rpartition("/")[2].partition(":")[0]
                    if tag.startswith(f"{self.host}/{self.namespace}/") or ("/" not in tag and name in self.names):
                        engine.untag(tag)

    def stock(self) -> None:
        """Put every image under its fingerprint into the registry, of the layers that its Dockerfile makes."""
        items = json.loads(self.run("list", "--json").out)["items"]
        by_name = {item["name"]: item for item in items}
        with closing(Registry(self.host)) as registry, ThreadPoolExecutor(8) as pool:
            images: dict[str, _Image] = {}
            waiting = list(by_name)
            while waiting:
                ready = [name for name in waiting if all(parent in images for parent in by_name[name]["parents"])]
                made = pool.map(
                    lambda name, below: self._put(registry, by_name[name], below), ready, [images] * len(ready)
                )
                images |= zip(ready, made, strict=True)
                waiting = [name for name in waiting if name not in images]

    def _put(self, registry: Registry, item: Mapping[str, Any], images: Mapping[str, _Image]) -> _Image:
        name, repository = item["name"], f"{self.namespace}/{item['name']}"
        tar = _tar(f"opt/{name}", (self.root / "src/docker" / name / "data").read_bytes())
        body = gzip.compress(tar, mtime=0)
        own = _Image((digest_of(tar),), (Descriptor(DOCKER_LAYER, digest_of(body), len(body)),))
        registry.put_blob(repository, body)
        labels = {FINGERPRINT_LABEL: item["fingerprint"]}
        below = _Image()
        for parent in item["parents"]:
            below = images[parent]
            labels[PARENTS_LABEL] = parents_label({parent: generation_of(below.diff_ids)})
            for layer in below.layers:
                registry.mount_blob(repository, layer.digest, f"{self.namespace}/{parent}")
        image = _Image(below.diff_ids + own.diff_ids, below.layers + own.layers)
        config = encode(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "2026-11-01T00:00:00Z",
                "config": {"Labels": labels},
                "rootfs": {"type": "layers", "diff_ids": list(image.diff_ids)},
                "history": [{"created": "2026-11-01T00:00:00Z", "created_by": "COPY data"} for _ in image.layers],
            }
        )
        descriptor = Descriptor(DOCKER_CONFIG, registry.put_blob(repository, config), len(config))
        registry.put_manifest(repository, fingerprint_tag(item["fingerprint"]), Manifest.make(descriptor, image.layers))
        return image


@dataclass(frozen=True)
class _Image:
    diff_ids: tuple[str, ...] = ()
    layers: tuple[Descriptor, ...] = ()


def make_project(
    root: Path,
    host: str,
    count: int,
    *,
    context: int = 0,
    registry: int = 0,
    variables: Mapping[str, str] = MappingProxyType({}),
    last_dockerfile: str = "",
) -> Project:
    """A repository with ``count`` image folders; each has so many bytes of context more, all of them holes.

    The last one may have a Dockerfile of its own.
    """
    counts = [max(1, round(count * share)) for share in LEVELS[:-1]]
    counts.append(count - sum(counts))
    levels = [[f"level{level}-{number:05}" for number in range(many)] for level, many in enumerate(counts, 1)]
    project = Project(root, host, [name for level in levels for name in level], registry, variables)
    for above, level in zip([[], *levels], levels, strict=False):
        for at, name in enumerate(level):
            folder = root / "src/docker" / name
            folder.mkdir(parents=True)
            parent = f"${{REGISTRY}}/{above[at % len(above)]}:${{VERSION}}" if above else "scratch"
            lines = ["ARG REGISTRY", "ARG VERSION", f"FROM {parent}", f"COPY data /opt/{name}"]
            (folder / "data").write_text(f"{root} {name}\n")
            if context:
                lines.append("COPY large /large")
                with (folder / "large").open("wb") as file:
                    file.truncate(context)
            (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    if last_dockerfile:
        (root / "src/docker" / project.names[-1] / "Dockerfile").write_text(last_dockerfile)
    (root / "pyproject.toml").write_text(
        f'[tool.buildtools]\nregistry = "{host}"\nnamespace = "{project.namespace}"\n'
        f'artifacts = "s3://bench/{project.namespace}"\n'
    )
    (root / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    (root / ".gitignore").write_text(".cache/\ndist/\n__pycache__/\nlarge\n")
    project.git("init", "--quiet", "--initial-branch", "main")
    project.release("1.0.0")
    return project


def _tar(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()
