"""What arrives in an image, and what the engine's cache thinks of a change, against the official docker client."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from buildtools.image.folder.contents import Contents
from buildtools.image.folder.context import Selection, ignore_rules, walk
from buildtools.image.folder.fingerprint import folder_fingerprint
from buildtools.image.folder.folders import image_folders
from buildtools.settings import Settings
from tests.compat import docker_client
from tests.compat.docker_client import DockerClient
from tests.conftest import EngineService

FILES = (
    "a/b/c", "a/b.md", "a/keep/x", "ab/c", ".git/config", ".hidden", "README.md", "docs/README.md", "docs/x.md",
    "docs/deep/y.txt", "src/main.py", "src/main.pyc", "src/deep/z.pyc", "x y/z", "é/ü", "[odd]/f", "!bang", "#hash",
"tmp/1", "tmp/2/3",
)  # fmt: skip

# Each is one ignore file. Two things are left to the unit tests, since clients older than 23 differ in them from all
# later ones: negations with a wildcard (they did not look inside an excluded directory) and line ends in names.
IGNORE_FILES = (
    "",
    "*\n!src\n",
    "*\n!src/main.py\n!docs\ndocs/deep\n",
    "**/*.pyc\n**/README.md\n!README.md\n",
    ".git\n/tmp/\n./a//b/\n",
    "a*\n.*\n!ab\n!a/keep/x\n",
    "# comment\n\\#hash\n\\!bang\n #hash\n",
    "\ufeffdocs/**\r\n*/b.md\r\n",
    "x y\né\n[[]odd]\n",
    "**/deep\n?b\n[^a-s]*\n",
    "src/..\n.\n/\n../a\ntmp/2/..\n",
    "**/c\na/**\n!a/b/c\n",
    "**\n!docs/deep\n",
    "docs\n!docs/deep\ndocs/deep/y.txt\n!docs/x.md\n",
    "*.py|*.txt\n?{2}/*\n*.{md,py}\n",
)


@pytest.fixture(scope="module")
def client(engine: EngineService, environment: Mapping[str, str]) -> DockerClient:
    return docker_client.find({**environment, **engine.environment})


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link").symlink_to("src/main.py")
    (root / "dangling").symlink_to("/nowhere")
    os.link(root / "tmp/1", root / "tmp/hard")
    return root


@pytest.mark.parametrize("rules", IGNORE_FILES)
def test_the_same_files_arrive(client: DockerClient, tree: Path, tmp_path: Path, rules: str) -> None:
    # One tree for all cases, so the ignore file lies beside the Dockerfile, where it wins over the context's own.
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    (tmp_path / "Dockerfile.dockerignore").write_text(rules)
    ours = {entry.path for entry in walk(tree, Selection(ignore_rules(tree, dockerfile)))}
    assert client.arriving(tree, dockerfile) == ours


DOCKERFILE = """\
FROM scratch AS unused
COPY unused /
FROM scratch AS part
COPY part/*.txt /txt/
FROM scratch
ARG SALT
COPY taken/deep /deep
ADD link/file /file
COPY --from=part /txt /txt
"""


def _link(root: Path) -> None:
    (root / "taken/deep/link").unlink()
    (root / "taken/deep/link").symlink_to("y")


CHANGES: tuple[tuple[str, bool, Callable[[Path], object]], ...] = (
    ("nothing", False, lambda root: None),
    ("content", True, lambda root: (root / "taken/deep/f").write_text("longer")),
    ("mode", True, lambda root: (root / "taken/deep/f").chmod(0o640)),
    ("mode of a folder", True, lambda root: (root / "taken/deep/sub").chmod(0o711)),
    ("mode of a folder on the way", False, lambda root: (root / "taken").chmod(0o711)),
    ("time", False, lambda root: os.utime(root / "taken/deep/f", (1, 1))),
    ("owner", False, lambda root: os.chown(root / "taken/deep/f", -1, (os.getgroups() or [1])[-1])),
    ("target of a link", True, _link),
    ("behind a link", True, lambda root: (root / "real/file").write_text("longer")),
    ("a new file", True, lambda root: (root / "taken/deep/new").touch()),
    ("a hard link", True, lambda root: os.link(root / "taken/deep/f", root / "taken/deep/z")),
    ("an ignored file", False, lambda root: (root / "taken/deep/x.pyc").touch()),
    ("beside what is taken", False, lambda root: (root / "taken/new").touch()),
    ("what a glob takes", True, lambda root: (root / "part/b.txt").touch()),
    ("beside what a glob takes", False, lambda root: (root / "part/b.md").touch()),
    ("for a stage that is not built", False, lambda root: (root / "unused").write_text("longer")),
)


def test_the_engine_runs_a_step_anew_when_the_fingerprint_changes_and_only_then(
    client: DockerClient, tmp_path: Path
) -> None:
    root = tmp_path / "src" / "docker" / "image"
    for name in ("taken/deep/f", "taken/deep/sub/g", "part/a.txt", "real/file", "unused"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        # The engine's cache knows what was built before, and the same content may have been.
        (root / name).write_text(secrets.token_hex(8))
    (root / "taken/deep/link").symlink_to("x")
    (root / "link").symlink_to("real")
    (root / ".dockerignore").write_text("**/*.pyc\n")
    (root / "Dockerfile").write_text(DOCKERFILE)

    def made() -> str:
        (folder,) = image_folders(Settings(tmp_path), None)
        with Contents(tmp_path / "cache") as contents:
            return folder_fingerprint(folder, parents={}, bases={}, contents=contents).value

    def runs_anew(copy: Path) -> bool:
        # A fresh copy, because the engine's sync of a known folder misses that a directory has another mode.
        subprocess.run(["cp", "--archive", str(root), str(copy)], check=True)
        return client.runs_anew(copy, copy / "Dockerfile")

    runs_anew(tmp_path / "first")
    before = made()
    seen = []
    for name, _, change in CHANGES:
        change(root)
        after = made()
        seen.append((name, runs_anew(tmp_path / name), before != after))
        before = after
    assert [(name, expected, expected) for name, expected, _ in CHANGES] == seen
