"""botocore's client, configured by the environment and the settings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from buildtools import Refused
from buildtools.archive.object_store import refusals
from buildtools.archive.object_store.bucket import Patience
from buildtools.schedule import QUESTIONS_AT_ONCE

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def parse_url(url: str) -> tuple[str, str]:
    """The bucket of ``s3://bucket/prefix``, and what all keys begin with: ``prefix/``, or nothing.

    :raises Refused: if it is not such a URL.
    """
    bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise Refused(f"invalid artifacts URL {url!r}", "give s3://BUCKET or s3://BUCKET/PREFIX")
    return bucket, f"{prefix}/" if prefix else ""


def connect(endpoint: str, environment: Mapping[str, str], patience: Patience, *, checksums: bool) -> Any:
    """A client without retries of its own; nothing is sent yet.

    An empty ``endpoint`` means ``AWS_ENDPOINT_URL_S3``, or else Amazon's own. Credentials come from the variables
    ``AWS_*``, else from where botocore looks (profile, role, instance).

    :raises Refused: if the endpoint is invalid or contains a login, only some variables of a key are set, or the
        profile does not exist.
    """
    endpoint = endpoint or environment.get("AWS_ENDPOINT_URL_S3", "") or environment.get("AWS_ENDPOINT_URL", "")
    _refuse_login(endpoint)
    _refuse_half_a_key(environment)
    client = _client(endpoint, environment, patience, checksums=checksums)
    # AWS's own configuration file may name an endpoint too.
    _refuse_login(client.meta.endpoint_url)
    return client


def _refuse_login(endpoint: str) -> None:
    # A login there is never used, and every message with the endpoint would show it.
    if "@" in endpoint:
        raise Refused(
            f"the S3 endpoint contains a login (…@{endpoint.rpartition('@')[2]})",
            "remove it, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )


def _refuse_half_a_key(environment: Mapping[str, str]) -> None:
    # botocore would sign with None, a TypeError at the first request.
    both = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    absent = [name for name in both if not environment.get(name)]
    if len(absent) == 1 or (absent and environment.get("AWS_SESSION_TOKEN")):
        there = next(name for name in (*both, "AWS_SESSION_TOKEN") if environment.get(name))
        raise Refused(
            f"{there} is set without {' and '.join(absent)}",
            "set them together, or none of them where a profile or a role is used",
        )


def _sign_checksum_alone(request: Any, **_: object) -> None:
    """Sign a body by its checksum, if the request has one, which the service compares with what arrives.

    botocore would hash it once more for the signature, and so would the service.
    """
    from botocore.config import Config

    if "x-amz-checksum-sha256" in request.headers:
        config = request.context["client_config"]
        signing = Config(s3={**config.s3, "payload_signing_enabled": False})
        request.context["client_config"] = config.merge(signing)


class _PlainFileLoader:
    """Reads botocore's descriptions as plain dictionaries, which takes half the time of the ordered ones it makes."""

    def exists(self, path: str) -> bool:
        """Whether there is a description at a path, which has no suffix."""
        return _description_file(path) is not None

    def load_file(self, path: str) -> Any:
        """The description at a path; None if there is none."""
        file = _description_file(path)
        content = file.read_bytes() if file else b"null"
        return json.loads(gzip.decompress(content) if file and file.suffix == ".gz" else content)


def _description_file(path: str) -> Path | None:
    return next((file for suffix in (".json", ".json.gz") if (file := Path(path + suffix)).is_file()), None)


@cache
def _data_loader(folders: str | None) -> Any:
    """botocore's description of S3, loaded once for all clients: that is most of the work of creating one."""
    from botocore.loaders import create_loader

    loader: Any = create_loader(folders)
    # To see whether there is S3 among its 400 services, botocore would look into the folder of each, twice.
    loader.list_available_services = lambda _kind: ["s3"]
    loader.file_loader = _PlainFileLoader()
    return loader


def _client(endpoint: str, environment: Mapping[str, str], patience: Patience, *, checksums: bool) -> Any:
    import botocore.session
    from boto3.session import Session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from botocore.handlers import add_expect_header

    try:
        core = botocore.session.get_session()
        core.register_component("data_loader", _data_loader(environment.get("AWS_DATA_PATH") or None))
        # botocore looks up what is None: profile, role, instance.
        session = Session(
            aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID") or None,
            aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY") or None,
            aws_session_token=environment.get("AWS_SESSION_TOKEN") or None,
            region_name=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
            profile_name=environment.get("AWS_PROFILE") or None,
            botocore_session=core,
        )
        config = Config(
            # While a request is sent, this also limits how long the service may block the next part of it.
            connect_timeout=patience.connecting,
            read_timeout=patience.silence,
            retries={"mode": "standard", "total_max_attempts": 1},
            request_checksum_calculation="when_supported" if checksums else "when_required",
            # Content is compared with the checksums of a release, so a service's own checksum adds nothing.
            response_checksum_validation="when_required",
            proxies={} if urlsplit(endpoint).hostname in _LOOPBACK else None,
            # botocore would keep ten, and connect again for each question beyond them.
            max_pool_connections=QUESTIONS_AT_ONCE,
            # For signed URLs too, which botocore would sign in the way of 2006 if possible.
            signature_version="s3v4",
            # A server at a custom address seldom has a host name for each bucket.
            s3={"addressing_style": "path" if endpoint else "auto"},
        )
        client = session.client(
            "s3",
            region_name=session.region_name or "us-east-1",
            endpoint_url=endpoint or None,
            config=config,
        )
        # Bodies are streams, for which botocore would send Expect: 100-continue, and wait a second for a service that
        # ignores it.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        client.meta.events.register("before-sign.s3", _sign_checksum_alone)
        return client
    except BotoCoreError as error:
        raise refusals.failure(error, endpoint or "S3", "the configuration") from None
    except ValueError:
        raise Refused(
            f"{endpoint!r} is not a valid S3 endpoint", "give s3_endpoint as https://HOST or https://HOST:PORT"
        ) from None
