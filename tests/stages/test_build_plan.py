from __future__ import annotations

import pytest

from buildtools import Refused
from buildtools.stages.build_plan import Shard


def test_a_share_is_one_of_so_many() -> None:
    assert Shard(2, 4, parents=True, plan="plan.json") == Shard.parse("2/4", parents=True, plan="plan.json")


@pytest.mark.parametrize("text", ["0/4", "5/4", "two", "2", "/", "-1/4", "1/0", "1/4/2", " 1/4", "\u0661/\u0664"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="is not a share: say which one of how many"):
        Shard.parse(text)
