"""What git neither tracks nor ignores, held against ``git ls-files --others --exclude-standard``."""

from __future__ import annotations

import os
import random
from contextlib import closing
from pathlib import Path

import pytest

from buildtools.git.checkout import untracked_files
from buildtools.git.repository import Repository
from buildtools.git.worktree.tracked_files import Files
from buildtools.git.worktree.untracked import has_untracked, untracked_paths
from tests.git.reference import environment, git

NAMES = ("a", "b", "c.log", "d.o", "build", "x y", "ö", ".h", "[z]")
RULES = (
    *("*.log", "!c.log", "/build/", "build", "!build/", "*.o", "!/a/*.o", "/a/b", "a/", "**/b", "a/**", "!a/b/", "/*"),
    *("!/a", "[ab]", "\\[z\\]", "x y", "x\\ ", "x y   ", ".*", "!.gitignore", "# no", "", "*/c.log", "a/*/d.o", "ö"),
)


def found(top: Path, *folders: str) -> list[bytes]:
    """What we say, in these folders of the work tree or in all of it."""
    wanted = [os.fsencode(folder) for folder in folders] or [b""]
    with closing(Files(Repository.open(top, environment(top / "home")))) as files:
        paths = sorted(untracked_paths(files, wanted))
        assert bool(paths) == has_untracked(files) or folders
    assert len(set(paths)) == len(paths)
    return paths


def listed(top: Path) -> list[bytes]:
    """What git says."""
    told = git(top, "ls-files", "-z", "--others", "--exclude-standard")
    return sorted(path for path in told.split(b"\0") if path)


class Tree:
    """A repository with files, links, rules and repositories in places that a seed decides."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self.choice = random.Random(seed)
        git(top, "init", "-q")
        (top / "home/.config/git").mkdir(parents=True)
        (top / "home/rules").write_text(self.rules())
        (top / "home/.config/git/ignore").write_text(self.rules())
        (top / ".git/info").mkdir(exist_ok=True)
        (top / ".git/info/exclude").write_text(f"/home/\n{self.rules()}")
        if self.choice.random() < 0.5:
            git(top, "config", "core.excludesfile", "~/rules")
        self.folders = [""]
        self.files: list[str] = []
        self.fill(0, "")
        tracked = [path for path in self.files if self.choice.random() < 0.3]
        git(top, "add", "-f", "--", *tracked)
        git(top, "commit", "-q", "--allow-empty", "-m", "first")

    def rules(self) -> str:
        return "".join(f"{rule}\n" for rule in self.choice.sample(RULES, self.choice.randrange(4)))

    def fill(self, depth: int, folder: str) -> None:
        for name in self.choice.sample(NAMES, self.choice.randrange(1, 6)):
            path = self.top / folder / name
            kind = self.choice.random()
            if kind < 0.45 and depth < 3:
                path.mkdir()
                self.folders.append(f"{folder}{name}/")
                self.fill(depth + 1, self.folders[-1])
            elif kind < 0.5 and depth:
                path.mkdir()
                git(path, "init", "-q")
                (path / "inside").touch()
            elif kind < 0.55:
                path.symlink_to(self.choice.choice(NAMES))
                self.files.append(f"{folder}{name}")
            elif kind < 0.58:
                os.mkfifo(path)
            else:
                path.touch()
                self.files.append(f"{folder}{name}")
        if self.choice.random() < 0.4:
            (self.top / folder / ".gitignore").write_text(self.rules())


@pytest.mark.parametrize("seed", range(60))
def test_they_are_those_that_git_lists(tmp_path: Path, seed: int) -> None:
    tree = Tree(tmp_path, seed)
    expected = listed(tmp_path)
    assert expected == found(tmp_path)
    for number in range(1, len(tree.folders)):
        some = tree.folders[number : number + 2]
        below = tuple(map(os.fsencode, some))
        assert [path for path in expected if path.startswith(below)] == found(tmp_path, *some)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A repository, not at the top of the test's folder, with the tracked file ``in/tracked``."""
    top = tmp_path / "work"
    write(top, "in/tracked")
    git(top, "init", "-q")
    commit(top)
    return top


def write(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)


def commit(top: Path) -> None:
    git(top, "add", "-A")
    git(top, "commit", "-qm", "all")


def untracked(top: Path, *folders: Path, root: Path | None = None) -> list[str]:
    """The answer for a project in ``root``, relative to the top of the work tree."""
    paths = untracked_files(root or top, folders or [top], environment(top / "home"))
    return [path.removeprefix(f"{top}/") for path in paths]


def test_a_folder_is_looked_at_with_the_rules_of_those_above(work: Path) -> None:
    write(work, "in/deep/a.log", "in/deep/b", "in/c", "d")
    (work / ".gitignore").write_text("*.log\n")
    (work / "in/.gitignore").write_text("/deep/b\n")
    assert [] == untracked(work, work / "in/deep")
    (work / "in/.gitignore").write_text("!deep/a.log\n")
    assert ["in/deep/a.log", "in/deep/b"] == untracked(work, work / "in/deep")
    (work / ".gitignore").write_text("in/deep/\n")
    assert [] == untracked(work, work / "in/deep")


