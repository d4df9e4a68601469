"""Release tags: what is refused, what is made, and what git thinks of it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.events import Event, Log
from buildtools.git.tagging.tag_plan import TagRequest
from buildtools.git.tagging.tags import CutTag, TagState, cut_tag
from tests.conftest import Repository, make_repository
from tests.git.remotes import Site, require_program


def release(site: Site, at: Path | None = None, **options: Any) -> CutTag:
    """A tag with the prefix ``v``."""
    return cut_tag(at or site.clone.path, TagRequest(prefix="v", **options), site.environment, lambda event: None)


def tag_content(repository: Repository, name: str) -> tuple[dict[str, str], str]:
    head, _, message = repository.git("cat-file", "tag", name).partition("\n\n")
    return dict(line.split(" ", 1) for line in head.splitlines()), message


def test_the_first_tag_is_annotated_pushed_alone_and_as_git_would_have_it(site: Site) -> None:
    head = site.clone.git("rev-parse", "HEAD")
    here, there = site.refs()
    cut = release(site, first="0.1.0")
    assert (
        CutTag("v0.1.0", "0.1.0", "", head, "0.1.0\n\n* First things\n", TagState.PUSHED, cut.object, remote="origin")
        == cut
    )
    assert ([*here, f"refs/tags/v0.1.0 {cut.object}"], [*there, f"refs/tags/v0.1.0 {cut.object}"]) == site.refs()
    assert "v0.1.0" == site.clone.git("describe", "--dirty") == site.remote.git("describe", "main")
    for repository in (site.clone, site.remote):
        assert "" == repository.git("fsck", "--strict", "--no-dangling")
    fields, message = tag_content(site.clone, "v0.1.0")
    assert {"object": head, "type": "commit", "tag": "v0.1.0"}.items() <= fields.items()
    assert fields["tagger"].startswith("R. Releaser <releaser@example.com> ")
    assert "0.1.0\n\n* First things" == message


@pytest.mark.parametrize(
    ("last", "bump", "expected"),
    [
        ("1.4.2", "major", "2.0.0"),
        ("1.4.2", "minor", "1.5.0"),
        ("1.4.2", "patch", "1.4.3"),
        ("1.4.2", "prerelease", "1.4.3-rc.1"),
        ("1.4.3-rc.9", "prerelease", "1.4.3-rc.10"),
        ("1.4.3-rc.1", "patch", "1.4.3"),
        ("1.5.0-rc.1", "minor", "1.5.0"),
        ("2.0.0-rc.1", "major", "2.0.0"),
        ("1.4.3-rc.1", "minor", "1.5.0"),
        ("1.4", "patch", "1.4.1"),
        ("1.5.0-rc9", "prerelease", "1.5.0-rc10"),
        ("1.5.0-rc", "prerelease", "1.5.0-rc.1"),
        ("1.5.0-beta.2.rc009", "prerelease", "1.5.0-beta.2.rc010"),
        ("1.5.0-7", "prerelease", "1.5.0-8"),
        ("1.5.0-rc9a", "prerelease", "1.5.0-rc9a.1"),
        ("1.5.0-rc10", "minor", "1.5.0"),
    ],
)
def test_a_bump_follows_semantic_versioning(site: Site, last: str, bump: str, expected: str) -> None:
    site.tag(f"v{last}")
    site.commit("More")
    assert (expected, f"v{last}") == ((cut := release(site, bump=bump, push=False)).version, cut.previous)


def test_the_greatest_version_that_head_descends_from_counts_and_no_other(site: Site) -> None:
    site.tag("v1.9.0")
    site.clone.git("switch", "--quiet", "--create", "side")
    site.commit("On the side")
    site.tag("v1.10.0")
    site.clone.git("switch", "--quiet", "--create", "unmerged")
    site.clone.commit("Nowhere")
    site.tag("v3.0.0")
    site.clone.git("switch", "--quiet", "main")
    site.clone.commit("On main")
    site.tag("v1.9.1")
    site.tag("unversioned")
    site.clone.tag("v9.0.0", lightweight=True)
    site.clone.git("merge", "--quiet", "--no-edit", "side")
    site.clone.git("push", "--quiet", "--tags", "origin", "main")
    assert "1.10.1" == release(site, bump="patch").version


def test_the_tenth_candidate_counts_as_later_than_the_ninth(site: Site) -> None:
    site.tag("v1.0.0-rc9")
    site.commit("More")
    assert "v1.0.0-rc10" == release(site, bump="prerelease").name
    site.commit("Even more")
    assert "v1.0.0-rc11" == release(site, bump="prerelease").name


@pytest.mark.parametrize("options", [{"to": "1.1.0"}, {"bump": "minor"}, {"bump": "patch"}])
def test_the_commit_of_a_release_candidate_becomes_the_final_version(site: Site, options: dict[str, Any]) -> None:
    site.tag("v1.0.0")
    site.commit("New things")
    release(site, to="1.1.0-rc.1")
    cut = release(site, **options)
    assert ("v1.1.0", "v1.1.0-rc.1", TagState.PUSHED) == (cut.name, cut.previous, cut.state)
    assert "1.1.0\n\n* New things\n" == cut.message
    assert "v1.1.0" == site.clone.git("describe") == site.remote.git("describe", "main")


def test_a_final_version_that_git_would_describe_as_its_candidate_is_refused(site: Site) -> None:
    site.environment["GIT_COMMITTER_DATE"] = "1700000005 +0000"
    release(site, first="1.1.0-rc.1")
    site.environment["GIT_COMMITTER_DATE"] = "1700000000 +0000"
    with pytest.raises(
        Refused, match=r"5 seconds older .*: correct the clock, or set GIT_COMMITTER_DATE to '1700000005"
    ):
        release(site, to="1.1.0")
    site.environment["GIT_COMMITTER_DATE"] = "1700000005 +0000"
    release(site, to="1.1.0")
    assert "v1.1.0" == site.clone.git("describe")


@pytest.mark.parametrize("version", ["1.1.0-rc.2", "1.2.0", "2.0.0"])
def test_the_commit_of_a_release_candidate_becomes_no_other_version(site: Site, version: str) -> None:
    release(site, first="1.1.0-rc.1")
    with pytest.raises(Refused, match=r"HEAD is already tagged: v1\.1\.0-rc\.1"):
        release(site, to=version)


@pytest.mark.parametrize(
    ("name", "prefix", "key"),
    [
        ("v4.0.0", "", 'tag_prefix = "v"'),
        ("release-4.0", "", 'tag_prefix = "release-"'),
        ("v4", "", 'tag_prefix = "v"'),
        ("4.0.0", "v", 'tag_prefix = ""'),
        ("V4.0.0-rc1.2", "v", 'tag_prefix = "V"'),
    ],
)
@pytest.mark.parametrize("options", [{"bump": "minor"}, {"first": "0.1.0"}, {"to": "4.1.0"}])
def test_tags_with_another_prefix_are_named_with_the_key_that_counts_them(
    site: Site, name: str, prefix: str, key: str, options: dict[str, Any]
) -> None:
    site.tag(name)
    site.commit("More")
    with pytest.raises(Refused) as refusal:
        cut_tag(site.clone.path, TagRequest(prefix=prefix, **options), site.environment, lambda event: None)
    assert f"but {name} looks like one: set {key} under [tool.buildtools]" in str(refusal.value)
    assert "--first" not in str(refusal.value)


def test_a_second_project_in_the_repository_has_its_own_first_version(site: Site) -> None:
    site.tag("api-v4.0.0")
    request = TagRequest(prefix="web-v", first="0.1.0")
    assert "web-v0.1.0" == cut_tag(site.clone.path, request, site.environment, lambda event: None).name


@pytest.mark.parametrize("name", ["vendor-drop-7", "v-next", "version7", "2026-01-31", "backup-10.0.0.1"])
def test_a_tag_that_only_looks_like_the_prefix_does_not_count(site: Site, name: str) -> None:
    site.tag(name)
    assert "v0.1.0" == release(site, first="0.1.0").name


def test_lightweight_version_tags_do_not_count_but_are_not_gone_below(site: Site) -> None:
    site.clone.tag("v4.0.0", lightweight=True)
    with pytest.raises(Refused, match=r"v4\.0\.0 is a lightweight tag, .* `invoke release --first 4\.1\.0`"):
        release(site, bump="minor")
    with pytest.raises(Refused, match=r"v4\.0\.0 is a lightweight tag, .* `invoke release --first 4\.1\.0`"):
        release(site, first="0.1.0")
    assert "v4.1.0" == release(site, first="4.1.0").name


def test_the_message_tells_what_has_happened_since_the_last_tag(site: Site) -> None:
    site.tag("v1.0.0")
    site.clone.git("config", "i18n.commitEncoding", "ISO-8859-1")
    subprocess.run(
        ["git", "commit", "--quiet", "--allow-empty", "-F", "-"],
        cwd=site.clone.path,
        env={**site.environment, "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com"},
        input="Größer\nauf zwei Zeilen\n\nund mehr\n".encode("latin-1"),
        check=True,
    )
    site.clone.git("config", "--unset", "i18n.commitEncoding")
    site.commit("Last")
    expected = site.clone.git("log", "--format=* %s", "v1.0.0..")
    assert f"1.0.1\n\n{expected}\n" == release(site, bump="patch").message
    assert "* Last\n* Größer auf zwei Zeilen" == expected


def test_a_given_message_is_taken(site: Site) -> None:
    release(site, first="1.0.0", message="\nThe first  \n\n# of many\n\n")
    assert "The first\n\n# of many" == tag_content(site.clone, "v1.0.0")[1]


@pytest.mark.parametrize(
    "variables",
    [
        {"GIT_COMMITTER_DATE": "1700000000 +0130"},
        {"GIT_COMMITTER_DATE": "@1700000000 -0330"},
        {"GIT_COMMITTER_DATE": "1112904793 +1545"},
        {"GIT_COMMITTER_DATE": "@1700000000"},
        {"GIT_COMMITTER_DATE": "2025.04.07 22:13:13"},
        {"GIT_COMMITTER_DATE": "04/07/2025 22:13:13 +0100"},
        {"GIT_COMMITTER_DATE": "13/07/2025 2:13:13 +0100"},
        {"GIT_COMMITTER_DATE": "07.04.2025 22:13 +0100"},
        {"GIT_COMMITTER_DATE": "04.13.2025 22:13:13 +0100"},
        {"GIT_COMMITTER_DATE": "2025/04/07 22:13:13 +0100"},
        {"GIT_COMMITTER_DATE": "2025-13-07 22:13:13 +0100"},
        {"GIT_COMMITTER_DATE": "2026-01-31T12:00:00+02:00"},
        {"GIT_COMMITTER_DATE": "2026-01-31 12:00:00 -0800"},
        {"GIT_COMMITTER_DATE": "2026-01-31T12:00:00", "TZ": "UTC"},
        {"GIT_COMMITTER_DATE": "Sat, 31 Jan 2026 12:00:00 +0100"},
        {"GIT_COMMITTER_NAME": " <Some> One., ", "GIT_COMMITTER_DATE": "1700000000 +0000"},
        {
            "GIT_COMMITTER_NAME": "Zoë",
            "GIT_COMMITTER_EMAIL": "z@example.com>",
            "GIT_COMMITTER_DATE": "1700000000 +0000",
        },
    ],
)
def test_tagger_and_date_are_what_git_makes_of_the_environment(site: Site, variables: Mapping[str, str]) -> None:
    site.environment |= variables
    site.clone.git("tag", "--annotate", "--message", "x", "oracle", variables=site.environment)
    release(site, first="1.0.0")
    assert tag_content(site.clone, "oracle")[0]["tagger"] == tag_content(site.clone, "v1.0.0")[0]["tagger"]


@pytest.mark.parametrize("date", ["7 Apr 2025 10:13:13 pm", "7 Apr 2025 22:13:13 CEST"])
def test_a_date_of_which_a_part_would_be_passed_over_is_refused(site: Site, date: str) -> None:
    site.environment["GIT_COMMITTER_DATE"] = date
    with pytest.raises(Refused, match=r"invalid GIT_COMMITTER_DATE .*: write it as 2026-01-31T12:00:00\+00:00$"):
        release(site, first="1.0.0")


def test_the_tagger_comes_from_the_configuration_where_the_environment_says_nothing(site: Site) -> None:
    site.environment = {name: value for name, value in site.environment.items() if "COMMITTER" not in name}
    site.clone.git("config", "user.name", "User")
    site.clone.git("config", "user.email", "user@example.com")
    site.clone.git("config", "committer.name", "Committer")
    release(site, first="1.0.0")
    assert tag_content(site.clone, "v1.0.0")[0]["tagger"].startswith("Committer <user@example.com> ")


def dirty(site: Site) -> None:
    site.tag("v1.0.0")
    site.clone.commit("A file", changed="one")
    site.clone.git("push", "--quiet", "origin", "main")
    site.clone.write("changed", "two")


def shallow(site: Site) -> None:
    site.tag("v1.0.0")
    site.commit("More")
    shutil.rmtree(site.clone.path)
    site.remote.git("clone", "--quiet", "--depth", "1", f"file://{site.remote.path}", str(site.clone.path))


def one_release_behind(site: Site) -> None:
    site.tag("v1.0.0")
    site.commit("More")


def no_release(site: Site) -> None:
    pass


def on_another_branch(site: Site) -> None:
    one_release_behind(site)
    site.clone.git("switch", "--quiet", "--create", "topic")


def detached_head(site: Site) -> None:
    one_release_behind(site)
    site.clone.git("switch", "--quiet", "--detach")


def head_tagged(site: Site) -> None:
    site.tag("v1.0.0")


def head_tagged_otherwise(site: Site) -> None:
    site.tag("v1.4")


def name_taken(site: Site) -> None:
    one_release_behind(site)
    site.clone.tag("v1.0.1", lightweight=True)


def name_is_a_folder(site: Site) -> None:
    one_release_behind(site)
    site.clone.tag("v1.0.1/notes", lightweight=True)


def name_taken_there(site: Site) -> None:
    one_release_behind(site)
    other = site.another_clone()
    other.tag("v1.0.1")
    other.git("push", "--quiet", "--tags", "origin")


def greater_tag_there(site: Site) -> None:
    one_release_behind(site)
    other = site.another_clone()
    other.tag("v1.1.0")
    other.git("push", "--quiet", "--tags", "origin")


def moved_on(site: Site) -> None:
    one_release_behind(site)
    other = site.another_clone()
    other.commit("From elsewhere")
    other.git("push", "--quiet", "origin", "main")


def not_pushed(site: Site) -> None:
    one_release_behind(site)
    site.clone.commit("Mine alone")


def branch_missing_there(site: Site) -> None:
    one_release_behind(site)
    site.remote.git("update-ref", "-d", "refs/heads/main")


def nobody(site: Site) -> None:
    one_release_behind(site)
    site.environment = {name: value for name, value in site.environment.items() if "COMMITTER" not in name}


def no_commit(site: Site) -> None:
    shutil.rmtree(site.clone.path)
    make_repository(site.clone.path)


def sha256(site: Site) -> None:
    shutil.rmtree(site.clone.path)
    site.clone.path.mkdir()
    site.clone.git("init", "--quiet", "--object-format=sha256", "--initial-branch=main")
    site.clone.commit("Something")


def only_unreachable_tags(site: Site) -> None:
    site.clone.git("switch", "--quiet", "--orphan", "other")
    site.clone.commit("Elsewhere")
    site.tag("v3.0.0")
    site.clone.git("switch", "--quiet", "main")


def two_urls(site: Site) -> None:
    one_release_behind(site)
    site.clone.git("remote", "set-url", "--add", "origin", "/elsewhere")


def no_repository_there(site: Site) -> None:
    one_release_behind(site)
    site.clone.git("remote", "set-url", "origin", "../home")


PATCH = {"bump": "patch"}


@pytest.mark.parametrize(
    ("state", "options", "words"),
    [
        (dirty, PATCH, ("dirty (changed)", "commit or stash")),
        (shallow, PATCH, ("shallow", "git fetch --unshallow", "Jenkins")),
        (on_another_branch, PATCH, ("branch is topic", "from main")),
        (on_another_branch, {**PATCH, "branch": "main"}, ("--branch is main", "topic")),
        (detached_head, PATCH, ("detached", "--branch $BRANCH_NAME")),
        (detached_head, {**PATCH, "branch": "origin/topic"}, ("branch is topic", "from main")),
        (head_tagged, PATCH, ("HEAD is already tagged: v1.0.0", "invoke publish")),
        (head_tagged, {"to": "1.0.0"}, ("v1.0.0 already exists here and on origin", "invoke publish")),
        (head_tagged_otherwise, {"to": "1.4"}, ("v1.4 already exists here and on origin",)),
        (head_tagged, {"to": "1.0.1"}, ("HEAD is already tagged: v1.0.0",)),
        (head_tagged, {"to": "1.0.0", "push": False}, ("HEAD is already tagged: v1.0.0",)),
        (one_release_behind, {"to": "1.0.0"}, ("1.0.0 is not greater than 1.0.0", "1.0.1")),
        (one_release_behind, {"to": "1.0.0-rc.7"}, ("1.0.0-rc.7 is not greater than 1.0.0",)),
        (one_release_behind, {"to": "v1.2.0"}, ("not a semantic version", "leave out the prefix 'v'")),
        (one_release_behind, {"to": "1.2"}, ("not a semantic version", "1.4.2")),
        (one_release_behind, {"to": "1.2.0+build"}, ("build metadata",)),
        (one_release_behind, {"to": "1.2.0-3-gabcdef1"}, ("looks like",)),
        (one_release_behind, {"to": "1.2.0-dirty"}, ("looks like",)),
        (one_release_behind, {"to": "1.2.0-" + "x" * 130}, ("cannot be an image tag",)),
        (one_release_behind, {"bump": "huge"}, ("--bump 'huge'", "major, minor, patch, prerelease")),
        (one_release_behind, {}, ("no version was given", "--bump")),
        (one_release_behind, {"bump": "patch", "to": "2.0.0"}, ("more than one version was given", "one of")),
        (one_release_behind, {"first": "2.0.0"}, ("--first", "v1.0.0")),
        (no_release, PATCH, ("no version tag yet that starts with 'v'", "--first 0.1.0")),
        (no_release, {"to": "1.0.0"}, ("no version tag yet", "--first 0.1.0")),
        (only_unreachable_tags, PATCH, ("HEAD does not descend", "--to")),
        (name_taken, PATCH, ("v1.0.1 already exists", "greater version")),
        (name_is_a_folder, PATCH, ("v1.0.1 cannot exist beside the tag v1.0.1/notes", "delete v1.0.1/notes")),
        (name_taken_there, PATCH, ("v1.0.1 already exists on origin", "git fetch origin --tags")),
        (greater_tag_there, PATCH, ("does not have: v1.1.0", "git fetch origin --tags")),
        (moved_on, PATCH, ("not the tip of main on origin", "git pull")),
        (not_pushed, PATCH, ("not on origin yet", "git push origin HEAD:main")),
        (branch_missing_there, PATCH, ("origin has no branch main", "git push origin main")),
        (nobody, PATCH, ("user.name and user.email not set", "git config user.name")),
        (no_commit, PATCH, ("no commit to tag", "git commit")),
        (sha256, PATCH, ("sha256", "git tag -a")),
        (one_release_behind, {**PATCH, "remote": "upstream"}, ("no remote named 'upstream'", "git remote add")),
        (two_urls, PATCH, ("2 URLs", "--remote")),
        (no_repository_there, PATCH, ("cannot push to origin", "fix the remote's URL")),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_release_from_the_wrong_state_is_refused(
    site: Site, state: Callable[[Site], None], options: dict[str, Any], words: tuple[str, ...]
) -> None:
    state(site)
    before = site.refs()
    with pytest.raises(Refused) as refusal:
        release(site, **options)
    assert [] == [word for word in words if word not in str(refusal.value)], str(refusal.value)
    assert refusal.value.remedy
    assert before == site.refs()
    assert 2 == refusal.value.exit_code


def test_a_repository_with_a_reftable_is_refused_before_anything_is_looked_at(site: Site) -> None:
    # As git 2.45 makes it; older ones cannot open it.
    site.clone.git("config", "core.repositoryFormatVersion", "1")
    site.clone.git("config", "extensions.refStorage", "reftable")
    site.clone.write(".git/reftable/tables.list")
    with pytest.raises(Refused, match=r"stores refs as reftable, .* not written here: tag with git itself"):
        release(site, first="1.0.0")


@pytest.mark.parametrize("date", ["soon", "1700000000 +9900", "99999999999999999999 +0000"])
def test_an_invalid_date_is_refused(site: Site, date: str) -> None:
    site.environment["GIT_COMMITTER_DATE"] = date
    with pytest.raises(Refused, match="invalid GIT_COMMITTER_DATE"):
        release(site, first="1.0.0")


@pytest.mark.parametrize("branch", ["main", "origin/main", "refs/heads/main"])
def test_a_detached_head_is_released_when_the_branch_is_told(site: Site, branch: str) -> None:
    detached_head(site)
    assert "v1.0.1" == release(site, bump="patch", branch=branch).name


def test_a_release_works_from_a_linked_worktree_with_packed_refs(site: Site) -> None:
    one_release_behind(site)
    site.clone.git("gc", "--quiet")
    site.clone.git("switch", "--quiet", "--detach")
    worktree = site.folder / "linked"
    site.clone.git("worktree", "add", "--quiet", str(worktree), "main")
    assert "v1.0.1" == release(site, worktree, bump="patch").name
    assert "v1.0.1" == Repository(worktree).git("describe") == site.clone.git("describe")


def test_a_dry_run_checks_everything_and_touches_nothing(site: Site) -> None:
    one_release_behind(site)
    before = site.refs(), site.clone.git("count-objects")
    cut = release(site, bump="minor", dry_run=True)
    assert (TagState.PLANNED, "v1.1.0", "", "1.1.0\n\n* More\n") == (cut.state, cut.name, cut.object, cut.message)
    assert before == (site.refs(), site.clone.git("count-objects"))
    site.commit("Elsewhere")
    site.clone.git("reset", "--quiet", "--hard", "HEAD^")
    with pytest.raises(Refused, match="not the tip of main"):
        release(site, bump="minor", dry_run=True)


def test_a_tag_made_here_alone_is_pushed_when_named(site: Site) -> None:
    site.clone.git("remote", "set-url", "origin", "/nowhere")
    local = release(site, first="1.0.0", push=False, message="Kept")
    site.clone.git("remote", "set-url", "origin", "../remote.git")
    remote = release(site, to="1.0.0")
    assert (TagState.MADE, TagState.PUSHED, local.object, "Kept\n") == (
        local.state,
        remote.state,
        remote.object,
        remote.message,
    )
    assert local.object == site.remote.git("rev-parse", "v1.0.0")


def test_a_push_that_a_hook_rejects_leaves_no_tag_and_tells_what_the_hook_said(site: Site) -> None:
    one_release_behind(site)
    site.hook("pre-receive", "echo 'not on a Friday' >&2; exit 1")
    before = site.refs()
    events: list[Event] = []
    with pytest.raises(Refused, match=r"origin rejected the tag .*hook declined.*nothing was tagged"):
        cut_tag(site.clone.path, TagRequest(prefix="v", bump="patch"), site.environment, events.append)
    assert [Log("origin", "not on a Friday")] == events
    assert before == site.refs()
    site.hook("pre-receive", "exit 0")
    assert TagState.PUSHED is release(site, bump="patch").state


def test_who_is_overtaken_between_looking_and_pushing_is_told_so(site: Site) -> None:
    one_release_behind(site)
    site.hook(
        "pre-receive",
        "unset GIT_QUARANTINE_PATH; git -c user.name=Q -c user.email=q@example.com tag -a -m quicker v1.0.1 main",
    )
    with pytest.raises(Refused, match=r"v1\.0\.1 already exists on origin: another run has released it"):
        release(site, bump="patch")
    assert [] == site.clone.git("tag", "--list", "v1.0.1").splitlines()


def test_of_two_clones_that_release_at_once_one_wins_and_the_other_says_so(site: Site) -> None:
    one_release_behind(site)
    clones = [site.another_clone(f"clone-{number}") for number in range(4)]

    def attempt(clone: Repository) -> CutTag | BuildToolsError:
        try:
            return release(site, clone.path, bump="patch")
        except BuildToolsError as error:
            return error

    with ThreadPoolExecutor(len(clones)) as pool:
        outcomes = list(pool.map(attempt, clones))
    winners = [outcome for outcome in outcomes if isinstance(outcome, CutTag)]
    losers = [str(outcome) for outcome in outcomes if isinstance(outcome, Refused)]
    assert (1, 3) == (len(winners), len(losers))
    assert winners[0].object == site.remote.git("rev-parse", "v1.0.1")
    assert [] == [words for words in losers if "v1.0.1 already exists on origin" not in words]


def test_a_second_run_in_the_same_clone_is_refused_while_the_first_is_at_work(site: Site) -> None:
    descriptor = os.open(site.clone.path / ".git", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="another `invoke release` is running in this clone"):
            release(site, first="1.0.0")
    finally:
        os.close(descriptor)
    assert TagState.PUSHED is release(site, first="1.0.0").state


def test_a_connection_that_breaks_before_the_tag_arrived_leaves_none_and_the_next_run_pushes_it(site: Site) -> None:
    site.hook("pre-receive", "kill -9 $PPID")
    with pytest.raises(Unreachable, match="it is unknown whether the tag has arrived: run the same command again"):
        release(site, first="1.0.0")
    assert "" == site.clone.git("tag") == site.remote.git("tag")
    site.hook("pre-receive", "exit 0")
    assert TagState.PUSHED is release(site, first="1.0.0").state


def test_a_connection_that_breaks_after_the_tag_arrived_is_finished_by_the_next_run(site: Site) -> None:
    site.hook("reference-transaction", 'test "$1" != committed || kill -9 $PPID')
    with pytest.raises(Unreachable, match="run the same command again"):
        release(site, first="1.0.0")
    assert ("", "v1.0.0") == (site.clone.git("tag"), site.remote.git("tag"))
    site.hook("reference-transaction", "exit 0")
    cut = release(site, first="1.0.0")
    assert (TagState.FINISHED, site.remote.git("rev-parse", "v1.0.0")) == (cut.state, cut.object)
    assert "v1.0.0" == site.clone.git("describe")


def test_a_lock_that_is_left_behind_is_named_before_anything_is_pushed(site: Site) -> None:
    lock = site.clone.write(".git/refs/tags/release/1.0.0.lock")
    before = site.refs()
    with pytest.raises(Refused) as refusal:
        cut_tag(site.clone.path, TagRequest(prefix="release/", first="1.0.0"), site.environment, lambda event: None)
    assert f"the tag release/1.0.0 is locked by {lock}: if no git command is running here, delete that file" == str(
        refusal.value
    )
    assert before == site.refs()


def test_a_tag_that_is_locked_here_while_it_is_pushed_is_completed_by_the_next_run(site: Site) -> None:
    lock = site.clone.path / ".git/refs/tags/v1.0.0.lock"
    site.hook("pre-receive", f"touch {lock}")
    with pytest.raises(BuildToolsError) as error:
        release(site, first="1.0.0")
    assert (
        f"the tag v1.0.0 is locked by {lock}, but v1.0.0 has been pushed; `git fetch --tags` fetches it: "
        "if no git command is running here, delete that file" == str(error.value)
    )
    lock.unlink()
    assert TagState.FINISHED is release(site, first="1.0.0").state


def test_empty_folders_in_place_of_the_ref_are_removed_as_git_does(site: Site) -> None:
    (site.clone.path / ".git/refs/tags/v1.0.0/rc/old").mkdir(parents=True)
    assert TagState.PUSHED is release(site, first="1.0.0").state
    assert "v1.0.0" == site.clone.git("describe")


def test_a_tag_that_cannot_be_written_here_is_told_as_pushed(site: Site) -> None:
    site.hook("pre-receive", f"rmdir {site.clone.path}/.git/refs/tags; touch {site.clone.path}/.git/refs/tags")
    with pytest.raises(BuildToolsError, match=r"/refs/tags/v1\.0\.0 \(.*\), but v1\.0\.0 has been pushed"):
        release(site, first="1.0.0")


@pytest.mark.parametrize("value", ["group", "true", "1", "all", "world", "2", "0640", "0666", "umask", "false", "0"])
def test_the_files_of_a_tag_have_the_modes_of_a_shared_repository(site: Site, value: str) -> None:
    site.clone.git("repack", "-a", "-d", "-q")  # a folder of objects that is there already would keep its mode
    site.clone.git("config", "core.sharedRepository", value)
    before = os.umask(0o027)
    try:
        site.clone.git("tag", "--annotate", "--message", "x", "oracle/1.0.0")
        request = TagRequest(prefix="release/", first="1.0.0", push=False)
        cut = cut_tag(site.clone.path, request, site.environment, lambda event: None)
    finally:
        os.umask(before)

    def modes(name: str, oid: str) -> list[str]:
        folder = site.clone.path / ".git"
        paths = [f"refs/tags/{name}", f"refs/tags/{name}/1.0.0", f"objects/{oid[:2]}", f"objects/{oid[:2]}/{oid[2:]}"]
        return [oct((folder / path).stat().st_mode) for path in paths]

    assert modes("oracle", site.clone.git("rev-parse", "oracle/1.0.0")) == modes("release", cut.object)


def test_a_wrong_setting_for_shared_repositories_is_refused(site: Site) -> None:
    site.clone.git("config", "core.sharedRepository", "0440")
    with pytest.raises(Refused, match=r"invalid git configuration core\.sharedRepository '0440'"):
        release(site, first="1.0.0")


@pytest.mark.parametrize("key_source", ["a path", "in full", "by the command", "by the configuration"])
def test_a_tag_signed_with_an_ssh_key_is_what_git_verifies(site: Site, key_source: str) -> None:
    require_program("ssh-keygen", "openssh-client")
    key = site.home / "signer"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = " ".join((site.home / "signer.pub").read_text().split()[:2])
    (site.home / "allowed").write_text(f"releaser@example.com {public}\n")
    settings = {"gpg.format": "ssh", "gpg.ssh.allowedSignersFile": str(site.home / "allowed")}
    agent = ""
    if key_source in ("in full", "by the command"):
        agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
        site.environment |= dict(re.findall("(SSH_[A-Z_]+)=([^;]+);", agent))
        subprocess.run(["ssh-add", "-q", str(key)], env=site.environment, check=True)
    if key_source == "by the command":
        settings["gpg.ssh.defaultKeyCommand"] = "ssh-add -L"
    else:
        settings["user.signingkey"] = f"key::{public}" if key_source == "in full" else "~/signer"
    if key_source == "by the configuration":
        settings["tag.gpgSign"] = "true"
    for name, value in settings.items():
        site.clone.git("config", name, value)
    try:
        cut = release(site, first="1.0.0", sign=key_source != "by the configuration")
    finally:
        if agent:
            os.kill(int(site.environment["SSH_AGENT_PID"]), signal.SIGTERM)
    assert cut.signed
    verification = subprocess.run(
        ["git", "tag", "-v", "v1.0.0"],
        cwd=site.clone.path,
        env=site.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'Good "git" signature for releaser@example.com' in verification.stderr
    assert "" == site.clone.git("fsck", "--strict")


def test_a_tag_signed_with_a_gpg_key_is_what_git_verifies(site: Site) -> None:
    require_program("gpg-agent", "gpg and gpg-agent")
    keys = Path(site.folder / "g")
    keys.mkdir(mode=0o700)
    site.environment["GNUPGHOME"] = str(keys)
    who = "R. Releaser <releaser@example.com>"
    command = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", who, "ed25519", "sign"]
    subprocess.run(command, env=site.environment, check=True, capture_output=True)
    try:
        assert release(site, first="1.0.0", sign=True).signed
        verification = subprocess.run(
            ["git", "verify-tag", "--raw", "v1.0.0"],
            cwd=site.clone.path,
            env=site.environment,
            capture_output=True,
            text=True,
        )
        assert (0, True) == (verification.returncode, "[GNUPG:] GOODSIG" in verification.stderr)
        assert "" == site.remote.git("fsck", "--strict")
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], env=site.environment, check=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpg.format": "ssh", "user.signingkey": "/no/such/key"}, "did not sign the tag with key '/no/such/key'"),
        ({"gpg.format": "ssh"}, "no ssh signing key is configured: run `git config user.signingkey PATH`"),
        ({"gpg.program": "no-such-program"}, "the signing program no-such-program cannot be started"),
        ({"gpg.program": "true"}, "true did not sign the tag with the default key"),
        ({"gpg.format": "wax"}, "invalid gpg.format 'wax'"),
    ],
)
def test_a_tag_that_cannot_be_signed_is_not_made(site: Site, settings: Mapping[str, str], words: str) -> None:
    for name, value in settings.items():
        site.clone.git("config", name, value)
    before = site.refs()
    with pytest.raises(Refused) as refusal:
        release(site, first="1.0.0", sign=True)
    assert words in str(refusal.value)
    assert before == site.refs()
