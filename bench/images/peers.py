"""What people run today to build, tag and push a tree of images."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.images.tree import Tree
from buildtools.user_folders import cache_folder

_BUILD = "{docker} build -q --build-arg REGISTRY={prefix} --build-arg VERSION=$V -t {image} src/docker/{name}"
_VERSION = "V=$(git describe --dirty)\nexport DOCKER_BUILDKIT=1\n"


def shell_loop(tree: Tree, docker: str) -> str:
    """Everything one after the other: build, tag, push."""
    lines = [
        f"{build(tree, name, docker, f'{tree.prefix}/{name}:local')}\n"
        f"{docker} tag {tree.prefix}/{name}:local {tree.prefix}/{name}:$V\n"
        f"{docker} push -q {tree.prefix}/{name}:$V"
        for name in tree.names
    ]
    # Children are built from the version's tag, so each image is tagged before the next is built.
    return _VERSION + "set -e\n" + "\n".join(lines) + "\n"


def xargs_per_level(tree: Tree, docker: str) -> str:
    """Four at a time within each level, the levels put in order by hand."""
    command = f"{build(tree, '$1', docker, f'{tree.prefix}/$1:$V')} && {docker} push -q {tree.prefix}/$1:$V"
    lines = [
        f"printf '%s\\n' {' '.join(level)} | xargs -P4 -n1 sh -c {shlex.quote(command)} sh" for level in tree.levels
    ]
    return _VERSION + "export V\nset -e\n" + "\n".join(lines) + "\n"


def gradle(tree: Tree, docker: str, home: Path) -> str:
    """Exec tasks, one for each step of each image, run by a daemon that is warm."""
    tasks = []
    for name in tree.names:
        image, parent = f"{tree.prefix}/{name}", tree.parent(name)
        after = f", dependsOn: 'tag-{parent}'" if parent else ""
        arguments = ["build", "-q", "--build-arg", f"REGISTRY={tree.prefix}", "--build-arg", "VERSION=VERSION"]
        steps = {
            f"build-{name}": ([*arguments, "-t", f"{image}:local", f"src/docker/{name}"], after),
            f"tag-{name}": (["tag", f"{image}:local", f"{image}:VERSION"], f", dependsOn: 'build-{name}'"),
            f"push-{name}": (["push", "-q", f"{image}:VERSION"], f", dependsOn: 'tag-{name}'"),
        }
        for task, (command, needs) in steps.items():
            words = ", ".join(f'"{word}"'.replace("=VERSION", "=$v").replace(":VERSION", ":$v") for word in command)
            tasks.append(
                f"task('{task}', type: Exec{needs}) {{ environment 'DOCKER_BUILDKIT', '1'\n"
                f"  commandLine '{docker}', {words} }}"
            )
    pushes = ", ".join(f"'push-{name}'" for name in tree.names)
    (tree.root / "build.gradle").write_text(
        "def v = project.property('version')\n" + "\n".join(tasks) + f"\ntask pushAll {{ dependsOn {pushes} }}\n"
    )
    (tree.root / ".gitignore").write_text(".gradle\nbuild.gradle\n.gitignore\n")
    return _VERSION + f"gradle --offline -q -g {shlex.quote(str(home))} pushAll -Pversion=$V\n"


def bake(tree: Tree, buildx: str, *, linked: bool) -> str:
    """``docker buildx bake --push``: all targets at once, linked by hand, or level by level for engines before 23.0."""
    targets = []
    for name in tree.names:
        parent = tree.parent(name) if linked else ""
        links = f'contexts = {{ "{tree.prefix}/{parent}:${{V}}" = "target:{parent}" }}' if parent else ""
        targets.append(
            f'target "{name}" {{\n  context = "src/docker/{name}"\n  tags = ["{tree.prefix}/{name}:${{V}}"]\n'
            f'  args = {{ REGISTRY = "{tree.prefix}", VERSION = V }}\n  {links}\n}}'
        )
    (tree.root / "docker-bake.hcl").write_text('variable "V" {}\n' + "\n".join(targets) + "\n")
    (tree.root / ".gitignore").write_text("docker-bake.hcl\n.gitignore\n")
    rounds = [tree.names] if linked else tree.levels
    lines = [f"{buildx} bake --progress quiet --push {' '.join(names)}" for names in rounds]
    return _VERSION + "export V BUILDX_NO_DEFAULT_ATTESTATIONS=1\nset -e\n" + "\n".join(lines) + "\n"


def build(tree: Tree, name: str, docker: str, image: str) -> str:
    """The command that builds one folder."""
    return _BUILD.format(docker=docker, prefix=tree.prefix, name=name, image=image)


def find_buildx(docker: str, environment: Mapping[str, str]) -> str:
    """Debian 12 brings none: what ``script/engines`` has fetched, else the docker program's own; may be empty."""
    fetched = sorted((cache_folder(environment) / "unpacked").glob("*/usr/libexec/docker/cli-plugins/docker-buildx"))
    if fetched:
        return str(fetched[-1])
    answer = subprocess.run([docker, "buildx", "version"], env=dict(environment), capture_output=True, check=False)
    return "" if answer.returncode else f"{docker} buildx"
