from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from buildtools import Refused
from buildtools.request_log import LOGGER, Stopwatch, open_log, without_secrets


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://me:secret@registry.example/v2/app/manifests/1.0", "https://registry.example/v2/app/manifests/1.0"),
        ("https://s3.example/b/k?X-Amz-Signature=secret&uploads", "https://s3.example/b/k?X-Amz-Signature=***&uploads"),
        ("/v2/app/blobs/uploads/1?_state=secret&digest=sha256:a", "/v2/app/blobs/uploads/1?_state=***&digest=sha256:a"),
        (
            "https://auth.example/token?account=me&scope=a:b:pull",
            "https://auth.example/token?account=***&scope=a:b:pull",
        ),
        ("https://cdn.example/blob?%58-token=secret#secret", "https://cdn.example/blob?%58-token=***"),
        ("https://cdn.example/\x1b[31mred\n", "https://cdn.example/%1B[31mred"),
        ("http://[broken/secret", "(a URL that cannot be read)"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert expected == without_secrets(url)


def test_a_request_is_one_line_that_tells_what_came_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER):
        Stopwatch(attempt=2).log("registry", "PUT", "http://h/v2/", 201, sent=5, received=7)
    (line,) = caplog.messages
    assert line.startswith("registry PUT http://h/v2/ 201, 5 bytes sent, 7 received, ")
    assert line.endswith(" ms, attempt 2")


def test_nothing_is_written_unless_somebody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        Stopwatch().log("registry", "GET", "http://h/v2/", 200)
    assert [] == caplog.messages


def test_to_log_nothing_does_not_import_logging() -> None:
    program = (
        "import sys\nfrom buildtools.request_log import Stopwatch\n"
        "Stopwatch().log('engine', 'GET', '/_ping', 200)\nprint('logging' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, cwd=_ROOT)
    assert "False\n" == done.stdout


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"BUILDTOOLS_LOG=.* cannot be written \(Is a directory\): set it to `debug` or "):
        open_log(str(tmp_path))


_ROOT = Path(__file__).parent.parent
