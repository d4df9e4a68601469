"""Pushing a tag to every kind of remote, with every way to log in; what goes wrong ends in one message."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.events import Event
from buildtools.git.tagging.tag_plan import TagRequest
from buildtools.git.tagging.tags import TagState, cut_tag
from buildtools.sandbox.process import free_ports
from tests.git.remotes import Site, SshServer, http_server, program, require_program

PASSWORD = "pa:ss@wörd"
LOGIN = f"alice:{PASSWORD}"
IN_URL = "alice:pa%3Ass%40w%C3%B6rd"


def push(site: Site, url: str) -> None:
    """Release 1.0.0 to this URL; it must arrive, and the URL's secrets must not come out."""
    site.clone.git("remote", "set-url", "origin", url)
    events: list[Event] = []
    cut = cut_tag(site.clone.path, TagRequest(first="1.0.0"), site.environment, events.append)
    assert TagState.PUSHED is cut.state
    assert cut.object == site.remote.git("rev-parse", "1.0.0") == site.clone.git("rev-parse", "1.0.0")
    assert "" == site.remote.git("fsck", "--strict")
    assert PASSWORD not in repr((cut, events))


def refusal(site: Site, url: str, kind: type[BuildToolsError] = Refused) -> str:
    """The message when a release to this URL fails; nothing may have been tagged."""
    site.clone.git("remote", "set-url", "origin", url)
    before = site.refs()
    with pytest.raises(kind) as error:
        cut_tag(site.clone.path, TagRequest(first="1.0.0"), site.environment, lambda event: None)
    assert before == site.refs()
    assert PASSWORD not in str(error.value)
    assert error.value.remedy
    return str(error.value)


@pytest.fixture
def open_http(site: Site) -> Iterator[str]:
    with http_server(site.folder) as host:
        yield host


@pytest.fixture
def closed_http(site: Site) -> Iterator[str]:
    """One that asks for a login."""
    with http_server(site.folder, LOGIN) as host:
        yield host


@pytest.mark.parametrize("url", ["../remote.git", "file://{folder}/remote.git", "{folder}/remote.git"])
def test_a_folder_is_pushed_to(site: Site, url: str) -> None:
    push(site, url.format(folder=site.folder))


def test_a_folder_is_pushed_to_whatever_repository_the_environment_names(site: Site) -> None:
    site.environment |= {"GIT_DIR": str(site.clone.path / ".git"), "GIT_WORK_TREE": str(site.clone.path)}
    push(site, "../remote.git")


def test_a_folder_cannot_be_pushed_to_without_git(site: Site) -> None:
    site.environment["PATH"] = str(site.home)
    assert "git is not installed" in refusal(site, "../remote.git")


def test_a_folder_with_odd_characters_is_pushed_to(site: Site) -> None:
    for number, name in enumerate(["job@2", "a#b?c", "it's !", "sp ace"]):
        (site.folder / name).symlink_to(site.remote.path)
        site.clone.git("remote", "set-url", "origin", f"file://{site.folder}/{name.replace(' ', '%20')}")
        request = TagRequest(first="1.0.0") if number == 0 else TagRequest(bump="minor")
        cut = cut_tag(site.clone.path, request, site.environment, lambda event: None)
        assert (TagState.PUSHED, site.remote.git("rev-parse", cut.name)) == (cut.state, cut.object)
        site.commit("More")


