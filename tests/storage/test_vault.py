"""Sealing secrets: what opens where, and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.vault import SealError, Vault, key_id

OLD = b"an old key, 32 bytes: no secret."
NEW = b"a new key, 32 bytes, no secret ."


@given(plain=st.binary(max_size=300), place=st.text(max_size=50))
def test_a_sealed_secret_opens_at_its_place(plain: bytes, place: str) -> None:
    """What was sealed for a place is what opens there."""
    vault = Vault({"new": NEW})

    assert plain == vault.open(vault.seal(plain, place), place)


def test_the_same_secret_never_looks_the_same() -> None:
    """Sealing twice gives two ciphertexts, so that equal secrets cannot be told by looking at rows."""
    vault = Vault({"new": NEW})

    assert vault.seal(b"push token", "device/1") != vault.seal(b"push token", "device/1")


def test_a_secret_moved_to_another_row_does_not_open() -> None:
    """The place is authenticated."""
    vault = Vault({"new": NEW})
    sealed = vault.seal(b"push token", "device/1/push_token")

    with pytest.raises(SealError):
        vault.open(sealed, "device/2/push_token")


def test_every_changed_bit_is_noticed() -> None:
    """No bit of what is kept can be changed, be it header, nonce, ciphertext or tag."""
    vault = Vault({"new": NEW, "neu": OLD})
    sealed = vault.seal(b"push token", "device/1")

    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            vault.open(bytes(changed), "device/1")


def test_a_key_that_was_renamed_does_not_open() -> None:
    """The key's id is authenticated: the right key under another name is another key."""
    sealed = Vault({"old": OLD}).seal(b"push token", "device/1")
    renamed = sealed.replace(b"old", b"new")

    with pytest.raises(SealError):
        Vault({"new": OLD}).open(renamed, "device/1")


def test_every_truncation_is_noticed() -> None:
    """What was cut off anywhere is refused with the one error, not with the parser's."""
    vault = Vault({"new": NEW})
    sealed = vault.seal(b"push token", "device/1")

    for length in range(len(sealed)):
        with pytest.raises(SealError):
            vault.open(sealed[:length], "device/1")


def test_an_unknown_key_is_named() -> None:
    """Whoever dropped a key too early is told which."""
    sealed = Vault({"old": OLD}).seal(b"push token", "device/1")

    with pytest.raises(SealError, match="'old'"):
        Vault({"new": NEW}).open(sealed, "device/1")


def test_the_first_key_seals_and_all_keys_open() -> None:
    """A key is rotated by putting the new one first."""
    sealed = Vault({"old": OLD}).seal(b"push token", "device/1")
    both = Vault({"new": NEW, "old": OLD})

    assert b"push token" == both.open(sealed, "device/1")
    assert "new" == key_id(both.seal(b"push token", "device/1"))


def test_resealing_takes_a_secret_to_the_first_key() -> None:
    """After resealing, the old key is not needed; a secret under the first key stays the very bytes it is."""
    sealed = Vault({"old": OLD}).seal(b"push token", "device/1")
    resealed = Vault({"new": NEW, "old": OLD}).reseal(sealed, "device/1")

    assert "new" == key_id(resealed)
    assert b"push token" == Vault({"new": NEW}).open(resealed, "device/1")
    assert resealed is Vault({"new": NEW, "old": OLD}).reseal(resealed, "device/1")


@pytest.mark.parametrize("keys", [{}, {"short": b"x" * 16}, {"": NEW}, {"n" * 256: NEW}])
def test_unusable_keys_are_refused(keys: dict[str, bytes]) -> None:
    """A vault without a key, or with one that is no AES-256 key, is not made."""
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(keys)
