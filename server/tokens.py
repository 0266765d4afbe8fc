"""Tokens as text: random ones, of which only a digest is kept, and access tokens, which are signed and not kept."""

import hashlib
import re
import secrets
import string
import time
import zlib
from functools import lru_cache
from typing import Final

import jwt
import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import DialdeskError

ISSUER: Final = "dialdesk"
AUDIENCE: Final = "dialdesk-api"
_PLAYERS: Final = "dialdesk-recording"

LEEWAY: Final = 30
"""Seconds by which the clocks of two nodes may differ."""
LONGEST: Final = 512
"""Characters. Ours have 300; a longer one could nest its JSON deeper than the decoder goes."""

VERIFIED: Final = 4096
"""Tokens whose signature has been verified and need not be again. Whether they have expired is looked at each time."""

_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_API_KEY: Final = re.compile(r"ddk_[0-9A-Za-z]{38}", re.ASCII)


def new_token(prefix: str) -> str:
    """Return `<prefix>_` and 256 random bits as 43 characters."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(token: str) -> bytes:
    """Return what is kept of a random token. It needs no salt and no cost: nobody guesses 190 bits and more."""
    return hashlib.sha256(token.encode()).digest()


def new_api_key() -> str:
    """Return `ddk_`, 32 random characters (190 bits) and 6 of checksum: a scanner that finds one knows it for ours."""
    key = "ddk_" + "".join(secrets.choice(_BASE62) for _ in range(32))
    return key + _checksum(key)


def is_api_key(text: str) -> bool:
    """Whether the form and the checksum are right; one that was cut short or mistyped never reaches the database."""
    return _API_KEY.fullmatch(text) is not None and _checksum(text[:-6]) == text[-6:]


class Claims(msgspec.Struct, frozen=True, tag="login"):
    """What an access token says: whose it is, and from which login. Whether that still holds is in the database."""

    user_id: str
    login_id: str


class AccessTokens:
    """Mints and reads access tokens: JWT by HMAC-SHA-256, under a key derived from SECRET_KEY for this use alone."""

    def __init__(self, secret_key: str, ttl: float) -> None:
        self._key = HKDF(SHA256(), length=32, salt=None, info=b"dialdesk access token").derive(secret_key.encode())
        self.ttl = round(ttl)
        self._verified = lru_cache(VERIFIED)(self._verify)

    def mint(self, claims: Claims) -> str:
        """Return a token that is good for `ttl` seconds, as long as the login is."""
        now = int(time.time())
        return jwt.encode(
            {
                "iss": ISSUER,
                "aud": AUDIENCE,
                "sub": claims.user_id,
                "sid": claims.login_id,
                "iat": now,
                "exp": now + self.ttl,
            },
            self._key,
            algorithm="HS256",
        )

    def read(self, token: str) -> Claims:
        """Return the claims. Raises TOKEN_EXPIRED, or UNAUTHENTICATED for what is no access token of ours."""
        try:
            if len(token) > LONGEST:
                raise jwt.DecodeError("too long")
            claims, expires_at = self._verified(token)
        except jwt.ExpiredSignatureError as error:
            raise DialdeskError("TOKEN_EXPIRED") from error
        except jwt.InvalidTokenError as error:
            raise DialdeskError("UNAUTHENTICATED") from error
        if time.time() >= expires_at:
            raise DialdeskError("TOKEN_EXPIRED")
        return claims

    def _verify(self, token: str) -> tuple[Claims, float]:
        """Claims of a genuine token, and the second from which on it is too old."""
        claims = jwt.decode(
            token,
            self._key,
            algorithms=["HS256"],
            issuer=ISSUER,
            audience=AUDIENCE,
            leeway=LEEWAY,
            options={"require": ["iss", "aud", "sub", "sid", "iat", "exp"]},
        )
        return Claims(claims["sub"], claims["sid"]), claims["exp"] + LEEWAY


class Listener(msgspec.Struct, frozen=True):
    """For whom a link to a recording was made, and for which."""

    tenant_id: str
    call_id: str


class PlayTokens:
    """Signs and reads what stands in a link to a recording: JWT by HMAC-SHA-256, under a key derived for this use."""

    def __init__(self, secret_key: str, ttl: float) -> None:
        self._key = HKDF(SHA256(), length=32, salt=None, info=b"dialdesk recording link").derive(secret_key.encode())
        self.ttl = round(ttl)

    def mint(self, listener: Listener) -> str:
        """Return a token that is good for `ttl` seconds."""
        claims = {"iss": ISSUER, "aud": _PLAYERS, "sub": listener.call_id, "tid": listener.tenant_id}
        return jwt.encode({**claims, "exp": int(time.time()) + self.ttl}, self._key, algorithm="HS256")

    def read(self, token: str) -> Listener:
        """Return whose link it is. Raises TOKEN_EXPIRED, or NOT_FOUND for what is no link of ours."""
        try:
            if len(token) > LONGEST:
                raise jwt.DecodeError("too long")
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                issuer=ISSUER,
                audience=_PLAYERS,
                options={"require": ["iss", "aud", "sub", "tid", "exp"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise DialdeskError("TOKEN_EXPIRED") from error
        except jwt.InvalidTokenError as error:
            raise DialdeskError("NOT_FOUND", what="recording") from error
        return Listener(claims["tid"], claims["sub"])


def _checksum(text: str) -> str:
    """CRC-32 in six characters of base 62."""
    crc = zlib.crc32(text.encode())
    return "".join(_BASE62[crc // 62**place % 62] for place in range(5, -1, -1))
