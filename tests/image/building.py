"""What the tests of builds share: folders to build, and one way to build them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildtools.events import Event, Log
from buildtools.image.builder import BuildRequest
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.build import BuiltImage, build
from buildtools.image.engine.client import Engine


@dataclass
class Builder:
    """Builds folders below ``root`` on one engine under names of its own, and remembers what it heard."""

    engine: Engine
    root: Path
    base: str
    environment: Mapping[str, str]
    docker_config: Path = Path("/nonexistent")
    prefix: str = field(default_factory=lambda: f"buildtools-test-{secrets.token_hex(4)}")
    events: list[Event] = field(default_factory=list)

    def folder(self, dockerfile: str, name: str = "app", **files: str | bytes) -> Path:
        """An image folder; ``BASE`` in the Dockerfile is an image with a shell."""
        made = self.root / name
        for file, content in {"Dockerfile": dockerfile.replace("BASE", self.base), **files}.items():
            path = made / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return made

    def build(
        self,
        folder: Path,
        *,
        cancel: threading.Event | None = None,
        heard: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> BuiltImage:
        """Build a folder with defaults for all that is not given."""

        def report(event: Event) -> None:
            self.events.append(event)
            if heard:
                heard(event)

        request = BuildRequest(
            **{
                "name": folder.name,
                "context": folder,
                "dockerfile": folder / "Dockerfile",
                "tags": (f"{self.prefix}/{folder.name}:1",),
                # What comes from the cache prints nothing, and the cache outlives a test.
                "no_cache": True,
                **options,
            }
        )
        return build(
            self.engine,
            request,
            credentials=Credentials(self.docker_config, self.environment),
            environment=self.environment,
            report=report,
            cancel=cancel or threading.Event(),
        )

    def heard(self, kind: type[Event]) -> list[Any]:
        """The events of one kind, in their order."""
        return [event for event in self.events if isinstance(event, kind)]

    def output(self) -> list[str]:
        """The lines that commands printed."""
        return [event.line for event in self.heard(Log)]


def builder(engine: Engine, root: Path, base: str, environment: Mapping[str, str]) -> Iterator[Builder]:
    """A builder whose images are removed afterwards."""
    made = Builder(engine, root, base, environment)
    yield made
    with engine.errors():
        for image in engine.api.images(name=f"{made.prefix}/*"):
            for tag in image["RepoTags"] or ():
                engine.api.remove_image(tag, noprune=True)


def open_files() -> int:
    """How many file descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
