"""The QR code by which a phone is bound: its payload as seed 003 §2.2.1 fixes it, and the code to type instead."""

import secrets
from urllib.parse import urlsplit

import msgspec

_HTTP = {"wss": "https", "ws": "http"}
_TYPED = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # nothing that is read as something else: no 0 O 1 I L


class BindPayload(msgspec.Struct, frozen=True, rename="camel", tag_field="action", tag="bind_device"):
    """What the QR code says. `server_url` is the WebSocket URL; an app derives the origin of the bind call from it."""

    server_url: str
    token: str
    user_id: str
    timestamp: int

    def encode(self) -> str:
        """Return the JSON text to draw, its fields in the seed's order."""
        return msgspec.json.encode(self).decode()


def read_payload(text: str) -> BindPayload:
    """Read what a camera saw. Raises msgspec.ValidationError or DecodeError where it is not a bind code of ours."""
    return msgspec.json.decode(text, type=BindPayload)


def origin_of(server_url: str) -> str:
    """Return the HTTP origin that belongs to a WebSocket URL: `wss://host/ws` gives `https://host`.

    Raises ValueError for any other scheme: a guess could send the bind token in the clear.
    """
    url = urlsplit(server_url)
    if url.scheme not in _HTTP or not url.netloc:
        raise ValueError(f"not a WebSocket URL: {server_url!r}")
    return f"{_HTTP[url.scheme]}://{url.netloc}"


def new_typed_code() -> str:
    """Return eight characters (31^8 = 8.5e11) for a person to type where no camera works."""
    return "".join(secrets.choice(_TYPED) for _ in range(8))


def clean_typed_code(text: str) -> str:
    """Return a typed code as it was made: upper case, without the spaces and dashes people add."""
    return text.upper().replace(" ", "").replace("-", "")
