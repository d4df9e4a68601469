"""``invoke release`` as a program: what it prints, how it ends, and that a run that was killed is finished."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from buildtools.sandbox.process import free_ports
from tests.git.remotes import Site

INVOKE = (sys.executable, "-m", "invoke")


@pytest.fixture(scope="session")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site.create(tmp_path_factory.mktemp("release"))
    site.clone.write("tasks.py", "from buildtools.tasks import namespace\n")
    site.clone.write("pyproject.toml", '[tool.buildtools]\ntag_prefix = "v"\n')
    site.clone.write(".gitignore", "__pycache__\n")
    site.commit("Use the build tools")
    return site


@pytest.fixture
def site(_model: Site, tmp_path: Path) -> Site:
    shutil.copytree(_model.folder, tmp_path / "site", symlinks=True)
    return Site(tmp_path / "site")


def start(site: Site, *arguments: str, at: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*INVOKE, *arguments],
        cwd=at or site.clone.path,
        env=site.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output, and the last line on standard error."""
    out, err = process.communicate()
    assert "Traceback" not in err
    return process.returncode, out, err.strip().splitlines()[-1] if err.strip() else ""


def invoke(site: Site, *arguments: str) -> tuple[int, str, str]:
    return ended(start(site, *arguments))


def test_a_release_is_looked_at_cut_and_then_the_version(site: Site) -> None:
    head = site.clone.git("rev-parse", "HEAD")
    shown = f"tag     v0.1.0\ncommit  {head}\nafter   nothing\n\n0.1.0\n\n* Use the build tools\n* First things\n"
    before = site.refs()
    end = "dry run: the tag v0.1.0 would be made and pushed to origin; nothing was touched"
    assert (0, shown, end) == invoke(site, "release", "--first", "0.1.0", "--dry-run")
    assert (0, shown, end) == invoke(site, "--dry", "release", "--first", "0.1.0")
    assert before == site.refs()
    end = "pushed the tag v0.1.0 to origin; next: `invoke publish`"
    assert (0, shown, end) == invoke(site, "release", "--first", "0.1.0")
    assert (0, "0.1.0\n") == invoke(site, "version")[:2]
    site.commit("Another")
    code, out, _ = invoke(site, "release", "--bump", "minor", "--no-push", "--message", "By hand", "--json")
    assert 0 == code
    expected = {
        "schema": 1,
        "name": "v0.2.0",
        "version": "0.2.0",
        "previous": "v0.1.0",
        "commit": site.clone.git("rev-parse", "HEAD"),
        "message": "By hand\n",
        "state": "made here",
        "object": site.clone.git("rev-parse", "v0.2.0"),
        "signed": False,
        "remote": "",
    }
    assert expected == json.loads(out)
    assert "" == site.remote.git("tag", "--list", "v0.2.0")


def test_a_refusal_is_one_line_with_exit_code_2_and_an_outage_is_4(site: Site) -> None:
    site.clone.write("pyproject.toml", "# changed\n")
    said = (
        "error: the tree is dirty (pyproject.toml): commit or stash the changes; a release must be what its commit says"
    )
    assert (2, "", said) == invoke(site, "release", "--first", "1.0.0")
    site.clone.git("checkout", "--quiet", ".")
    (port,) = free_ports(1)
    site.clone.git("remote", "set-url", "origin", f"http://127.0.0.1:{port}/x.git")
    code, _, last = invoke(site, "release", "--first", "1.0.0")
    assert (4, True) == (code, "cannot reach origin" in last)


def test_on_a_detached_head_as_in_jenkins_the_branch_is_told(site: Site) -> None:
    site.clone.git("switch", "--quiet", "--detach")
    site.clone.git("branch", "--quiet", "-D", "main")
    assert 2 == invoke(site, "release", "--first", "1.0.0")[0]
    assert 0 == invoke(site, "release", "--first", "1.0.0", "--branch", "main")[0]


def test_a_run_that_is_killed_between_push_and_tag_is_finished_by_the_next(site: Site) -> None:
    # The hook's parent is git receive-pack, and that one's parent the run.
    run = "$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$PPID/status)"
    site.hook("reference-transaction", f'test "$1" != committed || kill -9 {run}')
    assert -9 == invoke(site, "release", "--first", "1.0.0")[0]
    assert ("", "v1.0.0") == (site.clone.git("tag"), site.remote.git("tag"))
    site.hook("reference-transaction", "exit 0")
    code, _, last = invoke(site, "release", "--first", "1.0.0")
    assert (0, True) == (code, "v1.0.0 was on origin from a run that was cut off, and is here now" in last)
    assert site.clone.git("rev-parse", "v1.0.0") == site.remote.git("rev-parse", "v1.0.0")


def test_of_two_that_start_at_once_in_two_clones_one_wins_and_the_other_says_so(site: Site) -> None:
    other = site.another_clone()
    runs = [start(site, "release", "--first", "1.0.0", at=clone.path) for clone in (site.clone, other)]
    (_, _, won), (code, _, lost) = sorted(map(ended, runs))
    assert "pushed the tag v1.0.0 to origin; next: `invoke publish`" == won
    assert (2, True) == (code, lost.startswith("error: the tag v1.0.0 already exists on origin: "))
