"""Tokens as text: random ones, of which only a digest is kept, and access tokens, which are signed and not kept."""

import hashlib
import secrets
import time
from typing import Final

import jwt
import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import DialdeskError

ISSUER: Final = "dialdesk"
AUDIENCE: Final = "dialdesk-api"

LEEWAY: Final = 30
"""Seconds by which the clocks of two nodes may differ."""
LONGEST: Final = 512
"""Characters. Ours have 300; a longer one could nest its JSON deeper than the decoder goes."""


def new_token(prefix: str) -> str:
    """Return `<prefix>_` and 256 random bits as 43 characters."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(token: str) -> bytes:
    """Return what is kept of a random token. It needs no salt and no cost: nobody guesses 190 bits and more."""
    return hashlib.sha256(token.encode()).digest()


class AccessClaims(msgspec.Struct, frozen=True):
    """What an access token says: whose it is, and from which login. Whether that still holds is in the database."""

    user_id: str
    login_id: str


class AccessTokens:
    """Mints and reads access tokens: JWT by HMAC-SHA-256, under a key derived from SECRET_KEY for this use alone."""

    def __init__(self, secret_key: str, ttl: float) -> None:
        self._key = HKDF(SHA256(), length=32, salt=None, info=b"dialdesk access token").derive(secret_key.encode())
        self.ttl = round(ttl)

    def mint(self, claims: AccessClaims) -> str:
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

    def read(self, token: str) -> AccessClaims:
        """Return the claims. Raises TOKEN_EXPIRED, or UNAUTHENTICATED for what is no access token of ours."""
        try:
            if len(token) > LONGEST:
                raise jwt.DecodeError("too long")
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                issuer=ISSUER,
                audience=AUDIENCE,
                leeway=LEEWAY,
                options={"require": ["iss", "aud", "sub", "sid", "iat", "exp"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise DialdeskError("TOKEN_EXPIRED") from error
        except jwt.InvalidTokenError as error:
            raise DialdeskError("UNAUTHENTICATED") from error
        return AccessClaims(claims["sub"], claims["sid"])
