"""Requests over http: the same proxies, headers, cookies, logins and redirects as those of C git."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from buildtools import BuildToolsError, Refused
from buildtools.git.tagging.tag_plan import TagRequest
from buildtools.git.tagging.tags import TagState, cut_tag
from tests.git.remotes import Site, http_server

COMPARED = ("authorization", "cookie", "proxy-authorization", "x-extra", "x-two")
Requests = list[tuple[str, str, dict[str, str]]]


class Network:
    """A git server and a proxy, with what each was asked, and a clone that pushes to the server."""

    def __init__(self, site: Site, server: str, proxy: str, asked_server: Requests, asked_proxy: Requests) -> None:
        self.site, self.server, self.proxy = site, server, proxy
        self._logs = {"server": asked_server, "proxy": asked_proxy}

    def fill(self, text: str) -> str:
        """The text with the addresses in it."""
        return text.format(server=self.server, proxy=self.proxy, home=self.site.home)

    def configure(self, settings: list[tuple[str, str]], variables: dict[str, str]) -> None:
        """Set what git reads: values of its configuration in order, and environment variables."""
        for name, value in settings:
            self.site.clone.git("config", "--add", self.fill(name), self.fill(value))
        self.site.environment |= {name: self.fill(value) for name, value in variables.items()}

    def last_request(self) -> tuple[str, str, str, dict[str, str]] | None:
        """Who got the last request for refs, and what was in it; the log is emptied."""
        seen = [
            (who, *request) for who, log in self._logs.items() for request in log if request[0] in ("GET", "CONNECT")
        ]
        for log in self._logs.values():
            log.clear()
        if not seen:
            return None
        who, method, path, headers = seen[-1]
        # Host names have no case: curl sends them as they are written, urllib3 in lower case.
        return who, method, path.lower(), {name: headers[name] for name in COMPARED if name in headers}

    def asked_by_git(self) -> tuple[str, str, str, dict[str, str]] | None:
        """The last request of `git push --dry-run`."""
        variables = {**self.site.environment, "GIT_TERMINAL_PROMPT": "0"}
        command = ["git", "push", "--quiet", "--dry-run", "origin", "main:refs/heads/x"]
        subprocess.run(command, cwd=self.site.clone.path, env=variables, capture_output=True, check=False)
        return self.last_request()

    def asked_by_us(self) -> tuple[str, str, str, dict[str, str]] | None:
        """The last request of a dry run."""
        with suppress(BuildToolsError):
            request = TagRequest(first="1.0.0", dry_run=True)
            cut_tag(self.site.clone.path, request, self.site.environment, lambda event: None)
        return self.last_request()


@pytest.fixture
def network(site: Site) -> Iterator[Network]:
    logs: tuple[Requests, Requests] = ([], [])
    with http_server(site.folder, requests=logs[0]) as server, http_server(site.folder, requests=logs[1]) as proxy:
        site.clone.git("remote", "set-url", "origin", f"http://{server}/remote.git")
        yield Network(site, server, proxy, *logs)


PROXY = ("http.proxy", "http://{proxy}")


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ([], {"http_proxy": "http://{proxy}"}),
        ([], {"http_proxy": "{proxy}"}),
        ([], {"HTTP_PROXY": "{proxy}"}),
        ([], {"https_proxy": "{proxy}"}),
        ([], {"all_proxy": "{proxy}"}),
        ([], {"ALL_PROXY": "{proxy}"}),
        ([], {"ALL_PROXY": "{proxy}", "all_proxy": ""}),
        ([], {"ALL_PROXY": "{proxy}", "http_proxy": ""}),
        ([], {"http_proxy": "{proxy}", "no_proxy": "127.0.0.1"}),
        ([], {"http_proxy": "{proxy}", "NO_PROXY": "example.com, 127.0.0.1"}),
        ([], {"http_proxy": "{proxy}", "NO_PROXY": "127.0.0.1", "no_proxy": "example.com"}),
        ([], {"http_proxy": "{proxy}", "no_proxy": "10.0.0.0/8 127.0.0.0/8"}),
        ([], {"http_proxy": "{proxy}", "no_proxy": "127.0.0.2/32"}),
        ([], {"http_proxy": "{proxy}", "no_proxy": "*"}),
        ([], {"http_proxy": "{proxy}", "no_proxy": "0.0.1"}),
        ([PROXY], {}),
        ([PROXY], {"http_proxy": "127.0.0.1:1"}),
        ([PROXY], {"no_proxy": "127.0.0.1"}),
        ([("http.proxy", "")], {"http_proxy": "{proxy}"}),
        ([("http.http://{server}.proxy", "{proxy}")], {}),
        ([("http.http://{server}.proxy", ""), PROXY], {}),
        ([("http.http://*.0.0.1:1.proxy", ""), PROXY], {}),
        ([("remote.origin.proxy", "{proxy}")], {}),
        ([("remote.origin.proxy", ""), PROXY], {"http_proxy": "{proxy}"}),
        ([("remote.other.proxy", "{proxy}")], {}),
    ],
    ids=str,
)
def test_the_proxy_is_the_one_that_git_takes(
    network: Network, settings: list[tuple[str, str]], variables: dict[str, str]
) -> None:
    network.configure(settings, variables)
    expected = network.asked_by_git()
    assert expected
    assert expected == network.asked_by_us()


@pytest.mark.parametrize(
    "no_proxy", [".invalid", "invalid", "GIT.invalid.", "t.invalid", "git.invalid:80", "git", "a,, b"]
)
@pytest.mark.parametrize("host", ["git.invalid", "Git.Invalid.", "[::1]:1"])
def test_names_are_exempt_from_the_proxy_as_curl_has_it(network: Network, host: str, no_proxy: str) -> None:
    network.site.clone.git("remote", "set-url", "origin", f"http://{host}/remote.git")
    network.configure([], {"http_proxy": "{proxy}", "no_proxy": no_proxy})
    assert network.asked_by_git() == network.asked_by_us()


@pytest.mark.parametrize(
    "settings",
    [
        [("http.extraHeader", "X-Extra: one"), ("http.http://{server}/.extraHeader", "X-Two: two")],
        [("http.http://{server}/.extraHeader", "X-Two: two"), ("http.extraHeader", "X-Extra: one")],
        [("http.extraHeader", "X-Extra: one"), ("http.extraHeader", ""), ("http.extraHeader", "X-Two: two")],
        [("http.http://*.0.0.1:1/.extraHeader", "X-Two: two")],
        [("http.extraHeader", "Authorization: bearer s3cr3t")],
        [("http.cookieFile", "{home}/cookies")],
        [("http.http://{server}/other.cookieFile", "{home}/cookies")],
    ],
    ids=str,
)
def test_headers_and_cookies_are_those_that_git_sends(network: Network, settings: list[tuple[str, str]]) -> None:
    cookies = [
        ("127.0.0.1", "FALSE", "/", "FALSE", "0", "sid", "1"),
        ("#HttpOnly_127.0.0.1", "FALSE", "/", "FALSE", "0", "key", "2"),
        ("127.0.0.1", "FALSE", "/", "FALSE", "1", "expired", "3"),
        ("127.0.0.1", "FALSE", "/", "TRUE", "0", "secure", "4"),
        ("127.0.0.1", "FALSE", "/other", "FALSE", "0", "other", "5"),
        ("example.com", "TRUE", "/", "FALSE", "0", "foreign", "6"),
    ]
    lines = ["# Netscape HTTP Cookie File", *map("\t".join, cookies), "Set-Cookie: seventh=7; path=/"]
    (network.site.home / "cookies").write_text("\n".join(lines))
    network.configure(settings, {})
    expected, ours = network.asked_by_git(), network.asked_by_us()
    assert expected
    assert ours
    # curl sorts cookies; their order means nothing.
    both = [sorted(request[3].pop("cookie", "").split("; ")) for request in (expected, ours)]
    assert (expected, both[0]) == (ours, both[1])


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ([], {"http_proxy": "http://us%40er:p%3Aw%C3%B6@{proxy}"}),
        ([], {"http_proxy": "us%40er:p%3Aw@{proxy}"}),
        (
            [
                ("http.proxy", "http://us%40er@{proxy}"),
                ("credential.http://{proxy}.helper", "!echo password=from-helper;:"),
            ],
            {},
        ),
    ],
    ids=str,
)
def test_the_login_of_a_proxy_is_decoded_or_asked_for(
    site: Site, settings: list[tuple[str, str]], variables: dict[str, str]
) -> None:
    asked: Requests = []
    with http_server(site.folder, wants_proxy_login=True, requests=asked) as proxy:
        network = Network(site, "git.invalid", proxy, [], asked)
        site.clone.git("remote", "set-url", "origin", "http://git.invalid/remote.git")
        network.configure(settings, variables)
        expected = network.asked_by_git()
        assert expected
        assert "proxy-authorization" in expected[3]
        assert expected == network.asked_by_us()


def test_a_proxy_that_wants_a_login_is_told(site: Site) -> None:
    with http_server(site.folder, wants_proxy_login=True) as proxy:
        site.clone.git("remote", "set-url", "origin", "http://git.invalid/remote.git")
        site.environment["http_proxy"] = proxy
        with pytest.raises(Refused, match="the proxy requires a login"):
            cut_tag(site.clone.path, TagRequest(first="1.0.0"), site.environment, lambda event: None)


def test_https_goes_through_the_proxy_of_its_own(network: Network) -> None:
    network.site.clone.git("remote", "set-url", "origin", "https://git.invalid/remote.git")
    network.configure([], {"http_proxy": "127.0.0.1:1", "HTTPS_PROXY": "127.0.0.1:1", "https_proxy": "{proxy}"})
    assert ("proxy", "CONNECT", "git.invalid:443", {}) == network.asked_by_git() == network.asked_by_us()


@pytest.mark.parametrize(
    ("settings", "variables", "expected"),
    [
        ([("http.userAgent", "one")], {}, "one"),
        ([("http.userAgent", "one"), ("http.http://{server}.userAgent", "two")], {}, "two"),
        ([("http.userAgent", "one")], {"GIT_HTTP_USER_AGENT": "three"}, "three"),
    ],
)
def test_the_user_agent_is_the_configured_one(
    site: Site, settings: list[tuple[str, str]], variables: dict[str, str], expected: str
) -> None:
    asked: Requests = []
    with http_server(site.folder, requests=asked) as server:
        site.clone.git("remote", "set-url", "origin", f"http://{server}/remote.git")
        Network(site, server, "", asked, []).configure(settings, variables)
        cut_tag(site.clone.path, TagRequest(first="1.0.0"), site.environment, lambda event: None)
    assert [expected, expected] == [headers["user-agent"] for _, _, headers in asked]


@pytest.mark.parametrize("path", ["/old/remote.git", "/old/remote.git/"])
def test_a_push_goes_where_the_refs_were_redirected_to(network: Network, path: str) -> None:
    network.site.clone.git("remote", "set-url", "origin", f"http://{network.server}{path}")
    cut = cut_tag(network.site.clone.path, TagRequest(first="1.0.0"), network.site.environment, lambda event: None)
    assert (TagState.PUSHED, cut.object) == (cut.state, network.site.remote.git("rev-parse", "1.0.0"))


@pytest.mark.parametrize("value", ["initial", "true", "false"])
def test_redirects_are_followed_as_configured(network: Network, value: str) -> None:
    network.site.clone.git("remote", "set-url", "origin", f"http://{network.server}/old/remote.git")
    network.configure([("http.followRedirects", value)], {})
    assert network.asked_by_git() == network.asked_by_us()


def test_a_redirect_that_leads_to_no_repository_is_refused(network: Network) -> None:
    network.site.clone.git("remote", "set-url", "origin", f"http://{network.server}/lost/remote.git")
    with pytest.raises(Refused, match=f"redirected to http://{network.server}/login, which is not a git repository"):
        cut_tag(network.site.clone.path, TagRequest(first="1.0.0"), network.site.environment, lambda event: None)


def test_a_login_is_not_sent_to_the_server_that_a_redirect_leads_to(network: Network) -> None:
    network.site.clone.git("remote", "set-url", "origin", f"http://alice:secret@{network.server}/old/remote.git")
    network.configure([("http.extraHeader", "X-Elsewhere: http://{proxy}")], {})
    cut = cut_tag(network.site.clone.path, TagRequest(first="1.0.0"), network.site.environment, lambda event: None)
    assert TagState.PUSHED is cut.state
    request = network.last_request()
    assert request
    assert ("proxy", None) == (request[0], request[3].get("authorization"))


def test_a_query_in_the_address_stays_in_front_of_what_is_asked(network: Network) -> None:
    network.site.clone.git("remote", "set-url", "origin", f"http://{network.server}/remote.git?a=b")
    expected = network.asked_by_git()
    assert expected
    assert expected == network.asked_by_us()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([("http.proxy", "socks5://127.0.0.1:1")], "the proxy scheme socks5 is not supported"),
        ([("http.proxy", "http://h:port")], "invalid proxy URL"),
        ([("http.proxy", "http://[::1")], "invalid proxy URL"),
        ([("http.proxy", "https:// /")], "invalid proxy URL"),
        ([("http.pinnedPubkey", "sha256//x")], "http.pinnedPubkey is not supported"),
        ([("http.cookieFile", "/no/such/file")], "cannot read http.cookieFile /no/such/file"),
        ([("http.followRedirects", "maybe")], "http.followredirects"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_refused(
    network: Network, settings: list[tuple[str, str]], words: str
) -> None:
    network.configure(settings, {})
    with pytest.raises(Refused) as refusal:
        cut_tag(network.site.clone.path, TagRequest(first="1.0.0"), network.site.environment, lambda event: None)
    assert words in str(refusal.value)


@pytest.mark.parametrize("key", ["http.sslCAInfo", "http.sslCAPath", "http.sslCert", "http.sslKey"])
def test_a_certificate_that_is_not_there_is_refused_by_its_key(site: Site, key: str) -> None:
    site.clone.git("remote", "set-url", "origin", "https://127.0.0.1:1/remote.git")
    site.clone.git("config", key, "/no/such/file")
    with pytest.raises(Refused, match=f"(?i)cannot read /no/such/file, which {key} or GIT_SSL"):
        cut_tag(site.clone.path, TagRequest(first="1.0.0"), site.environment, lambda event: None)


@pytest.mark.parametrize(
    "pattern", ["http://{server}", "http://", "127.0.0.1", "http://{server}/remote.git", "http://*.0.0.1:1"]
)
def test_credential_settings_apply_to_the_urls_that_git_applies_them_to(site: Site, pattern: str) -> None:
    asked: Requests = []
    with http_server(site.folder, "alice:good", requests=asked) as server:
        network = Network(site, server, "", asked, [])
        site.clone.git("remote", "set-url", "origin", f"http://{server}/remote.git")
        helper = "!echo username=alice; echo password=good; :"
        network.configure([(f"credential.{pattern}.helper", helper)], {})
        assert network.asked_by_git() == network.asked_by_us()
