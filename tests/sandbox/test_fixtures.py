"""The services that other tests lean on are what they claim to be."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import boto3
import pytest

from buildtools.sandbox import process
from buildtools.sandbox.engine import EngineAddress
from tests.conftest import EngineService, HtpasswdRegistry, Repository, S3Service


def test_engine_has_the_busybox_image(engine: EngineService) -> None:
    assert EngineAddress(engine.host).has(engine.base_busybox)


def test_open_registry_lets_everybody_in(registry: str) -> None:
    with urllib.request.urlopen(f"http://{registry}/v2/_catalog") as answer:
        assert answer.status == 200


def test_htpasswd_registry_lets_only_its_user_in(registry_htpasswd: HtpasswdRegistry) -> None:
    url = f"http://{registry_htpasswd.host}/v2/"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url)
    refused.value.close()
    login = b64encode(f"{registry_htpasswd.user}:{registry_htpasswd.password}".encode()).decode()
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})) as answer:
        assert (refused.value.code, answer.status) == (401, 200)


def test_s3_gives_fresh_buckets_that_can_be_written(s3: S3Service) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
    )
    first, second = s3.bucket(), s3.bucket()
    client.put_object(Bucket=first, Key="a", Body=b"1", IfNoneMatch="*")
    listed = [client.list_objects_v2(Bucket=bucket)["KeyCount"] for bucket in (first, second)]
    client.close()
    assert listed == [1, 0]


def test_repository_is_described_by_git(repository: Repository) -> None:
    repository.commit(a="1")
    repository.tag("1.0.0")
    second = repository.commit(a="2")
    assert repository.git("describe") == f"1.0.0-1-g{second[:7]}"


def test_services_end_with_a_run_that_is_killed(tmp_path: Path, environment: Mapping[str, str]) -> None:
    (tmp_path / "test_hangs.py").write_text(
        "import signal\n"
        "def test_hangs(registry, services):\n"
        "    print(f'\\nservices={services.folder}', flush=True)\n"
        "    signal.pause()\n"
    )
    command = [sys.executable, "-m", "pytest", "-s", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    root = Path(__file__).parents[2]
    alone = {**environment, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=root, env=alone, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        folder = next(Path(line.strip()[9:]) for line in run.stdout if line.startswith("services="))
        pids = [process.pid(name, folder) for name in ("keeper", "registry")]
        handles = [os.pidfd_open(pid) for pid in pids if pid]
        run.kill()
    ended = [select.select([handle], [], [], 30)[0] == [handle] for handle in handles]
    for handle in handles:
        os.close(handle)
    assert ended == [True, True]
    assert list(tmp_path.glob("buildtools-tests-*")) == []
