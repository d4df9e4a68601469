"""One describing process per worker of the test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compat.oracle import Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    process = Worker()
    yield process
    process.close()
