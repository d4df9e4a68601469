"""A run that is killed half way, and the same run again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from random import Random

from buildtools import BuildToolsError
from buildtools.archive.checksums import PART, checksums_of
from buildtools.archive.object_store.bucket import Patience
from buildtools.archive.object_store.part_copier import JOINTS
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.archive.store import Basis, SharedRange
from tests.conftest import S3Service
from tests.faults.proxy import wire_to

# Sends a part, says so, and then waits to be killed.
HALF_AN_UPLOAD = """
import json, sys
from buildtools.archive.checksums import PART, Checksums, checksums_of
from buildtools.archive.object_store.s3_store import S3Store

told = json.loads(sys.stdin.readline())

def write(out):
    out.write(b"a" * PART)
    out.write(b"a")
    print("half way", flush=True)
    sys.stdin.read()

S3Store.connect(told["url"], environment=told["environment"]).upload("daemon.tgz", write, Checksums(0, ""))
"""


def test_a_killed_upload_leaves_no_object_and_the_next_run_completes(s3: S3Service) -> None:
    url = f"s3://{s3.bucket()}/widgets"
    with subprocess.Popen([sys.executable, "-c", HALF_AN_UPLOAD], stdin=-1, stdout=-1, text=True) as killed:
        assert killed.stdin is not None
        assert killed.stdout is not None
        killed.stdin.write(json.dumps({"url": url, "environment": dict(s3.environment)}) + "\n")
        killed.stdin.flush()
        assert "half way\n" == killed.stdout.readline()
        killed.kill()
        killed.wait()
        killed.stdin.close()
    assert -signal.SIGKILL == killed.returncode
    store = S3Store.connect(url, environment=s3.environment)
    assert None is store.head("daemon.tgz")
    now = datetime.now(UTC)
    tries = [("daemon", -1), ("other", 1), ("daemon", 1), ("daemon", 1)]
    assert [0, 0, 1, 0] == [store.discard_unfinished(key, now + timedelta(hours=late)) for key, late in tries]

    content = b"a" * (PART + 2)
    assert store.upload("daemon.tgz", lambda out: out.write(content), checksums_of(content)).is_new


class Break:
    """Lets the first ``count`` requests arrive and then nothing any more, as if the process were killed."""

    def __init__(self, count: int) -> None:
        self._left = count

    def __call__(self, data: bytes) -> bytes | None:
        if re.match(rb"(?:GET|HEAD|PUT|POST|DELETE) /", data):
            self._left -= 1
        return None if self._left < 0 else data


def test_an_upload_that_copies_may_end_at_every_request(s3: S3Service) -> None:
    url, content = f"s3://{s3.bucket()}/widgets", Random(1).randbytes(PART + 1000)
    old, new = b"1.4.2" + content, b"1.10.0" + content
    expected = checksums_of(new)
    store = S3Store.connect(url, environment=s3.environment)
    store.upload("daemon-1.4.2.tgz", lambda out: out.write(old), checksums_of(old))
    basis = Basis("daemon-1.4.2.tgz", (SharedRange(6, 5, len(content)),))
    leftovers = set()
    for count in range(100):
        with wire_to(s3.endpoint.removeprefix("http://")) as wire:
            wire.sent = Break(count)
            environment = {**s3.environment, "AWS_ENDPOINT_URL_S3": f"http://{wire.address}"}
            fragile = S3Store.connect(url, environment=environment, patience=Patience(attempts=1))
            try:
                fragile.upload("daemon.tgz", lambda out: out.write(new), expected, basis=basis)
            except BuildToolsError:
                assert store.digest("daemon.tgz", expected) in (None, expected.sha256)
                leftovers |= {entry.key for entry in store.list(JOINTS)}
            else:
                break
    assert expected.sha256 == store.digest("daemon.tgz", deep=True)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert (True, True) == (len(leftovers) > 1, store.discard_unfinished("daemon", tomorrow) > len(leftovers))
    assert ((), 0) == (store.list(JOINTS), store.discard_unfinished("daemon", tomorrow))
