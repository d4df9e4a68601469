"""git's configuration: all files that git reads, in git's order, with includes, and values from the environment.

Names are ``section.key`` or ``section.subsection.key``; section and key are compared in lower case.
https://git-scm.com/docs/git-config#_configuration_file
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from buildtools.git.errors import BadConfig
from buildtools.git.storage.small_file import content
from buildtools.git.wildmatch import wildmatch

SYSTEM_CONFIG = "/etc/gitconfig"
REMOTE_URL = re.compile(r"remote\..+\.url")
_DEEPEST_INCLUDE = 10

# git's own definition of white space, without form feed and vertical tab: ``sane-ctype.h``.
_SPACES = " \t\r\n"
_LINE = re.compile(
    r"[ \t\r\n]*(?:[#;][^\n]*(?:\n|$)|(?P<end>$)"
    r'|\[(?P<section>[A-Za-z0-9.-]+)(?:[ \t\r]+"(?P<subsection>(?:[^"\\\n]|\\[^\n])*)")?\]'
    r"|(?P<key>[A-Za-z][A-Za-z0-9-]*)[ \t]*"
    r"(?:(?P<bare>\r?\n|$)|=[ \t\r]*(?P<plain>[^\"\\#;\n]*)(?P<next>[\"\\#;]|\n|$)))"
)
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b", "\\": "\\", '"': '"'}
_SPACE = re.compile(f"[{_SPACES}]")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Config:
    """Values by name. A name has all values it was set to; the last one wins."""

    def __init__(self) -> None:
        self._values: dict[str, list[str | None]] = {}
        self._order: list[str] = []

    def add(self, name: str, value: str | None) -> None:
        """Add a value. ``None`` is a key without ``=``, which is true as a boolean and invalid otherwise."""
        self._values.setdefault(name, []).append(value)
        self._order.append(name)

    def update(self, other: Config) -> None:
        """Add everything from another configuration, which takes precedence."""
        for name, values in other._values.items():
            self._values.setdefault(name, []).extend(values)
        self._order += other._order

    def __contains__(self, name: str) -> bool:
        return _normal(name) in self._values

    def names(self) -> list[str]:
        """Every name that has a value."""
        return list(self._values)

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Every name and value, in the order in which they were set."""
        values = {name: iter(values) for name, values in self._values.items()}
        return ((name, next(values[name])) for name in self._order)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The last value.

        :raises BadConfig: if the key has no value.
        """
        values = self._values.get(_normal(name))
        if not values:
            return default
        if values[-1] is None:
            raise BadConfig(f"git configuration {name} has no value", f"write {name} = VALUE")
        return values[-1]

    def get_all(self, name: str) -> list[str]:
        """All values in order, without the ``None`` ones."""
        return [value for value in self._values.get(_normal(name), ()) if value is not None]

    def get_list(self, name: str) -> list[str]:
        """All values of a list that an empty value resets, such as ``http.extraHeader`` and ``credential.helper``."""
        values = self.get_all(name)
        return values[max((at + 1 for at, value in enumerate(values) if not value), default=0) :]

    def bool(self, name: str, default: bool = False) -> bool:
        """The value as a boolean: true, yes, on, 1, a number that is not 0, or no value at all.

        :raises BadConfig: if it is not a boolean.
        """
        values = self._values.get(_normal(name))
        if not values:
            return default
        value = boolean(values[-1])
        if value is None:
            raise BadConfig(
                f"git configuration {name} is {values[-1]!r}, which is not a boolean", "write true or false"
            )
        return value

    def int(self, name: str, default: int = 0) -> int:
        """The value as a whole number; k, m and g are powers of 1024.

        :raises BadConfig: if it is not a number.
        """
        value = self.get(name)
        if value is None:
            return default
        as_number = number(value)
        if as_number is None:
            raise BadConfig(f"git configuration {name} is {value!r}, which is not a number", "write a number")
        return as_number

    def path(self, name: str, home: str) -> str | None:
        """The value as a path; ``~/`` is ``home`` (see :func:`expand_home`)."""
        value = self.get(name)
        return None if value is None else expand_home(value, home)


def boolean(value: str | None) -> bool | None:
    """The boolean that git reads from the text; ``None`` if it is not one."""
    if value is None or value.lower() in ("true", "yes", "on"):
        return True
    if value.lower() in ("", "false", "no", "off"):
        return False
    value_as_number = number(value)
    return None if value_as_number is None else value_as_number != 0


def number(value: str) -> int | None:
    """The number in the text, which may have git's units; ``None`` if it is not one."""
    match = re.fullmatch(r"(?a)\s*([+-]?)(0[xX][0-9a-fA-F]+|\d+)([kKmMgG]?)", value)
    if not match:
        return None
    digits = match[2]
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" and digits.isdigit() and len(digits) > 1 else 10
    try:
        return int(match[1] + digits, base) * _UNITS[match[3].lower()]
    except ValueError:
        return None


