"""Signatures: vectors of their standards, and how they are written."""

import pytest

from server.providers.signatures import Algorithm, Encoding, decoded, encoded, is_keyed, signature


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        # RFC 2202 and RFC 4231, test case 2
        ("hmac-md5", "750c783e6ab0b503eaa86e310a5db738"),
        ("hmac-sha1", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ("hmac-sha256", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ("md5", "d03cb659cbf9192dcd066272249f8412"),
    ],
)
def test_signatures_are_those_of_the_standards(algorithm: Algorithm, expected: str) -> None:
    """Keyed ones by the vectors of their RFCs; a plain digest does not look at the key."""
    assert expected == signature(algorithm, b"Jefe", b"what do ya want for nothing?").hex()
    assert 64 == len(signature("hmac-sha512", b"Jefe", b""))
    assert algorithm.startswith("hmac") == is_keyed(algorithm)


@pytest.mark.parametrize(
    ("encoding", "text"), [("hex", "fbef00"), ("HEX", "FBEF00"), ("base64", "++8A"), ("base64url", "--8A")]
)
def test_a_digest_is_written_and_read(encoding: Encoding, text: str) -> None:
    """And what is none is read as none."""
    assert text == encoded(b"\xfb\xef\x00", encoding)
    assert b"\xfb\xef\x00" == decoded(text, encoding)
    assert None is decoded("!", encoding)
    assert None is decoded("中", encoding)
