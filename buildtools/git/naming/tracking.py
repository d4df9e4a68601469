"""Which branch another one tracks or is pushed to, by configuration. https://git-scm.com/docs/git-config"""

from __future__ import annotations

from buildtools.git.config import Config


def upstream(config: Config, branch: str) -> str | None:
    """The full name of the ref behind ``BRANCH@{upstream}``; ``None`` if none is configured."""
    remote = config.get(f"branch.{branch}.remote")
    branch_ref = config.get(f"branch.{branch}.merge")
    if remote is None or branch_ref is None:
        return None
    return branch_ref if remote == "." else _target(config.get_all(f"remote.{remote}.fetch"), branch_ref)


def pushed_to(config: Config, branch: str) -> str | None:
    """The full name of the ref behind ``BRANCH@{push}``; ``None`` if a push has no single destination."""
    own = config.get(f"branch.{branch}.remote")
    remote = config.get(f"branch.{branch}.pushremote") or config.get("remote.pushdefault") or own or "origin"
    full = f"refs/heads/{branch}"
    fetch_specs = config.get_all(f"remote.{remote}.fetch")
    refspecs = config.get_all(f"remote.{remote}.push")
    if refspecs:
        target = _target(refspecs, full)
        return _target(fetch_specs, target) if target else None
    way = (config.get("push.default") or "simple").lower()
    if way in ("current", "matching") or (way == "simple" and remote != (own or "origin")):
        return _target(fetch_specs, full)
    ref = upstream(config, branch)
    if way == "upstream" or (way == "simple" and ref == _target(fetch_specs, full)):
        return ref
    return None


def _target(refspecs: list[str], name: str) -> str | None:
    for refspec in refspecs:
        source, _, target = refspec.removeprefix("+").partition(":")
        before, star, after = source.partition("*")
        if not star:
            if source == name:
                return target
        elif name.startswith(before) and name.endswith(after) and len(name) >= len(before) + len(after):
            return target.replace("*", name[len(before) : len(name) - len(after)], 1)
    return None
