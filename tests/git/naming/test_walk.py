"""The quick walk against a slow one that does, step by step, what git does; no machine has both generations of git."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools.git.naming.walk import nearest

History = list[tuple[list[int], int, str]]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Commits as (parents by number, date, kind of tag); the last one is described."""
    history: History = []
    # Of few dates many are equal, as in a history that a script has made: then only the order of arrival decides.
    latest = draw(st.sampled_from([0, 1, 8]))
    for number in range(draw(st.integers(1, 18))):
        parents = draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        tag = draw(st.sampled_from(["", "", "annotated", "lightweight"]))
        history.append((parents, draw(st.integers(0, latest)), tag))
    return history


def slowly(
    history: History, usable: set[int], annotated: set[int], most: int, names: int, *, first_parent: bool, old_git: bool
) -> tuple[int, int] | None:
    """The tagged commit and its depth, with no short cut."""
    start = len(history) - 1
    within: dict[int, set[int]] = {start: set()}
    queue = [start]
    depths: dict[int, int] = {}
    seen = 0

    def put(commit: int) -> None:
        later = [place for place, other in enumerate(queue) if history[other][1] < history[commit][1]]
        queue.insert(later[0] if later else len(queue), commit)

    def pass_on(commit: int, *, only_first: bool) -> None:
        for parent in history[commit][0][:1] if only_first else history[commit][0]:
            if parent not in within:
                within[parent] = set()
                put(parent)
            within[parent] |= within[commit]

    while queue:
        commit = queue.pop(0)
        seen += 1
        if commit in usable and len(depths) == most if old_git else len(depths) in (most, names):
            put(commit)
            break
        if commit in usable:
            depths[commit] = seen - 1
            within[commit].add(commit)
        for tagged in depths:
            depths[tagged] += tagged not in within[commit]
        if annotated & set(depths) and not queue:
            least = min(depths.values())
            if all(tagged in within[commit] for tagged, depth in depths.items() if depth == least):
                break
        pass_on(commit, only_first=first_parent)
    if not depths:
        return None
    best = min(depths, key=lambda tagged: depths[tagged])
    while queue:
        commit = queue.pop(0)
        if best not in within[commit]:
            depths[best] += 1
        elif all(best in within[other] for other in queue):
            break
        pass_on(commit, only_first=False)
    return best, depths[best]


@settings(max_examples=600, deadline=None, derandomize=True)
@given(histories(), st.integers(1, 4), st.booleans(), st.booleans(), st.booleans())
def test_the_quick_walk_ends_where_the_slow_one_does(
    history: History, most: int, any_tag: bool, first_parent: bool, old_git: bool
) -> None:
    annotated = {number for number, (_, _, tag) in enumerate(history) if tag == "annotated"}
    named = {number for number, (_, _, tag) in enumerate(history) if tag}
    usable = named if any_tag else annotated
    found = nearest(
        len(history) - 1,
        lambda number: (history[number][1], history[number][0]),
        usable,
        annotated,
        most=most,
        names=len(named),
        first_parent=first_parent,
        old_git=old_git,
    )
    expected = slowly(history, usable, annotated, most, len(named), first_parent=first_parent, old_git=old_git)
    assert expected == (found and (found.commit, found.depth))
