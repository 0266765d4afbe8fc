"""Signatures by a shared secret, whichever of the usual ways a vendor counts and writes them."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Literal

Algorithm = Literal["hmac-sha256", "hmac-sha512", "hmac-sha1", "hmac-md5", "sha256", "sha1", "md5"]
"""With a key, or the plain digest of a text in which a secret stands: many vendors still sign so."""

Encoding = Literal["hex", "HEX", "base64", "base64url"]

_DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
}


def is_keyed(algorithm: Algorithm) -> bool:
    """Tell whether the algorithm takes a key."""
    return algorithm.startswith("hmac-")


def signature(algorithm: Algorithm, key: bytes, data: bytes) -> bytes:
    """Return the digest; `key` is not looked at by plain digests."""
    if is_keyed(algorithm):
        return hmac.digest(key, data, algorithm.removeprefix("hmac-"))
    return _DIGESTS[algorithm](data)


def encoded(digest: bytes, encoding: Encoding) -> str:
    """Return a digest as text."""
    match encoding:
        case "hex":
            return digest.hex()
        case "HEX":
            return digest.hex().upper()
        case "base64":
            return base64.b64encode(digest).decode()
        case "base64url":
            return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def decoded(text: str, encoding: Encoding) -> bytes | None:
    """Return the digest that a text claims, None where it is none; case of hexadecimal digits does not matter."""
    try:
        match encoding:
            case "hex" | "HEX":
                return bytes.fromhex(text)
            case "base64":
                return base64.b64decode(text, validate=True)
            case "base64url":
                return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
