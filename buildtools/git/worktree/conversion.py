"""From a file in the work tree to the content git would store: filter, encoding, line endings, ``$Id$``.

https://git-scm.com/docs/gitattributes#_effects
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from buildtools.git.config import Config
from buildtools.git.errors import DamagedRepository
from buildtools.git.worktree.attributes import Attributes, AttributeValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildtools.git.worktree.filterprocess import FilterProcess

_IDENT = re.compile(rb"\$Id:[^$\n]*\$")
_PLACEHOLDER = re.compile(r"%([%f])")
# Backspace, tab, form feed and escape count as printable, as do bytes from 128 on.
_NOT_PRINTABLE = bytes(byte for byte in range(32) if byte not in b"\b\t\n\f\r\x1b") + b"\x7f"


class Driver(NamedTuple):
    """One ``filter.NAME``: its ``clean`` command or long-running ``process``; ``required`` makes a failure fatal."""

    name: str
    clean: str
    process: str
    required: bool


class Rule(NamedTuple):
    """How one path's content is converted.

    ``text``: line endings are changed, not changed, or (``None``) as git guesses.
    """

    driver: Driver | None
    encoding: str
    text: bool | None
    ident: bool


_AS_IT_IS = Rule(None, "", text=False, ident=False)


class Conversion:
    """The clean conversions of one work tree.

    ``read_indexed`` returns a path's content in the index. Must be closed, because it may have started filter
    processes.
    """

    def __init__(
        self,
        attributes: Attributes,
        config: Config,
        read_indexed: Callable[[bytes], bytes | None],
        work_tree: bytes,
        environment: Mapping[str, str],
    ) -> None:
        self._attributes = attributes
        self._config = config
        self._read_indexed = read_indexed
        self._work_tree = work_tree
        self._environment = environment
        self._processes: dict[str, FilterProcess] = {}
        self._drivers: dict[str, Driver | None] = {}
        autocrlf = [value.lower() for value in config.get_all("core.autocrlf")[-1:]]
        self._auto_crlf = autocrlf == ["input"] or config.bool("core.autocrlf")

    def close(self) -> None:
        """End the filter processes."""
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    def plan(self, path: bytes) -> Rule | None:
        """How the content of this path is converted; ``None`` if it is stored as it is.

        :raises DamagedRepository: if an attribute that must be a string is not one.
        """
        values = self._attributes.of(path)
        if not values:
            return Rule(None, "", None, ident=False) if self._auto_crlf else None
        name = values.get(b"filter")
        driver = self._driver(name.decode("utf-8", "surrogateescape")) if isinstance(name, bytes) else None
        encoding = values.get(b"working-tree-encoding")
        if encoding is True:
            raise DamagedRepository(
                f"the attribute working-tree-encoding of {_printable(path)} is not an encoding",
                "give it one, as in =UTF-16",
            )
        text = _text(values, auto_crlf=self._auto_crlf)
        plan = Rule(driver, (encoding or b"").decode("latin-1"), text, ident=values.get(b"ident") is True)
        return None if plan == _AS_IT_IS else plan

    def to_git(self, path: bytes, data: bytes, plan: Rule) -> bytes:
        """``data``, read from ``path`` in the work tree, as git would store it.

        :raises DamagedRepository: if a required filter failed.
        """
        if plan.driver:
            data = self._clean(path, data, plan.driver)
        if plan.encoding and data:
            from buildtools.git.worktree.encoding import utf8_from

            data = utf8_from(plan.encoding, data)
        data = self._with_line_feeds(path, data, plan.text)
        return _IDENT.sub(b"$Id$", data) if plan.ident else data

    def _with_line_feeds(self, path: bytes, data: bytes, text: bool | None) -> bytes:
        if text is False or b"\r\n" not in data:
            return data
        if text is None and (_is_binary(data) or self._has_crlf_in_index(path)):
            return data
        return data.replace(b"\r\n", b"\n")

    def _has_crlf_in_index(self, path: bytes) -> bool:
        blob = self._read_indexed(path)
        return blob is not None and b"\r\n" in blob and not _is_binary(blob)

    def _clean(self, path: bytes, data: bytes, driver: Driver) -> bytes:
        if driver.process:
            output = self._by_process(driver.process, path, data)
        elif driver.clean:
            output = self._by_command(driver.clean, path, data)
        else:
            output = None
        if output is not None:
            return output
        if driver.required:
            raise DamagedRepository(
                f"the clean filter {driver.name!r} failed on {_printable(path)}", "run it by hand to see why"
            )
        return data

    def _driver(self, name: str) -> Driver | None:
        if name not in self._drivers:
            prefix, config = f"filter.{name}.", self._config
            # Any key defines it: a required driver without a command always fails.
            is_defined = any(key.startswith(prefix) and "." not in key[len(prefix) :] for key in config.names())
            self._drivers[name] = (
                Driver(
                    name,
                    config.get(f"{prefix}clean") or "",
                    config.get(f"{prefix}process") or "",
                    config.bool(f"{prefix}required"),
                )
                if is_defined
                else None
            )
        return self._drivers[name]

    def _by_command(self, command: str, path: bytes, data: bytes) -> bytes | None:
        import shlex
        import subprocess

        name = path.decode("utf-8", "surrogateescape")
        program = _PLACEHOLDER.sub(lambda match: "%" if match[1] == "%" else shlex.quote(name), command)
        try:
            process = subprocess.run(
                ["/bin/sh", "-c", program],
                input=data,
                stdout=subprocess.PIPE,
                cwd=self._work_tree,
                env=self._environment,
                check=False,
            )
        except OSError:
            return None
        return process.stdout if process.returncode == 0 else None

    def _by_process(self, command: str, path: bytes, data: bytes) -> bytes | None:
        process = self._processes.get(command)
        if process is None:
            from buildtools.git.worktree.filterprocess import FilterProcess

            process = self._processes[command] = FilterProcess(command, self._work_tree, self._environment)
        return process.clean(path, data)


def _text(values: Mapping[bytes, AttributeValue], *, auto_crlf: bool) -> bool | None:
    """Whether line endings are changed: yes, no, or ``None`` if git guesses from the content.

    ``crlf`` is the old name of ``text``, and counts if that is unspecified.
    """
    for name in (b"text", b"crlf"):
        value = values.get(name)
        if value is False:
            return False
        if value is True or value == b"input":
            return True
        if value == b"auto":
            return None
    if values.get(b"eol") in (b"lf", b"crlf"):
        return True
    return None if auto_crlf else False


def _is_binary(data: bytes) -> bool:
    """git's heuristic: a NUL, a lone carriage return, or more than one unprintable byte in 128."""
    if b"\0" in data or data.count(b"\r") != data.count(b"\r\n"):
        return True
    unprintable = len(data) - len(data.translate(None, _NOT_PRINTABLE))
    line_ends = data.count(b"\r") + data.count(b"\n")
    printable = len(data) - unprintable - line_ends
    return printable >> 7 < unprintable - data.endswith(b"\x1a")


def _printable(path: bytes) -> str:
    return path.decode("utf-8", "replace")
