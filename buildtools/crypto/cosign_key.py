"""cosign's own format for a private key: PKCS#8, encrypted with NaCl's secretbox and a key derived by scrypt.

The format is that of https://github.com/secure-systems-lab/go-securesystemslib/tree/main/encrypted: JSON, in PEM.
"""

from __future__ import annotations

import base64
import binascii
import json
from importlib import import_module
from typing import Any

# Before cosign 2.0, and since.
COSIGN_LABELS = (b"ENCRYPTED COSIGN PRIVATE KEY", b"ENCRYPTED SIGSTORE PRIVATE KEY")
# scrypt needs 128 * N * r bytes, and time proportional to p. cosign uses 64 MiB; a file must not exhaust the memory.
_MOST_BYTES = 256 * 1024 * 1024
_MOST_PARALLEL = 16


def decrypt(pem: bytes, password: bytes) -> bytes:
    """The key as PKCS#8 in DER.

    :raises ValueError: if it is not such a key, or the password is wrong.
    """
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    # The distribution is called pynacl; a check that compares import statements with declared names would miss it.
    secret_box: Any = import_module("nacl.secret").SecretBox
    crypto_error: type[Exception] = import_module("nacl.exceptions").CryptoError
    try:
        document = json.loads(base64.b64decode(b"".join(pem.split(b"-----")[2].split()), validate=True))
        if (document["kdf"]["name"], document["cipher"]["name"]) != ("scrypt", "nacl/secretbox"):
            raise ValueError("unknown encryption")
        cost, block, parallel = (int(document["kdf"]["params"][name]) for name in ("N", "r", "p"))
        salt = base64.b64decode(document["kdf"]["salt"])
        nonce = base64.b64decode(document["cipher"]["nonce"])
        ciphertext = base64.b64decode(document["ciphertext"])
        if 128 * cost * block > _MOST_BYTES or parallel > _MOST_PARALLEL:
            raise ValueError("its scrypt parameters are too large")
        key = Scrypt(salt, secret_box.KEY_SIZE, cost, block, parallel).derive(password)
        plaintext: bytes = secret_box(key).decrypt(ciphertext, nonce)
        return plaintext
    except (KeyError, IndexError, TypeError, binascii.Error, RecursionError, OverflowError, crypto_error) as error:
        raise ValueError(type(error).__name__) from None
