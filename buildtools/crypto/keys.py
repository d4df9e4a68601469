"""Keys in files: ECDSA on P-256, or Ed25519, in PEM.

A private key is PKCS#8, with or without a password, or cosign's own encrypted format; a public key is like
``cosign.pub``. Signatures are those of cosign and DSSE: ECDSA over SHA-256 in DER, and plain Ed25519.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from buildtools import Refused
from buildtools.crypto.cosign_key import COSIGN_LABELS, decrypt
from buildtools.settings import SIGNING_PASSWORD

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    _Private = EllipticCurvePrivateKey | Ed25519PrivateKey
    _Public = EllipticCurvePublicKey | Ed25519PublicKey

_KINDS = "a key is ECDSA on P-256 or Ed25519; make one with `cosign generate-key-pair`"


class PublicKeys:
    """One or more public keys; a signature by any of them is valid."""

    def __init__(self, keys: Sequence[_Public]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def read(cls, pem: bytes, where: str) -> PublicKeys:
        """The keys in ``pem``, which may contain several; ``where`` is its name in messages.

        :raises Refused: if there is none, or one of another kind.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        if b"PRIVATE KEY" in pem:
            raise Refused(f"{where} is a private key", "name the public one, and keep that where releases are made")
        end = b"-----END PUBLIC KEY-----"
        blocks = [block.strip() + b"\n" + end + b"\n" for block in pem.split(end)[:-1]]
        try:
            keys = [load_pem_public_key(block) for block in blocks]
        except (ValueError, UnsupportedAlgorithm):
            keys = []
        if not keys:
            raise Refused(f"{where} is not a public key in PEM", "name a file such as cosign.pub")
        return cls([_public(key, where) for key in keys])

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether this is a signature of the message by one of the keys."""
        return any(_verifies(key, message, signature) for key in self._keys)


class SigningKey:
    """A private key whose signatures are deterministic: the same message gets the same signature.

    Ed25519 is deterministic by itself, ECDSA according to RFC 6979. So publishing again makes the same release.
    ``is_encrypted`` tells whether it was read from an encrypted file.
    """

    def __init__(self, key: _Private, *, is_encrypted: bool = False) -> None:
        self._key = key
        self.is_encrypted = is_encrypted

    @classmethod
    def read(cls, pem: bytes, where: str, password: str | None) -> SigningKey:
        """The key in ``pem``; ``where`` is its name in messages. ``password`` is None if none is set.

        :raises Refused: if it is not such a key, the password is wrong, or there is none for an encrypted key.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

        is_encrypted = b"ENCRYPTED" in pem
        if is_encrypted and password is None:
            raise Refused(f"{where} is encrypted, and {SIGNING_PASSWORD} is not set", "set it to the key's password")
        secret = os.fsencode(password or "")
        try:
            if any(label in pem for label in COSIGN_LABELS):
                key = load_der_private_key(decrypt(pem, secret), None)
            else:
                key = load_pem_private_key(pem, secret if is_encrypted else None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # The library's message may quote the key.
            raise Refused(
                *(
                    (f"{where} cannot be decrypted", f"it is damaged, or {SIGNING_PASSWORD} is not its password")
                    if is_encrypted
                    else (f"{where} is not a private key in PEM", f"name one in PKCS#8 or in cosign's form; {_KINDS}")
                )
            ) from None
        _public(key.public_key(), where)
        assert isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey)
        return cls(key, is_encrypted=is_encrypted)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message.

        :raises Refused: if the installed library cannot make deterministic ECDSA signatures.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256

        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        try:
            return self._key.sign(message, ECDSA(SHA256(), deterministic_signing=True))
        except UnsupportedAlgorithm:
            raise Refused(
                "the installed `cryptography` cannot sign as RFC 6979 requires: its OpenSSL is older than 3.2",
                "install it from its wheel, or sign with an Ed25519 key",
            ) from None

    @property
    def public(self) -> PublicKeys:
        """The key that verifies the signatures of this one."""
        return PublicKeys([self._key.public_key()])


def read_pem(source: str, root: Path, environment: Mapping[str, str], where: str) -> bytes:
    """The content of ``source``: a path, relative to ``root``, or ``env:NAME``; ``where`` says where it is configured.

    :raises Refused: if it cannot be read.
    """
    if source.startswith("env:"):
        variable = source.removeprefix("env:")
        if not environment.get(variable):
            raise Refused(f"{where} is in the variable {variable}, which is not set", "set it")
        # Where a variable can have one line only, "\n" usually stands for the end of a line. PEM has no backslash.
        return os.fsencode(environment[variable].replace("\\n", "\n"))
    try:
        return (root / source).read_bytes()
    except OSError as error:
        raise Refused(f"{where}: {source} cannot be read ({error.strerror})", "name another file") from None


def _public(key: object, where: str) -> _Public:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if isinstance(key, Ed25519PublicKey):
        return key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    raise Refused(f"{where} is a key of another kind", _KINDS)


def _verifies(key: _Public, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True
