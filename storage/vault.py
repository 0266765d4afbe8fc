"""Secrets at rest: AES-256-GCM, the key's id beside the ciphertext, each bound to the place it is kept (rule 10).

A sealed secret is `version (1 byte) | length of key id (1) | key id | nonce (12) | ciphertext | tag (16)`. All before
the nonce, and the name of the place, are authenticated too: moved to another row, or with its key renamed, it does not
open.
"""

import secrets
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = 1
_NONCE = 12  # bytes, drawn at random: so one key may seal 2^32 secrets (NIST SP 800-38D §8.3)


class SealError(Exception):
    """What was to be opened is not a secret sealed for this place under a key that is held here."""


class Vault:
    """Seals and opens secrets. `keys` are 32 bytes each, by id; the first seals, all open."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys or any(len(key) != 32 or not 0 < len(name.encode()) < 256 for name, key in keys.items()):
            raise ValueError("a vault takes one or more keys of 32 bytes, each with an id of 1 to 255 bytes")
        self._keys = {name: AESGCM(key) for name, key in keys.items()}
        self._active = next(iter(keys))

    def seal(self, plain: bytes, bound_to: str) -> bytes:
        """Encrypt a secret for one place, such as `device/dev_1/push_token`: it opens under that name only."""
        name = self._active.encode()
        header = bytes([_VERSION, len(name)]) + name
        nonce = secrets.token_bytes(_NONCE)
        return header + nonce + self._keys[self._active].encrypt(nonce, plain, header + bound_to.encode())

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """Return the secret. Raises SealError for another place, an unknown key, or a single changed bit."""
        name = key_id(sealed)
        if name not in self._keys:
            raise SealError(f"sealed under the key {name!r}, which is not held here")
        end = 2 + len(name.encode())
        header, nonce, ciphertext = sealed[:end], sealed[end : end + _NONCE], sealed[end + _NONCE :]
        try:
            return self._keys[name].decrypt(nonce, ciphertext, header + bound_to.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: cut off within the nonce
            raise SealError(f"not what was sealed for {bound_to}") from error

    def reseal(self, sealed: bytes, bound_to: str) -> bytes:
        """Return the secret sealed under the first key: the very same bytes where it is already. Raises SealError."""
        return sealed if key_id(sealed) == self._active else self.seal(self.open(sealed, bound_to), bound_to)


def key_id(sealed: bytes) -> str:
    """Return the id of the key that sealed this. Raises SealError where it is no sealed secret."""
    if len(sealed) < 2 or sealed[0] != _VERSION or len(sealed) < 2 + sealed[1]:
        raise SealError("not a sealed secret")
    try:
        return sealed[2 : 2 + sealed[1]].decode()
    except UnicodeDecodeError as error:
        raise SealError("not a sealed secret") from error