def test_an_ignore_file_that_cannot_be_read_is_passed_over_with_a_warning(work: Path) -> None:
    write(work, "in/a.log")
    for folder in (work, work / "in"):
        (folder / ".gitignore").unlink(missing_ok=True)
        (folder / ".gitignore").symlink_to("elsewhere")  # git follows no link here
    (work / "elsewhere").write_text("*.log\n")
    warnings: list[str] = []
    paths = untracked_files(work, [work], environment(work / "home"), warnings.append)
    told = git(work, "ls-files", "-z", "--others", "--exclude-standard")
    assert sorted(path for path in told.decode().split("\0") if path) == [
        path.removeprefix(f"{work}/") for path in paths
    ]
    reason = "cannot be read (Too many levels of symbolic links), so it ignores nothing"
    assert [f"{work}/.gitignore {reason}", f"{work}/in/.gitignore {reason}"] == warnings


def test_folders_may_overlap_lie_outside_and_hold_the_whole_repository(work: Path) -> None:
    write(work, "in/a", "b")
    write(work.parent, "outside/c", "work-too/d")
    assert ["in/a"] == untracked(work, work / "in", work / "in")
    assert [] == untracked(work, work.parent / "outside", work.parent / "work-too", work / "missing")
    assert ["b", "in/a"] == untracked(work, work.parent, work / "in")


def test_a_project_may_lie_deep_in_its_repository_and_behind_symbolic_links(work: Path) -> None:
    write(work, "in/a", "b")
    (work.parent / "link").symlink_to("work/in")
    assert ["in/a"] == untracked(work, work.parent / "link", root=work / "in")
    assert ["in/a"] == untracked(work, work / "in", root=work.parent / "link")


def test_a_folder_in_a_repository_that_is_not_a_submodule_is_untracked(work: Path) -> None:
    write(work, "in/other/deep/a")
    git(work / "in/other", "init", "-q")
    commit(work / "in/other")
    assert ["in/other/"] == untracked(work, work / "in/other/deep")
    (work / ".gitignore").write_text("other\n")
    assert [] == untracked(work, work / "in/other/deep")


@pytest.fixture
def sub(work: Path) -> Path:
    """A submodule ``in/sub`` with the tracked file ``deep/tracked``, and one in it, ``inner``."""
    place = work / "in/sub"
    for folder, name in ((place / "inner", "tracked"), (place, "deep/tracked")):
        write(folder, name)
        git(folder, "init", "-q")
        commit(folder)
    (work / ".gitmodules").write_text('[submodule "s"]\n\tpath = in/sub\n\turl = ./in/sub\n')
    commit(work)
    return place


def test_a_submodule_is_looked_into_by_its_own_rules(work: Path, sub: Path) -> None:
    assert [] == untracked(work)
    write(sub, "deep/a", "deep/b.log", "c", "inner/d")
    (work / ".gitignore").write_text("c\n")
    (sub / ".git/info/exclude").write_text("*.log\n")
    assert [".gitignore", "in/sub/c", "in/sub/deep/a", "in/sub/inner/d"] == untracked(work)
    assert ["in/sub/deep/a"] == untracked(work, sub / "deep")
    assert ["in/sub/deep/a", "in/sub/inner/d"] == untracked(work, sub / "deep", sub / "inner")
    assert ["in/sub/c", "in/sub/deep/a", "in/sub/inner/d"] == untracked(work, sub, work / "nowhere")
    git(work, "config", "submodule.s.ignore", "untracked")
    assert [] == untracked(work, sub)


def test_a_submodule_that_is_not_checked_out_holds_nothing(work: Path, sub: Path) -> None:
    (sub / ".git").rename(work.parent / "moved")
    assert [] == untracked(work, sub)


@pytest.mark.parametrize("settings", [(), ("index.sparse=true",), ("sparse.expectFilesOutsideOfPatterns=true",)])
@pytest.mark.parametrize("present", [False, True])
def test_what_a_sparse_checkout_leaves_out_is_tracked(work: Path, settings: tuple[str, ...], present: bool) -> None:
    write(work, "out/deep/tracked", "out/.gitignore", "in/more")
    (work / "out/.gitignore").write_text("*.log\n")
    commit(work)
    git(work, "sparse-checkout", "set", "--cone", "--sparse-index", "in")
    for setting in settings:
        git(work, "config", *setting.split("="))
    if present:
        write(work, "out/deep/tracked", "out/deep/new", "out/deep/new.log")
    expected = ["out/deep/new"] if present else []
    assert [os.fsencode(path) for path in expected] == listed(work)
    assert expected == untracked(work)
    assert expected == untracked(work, work / "out/deep")