def test_the_path_of_a_remote_is_shown_with_its_at_sign(site: Site) -> None:
    assert f"cannot push to origin (file://{site.folder}/job@2/x.git)" in refusal(
        site, f"file://{site.folder}/job@2/x.git"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ssh.variant": "plink"},
        {"ssh.variant": "tortoiseplink"},
        {"core.sshCommand": "{ssh} -F none"},
        {"remote.origin.receivepack": "/opt/git/bin/git-receive-pack --x"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "url",
    [
        "ssh://git@Host.Example:2222/~u/c#/it's!.git",
        "[git@Host.Example:2222]:r.git",
        "git@[::1]:a?b",
        "git+ssh://[::1]/r.git",
        "h:~u/r.git",
    ],
)
def test_ssh_is_started_as_git_starts_it(site: Site, url: str, settings: dict[str, str]) -> None:
    script = 'for word in "$@"; do echo "$word"; done >> "$0.log"; exec git receive-pack {remote}'
    ssh = program(site.home / "ssh", script.replace("{remote}", str(site.remote.path)))
    site.environment |= {"GIT_SSH": ssh, "GIT_SSH_VARIANT": settings.get("ssh.variant", "ssh")}
    for name, value in settings.items():
        site.clone.git("config", name, value.replace("{ssh}", ssh))
    # git offers version 2 to a program that it does not know by name, although there is none for pushes.
    site.clone.git("config", "protocol.version", "0")
    log = site.home / "ssh.log"
    site.clone.git("remote", "set-url", "origin", url)
    site.clone.git("push", "--quiet", "--dry-run", "origin", "main:refs/heads/x", variables=site.environment)
    expected = log.read_text()
    log.unlink()
    cut_tag(site.clone.path, TagRequest(first="1.0.0", dry_run=True), site.environment, lambda event: None)
    assert expected == log.read_text()


def test_a_program_that_takes_no_port_is_not_started_with_one(site: Site) -> None:
    site.environment["GIT_SSH_VARIANT"] = "simple"
    assert "ssh.variant simple cannot pass a port" in refusal(site, "ssh://h:22/r.git")


def test_the_configured_program_receives_the_push(site: Site) -> None:
    script = program(site.home / "receive", f'touch {site.home}/called; exec git receive-pack "$@"')
    site.clone.git("config", "remote.origin.receivepack", script)
    push(site, "../remote.git")
    assert (site.home / "called").exists()


def test_push_options_reach_the_hooks_of_the_remote(site: Site, open_http: str) -> None:
    site.remote.git("config", "receive.advertisePushOptions", "true")
    site.hook(
        "pre-receive", f'echo "$GIT_PUSH_OPTION_COUNT $GIT_PUSH_OPTION_0 $GIT_PUSH_OPTION_1" > {site.home}/options'
    )
    for value in ("lost", "", "ci.skip", "topic=ä b"):
        site.clone.git("config", "--add", "push.pushOption", value)
    push(site, "../remote.git")
    assert "2 ci.skip topic=ä b" == (site.home / "options").read_text().strip()
    (site.home / "options").unlink()
    site.commit("More")
    site.clone.git("remote", "set-url", "origin", f"http://{open_http}/remote.git")
    cut_tag(site.clone.path, TagRequest(bump="minor"), site.environment, lambda event: None)
    assert "2 ci.skip topic=ä b" == (site.home / "options").read_text().strip()


@pytest.mark.parametrize("url", ["../remote.git", "http://{host}/remote.git"])
def test_push_options_that_the_remote_does_not_take_stop_the_push(site: Site, open_http: str, url: str) -> None:
    site.clone.git("config", "push.pushOption", "ci.skip")
    assert "the remote takes no push options" in refusal(site, url.format(host=open_http))


@pytest.mark.parametrize(
    ("settings", "variables", "protocol"),
    [
        ({"protocol.allow": "never"}, {}, "file"),
        ({"protocol.file.allow": "user"}, {"GIT_PROTOCOL_FROM_USER": "0"}, "file"),
        ({}, {"GIT_ALLOW_PROTOCOL": "https:ssh"}, "file"),
    ],
)
def test_a_protocol_that_git_may_not_use_is_refused(
    site: Site, settings: dict[str, str], variables: dict[str, str], protocol: str
) -> None:
    for name, value in settings.items():
        site.clone.git("config", name, value)
    site.environment |= variables
    assert f"git is configured not to use {protocol}" in refusal(site, "../remote.git")


def test_signed_pushes_are_refused(site: Site) -> None:
    site.clone.git("config", "push.gpgSign", "true")
    assert "signed pushes (push.gpgSign) are not supported: set it to if-asked" in refusal(site, "../remote.git")


def test_http_is_pushed_to(site: Site, open_http: str) -> None:
    push(site, f"http://{open_http}/remote.git")


def test_a_remote_may_be_pushed_to_by_another_url_than_it_is_fetched_from(site: Site, open_http: str) -> None:
    site.clone.git("config", f"url.http://{open_http}/.pushInsteadOf", "https://git.example.com/")
    push(site, "https://git.example.com/remote.git")


def test_the_push_url_is_taken_where_there_is_one(site: Site, open_http: str) -> None:
    site.clone.git("config", "remote.origin.pushUrl", "short:remote.git")
    site.clone.git("config", f"url.http://{open_http}/.insteadOf", "short:")
    push(site, "https://git.example.com/remote.git")


def by_url(site: Site, host: str) -> str:
    return f"http://{IN_URL}@{host}/remote.git"


def by_netrc(site: Site, host: str) -> str:
    (site.home / ".netrc").write_text(f'machine 127.0.0.1 login alice password "{PASSWORD}"\n')
    return f"http://{host}/remote.git"


def by_store(site: Site, host: str) -> str:
    (site.home / ".git-credentials").write_text(f"http://{IN_URL}@{host}\n")
    site.clone.git("config", "credential.helper", "store")
    return f"http://alice@{host}/remote.git"


def by_second_helper(site: Site, host: str) -> str:
    helper = program(site.home / "helper", f"test $1 = get && cat > /dev/null && echo 'password={PASSWORD}'")
    site.clone.git("config", "credential.helper", "!false")
    site.clone.git("config", "--add", "credential.helper", helper)
    site.clone.git("config", f"credential.http://{host}.username", "alice")
    return f"http://{host}/remote.git"


def by_askpass(site: Site, host: str) -> str:
    answers = (
        f"case \"$1\" in Username*) echo alice;; \"Password for 'http://alice@{host}': \") echo '{PASSWORD}';; esac"
    )
    site.environment["GIT_ASKPASS"] = program(site.home / "askpass", answers)
    return f"http://{host}/remote.git"


def by_header(site: Site, host: str) -> str:
    token = base64.b64encode(LOGIN.encode()).decode()
    site.clone.git("config", f"http.http://{host}/.extraHeader", f"Authorization: Basic {token}")
    return f"http://{host}/remote.git"


@pytest.mark.parametrize("way", [by_url, by_netrc, by_store, by_second_helper, by_askpass, by_header])
def test_a_login_is_taken_from_where_git_takes_it(
    site: Site, closed_http: str, way: Callable[[Site, str], str]
) -> None:
    url = way(site, closed_http)
    # git itself gets in the same way.
    site.clone.git(
        "push", "--quiet", url, "main:refs/heads/by-git", variables={**site.environment, "GIT_TERMINAL_PROMPT": "0"}
    )
    push(site, url)


def test_helpers_learn_whether_the_login_was_good(site: Site, closed_http: str) -> None:
    secret = site.home / "secret"
    secret.write_text("wrong")
    answer = f'echo username=alice; echo "password=$(cat {secret})"'
    script = f"echo $1 >> {site.home}/calls; cat >> {site.home}/heard; test $1 != get || {{ {answer}; }}"
    site.clone.git("config", "credential.helper", program(site.home / "helper", script))
    message = refusal(site, f"http://{closed_http}/remote.git")
    assert "the credentials were not accepted, or none were found" in message
    assert "credential helper" in message
    secret.write_text(PASSWORD)
    push(site, f"http://{closed_http}/remote.git")
    assert ["get", "erase", "get", "store"] == (site.home / "calls").read_text().split()
    fields = f"protocol=http\nhost={closed_http}\nusername=alice\npassword={PASSWORD}\n"
    assert fields in (site.home / "heard").read_text()


@pytest.mark.parametrize("url", ["http://{host}/remote.git", "http://alice:wrong@{host}/remote.git"])
def test_without_a_good_login_it_is_message_how_to_give_one(site: Site, closed_http: str, url: str) -> None:
    message = refusal(site, url.format(host=closed_http))
    assert f"access to http://{closed_http}/remote.git denied: the credentials were not accepted" in message
    assert "alice" not in message


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, Refused, "cannot push to"),
        (404, Refused, "cannot push to"),
        (503, Unreachable, "cannot reach"),
        (429, Unreachable, "cannot reach"),
    ],
)
def test_an_http_status_ends_the_run_with_the_right_code(
    site: Site, status: int, kind: type[BuildToolsError], words: str
) -> None:
    with http_server(site.folder, status=status) as host:
        assert words in refusal(site, f"http://{IN_URL}@{host}/remote.git", kind)