def expand_home(path: str, home: str) -> str:
    """The path with ``~/`` and ``~user/`` replaced by home folders.

    :raises BadConfig: if the home folder is unknown.
    """
    if not path.startswith("~"):
        return path
    user, slash, rest = path.partition("/")
    place = home
    if user != "~":
        import pwd

        try:
            place = pwd.getpwnam(user[1:]).pw_dir
        except KeyError:
            place = ""
    if not place:
        raise BadConfig(f"git configuration names {path}, but {user} has no home folder", "write the path in full")
    return place + slash + rest


def _normal(name: str) -> str:
    section, _, rest = name.partition(".")
    subsection, dot, key = rest.rpartition(".")
    return f"{section.lower()}.{subsection}{dot}{key.lower()}"


class Reader:
    """Reads files into one :class:`Config`, following includes.

    ``git_dir`` is empty as long as no repository is known. ``branch`` returns the short name of the current branch and
    ``remote_urls`` the URLs of all remotes; both are called only if a file needs them. ``None`` for ``remote_urls`` is
    for finding out the URLs themselves: files included depending on a URL are then always included, and may not set
    one.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        git_dir: str = "",
        branch: Callable[[], str] = str,
        remote_urls: Callable[[], Sequence[str]] | None = tuple,
    ) -> None:
        self._remote_urls = remote_urls
        self._is_conditional = False
        self.config = Config()
        self._home = environment.get("HOME", "")
        self._git_dir = git_dir
        self._branch = branch
        self._environment = environment

    def read_user(self) -> None:
        """Read the system's file and the user's, subject to ``GIT_CONFIG_SYSTEM``, ``_GLOBAL`` and ``_NOSYSTEM``."""
        environment = self._environment
        if not boolean(environment.get("GIT_CONFIG_NOSYSTEM", "")):
            self.read_file(environment.get("GIT_CONFIG_SYSTEM", SYSTEM_CONFIG))
        if "GIT_CONFIG_GLOBAL" in environment:
            self.read_file(environment["GIT_CONFIG_GLOBAL"], is_users=True)
        else:
            base = environment.get("XDG_CONFIG_HOME") or (self._home and f"{self._home}/.config")
            if base:
                self.read_file(f"{base}/git/config", is_users=True)
            if self._home:
                self.read_file(f"{self._home}/.gitconfig", is_users=True)

    def read_environment(self) -> None:
        """Read ``GIT_CONFIG_PARAMETERS`` (what ``git -c`` passes to its children) and ``GIT_CONFIG_COUNT``.

        :raises BadConfig: if they are malformed.
        """
        environment = self._environment
        # From low to high: https://git-scm.com/docs/git-config#ENVIRONMENT
        count = environment.get("GIT_CONFIG_COUNT", "")
        if count:
            if not re.fullmatch(r"(?a)\s*\+?\d{1,9}", count):
                raise BadConfig("GIT_CONFIG_COUNT is not a number", "unset it")
            for index in range(int(count)):
                try:
                    name = environment[f"GIT_CONFIG_KEY_{index}"]
                    value = environment[f"GIT_CONFIG_VALUE_{index}"]
                except KeyError as error:
                    raise BadConfig(f"{error.args[0]} is missing", "set it, or lower GIT_CONFIG_COUNT") from None
                self._from_environment(name, value)
        parameters = environment.get("GIT_CONFIG_PARAMETERS", "")
        for name, setting in _parameters(parameters):
            self._from_environment(name, setting)

    def _from_environment(self, name: str, value: str | None) -> None:
        section, _, rest = name.partition(".")
        key = rest.rpartition(".")[2]
        if not re.fullmatch(r"[A-Za-z0-9-]+", section) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", key):
            raise BadConfig(f"{name!r} is not the name of a git configuration value", "correct GIT_CONFIG_*")
        self._set(_normal(name), value, "", 0)

    def read_file(self, path: str, depth: int = 0, *, is_users: bool = False) -> None:
        """Read one file and everything it includes; a missing file counts as empty.

        So does a user's file that may not be read, as in a container that runs with another user's home.

        :raises BadConfig: if git would refuse it.
        """
        try:
            data = content(path)
        except OSError as error:
            if isinstance(error, PermissionError) and (is_users or (depth == 0 and not self._git_dir)):
                return
            raise BadConfig(f"{path} cannot be read ({error.strerror})", "correct its permissions") from None
        for name, value in parse_config(data, path) if data else ():
            self._set(name, value, path, depth)

    def _set(self, name: str, value: str | None, path: str, depth: int) -> None:
        self.config.add(name, value)
        if self._remote_urls is None and self._is_conditional and REMOTE_URL.fullmatch(name):
            raise BadConfig(
                f"{path} names the URL of a remote, and is included because of one", "name the remote in another file"
            )
        if not name.startswith("include"):
            return
        if name == "include.path" or (
            name.startswith("includeif.") and name.endswith(".path") and self._holds(name[10:-5], path)
        ):
            if value is None:
                raise BadConfig(f"{name} in {path} has no value", "give it a path")
            if depth >= _DEEPEST_INCLUDE:
                raise BadConfig(
                    f"{path} includes more than {_DEEPEST_INCLUDE} files deep", "do files include each other?"
                )
            target = expand_home(value, self._home)
            if not os.path.isabs(target):
                if not path:
                    raise BadConfig("a relative include.path can only stand in a file", "write it in full")
                target = os.path.join(os.path.dirname(os.path.abspath(path)), target)
            outer, self._is_conditional = self._is_conditional, self._is_conditional or name != "include.path"
            self.read_file(target, depth + 1)
            self._is_conditional = outer

    def _holds(self, condition: str, path: str) -> bool:
        kind, _, pattern = condition.partition(":")
        if kind in ("gitdir", "gitdir/i"):
            return bool(self._git_dir) and self._git_dir_matches(pattern, path, ignore_case=kind == "gitdir/i")
        if kind == "onbranch":
            if pattern.endswith("/"):
                pattern += "**"
            branch = self._branch().encode("utf-8", "surrogateescape")
            return bool(branch) and wildmatch(pattern.encode("utf-8", "surrogateescape"), branch, pathname=True)
        if kind == "hasconfig" and pattern.startswith("remote.*.url:"):
            if self._remote_urls is None:
                return True
            glob = pattern.removeprefix("remote.*.url:").encode("utf-8", "surrogateescape")
            urls = (url.encode("utf-8", "surrogateescape") for url in self._remote_urls())
            return any(wildmatch(glob, url, pathname=True) for url in urls)
        return False

    def _git_dir_matches(self, pattern: str, path: str, *, ignore_case: bool) -> bool:
        pattern = expand_home(pattern, self._home)
        if pattern.startswith("./"):
            if not path:
                return False
            pattern = os.path.dirname(os.path.realpath(path)) + pattern[1:]
        elif not pattern.startswith("/"):
            pattern = f"**/{pattern}"
        if pattern.endswith("/"):
            pattern += "**"
        # Git tries the path with links resolved, then as given.
        return any(
            wildmatch(os.fsencode(pattern), os.fsencode(place), pathname=True, ignore_case=ignore_case)
            for place in dict.fromkeys((os.path.realpath(self._git_dir), os.path.abspath(self._git_dir)))
        )


def parse_config(data: bytes, path: str) -> list[tuple[str, str | None]]:
    """The (name, value) pairs of one file, in order.

    :raises BadConfig: if git would refuse a line.
    """
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    settings: list[tuple[str, str | None]] = []
    prefix = ""
    at = 0
    match = _LINE.match
    while True:
        line = match(text, at)
        if line is None:
            raise BadConfig(f"line {text.count(chr(10), 0, at) + 1} of {path} is not a git configuration", "correct it")
        at = line.end()
        section, key = line["section"], line["key"]
        if section is not None:
            subsection = line["subsection"]
            prefix = section.lower() + "."
            if subsection is not None:
                prefix += re.sub(r"\\(.)", r"\1", subsection) + "."
        elif key is not None:
            value: str | None = line["plain"]
            if line["bare"] is not None:
                value = None
            elif line["next"] in ("\n", ""):
                value = _SPACE.sub(" ", line["plain"].rstrip(_SPACES))
            else:
                value, at = _quoted_value(text, line.start("plain"), path)
            settings.append((prefix + key.lower(), value))
        elif line["end"] is not None:
            return settings


def _quoted_value(text: str, at: int, path: str) -> tuple[str, int]:
    """A value with quotes, escapes or a comment, and the position after it."""
    out: list[str] = []
    length = 0  # white space outside quotes counts only when something follows
    in_quotes = False
    end = len(text)
    while at < end and text[at] != "\n":
        char = text[at]
        at += 1
        if not in_quotes and char in "#;":
            newline = text.find("\n", at)
            at = end if newline < 0 else newline
            break
        if not in_quotes and char in _SPACES:
            if out:
                out.append(" ")
            continue
        if char == "\\":
            letter = text[at : at + 1]
            at += 1
            if letter == "\n":
                continue
            if letter not in _ESCAPES:
                raise BadConfig(f"line {text.count(chr(10), 0, at) + 1} of {path} has an unknown escape", "correct it")
            char = _ESCAPES[letter]
        elif char == '"':
            in_quotes = not in_quotes
            length = len(out)
            continue
        out.append(char)
        length = len(out)
    if in_quotes:
        raise BadConfig(f"line {text.count(chr(10), 0, at) + 1} of {path} has an open quote", "correct it")
    return "".join(out[:length]), at + 1


def _parameters(text: str) -> list[tuple[str, str | None]]:
    """The pairs in ``GIT_CONFIG_PARAMETERS``: ``'name'='value'`` or the older ``'name=value'``, shell-quoted."""
    word = r"'((?:[^']|'\\[!']')*)'"
    settings: list[tuple[str, str | None]] = []
    at = 0
    pattern = re.compile(rf"\s*{word}(?:(=)(?:{word})?)?(?=\s|$)")
    while text[at:].strip():
        match = pattern.match(text, at)
        if not match:
            raise BadConfig("GIT_CONFIG_PARAMETERS is malformed", "unset it")
        first, new_style, second = match.groups()
        first = re.sub(r"'\\([!'])'", r"\1", first)
        if new_style:
            settings.append((first, None if second is None else re.sub(r"'\\([!'])'", r"\1", second)))
        else:
            name, equals, value = first.partition("=")
            settings.append((name, value if equals else None))
        at = match.end()
    return settings
