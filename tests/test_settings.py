from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools import Refused
from buildtools.settings import KEYS, Layer, MediaTypes, Settings
from buildtools.settings_reader import merge_layers, read_pyproject

ROOT = Path("project")


def resolved(*layers: dict[str, Any]) -> Settings:
    names = ("pyproject.toml", "environment", "flag")
    return merge_layers(ROOT, [Layer(name, values) for name, values in zip(names, layers, strict=False)])


def errors_of(*layers: Any) -> str:
    with pytest.raises(Refused) as caught:
        resolved(*layers)
    return str(caught.value)


def test_nothing_configured_gives_the_defaults() -> None:
    assert Settings(root=ROOT) == resolved()


def test_a_later_layer_wins_and_the_origin_says_so() -> None:
    merged = resolved({"registry": "a.example:5000", "namespace": "widgets"}, {"registry": "b.example"})
    assert ("b.example", "widgets") == (merged.registry, merged.namespace)
    assert ("environment", "pyproject.toml") == (merged.origins["registry"].origin, merged.origins["namespace"].origin)


def test_a_distribution_has_a_root_of_its_own() -> None:
    assert "build/install/d" == resolved({"distribution": {"d": {"root": "build/install/d"}}}).distribution["d"].root


def test_none_means_not_set_in_this_layer() -> None:
    assert "a.example" == resolved({"registry": "a.example"}, {"registry": None}).registry


def test_tables_merge_by_their_own_keys() -> None:
    merged = resolved(
        {"image": {"base": {"args": {"BASE": "debian"}, "target": "final"}}}, {"image": {"base": {"args": {"X": "1"}}}}
    )
    assert {"BASE": "debian", "X": "1"} == merged.image["base"].args
    assert "final" == merged.image["base"].target


def test_texts_from_the_environment_become_what_the_key_needs() -> None:
    merged = resolved({}, {"jobs": "3", "moving_tags": "latest, {major}.{minor}", "s3_checksums": "false"})
    assert (3, ("latest", "{major}.{minor}"), False) == (merged.jobs, merged.moving_tags, merged.s3_checksums)


def test_attestations_are_switched_by_words() -> None:
    for value, mode in ((True, "min"), ("true", "min"), ("min", "min"), ("max", "max")):
        assert {"provenance": f"mode={mode}"} == resolved({"provenance": value}).image_settings("app").attestations
    for value, options in ((True, ""), ("a.example/scanner:1", "generator=a.example/scanner:1")):
        assert {"sbom": options} == resolved({"sbom": value}).image_settings("app").attestations
    assert {} == resolved({"provenance": False, "sbom": "no"}).image_settings("app").attestations
    assert 'provenance must be true, false, "min" or "max", not \'most\'' in errors_of({"provenance": "most"})
    assert "sbom must be true, false or the image of a scanner" in errors_of({"sbom": "a,b"})


def test_what_is_set_for_all_images_holds_for_those_that_do_not_say_otherwise() -> None:
    merged = resolved({"cache_to": ["type=inline"], "image": {"app": {"cache_to": []}, "base": {"target": "final"}}})
    assert () == merged.image_settings("app").cache_to
    assert ("final", ("type=inline",)) == (
        merged.image_settings("base").target,
        merged.image_settings("base").cache_to,
    )


def test_errors_in_caches_name_the_key() -> None:
    one_place = {"cache_to": ["type=local,dest=cache"]}
    assert "pyproject.toml: cache_to: cache would be written by several builds: put {name}" in errors_of(one_place)
    several = {"image": {"app": {**one_place, "platforms": ["linux/amd64", "linux/arm64"]}}}
    assert "image.app.cache_to: cache would be written by several builds: put {platform}" in errors_of(several)
    assert "image.app.cache_from: type=none is not one of" in errors_of({"image": {"app": {"cache_from": "type=none"}}})


def test_media_types_are_one_of_two() -> None:
    assert MediaTypes.DOCKER is resolved({}).media_types
    assert MediaTypes.OCI is resolved({"media_types": "oci"}).media_types
    for value in ("OCI", "", 1, ["oci"]):
        assert 'pyproject.toml: media_types must be "docker" or "oci", not ' in errors_of({"media_types": value})


def test_one_error_alone_is_the_last_line() -> None:
    assert "invalid configuration: pyproject.toml: unknown key nope: correct it" == errors_of({"nope": 1})


