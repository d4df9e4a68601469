"""The program's arguments and exit statuses, each asked of git and of us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.oracle import Question, Worker, ask_git
from tests.compat.workshop import CLEAN, Workshop

ARGUMENTS = [
    "",
    "--lon",
    "--no-lon",
    "--tag",
    "--no-tags --tags",
    "--can=2",
    "--candidates 1 HEAD~2",
    "--candidates",
    "--candidates=x",
    "--candidates=",
    "--no-candidates",
    "--candidates=-7",
    "--abbrev=",
    "--abbrev=x",
    "--abbrev=3",
    "--abbrev=-1",
    "--abbrev 9",
    "--no-abbrev",
    "--abbrev=0 --long",
    "--abbrev=99",
    "--match",
    "--match v*",
    "--match=v*",
    "--match nothing --no-match",
    "--match nothing",
    "--exclude v* --no-exclude",
    "--exclude v*",
    "--exact-match",
    "--exact-match HEAD~3",
    "--exact-match --always",
    "--first",
    "--always --exclude *",
    "--unknown",
    "--no-unknown",
    "-x",
    "--tags=1",
    "--long=yes",
    "--no-long=1",
    "-- HEAD",
    "-- --long",
    "HEAD -- HEAD~1",
    "HEAD --long HEAD~1",
    "--end-of-options HEAD",
    "-",
    "HEAD absent HEAD",
    "absent HEAD",
    "--all --match side",
    "--all HEAD~1",
    "--tags --all --long HEAD~1",
    "v1",
    "v1^{}",
    "v1~0",
    "HEAD^{/third}",
    ":/second",
    "HEAD^{tree}",
    "HEAD:",
    "HEAD^1~1^0",
    "HEAD~99999999999",
    "HEAD~" + "9" * 5000,
    "HEAD^0" + "^0" * 2000,
    "x" * 5000,
    "@~2",
    "v1-1-g",
    "HEAD@{0}",
    "side@{0}",
    "@{-1}",
    "@{-1}~1",
    "@{-2}",
    "@{upstream}",
    "side@{u}",
    "@{push}",
    "main@{1}",
    "main@{2}",
    "main@{99}",
    "@{2020-01-01}",
    "main@{1000000001}",
    "main@{3.years.ago}",
    "--dirty HEAD",
    "--broken HEAD",
    "--no-dirty HEAD",
    "--dirty",
    "--dirty=*",
    "--broken",
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Commits, branches that follow each other, and a log of checkouts, made by git's own commands."""
    made = Workshop(tmp_path_factory.mktemp("command") / "repository")
    for number, word in enumerate(("first", "second", "third", "fourth")):
        date = {"GIT_COMMITTER_DATE": f"{1_000_000_000 + number} +0000", "GIT_AUTHOR_DATE": "1000000000 +0000"}
        made.git("commit", "-q", "--allow-empty", "-m", word, extra=date)
        if number == 0:
            made.git("tag", "-a", "-m", "m", "v1", extra=date)
    made.git("branch", "side", "HEAD~2")
    made.git("checkout", "-q", "side", extra=date)
    made.git("checkout", "-q", "main", extra=date)
    made.git("branch", "-u", "side", "main")
    made.ref("refs/remotes/origin/side", made.git("rev-parse", "HEAD~1"))
    made.configure('[remote "origin"]\n\turl = /nowhere\n\tfetch = +refs/heads/*:refs/remotes/origin/*')
    made.configure('[branch "side"]\n\tremote = origin\n\tmerge = refs/heads/side')
    return made


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_arguments_are_taken_as_git_takes_them(arguments: str, shop: Workshop, worker: Worker) -> None:
    question = Question(shop.path, tuple(arguments.split()))
    assert ask_git(question) == worker.ask(question)


@pytest.mark.parametrize("arguments", ["", "--long", "absent", "--nonsense", "--exact-match", "HEAD HEAD~1"])
def test_the_program_itself_answers_as_git_does(arguments: str, shop: Workshop) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "buildtools.git.describe", *arguments.split()],
        cwd=shop.path,
        env={**CLEAN, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    expected = ask_git(Question(shop.path, tuple(arguments.split())))
    assert (expected.status, expected.stdout) == (done.returncode, done.stdout.decode())
    assert b"Traceback" not in done.stderr
    assert bool(done.returncode) == bool(done.stderr)


def test_what_is_left_out_says_so(shop: Workshop) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "buildtools.git.describe", "--contains"],
        cwd=shop.path,
        env={**CLEAN, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert (129, b"") == (done.returncode, done.stdout)
    assert b"--contains is not supported here" in done.stderr


@pytest.mark.parametrize("line", ["nonsense", "{}", "[]", '{"cwd": 1, "args": []}', '{"cwd": "/absent", "args": []}'])
def test_a_worker_survives_bad_questions(line: str, shop: Workshop) -> None:
    good = json.dumps({"cwd": str(shop.path), "args": ["HEAD~3"], "env": {"GIT_DIR": None}})
    done = subprocess.run(
        [sys.executable, "-m", "buildtools.git.describe", "--worker"],
        input=f"{line}\n{good}\n",
        env={**CLEAN, "PYTHONPATH": os.pathsep.join(sys.path), "GIT_DIR": "/nowhere"},
        capture_output=True,
        check=True,
        text=True,
    )
    bad, fine = map(json.loads, done.stdout.splitlines())
    assert bad["rc"] in (128, 129)
    assert (0, "v1\n") == (fine["rc"], fine["stdout"])


@pytest.mark.parametrize("folder", [".git", ".git/refs", ".git/objects"])
@pytest.mark.parametrize("arguments", ["", "--dirty", "--broken"])
def test_inside_the_git_folder_there_is_no_work_tree(
    folder: str, arguments: str, shop: Workshop, worker: Worker
) -> None:
    question = Question(shop.path / folder, tuple(arguments.split()))
    assert ask_git(question) == worker.ask(question)


@pytest.mark.parametrize(
    "change",
    [
        "repositoryformatversion = 2",
        "repositoryformatversion = x",
        "worktree = /nowhere",
        "bare = maybe",
        "abbrev = 3",
        "abbrev",
        "abbrev =",
        "useReplaceRefs = false",
        "commitGraph = maybe",
        "[extensions]\n\tnoop = 1",
        "[extensions]\n\tobjectformat = sha1",
        "[extensions]\n\tunknown = 1",
        "repositoryformatversion = 1\n[extensions]\n\tunknown = 1",
        "repositoryformatversion = 1\n[extensions]\n\tobjectformat = md5",
        "[broken",
        "[include]\n\tpath = config",
        "[include]\n\tpath = /absent",
    ],
)
def test_configuration_is_refused_when_git_refuses_it(change: str, tmp_path: Path, worker: Worker) -> None:
    shop = Workshop(tmp_path / "repository")
    commit = shop.commit()
    shop.ref("refs/heads/main", commit)
    shop.annotate("v1", commit)
    shop.configure(f"[core]\n\t{change}")
    question = Question(shop.path, ("--long",))
    assert ask_git(question) == worker.ask(question)
