"""Platforms are spelled in one way, as containerd spells them."""

from __future__ import annotations

import pytest

from buildtools.platform import Platform


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/x86-64", "linux/amd64"),
        ("Linux/AMD64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("arm64/v8", "linux/arm64"),
        ("aarch64/v9", "linux/arm64/v9"),
        ("arm/v6", "linux/arm/v6"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_every_spelling_of_a_platform_means_the_same(text: str, normal: str) -> None:
    assert normal == str(Platform.parse(text))
    assert Platform.parse(normal) == Platform.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "linux",
        "linux/",
        "lunix/amd64",
        "linux/amd46",
        "linux/amd64,linux/arm64",
        "linux/arm/v7/x",
        "a/b/c/d",
        "arm64/amd64",
    ],
)
def test_what_is_not_one_platform_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown|more than three parts"):
        Platform.parse(text)
