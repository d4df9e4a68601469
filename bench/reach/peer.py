"""The requests of one of our runs, asked again by a C client: curl, with ``--parallel`` and eight connections.

A run is recorded by its request log. Its peer is another version of the same images: in every URL and every body the
one version's text stands for the other's. What can only be asked after something else has been answered is asked by
another curl, in the order of ``_phases``; each keeps its connections. Bodies are made before, and are not timed.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.reach.project import Costs, Project, processor_seconds, usage_of
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import ACCEPTED, DOCKER_MANIFEST, Manifest, digest_of

CONNECTIONS = 8
_LINE = re.compile(r"registry (GET|HEAD|POST|PUT) (\S+) (\d+),")
_ACCEPT = f'header = "Accept: {", ".join(ACCEPTED)}"'


@dataclass(frozen=True)
class Request:
    """One request of the log."""

    method: str
    url: str


def recorded(log: Path) -> list[Request]:
    """What a run asked the registry, in the order of the answers."""
    return [Request(match[1], match[2]) for match in map(_LINE.search, log.read_text().splitlines()) if match]


class Curl:
    """Asks the same for another version of a project, whose registry is the process ``registry``."""

    def __init__(self, project: Project, registry: int) -> None:
        self._project = project
        self._registry = registry
        self._folder = project.root / ".cache/curl"
        self._folder.mkdir(parents=True, exist_ok=True)

    def replay(self, requests: Sequence[Request], version: str, other: str) -> Costs:
        """Ask what was asked for ``version`` for ``other``; what it cost."""
        bodies = self._bodies(version, other) if any(each.method == "PUT" for each in requests) else {}
        total = Costs(0.0, 0.0, 0.0)
        locations: dict[str, str] = {}
        for phase in _phases(requests):
            entries = [self._entry(each, version, other, bodies, locations) for each in phase]
            costs, out = self._run(entries)
            total = total.plus(costs)
            locations |= {_repository(url): location for url, location in map(str.split, filter(None, out)) if location}
        return total

    def _run(self, entries: Sequence[str]) -> tuple[Costs, list[str]]:
        config = self._folder / "requests"
        config.write_text("\nnext\n".join(entries) + "\n")
        command = ["curl", "--silent", "--fail", "--parallel", "--parallel-immediate"]
        command += ["--parallel-max", str(CONNECTIONS), "--config", str(config)]
        before, began = processor_seconds(self._registry), time.perf_counter()
        with (self._folder / "out").open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
            code, usage = usage_of(process)
        seconds = time.perf_counter() - began
        # 22 says that an answer was an error: what is absent is asked for as well.
        if code not in (0, 22):
            raise SystemExit(f"curl ended with {code}")
        costs = Costs(seconds, usage.ru_utime + usage.ru_stime, processor_seconds(self._registry) - before)
        return costs, (self._folder / "out").read_text().splitlines()

    def _entry(
        self, request: Request, version: str, other: str, bodies: dict[str, tuple[Path, str]], locations: dict[str, str]
    ) -> str:
        url = request.url.replace(version, other)
        lines = ["silent", "output = /dev/null"]
        if request.method == "HEAD":
            lines.append("head")
        if "/manifests/" in url and request.method != "PUT":
            lines.append(_ACCEPT)
        if request.method == "POST":
            lines += ["request = POST", 'data = ""', r'write-out = "%{url_effective} %header{location}\n"']
        if request.method == "PUT":
            is_manifest = "/manifests/" in url
            path, digest = bodies[f"{'manifest' if is_manifest else 'config'} {_repository(url)}"]
            kind = DOCKER_MANIFEST if is_manifest else "application/octet-stream"
            lines += [f'upload-file = "{path}"', f'header = "Content-Type: {kind}"']
            if not is_manifest:
                url = f"{locations[_repository(url)]}&digest={digest}"
        return "\n".join([*lines, f'url = "{url}"'])

    def _bodies(self, version: str, other: str) -> dict[str, tuple[Path, str]]:
        """The configuration and the manifest of each image of another version, in files."""
        bodies = {}
        with closing(Registry(self._project.host)) as registry:
            for name in self._project.names:
                repository = f"{self._project.namespace}/{name}"
                manifest = registry.get_manifest(repository, version)
                if manifest is None:
                    raise SystemExit(f"{repository}:{version} is not there")
                config = (registry.get_blob(repository, manifest.config.digest) or b"").replace(
                    version.encode(), other.encode()
                )
                old, new = manifest.config.digest.encode(), digest_of(config).encode()
                changed = Manifest(manifest.media_type, manifest.body.replace(old, new))
                for kind, body in (("config", config), ("manifest", changed.body)):
                    path = self._folder / f"{kind}-{name}"
                    path.write_bytes(body)
                    bodies[f"{kind} {repository}"] = path, digest_of(body)
        return bodies


def _phases(requests: Sequence[Request]) -> list[list[Request]]:
    """What can be asked at the same time."""
    writes = next((at for at, each in enumerate(requests) if each.method == "POST"), len(requests))
    before, after = requests[:writes], requests[writes:]
    phases = [list(before)]
    phases += [[each for each in after if each.method == "POST"]]
    phases += [[each for each in after if each.method == "PUT" and "/blobs/" in each.url]]
    phases += [[each for each in after if each.method == "GET"]]
    phases += [[each for each in after if each.method == "PUT" and "/manifests/" in each.url]]
    phases += [[each for each in after if each.method == "HEAD"]]
    return [phase for phase in phases if phase]


def _repository(url: str) -> str:
    return re.sub(r".*/v2/(.*?)/(?:manifests|blobs)/.*", r"\1", url)
