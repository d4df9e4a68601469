"""What is read out of a Dockerfile."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from buildtools import Refused
from buildtools.image.folder.dockerfile import Dockerfile, Needs, parse


def needs(text: str, arguments: Mapping[str, str] | None = None, target: str = "") -> Needs:
    return parse(text.encode()).needs(arguments or {}, target=target)


def images(found: Needs) -> list[str]:
    return [base.image for base in found.bases]


def written(dockerfile: Dockerfile) -> list[tuple[str, str]]:
    """Each reference as it says it was written, and what the text holds at its place."""
    references = [r for stage in dockerfile.stages for r in (stage.base, *stage.steps.uses)]
    return [(r.text, dockerfile.text[r.start : r.end]) for r in references]


def test_stages_bases_and_lines_are_found() -> None:
    dockerfile = parse(b"ARG A=1\n\nFROM one AS Build\nRUN x\nFROM --platform=linux/arm64 two\nCOPY --from=build a b\n")
    assert [("build", 3, "one", ""), ("", 5, "two", "linux/arm64")] == [
        (s.name, s.line, s.base.text, s.platform) for s in dockerfile.stages
    ]
    assert [("one", "one"), ("two", "two"), ("build", "build")] == written(dockerfile)


def test_arguments_before_the_first_from_expand_in_from_alone() -> None:
    text = "ARG TAG=12\nARG BASE=debian:${TAG}\nFROM ${BASE}\nARG OTHER\nARG TAG\n"
    found = needs(text)
    assert (["debian:12"], {"TAG": "12"}) == (images(found), found.arguments)
    found = needs(text, {"TAG": "13", "OTHER": "o", "UNDECLARED": "u"})
    assert (["debian:13"], {"TAG": "13", "OTHER": "o"}) == (images(found), found.arguments)
    assert ["x"] == images(needs(text, {"BASE": "x"}))


def test_an_argument_that_only_from_uses_is_not_an_argument_of_the_build() -> None:
    assert {} == needs("ARG VERSION\nFROM base:${VERSION}\nRUN x\n", {"VERSION": "1"}).arguments


def test_an_argument_of_a_stage_takes_the_computed_default_from_before() -> None:
    text = "ARG VERSION\nARG TAG=v${VERSION}\nFROM scratch\nARG TAG\n"
    assert {"TAG": "v1"} == needs(text, {"VERSION": "1"}).arguments


def test_only_stages_that_the_target_needs_count() -> None:
    text = (
        "FROM one AS a\nARG IN_A\nCOPY a /\n"
        "FROM two AS b\nARG IN_B\nCOPY b /\n"
        "FROM three AS c\nCOPY --from=a /x /y\nCOPY c /\n"
        "FROM c\nRUN --mount=from=b,target=/b x\n"
    )
    arguments = {"IN_A": "1", "IN_B": "2"}
    assert (["one"], {"IN_A": "1"}, ("a",)) == _summary(needs(text, arguments, "A"))
    assert (["three", "one"], {"IN_A": "1"}, ("a", "c")) == _summary(needs(text, arguments, "c"))
    assert (["three", "one", "two"], arguments, ("a", "b", "c")) == _summary(needs(text, arguments))


def _summary(found: Needs) -> tuple[list[str], Mapping[str, str], tuple[str, ...]]:
    return images(found), found.arguments, found.sources


def test_a_path_that_cannot_be_read_matters_only_if_its_stage_is_built() -> None:
    assert ("b",) == needs('FROM one AS unused\nCOPY "a /\nFROM two\nCOPY b /\n').sources


def test_a_stage_named_as_its_own_base_means_the_image() -> None:
    assert ["base"] == images(needs("FROM base AS base\nFROM base\n"))


def test_only_copy_may_name_a_stage_by_its_number() -> None:
    stage = "FROM one AS a\nCOPY a /\n"
    assert ("a",) == needs(f"{stage}FROM two\nCOPY --from=+0 x /\n").sources
    found = needs(f"{stage}FROM two\nRUN --mount=from=0,target=/x true\nCOPY --from=² x /\n")
    assert (["two", "0", "²"], ()) == (images(found), found.sources)


def test_the_built_stage_is_the_last_one_unless_another_is_named() -> None:
    text = "FROM one AS base-x\nFROM two AS base-y\nFROM base-${TARGETSTAGE} AS x\nFROM base-${TARGETSTAGE} AS y\n"
    assert (["two"], ["one"]) == (images(needs(text)), images(needs(text, target="x")))


def test_continued_lines_comments_and_escapes_make_one_instruction() -> None:
    text = "FROM \\\n  # comment\n\n  one \\\n  AS x\nCOPY a \\  \n b\\\nc /d/\nRUN echo \\\\\nCOPY e /\n"
    found = needs(text)
    assert (["one"], ("a", "bc", "e")) == (images(found), found.sources)
    text = "# escape=`\nFROM one\nCOPY a `\n  b c:\\\nCOPY d /\n"
    assert ("a", "b", "d") == needs(text).sources


def test_windows_line_ends_and_a_byte_order_mark_are_accepted() -> None:
    dockerfile = parse(b"\xef\xbb\xbf# syntax = docker/dockerfile:1\r\nFROM one\\\r\n:2\r\nCOPY a /\r\n")
    assert ("docker/dockerfile:1", ["one:2"]) == (dockerfile.syntax, images(dockerfile.needs({})))


@pytest.mark.parametrize("first", ["# a comment", "# unknown=directive", "", "#!/usr/bin/env docker"])
def test_a_line_that_is_not_a_directive_ends_the_directives(first: str) -> None:
    assert "\\" == parse(f"{first}\n# escape=`\nFROM x\n".encode()).escape


def test_a_frontend_is_found_after_the_line_that_makes_a_dockerfile_a_program() -> None:
    assert "x/y:1" == parse(b"#!/usr/bin/env docker\n# syntax=x/y:1 more\nFROM x\n").syntax


def test_here_documents_are_not_instructions() -> None:
    text = (
        "FROM one\nRUN <<EOF cat <<-'B C'\nFROM two\nEOF\nCOPY x y\n\t\tB C\nCOPY <<A <<B /d/\nA\nB\nCOPY z <<E /\nE\n"
    )
    found = needs(text)
    assert (["one"], ("z",)) == (images(found), found.sources)


def test_shifts_and_here_strings_are_not_here_documents() -> None:
    assert ("z",) == needs('FROM one\nRUN echo $((1<<3)) $((1 << 3)) "<<EOF" <<< x <<- y\nCOPY z /\n').sources


@pytest.mark.parametrize(
    "instruction",
    [
        "RUN [ -f x ] && cat <<EOF",
        "RUN [[ -f x ]] || cat << EOF > y",
        "RUN cat <<$A\nCOPY not /\n$A\nRUN <<EOF",
        "ONBUILD RUN [ -f x ] <<EOF",
    ],
)
def test_a_here_document_is_seen_where_the_newest_engines_see_it(instruction: str) -> None:
    assert ("z",) == needs(f"FROM one\n{instruction}\nCOPY not /\nEOF\nCOPY z /\n").sources
    assert [] == parse(f"FROM one\n{instruction}\nnothing of Docker's\nEOF\n".encode()).unknown_instructions()


def test_a_command_that_is_a_list_has_no_here_document() -> None:
    assert ("<<EOF", "z") == needs('FROM one\nRUN ["x", "<<EOF"]\nCOPY ["<<EOF", "z", "/"]\n').sources


@pytest.mark.parametrize(
    ("instruction", "sources"),
    [
        ("COPY a b /c/", ("a", "b")),
        ('COPY ["a b", "c"]', ("a b",)),
        ('COPY "a" /', ("a",)),
        ("COPY --chown=1:1 --link --chmod=755 a /", ("a",)),
        ("ADD https://example.com/x git@github.com:a/b a.tgz /", ("a.tgz",)),
        ("COPY $X /", (".",)),
        ("COPY --from=one /a /b", ()),
        ("RUN --mount=type=bind,source=a,target=/a x", ("a",)),
        ("RUN --mount=type=bind,target=/a x", (".",)),
        ("RUN --mount=type=cache,target=/a --mount=type=secret,id=s x", ()),
        ("RUN --mount=target=/a,src=b --network=none x", ("b",)),
        ("RUN --mount='type=bind,src=a,dst=/a' --mount=\"type=bind,src=b,dst=/b\" x", ("a", "b")),
        ("RUN echo --mount=type=bind", ()),
        ("ONBUILD COPY a /", ()),
        ("copy a /", ("a",)),
        ("COPY a\u00a0b\u2028c\x1f d /", ("a\u00a0b\u2028c\x1f", "d")),
        ("COPY a\vb\fc /", ("a", "b", "c")),
        ("COPY -- --x /", ("--x",)),
        ("COPY --from= a /", ("a",)),
        ("ADD h\\ttps://example.com/x a /", ("a",)),
        ("ADD deploy@example.com:x github.com/y ftp://z /", ("ftp://z", "github.com/y")),
        ("RUN --mount=type=$KIND,source=a,target=/a x", ("a",)),
        ("RUN --mount=Type=Bind,source=a,target=/a x", ("a",)),
    ],
)
def test_what_an_instruction_takes_from_the_context(instruction: str, sources: tuple[str, ...]) -> None:
    assert sources == needs(f"FROM one\n{instruction}\n").sources


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("instructions", "remotes"),
    [
        ("ADD https://example.com/x.tgz /", ("https://example.com/x.tgz",)),
        ('ADD ["http://example.com/x y", "/z"]', ("http://example.com/x y",)),
        ("ADD 'https://example.com/x' a /", ("'https://example.com/x'",)),
        ("ADD --chown=1 git@example.com:x.git#main /x", ("git@example.com:x.git#main",)),
        ("ADD https://example.com/x.git#v1.0:docs /x", ("https://example.com/x.git#v1.0:docs",)),
        (f"ADD https://example.com/x.git#{COMMIT}:docs git://example.com/y.git?ref=v1&commit={COMMIT} /x", ()),
        (f"ADD https://example.com/x.git#{COMMIT}0 /x", (f"https://example.com/x.git#{COMMIT}0",)),
        ("ADD --checksum=sha256:0 https://example.com/x /", ()),
        ("ARG U=https://example.com\nADD $U/x /", ("$U/x",)),
        ("ARG D=docs\nADD $D/x /", ()),
        (f"ARG C={COMMIT}\nADD https://example.com/x.git#$C /", ()),
        ("ARG OURS\nADD ${OURS} /", ()),
        ("ARG OTHERS\nADD https://example.com/x.git#$OTHERS /", ("https://example.com/x.git#$OTHERS",)),
        ("ENV U=https://example.com/x\nADD $U /", ("$U",)),
        ("COPY https://example.com /", ()),
        ("ADD a b /", ()),
        (
            "ADD deploy@example.com:x.git HTTPS://example.com/y.git /z",
            ("deploy@example.com:x.git", "HTTPS://example.com/y.git"),
        ),
        ("ADD h\\ttps://example.com/x /", ("h\\ttps://example.com/x",)),
        (f"ADD https://example.com/x.tgz#{COMMIT} /", (f"https://example.com/x.tgz#{COMMIT}",)),
        (f"ADD https://example.com/x.tgz?ref={COMMIT} /", (f"https://example.com/x.tgz?ref={COMMIT}",)),
        ("ADD --checksum= https://example.com/x /", ("https://example.com/x",)),
        ("ARG SUM\nADD --checksum=$SUM https://example.com/x /", ("https://example.com/x",)),
        ("ARG SUM=sha256:0\nADD --checksum=$SUM https://example.com/x /", ()),
        ("ENV U=https://example.com\nADD $U/x /", ("$U/x",)),
        ("ENV U https://example.com\nADD $U/x /", ("$U/x",)),
        ("ENV S=ttps D=docs\nADD h$S://example.com $D/x /", ("h$S://example.com",)),
        ("ARG S=https\nARG U=$S://example.com\nADD $U /", ("$U",)),
        ("ENV D=https://example.com\nENV D=docs E=$D\nADD $D $E /", ("$E",)),
        ("ADD $OF_THE_BASE/x /", ("$OF_THE_BASE/x",)),
    ],
)
def test_what_a_url_brings_may_change_unless_it_is_pinned(instructions: str, remotes: tuple[str, ...]) -> None:
    assert remotes == needs(f"FROM scratch\n{instructions}\n", {"OURS": "docs"}).remotes


@pytest.mark.parametrize(
    ("mount", "secrets"),
    [
        ("type=secret,id=token,required", ("token",)),
        ("type=secret,target=/run/token,required=true", ("token",)),
        ("type=secret,src=token,target=/x,required=T", ("token",)),
        ("type=secret,id=token", ()),
        ("type=secret,id=token,required=false", ()),
        ("type=secret,id=$ID,required", ()),
        ("type=cache,target=/c,required", ()),
    ],
)
def test_a_mount_tells_the_secret_without_which_a_command_fails(mount: str, secrets: tuple[str, ...]) -> None:
    assert secrets == needs(f"FROM scratch\nRUN --mount={mount} true\n").secrets
    assert () == needs(f"FROM scratch AS unused\nRUN --mount={mount} true\nFROM scratch\n").secrets


def test_a_url_in_a_trigger_counts_and_one_in_a_stage_that_is_not_built_does_not() -> None:
    url = "ADD https://example.com/x /"
    assert () == needs(f"FROM scratch AS unused\n{url}\nFROM scratch\n").remotes
    found = parse(b"FROM base\n").needs({}, triggers=lambda image: (url,))
    assert ("https://example.com/x",) == found.remotes


def test_a_stage_has_the_variables_of_the_stage_that_it_is_built_on() -> None:
    stage = "FROM scratch AS a\nENV U=https://example.com D=docs\n"
    assert ("$U/x",) == needs(f"{stage}FROM a\nADD $U/x $D/y /\n").remotes


def test_triggers_of_a_base_count_in_the_stage_built_on_it() -> None:
    dockerfile = parse(b"FROM outside AS a\nONBUILD COPY b /\nFROM a\n")
    found = dockerfile.needs({"X": "1"}, triggers=lambda image: ("COPY a /", "ARG X") if image == "outside" else ())
    assert (("a", "b"), {"X": "1"}, ()) == (found.sources, found.arguments, found.triggers)
    assert ("COPY b /",) == dockerfile.needs({}, target="a").triggers


def test_references_are_replaced_and_all_else_stays() -> None:
    text = (
        b"\xef\xbb\xbf# FROM base\r\nARG V\nFROM  base  AS base\nFROM ${R}/ba\\\nse:${V}\n"
        b"COPY --from=tools --chown=1 /base /base\nRUN --mount=type=bind,from=base2,target=/base cat base2 \xff\n"
        b"RUN --mount='from=tools,target=/x' tools\nFROM base\n"
    )
    dockerfile = parse(text)
    assert text == dockerfile.with_images({})
    every = [s.base for s in dockerfile.stages[:2]] + [u for s in dockerfile.stages for u in s.steps.uses]
    replaced = dockerfile.with_images({r: f"image{i}:1" for i, r in enumerate(every)})
    assert replaced == (
        b"\xef\xbb\xbf# FROM base\r\nARG V\nFROM  image0:1  AS base\nFROM image1:1\n"
        b"COPY --from=image2:1 --chown=1 /base /base\nRUN --mount=type=bind,from=image3:1,target=/base cat base2 \xff\n"
        b"RUN --mount='from=image4:1,target=/x' tools\nFROM base\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Dockerfile has no FROM"),
        ("RUN x\nFROM y\n", "line 1: instruction before the first FROM"),
        ("FRM y\n", "line 1: unknown instruction FRM"),
        ("# c\nFROM a b\n", "line 2: FROM must name one image"),
        ("FROM a\nRUN <<EOF\nx\n", "line 2: the here-document EOF has no end"),
        ("# escape=x\nFROM a\n", "the escape directive is 'x'"),
        ("FROM a\nARG =x\n", "line 2: ARG without a name"),
        ('FROM a\nRUN --mount=from=b"c" x\n', "line 2: the mount's from is quoted in parts"),
    ],
)
def test_what_is_not_a_dockerfile_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(Refused) as refusal:
        parse(text.encode())
    assert message in refusal.value.fact


def test_a_dockerfile_in_utf_16_is_refused_as_such() -> None:
    with pytest.raises(Refused, match="Dockerfile is written in UTF-16: save it as UTF-8"):
        parse("FROM a\n".encode("utf-16"))


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("ARG X\nFROM ${X}\n", "", "line 2: ${X} is empty"),
        ("FROM ${X:\n", "", "line 1: ${X:"),
        ("FROM a AS b\n", "c", "has no stage 'c'"),
        ('FROM y\nCOPY ["a", /]\n', "", "line 2: COPY of the invalid pattern"),
        ('FROM y\nADD "a /\n', "", 'line 2: invalid word "a'),
        ("FROM a AS b\nCOPY --from=c / /\nFROM b AS c\n", "", "built from itself"),
    ],
)
def test_what_cannot_be_resolved_is_refused(text: str, target: str, message: str) -> None:
    with pytest.raises(Refused) as refusal:
        needs(text, target=target)
    assert message in refusal.value.fact
