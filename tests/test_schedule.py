from __future__ import annotations

import threading

import pytest

from buildtools import BuildToolsError
from buildtools.schedule import run

GRAPH = {"base": (), "app": ("base",), "tool": (), "web": ("app", "tool")}


def test_parents_come_first_and_results_keep_the_graphs_order() -> None:
    seen: list[str] = []

    def work(name: str) -> str:
        assert set(GRAPH[name]) <= set(seen)
        seen.append(name)
        return name.upper()

    results = run(GRAPH, work, jobs=2)
    assert [("base", "BASE"), ("app", "APP"), ("tool", "TOOL"), ("web", "WEB")] == list(results.done.items())


def test_what_does_not_depend_on_each_other_runs_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def work(name: str) -> int:
        return meeting.wait() if name in ("base", "tool") else 0

    assert {"base", "app", "tool", "web"} == run(GRAPH, work, jobs=2).done.keys()


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

    run({str(number): () for number in range(40)}, work, jobs=jobs)
    assert most <= jobs


def test_dependents_of_a_failure_are_skipped_and_the_rest_finishes() -> None:
    def work(name: str) -> str:
        if name == "base":
            raise BuildToolsError("base is broken")
        return name

    results = run(GRAPH, work, jobs=4)
    assert ["tool"] == list(results.done)
    assert "base is broken" == str(results.failed["base"])
    assert {"app": "base", "web": "app"} == results.skipped


def test_a_cancelled_run_starts_nothing_more() -> None:
    cancelled = threading.Event()

    def work(name: str) -> str:
        cancelled.set()
        return name

    results = run(GRAPH, work, jobs=1, cancelled=cancelled)
    assert ["base"] == list(results.done)
    assert {"app": "", "tool": "", "web": ""} == results.skipped


def test_an_unexpected_exception_is_not_swallowed() -> None:
    def work(name: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(GRAPH, work, jobs=2)


def test_parents_outside_the_graph_count_as_done() -> None:
    assert {"app": "app"} == run({"app": ("base",)}, str, jobs=1).done
