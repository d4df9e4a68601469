"""Random repositories and random questions about them, the same for the same seed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.compat.oracle import Question
from tests.compat.workshop import Workshop, git

STORAGES = (
    "loose",
    "packed",
    "several packs",
    "old pack index",
    "multi-pack-index",
    "alternates",
    "packed-refs",
    "packed-refs without peeled lines",
    "worktree",
    ".git file",
    "GIT_DIR",
    "GIT_OBJECT_DIRECTORY",
    "bare",
    "subfolder",
    "commit-graph",
    "commit-graph chain",
    "shallow",
    "grafts",
    "replace refs",
    "sha256",
)
HISTORIES = (
    "linear",
    "merges",
    "octopus",
    "criss-cross",
    "equal dates",
    "skewed clocks",
    "odd dates",
    "missing parent",
    "same parent twice",
    "unrelated roots",
    "many tags",
)
TAGS = (
    "annotated",
    "lightweight",
    "several tags on a commit",
    "nested tag",
    "tag of a tree",
    "tag of a blob",
    "misnamed tag",
    "tag without a tagger",
    "broken ref",
    "dangling symbolic ref",
    "branches and remotes",
    "names that need care",
)


@dataclass
class History:
    """What a seed made: the repository, what its parts are called, and where to ask."""

    shop: Workshop
    cwd: Path
    kinds: set[str]
    commits: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def made(seed: int, folder: Path) -> History:
    """The repository of a seed. Storages and shapes take turns, so that every one of them comes up."""
    chosen = random.Random(seed)
    storage = STORAGES[seed % len(STORAGES)]
    shape = HISTORIES[seed % len(HISTORIES)]
    shop = Workshop(folder / "repository", "sha256" if storage == "sha256" else "sha1", bare=storage == "bare")
    history = History(shop, shop.path, {storage, shape})
    _commit(history, shape, chosen)
    _tag(history, chosen, many=shape == "many tags")
    _STORE[storage](history, folder, chosen)
    if chosen.random() < 0.3:
        shop.configure(f"[core]\n\tabbrev = {chosen.choice(['4', '9', '40', 'no', 'auto', '12', 'OFF'])}")
    return history


def _commit(history: History, shape: str, chosen: random.Random) -> None:
    shop, commits = history.shop, history.commits
    date = 1_000_000_000
    for number in range(chosen.randrange(2, 60)):
        parents = _parents(commits, shape, chosen)
        date += _step(shape, chosen)
        shown: int | str = date
        if shape == "odd dates" and chosen.random() < 0.4:
            shown = chosen.choice(["", "x", "-5", "99999999999999999999999", "0", "12345678901", "17 ", str(1 << 33)])
        tree = ""
        if chosen.random() < 0.2:
            blob = shop.blob(f"{number}".encode())
            history.blobs.append(blob)
            inner = shop.write("tree", b"100644 deep\0" + bytes.fromhex(blob))
            tree = shop.write(
                "tree", b"100644 a\0" + bytes.fromhex(shop.blob(b"common")) + b"40000 d\0" + bytes.fromhex(inner)
            )
        commits.append(shop.commit(parents, shown, f"commit {number}", tree))
    shop.ref("refs/heads/main", commits[-1])


def _parents(commits: list[str], shape: str, chosen: random.Random) -> list[str]:
    if not commits:
        return []
    last = commits[-1]
    if shape == "linear":
        return [last]
    if shape == "criss-cross":
        return [*commits[-1:], *commits[-2:-1]] if chosen.random() < 0.5 else commits[-2:-1] or [last]
    if shape == "same parent twice" and chosen.random() < 0.4:
        return [last, last, chosen.choice(commits), last]
    if shape == "unrelated roots" and chosen.random() < 0.1:
        return []
    if shape == "missing parent" and chosen.random() < 0.1:
        return [last, "34" * (len(last) // 2)]
    most = 6 if shape == "octopus" else 2
    count = chosen.randint(1, most) if chosen.random() < 0.4 else 1
    recent = commits[-8:]
    return chosen.sample(recent, min(count, len(recent)))


def _step(shape: str, chosen: random.Random) -> int:
    if shape == "equal dates":
        return int(chosen.random() < 0.2)
    if shape == "skewed clocks":
        return chosen.randrange(-300, 400)
    return chosen.randrange(0, 50)


_PLAIN_NAMES = ("v1.0", "v1.1", "v2.0", "release/1", "release/2.0-rc", "build-7", "x")
_CAREFUL_NAMES = ("Zürich", "v1.0-3-gabcdef0", "a[b", "v*", "-dash", "tags/v1", "deep/er/v1", "v1.lock2", "@x", "é/v2")


def _tag(history: History, chosen: random.Random, *, many: bool) -> None:
    shop, commits = history.shop, history.commits
    for number in range(chosen.randrange(8, 60) if many else chosen.randrange(0, 9)):
        target = chosen.choice(commits if many else commits[: max(1, len(commits) * 2 // 3)])
        name = f"v{number}" if many or chosen.random() < 0.4 else chosen.choice(_PLAIN_NAMES)
        if chosen.random() < 0.15:
            name = chosen.choice([name for name in _CAREFUL_NAMES if name != "a[b" and name != "v*"])
            history.kinds.add("names that need care")
        history.tags.append(name)
        _one_tag(history, name, target, chosen)
    if chosen.random() < 0.5:
        history.kinds.add("branches and remotes")
        shop.ref("refs/heads/side", chosen.choice(commits))
        shop.ref("refs/remotes/origin/main", chosen.choice(commits))
        shop.ref("refs/remotes/origin/HEAD", "ref: refs/remotes/origin/main")
        shop.ref("refs/notes/x", chosen.choice(commits))
    if chosen.random() < 0.1:
        history.kinds.add("broken ref")
        shop.ref("refs/tags/broken", chosen.choice(["", "no object name", "12" * (len(commits[0]) // 2)]))
    if chosen.random() < 0.1:
        history.kinds.add("dangling symbolic ref")
        shop.ref("refs/tags/dangling", "ref: refs/tags/nowhere")
    if chosen.random() < 0.1:
        history.kinds.add("dangling symbolic ref")
        shop.ref("refs/tags/link", "ref: refs/heads/main")


def _one_tag(history: History, name: str, target: str, chosen: random.Random) -> None:
    shop = history.shop
    ref = f"refs/tags/{name}"
    if (shop.git_dir / ref).is_dir() or any((shop.git_dir / parent).is_file() for parent in _above(ref)):
        return
    tagger: str | None = f"T <t@example.com> {1_000_000_000 + chosen.randrange(50)} +0000"
    if chosen.random() < 0.1:
        tagger = chosen.choice([None, "T <t@example.com>", "T 1000000007 +0000", "T <t@example.com> x"])
        history.kinds.add("tag without a tagger")
    kind = chosen.choices(TAGS[:7], [12, 5, 3, 2, 1, 1, 2])[0]
    history.kinds.add(kind)
    if kind == "lightweight":
        shop.ref(ref, target)
        return
    told, aimed = "commit", target
    if kind == "nested tag":
        aimed, told = shop.tag_object(target, f"inner-{name}", tagger=tagger), "tag"
    elif kind == "tag of a tree":
        aimed, told = shop.empty_tree, "tree"
    elif kind == "tag of a blob":
        aimed, told = shop.blob(b"tagged"), "blob"
    own = f"other-{name}" if kind == "misnamed tag" else name
    shop.ref(ref, shop.tag_object(aimed, own, told, tagger))
    if kind == "several tags on a commit":
        later = f"T <t@example.com> {1_000_000_000 + chosen.randrange(50)} +0000"
        shop.annotate(f"second-{name.replace('/', '-')}", target, tagger=later)
        if chosen.random() < 0.5:
            shop.ref(f"refs/tags/a-{name.replace('/', '-')}", target)


def _above(ref: str) -> list[str]:
    parts = ref.split("/")
    return ["/".join(parts[:count]) for count in range(3, len(parts))]


def _repack(history: History, *arguments: str) -> None:
    """Pack by a list of ids: a history with holes cannot be packed by walking it."""
    shop = history.shop
    ids = sorted(
        folder.name + file.name
        for folder in shop.objects.iterdir()
        if len(folder.name) == 2
        for file in folder.iterdir()
    )
    _pack(shop, ids, *arguments)


def _pack(shop: Workshop, ids: list[str], *arguments: str, keep: bool = False) -> None:
    git(shop.path, *arguments, "pack-objects", "-q", str(shop.objects / "pack" / "pack"), stdin="\n".join(ids).encode())
    for oid in () if keep else ids:
        shop.remove(oid)


def _several_packs(history: History, folder: Path, chosen: random.Random) -> None:
    shop = history.shop
    ids = sorted(file.parent.name + file.name for file in shop.objects.glob("??/*"))
    chosen.shuffle(ids)
    third = len(ids) // 3
    if third:
        _pack(shop, ids[:third])
        _pack(shop, ids[third : 2 * third + 1], keep=True)
    if third and chosen.random() < 0.5:
        _pack(shop, ids[third // 2 : 2 * third], keep=True)


def _multi_pack_index(history: History, folder: Path, chosen: random.Random) -> None:
    _several_packs(history, folder, chosen)
    if list(history.shop.objects.glob("pack/*.pack")):
        history.shop.git("multi-pack-index", "write")


def _alternates(history: History, folder: Path, chosen: random.Random) -> None:
    shop = history.shop
    _several_packs(history, folder, chosen)
    lender = folder / "lender" / "objects"
    shutil.copytree(shop.objects, lender)
    shutil.rmtree(shop.objects)
    (shop.objects / "info").mkdir(parents=True)
    (shop.objects / "pack").mkdir()
    if chosen.random() < 0.3:
        history.environment["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = str(lender)
    elif chosen.random() < 0.5:
        further = folder / "between"
        (further / "info").mkdir(parents=True)
        (further / "info" / "alternates").write_text("# a comment\n../lender/objects\n")
        (shop.objects / "info" / "alternates").write_text(f'"{further}"\n')
    else:
        (shop.objects / "info" / "alternates").write_text("../../../lender/objects\n")


def _packed_refs(history: History, folder: Path, chosen: random.Random) -> None:
    history.shop.git("pack-refs", "--all", *(["--no-prune"] if chosen.random() < 0.3 else []))
    if history.tags and chosen.random() < 0.5:
        name = f"refs/tags/{history.tags[0]}"
        if not (history.shop.git_dir / name).is_dir():
            history.shop.ref(name, chosen.choice(history.commits))


def _unpeeled_refs(history: History, folder: Path, chosen: random.Random) -> None:
    _packed_refs(history, folder, chosen)
    file = history.shop.git_dir / "packed-refs"
    lines = file.read_bytes().splitlines(keepends=True)[1:]
    header = chosen.choice(
        [b"", b"# pack-refs with: \n", b"# pack-refs with: sorted \n", b"# pack-refs with: peeled \n"]
    )
    if b" peeled" not in header:
        lines = [line for line in lines if not line.startswith(b"^")]
    file.write_bytes(b"".join([header, *lines]))


def _worktree(history: History, folder: Path, chosen: random.Random) -> None:
    shop = history.shop
    admin = shop.git_dir / "worktrees" / "w"
    admin.mkdir(parents=True)
    tree = folder / "elsewhere"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {admin}\n")
    (admin / "gitdir").write_text(f"{tree}/.git\n")
    (admin / "commondir").write_text("../..\n")
    (admin / "HEAD").write_text(f"{chosen.choice(history.commits)}\n")
    (admin / "refs" / "bisect").mkdir(parents=True)
    (admin / "refs" / "bisect" / "bad").write_text(f"{chosen.choice(history.commits)}\n")
    shop.ref("refs/bisect/good", chosen.choice(history.commits))
    history.cwd = tree


def _git_file(history: History, folder: Path, chosen: random.Random) -> None:
    shop = history.shop
    moved = folder / "moved.git"
    shop.git_dir.rename(moved)
    (shop.path / ".git").write_text(f"gitdir: {chosen.choice(['../moved.git', str(moved)])}\n")
    shop.git_dir, shop.objects = moved, moved / "objects"


def _git_dir(history: History, folder: Path, chosen: random.Random) -> None:
    history.cwd = folder
    history.environment["GIT_DIR"] = chosen.choice(["repository/.git", str(history.shop.git_dir)])


def _object_directory(history: History, folder: Path, chosen: random.Random) -> None:
    elsewhere = folder / "elsewhere"
    history.shop.objects.rename(elsewhere)
    history.environment["GIT_OBJECT_DIRECTORY"] = chosen.choice([str(elsewhere), "../elsewhere"])


def _subfolder(history: History, folder: Path, chosen: random.Random) -> None:
    history.cwd = history.shop.path / "some" / "where"
    history.cwd.mkdir(parents=True)
    if chosen.random() < 0.5:
        ceiling = chosen.choice([folder, history.shop.path, history.shop.path / "some"])
        history.environment["GIT_CEILING_DIRECTORIES"] = f"/nowhere:{ceiling}"


def _commit_graph(history: History, folder: Path, chosen: random.Random) -> None:
    _graph(history, history.commits)
    if chosen.random() < 0.3:
        _repack(history)


def _graph(history: History, commits: list[str], *arguments: str) -> None:
    # git cannot write a graph of a history with holes, and never ends with a parent twice or dates beyond 64 bits.
    if not history.kinds & {"missing parent", "same parent twice", "odd dates"}:
        git(
            history.shop.path, "commit-graph", "write", "--stdin-commits", *arguments, stdin="\n".join(commits).encode()
        )


def _graph_chain(history: History, folder: Path, chosen: random.Random) -> None:
    cuts = sorted(chosen.sample(range(1, len(history.commits) + 1), min(3, len(history.commits))))
    for cut in cuts:
        _graph(history, history.commits[:cut], "--split=no-merge")


def _shallow(history: History, folder: Path, chosen: random.Random) -> None:
    border = chosen.sample(history.commits, min(2, len(history.commits)))
    (history.shop.git_dir / "shallow").write_text("".join(f"{oid}\n" for oid in border))


def _grafts(history: History, folder: Path, chosen: random.Random) -> None:
    lines = ["# grafts"]
    for _ in range(3):
        place = chosen.randrange(len(history.commits))
        parents = chosen.sample(history.commits[:place], min(place, chosen.randrange(3)))
        lines.append(" ".join([history.commits[place], *parents]))
    (history.shop.git_dir / "info" / "grafts").write_text("\n".join(lines) + "\n")
    if chosen.random() < 0.5:
        _graph(history, history.commits)


def _replace(history: History, folder: Path, chosen: random.Random) -> None:
    for _ in range(2):
        old = chosen.randrange(len(history.commits))
        new = history.shop.commit(
            chosen.sample(history.commits[:old], min(old, chosen.randrange(3))), 1_000_000_000 + chosen.randrange(900)
        )
        history.shop.ref(f"refs/replace/{history.commits[old]}", new)
    if chosen.random() < 0.3:
        history.environment["GIT_NO_REPLACE_OBJECTS"] = "1"
    elif chosen.random() < 0.3:
        history.shop.configure("[core]\n\tuseReplaceRefs = false")
    if chosen.random() < 0.3:
        history.shop.git("pack-refs", "--all")


def _nothing(history: History, folder: Path, chosen: random.Random) -> None:
    pass


_STORE: dict[str, Callable[[History, Path, random.Random], None]] = {
    "loose": _nothing,
    "packed": lambda history, folder, chosen: _repack(history),
    "several packs": _several_packs,
    "old pack index": lambda history, folder, chosen: _repack(history, "-c", "pack.indexVersion=1"),
    "multi-pack-index": _multi_pack_index,
    "alternates": _alternates,
    "packed-refs": _packed_refs,
    "packed-refs without peeled lines": _unpeeled_refs,
    "worktree": _worktree,
    ".git file": _git_file,
    "GIT_DIR": _git_dir,
    "GIT_OBJECT_DIRECTORY": _object_directory,
    "bare": _nothing,
    "subfolder": _subfolder,
    "commit-graph": _commit_graph,
    "commit-graph chain": _graph_chain,
    "shallow": _shallow,
    "grafts": _grafts,
    "replace refs": _replace,
    "sha256": lambda history, folder, chosen: _repack(history) if chosen.random() < 0.5 else None,
}

_PATTERNS = (
    "v*",
    "*",
    "v?.0",
    "release/*",
    "**",
    "v[0-9]*",
    "*-rc",
    "v[!1]*",
    "re*",
    "[[:digit:]]*",
    "\\v1.0",
    "x",
    "[z",
    "",
)


def questions(history: History, seed: int, count: int) -> list[Question]:
    """Random questions about it."""
    chosen = random.Random(-seed - 1)
    return [_question(history, chosen) for _ in range(count)]


def _question(history: History, chosen: random.Random) -> Question:
    words = [word for word in ("--tags", "--all", "--long", "--always", "--first-parent") if chosen.random() < 0.22]
    if chosen.random() < 0.2:
        words.append(
            chosen.choice(["--abbrev=0", "--abbrev=1", "--abbrev=40", "--abbrev", "--abbrev=11", "--no-abbrev"])
        )
    if chosen.random() < 0.25:
        words.append(f"--candidates={chosen.choice([0, 1, 1, 2, 2, 3, 5, 27, 99, -1])}")
    if chosen.random() < 0.1:
        words.append("--exact-match")
    for option in ("--match", "--exclude"):
        if chosen.random() < 0.15:
            words += [option, chosen.choice(_PATTERNS)]
        if chosen.random() < 0.1:
            words.append(f"{option}={chosen.choice(_PATTERNS)}")
    if chosen.random() < 0.05:
        words.append(chosen.choice(["--no-match", "--no-exclude", "--no-tags", "--no-all", "--no-long"]))
    if not {"--match", "--exclude"} & set(words):
        chosen.shuffle(words)
    names = [_name(history, chosen) for _ in range(chosen.choice([0, 1, 1, 1, 2, 3]))]
    kinds = " ".join(sorted(history.kinds))
    return Question(history.cwd, (*words, *names), history.environment, kinds)


def _name(history: History, chosen: random.Random) -> str:
    commit = chosen.choice(history.commits)
    start = chosen.choice(
        ["HEAD", "@", "main", "heads/main", commit, commit[:7], commit[:4], "side", "origin", commit.upper()]
    )
    if history.tags and chosen.random() < 0.3:
        start = chosen.choice(history.tags)
    if chosen.random() < 0.05:
        return chosen.choice(
            [
                "nothing",
                ":/commit 1",
                "HEAD:d/deep",
                "HEAD:",
                "HEAD^{tree}",
                "@{0}",
                "@{u}",
                "HEAD@{5}",
                "^",
                "~",
                "",
                "..",
                "^{/",
            ]
        )
    if history.blobs and chosen.random() < 0.06:
        return chosen.choice(history.blobs)
    if chosen.random() < 0.5:
        step = [
            f"~{chosen.randrange(6)}",
            "^",
            "^2",
            "^0",
            "^{}",
            "^{commit}",
            "~",
            "^{/commit 3}",
            "^{tag}",
            "^{object}",
            "^3",
        ]
        return start + "".join(chosen.choice(step) for _ in range(chosen.choice([1, 1, 2])))
    return start
