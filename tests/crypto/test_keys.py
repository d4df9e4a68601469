"""Keys as cosign and openssl make them, and what they say of our signatures."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from buildtools import Refused
from buildtools.crypto.keys import PublicKeys, SigningKey, read_pem
from tests.cosign import Cosign

MESSAGE = b"what is signed"
ENCRYPTED = ("-aes256", "-pass", "pass:of a test")
KINDS = {
    "P-256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "Ed25519": ("ED25519",),
    "RSA": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "P-384": ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
}


def openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], capture_output=True, check=True).stdout


def make_key(kind: str, *options: str) -> bytes:
    return openssl("genpkey", "-algorithm", *KINDS[kind], *options)


def make_pair(folder: Path, kind: str) -> tuple[bytes, bytes]:
    private = folder / f"{kind}.pem"
    private.write_bytes(make_key(kind))
    return private.read_bytes(), openssl("pkey", "-in", str(private), "-pubout")


@pytest.mark.parametrize("kind", ["P-256", "Ed25519"])
@pytest.mark.parametrize("options", [(), ENCRYPTED], ids=["open", "encrypted"])
def test_what_a_key_signs_openssl_verifies(kind: str, options: tuple[str, ...], tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(make_key(kind, *options))
    public.write_bytes(openssl("pkey", "-in", str(private), "-passin", "pass:of a test", "-pubout"))
    key = SigningKey.read(private.read_bytes(), "key.pem", "of a test")
    (tmp_path / "message").write_bytes(MESSAGE)
    (tmp_path / "signature").write_bytes(key.sign(MESSAGE))
    how = ["-rawin"] if kind == "Ed25519" else ["-rawin", "-digest", "sha256"]
    files = ["-inkey", str(public), "-sigfile", str(tmp_path / "signature"), "-in", str(tmp_path / "message")]
    assert b"Verified Successfully" in openssl("pkeyutl", "-verify", "-pubin", *files, *how)
    assert PublicKeys.read(public.read_bytes(), "key.pub").verifies(MESSAGE, key.sign(MESSAGE))


def test_a_key_signs_a_message_in_one_way_only() -> None:
    for kind in ("P-256", "Ed25519"):
        pem = make_key(kind)
        signatures = {SigningKey.read(pem, "key.pem", None).sign(MESSAGE) for _ in range(3)}
        assert 1 == len(signatures)


def test_a_key_of_cosign_is_read_with_its_password_alone(cosign: Cosign) -> None:
    private, public = cosign.key_pair("our")
    key = SigningKey.read(private.read_bytes(), "our.key", "of a test")
    (cosign.home / "message").write_bytes(MESSAGE)
    (cosign.home / "signature").write_bytes(base64.b64encode(key.sign(MESSAGE)))
    done = cosign.run(
        *("verify-blob", "--insecure-ignore-tlog", "--key", public, "--signature", "signature", "message")
    )
    assert (0, "Verified OK\n") == (done.returncode, done.stderr.rpartition("WARNING")[2].partition("\n")[2]), done
    assert PublicKeys.read(public.read_bytes(), "our.pub").verifies(MESSAGE, key.sign(MESSAGE))
    with pytest.raises(Refused, match=r"^our.key cannot be decrypted: it is damaged, or COSIGN_PASSWORD is not its "):
        SigningKey.read(private.read_bytes(), "our.key", "another")
    with pytest.raises(Refused, match=r"^our.key is encrypted, and COSIGN_PASSWORD is not set: set it to the"):
        SigningKey.read(private.read_bytes(), "our.key", None)


def test_a_damaged_key_of_cosign_costs_neither_time_nor_a_traceback(cosign: Cosign) -> None:
    whole = cosign.key_pair("our")[0].read_text().splitlines()
    document = json.loads(base64.b64decode("".join(whole[1:-1])))
    for path, value in (
        (("kdf", "params", "N"), 2**40),
        (("kdf", "params", "N"), 3),
        (("kdf", "params", "p"), 2**30),
        (("kdf", "params"), None),
        (("kdf", "name"), "argon2"),
        (("kdf", "salt"), 7),
        (("cipher", "nonce"), "AAAA"),
        (("ciphertext",), "AAAA"),
    ):
        changed = json.loads(json.dumps(document))
        target = changed
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value
        body = base64.b64encode(json.dumps(changed).encode()).decode()
        with pytest.raises(Refused, match="cannot be decrypted"):
            SigningKey.read("\n".join([whole[0], body, whole[-1], ""]).encode(), "our.key", "of a test")
    for text in (whole[0], f"{whole[0]}\n!\n{whole[-1]}", f"{whole[0]}\nW10=\n{whole[-1]}"):
        with pytest.raises(Refused, match="cannot be decrypted"):
            SigningKey.read(text.encode(), "our.key", "of a test")


@pytest.mark.parametrize("kind", ["RSA", "P-384"])
def test_a_key_of_another_kind_is_refused(kind: str, tmp_path: Path) -> None:
    private, public = make_pair(tmp_path, kind)
    with pytest.raises(Refused, match=r"^a.pem is a key of another kind: a key is ECDSA on P-256 or Ed25519"):
        SigningKey.read(private, "a.pem", None)
    with pytest.raises(Refused, match=r"^a.pub is a key of another kind"):
        PublicKeys.read(public, "a.pub")


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused_and_not_quoted(content: bytes) -> None:
    with pytest.raises(Refused, match=r"^a.pem is not a private key in PEM: ") as refusal:
        SigningKey.read(content, "a.pem", None)
    assert refusal.value.__cause__ is None
    with pytest.raises(Refused, match=r"^a.pub is (not a public key in PEM|a private key): "):
        PublicKeys.read(content, "a.pub")


def test_one_of_several_public_keys_is_enough(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, kind) for kind in ("P-256", "Ed25519")]
    keys = PublicKeys.read(b"".join(public for _, public in pairs), "keys.pub")
    for private, _ in pairs:
        assert keys.verifies(MESSAGE, SigningKey.read(private, "a.pem", None).sign(MESSAGE))
    assert not keys.verifies(MESSAGE, SigningKey.read(make_key("P-256"), "a.pem", None).sign(MESSAGE))
    assert not keys.verifies(MESSAGE, b"nonsense")


def test_a_key_comes_from_a_file_or_a_variable(tmp_path: Path) -> None:
    (tmp_path / "cosign.pub").write_bytes(b"a key")
    assert b"a key" == read_pem("cosign.pub", tmp_path, {}, "verify_key")
    assert b"a key" == read_pem(str(tmp_path / "cosign.pub"), Path("/"), {}, "verify_key")
    assert b"another" == read_pem("env:KEY", tmp_path, {"KEY": "another"}, "verify_key")
    pem = make_key("P-256")
    one_line = pem.decode().replace("\n", "\\n")
    assert pem == read_pem("env:KEY", tmp_path, {"KEY": one_line}, "sign.key")
    with pytest.raises(Refused, match=r"^verify_key is in the variable KEY, which is not set"):
        read_pem("env:KEY", tmp_path, {"KEY": ""}, "verify_key")
    with pytest.raises(Refused, match=r"^verify_key: nowhere.pub cannot be read \(No such file or directory\)"):
        read_pem("nowhere.pub", tmp_path, {}, "verify_key")
