from __future__ import annotations

from buildtools.events import Event, Log, Step, Transferred, Warned
from buildtools.image.engine.buildkit.progress import Progress
from buildtools.image.engine.buildkit.protobuf import Message, bytes_field, int_field, string_field

TIME = bytes_field(5, int_field(1, 1_700_000_000))
DONE = bytes_field(6, int_field(1, 1_700_000_001))


def vertex(name: str, *more: bytes, digest: str = "sha256:1") -> bytes:
    return bytes_field(1, string_field(1, digest) + string_field(3, name) + b"".join(more))


def log(data: bytes, digest: str = "sha256:1") -> bytes:
    return bytes_field(3, string_field(1, digest) + int_field(3, 1) + bytes_field(4, data))


def heard(*statuses: bytes, hidden: tuple[bytes, ...] = ()) -> tuple[list[Event], Progress]:
    events: list[Event] = []
    progress = Progress("app", "app/Dockerfile", events.append, hidden=hidden)
    for status in statuses:
        progress.hear(Message(status))
    return events, progress


def test_a_step_is_told_once_when_it_begins() -> None:
    events, _ = heard(
        vertex("[builder 2/5] RUN make"),
        vertex("[builder 2/5] RUN make", TIME),
        vertex("[builder 2/5] RUN make", TIME, DONE),
        vertex("[3/4] COPY . /", int_field(4, 1), TIME, DONE, digest="sha256:2"),
        vertex("exporting to image", TIME, digest="sha256:3"),
    )
    assert [
        Step("app", "[builder] RUN make", 2, 5),
        Step("app", "COPY . /", 3, 4, cached=True),
        Step("app", "exporting to image"),
    ] == events


def test_another_attempt_reports_its_new_steps_and_its_own_failure() -> None:
    events: list[Event] = []
    progress = Progress("app", "app/Dockerfile", events.append)
    warning = bytes_field(4, string_field(1, "sha256:1") + string_field(3, "a warning"))
    progress.hear(Message(vertex("[2/3] COPY . /", TIME) + warning))
    progress.hear(Message(vertex("exporting to image", TIME, string_field(7, "already exists"), digest="sha256:2")))

    progress.begin_again()

    # Its context comes from another session, and gives its steps other digests.
    progress.hear(Message(vertex("[2/3] COPY . /", int_field(4, 1), TIME, digest="sha256:3") + warning))
    progress.hear(Message(vertex("[3/3] RUN false", TIME, string_field(7, "exit code: 1"), digest="sha256:4")))
    assert [
        Step("app", "COPY . /", 2, 3),
        Warned("app", "a warning"),
        Step("app", "exporting to image"),
        Step("app", "RUN false", 3, 3),
    ] == events
    failed = progress.failed()
    assert failed
    assert "[3/3] RUN false" == failed.name


def test_lines_are_whole_however_they_come() -> None:
    events, progress = heard(
        log(b"one\ntw"),
        log("o\nthrée".encode()[:-3]),
        log("ée\n 10 %\r 99 %\r\n".encode()),
        log(b"last"),
        vertex("x", TIME, DONE),
    )
    assert ["one", "two", "thrée", " 99 %"] == [event.line for event in events if isinstance(event, Log)][:4]
    assert Log("app", "last") == events[-1]
    assert progress.failed() is None


def test_the_step_that_failed_is_not_one_that_was_stopped() -> None:
    _, progress = heard(
        vertex("[a 1/1] RUN sleep", string_field(7, "context canceled"), digest="sha256:1"),
        vertex("[b 1/1] RUN false", string_field(7, "exit code: 1"), digest="sha256:2"),
    )
    failed = progress.failed()
    assert failed
    assert "[b 1/1] RUN false" == failed.name


def test_secrets_are_hidden_in_lines_and_names() -> None:
    events, _ = heard(
        vertex("RUN echo hunter2", TIME),
        log(b"it is hunter2, or\nsecond line\n"),
        hidden=(b"hunter2\n", b"first\nsecond line", b"it"),
    )
    assert [Step("app", "RUN echo ***"), Log("app", "it is ***, or"), Log("app", "***")] == events


def test_a_warning_says_where_and_where_to_read_more() -> None:
    events, _ = heard(
        bytes_field(
            4,
            string_field(1, "sha256:1")
            + string_field(3, "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3)")
            + string_field(4, "The keywords should match")
            + string_field(5, "https://docs.docker.com/go/dockerfile/rule/from-as-casing/")
            + bytes_field(6, string_field(1, "Dockerfile"))
            + bytes_field(7, bytes_field(1, int_field(1, 3)) + bytes_field(2, int_field(1, 3))),
        )
    )
    assert [
        Warned(
            "app",
            "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (app/Dockerfile:3), "
            "see https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
        )
    ] == events


def layer(digest: str, current: int, total: int) -> bytes:
    return bytes_field(
        2, string_field(1, digest) + string_field(2, "sha256:1") + int_field(4, current) + int_field(5, total)
    )


def test_layers_of_a_base_add_up() -> None:
    events, _ = heard(
        layer("sha256:a", 5, 10),
        layer("sha256:b", 0, 30),
        layer("sha256:a", 11, 10),
        layer("transferring context:", 7, 0),
        layer("extracting sha256:a", 1, 2),
    )
    assert [Transferred("app", 5, 10), Transferred("app", 5, 40), Transferred("app", 10, 40)] == events
