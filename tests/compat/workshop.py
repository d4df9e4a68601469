"""Makes git repositories by hand, so that a test can have what git's own commands would refuse to make, quickly."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path

# Nothing of the machine's or the user's own configuration reaches a repository under test.
CLEAN = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_COMMITTER_NAME": "C",
    "GIT_COMMITTER_EMAIL": "c@example.com",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "LC_ALL": "C.UTF-8",
}


def git(cwd: Path, *arguments: str, stdin: bytes = b"", extra: dict[str, str] | None = None) -> str:
    """What git prints, without the last line end; a failure fails the test."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=cwd,
        input=stdin,
        env={**CLEAN, **(extra or {})},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
    return done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")


def git_version() -> tuple[int, int]:
    """Major and minor number of the git at hand."""
    words = git(Path("/"), "version").split()[2].split(".")
    return int(words[0]), int(words[1])


class Workshop:
    """One repository, with its objects written one by one. Ids are hexadecimal."""

    def __init__(self, path: Path, object_format: str = "sha1", *, bare: bool = False) -> None:
        self.path = path
        self.git_dir = path if bare else path / ".git"
        self.object_format = object_format
        self.objects = self.git_dir / "objects"
        for folder in ("objects/pack", "objects/info", "refs/heads", "refs/tags", "info"):
            (self.git_dir / folder).mkdir(parents=True)
        self.empty_tree = self.write("tree", b"")
        (self.git_dir / "HEAD").write_text("ref: refs/heads/main\n")
        version = "0" if object_format == "sha1" else "1"
        lines = ["[core]", f"\trepositoryformatversion = {version}", f"\tbare = {str(bare).lower()}"]
        if object_format != "sha1":
            lines += ["[extensions]", f"\tobjectformat = {object_format}"]
        (self.git_dir / "config").write_text("\n".join(lines) + "\n")

    def write(self, kind: str, content: bytes) -> str:
        """One loose object; its id."""
        whole = f"{kind} {len(content)}\0".encode() + content
        oid = hashlib.new(self.object_format, whole).hexdigest()
        file = self.objects / oid[:2] / oid[2:]
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(zlib.compress(whole, 1))
        return oid

    def remove(self, oid: str) -> None:
        """Take a loose object away."""
        (self.objects / oid[:2] / oid[2:]).unlink()

    def blob(self, content: bytes) -> str:
        return self.write("blob", content)

    def tree(self, files: dict[str, str]) -> str:
        """A tree of plain files: name to blob."""
        return self.write(
            "tree", b"".join(b"100644 %s\0%s" % (name.encode(), bytes.fromhex(files[name])) for name in sorted(files))
        )

    def commit(
        self,
        parents: Sequence[str] = (),
        date: int | str = 1_000_000_000,
        message: str = "c",
        tree: str = "",
        committer: str = "C <c@example.com>",
    ) -> str:
        """A commit. ``date`` is put after the committer as it is."""
        lines = [f"tree {tree or self.empty_tree}", *(f"parent {parent}" for parent in parents)]
        lines += [f"author A <a@example.com> {date} +0000", f"committer {committer} {date} +0000", "", message, ""]
        return self.write("commit", "\n".join(lines).encode("utf-8", "surrogateescape"))

    def tag_object(
        self, target: str, name: str, kind: str = "commit", tagger: str | None = "T <t@example.com> 1000000000 +0000"
    ) -> str:
        """A tag object; ``tagger`` of ``None`` leaves the line out."""
        lines = [f"object {target}", f"type {kind}", f"tag {name}"]
        if tagger is not None:
            lines.append(f"tagger {tagger}")
        return self.write("tag", ("\n".join([*lines, "", "m", ""])).encode("utf-8", "surrogateescape"))

    def ref(self, name: str, value: str) -> None:
        """A loose ref with this content."""
        file = self.git_dir / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def annotate(self, name: str, target: str, **more: str | None) -> str:
        """An annotated tag with its ref."""
        oid = self.tag_object(target, name, **more)  # type: ignore[arg-type]  # one type for all keywords is enough here
        self.ref(f"refs/tags/{name}", oid)
        return oid

    def configure(self, text: str) -> None:
        """Add lines to the configuration."""
        with (self.git_dir / "config").open("a") as stream:
            stream.write(text + "\n")

    def git(self, *arguments: str, **more: dict[str, str]) -> str:
        """Run git here."""
        return git(self.path, *arguments, extra=more.get("extra"))
