"""cosign, Debian 13's, as the judge of what we sign; and keys of all kinds."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from buildtools.settings import SIGNING_PASSWORD


class Cosign:
    """The program, at home in a folder of its own. It asks no log that all the world can read."""

    def __init__(self, program: Path, home: Path, environment: Mapping[str, str]) -> None:
        self.program = program
        self._environment = {**environment, "HOME": str(home), SIGNING_PASSWORD: "of a test"}
        self.home = home

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """What cosign does, in its home."""
        command = list(map(str, (self.program, *arguments)))
        variables = {**self._environment, **variables}
        return subprocess.run(command, cwd=self.home, env=variables, capture_output=True, text=True, check=False)

    def key_pair(self, name: str) -> tuple[Path, Path]:
        """A private key in cosign's form, whose password is ``of a test``, and its public one."""
        done = self.run("generate-key-pair", "--output-key-prefix", name)
        assert 0 == done.returncode, done.stderr
        return self.home / f"{name}.key", self.home / f"{name}.pub"

    def verify(self, key: Path, reference: str, **variables: str) -> str:
        """Why cosign does not take an image as signed with this key; empty where it does."""
        done = self.run("verify", "--insecure-ignore-tlog", "--key", key, reference, **variables)
        return done.stderr if done.returncode else ""

    def verify_member(self, key: Path, statement: Path, file: Path) -> str:
        """Why cosign does not take a file as one of which a statement is signed with this key; empty where it does."""
        arguments = ("--key", key, "--type", "slsaprovenance1", "--signature", statement, file)
        done = self.run("verify-blob-attestation", "--insecure-ignore-tlog", *arguments)
        return done.stderr if done.returncode else ""
