"""Canonical JSON, its hash, and its signature. Needs no torch.

The content is serialised as RFC 8785 says (one way only to write it), so that everybody gets the same SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rfc8785

from salmu_core.errors import BadRecord, SalmuError

FORMAT = "salmu-certificate/1"
CERTIFICATE_FILE = "certificate.json"
_INSTALL = "pip install 'salmu-deletion[certificate]'"


def canonical(content: Mapping[str, Any]) -> bytes:
    """The one way to write this content (RFC 8785, UTF-8)."""
    return rfc8785.dumps(dict(content))


def seal(content: Mapping[str, Any], key: Path | None = None, password: Callable[[], str] | None = None) -> dict[str, Any]:
    """The certificate: content, its SHA-256, and a signature of the canonical content where a key is given.

    Args:
        key: an Ed25519 private key as PEM, e.g. of `openssl genpkey -algorithm ed25519`.
        password: asked when the key is encrypted.

    Raises:
        SalmuError: the key cannot be used, or cryptography is not installed.
    """
    written = canonical(content)
    sealed: dict[str, Any] = {"format": FORMAT, "content": dict(content), "sha256": hashlib.sha256(written).hexdigest()}
    if key is not None:
        private = _private_key(key, password)
        sealed["signature"] = {
            "algorithm": "Ed25519",
            "public_key": base64.b64encode(_raw(private.public_key())).decode(),
            "value": base64.b64encode(private.sign(written)).decode(),
        }
    return sealed


def read_sealed(path: Path) -> dict[str, Any]:
    """A certificate file, unchecked.

    Raises:
        BadRecord: not there, not JSON, or no certificate.
    """
    try:
        sealed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRecord(f"There is no certificate '{path}'.") from None
    except (OSError, ValueError) as error:
        raise BadRecord(f"The certificate '{path}' cannot be read: {error}.") from error
    if not isinstance(sealed, dict) or sealed.get("format") != FORMAT or not isinstance(sealed.get("content"), dict):
        raise BadRecord(f"'{path}' is no certificate of format {FORMAT}.", "Give the certificate.json that salmu wrote.")
    return sealed


def hash_problem(sealed: Mapping[str, Any]) -> str | None:
    """Why the content is not what was sealed; None where it is."""
    try:
        found = hashlib.sha256(canonical(sealed["content"])).hexdigest()
    except rfc8785.CanonicalizationError as error:
        return f"its content cannot be written canonically: {error}"
    stated = sealed.get("sha256")
    return None if found == stated else f"its content has the SHA-256 {found}, and {stated} is stated: it was changed"


def signature_problem(sealed: Mapping[str, Any], public_key: Path | None = None) -> str | None:
    """Why the signature does not hold; None where it does.

    Args:
        public_key: PEM of the key that must have signed; None: the one that the certificate names itself.

    Raises:
        SalmuError: the public key cannot be read, or cryptography is not installed.
    """
    crypto = _cryptography()
    signature = sealed.get("signature")
    if not isinstance(signature, dict):
        return "it is not signed"
    try:
        named = base64.b64decode(signature["public_key"], validate=True)
        value = base64.b64decode(signature["value"], validate=True)
        key = crypto.ed25519.Ed25519PublicKey.from_public_bytes(named)
    except (KeyError, TypeError, ValueError):
        return "its signature is damaged"
    if public_key is not None and _raw(_public_key(public_key)) != named:
        return f"it was signed with another key than {public_key}"
    try:
        key.verify(value, canonical(sealed["content"]))
    except crypto.InvalidSignature:
        return "its signature does not belong to its content"
    return None


def key_name(sealed: Mapping[str, Any]) -> str | None:
    """A short name of the key that signed: the first 16 hex digits of its SHA-256."""
    signature = sealed.get("signature")
    if not isinstance(signature, dict) or not isinstance(signature.get("public_key"), str):
        return None
    try:
        return hashlib.sha256(base64.b64decode(signature["public_key"])).hexdigest()[:16]
    except ValueError:
        return None


class _Crypto:
    """What is used of cryptography."""

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

        self.InvalidSignature, self.serialization, self.ed25519 = InvalidSignature, serialization, ed25519


def _cryptography() -> _Crypto:
    try:
        return _Crypto()
    except ImportError:
        raise SalmuError("Signatures take the package cryptography, which is not installed.", _INSTALL) from None


def _private_key(path: Path, password: Callable[[], str] | None) -> Any:
    crypto = _cryptography()
    content = _read_key(path)
    try:
        key = crypto.serialization.load_pem_private_key(content, None)
    except TypeError:  # encrypted
        if password is None:
            raise SalmuError(f"The key '{path}' is encrypted.", "Give its password.") from None
        try:
            key = crypto.serialization.load_pem_private_key(content, password().encode())
        except ValueError:
            raise SalmuError(f"The password does not open the key '{path}'.") from None
    except ValueError as error:
        raise SalmuError(
            f"'{path}' holds no private key: {error}", "openssl genpkey -algorithm ed25519 -out key.pem"
        ) from None
    if not isinstance(key, crypto.ed25519.Ed25519PrivateKey):
        raise SalmuError(f"'{path}' is no Ed25519 key.", "openssl genpkey -algorithm ed25519 -out key.pem")
    return key


def _public_key(path: Path) -> Any:
    crypto = _cryptography()
    try:
        key = crypto.serialization.load_pem_public_key(_read_key(path))
    except ValueError as error:
        raise SalmuError(
            f"'{path}' holds no public key: {error}", "openssl pkey -in key.pem -pubout -out public.pem"
        ) from None
    if not isinstance(key, crypto.ed25519.Ed25519PublicKey):
        raise SalmuError(f"'{path}' is no Ed25519 key.")
    return key


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SalmuError(f"The key '{path}' cannot be read: {error.strerror or error}.") from error


def _raw(key: Any) -> bytes:
    serialization = _cryptography().serialization
    raw: bytes = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw
