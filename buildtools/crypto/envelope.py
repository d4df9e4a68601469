"""DSSE envelopes: typed bytes, and signatures of both type and bytes.

https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import base64
import json

from buildtools import BuildToolsError
from buildtools.crypto.keys import PublicKeys, SigningKey

# https://github.com/in-toto/attestation/blob/main/spec/v1/envelope.md
_IN_TOTO = "application/vnd.in-toto+json"


class NotSigned(BuildToolsError):
    """Something is not a signed statement, or has no signature by a known key."""


def sealed(payload: bytes, key: SigningKey) -> bytes:
    """The signed envelope of an in-toto statement; the same bytes for the same statement and key."""
    envelope = {
        "payloadType": _IN_TOTO,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(key.sign(_signed_bytes(payload))).decode()}],
    }
    return json.dumps(envelope).encode() + b"\n"


def opened(envelope: bytes, keys: PublicKeys) -> bytes:
    """The statement in an envelope that one of the keys has signed.

    :raises NotSigned: if none has, or it is not such an envelope.
    """
    try:
        document = json.loads(envelope)
        payload = base64.b64decode(document["payload"])
        signatures = [base64.b64decode(each["sig"]) for each in document["signatures"]]
        is_statement = document["payloadType"] == _IN_TOTO
    except (ValueError, KeyError, TypeError, RecursionError):
        is_statement = False
    if not is_statement:
        raise NotSigned("it is not a signed in-toto statement")
    if not any(keys.verifies(_signed_bytes(payload), signature) for signature in signatures):
        raise NotSigned("it is not signed with the key of verify_key")
    return payload


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the lengths and bytes of type and content."""
    return b"DSSEv1 %d %s %d %s" % (len(_IN_TOTO), _IN_TOTO.encode(), len(payload), payload)
