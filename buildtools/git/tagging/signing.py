"""Signatures made with the program and the key that git is configured to use.

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
# gpg may print a page about its agent; the reason for a failure is in the last lines.
_ERROR_LINES = 5


class Signer:
    """Signs as one identity, ``NAME <EMAIL>``, which also selects the key if ``user.signingkey`` is not set.

    :raises Refused: if ``gpg.format`` is unknown.
    """

    def __init__(self, config: Config, environment: Mapping[str, str], identity: str) -> None:
        self._environment = environment
        self._config = config
        self._format = (config.get("gpg.format") or "openpgp").lower()
        if self._format not in _PROGRAMS:
            raise Refused(f"invalid gpg.format {self._format!r}", "set it to openpgp, ssh or x509")
        fallback = config.get("gpg.program") if self._format == "openpgp" else None
        program = config.path(f"gpg.{self._format}.program", environment.get("HOME", "")) or fallback
        self._program = program or _PROGRAMS[self._format]
        self._key = config.get("user.signingkey") or ""
        self._identity = identity

    def signature(self, payload: bytes) -> bytes:
        """The detached, armoured signature of ``payload``, with its final newline.

        :raises Refused: if there is no key, or the program failed.
        """
        return self._by_ssh(payload) if self._format == "ssh" else self._by_gpg(payload)

    def _by_gpg(self, payload: bytes) -> bytes:
        key = self._key or self._identity
        process = self._run(["--status-fd=2", "-bsau", key], payload)
        # gpg may exit with 0 without a signature; only this line confirms one.
        if process.returncode or b"\n[GNUPG:] SIG_CREATED " not in b"\n" + process.stderr:
            raise self._failure(process.stderr)
        return process.stdout.replace(b"\r\n", b"\n")

    def _by_ssh(self, payload: bytes) -> bytes:
        key = self._key or self._default_key()
        with tempfile.TemporaryDirectory(prefix="buildtools-sign-") as folder:
            payload_path = f"{folder}/payload"
            with open(payload_path, "wb") as stream:
                stream.write(payload)
            arguments = ["-Y", "sign", "-n", "git", "-f"]
            if key.startswith(_LITERAL):
                public = f"{folder}/key.pub"
                with open(public, "w") as stream_of_text:
                    stream_of_text.write(key.removeprefix("key::") + "\n")
                # A public key given literally stands for a private key in the agent.
                arguments += [public, "-U"]
            else:
                home = self._environment.get("HOME", "")
                arguments.append(os.path.join(home, key[2:]) if key.startswith("~/") else key)
            process = self._run([*arguments, payload_path])
            if process.returncode:
                raise self._failure(process.stderr)
            with open(f"{payload_path}.sig", "rb") as stream:
                return stream.read().replace(b"\r\n", b"\n")

    def _default_key(self) -> str:
        command = self._config.get("gpg.ssh.defaultkeycommand")
        if command:
            process = subprocess.run(
                ["sh", "-c", command], env=dict(self._environment), stdin=subprocess.DEVNULL, capture_output=True
            )
            first = process.stdout.decode("utf-8", "replace").partition("\n")[0].strip()
            if process.returncode == 0 and first.startswith(_LITERAL):
                return first
        raise Refused("no ssh signing key is configured", "run `git config user.signingkey PATH`, or leave out --sign")

    def _run(self, arguments: Sequence[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [self._program, *arguments], input=stdin, env=dict(self._environment), capture_output=True
            )
        except OSError as error:
            raise Refused(
                f"the signing program {self._program} cannot be started ({error.strerror})",
                f"install it, or set gpg.{self._format}.program",
            ) from None

    def _failure(self, stderr: bytes) -> Refused:
        lines = stderr.decode("utf-8", "replace").splitlines()
        errors = [line for line in lines if line.strip() and not line.startswith("[GNUPG:]")]
        return Refused(
            f"{self._program} did not sign the tag with {f'key {self._key!r}' if self._key else 'the default key'}",
            "fix what it reports, check user.signingkey and gpg.format, or leave out --sign",
            details=[f"  | {line}" for line in errors[-_ERROR_LINES:]],
        )
