"""The rules of the house, read off the source: layers, late imports, who reads the environment, words kept out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "buildtools"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each may import those to its right and itself, never one to its left.
LAYERS = (
    ("__main__",),
    ("program",),
    ("tasks", "api"),
    ("invocation",),
    ("rendering", "invoke_config"),
    ("console", "pipeline", "junit"),
    ("workboard", "caller"),
    ("stages",),
    ("task_context", "channel", "audit", "gates", "statement"),
    ("services", "run", "release", "deployment", "sandbox", "compose"),
    ("git", "image", "archive", "crypto"),
    ("schedule", "partition", "command", "settings_reader", "json_document"),
    ("version", "settings", "events", "cancellation"),
    ("build_cache",),
    ("platform",),
    ("frozen", "files", "memory", "request_log", "toml_lines", "user_folders"),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
# The same inside the two largest rooms.
INNER_LAYERS = {
    "image": (
        ("builders",),
        ("assembly",),
        ("survey", "push"),
        ("bases",),
        ("engine", "layout"),
        ("builder",),
        ("registry", "folder"),
        ("docker",),
        ("http",),
        ("reference", "generation"),
    ),
    "git": (
        ("tagging",),
        ("checkout",),
        ("describe",),
        ("naming",),
        ("worktree",),
        ("repository",),
        ("config",),
        ("storage",),
        ("wildmatch", "errors", "address"),
    ),
}
# Every library that is imported, and the rooms that may import it.
ONLY_IN = {
    "boto3": {"archive"},
    "botocore": {"archive"},
    "cryptography": {"crypto"},
    "deflate": {"archive"},
    "docker": {"image"},
    "dulwich": {"git"},
    "hpack": {"image"},
    "invoke": {"program", "tasks", "api", "invocation", "invoke_config"},
    "isal": {"archive", "image"},
    "nacl": {"crypto"},
    "requests": {"image"},
    "rich": {"console"},
    "semver": {"git", "release", "version"},
    "urllib3": {"archive", "git", "image"},
}
LATE = {"dulwich", "docker", "boto3", "botocore", "rich", "hpack", "semver", "isal", "deflate", "cryptography", "nacl"}
LINES_WORTH_A_SECOND_LOOK = 450


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in _top_level(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """What runs at import: an ``if TYPE_CHECKING`` block does not."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from node.body


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward_and_adapters_keep_apart(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "buildtools" or len(parts) == 1 or parts[1] not in RANK:
            continue
        there = parts[1]
        assert there == here or RANK[there] > RANK[here], f"{here} imports {there}"


@pytest.mark.parametrize("outer", INNER_LAYERS)
def test_imports_run_downward_inside_a_room(outer: str) -> None:
    rank = {name: depth for depth, names in enumerate(INNER_LAYERS[outer]) for name in names}
    modules = [path for path in (PACKAGE / outer).rglob("*.py") if path != PACKAGE / outer / "__init__.py"]
    upward = []
    for path in modules:
        here = path.relative_to(PACKAGE / outer).parts[0].removesuffix(".py")
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] != ["buildtools", outer] or len(parts) == 2:
                continue
            there = parts[2]
            if there != here and rank[there] <= rank[here]:
                upward.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert [] == upward


def test_no_two_modules_import_each_other_even_by_a_detour() -> None:
    graph = {_dotted(path): set[str]() for path in MODULES}
    for path in MODULES:
        for name in imports(path):
            while name and name not in graph:
                name = name.rpartition(".")[0]
            # What a package says of itself is there for all modules in it.
            if name and not _dotted(path).startswith(f"{name}."):
                graph[_dotted(path)].add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_client_library_is_imported_in_one_folder(path: Path) -> None:
    for library in {name.split(".")[0] for name in imports(path)} - {"buildtools", "__future__"}:
        assert library in sys.stdlib_module_names or room(path) in ONLY_IN[library], f"{path.name} imports {library}"


