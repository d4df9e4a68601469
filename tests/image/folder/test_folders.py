"""Which image folders a project has, and in which order they are built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from buildtools import Refused
from buildtools.image.folder.folders import ImageFolder, image_folders
from buildtools.platform import Platform
from buildtools.settings import Layer, Settings
from buildtools.settings_reader import merge_layers
from buildtools.version import Version

VERSION = Version.parse("1.2.3")


def project(root: Path, dockerfiles: Mapping[str, str], **values: Any) -> Settings:
    for name, text in dockerfiles.items():
        folder = root / "src" / "docker" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "Dockerfile").write_text(text)
    return merge_layers(root, [Layer("pyproject.toml", values)])


def folders(settings: Settings, version: Version | None = VERSION, *only: str) -> dict[str, ImageFolder]:
    return {folder.name: folder for folder in image_folders(settings, version, only)}


REMOTE = {"registry": "registry.example.com:5000", "namespace": "widgets"}


def test_folders_come_parents_first_and_otherwise_by_name(tmp_path: Path) -> None:
    leaf = "FROM scratch\n"
    dockerfiles = {"a": "FROM z\n", "b": leaf, "c": leaf, "m": f"{leaf}COPY --from=a / /\n", "z": "FROM b\n"}
    settings = project(tmp_path, dockerfiles)
    assert ["b", "c", "z", "a", "m"] == list(folders(settings))
    assert [("z",), ("b",), ("a",)] == [folders(settings)[name].parents for name in "azm"]


@pytest.mark.parametrize(
    ("text", "parents", "bases"),
    [
        ("FROM base\n", ("base",), ()),
        ("FROM base AS base\nFROM base\n", ("base",), ()),
        ("ARG VERSION\nFROM base:${VERSION}\n", ("base",), ()),
        ("FROM base:1.2.3\n", (), ("base:1.2.3",)),
        ("FROM image:1.2.3\n", (), ("image:1.2.3",)),
        ("FROM base:latest\n", (), ("base:latest",)),
        ("FROM base:1.2\n", (), ("base:1.2",)),
        (f"FROM base@sha256:{'a' * 64}\n", (), (f"base@sha256:{'a' * 64}",)),
        ("ARG REGISTRY\nARG VERSION\nFROM ${REGISTRY}/base:${VERSION}\n", ("base",), ()),
        ("FROM registry.example.com:5000/widgets/base:1.2.3\n", ("base",), ()),
        ("FROM registry.example.com:5000/widgets/base\n", (), ("registry.example.com:5000/widgets/base",)),
        ("ARG REGISTRY\nFROM $REGISTRY/mirror/base\n", (), ("registry.example.com:5000/widgets/mirror/base",)),
        ("FROM mirror/base\n", (), ("mirror/base",)),
        ("FROM registry.example.com:5000/base:1.2.3\n", (), ("registry.example.com:5000/base:1.2.3",)),
        ("FROM registry.example.com:5000/widgets/base:1.0\n", (), ("registry.example.com:5000/widgets/base:1.0",)),
        ("FROM registry.example.com/base:1.2.3\n", (), ("registry.example.com/base:1.2.3",)),
        ("ARG FLAVOUR=base\nFROM ${FLAVOUR}\n", ("base",), ()),
        ("FROM debian:12\nCOPY --from=base /a /b\n", ("base",), ("debian:12",)),
        ("FROM debian\nRUN --mount=from=base,target=/b x\nCOPY --from=tools / /\n", ("base", "tools"), ("debian",)),
        ("FROM base AS unused\nFROM debian:12\n", (), ("debian:12",)),
        ("FROM debian:12 AS base\nFROM base\nCOPY --from=base / /\n", (), ("debian:12",)),
        ("FROM image\n", (), ("image",)),
    ],
)  # fmt: skip
def test_what_counts_as_a_sibling(tmp_path: Path, text: str, parents: tuple[str, ...], bases: tuple[str, ...]) -> None:
    plain = {"base": "FROM scratch\n", "tools": "FROM scratch\n"}
    found = folders(project(tmp_path, {**plain, "image": text}, **REMOTE))["image"]
    assert (parents, bases) == (found.parents, found.bases)


@pytest.mark.parametrize("version", [VERSION, None])
def test_siblings_are_known_without_registry_and_without_version(tmp_path: Path, version: Version | None) -> None:
    text = "ARG REGISTRY\nARG VERSION\nFROM ${REGISTRY}/base:${VERSION}\n"
    found = folders(project(tmp_path, {"base": "FROM scratch\n", "image": text}), version)["image"]
    assert ("base",) == found.parents


def test_a_version_that_cannot_be_a_tag_is_known_by_its_tag_too(tmp_path: Path) -> None:
    settings = project(tmp_path, {"base": "FROM scratch\n", "image": "ARG VERSION\nFROM base:${VERSION/+/_}\n"})
    assert ("base",) == folders(settings, Version.parse("1.0+x"))["image"].parents


def test_only_brings_parents_and_reads_nothing_else(tmp_path: Path) -> None:
    dockerfiles = {"a": "FROM b\n", "b": "FROM c\n", "c": "FROM scratch\n", "d": "no Dockerfile at all\n"}
    assert ["c", "b"] == list(folders(project(tmp_path, dockerfiles), VERSION, "b"))


def test_what_a_stage_declares_is_an_input_and_all_arguments_are_handed_on(tmp_path: Path) -> None:
    text = "ARG REGISTRY\nFROM scratch\nARG VERSION\nARG REVISION\nARG COLOUR\nARG SHAPE=round\nARG OTHER\n"
    settings = project(
        tmp_path,
        {"image": text, "plain": "FROM scratch\n", "proxied": "FROM scratch\nARG HTTP_PROXY\nARG no_proxy\n"},
        **REMOTE,
        args={"COLOUR": "red", "UNUSED": "x", "no_proxy": "localhost"},
        image={"image": {"args": {"COLOUR": "blue"}}},
    )
    proxies = {"HTTP_PROXY": "http://proxy:3128", "http_proxy": "http://proxy:3128", "no_proxy": "elsewhere"}
    version = Version("1.2.3", commit="c0ffee")
    found = {folder.name: folder for folder in image_folders(settings, version, proxies=proxies)}
    ours = {"REGISTRY": "registry.example.com:5000/widgets", "VERSION": "1.2.3", "REVISION": "c0ffee"}
    assert {**proxies, **ours, **settings.args} == found["plain"].arguments
    assert {} == found["plain"].own_needs.arguments
    declared = {"VERSION": "1.2.3", "REVISION": "c0ffee", "COLOUR": "blue"}
    assert declared == found["image"].own_needs.arguments
    assert {"HTTP_PROXY": "http://proxy:3128", "no_proxy": "localhost"} == found["proxied"].own_needs.arguments
    assert "proxy:3128" not in repr(found)


def test_an_argument_that_has_no_value_here_leaves_the_default_of_the_dockerfile(tmp_path: Path) -> None:
    text = "ARG REGISTRY=mirror.example.com\nARG VERSION=9\nFROM $REGISTRY/debian:$VERSION\nARG REVISION=none\n"
    image = folders(project(tmp_path, {"image": text}), None)["image"]
    assert ("mirror.example.com/debian:9",) == image.bases
    assert {} == image.own_needs.arguments
    emptied = project(tmp_path, {}, args={"REGISTRY": "", "VERSION": "8"})
    with pytest.raises(Refused, match="src/docker/image/Dockerfile line 3: '/debian:8' is not an image reference"):
        folders(emptied, None)


def test_a_build_is_given_the_arguments_that_it_may_read(tmp_path: Path) -> None:
    proxies = {"http_proxy": "p", "All_Proxy": "p"}
    ours = {"GLOBAL": "1", "DECLARED": "2", "OF_A_BASE": "3", "BUILDKIT_INLINE_CACHE": "1", "TARGETARCH": "x"}
    others = {"OF_AN_UNUSED_STAGE": "4", "TYPO": "5", "SOME_http_proxy": "6"}
    text = "ARG GLOBAL\nFROM x AS unused\nARG OF_AN_UNUSED_STAGE\nFROM y\nARG DECLARED=1\n"
    settings = project(tmp_path, {"image": text}, args={**ours, **others})
    (image,) = image_folders(settings, VERSION, proxies=proxies)
    assert {**proxies, **ours} == image.readable_arguments({"y": ("ARG OF_A_BASE",)})
    assert "OF_A_BASE" not in image.readable_arguments({})


def test_arguments_reach_what_a_base_declares_for_its_children(tmp_path: Path) -> None:
    base = "FROM scratch\nONBUILD ARG FLAVOUR\nONBUILD COPY $FLAVOUR /\n"
    settings = project(tmp_path, {"base": base, "app": "FROM base\n"}, args={"FLAVOUR": "mild"})
    app = folders(settings)["app"]
    assert {"FLAVOUR": "mild"} == app.own_needs.arguments
    assert "mild" == app.arguments["FLAVOUR"]


ARM = "linux/arm64"


def test_stages_are_chosen_by_the_platforms_of_builder_and_image(tmp_path: Path) -> None:
    text = "FROM build-${BUILDARCH} AS b\nFROM app-${TARGETARCH}-${TARGETSTAGE}\nCOPY --from=b / /\n"
    settings = project(tmp_path, {"image": text}, image={"image": {"platform": "linux/aarch64"}})
    (image,) = image_folders(settings, VERSION, builder=Platform("linux", "riscv64"))
    assert ("app-arm64-default", "build-riscv64") == image.bases
    assert ARM == str(image.platform)
    (image,) = image_folders(project(tmp_path, {}), VERSION, builder=Platform("linux", "riscv64"))
    assert ("app-riscv64-default", "build-riscv64") == image.bases


def test_an_argument_of_the_platform_that_is_declared_before_the_first_from_keeps_its_value(tmp_path: Path) -> None:
    # Old engines empty it where it is declared, new ones do not, so it is handed over.
    text = "ARG TARGETARCH\nARG TARGETOS=other\nFROM app-${TARGETARCH}-$TARGETOS\n"
    (image,) = image_folders(project(tmp_path, {"image": text}), VERSION, builder=Platform("linux", "riscv64"))
    assert ("app-riscv64-other",) == image.bases
    assert "riscv64" == image.arguments["TARGETARCH"]


def test_a_parent_of_another_platform_is_refused_with_both_keys(tmp_path: Path) -> None:
    dockerfiles = {"base": "FROM scratch\n", "app": "FROM scratch\nCOPY --from=base / /\n"}
    error = refusal(project(tmp_path, dockerfiles, image={"app": {"platform": ARM}, "base": {"platform": "linux/386"}}))
    assert "src/docker/app/Dockerfile line 2: base is needed for linux/arm64 and built for linux/386" == error.fact
    assert "[tool.buildtools.image.app] and [tool.buildtools.image.base]" in error.remedy
    both = {"app": {"platform": ARM}, "base": {"platform": f"{ARM}/v8"}}
    assert ("base",) == folders(project(tmp_path, {}, image=both))["app"].parents


def test_a_served_dockerfile_names_the_exact_parents(tmp_path: Path) -> None:
    text = "ARG V\nFROM base AS x\nFROM debian\nCOPY --from=base / /\nCOPY --from=x / /\nCOPY --from=tools base /\n"
    settings = project(tmp_path, {"base": "FROM scratch\n", "tools": "FROM scratch\n", "image": text})
    served = folders(settings)["image"].pinned_dockerfile({"base": "base:1.2.3", "tools": "tools:1.2.3"})
    assert served.decode() == (
        "ARG V\nFROM base:1.2.3 AS x\nFROM debian\nCOPY --from=base:1.2.3 / /\nCOPY --from=x / /\n"
        "COPY --from=tools:1.2.3 base /\n"
    )


def test_a_configured_place_is_used(tmp_path: Path) -> None:
    settings = project(
        tmp_path, {"a": ""}, image={"a": {"context": ".", "dockerfile": "x/Containerfile", "target": "t"}}
    )
    folder = tmp_path / "src" / "docker" / "a"
    (folder / "x").mkdir()
    (folder / "x" / "Containerfile").write_text("FROM one AS t\nFROM two\n")
    found = folders(settings)["a"]
    assert (folder / "x" / "Containerfile", tmp_path, ("one",)) == (found.dockerfile_path, found.context, found.bases)


def test_triggers_of_a_parent_count_in_its_children(tmp_path: Path) -> None:
    parent = "FROM scratch\nONBUILD COPY app /app\nONBUILD ARG VERSION\nONBUILD COPY --from=outside / /\n"
    found = folders(project(tmp_path, {"parent": parent, "child": "FROM parent\nARG VERSION\n"}))["child"]
    assert (("app",), {"VERSION": "1.2.3"}, ("outside",)) == (
        found.own_needs.sources,
        found.own_needs.arguments,
        found.bases,
    )


def test_hidden_folders_and_files_are_not_images(tmp_path: Path) -> None:
    settings = project(tmp_path, {"a": "FROM scratch\n"})
    (tmp_path / "src" / "docker" / ".cache").mkdir()
    (tmp_path / "src" / "docker" / "README.md").touch()
    assert ["a"] == list(folders(settings))


def refusal(settings: Settings, *only: str) -> Refused:
    with pytest.raises(Refused) as caught:
        folders(settings, VERSION, *only)
    return caught.value


def test_a_missing_folder_of_images_is_refused_with_what_to_make(tmp_path: Path) -> None:
    refused = refusal(project(tmp_path, {}))
    assert "src/docker does not exist" == refused.fact
    assert "src/docker/NAME/Dockerfile" in refused.remedy


def test_a_folder_without_image_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "src" / "docker").mkdir(parents=True)
    assert "src/docker has no image folders" == refusal(project(tmp_path, {})).fact


def test_folders_without_a_dockerfile_are_all_named(tmp_path: Path) -> None:
    settings = project(tmp_path, {"a": "FROM scratch\n"})
    for name in ("b", "c"):
        (tmp_path / "src" / "docker" / name).mkdir()
    assert "no Dockerfile: src/docker/b/Dockerfile, src/docker/c/Dockerfile" == refusal(settings).fact


def test_impossible_names_are_all_named_with_a_better_one(tmp_path: Path) -> None:
    refused = refusal(project(tmp_path, {"LogUploader": "", "-a": "", "b\nc": "", "fine": "FROM scratch\n"}))
    assert "invalid image name: src/docker/-a, src/docker/LogUploader, 'src/docker/b\\nc'" == refused.fact
    assert "rename it, for example to a, loguploader, b-c" == refused.remedy


def test_an_unknown_name_in_only_is_refused_with_a_near_one(tmp_path: Path) -> None:
    settings = project(tmp_path, {"loguploader": "FROM scratch\n", "base": "FROM scratch\n"})
    refused = refusal(settings, "loguplaoder")
    assert ("unknown image: loguplaoder", "did you mean loguploader?") == (refused.fact, refused.remedy)
    assert "the images are base, loguploader" == refusal(settings, "xyz").remedy


def test_a_configured_image_without_a_folder_is_refused(tmp_path: Path) -> None:
    settings = project(tmp_path, {"base": "FROM scratch\n"}, image={"bsae": {"target": "x"}})
    assert "did you mean base?" == refusal(settings).remedy


def test_a_context_that_does_not_exist_is_refused_by_its_key(tmp_path: Path) -> None:
    settings = project(tmp_path, {"base": "FROM scratch\n"}, image={"base": {"context": "nowhere"}})
    assert "pyproject.toml: image.base.context: nowhere is not a folder" == refusal(settings).fact


@pytest.mark.parametrize(
    ("dockerfiles", "cycle"),
    [
        ({"a": "FROM b\n", "b": "FROM c\n", "c": "FROM scratch\nCOPY --from=a / /\n"}, "a -> b -> c -> a"),
        ({"a": "FROM b\n", "b": "FROM scratch\nRUN --mount=from=c x\n", "c": "FROM b\n"}, "b -> c -> b"),
        ({"a": "ARG VERSION\nFROM a:${VERSION}\n"}, "a -> a"),
    ],
)
def test_a_cycle_is_printed(tmp_path: Path, dockerfiles: dict[str, str], cycle: str) -> None:
    assert refusal(project(tmp_path, dockerfiles)).fact.endswith(f"in a cycle: {cycle}")


def test_a_chain_may_be_long(tmp_path: Path) -> None:
    dockerfiles = {f"i{n}": f"FROM i{n + 1}\n" for n in range(1100)} | {"i1100": "FROM scratch\n"}
    assert [f"i{n}" for n in range(1100, -1, -1)] == list(folders(project(tmp_path, dockerfiles)))


def test_a_bad_dockerfile_is_named_from_the_root(tmp_path: Path) -> None:
    assert refusal(project(tmp_path, {"a": "FROM x\nFROM\n"})).fact.startswith("src/docker/a/Dockerfile line 2: FROM")


def test_a_trigger_cannot_name_an_image_folder(tmp_path: Path) -> None:
    dockerfiles = {"a": "FROM scratch\nONBUILD COPY --from=b / /\n", "b": "FROM scratch\n", "c": "FROM a\n"}
    assert "an ONBUILD of its base names the folder b" in refusal(project(tmp_path, dockerfiles)).fact


def test_the_errors_of_all_folders_come_at_once(tmp_path: Path) -> None:
    dockerfiles = {f"image{number}": "RUN before any FROM\n" for number in range(60)}
    settings = project(tmp_path, {**dockerfiles, "fine": "FROM scratch\n"})
    error = refusal(settings, "fine", "unknown", *dockerfiles)
    assert error.fact.startswith("invalid image folders (61 errors), one reason: ")
    assert [f"src/docker/image{number}/Dockerfile line 1" for number in range(60)] == sorted(
        (line.partition(":")[0] for line in error.details if "Dockerfile line" in line),
        key=lambda line: int(line.partition("/image")[2].partition("/")[0]),
    )
    assert any(line.startswith("unknown image: unknown") for line in error.details)
