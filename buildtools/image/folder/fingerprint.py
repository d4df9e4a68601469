"""A digest of everything that goes into one image, and what changed since the last.

Inputs are what BuildKit's own cache compares, and what determines the rest: the Dockerfile, the context entries that
its instructions can take (path, type, mode, content, extended attributes), the arguments that its stages declare,
target, platform, labels, parents and base images. Time stamps, owners, secrets and ignored files are not inputs. What a
``RUN`` downloads is unknown; ``rebuild_after`` and ``--no-cache`` are for that. An image with an ``ADD`` that downloads
without a checksum is never up to date.

``docs/internals.md`` has the fingerprint byte for byte, with all keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from buildtools import printable
from buildtools.files import write_atomically
from buildtools.frozen import frozen
from buildtools.image.folder.contents import Contents
from buildtools.image.folder.context import Entry, unreadable, walk
from buildtools.image.folder.folders import ImageFolder

# Incremented when the same inputs must give another fingerprint, so that existing images become stale.
_FORMAT = "1"

# The arguments whose values are shown; other values may be private.
_OPEN_ARGUMENTS = ("REGISTRY", "VERSION", "REVISION")
# If more files changed, the rest is counted; `invoke list --why NAME` shows all.
_MOST_NAMED = 5
# https://docs.docker.com/reference/dockerfile/#buildkit-built-in-build-args, except those for caches, which do not
# change the image.
_BUILDER_ARGUMENT = re.compile(r"BUILDKIT_(?!INLINE_CACHE|CACHE_)\w+|SOURCE_DATE_EPOCH")


@frozen
class Fingerprint:
    """``value`` is a hexadecimal SHA-256; ``inputs`` has one entry for each input.

    ``unknown`` are the base images, its own and its parents', whose digest is unknown. Such a fingerprint is only valid
    in this run; an image must not count as up to date because of it.
    """

    value: str
    inputs: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    @property
    def directories(self) -> str:
        """A digest of the context's directories and their modes only."""
        return _combination({key: value for key, value in self.inputs.items() if value.startswith("d ")})


def folder_fingerprint(
    folder: ImageFolder,
    *,
    parents: Mapping[str, Fingerprint],
    bases: Mapping[str, str],
    contents: Contents,
    triggers: Mapping[str, Sequence[str]] | None = None,
) -> Fingerprint:
    """The fingerprint of a folder's image.

    ``parents`` maps each parent to its fingerprint, ``bases`` each external image to its digest or id, ``triggers``
    each external image with ``ONBUILD`` instructions to these.

    :raises Refused: if the ignore file has an invalid pattern.
    :raises BuildToolsError: if an entry of the context cannot be read.
    """
    needs = folder.needs(triggers)
    inputs = {
        "format": _FORMAT,
        "dockerfile": _digest(folder.dockerfile.text),
        "platform": str(folder.platform),
        "target": folder.settings.target,
    }
    for name, value in {**_builder_arguments(folder.arguments), **needs.arguments}.items():
        inputs[f"argument {name}"] = value if name in _OPEN_ARGUMENTS else _digest(value)
    for name, value in folder.settings.labels.items():
        inputs[f"label {name}"] = _digest(value)
    for kind, options in folder.settings.attestations.items():
        inputs[f"attestation {kind}"] = options
    unknown: dict[str, None] = {}
    for base in needs.bases:
        parent = folder.siblings.get(base.mention)
        if parent:
            key, value = f"parent {parent}", parents[parent].value
            unknown |= dict.fromkeys(parents[parent].unknown)
        else:
            # Keyed by the Dockerfile's text: a variable that expands to another tag of the same image makes no
            # difference.
            key, value = f"base {base.mention.text}", bases.get(base.image, "")
            if not value:
                unknown[base.image] = None
        if base.platform != folder.platform:
            value = f"{value} {base.platform}"
        inputs[key] = f"{inputs[key]} {value}" if key in inputs else value
    if needs.sources:
        for entry in walk(folder.context, folder.selection(needs)):
            if not entry.is_on_the_way:
                inputs[f"context {entry.path}"] = _description(entry, contents)
    return Fingerprint(_combination(inputs), inputs, tuple(unknown))