def test_a_push_over_http_whose_answer_is_lost_is_finished_by_the_next_run(site: Site) -> None:
    with http_server(site.folder, silent=True) as host:
        site.clone.git("remote", "set-url", "origin", f"http://{host}/remote.git")
        with pytest.raises(Unreachable, match="it is unknown whether the tag has arrived: run the same command again"):
            cut_tag(site.clone.path, TagRequest(first="1.0.0"), site.environment, lambda event: None)
        assert ("", "1.0.0") == (site.clone.git("tag"), site.remote.git("tag"))
        cut = cut_tag(site.clone.path, TagRequest(first="1.0.0"), site.environment, lambda event: None)
    assert (TagState.FINISHED, site.remote.git("rev-parse", "1.0.0")) == (cut.state, cut.object)


def test_a_hook_behind_http_rejects_with_its_own_words(site: Site, open_http: str) -> None:
    site.hook("update", 'echo "tags are closed" >&2; exit 1')
    assert "origin rejected the tag (hook declined)" in refusal(site, f"http://{open_http}/remote.git")


def test_a_setting_that_is_not_supported_is_named(site: Site, open_http: str) -> None:
    site.clone.git("config", "http.proxy", "http://alice:secret@127.0.0.1:1")
    site.clone.git("config", "http.proxyAuthMethod", "ntlm")
    assert "http.proxyAuthMethod ntlm is not supported" in refusal(site, f"http://{open_http}/remote.git")