def test_all_errors_come_at_once_with_origin_and_key() -> None:
    message = errors_of(
        {
            "registri": "x",
            "jobs": -1,
            "args": {"PYTHON": 3.1, "JAVA": "17"},
            "image": {"a": {"ssh": "perhaps"}, "b": {"platform": "lunix/amd64"}},
            "distribution": {"d": {}},
        },
        {"namespace": "Upper", "moving_tags": 7},
    )
    assert [
        "pyproject.toml: unknown key registri (did you mean registry?)",
        "pyproject.toml: jobs must be a whole number from 0 to 1000000, not -1",
        "pyproject.toml: args.PYTHON must be a string, not 3.1",
        "environment: moving_tags must be a list of strings, not 7",
        "pyproject.toml: image.a.ssh must be true or false, not 'perhaps'",
        "environment: namespace must be lower-case words joined by slashes, not 'Upper'",
        "pyproject.toml: image.b.platform must be one platform, such as linux/arm64, not 'lunix/amd64' "
        "(unknown operating system 'lunix')",
        "pyproject.toml: distribution.d must have either root or archive",
        "invalid configuration (8 errors): fix the errors above",
    ] == message.splitlines()


@pytest.mark.parametrize(
    "values",
    [
        {"registry": "https://registry.example"},
        {"registry": "registry.example/path"},
        {"registry": "one-word"},
        {"registry": "registry.example:99999"},
        {"registry": "[1]:5000"},
        {"registry": "registry..example"},
        {"registry": "-registry.example"},
        {"artifacts": "https://bucket"},
        {"moving_tags": ["{major"]},
        {"moving_tags": ["{prerelease}"]},
        {"moving_tags": ["for everybody"]},
        {"image": 3},
        {"image": {"a": 3}},
        {"args": {"X": 1}},
        {"jobs": True},
        {"jobs": "many"},
        {"jobs": 10**20},
        {"image": {"a": {"rebuild_after": float("nan")}}},
        {"image": {"a": {"rebuild_after": float("inf")}}},
        {"image": {"a": {"platform": "linux/amd64,linux/arm64"}}},
        {"image": {"a": {"platform": "linux/amd46"}}},
        {"args": {"X": "\0"}},
        {"namespace": "\ud800"},
        {7: "x"},
        {"distribution": {"d": {"root": "x", "archive": "y"}}},
        {"root": "elsewhere"},
    ],
)
def test_a_bad_value_is_refused(values: dict[str, Any]) -> None:
    assert errors_of(values).startswith("invalid configuration: ")


BUILDERS = (
    *("unix:///run/buildkit/buildkitd.sock", "tcp://builder", "tcp://builder:1234", "tcp://[::1]:65535"),
    *("ssh://me@builder:22", "docker-container://buildkitd", "docker-context://arm"),
)
NO_BUILDERS = (
    *("", "builder:1234", "unix://buildkitd.sock", "http://builder:1234", "tcp://", "tcp://builder:0"),
    *("tcp://builder:65536", "tcp://builder:port", "tcp://a b", "docker-container://", "docker-context://a/b"),
)


def test_builders_are_addresses_of_daemons_and_engines() -> None:
    pool = {"arm": {"address": "tcp://arm", "platforms": ["linux/arm64"], "jobs": 4, "certificates": "keys"}}
    merged = resolved({"builders": list(BUILDERS), "pool": pool})
    assert [*BUILDERS, "arm"] == list(merged.all_builders)
    assert (4, "keys") == (merged.all_builders["arm"].jobs, merged.all_builders["arm"].certificates)


@pytest.mark.parametrize("address", NO_BUILDERS)
def test_what_is_no_address_of_a_builder_is_refused_with_its_key(address: str) -> None:
    said = f"must be unix:///PATH, tcp://HOST:PORT, docker-container://NAME or docker-context://NAME, not {address!r}"
    message = errors_of({"builders": [address], "pool": {"arm": {"address": address}}})
    assert f"pyproject.toml: builders {said}" in message
    assert f"pyproject.toml: pool.arm.address {said}" in message


def test_a_builder_is_named_once_and_each_error_has_its_line(tmp_path: Path) -> None:
    lines = ["[tool.buildtools]", 'builders = ["tcp://a", "tcp://a"]', "cache_to = [7]", "[tool.buildtools.pool.arm]"]
    (tmp_path / "pyproject.toml").write_text("\n".join(lines))
    with pytest.raises(Refused) as refusal:
        merge_layers(tmp_path, [read_pyproject(tmp_path)])
    assert [
        "pyproject.toml line 3: cache_to must be a list of strings, not a list with 7",
        "pyproject.toml line 2: builders has 'tcp://a' twice",
        "pyproject.toml line 4: pool.arm.address must be",
    ] == [refusal.value.details[0], refusal.value.details[1], refusal.value.details[2].partition(" unix:")[0]]


