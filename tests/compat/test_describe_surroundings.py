"""What lies around a repository (linked work trees, the user's files, damage), asked of git and of us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildtools import BuildToolsError
from buildtools.git.checkout import read_version
from buildtools.git.naming.describe_command import describe_command
from tests.git.reference import environment, git, tried


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one commit, tagged 1.0.0."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "file").write_text("1\n")
    git(folder, "add", "file")
    git(folder, "commit", "--quiet", "--message=first")
    git(folder, "tag", "--annotate", "--message=1.0.0", "1.0.0")
    return folder


def both(folder: Path, variables: Mapping[str, str] | None = None) -> tuple[str, str]:
    """What git describes the work tree as, and what we do; empty for an error."""
    surroundings = {**environment(folder / "home"), **(variables or {})}
    theirs = subprocess.run(
        ["git", "describe", "--dirty"], cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )
    try:
        ours = read_version(folder, "", surroundings).text
    except BuildToolsError:
        ours = ""
    return theirs.stdout.strip(), ours


def test_a_work_tree_of_a_bare_repository_is_not_bare(project: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", "project", "bare.git")
    git(tmp_path / "bare.git", "worktree", "add", "--quiet", "../linked", "main")
    assert ("1.0.0", "1.0.0") == both(tmp_path / "linked")
    (tmp_path / "linked/file").write_text("2\n")
    assert ("1.0.0-dirty", "1.0.0-dirty") == both(tmp_path / "linked")


@pytest.mark.parametrize("own_settings", [False, True])
def test_a_linked_work_tree_is_not_where_the_shared_settings_say(
    project: Path, tmp_path: Path, own_settings: bool
) -> None:
    (project / ".git").rename(tmp_path / "gitdir")
    git(tmp_path / "gitdir", "config", "core.worktree", str(project))
    git(tmp_path, "--git-dir=gitdir", "worktree", "add", "--quiet", "-b", "other", "linked")
    if own_settings:
        git(tmp_path / "gitdir", "config", "extensions.worktreeConfig", "true")
    (tmp_path / "linked/file").write_text("2\n")
    theirs, ours = both(tmp_path / "linked")
    assert theirs == ours
    assert own_settings or ours == "1.0.0-dirty"


def test_a_work_tree_that_is_gone_is_not_a_dirty_one(project: Path, tmp_path: Path) -> None:
    git(project, "config", "core.worktree", str(tmp_path / "gone"))
    assert ("", "") == both(project)


@pytest.mark.parametrize(
    ("glob", "is_dirty"), [("https://example.com/**", False), ("https://other.example/**", True), ("*", True)]
)
def test_a_file_is_included_for_the_url_of_a_remote(project: Path, glob: str, is_dirty: bool) -> None:
    # With the setting a change of mode does not count.
    git(project, "config", "remote.origin.url", "https://example.com/a/b.git")
    (project / "home").mkdir()
    (project / "home/modes").write_text("[core]\nfilemode = false\n")
    git(project, "config", "--unset", "core.filemode")
    git(project, "config", f"includeIf.hasconfig:remote.*.url:{glob}.path", str(project / "home/modes"))
    (project / "file").chmod(0o755)
    expected = "1.0.0-dirty" if is_dirty else "1.0.0"
    assert (expected, expected) == both(project)


@pytest.mark.parametrize("condition", ["hasconfig:remote.*.url:https://example.com/**", "gitdir:/"])
@pytest.mark.parametrize("asks", [True, False])
def test_a_file_that_is_included_for_a_url_names_none(project: Path, condition: str, asks: bool) -> None:
    git(project, "config", "remote.origin.url", "https://example.com/a/b.git")
    (project / "home").mkdir()
    (project / "home/more").write_text('[remote "other"]\nurl = https://other.example\n')
    if asks:
        git(project, "config", "includeIf.hasconfig:remote.*.url:nothing.path", "/absent")
    git(project, "config", f"includeIf.{condition}.path", str(project / "home/more"))
    theirs, ours = both(project)
    assert theirs == ours


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read a file")
@pytest.mark.parametrize("locked", [".gitconfig", ".config/git/config", "."])
def test_settings_of_a_user_that_may_not_be_read_are_passed_over(project: Path, tmp_path: Path, locked: str) -> None:
    home = tmp_path / "another"
    (home / ".config/git").mkdir(parents=True)
    for name in (".gitconfig", ".config/git/config"):
        (home / name).write_text("[user]\n")
    (home / locked).chmod(0o000)
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    shutil.copytree(Path(__file__).parents[2] / "buildtools", tmp_path / "library/buildtools")
    subprocess.run(["chown", "--recursive", "65534:65534", str(project)], check=True)
    surroundings = {**environment(home), "PYTHONPATH": str(tmp_path / "library")}
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    def asked(*command: str) -> str:
        done = subprocess.run(
            [*as_nobody, *command], cwd=project, env=surroundings, capture_output=True, text=True, check=False
        )
        return done.stdout

    ours = asked("/usr/bin/python3", "-m", "buildtools.git.describe", "--dirty")
    assert ("1.0.0\n", "1.0.0\n") == (asked("git", "describe", "--dirty"), ours)


def test_a_missing_tree_is_damage_and_not_clean(project: Path) -> None:
    tree = git(project, "rev-parse", "HEAD^{tree}").decode().strip()
    (project / f".git/objects/{tree[:2]}/{tree[2:]}").unlink()
    assert 0 != tried(project, project / "home", "describe", "--dirty").returncode
    with pytest.raises(BuildToolsError, match=f"object {tree} is missing"):
        read_version(project, "", environment(project / "home"))


def test_commits_of_one_second_are_taken_first_in_first_out(project: Path) -> None:
    tree = git(project, "rev-parse", "HEAD^{tree}").decode().strip()

    def commit(message: str, *parents: str) -> str:
        options = [word for parent in parents for word in ("-p", parent)]
        return git(project, "commit-tree", tree, *options, "-m", message).decode().strip()

    base = git(project, "rev-parse", "HEAD").decode().strip()
    for number in range(8):
        old = commit(f"old {number}", base)
        left, right = commit(f"left {number}", old), commit(f"right {number}", old)
        new = commit(f"new {number}", right, left)
        top = commit(f"top {number}", left, new)
        for name, target in (("2.0.0", old), ("2.1.0", new)):
            git(project, "tag", "--force", "--annotate", f"--message={name}", name, target)
        git(project, "reset", "--quiet", "--hard", top)
        theirs, ours = both(project)
        assert theirs == ours


def test_paths_of_git_in_the_environment_are_taken_from_where_the_command_is_started(
    project: Path, tmp_path: Path
) -> None:
    (project / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    git(project, "add", "tasks.py")
    git(project, "commit", "--quiet", "--message=tasks")
    git(project, "tag", "--annotate", "--message=1.1.0", "1.1.0")
    (project / ".git").rename(tmp_path / "gitdir")
    (project / "below").mkdir()
    variables = {**environment(tmp_path), "GIT_DIR": "../../gitdir", "GIT_WORK_TREE": ".."}
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "version"],
        cwd=project / "below",
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("1.1.0\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize("command", ["buildtools.git.describe", "invoke version"])
def test_a_closed_standard_output_is_no_error(project: Path, tmp_path: Path, command: str) -> None:
    (project / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    call = f"{sys.executable} -m {command} >&-"
    done = subprocess.run(
        ["sh", "-c", call], cwd=project, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("value", ["all", "explicit", "implicit", ""])
@pytest.mark.parametrize("way", ["found", "named", "own file", "from within"])
def test_a_bare_repository_is_used_where_the_user_lets_it_be_found(
    project: Path, tmp_path: Path, value: str, way: str
) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", "project", "bare.git")
    bare = tmp_path / "bare.git"
    variables: dict[str, str] = {}
    if way == "own file":
        # What a repository says of itself does not count.
        git(bare, "config", "safe.bareRepository", value or "explicit")
    else:
        variables |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.bareRepository",
            "GIT_CONFIG_VALUE_0": value,
        }
    variables |= {"GIT_DIR": str(bare)} if way == "named" else {}
    folder = bare / "refs" if way == "from within" else bare
    surroundings = {**environment(tmp_path / "home"), **variables}
    theirs = subprocess.run(["git", "describe"], cwd=folder, env=surroundings, capture_output=True, check=False)
    ours = describe_command(str(folder), [], surroundings)
    assert (theirs.returncode, theirs.stdout.decode()) == ours[:2]
