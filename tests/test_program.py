"""The program ``buildtools``: what ``invoke`` does, without a ``tasks.py``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Repository, make_repository

ROOT = Path(__file__).parent.parent


def run(folder: Path, *arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("buildtools"), *arguments],
        cwd=folder,
        env={**environment, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(repository: Repository) -> Repository:
    repository.write("pyproject.toml", '[tool.buildtools]\ntag_prefix = "v"\n')
    repository.write("src/docker/app/Dockerfile", "FROM scratch\n")
    repository.commit("first")
    repository.tag("v1.0.0")
    return repository


def test_a_configured_project_needs_no_tasks_file(project: Repository, environment: Mapping[str, str]) -> None:
    for folder in (project.path, project.path / "src/docker"):
        assert "1.0.0\n" == run(folder, "version", environment=environment).stdout


def test_the_package_is_the_program_too(project: Repository, environment: Mapping[str, str]) -> None:
    words = [sys.executable, "-m", "buildtools", "check"]
    done = subprocess.run(words, cwd=project.path, env=dict(environment), capture_output=True, text=True, check=False)
    assert (0, "no errors: 1 image folder and 0 distributions checked\n") == (done.returncode, done.stderr)


def test_the_nearest_project_counts(project: Repository, environment: Mapping[str, str]) -> None:
    project.write("inner/pyproject.toml", '[tool.other]\nx = 1\n[tool.buildtools]\nimages = "elsewhere"\n')
    project.write("inner/deeper/pyproject.toml", "[project]\n")
    done = run(project.path / "inner/deeper", "check", environment=environment)
    assert (2, True) == (done.returncode, "elsewhere does not exist" in done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verfy",), "'verfy' is neither a task nor an option: see `buildtools --list`"),
        (("verify", "1.0.0"), "'1.0.0' is neither a task nor an option: see `buildtools --help verify`"),
        (("verify", "--nope"), "'--nope' is neither a task nor an option: see `buildtools --help verify`"),
        (("list", "--only"), "--only needs a value: see `buildtools --help list`"),
        (("--help", "nope"), "'nope' is neither a task nor an option: see `buildtools --list`"),
        (("--list", "nope"), "Sub-collection 'nope' not found: see `buildtools --help`"),
        (("-D", "x", "--list"), "--list-depth and --command-timeout need a whole number: give one"),
        (("-F", "x", "--list"), "--list-format x is unknown (there are flat, nested, json): see `buildtools --list`"),
    ],
)
def test_arguments_that_cannot_be_read_are_one_message(
    project: Repository, environment: Mapping[str, str], arguments: tuple[str, ...], message: str
) -> None:
    done = run(project.path, *arguments, environment=environment)
    assert (2, f"error: {message}\n") == (done.returncode, done.stderr)


def test_files_and_variables_of_invoke_count_too(project: Repository, environment: Mapping[str, str]) -> None:
    project.write("invoke.yaml", 'buildtools:\n  tag_prefix: ""\n')
    assert "v1.0.0\n" == run(project.path, "version", environment=environment).stdout
    named = {**environment, "INVOKE_BUILDTOOLS_TAG_PREFIX": "w"}
    assert 2 == run(project.path, "version", environment=named).returncode


@pytest.mark.parametrize(("name", "text"), [("invoke.yaml", "a: ["), (".invoke.yaml", "a: ["), (".invoke.json", "{")])
def test_a_configuration_file_that_cannot_be_read_is_one_message(
    project: Repository, environment: Mapping[str, str], name: str, text: str
) -> None:
    project.write(name, text)
    done = run(project.path, "version", environment=environment)
    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert done.stderr.startswith("error: ")


def test_a_runtime_configuration_that_is_not_there_or_unusable_is_refused(
    project: Repository, environment: Mapping[str, str]
) -> None:
    project.write("list.yaml", "- registry\n")
    for name, reason in (
        ("list.yaml", "Invoke cannot use the file of -f or INVOKE_RUNTIME_CONFIG (it is not a table)"),
        ("absent.yaml", "invalid configuration: absent.yaml, which -f or INVOKE_RUNTIME_CONFIG names, does not exist"),
        (
            ".sandbox/invoke.yaml",
            "invalid configuration: .sandbox/invoke.yaml, which -f or INVOKE_RUNTIME_CONFIG names, does not exist (its "
            "sandbox is down: open a new shell)",
        ),
    ):
        done = run(project.path, "version", environment={**environment, "INVOKE_RUNTIME_CONFIG": name})
        assert (2, True) == (done.returncode, done.stderr.startswith(f"error: {reason}: correct it")), done.stderr


def test_a_project_file_whose_tools_are_no_table_is_refused(
    project: Repository, environment: Mapping[str, str]
) -> None:
    project.write("pyproject.toml", "tool = 3\n")
    done = run(project.path, "version", environment=environment)
    message = "error: pyproject.toml: tool must be a table: correct it and run again\n"
    assert (2, "", message) == (done.returncode, done.stdout, done.stderr)


def test_its_help_lists_the_tasks(tmp_path: Path, environment: Mapping[str, str]) -> None:
    shown = run(tmp_path, "--help", environment=environment).stdout
    assert shown.startswith("Usage: buildtools ")
    assert "\n  publish " in shown


def test_the_completion_script_completes_in_bash(project: Repository, environment: Mapping[str, str]) -> None:
    # What bash does at the Tab key: it sets these variables and calls the function.
    typed = {"buildtools pub": ["publish"], "buildtools publish --al": ["--allow-dirty"], "buildtools sand": 3}
    for line, expected in typed.items():
        program = f"""
            set -euo pipefail
            source <(buildtools --print-completion-script bash)
            complete -p buildtools | grep -q -- '-F _complete_buildtools'
            COMP_WORDS=({line}) COMP_CWORD=$(({len(line.split())} - 1))
            _complete_buildtools buildtools "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "-c", program],
            cwd=project.path,
            env={**environment, "HOME": str(project.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        completions = done.stdout.split()
        assert ("", expected) == (done.stderr, completions if isinstance(expected, list) else len(completions))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script_for(tmp_path: Path, environment: Mapping[str, str], shell: str) -> None:
    done = run(tmp_path, "--print-completion-script", shell, environment=environment)
    assert (0, True) == (done.returncode, "--complete -- " in done.stdout)


@pytest.mark.parametrize("flag", ["--help", "--list", "--print-completion-script=bash", "--version"])
def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path, environment: Mapping[str, str], flag: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [Path(sys.executable).with_name("buildtools"), flag],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path)},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (0, b"") == (done.returncode, done.stderr)


