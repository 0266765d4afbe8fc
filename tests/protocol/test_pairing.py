"""The QR code of a binding and the code to type instead."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.pairing import BindPayload, clean_typed_code, new_typed_code, origin_of, read_payload

SEED = """
{
  "action": "bind_device",
  "serverUrl": "wss://api.example.com/ws",
  "token": "临时绑定Token，5分钟有效",
  "userId": "user_001",
  "timestamp": 1703491200000
}"""

PAYLOAD = BindPayload(
    server_url="wss://api.example.com/ws",
    token="临时绑定Token，5分钟有效",
    user_id="user_001",
    timestamp=1703491200000,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))


def test_the_seed_code_is_read() -> None:
    """Seed 003 §2.2.1, as it stands."""
    assert PAYLOAD == read_payload(SEED)


def test_the_code_is_drawn_as_the_seed_draws_it() -> None:
    """The same fields in the same order, and nothing beside them, so that the code stays small."""
    assert list(json.loads(SEED).items()) == list(json.loads(PAYLOAD.encode()).items())
    assert " " not in PAYLOAD.encode()


@given(st.builds(BindPayload, texts, texts, texts, st.integers(0, 2**53)))
def test_a_code_is_read_as_it_was_drawn(payload: BindPayload) -> None:
    """What a camera sees is what the page showed."""
    assert payload == read_payload(payload.encode())


def test_a_code_may_say_more_than_an_app_knows() -> None:
    """A newer server's code still binds an older app."""
    assert PAYLOAD == read_payload(json.dumps(json.loads(SEED) | {"tenant": "t"}))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("https://example.com/", id="an address"),
        pytest.param("WIFI:S:desk;T:WPA;P:secret;;", id="a wireless network"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="nothing in it"),
        pytest.param(SEED.replace("bind_device", "pay"), id="another action"),
        pytest.param(SEED.replace("1703491200000", '"noon"'), id="a time that is none"),
        pytest.param(SEED.replace('"token"', '"coupon"'), id="no token"),
    ],
)
def test_any_other_code_is_refused(text: str) -> None:
    """A camera sees all kinds of codes; those that bind nothing are an error that says so."""
    with pytest.raises(msgspec.DecodeError):
        read_payload(text)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("wss://api.example.com/ws", "https://api.example.com"),
        ("WSS://api.example.com/ws", "https://api.example.com"),
        ("wss://api.example.com:8443/ws/phone?x=1", "https://api.example.com:8443"),
        ("wss://api.example.com", "https://api.example.com"),
        ("wss://api.example.com?ticket=t", "https://api.example.com"),
        ("ws://127.0.0.1:8000/ws", "http://127.0.0.1:8000"),
        ("ws://[::1]:8000/ws", "http://[::1]:8000"),
    ],
)
def test_the_bind_call_goes_where_the_socket_goes(url: str, origin: str) -> None:
    """The same host and port, and the same secrecy."""
    assert origin == origin_of(url)


@pytest.mark.parametrize(
    "url", ["", "api.example.com/ws", "https://api.example.com/ws", "wss://", "wss:/ws", "tel:110"]
)
def test_no_origin_is_guessed(url: str) -> None:
    """A token is not sent to where no WebSocket address says."""
    with pytest.raises(ValueError, match="WebSocket"):
        origin_of(url)


def test_a_typed_code_has_eight_characters_that_cannot_be_misread() -> None:
    """Upper case letters and digits, without those that look like another."""
    codes = [new_typed_code() for _ in range(500)]

    assert {8} == {len(code) for code in codes}
    assert set() == set("".join(codes)) & set("0O1IL")
    assert all(code.isascii() and code.isalnum() and code == code.upper() for code in codes)


def test_typed_codes_are_unlike_each_other() -> None:
    """All characters are used, and no code came twice in a thousand."""
    codes = [new_typed_code() for _ in range(1000)]

    assert 31 == len(set("".join(codes)))
    assert 1000 == len(set(codes))


@given(st.data())
def test_a_code_is_known_however_it_is_typed(data: st.DataObject) -> None:
    """Lower case, spaces and dashes make no other code."""
    code = new_typed_code()
    gaps = data.draw(st.lists(st.sampled_from(["", " ", "-", " - "]), min_size=8, max_size=8))
    typed = "".join(gap + character for gap, character in zip(gaps, code.lower(), strict=True))

    assert code == clean_typed_code(typed)
