"""The message for a failed build: which image, where in its Dockerfile, why, and the end of the command's output."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from buildtools import BuildToolsError, Unreachable
from buildtools.frozen import frozen
from buildtools.image.engine.buildkit.error_location import first_with, heredoc_around, locate
from buildtools.image.engine.buildkit.grpc import Status
from buildtools.image.engine.buildkit.progress import Vertex
from buildtools.image.engine.buildkit.protobuf import Message
from buildtools.image.folder.instructions import requested_frontend
from buildtools.image.reference import image_name

_WRAPPING = re.compile(
    r"failed to solve(?: with frontend \S+)?: |failed to create LLB definition: |rpc error: code = \w+ desc = "
    r"|executor failed running \[.*?\]: |process \".*?\" did not complete successfully: "
    r"|failed to (?:compute|load) cache key: |failed to calculate checksum of ref [^:]+::[^:]+: "
    r"|(?:\S+: )?failed to resolve source metadata for \S+: |dockerfile parse error (?:on )?line \d+: ",
    re.DOTALL,
)
_EXIT_CODE = re.compile(r"exit code: (\d+)")
_PARSE_ERROR_LINE = re.compile(r"parse error (?:on )?line (\d+)")
DISK_FULL = re.compile(r"no space left on device", re.IGNORECASE)
FREE_SPACE = "free space there, with `docker builder prune` or `buildctl prune`"
_WORTH_A_RETRY = re.compile(
    r"dial tcp|no such host|i/o timeout|connection re(?:fused|set)|TLS handshake timeout|\b50[0234] |429 Too Many"
)
# What a builder does not know of a registry until somebody tells it.
_SPEAKS_HTTP = re.compile('"https://([^/"]+).*server gave HTTP response to HTTPS client$')
_UNKNOWN_CA = re.compile('"https://([^/"]+).*x509: certificate signed by unknown authority$')
_ON_LOOPBACK = re.compile(r"dial tcp (?:127\.|\[::1\])")
_NOT_ALLOWED = re.compile(r"401 Unauthorized|pull access denied|authorization failed|insufficient_scope|no basic auth")
# The second form appears if the engine no longer has the file list of an empty context in memory.
_MISSING = re.compile(
    r'"(?P<looked_up>/[^"]*)":? not found(?:: not found)?$'
    r"|lstat (?:/\S*/buildkit-mount\d+)?(?P<walked>/.*): no such file or directory$"
)
_UNKNOWN_FLAG = re.compile("unknown flag: ", re.IGNORECASE)
_FROM_CONTEXT = re.compile(r"(?:COPY|ADD) (?!.*--from=)")
# What an instruction is denied unless the client requests it for the build, which we do for none.
_ENTITLEMENT = re.compile(r"(security\.insecure|network\.host) is not allowed$")
_FLAGS = {"security.insecure": "--security=insecure", "network.host": "--network=host"}
_NO_AGENT = re.compile(r'no SSH key "\S*" forwarded from the client$')
_SCAN = re.compile(r"generating sbom using (\S+)")
_SCANNER = "see what the scanner writes, or name another one in `sbom`"
_EMULATION = (
    "if it is one of another platform, let the engine's machine emulate it (apt-get install qemu-user-static), "
    "or run the step in a stage with --platform=$BUILDPLATFORM"
)
# One line on a wide terminal; a long RUN is recognizable by its beginning.
_LONGEST_INSTRUCTION = 100
# The end of the failing step's output, which says why. More would push other images' messages off the screen.
_MOST_LINES = 12


class BuildFailed(BuildToolsError):
    """An image was not built. The last line of the message says which and why, the lines before it show more.

    ``dockerfile`` and ``line`` (0 if unknown) say where. ``status`` is the exit code of the failed command, and ``log``
    its last lines. ``is_of_another_platform`` is whether these show that the program is for another platform.
    """

    def __init__(
        self,
        image: str,
        dockerfile: Path,
        reason: str,
        remedy: str = "",
        *,
        text: str = "",
        lines: tuple[int, int] = (0, 0),
        instruction: str = "",
        status: int | None = None,
        log: Sequence[str] = (),
        exit_code: int = BuildToolsError.exit_code,
    ) -> None:
        self.exit_code = exit_code
        self.image = image
        self.dockerfile = dockerfile
        self.reason = reason
        self.line = lines[0]
        self.instruction = instruction
        self.status = status
        self.log = tuple(log)
        self.is_of_another_platform = any("exec format error" in line for line in self.log)
        where = f"{dockerfile}:{self.line}" if self.line else str(dockerfile)
        details = _excerpt(text, *lines) if self.line else []
        if self.log:
            details += ["its last lines:", *(f"  | {line}" for line in self.log)]
        what = f"{_first_line(instruction)}: {reason}" if instruction else reason
        super().__init__(f"{image}: {what} ({where})", remedy, details)


@frozen
class _Details:
    """The details of a failure, from engines since 23.0."""

    lines: tuple[int, int] = (0, 0)
    status: int | None = None


def explained(image: str, dockerfile: Path, text: str, error: Status, vertex: Vertex | None) -> BuildFailed:
    """The error for a build of the Dockerfile ``text`` that ended with ``error`` at the step ``vertex``."""
    details = _details(error.details)
    reason = error.message
    while (rest := _WRAPPING.sub("", reason)) != reason:
        reason = rest
    # Git's own output has several lines.
    reason = " ".join(reason.split())
    status = details.status
    if status is None and (code := _EXIT_CODE.search(error.message)):
        status = int(code[1])
    if status is not None:
        reason = f"exit code {status}"
    place = locate(text, vertex) if vertex else None
    remedy = _remedy(reason) if vertex and not vertex.number else ""
    if vertex and any("exec format error" in line for line in vertex.last_lines):
        reason += ", for the engine cannot run this program"
        remedy = _EMULATION
    if vertex and vertex.number and (missing := _MISSING.search(reason)):
        reason = f"{missing['looked_up'] or missing['walked']}: not found"
        if _FROM_CONTEXT.match(vertex.text):
            reason += " in the context"
            remedy = "see that it is there, and that .dockerignore does not leave it out"
    if denied := _ENTITLEMENT.search(reason):
        flag = _FLAGS[denied[1]]
        place = place or first_with(text, flag)
        reason, remedy = f"{flag} needs an entitlement, and builds have none", "leave it out"
    elif DISK_FULL.search(reason):
        remedy = FREE_SPACE
    elif _NO_AGENT.search(reason):
        remedy = f"set ssh = true under [tool.buildtools.image.{image_name(image)}]"
    if vertex and (scan := _SCAN.search(vertex.text)):
        reason, remedy = f"the scanner {scan[1]} failed ({reason})", _SCANNER
    elif "in-toto statement" in reason:
        remedy = _SCANNER
    lines = details.lines
    if not lines[0] and place:
        lines = (place.first, place.last)
    if not lines[0] and (line := _PARSE_ERROR_LINE.search(error.message)):
        lines = (int(line[1]), int(line[1]))
    if _UNKNOWN_FLAG.match(reason):
        remedy = _newer_frontend(text)
    if "unknown instruction" in reason and (begin := heredoc_around(text, lines[0])):
        reason, remedy = "the Dockerfile frontend does not know here-documents", _newer_frontend(text)
        lines = (begin, lines[1])
    # A step before the first instruction fetches a base image.
    is_outage = vertex is not None and not vertex.number and _WORTH_A_RETRY.search(reason)
    return BuildFailed(
        image,
        dockerfile,
        reason,
        remedy,
        text=text,
        lines=lines,
        instruction=place.text if place else "",
        status=status,
        log=vertex.last_lines if vertex else (),
        exit_code=Unreachable.exit_code if is_outage else BuildToolsError.exit_code,
    )


def _newer_frontend(text: str) -> str:
    syntax = requested_frontend(text)
    other = f"see that the engine can pull {syntax}" if syntax else "begin it with # syntax=docker/dockerfile:1"
    return f"correct it, or, where newer frontends know it, {other}, or build with a newer engine"


def _remedy(reason: str) -> str:
    if registry := _SPEAKS_HTTP.search(reason):
        return (
            f'write [registry."{registry[1]}"] with http = true into the buildkitd.toml of a daemon, or '
            f'"insecure-registries": ["{registry[1]}"] into the daemon.json of an engine, and restart it'
        )
    if registry := _UNKNOWN_CA.search(reason):
        return (
            f'write [registry."{registry[1]}"] with ca = ["FILE"] into the buildkitd.toml of a daemon and restart it, '
            f"or give an engine's machine the authority as /etc/docker/certs.d/{registry[1]}/ca.crt"
        )
    if _NOT_ALLOWED.search(reason):
        return "if the image exists, log in to its registry with docker login"
    if _ON_LOOPBACK.search(reason):
        return (
            "see that it runs; a builder elsewhere, or in a container of its own network, needs another address for it"
        )
    return "run again when the builder can reach it" if _WORTH_A_RETRY.search(reason) else ""


def _details(data: bytes) -> _Details:
    lines: tuple[int, int] = (0, 0)
    status = None
    try:
        for any_value in Message(data).messages(3):
            kind = any_value.text(1).rpartition("/")[2]
            if kind == "errdefs.Source+json" and not lines[0]:
                ranges = json.loads(any_value.blob(2)).get("ranges") or [{}]
                lines = (_line(ranges[0], "start"), _line(ranges[-1], "end"))
            elif kind == "gatewayapi.ExitMessage+json":
                status = int(json.loads(any_value.blob(2))["Code"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return _Details()
    return _Details(lines, status)


def _line(span: dict[str, dict[str, int]], end: str) -> int:
    return int((span.get(end) or {}).get("line", 0))


def _first_line(instruction: str) -> str:
    if len(instruction) <= _LONGEST_INSTRUCTION:
        return instruction
    return f"{instruction[:_LONGEST_INSTRUCTION].rstrip()}..."


def _excerpt(text: str, first: int, last: int) -> list[str]:
    lines = text.splitlines()
    start, stop = max(first - 2, 0), min(last + 1, len(lines), first + _MOST_LINES)
    width = len(str(stop))
    return [
        f"{'>' if first <= number <= last else ' '} {number:{width}} | {lines[number - 1]}"
        for number in range(start + 1, stop + 1)
    ]
