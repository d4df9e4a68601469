"""Signatures by the program and the key that git is configured to sign with.

https://git-scm.com/docs/git-config#Documentation/git-config.txt-gpgformat
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from buildtools import Refused
from buildtools.git.config import Config

_PROGRAMS = {"openpgp": "gpg", "x509": "gpgsm", "ssh": "ssh-keygen"}
_LITERAL = ("key::", "ssh-", "ecdsa-", "sk-")
_TAIL = 5


class Signer:
    """Signs texts as one identity, ``NAME <EMAIL>``, which is the key's name where none is configured.

    :raises Refused: ``gpg.format`` is unknown.
    """

    def __init__(self, config: Config, environment: Mapping[str, str], identity: str) -> None:
        self._environment = environment
        self._config = config
        self._format = (config.get("gpg.format") or "openpgp").lower()
        if self._format not in _PROGRAMS:
            raise Refused(f"gpg.format is {self._format!r}", "set it to openpgp, ssh or x509")
        inherited = config.get("gpg.program") if self._format == "openpgp" else None
        program = config.path(f"gpg.{self._format}.program", environment.get("HOME", "")) or inherited
        self._program = program or _PROGRAMS[self._format]
        self._key = config.get("user.signingkey") or ""
        self._identity = identity

    def signature(self, payload: bytes) -> bytes:
        """The detached, armoured signature of ``payload``, with its last line end.

        :raises Refused: there is no key, or the program did not sign.
        """
        return self._by_ssh(payload) if self._format == "ssh" else self._by_gpg(payload)

    def _by_gpg(self, payload: bytes) -> bytes:
        key = self._key or self._identity
        done = self._run(["--status-fd=2", "-bsau", key], payload)
        # gpg may end well without having signed; only this line says that it did.
        if done.returncode or b"\n[GNUPG:] SIG_CREATED " not in b"\n" + done.stderr:
            raise self._failure(done.stderr)
        return done.stdout.replace(b"\r\n", b"\n")

    def _by_ssh(self, payload: bytes) -> bytes:
        key = self._key or self._default_key()
        with tempfile.TemporaryDirectory(prefix="buildtools-sign-") as folder:
            signed = f"{folder}/payload"
            with open(signed, "wb") as stream:
                stream.write(payload)
            arguments = ["-Y", "sign", "-n", "git", "-f"]
            if key.startswith(_LITERAL):
                public = f"{folder}/key.pub"
                with open(public, "w") as stream_of_text:
                    stream_of_text.write(key.removeprefix("key::") + "\n")
                # The private half of a key given in full is in the agent.
                arguments += [public, "-U"]
            else:
                home = self._environment.get("HOME", "")
                arguments.append(os.path.join(home, key[2:]) if key.startswith("~/") else key)
            done = self._run([*arguments, signed])
            if done.returncode:
                raise self._failure(done.stderr)
            with open(f"{signed}.sig", "rb") as stream:
                return stream.read().replace(b"\r\n", b"\n")

    def _default_key(self) -> str:
        command = self._config.get("gpg.ssh.defaultkeycommand")
        if command:
            done = subprocess.run(
                ["sh", "-c", command], env=dict(self._environment), stdin=subprocess.DEVNULL, capture_output=True
            )
            first = done.stdout.decode("utf-8", "replace").partition("\n")[0].strip()
            if done.returncode == 0 and first.startswith(_LITERAL):
                return first
        raise Refused(
            "no ssh key to sign with is configured", "run `git config user.signingkey PATH`, or leave --sign off"
        )

    def _run(self, arguments: Sequence[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [self._program, *arguments], input=stdin, env=dict(self._environment), capture_output=True
            )
        except OSError as error:
            raise Refused(
                f"{self._program}, which is to sign the tag, cannot be started ({error.strerror})",
                f"install it, or set gpg.{self._format}.program",
            ) from None

    def _failure(self, stderr: bytes) -> Refused:
        lines = stderr.decode("utf-8", "replace").splitlines()
        said = [line for line in lines if line.strip() and not line.startswith("[GNUPG:]")]
        return Refused(
            f"{self._program} did not sign the tag with {f'key {self._key!r}' if self._key else 'the default key'}",
            "correct what it says, check user.signingkey and gpg.format, or leave --sign off",
            details=[f"  | {line}" for line in said[-_TAIL:]],
        )
