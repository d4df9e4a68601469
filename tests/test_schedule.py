from __future__ import annotations

import _thread
import signal
import threading
from functools import partial

import pytest

from buildtools import BuildToolsError
from buildtools.schedule import awaited, run_graph, side_by_side

GRAPH = {"base": (), "app": ("base",), "tool": (), "web": ("app", "tool")}


def test_parents_come_first_and_results_keep_the_graphs_order() -> None:
    seen: list[str] = []

    def work(name: str) -> str:
        assert set(GRAPH[name]) <= set(seen)
        seen.append(name)
        return name.upper()

    results = run_graph(GRAPH, work, jobs=2)
    assert [("base", "BASE"), ("app", "APP"), ("tool", "TOOL"), ("web", "WEB")] == list(results.done.items())


def test_what_does_not_depend_on_each_other_runs_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def work(name: str) -> int:
        return meeting.wait() if name in ("base", "tool") else 0

    assert {"base", "app", "tool", "web"} == run_graph(GRAPH, work, jobs=2).done.keys()


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_run_at_once_than_jobs_say(jobs: int) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work(name: str) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        with lock:
            now -= 1

    run_graph({str(number): () for number in range(40)}, work, jobs=jobs)
    assert most <= jobs


def test_dependents_of_a_failure_are_skipped_and_the_rest_finishes() -> None:
    def work(name: str) -> str:
        if name == "base":
            raise BuildToolsError("base is broken")
        return name

    results = run_graph(GRAPH, work, jobs=4)
    assert ["tool"] == list(results.done)
    assert "base is broken" == str(results.failed["base"])
    assert {"app": "base", "web": "app"} == results.skipped


def test_a_chain_of_thousands_ends_as_a_failure_of_its_first() -> None:
    chain: dict[str, tuple[str, ...]] = {"0": ()} | {f"{n}": (f"{n - 1}",) for n in range(1, 3000)}

    def work(name: str) -> str:
        if name == "1":
            raise BuildToolsError("it is broken")
        return name

    results = run_graph(chain, work, jobs=2)
    assert (["0"], ["1"], 2998) == (list(results.done), list(results.failed), len(results.skipped))
    assert [str(number) for number in range(3000)] == list(run_graph(chain, str, jobs=2).done)


def test_what_has_no_parents_left_comes_in_the_graphs_order() -> None:
    begun: list[str] = []
    run_graph({"b": (), "child": ("b",), "a": (), "c": ()}, begun.append, jobs=1)
    assert ["b", "child", "a", "c"] == begun


def test_a_cancelled_run_starts_nothing_more() -> None:
    cancelled = threading.Event()

    def work(name: str) -> str:
        cancelled.set()
        return name

    results = run_graph(GRAPH, work, jobs=1, cancelled=cancelled)
    assert ["base"] == list(results.done)
    assert {"app": "", "tool": "", "web": ""} == results.skipped


def test_an_unexpected_exception_is_not_swallowed() -> None:
    def work(name: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_graph(GRAPH, work, jobs=2)


def test_parents_outside_the_graph_count_as_done() -> None:
    assert {"app": "app"} == run_graph({"app": ("base",)}, str, jobs=1).done


def test_answers_come_in_the_order_of_the_questions() -> None:
    first_may = threading.Event()

    def second() -> int:
        first_may.set()
        return 2

    def first() -> int:
        assert first_may.wait(30)
        return 1

    assert [1, 2] == side_by_side([first, second], jobs=2)
    assert [] == side_by_side([], jobs=2)


def test_an_error_is_raised_and_nothing_more_is_asked() -> None:
    asked = []

    def question(number: int) -> None:
        asked.append(number)
        if number == 1:
            raise BuildToolsError("no")

    with pytest.raises(BuildToolsError, match="no"):
        side_by_side([partial(question, number) for number in range(3)], jobs=1)
    assert [0, 1] == asked


def test_an_interrupt_does_not_wait_for_an_answer() -> None:
    never = threading.Event()

    def unanswered() -> None:
        never.wait()

    # A job that a shell has put into the background ignores the signal, and would wait for ever.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            side_by_side([unanswered, _thread.interrupt_main, unanswered], jobs=2)
    finally:
        signal.signal(signal.SIGINT, handler)
        never.set()


def test_what_becomes_visible_late_is_waited_for() -> None:
    answers = iter([None, None, "there"])
    assert "there" == awaited(lambda: next(answers), pause=0.001)


def test_what_never_becomes_visible_is_nothing() -> None:
    assert awaited(lambda: None, seconds=0.002, pause=0.001) is None