def test_a_server_without_the_repository_is_refused(site: Site) -> None:
    (site.folder / "plain.git").mkdir()
    with http_server(site.folder) as host:
        assert "cannot push to" in refusal(site, f"http://{host}/plain.git")


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/x.git", "ssh://127.0.0.1:{port}/x.git"])
def test_a_remote_that_does_not_answer_is_worth_a_retry(site: Site, url: str) -> None:
    (port,) = free_ports(1)
    message = refusal(site, url.format(port=port), Unreachable)
    assert f"cannot reach origin ({url.format(port=port)}): run the same command again" in message


def test_https_is_pushed_to_once_its_authority_is_known(site: Site, tmp_path: Path) -> None:
    openssl = require_program("openssl", "openssl")
    certificate = tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(tmp_path / "key.pem")]
    subprocess.run([openssl, "req", "-x509", *key, *subject, "-out", str(certificate)], check=True, capture_output=True)
    certificate.write_text(certificate.read_text() + (tmp_path / "key.pem").read_text())
    with http_server(site.folder, LOGIN, certificate=certificate) as host:
        url = f"https://{IN_URL}@{host}/remote.git"
        assert "certificate verify failed" in refusal(site, url)
        site.clone.git("config", "http.sslCAInfo", str(certificate))
        push(site, url)


def test_ssh_is_pushed_to(site: Site, ssh: SshServer) -> None:
    site.environment["GIT_SSH_COMMAND"] = ssh.command
    push(site, f"{ssh.url}{site.remote.path}")


def test_a_short_ssh_address_is_pushed_to_by_the_configured_command(site: Site, ssh: SshServer) -> None:
    site.clone.git("config", "core.sshCommand", f"{ssh.command} -p {ssh.port}")
    weird = site.folder / "it's a remote.git"
    weird.symlink_to(site.remote.path)
    push(site, f"127.0.0.1:{weird}")


@pytest.mark.parametrize(
    ("command", "path", "words"),
    [
        ({"key": "stranger"}, "", "Permission denied"),
        ({"key": "key", "known_hosts": "no_hosts"}, "", "Host key verification failed"),
        ({"key": "key"}, "/nothing", "does not appear to be a git repository"),
    ],
)
def test_what_ssh_says_comes_before_the_refusal(
    site: Site, ssh: SshServer, command: dict[str, str], path: str, words: str
) -> None:
    site.environment["GIT_SSH_COMMAND"] = ssh.command_with(**command)
    message = refusal(site, f"{ssh.url}{path or site.remote.path}")
    assert words in message
    assert "cannot push to origin" in message.splitlines()[-1]


@pytest.mark.parametrize(
    "url",
    [
        "git://127.0.0.1/x.git",
        "ext::sh -c true",
        "ssh://-oProxyCommand=false/x",
        "HTTP://127.0.0.1/x.git",
        "ssh://127.0.0.1",
        "http://[::1/x",
    ],
)
def test_an_address_that_cannot_be_pushed_to_is_refused(site: Site, url: str) -> None:
    message = refusal(site, url)
    assert message.startswith(f"cannot push to {url}: ")
    assert message.endswith(": set origin to a path, or to an ssh, http or https URL")


@pytest.mark.parametrize("password", ["p@ss", "p/a@ss"])
def test_a_password_that_should_have_been_escaped_is_not_shown(site: Site, password: str) -> None:
    (port,) = free_ports(1)
    assert "ss@" not in refusal(site, f"http://alice:{password}@127.0.0.1:{port}/x.git", BuildToolsError)


def test_what_the_remote_cannot_unpack_is_not_tagged(site: Site) -> None:
    site.remote.git("config", "receive.maxInputSize", "1")
    assert "origin rejected the tag (unpack " in refusal(site, "../remote.git")
