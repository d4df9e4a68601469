"""S3's errors in our words: the fact, and what the reader can do about it. No message contains a secret."""

from __future__ import annotations

from typing import Any

from buildtools import BuildToolsError, Refused, Unreachable

# The responses to a conditional write whose condition is false; some services only return the status.
EXISTS = frozenset({"PreconditionFailed", "412"})
# Two conditional writes collided, and neither was told which one won.
COLLISION = "ConditionalRequestConflict"

_SET_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_DENIED = ("{endpoint} denies {right} on {place}", "grant the access key that right below the configured prefix")
# S3 denies access to what does not exist, unless the caller may list.
_LISTING_TOO = ", and s3:ListBucket: without it, what does not exist is denied too"
_READ = "s3:GetObject"
_SIZE = (
    "{endpoint} does not accept an upload of this size to {place}",
    "raise its limit, or that of the proxy before it (nginx: client_max_body_size)",
)
_CLOCK = ("{endpoint} says that this machine's clock is wrong", "set the clock (timedatectl set-ntp true)")
_REGION = ("bucket {bucket} is in another region", "set AWS_REGION to the bucket's region")

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and what other services return instead. Responses
# to HEAD have no body, so botocore gives the status instead of a code.
_REFUSALS = {
    "NoSuchBucket": ("bucket {bucket} does not exist at {endpoint}", "create it, or correct artifacts"),
    "InvalidBucketName": ("{bucket} is not a valid bucket name", "correct artifacts"),
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": ("{endpoint} does not know the S3 access key", _SET_KEYS),
    "SignatureDoesNotMatch": ("{endpoint} rejects the S3 secret key", "correct AWS_SECRET_ACCESS_KEY"),
    "InvalidToken": ("{endpoint} rejects the S3 session token", "renew AWS_SESSION_TOKEN"),
    "ExpiredToken": ("the S3 session token has expired", "renew AWS_SESSION_TOKEN"),
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "EntityTooLarge": _SIZE,
    "413": _SIZE,
    "NotImplemented": (
        "{endpoint} does not support a request that a release needs ({message})",
        "use a service with conditional writes, or set s3_conditional_writes = false and publish one at a time; "
        "if it knows no checksums, set s3_checksums = false",
    ),
}
# The permission that each operation needs; all others write.
_RIGHTS = {
    "head_object": _READ,
    "get_object": _READ,
    "list_objects_v2": "s3:ListBucket",
    "delete_object": "s3:DeleteObject",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
}
_TEMPORARY = frozenset(
    {"InternalError", "NoSuchUpload", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
)
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})


def code(response: dict[str, Any]) -> str:
    """The error code of a response, such as ``NoSuchKey``; the status if S3 gave none, empty if it succeeded."""
    return str(response.get("Error", {}).get("Code", ""))


def refusal(response: dict[str, Any], operation: str, bucket: str, endpoint: str, place: str) -> BuildToolsError:
    """The error for a service's response to an operation on ``place``; ``Unreachable`` if a retry may help."""
    right = _RIGHTS.get(operation, "s3:PutObject")
    message = response.get("Error", {}).get("Message", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    name = code(response)
    if name in _REFUSALS:
        fact, remedy = _REFUSALS[name]
        if (fact, remedy) == _DENIED and right == _READ:
            remedy += _LISTING_TOO
        values = {"bucket": bucket, "endpoint": endpoint, "place": place, "message": message, "right": right}
        return Refused(fact.format_map(values), remedy)
    if name in _DAMAGED:
        return Unreachable(f"{place} was damaged on its way to {endpoint} ({name})", "try again")
    if status == 507:
        return Unreachable(f"{endpoint} has no space left for {place} ({name})", "make room there, then try again")
    if name in _TEMPORARY or status >= 500 or status == 429:
        return Unreachable(f"{endpoint} is not ready for {place} ({name}: {message})", "try again later")
    if name == "404":
        # S3 says what does not exist, so this came from something in between.
        return foreign(endpoint, place, "404 without an error document")
    return BuildToolsError(f"{endpoint} refuses {place} ({name}: {message})", "see what the service's log says")


def foreign(endpoint: str, place: str, reason: str) -> Unreachable:
    """The error for a response that is not S3's own, or is truncated."""
    return Unreachable(
        f"the answer of {endpoint} about {place} is not valid S3 ({reason})",
        "check s3_endpoint and the proxies in between, then try again",
    )


def failure(error: Exception, endpoint: str, place: str) -> BuildToolsError:
    """The error for what botocore or urllib3 raised while sending a request or reading a response."""
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    if isinstance(
        error,
        (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.ProfileNotFound,
            exceptions.TokenRetrievalError,
        ),
    ):
        return Refused(f"no S3 credentials found ({error})", _SET_KEYS)
    if isinstance(error, (exceptions.SSLError, exceptions.ProxyConnectionError)):
        return Unreachable(
            f"{endpoint} cannot be reached ({_reason(error)})", "check AWS_CA_BUNDLE, HTTPS_PROXY and NO_PROXY"
        )
    outages = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError, HTTPError)
    if isinstance(error, outages):
        return Unreachable(
            f"{endpoint} cannot be reached ({_reason(error)})",
            "check that it runs and that s3_endpoint is right, then try again",
        )
    if isinstance(error, exceptions.ConfigParseError):
        return Refused(f"AWS's own configuration is not valid ({error})", "correct that file, or AWS_CONFIG_FILE")
    if isinstance(error, (exceptions.ParamValidationError, exceptions.InvalidRegionError)):
        return Refused(f"{place} is not a valid S3 address ({error})", "correct artifacts or AWS_REGION")
    return BuildToolsError(f"{place} at {endpoint} failed ({error})", "correct it and run again")


def _reason(error: Exception) -> str:
    # botocore's own text repeats the whole URL with the upload's id; the system's error inside it is what helps.
    text = str(getattr(error, "kwargs", {}).get("error", ""))
    return text[text.rindex("[") :] if "[" in text else type(error).__name__
