"""The ssh command that git would start for an address. https://git-scm.com/docs/git-config#_ssh.variant"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from buildtools import Refused
from buildtools.git.address import SshAddress
from buildtools.git.config import Config

_PORT_FLAGS = {"plink": ["-P"], "putty": ["-P"], "tortoiseplink": ["-P"]}


def ssh_arguments(address: SshAddress, receive_pack: str, config: Config, environment: Mapping[str, str]) -> list[str]:
    """The program and its arguments.

    :raises Refused: if the address has a port and the program cannot take one.
    """
    command = environment.get("GIT_SSH_COMMAND") or config.get("core.sshcommand")
    program = command or environment.get("GIT_SSH") or "ssh"
    variant = _variant(program, command is not None, config, environment)
    if address.port and variant == "simple":
        raise Refused("ssh.variant simple cannot pass a port", "set ssh.variant to ssh, or leave out the port")
    arguments = ["-batch"] if variant == "tortoiseplink" else []
    if address.port:
        arguments += [*_PORT_FLAGS.get(variant, ["-p"]), address.port]
    start = ["sh", "-c", f'{command} "$@"', command] if command else [program]
    return [*start, *arguments, address.host, remote_command(receive_pack, address.path)]


def remote_command(receive_pack: str, path: str) -> str:
    """A shell command that receives a push into the repository at ``path``, quoted as git does."""
    shell_path = path.replace("'", "'\\''").replace("!", "'\\!'")
    return f"{receive_pack} '{shell_path}'"


def _variant(program: str, is_command: bool, config: Config, environment: Mapping[str, str]) -> str:
    """Which command line the program expects: as configured, or by its name; ``ssh`` for any other."""
    variant = environment.get("GIT_SSH_VARIANT") or config.get("ssh.variant") or "auto"
    if variant != "auto":
        return variant
    try:
        words = shlex.split(program) if is_command else [program]
    except ValueError:
        return "ssh"
    return os.path.basename(words[0]).lower().removesuffix(".exe") if words else "ssh"
