"""Platforms, ``os/architecture[/variant]``, in the canonical spelling of containerd and BuildKit.

The rules are those of https://github.com/containerd/platforms (``Parse``, then ``Normalize``), with two differences: an
operating system or architecture that Go does not know is an error here, while containerd looks for such an image; and
``arm64/v8`` is one of Linux.
"""

from __future__ import annotations

import os
import re

from buildtools.frozen import frozen

# What Go can be compiled for: https://github.com/golang/go/blob/master/src/internal/syslist/syslist.go
_SYSTEMS = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "illumos",
        "ios",
        "js",
        "linux",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasip1",
        "windows",
    ]
)
_ARCHITECTURES = frozenset(
    [
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    ]
)
_SYSTEM_NAMES = {"macos": "darwin"}
_ARCHITECTURE_NAMES = {
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
# Kernel names of architectures that containerd does not accept.
_KERNEL_NAMES = {"i686": "386", "armv6l": "arm/v6", "armv7l": "arm/v7", "loongarch64": "loong64"}
# The canonical default variant of each architecture, and its other spellings.
_DEFAULT_VARIANTS = {"amd64": ("", "v1"), "arm64": ("", "8", "v8"), "arm": ("v7", "", "7")}
_VARIANT = re.compile(r"v?([0-9]+(?:\.[0-9]+)?)")


@frozen
class Platform:
    """An operating system, an architecture and an optional variant, as BuildKit spells them."""

    system: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform that ``text`` names; an architecture without a system implies Linux.

        :raises ValueError: if it does not name one platform.
        """
        parts = text.lower().split("/")
        if len(parts) == 1 or parts[0] in (*_ARCHITECTURES, *_ARCHITECTURE_NAMES):
            parts = ["linux", *parts]
        if len(parts) > 3:
            raise ValueError("it has more than three parts")
        system, architecture, variant = [*parts, ""][:3]
        system = _SYSTEM_NAMES.get(system, system)
        architecture, implied = _ARCHITECTURE_NAMES.get(architecture, (architecture, ""))
        if system not in _SYSTEMS:
            raise ValueError(f"unknown operating system {system!r}")
        if architecture not in _ARCHITECTURES:
            raise ValueError(f"unknown architecture {architecture!r}")
        return cls(system, architecture, _normal_variant(architecture, variant or implied))

    def __str__(self) -> str:
        return "/".join(part for part in (self.system, self.architecture, self.variant) if part)


def local_platform() -> Platform:
    """The Linux platform of this machine's kernel."""
    machine = os.uname().machine
    try:
        return Platform.parse(f"linux/{_KERNEL_NAMES.get(machine, machine)}")
    except ValueError:
        return Platform("linux", machine)


def _normal_variant(architecture: str, variant: str) -> str:
    default, *spellings = _DEFAULT_VARIANTS.get(architecture, ("",))
    if variant in (default, *spellings):
        return default
    number = _VARIANT.fullmatch(variant)
    if not number:
        raise ValueError(f"unknown variant {variant!r}")
    return f"v{number[1]}"