def test_it_tells_its_own_version_in_the_wheel_too(tmp_path: Path, environment: Mapping[str, str]) -> None:
    source = make_repository(tmp_path / "source")
    for name in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split():
        (source.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source.path / name)
    source.commit("first")
    source.tag("9.8.7")
    source.commit("second")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source.path], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith("/entry_points.txt")]
        assert "buildtools = buildtools.__main__:main" in archive.read(entry_points).decode().splitlines()
    templates = [str(path.relative_to(ROOT)) for path in (ROOT / "buildtools/templates").rglob("*") if path.is_file()]
    assert [] == [name for name in templates if name not in names]
    shown = subprocess.run(
        [sys.executable, "-c", "from buildtools.__main__ import main; main()", "--version"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    abbreviation = source.git("describe").rpartition("-")[2]
    assert f"buildtools 9.8.7.post1+{abbreviation}\n" == shown


def test_an_interruption_while_it_loads_is_no_traceback(tmp_path: Path, environment: Mapping[str, str]) -> None:
    # In place of the first module that the program imports, and of no use to Python itself.
    (tmp_path / "tomllib.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = run(tmp_path, "--version", environment={**environment, "PYTHONPATH": str(tmp_path)})
    expected = (130, "", "interrupted (SIGINT): run the same command again\n")
    assert expected == (done.returncode, done.stdout, done.stderr)


def failing_folder(repository: Repository) -> Path:
    repository.write("pyproject.toml", "[tool.buildtools]\n")
    repository.write("tasks.py", "from buildtools.tasks import namespace\n")
    return repository.path


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("program", ["invoke", "inv", "buildtools"])
def test_messages_name_the_program_that_was_called(
    repository: Repository, environment: Mapping[str, str], program: str, flags: tuple[str, ...]
) -> None:
    folder = failing_folder(repository)
    for arguments, words in ((("promote", "1.0.0"), "promote VERSION --to NAME"), (("doctor",), "check")):
        done = subprocess.run(
            [Path(sys.executable).with_name(program), *arguments, *flags],
            cwd=folder,
            env={**environment, "HOME": str(folder), "DOCKER_HOST": "unix:///nonexistent"},
            capture_output=True,
            text=True,
            check=False,
        )
        shown = done.stdout + done.stderr
        assert f"`{program} {words}`" in shown
        assert [] == [name for name in ("invoke", "inv", "buildtools") if name != program and f"`{name} " in shown]


def test_what_others_wrote_is_quoted_as_it_is(repository: Repository, environment: Mapping[str, str]) -> None:
    folder = failing_folder(repository)
    repository.write(".gitignore", "*.log\n")
    repository.commit("first")
    for key, value in (("name", "A. Author"), ("email", "author@example.com")):
        repository.git("config", f"user.{key}", value)
    message = "say `invoke publish`"
    done = run(
        folder, "release", "--first", "1.0.0", "--no-push", "--message", message, "--json", environment=environment
    )
    assert message in done.stdout, done.stderr
    assert "then `buildtools publish`" in done.stderr
    repository.write("script", "echo 'see `invoke publish`'; exit 1")
    repository.write("pyproject.toml", '[tool.buildtools.distribution.app]\nroot = "x"\ncommand = "sh script"\n')
    for flags in ((), ("--json",)):
        done = run(folder, "dist", *flags, environment=environment)
        assert 1 == done.returncode
        assert "see `invoke publish`" in (done.stdout if flags else done.stderr)
        assert "buildtools publish" not in done.stdout + done.stderr


def test_messages_name_tasks_as_somebody_has_put_them_into_a_collection(
    repository: Repository, environment: Mapping[str, str]
) -> None:
    failing_folder(repository)
    repository.write(
        "tasks.py",
        "from invoke import Collection\nfrom buildtools.tasks import namespace as ours\n"
        "namespace = Collection()\nnamespace.add_collection(ours, name='images')\n",
    )
    for arguments, words in (
        (("images.promote", "1.0.0"), "images.promote VERSION"),
        (("images.sandbox.status",), "images.sandbox.up"),
    ):
        done = subprocess.run(
            [Path(sys.executable).with_name("invoke"), *arguments],
            cwd=repository.path,
            env={**environment, "HOME": str(repository.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (2, True) == (done.returncode, f"`invoke {words}" in done.stderr), done.stderr


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 0, "no errors: 1 image folder"),
        ("2>&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("--json >/dev/full", 1, "error: cannot write the result to standard output (No space left on device): "),
        ("--json | true", 0, "no errors: 1 image folder"),
        ("--help >/dev/full", 2, "error: cannot write to standard output (No space left on device): make room"),
        ("--help | true", 0, ""),
    ],
)
def test_streams_that_cannot_be_written_are_no_traceback(
    project: Repository, environment: Mapping[str, str], redirection: str, code: int, said: str
) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"buildtools check {redirection}"],
        cwd=project.path,
        env={**environment, "HOME": str(project.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (code, True) == (done.returncode, done.stderr.startswith(said) if said else not done.stderr), done.stderr


def test_a_folder_that_is_gone_is_one_message(tmp_path: Path, environment: Mapping[str, str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$0"; exec buildtools version', gone],
        cwd=gone,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "error: the current folder does not exist any more: change into one that does\n"
    assert (2, expected) == (done.returncode, done.stderr)
