from __future__ import annotations

import pytest

from buildtools.build_cache import BuildCache, place_error, read_caches
from buildtools.platform import Platform

ARM = Platform.parse("linux/arm64")


def read(*texts: str, written: bool = True) -> list[tuple[str, dict[str, str]]]:
    return [(cache.kind, dict(cache.attributes)) for cache in read_caches(texts, written=written)]


def test_texts_are_those_of_the_docker_program() -> None:
    expected = [
        ("registry", {"ref": "example.com/a:b", "mode": "max"}),
        ("local", {"dest": "cache"}),
        ("inline", {}),
    ]
    assert expected == read("type=registry,ref=example.com/a:b,mode=max", "type=local, dest=cache", "type=inline")


def test_a_reference_alone_is_a_cache_in_a_registry() -> None:
    assert [("registry", {"ref": "example.com/a:b"}), ("registry", {"ref": "a"})] == read(
        "example.com/a:b", "a", written=False
    )


def test_a_list_that_was_cut_at_every_comma_means_the_same() -> None:
    text = "type=registry,ref=example.com/a:b,mode=max,type=inline"
    assert read(text) == read(*text.split(",")) == read("type=registry,ref=example.com/a:b,mode=max", "type=inline")


@pytest.mark.parametrize(
    ("text", "written", "reason"),
    [
        ("ref=a", True, "'ref=a' comes before its type"),
        ("type=gha", True, "type=gha is not one of inline, local, registry"),
        ("type=inline", False, "type=inline is read with type=registry"),
        ("type=inline,mode=max", True, r"type=inline has no key 'mode' \(it has none\)"),
        ("type=registry,red=a", False, r"type=registry has no key 'red' \(there is ref, registry.insecure\)"),
        ("type=registry,mode=all", True, "mode=all is neither min nor max"),
        ("type=local", True, "type=local needs dest=FOLDER"),
        ("type=local,dest=a", False, "type=local has no key 'dest'"),
    ],
)
def test_what_is_no_cache_is_said(text: str, written: bool, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_caches([text], written=written)


def test_each_image_has_a_cache_of_its_own() -> None:
    own, named, inline = read_caches(
        ["type=registry,mode=max", "type=registry,ref=example.com/{name}:{platform}", "type=inline"], written=True
    )
    assert "h/a:buildcache-linux-arm64" == own.of_image("a", ARM, "h/a").place
    assert "example.com/a:linux-arm64" == named.of_image("a", ARM, "h/a").place
    assert BuildCache("inline") == inline.of_image("a", ARM, "h/a")
    assert {"mode": "max", "ref": "h/a:buildcache-linux-arm64"} == own.of_image("a", ARM, "h/a").attributes


def test_two_builds_never_write_to_one_place() -> None:
    fixed, own = read_caches(["type=local,dest=cache/{name}", "type=registry"], written=True)
    assert "" == place_error(own, several_images=True, several_platforms=True)
    assert "" == place_error(fixed, several_images=True, several_platforms=False)
    assert "put {platform} into it" in place_error(fixed, several_images=True, several_platforms=True)