def explain(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """The differences between the inputs of two fingerprints, one clause for each kind."""
    reasons = []
    entries = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        kind, _, name = key.partition(" ")
        if kind == "context":
            entries.append(f"{printable(name)} {_change(before, after)}")
        elif kind in ("target", "platform") or (kind == "argument" and name in _OPEN_ARGUMENTS):
            reasons.append(f"{key} {before or 'none'} -> {after or 'none'}")
        elif kind == "format":
            reasons.append("made by another version of buildtools")
        else:
            reasons.append(f"{key} {_change(before, after)}")
    if entries:
        more = f" and {len(entries) - _MOST_NAMED} more" if len(entries) > _MOST_NAMED else ""
        reasons.append(f"context: {', '.join(entries[:_MOST_NAMED])}{more}")
    return tuple(reasons)


def record_inputs(directory: Path, name: str, fingerprint: Fingerprint, seconds: float) -> None:
    """Record in ``directory`` what the image ``name`` was last built from, and how long that took.

    :func:`recorded_inputs` and :func:`recorded_seconds` read this.

    :raises OSError: if it cannot be written.
    """
    record = {"fingerprint": fingerprint.value, "inputs": fingerprint.inputs, "seconds": seconds}
    write_atomically(_record(directory, name), json.dumps(record, separators=(",", ":")).encode())


def recorded_inputs(directory: Path, name: str, value: str) -> Mapping[str, str] | None:
    """The inputs of the fingerprint ``value`` of the image ``name``; None if they are unknown here.

    They are unknown if the image was built on another machine, or another fingerprint was built here since.
    """
    inputs = last_inputs(directory, name)
    return inputs if inputs and _combination(inputs) == value else None


def last_inputs(directory: Path, name: str) -> Mapping[str, str] | None:
    """The inputs of the image ``name`` when it was last built here; None if unknown."""
    try:
        record = json.loads(_record(directory, name).read_bytes())
        inputs: dict[str, str] = record["inputs"]
        return inputs if _combination(inputs) == record["fingerprint"] else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def recorded_seconds(directory: Path, name: str, value: str) -> float:
    """How long the build of the fingerprint ``value`` of the image ``name`` took; 0 if unknown here."""
    try:
        record = json.loads(_record(directory, name).read_bytes())
        return float(record["seconds"]) if record["fingerprint"] == value else 0.0
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0


def _record(directory: Path, name: str) -> Path:
    # A variant's name contains the slashes of its platform.
    return directory / "inputs" / f"{name.replace('/', '-')}.json"


def _builder_arguments(arguments: Mapping[str, str]) -> dict[str, str]:
    """The arguments that BuildKit itself reads, whether or not a Dockerfile declares them."""
    return {name: value for name, value in arguments.items() if _BUILDER_ARGUMENT.fullmatch(name)}


def _combination(inputs: Mapping[str, str]) -> str:
    # Neither names nor values can contain a NUL, so this is unambiguous.
    return _digest("\0".join(f"{key}\0{inputs[key]}" for key in sorted(inputs)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _description(entry: Entry, contents: Contents) -> str:
    mode = entry.stat.st_mode
    if stat.S_ISLNK(mode):
        what = f"link {entry.link_target}"
    elif entry.is_hard_link:
        what = f"hard link {entry.link_target}"
    elif stat.S_ISREG(mode):
        try:
            what = f"file {stat.S_IMODE(mode):o} {contents.digest(entry.absolute, entry.stat)}"
        except OSError as error:
            raise unreadable(entry.absolute, error) from None
    else:
        device = f" {entry.stat.st_rdev}" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else ""
        what = f"{stat.filemode(mode)[0]} {stat.S_IMODE(mode):o}{device}"
    attributes = _attributes(entry.absolute)
    return f"{what} {attributes}" if attributes else what


def _attributes(path: str) -> str:
    """A digest of the extended attributes that BuildKit copies; empty if there are none."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a file system without them
        return ""
    counted_names = [
        name for name in names if name == "security.capability" or not name.startswith(("security.", "system."))
    ]
    if not counted_names:
        return ""
    pairs = (f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}" for name in sorted(counted_names))
    return _digest("\0".join(pairs))


def _change(before: str | None, after: str | None) -> str:
    if before is None:
        return "added"
    if after is None:
        return "removed"
    old, new = before.split(" "), after.split(" ")
    if old[0] == new[0] == "file" and old[2:] == new[2:]:
        return f"changed its mode {old[1]} -> {new[1]}"
    return "changed"
