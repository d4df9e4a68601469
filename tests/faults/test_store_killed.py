"""A run that is killed half way, and the same run again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from buildtools.archive.checksums import PART, checksums_of
from buildtools.archive.object_store.s3_store import S3Store
from tests.conftest import S3Service

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
