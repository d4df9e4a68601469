"""S3's errors in our words: the fact, and what the reader can do about it. No message holds a secret."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from buildtools import BuildToolsError, Refused, Unreachable

_SET_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_GRANT = "grant the key reading, writing and listing of what lies below the configured prefix"

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and what others answer in their place. HEAD
# answers have no body, so there botocore gives the status in place of a code.
_REFUSALS = {
    "NoSuchBucket": ("bucket {bucket} does not exist at {endpoint}", "create it, or correct artifacts"),
    "InvalidBucketName": ("{bucket} is not a name that a bucket can have", "correct artifacts"),
    "AccessDenied": ("{endpoint} denies access to {what}", _GRANT),
    "AllAccessDisabled": ("{endpoint} denies access to {what}", _GRANT),
    "403": ("{endpoint} denies access to {what}", _GRANT),
    "InvalidAccessKeyId": ("{endpoint} does not know the S3 access key", _SET_KEYS),
    "SignatureDoesNotMatch": ("{endpoint} finds the S3 secret key wrong", "correct AWS_SECRET_ACCESS_KEY"),
    "InvalidToken": ("{endpoint} finds the S3 session token wrong", "renew AWS_SESSION_TOKEN"),
    "ExpiredToken": ("the S3 session token has expired", "renew AWS_SESSION_TOKEN"),
    "RequestTimeTooSkewed": ("{endpoint} finds this machine's clock wrong", "set the clock (timedatectl set-ntp true)"),
    "RequestExpired": ("{endpoint} finds this machine's clock wrong", "set the clock (timedatectl set-ntp true)"),
    "AuthorizationHeaderMalformed": ("bucket {bucket} is in another region", "set AWS_REGION to the bucket's region"),
    "PermanentRedirect": ("bucket {bucket} is in another region", "set AWS_REGION to the bucket's region"),
    "301": ("bucket {bucket} is in another region", "set AWS_REGION to the bucket's region"),
    "NotImplemented": (
        "{endpoint} cannot do what is asked ({message})",
        "use a service with conditional writes, and set s3_checksums = false if it knows no checksums",
    ),
}
_TEMPORARY = frozenset(
    {"InternalError", "NoSuchUpload", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
)
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})


@contextmanager
def translated(bucket: str, endpoint: str, what: str) -> Iterator[None]:
    """What botocore raises inside, as one of our errors; ``what`` is being read or written at ``endpoint``.

    :raises Refused: credentials, rights, bucket, region, clock.
    :raises Unreachable: the service does not answer, asks to wait, or got damaged bytes; worth a retry.
    :raises BuildToolsError: anything else that the service refuses.
    """
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise _refusal(error.response, bucket, endpoint, what) from None
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.ProfileNotFound,
        exceptions.TokenRetrievalError,
    ) as error:
        raise Refused(f"there are no S3 credentials ({error})", _SET_KEYS) from None
    except (exceptions.SSLError, exceptions.ProxyConnectionError) as error:
        raise Unreachable(
            f"{endpoint} cannot be reached ({_reason(error)})", "check AWS_CA_BUNDLE, HTTPS_PROXY and NO_PROXY"
        ) from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError) as error:
        raise Unreachable(
            f"{endpoint} cannot be reached ({_reason(error)})", "check that it runs and s3_endpoint, then try again"
        ) from None
    except exceptions.BotoCoreError as error:
        raise BuildToolsError(f"{what} at {endpoint} failed ({error})", "correct it and run again") from None


def code(response: dict[str, Any]) -> str:
    """The error code of a refused request, as ``NoSuchKey``; the status where the answer had none."""
    return str(response.get("Error", {}).get("Code", ""))


def _refusal(response: dict[str, Any], bucket: str, endpoint: str, what: str) -> BuildToolsError:
    message = response.get("Error", {}).get("Message", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    name = code(response)
    if name in _REFUSALS:
        fact, remedy = _REFUSALS[name]
        return Refused(fact.format(bucket=bucket, endpoint=endpoint, what=what, message=message), remedy)
    if name in _DAMAGED:
        return Unreachable(f"{what} was damaged on its way to {endpoint} ({name})", "try again")
    if name in _TEMPORARY or status >= 500 or status == 429:
        return Unreachable(f"{endpoint} is not ready for {what} ({name}: {message})", "try again later")
    return BuildToolsError(f"{endpoint} refuses {what} ({name}: {message})", "see what the service's log says")


def _reason(error: Exception) -> str:
    # botocore's own text repeats the whole URL with the upload's id; the system's, below it, is what helps.
    text = str(getattr(error, "kwargs", {}).get("error", ""))
    return text[text.rindex("[") :] if "[" in text else type(error).__name__
