"""What our client builds must be what the official client builds: each finds all of the other's steps in the cache."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildtools.events import Step
from buildtools.image.engine.buildkit.failure import BuildFailed
from tests.image.building import Builder
from tests.image.nasty import make_nasty_tree

EVERYTHING = ("COPY . /all/",)
SOME = (
    "COPY plain.txt docs /some/",
    "COPY *.txt a* /globs/",
    "COPY logs/*.log logs/keep /logs/",
    'COPY ["-dash", "back?slash", "/names/"]',
    "COPY hard /hard/",
    "COPY --chown=12:34 src /owned/",
)
LINKS = (
    "COPY links/relative links/absolute /files/",
    "COPY links/directory/ /directory/",
    "COPY links/chain links/through /chains/",
    "COPY l*/rel* /globbed/",
    "COPY links /links/",
)
UNICODE = ("COPY ünïcödé/日本語.txt /unicode/", "COPY [ü]n?c* /unicode/")

IGNORE_FILES = {
    "none": "",
    "names": "docs\nplain.txt\nbuild/\n/logs\n",
    "globs": "*.txt\n*/*.o\nl*\n",
    "double stars": "**/*.txt\n**/deep\nsrc/**\n",
    "all but one": "*\n!docs/readme.md\n",
    "nested exceptions": "docs\n!docs/deep/er\nlogs/*\n!logs/keep\n",
    "exceptions by glob": "docs/**\n!docs/*.md\nsrc\n!src/main.?\n",
    "exception of an exception": "docs\n!docs/deep\ndocs/deep/er\n",
    "odd spellings": "# remark\n\n  src/../docs  \n./logs/\n//build\n!/logs/keep/three.log\nünïcödé\n",
    "odd characters": "[[]brackets]\nstar\\*\n?dash\n[!a-y]*\n\\!bang\nback\\\\slash\n",
    "the files themselves": "Dockerfile*\n.dockerignore\nhard/first\nlinks/relative\n",
    "first names of inodes": "build\nhard/first\n",
}

CASES = [
    *((name, EVERYTHING) for name in IGNORE_FILES),
    ("none", SOME),
    ("none", LINKS),
    ("none", UNICODE),
    ("first names of inodes", SOME),
    ("first names of inodes", LINKS),
    ("double stars", ("COPY docs a logs /some/", "COPY links /links/")),
]


@dataclass(frozen=True)
class OfficialClient:
    """Docker's own program, building with BuildKit."""

    program: str
    environment: Mapping[str, str]

    def build(self, folder: Path, *options: str) -> list[str]:
        """The lines it prints; a step is followed by ``CACHED`` or ``DONE``.

        :raises subprocess.CalledProcessError: it failed.
        """
        command = [self.program, "build", "--progress=plain", *options, str(folder)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return (done.stdout + done.stderr).splitlines()


@pytest.fixture(scope="module")
def official(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> OfficialClient:
    folder = tmp_path_factory.mktemp("trial")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    for place in environment["PATH"].split(os.pathsep):
        client = OfficialClient(shutil.which("docker", path=place) or "", {**environment, "DOCKER_BUILDKIT": "1"})
        if client.program:
            with pytest.raises(subprocess.CalledProcessError) as caught:
                client.build(folder)
            # Newer programs need a plug-in for BuildKit, which may not be there.
            if "load build definition" in caught.value.stderr:
                return client
    reason = "no docker program here builds with BuildKit"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nasty") / "tree"
    root.mkdir()
    make_nasty_tree(root)
    return root


def prepare(builder: Builder, tree: Path, copies: tuple[str, ...], ignore: str, *more: str) -> None:
    # A directory that no build has made before keeps the steps after it out of every cache.
    lines = [f"FROM {builder.base}", f"WORKDIR /{secrets.token_hex(8)}", *copies, *more, ""]
    (tree / "Dockerfile").write_text("\n".join(lines))
    (tree / ".dockerignore").write_text(ignore)


def cached_for_official(lines: list[str]) -> dict[str, bool]:
    names = {found[1]: found[2] for line in lines if (found := re.match(r"(#\d+) \[\d+/\d+\] (.*)", line))}
    return {name: f"{number} CACHED" in lines for number, name in names.items() if not name.startswith("FROM")}


def cached_for_us(builder: Builder, tree: Path) -> dict[str, bool]:
    builder.events.clear()
    builder.build(tree, no_cache=False)
    # Another build at the same time may have given the base image's step its own name, as "[stage] FROM".
    return {step.text: step.cached for step in builder.heard(Step) if step.number and "FROM " not in step.text}


@pytest.mark.parametrize(("name", "copies"), CASES)
def test_each_client_finds_the_steps_of_the_other_in_the_cache(
    builder: Builder, official: OfficialClient, nasty: Path, name: str, copies: tuple[str, ...]
) -> None:
    tag = f"--tag={builder.prefix}/official:1"

    prepare(builder, nasty, copies, IGNORE_FILES[name])
    ours = cached_for_us(builder, nasty)
    theirs = cached_for_official(official.build(nasty, tag))
    assert dict.fromkeys(ours, False) == ours
    assert dict.fromkeys(ours, True) == theirs

    prepare(builder, nasty, copies, IGNORE_FILES[name])
    theirs = cached_for_official(official.build(nasty, tag))
    ours = cached_for_us(builder, nasty)
    assert dict.fromkeys(theirs, False) == theirs
    assert dict.fromkeys(theirs, True) == ours
    assert len(copies) + 1 == len(ours)


@pytest.mark.parametrize("change", ["mode", "content", "link"])
def test_a_change_is_seen_by_both(builder: Builder, official: OfficialClient, tmp_path: Path, change: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_nasty_tree(tree)
    prepare(builder, tree, EVERYTHING, "")
    builder.build(tree)
    if change == "mode":
        (tree / "plain.txt").chmod(0o755)
    elif change == "content":
        (tree / "plain.txt").write_text("changed, and of another length\n")
    else:
        (tree / "links" / "dangling").unlink()
        (tree / "links" / "dangling").symlink_to("anywhere")

    assert not cached_for_us(builder, tree)["COPY . /all/"]
    assert cached_for_official(official.build(tree, f"--tag={builder.prefix}/official:1"))["COPY . /all/"]


@pytest.mark.parametrize("name", ["none", "exceptions by glob", "first names of inodes"])
def test_both_put_the_same_files_into_the_image(
    builder: Builder, official: OfficialClient, nasty: Path, name: str
) -> None:
    listing = (
        "RUN cd /all && find . -type f -exec sha256sum {} + | sed 's/^/SEEN /' && "
        "find . -exec stat -c 'SEEN %n|%N|%A|%u|%g|%h|%s|%t|%T' {} +"
    )
    prepare(builder, nasty, EVERYTHING, IGNORE_FILES[name], listing)

    builder.build(nasty)
    printed = official.build(nasty, f"--tag={builder.prefix}/official:1", "--no-cache")

    theirs = sorted(line[line.index("SEEN ") :] for line in printed if re.match(r"#\d+ [\d.]+ SEEN ", line))
    assert theirs == sorted(line for line in builder.output() if line.startswith("SEEN "))
    assert len(theirs) > 4


@pytest.mark.parametrize("copy", ["COPY docs/secret.txt /", "COPY build /build/"])
def test_what_is_left_out_cannot_be_copied_by_either(
    builder: Builder, official: OfficialClient, nasty: Path, copy: str
) -> None:
    prepare(builder, nasty, (copy,), "docs/*.txt\nbuild\n")
    with pytest.raises(BuildFailed, match="not found in the context"):
        builder.build(nasty)
    with pytest.raises(subprocess.CalledProcessError):
        official.build(nasty, f"--tag={builder.prefix}/official:1")
