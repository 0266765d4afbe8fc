"""Tokens as text."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import DialdeskError
from server.tokens import (
    AUDIENCE,
    ISSUER,
    LEEWAY,
    AccessTokens,
    Claims,
    Listener,
    PlayTokens,
    digest,
    is_api_key,
    new_api_key,
    new_token,
)

SECRET = "not-a-secret-not-a-secret-not-a-secret"
TOKENS = AccessTokens(SECRET, 7200)
ANN = Claims("user_ann", "login_1")
LINKS = PlayTokens(SECRET, 300)
LISTENER = Listener("tenant_1", "call_1")


def key() -> bytes:
    """The signing key, derived here independently."""
    return HKDF(SHA256(), length=32, salt=None, info=b"dialdesk access token").derive(SECRET.encode())


def signed(algorithm: str = "HS256", without: str = "", **changed: Any) -> str:
    """A token with the right key, and with something else about it."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "user_ann", "sid": "login_1", "iat": now, "exp": now + 60}
    claims |= changed
    claims.pop(without, None)
    return jwt.encode(claims, key(), algorithm=algorithm)


def refused(token: str) -> str:
    """The code by which a token is refused."""
    with pytest.raises(DialdeskError) as refusal:
        TOKENS.read(token)
    return refusal.value.code


def test_access_token_says_what_it_was_told() -> None:
    """A minted token reads as the claims it was minted for, with HS256, and dies after its time."""
    token = TOKENS.mint(ANN)
    told = jwt.decode(token, key(), algorithms=["HS256"], audience=AUDIENCE)

    assert ANN == TOKENS.read(token)
    assert 7200 == told["exp"] - told["iat"]
    assert {"alg": "HS256", "typ": "JWT"} == jwt.get_unverified_header(token)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_tampered_token_is_refused(part: int) -> None:
    """A token of which any part was changed is refused."""
    parts = TOKENS.mint(ANN).split(".")
    parts[part] = parts[part][:5] + ("A" if parts[part][5] != "A" else "B") + parts[part][6:]

    assert "UNAUTHENTICATED" == refused(".".join(parts))


def test_unsigned_token_is_refused() -> None:
    """The algorithm `none` signs nothing, however it is spelt."""
    header, claims, _ = TOKENS.mint(ANN).split(".")
    for spelling in ("none", "None", "NONE"):
        unsigned = base64.urlsafe_b64encode(json.dumps({"alg": spelling}).encode()).decode().rstrip("=")

        assert "UNAUTHENTICATED" == refused(f"{unsigned}.{claims}.")
    assert "UNAUTHENTICATED" == refused(f"{header}.{claims}.")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_other_algorithms_are_refused(algorithm: str) -> None:
    """Only HS256 is accepted, also with the right key."""
    assert "UNAUTHENTICATED" == refused(signed(algorithm))


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "sid", "iat", "exp"])
def test_every_claim_is_required(claim: str) -> None:
    """A token that leaves a claim out is refused."""
    assert "UNAUTHENTICATED" == refused(signed(without=claim))


@pytest.mark.parametrize("changed", [{"iss": "another"}, {"aud": "another"}, {"sub": 7}, {"iat": time.time() + 3600}])
def test_claims_of_others_are_refused(changed: dict[str, Any]) -> None:
    """A token for somebody else, by somebody else or from the future is refused."""
    assert "UNAUTHENTICATED" == refused(signed(**changed))


def test_token_expires_when_clocks_have_had_their_leeway() -> None:
    """A token lasts as long as it says, and half a minute longer for clocks that differ."""
    now = int(time.time())

    assert ANN == TOKENS.read(signed(exp=now - LEEWAY + 10))
    assert "TOKEN_EXPIRED" == refused(signed(exp=now - LEEWAY - 1))


def test_key_is_derived_for_this_use() -> None:
    """SECRET_KEY itself signs nothing, and another SECRET_KEY makes other tokens."""
    claims = jwt.decode(TOKENS.mint(ANN), options={"verify_signature": False})

    assert "UNAUTHENTICATED" == refused(jwt.encode(claims, SECRET, algorithm="HS256"))
    assert "UNAUTHENTICATED" == refused(AccessTokens(SECRET[::-1], 60).mint(ANN))


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.é.é", "\x00", "=" * 300, "a" * 513])
def test_nonsense_is_refused(text: str) -> None:
    """What is no token at all is UNAUTHENTICATED."""
    assert "UNAUTHENTICATED" == refused(text)


def test_deep_nesting_is_refused() -> None:
    """JSON nested as deep as fits is refused like anything else, and so is what would not fit."""
    for depth in (370, 40_000):
        header = base64.urlsafe_b64encode(b"[" * depth).decode().rstrip("=")

        assert "UNAUTHENTICATED" == refused(f"{header}.e30.x")


# --- links to recordings ----------------------------------------------------------------------------------------------


