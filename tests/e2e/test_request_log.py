from __future__ import annotations

import base64
import re
import stat
from pathlib import Path

import pytest

from tests.e2e.project import Project


@pytest.fixture
def small(project: Project) -> Project:
    project.image("app", "FROM {base}\nCOPY mark /\n", mark=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    return project


@pytest.mark.images_in_engine
def test_invokes_own_debug_flag_shows_requests_to_engine_registry_and_buildkit(small: Project) -> None:
    outcome = small.done("-d", "push")
    registry = f"http://{small.place.registry}/v2/{small.repository('app')}/manifests/1.0.0"
    wanted = [
        f"registry PUT {registry} 201, ",
        "engine GET /_ping 200, ",
        "buildkit CALL /moby.buildkit.v1.Control/Solve",
    ]
    assert [] == [words for words in wanted if words not in outcome.err], outcome.err
    # A new image is looked at when its build has ended, if at all, and never again.
    assert 2 > len(re.findall(r"engine GET /v[0-9.]+/images/sha256:[0-9a-f]{64}/json 200, ", outcome.err))


def test_a_log_goes_to_a_file_that_is_private_and_holds_no_secret(small: Project, tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    secret = f"planted-{small.mark}"
    small.configure(image={small.name("app"): {"secrets": {"token": "env:PLANTED"}, "args": {"TOKEN": secret}}})
    small.image("app", "FROM {base}\nRUN --mount=type=secret,id=token cat /run/secrets/token >/dev/null\n")
    small.commit("with a secret")
    small.git("tag", "--delete", "1.0.0")
    small.tag("1.0.0")
    outcome = small.done("publish", BUILDTOOLS_LOG=str(log), PLANTED=secret)
    text = log.read_text()
    assert "manifests/1.0.0 201, " in text
    assert 0o600 == stat.S_IMODE(log.stat().st_mode)
    places = small.place
    secrets = [secret, *places.secrets, base64.b64encode(places.login.encode()).decode(), "Authorization", "Signature="]
    assert [] == [one for one in secrets if one and one in text + outcome.err]


def test_a_log_on_standard_error_and_a_live_table_are_not_mixed(small: Project) -> None:
    outcome = small.done("push", BUILDTOOLS_LOG="debug")
    assert " registry HEAD " in outcome.err or " registry GET " in outcome.err
    assert "\x1b[" not in outcome.err
