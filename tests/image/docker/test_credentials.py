from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from buildtools import BuildToolsError, Refused
from buildtools.image.docker.credentials import Credential, Credentials

HUB = "https://index.docker.io/v1/"


def login(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


class Docker:
    """A Docker configuration folder, with a place for helpers beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()

    def helper(self, name: str, script: str) -> None:
        program = self.bin / f"docker-credential-{name}"
        program.write_text(f'#!/bin/sh\nread -r key\necho "$1 $key" >> "{self.folder}/asked"\n{script}\n')
        program.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def credentials(self, config: object = None, variables: Mapping[str, str] = MappingProxyType({})) -> Credentials:
        if config is not None:
            (self.folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return Credentials(self.folder, {"PATH": f"{self.bin}:/usr/bin:/bin", **variables})


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path)


def test_without_a_configuration_access_is_anonymous(docker: Docker) -> None:
    assert docker.credentials().for_host("h:1") is None
    assert docker.credentials({"auths": {"h:1": {}}}).for_host("h:1") is None


@pytest.mark.parametrize("key", ["h:1", "https://h:1", "http://h:1/", "https://h:1/v2/", "h:1/v1/"])
def test_the_registry_may_be_written_in_every_form_of_its_url(docker: Docker, key: str) -> None:
    credentials = docker.credentials({"auths": {"other": login("x", "y"), key: login("me", "a:b")}})
    assert Credential("me", "a:b") == credentials.for_host("h:1")
    assert credentials.for_host("h:2") is None


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_is_found_under_the_key_that_docker_login_writes(docker: Docker, host: str) -> None:
    assert Credential("me", "pw") == docker.credentials({"auths": {HUB: login("me", "pw")}}).for_host(host)


def test_plain_names_and_both_kinds_of_token_are_read(docker: Docker) -> None:
    credentials = docker.credentials(
        {
            "auths": {
                "plain": {"username": "me", "password": "pw"},
                "identity": {**login("me", ""), "identitytoken": "it"},
                "registry": {"registrytoken": "rt"},
            }
        }
    )
    assert Credential("me", "pw") == credentials.for_host("plain")
    assert Credential("me", "", "it") == credentials.for_host("identity")
    assert Credential(registry_token="rt") == credentials.for_host("registry")


def test_a_helper_of_the_host_wins_over_the_store_and_is_asked_once(docker: Docker) -> None:
    docker.helper("one", """echo '{"ServerURL":"x","Username":"u1","Secret":"s1"}'""")
    docker.helper("all", """echo '{"ServerURL":"x","Username":"<token>","Secret":"s2"}'""")
    credentials = docker.credentials({"credsStore": "all", "credHelpers": {"h:1": "one"}})
    assert Credential("u1", "s1") == credentials.for_host("h:1")
    assert Credential("u1", "s1") == credentials.for_host("h:1")
    assert Credential(identity_token="s2") == credentials.for_host("h:2")
    assert Credential(identity_token="s2") == credentials.for_host("docker.io")
    assert ["get h:1", "get h:2", f"get {HUB}"] == docker.asked


def test_a_helper_that_has_nothing_is_not_an_error(docker: Docker) -> None:
    docker.helper("empty", "echo credentials not found in native keychain; exit 1")
    credentials = docker.credentials({"credsStore": "empty", "auths": {"h:1": login("me", "pw"), "h:2": {}}})
    assert Credential("me", "pw") == credentials.for_host("h:1")
    assert credentials.for_host("h:2") is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo the vault is sealed; exit 1", "the vault is sealed"),
        ("echo no pass store >&2; exit 2", "no pass store"),
        ("exit 7", "exit status 7"),
        ("echo oops", "not JSON"),
    ],
)
def test_a_helper_that_fails_is_named_with_its_key_and_what_it_said(docker: Docker, script: str, said: str) -> None:
    docker.helper("bad", script)
    with pytest.raises(BuildToolsError) as caught:
        docker.credentials({"credsStore": "bad"}).for_host("h:1")
    assert 1 == caught.value.exit_code
    assert "docker-credential-bad failed for h:1" in caught.value.fact
    assert said in caught.value.fact


def test_a_secret_in_a_broken_answer_is_not_repeated(docker: Docker) -> None:
    docker.helper("bad", """echo '{"Username":"u","Secret":"hunter2"'""")
    with pytest.raises(BuildToolsError) as caught:
        docker.credentials({"credsStore": "bad"}).for_host("h:1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("config", [{"credHelpers": {"h:1": "gone"}}, {"credsStore": "gone", "auths": {"h:1": {}}}])
def test_a_helper_that_is_not_on_the_path_is_said(docker: Docker, config: object) -> None:
    with pytest.raises(Refused, match=r"docker-credential-gone for h:1, which is not on the PATH: install"):
        docker.credentials(config).for_host("h:1")


def test_without_a_login_a_store_that_is_not_on_the_path_is_not_needed(docker: Docker) -> None:
    assert docker.credentials({"credsStore": "gone", "auths": {"h:2": {}}}).for_host("h:1") is None


def test_a_login_in_the_environment_wins_and_another_host_s_is_in_the_file(docker: Docker) -> None:
    config = {"auths": {"h:1": login("file", "pw"), "h:2": login("file", "pw")}}
    variables = {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {"h:1": login("me", "pw")}})}
    credentials = docker.credentials(config, variables)
    assert (Credential("me", "pw"), Credential("file", "pw")) == (
        credentials.for_host("h:1"),
        credentials.for_host("h:2"),
    )


def test_a_login_in_the_environment_that_is_none_is_refused_and_not_shown(docker: Docker) -> None:
    with pytest.raises(Refused, match="DOCKER_AUTH_CONFIG is not a JSON object") as refusal:
        docker.credentials({}, {"DOCKER_AUTH_CONFIG": "hunter2"}).for_host("h:1")
    assert "hunter2" not in str(refusal.value)


def test_a_login_in_the_file_does_without_a_helper_that_is_not_there(docker: Docker) -> None:
    config = {"credsStore": "gone", "auths": {"h:1": {"username": "me", "password": "pw"}}}
    assert Credential("me", "pw") == docker.credentials(config).for_host("h:1")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json cannot be read"),
        ("[]", "config.json is not a JSON object"),
        ({"auths": {"h:1": {"auth": "%%"}}}, "entry for h:1 that is not base64"),
        ({"auths": {"h:1": {"auth": "YWJj"}}}, "entry for h:1 that is not base64"),
    ],
)
def test_a_broken_configuration_is_refused(docker: Docker, config: object, message: str) -> None:
    with pytest.raises(Refused, match=message):
        docker.credentials(config).for_host("h:1")


def test_no_repr_shows_a_secret() -> None:
    credential = Credential("me", "hunter2", "hunter2", "hunter2")
    assert "Credential(username='me')" == repr(credential)