def test_each_library_is_declared() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    # Called otherwise where it is installed from.
    modules = {"pynacl": "nacl"}
    names = [re.split(r"[^A-Za-z0-9_-]", text)[0] for text in requirements]
    declared = {modules.get(name, name.replace("-", "_")) for name in names}
    assert ONLY_IN.keys() == declared


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_late(path: Path) -> None:
    early = {name.split(".")[0] for name in imports(path, top_level_only=True)} & LATE
    # These modules are themselves imported late, and are nothing without their library.
    assert set() == early - {"hpack"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_invocation_and_the_drop_in_command_read_the_environment(path: Path) -> None:
    reads = "os.environ" in path.read_text() or "os.getenv" in path.read_text()
    allowed = path.relative_to(PACKAGE).as_posix() in ("invocation.py", "git/naming/describe_command.py")
    assert allowed or not reads


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_and_stays_readable(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= LINES_WORTH_A_SECOND_LOOK


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_public_name_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    for node in list(public):
        # What a subclass overrides is documented where it is first defined; a protocol's own text says what it is for.
        if isinstance(node, ast.ClassDef) and not node.bases:
            public += [inner for inner in node.body if isinstance(inner, kinds) and not inner.name.startswith("_")]
    assert [] == [f"{path.name}:{node.lineno} {node.name}" for node in public if not ast.get_docstring(node)]


def test_values_never_change() -> None:
    # A step of a running build, and what the console shows of it, grow while they are listened to.
    growing = {"Vertex", "Work"}
    loose = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name not in growing
        for decorator in node.decorator_list
        if "dataclass" in ast.unparse(decorator) and path.name != "frozen.py"
    ]
    assert [] == loose


# Names that stand for one thing in several modules, and why that is no second meaning.
TWINS = {
    **dict.fromkeys(("build", "push"), "a task, its function in the pipeline, and what that comes down to"),
    **dict.fromkeys(
        (
            *("channel", "check", "dist", "doctor", "fetch", "history", "init", "list_images", "promote", "publish"),
            *("clean", "plan", "prune", "release", "rollback", "runit", "stage"),
            "verify",
        ),
        "a task and its function in the pipeline",
    ),
    "main": "two programs start here",
    "TYPE_CHECKING": "a constant of the language; to import typing takes longer than to describe a commit",
    **dict.fromkeys(("NAME", "PROGRAMS", "answers", "start", "stop"), "the parts of a sandbox are used alike"),
}
MODULE_TWINS = {
    "client": "engine and registry are each spoken to by their client",
    "engine": "the sandbox starts what the image room uses",
    "registry": "the sandbox starts what the image room uses",
    "errors": "each room has its own",
    "push": "the verb's two halves",
}


def _public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _standing_twice(places: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: where for name, where in places.items() if len(where) > 1 and not name.startswith("_")}


def test_a_public_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for name in set(_public_names(ast.parse(path.read_text()))):
            places.setdefault(name, []).append(_dotted(path))
    assert {} == {name: where for name, where in _standing_twice(places).items() if name not in TWINS}


def test_a_module_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        places.setdefault(_dotted(path).rpartition(".")[2], []).append(_dotted(path))
    assert {} == {name: where for name, where in _standing_twice(places).items() if name not in MODULE_TWINS}


def test_every_task_that_is_named_exists() -> None:
    from buildtools.tasks import namespace

    tasks = {name.replace("_", "-") for name in namespace.task_names} | set(namespace.task_names)
    texts = [*PACKAGE.rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md")]
    unknown = [
        f"{path.relative_to(ROOT)}: invoke {name}"
        for path in texts
        for name in re.findall(r"`invoke ([a-z][a-z.-]*[a-z])", path.read_text())
        if name not in tasks
    ]
    assert [] == unknown


def test_asking_for_the_version_loads_no_heavy_library() -> None:
    program = (
        "import sys, buildtools.git.describe, buildtools.tasks\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program, *LATE, "urllib3", "requests"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "[]" == loaded.stdout.strip()


def test_every_source_line_is_free_of_leftovers() -> None:
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    for name in tracked:
        if name.endswith((".py", ".java", ".gradle", ".toml", ".md")):
            text = (ROOT / name).read_text()
            assert not any(mark in text for mark in marks), name


# Past participles that English forms without -ed, where the same word is not a noun or an infinitive too.
_IRREGULAR = re.compile(
    "begun|bent|broken|brought|built|caught|chosen|come|done|drawn|dug|fallen|fed|felt|forgotten|found|given|gone|grown|"
    "heard|held|hidden|hung|kept|known|laid|lent|lit|lost|made|meant|met|paid|risen|said|seen|sent|shaken|shown|sold|"
    "sought|spent|stolen|stood|struck|sunk|taken|taught|thought|thrown|told|torn|understood|woken|won|worn|written"
)
# ``threading``, ``concurrent.futures`` and signals say "cancelled"; a word of the other kind only looks like one.
_REGULAR = re.compile("(?!cancelled|embed|exceed|feed|hundred|need|proceed|seed|speed|succeed)[a-z]+ed")


def _bound_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def test_names_are_nouns_rather_than_bare_participles() -> None:
    names = [name.strip("_").lower() for path in MODULES for name in _bound_names(path)]
    irregular = [name for name in names if _IRREGULAR.fullmatch(name)]
    assert len(irregular) < 0.003 * len(names), sorted(irregular)
    # A flag or a state is rightly called so: cached, signed, untracked.
    regular = [name for name in names if _REGULAR.fullmatch(name)]
    assert len(regular) < 0.015 * len(names), sorted(regular)


def test_nobody_gives_an_error_its_exit_code_from_outside() -> None:
    places = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == "exit_code"
        if ast.unparse(node.value) != "self"
    ]
    assert [] == places