@pytest.mark.parametrize(
    "values",
    [
        {"registry": "https://me:hunter2@registry.example"},
        {"artifacts": "s3://me:hunter2@bucket"},
        {"s3_endpoint": ["http://me:hunter2@s3.example"]},
        {"args": {"PASSWORD": "hunter2", "NUMBER": 3}},
    ],
)
def test_an_error_does_not_tell_a_password(values: dict[str, Any]) -> None:
    assert "hunter2" not in errors_of(values)


def test_a_configuration_that_is_not_a_table_is_refused() -> None:
    assert "must be a table" in errors_of(7)


def test_pyproject_without_a_table_or_a_file_is_an_empty_layer(tmp_path: Path) -> None:
    assert {} == read_pyproject(tmp_path).values
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert {} == read_pyproject(tmp_path).values


def test_a_tool_that_is_not_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("tool = 7\n")
    with pytest.raises(Refused, match="tool must be a table"):
        read_pyproject(tmp_path)


def test_a_pyproject_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").mkdir()
    with pytest.raises(Refused, match="cannot be read"):
        read_pyproject(tmp_path)


_TEXTS = st.text(max_size=8) | st.sampled_from(["s3://b", "r.example:5000", "latest", "\ud800"])
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS | st.dates() | st.binary(max_size=4)
_KEYS = st.sampled_from([*KEYS, "platform", "root", "archive", "a"]) | st.integers() | st.none() | _TEXTS
_VALUES = st.recursive(_LEAVES, lambda below: st.lists(below, max_size=2) | st.dictionaries(_KEYS, below, max_size=3))


@settings(max_examples=600, deadline=None)
@given(layers=st.lists(_VALUES | st.dictionaries(_KEYS, _VALUES, max_size=6), max_size=3))
def test_any_configuration_gives_settings_or_one_refusal(layers: list[Any]) -> None:
    def outcome() -> Settings | str:
        try:
            return resolved(*layers)
        except Refused as error:
            return str(error)

    assert outcome()
    assert repr(outcome()) == repr(outcome())


def test_pyproject_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.buildtools\n")
    with pytest.raises(Refused, match="not valid TOML"):
        read_pyproject(tmp_path)
    # An editor does not show it.
    (tmp_path / "pyproject.toml").write_text("[tool.buildtools]\n", "utf-8-sig")
    with pytest.raises(Refused, match="begins with a byte order mark"):
        read_pyproject(tmp_path)


def test_registry_and_artifacts_are_asked_for_only_where_they_are_needed() -> None:
    with pytest.raises(Refused, match="no registry is configured"):
        resolved().repository_prefix  # noqa: B018  the property raises
    with pytest.raises(Refused, match="artifacts is not configured"):
        resolved().artifacts_url  # noqa: B018  the property raises
    assert "r.example:5000/a/b" == resolved({"registry": "r.example:5000", "namespace": "a/b"}).repository_prefix


TARGETS = {
    "registry": "r.example:5000",
    "namespace": "widgets",
    "artifacts": "s3://own/widgets",
    "registry_ca": "own.pem",
    "s3_checksums": False,
    "target": {
        "stage": {"namespace": "stage", "artifacts": "s3://stage/widgets"},
        "production": {"registry": "p.example", "s3_endpoint": "http://s.example", "requires": ["stage"]},
    },
}


def test_a_target_is_the_project_in_other_places() -> None:
    stage = resolved(TARGETS).of_target("stage")
    assert ("r.example:5000", "stage", "s3://stage/widgets") == (stage.registry, stage.namespace, stage.artifacts)
    assert ("own.pem", False) == (stage.registry_ca, stage.s3_checksums)


def test_settings_of_a_registry_and_a_store_go_with_these() -> None:
    production = resolved(TARGETS).of_target("production")
    assert ("p.example", "widgets", "s3://own/widgets") == (
        production.registry,
        production.namespace,
        production.artifacts,
    )
    assert ("", "http://s.example", True) == (production.registry_ca, production.s3_endpoint, production.s3_checksums)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"registry": "http://x"}, "target.p.registry must be HOST"),
        ({"namespace": "A"}, "target.p.namespace must be lower-case"),
        ({"artifacts": "x"}, "target.p.artifacts must be s3://"),
        (
            {"artifacts": "s3://b/x"},
            "where BUCKET has 3 to 63 lower-case letters, digits, dots and hyphens; not 's3://b/x'",
        ),
        ({"requires": ["q"]}, "target.p.requires names 'q', which is not a target"),
        ({"images": "x"}, "target.p.images"),
    ],
)
def test_what_is_wrong_with_a_target_is_told(target: dict[str, Any], said: str) -> None:
    assert said in errors_of({"target": {"p": target}})