def link_key() -> bytes:
    """The key that signs links, derived here independently."""
    return HKDF(SHA256(), length=32, salt=None, info=b"dialdesk recording link").derive(SECRET.encode())


def linked(algorithm: str = "HS256", without: str = "", **changed: Any) -> str:
    """A link's token with the right key, and with something else about it."""
    claims = {"iss": ISSUER, "aud": "dialdesk-recording", "sub": "call_1", "tid": "tenant_1", "exp": time.time() + 60}
    claims |= changed
    claims.pop(without, None)
    return jwt.encode(claims, link_key(), algorithm=algorithm)


def link_refused(token: str) -> str:
    """The code by which a link is refused."""
    with pytest.raises(DialdeskError) as refusal:
        LINKS.read(token)
    return refusal.value.code


def test_a_link_says_which_recording_it_plays() -> None:
    """Nothing else, and for so long."""
    before = int(time.time())
    told = jwt.decode(LINKS.mint(LISTENER), link_key(), algorithms=["HS256"], audience="dialdesk-recording")

    assert LISTENER == LINKS.read(LINKS.mint(LISTENER))
    assert LISTENER == LINKS.read(linked())
    assert {"iss", "aud", "sub", "tid", "exp"} == told.keys()
    assert before + 300 <= told["exp"] <= int(time.time()) + 300


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_tampered_link_plays_nothing(part: int) -> None:
    """Whichever part of it was changed."""
    parts = LINKS.mint(LISTENER).split(".")
    parts[part] = parts[part][:5] + ("A" if parts[part][5] != "A" else "B") + parts[part][6:]

    assert "NOT_FOUND" == link_refused(".".join(parts))


def test_a_link_dies_after_its_time() -> None:
    """To the second: the clocks of nodes are no excuse where anybody may listen who has it."""
    assert "TOKEN_EXPIRED" == link_refused(linked(exp=int(time.time()) - 1))
    assert "TOKEN_EXPIRED" == link_refused(PlayTokens(SECRET, -1).mint(LISTENER))


def test_a_token_of_another_use_is_no_link_and_no_link_signs_in() -> None:
    """Neither the audience alone nor the key alone makes one into the other."""
    as_access = jwt.encode(
        {**jwt.decode(TOKENS.mint(ANN), options={"verify_signature": False}), "aud": "dialdesk-recording", "tid": "t"},
        key(),
        algorithm="HS256",
    )

    assert {"NOT_FOUND"} == {link_refused(token) for token in (TOKENS.mint(ANN), as_access, linked(aud=AUDIENCE))}
    assert "UNAUTHENTICATED" == refused(LINKS.mint(LISTENER))
    assert "UNAUTHENTICATED" == refused(linked(aud=AUDIENCE, sid="login_1", iat=int(time.time())))


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "tid", "exp"])
def test_every_claim_of_a_link_is_required(claim: str) -> None:
    """One that leaves a claim out plays nothing."""
    assert "NOT_FOUND" == link_refused(linked(without=claim))


@pytest.mark.parametrize("token", ["", ".", "a.b.c", "é.é.é", "\x00", "a" * 513])
def test_nonsense_is_no_link(token: str) -> None:
    """Whatever it is."""
    assert "NOT_FOUND" == link_refused(token)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_link_by_another_algorithm_plays_nothing(algorithm: str) -> None:
    """Also with the right key."""
    assert "NOT_FOUND" == link_refused(linked(algorithm))


# --- random tokens ----------------------------------------------------------------------------------------------------


def test_random_tokens_have_256_bits() -> None:
    """A random token is its prefix and 43 characters, each time others."""
    tokens = {new_token("ddr") for _ in range(100)}

    assert 100 == len(tokens)
    assert {("ddr", 43)} == {(prefix, len(rest)) for prefix, _, rest in (token.partition("_") for token in tokens)}


def test_digest_is_sha256_of_the_whole_token() -> None:
    """What is kept of a token is the SHA-256 of its text, prefix and all."""
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" == digest("abc").hex()


def test_api_key_has_a_checksum() -> None:
    """A key that was made is whole; 190 bits of it are random."""
    keys = {new_api_key() for _ in range(100)}

    assert 100 == len(keys)
    assert all(is_api_key(key) and len(key) == 42 for key in keys)


def test_known_api_key_keeps_its_checksum() -> None:
    """The checksum is CRC-32 of what stands before it, in base 62: keys that are out there go on being whole."""
    assert is_api_key("ddk_" + "0" * 32 + "2oMNYi")


def test_damaged_api_key_is_none() -> None:
    """A key with any character changed, dropped or added is none."""
    key = new_api_key()
    changed = [key[:at] + ("x" if key[at] != "x" else "y") + key[at + 1 :] for at in range(len(key))]

    assert not any(is_api_key(text) for text in [*changed, key[:-1], key + "0", key + "\n", key.upper(), ""])
