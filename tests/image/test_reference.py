from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from buildtools import Refused
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.reference import Reference

SHA256 = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:5000/widgets/app:1.2", Reference("localhost:5000", "widgets/app", "1.2")),
        ("registry.example.com/app", Reference("registry.example.com", "app")),
        ("[::1]:5000/app:1", Reference("[::1]:5000", "app", "1")),
        ("Build-Host:80/app:1", Reference("Build-Host:80", "app", "1")),
        (f"host:1/a/b/c:t@{SHA256}", Reference("host:1", "a/b/c", "t", SHA256)),
        (f"host:1/a@{SHA256}", Reference("host:1", "a", "", SHA256)),
        ("debian", Reference("docker.io", "library/debian")),
        ("debian:12", Reference("docker.io", "library/debian", "12")),
        ("grafana/loki:3", Reference("docker.io", "grafana/loki", "3")),
        ("index.docker.io/debian", Reference("docker.io", "library/debian")),
        ("h.io/a__b/c--d/e.f-g_h:_x.Y-z", Reference("h.io", "a__b/c--d/e.f-g_h", "_x.Y-z")),
    ],
)
def test_a_reference_is_parsed_into_its_parts(text: str, expected: Reference) -> None:
    assert expected == Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "''"),
        ("host:5000/", "''"),
        ("host:5000/App:1", "'App'"),
        ("Widgets/app:1", "'Widgets'"),
        ("host:5000/app:", "''"),
        ("host:5000/app:-1", "'-1'"),
        ("host:5000/app:" + "x" * 129, "is not a tag"),
        ("host:5000/a//b", "''"),
        ("host:5000/a___b", "'a___b'"),
        ("host:5000/-a", "'-a'"),
        ("host:5000/app@sha256:12", "'sha256:12' is not a digest"),
        ("host:port/app", "'host:port'"),
        ("-host.io/app", "'-host.io'"),
        ("host..io/app", "'host..io'"),
        ("a b", "'a b'"),
        ("app\n", "'app\\n'"),
        ("https://host/app", "'https:'"),
        ("0a" * 32, "image's id"),
        ("host.io/" + "a" * 250, "at most 255"),
    ],
)
def test_what_is_not_a_reference_is_refused_with_the_part_that_is_wrong(text: str, wrong: str) -> None:
    with pytest.raises(Refused) as caught:
        Reference.parse(text)
    assert wrong in caught.value.fact
    assert repr(text) in caught.value.fact


WORD = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,8}){0,2}", fullmatch=True)


@given(
    st.builds(
        Reference,
        st.from_regex(r"[A-Za-z][a-z0-9]{0,8}(-[a-z]{1,3})?\.[a-z]{2,5}(:[0-9]{1,5})?", fullmatch=True),
        st.lists(WORD, min_size=1, max_size=3).map("/".join),
        st.from_regex(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?", fullmatch=True),
        st.sampled_from(["", SHA256]),
    )
)
def test_what_is_written_parses_back_to_itself(reference: Reference) -> None:
    assert reference == Reference.parse(str(reference))


def test_a_registry_is_asked_for_the_digest_before_the_tag_before_latest() -> None:
    asked = [Reference.parse(text).target for text in (f"h.io/a:1@{SHA256}", "h.io/a:2", "h.io/a")]
    assert [SHA256, "2", "latest"] == asked


# Not IPv6, which engines take from 23 on.
HOSTS = st.sampled_from(["", "localhost/", "localhost:5000/", "h.io/", "H.io/", "-h.io/", "h..io/", "h:p/"])
NAMES = st.text("aZ0._-/", min_size=0, max_size=8)
TAGS = st.one_of(st.just(""), st.text("aZ0._-", max_size=5).map(lambda tag: f":{tag}"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.builds(lambda host, name, tag: f"{host}{name}{tag}", HOSTS, NAMES, TAGS))
def test_what_the_engine_takes_for_a_name_is_a_reference_and_nothing_else(connected: Engine, text: str) -> None:
    # Such a path would be another one before the engine reads it.
    assume(not {"", ".", ".."} & set(text.split("/")))
    assert parses(text) == takes(connected, text)


def takes(engine: Engine, text: str) -> bool:
    try:
        engine.inspect(text)
    except EngineError as error:
        if "invalid reference format" not in str(error):
            raise
        return False
    return True


def parses(text: str) -> bool:
    try:
        Reference.parse(text)
    except Refused:
        return False
    return True
