"""File modes in a repository that several users share. https://git-scm.com/docs/git-config#_core.sharedRepository"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from buildtools.git.config import Config, boolean
from buildtools.git.errors import BadConfig

_GROUP, _ALL = 0o660, 0o664


class SharedPermissions:
    """The permissions that ``core.sharedRepository`` grants beyond the umask.

    :raises BadConfig: if git would refuse the setting.
    """

    def __init__(self, config: Config) -> None:
        self._mode, self._is_exact = _grant(config.get("core.sharedrepository") or "umask")

    def apply(self, path: str) -> None:
        """Grant the permissions on a file or folder. Another user's file stays as it is, as with git."""
        if not self._mode:
            return
        status = os.stat(path)
        grant = self._mode if status.st_mode & stat.S_IWUSR else self._mode & ~0o222
        mode = stat.S_IMODE(status.st_mode)
        mode = mode & ~0o777 | grant if self._is_exact else mode | grant
        if stat.S_ISDIR(status.st_mode):
            mode |= (mode & 0o444) >> 2
            # New files in the folder then belong to its group.
            mode |= stat.S_ISGID if mode & 0o060 else 0
        if mode != stat.S_IMODE(status.st_mode):
            with suppress(PermissionError):
                os.chmod(path, mode)


def _grant(value: str) -> tuple[int, bool]:
    """The permission bits, and whether they replace the umask's result instead of adding to it."""
    if value == "umask":
        return 0, False
    if value == "group":
        return _GROUP, False
    if value in ("all", "world", "everybody"):
        return _ALL, False
    digits = value if value.isdigit() else ""
    number = int(digits, 8) if digits and "8" not in digits and "9" not in digits else None
    if number in (0, 1, 2):
        return (0, _GROUP, _ALL)[number], False
    if number is not None and number & 0o600 == 0o600:
        return number & 0o666, True
    is_on = boolean(value) if number is None else None
    if is_on is None:
        raise BadConfig(f"invalid git configuration core.sharedRepository {value!r}", "write group, all, umask or 0640")
    return _GROUP if is_on else 0, False
