"""JSON that is large, deep, or holds what it should not: refused by one of our errors, or kept as it was meant."""

import json
import random
from collections.abc import Iterator

import httpx
import pytest

from tests.abuse.conftest import Target
from tests.abuse.raw import BINARY, DEADLINE, TEXT, Peer, frame, peer

MEGABYTE = 1024 * 1024
"""Bytes of the largest body (BODY_LIMIT), and of a frame 1/16 of that."""

MALFORMED = {
    "many [": b"[" * MEGABYTE,
    "many [ in a field": b'{"name":' + b"[" * (MEGABYTE - 8),
    "many {": b'{"a":' * (MEGABYTE // 5),
    "deeper than is read": b'{"phone":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of many digits": b'{"phone":' + b"9" * (MEGABYTE - 10) + b"}",
    "a fraction of many digits": b'{"phone":0.' + b"9" * (MEGABYTE - 12) + b"}",
    "an exponent of many digits": b'{"phone":1e' + b"9" * (MEGABYTE - 12) + b"}",
    "a number beyond all bounds": b'{"phone":1e999}',
    "a number with many zeros before it": b'{"phone":' + b"0" * 1000 + b"1}",
    "not a number": b'{"phone":NaN}',
    "infinity": b'{"phone":-Infinity}',
    "nothing but blanks": b" " * MEGABYTE,
    "many fields": b"{" + b",".join(b'"k%d":1' % number for number in range(90_000)) + b"}",
    "a field with a long name": b'{"' + b"k" * (MEGABYTE - 10) + b'":1}',
    "an array": b"[]",
    "null": b"null",
    "a text": b'"x"',
    "two objects": b'{"phone":"13912345678"} {}',
    "a comment": b'{"phone":"13912345678"} // x',
    "a trailing comma": b'{"phone":"13912345678",}',
    "single quotes": b"{'phone':'13912345678'}",
    "an escape that is none": rb'{"phone":"\x31"}',
    "a BOM": b'\xef\xbb\xbf{"phone":"13912345678"}',
    "UTF-16": '{"phone":"13912345678"}'.encode("utf-16"),
    "no UTF-8": b'{"phone":"13912345678","name":"\xff"}',
    "a surrogate in UTF-8": b'{"phone":"13912345678","name":"\xed\xa0\x80"}',
    "an overlong quote": b'{"phone":"13912345678","name":"\xc0\xa2"}',
    "half a surrogate pair": rb'{"phone":"13912345678","name":"\ud83d"}',
    "a surrogate pair the wrong way round": rb'{"phone":"13912345678","name":"\ude00\ud83d"}',
    "a NUL": b'{"phone":"13912345678","name":"\0"}',
    "an escaped NUL": rb'{"phone":"13912345678","name":"a\u0000b"}',
    "a bare line break": b'{"phone":"13912345678","name":"a\nb"}',
    "a prototype": b'{"phone":"13912345678","__proto__":{"admin":true}}',
    "a constructor": b'{"phone":"13912345678","constructor":{"prototype":{}}}',
}
"""Bodies that are no customer. A frame of them has a type before it, and ends at 64 KiB."""

ODD = {
    "a name twice": (b'"name":"first","name":"second"', "second"),
    "a name twice, once escaped": (rb'"name":"first","n\u0061me":"second"', "second"),
    "line breaks": (rb'"name":"a\r\nb"', "a\r\nb"),
    "a change of direction": ('"name":"\u202eevil"'.encode(), "\u202eevil"),
    "beyond the first plane": (rb'"name":"\ud83d\ude00"', "\U0001f600"),
    "what is no character": (rb'"name":"\uffff"', "\uffff"),
    "an escaped backslash before u0000": (rb'"name":"\\u0000"', "\\u0000"),
    "SQL": (b'"name":"\'; DROP TABLE customer; --"', "'; DROP TABLE customer; --"),
    "a format": (b'"name":"{0.__class__} %s%n ${jndi:ldap://x}"', "{0.__class__} %s%n ${jndi:ldap://x}"),
}
"""Fields that are unusual, and what the name is then."""


@pytest.fixture(scope="module")
def api(target: Target, port: int) -> Iterator[httpx.Client]:
    """An administrator."""
    token = target.signed_in(port, "tenant_admin")["accessToken"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept-Language": "en"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers, timeout=DEADLINE) as client:
        yield client


@pytest.mark.parametrize("name", MALFORMED)
def test_a_body_that_is_none_is_refused(api: httpx.Client, name: str) -> None:
    """By 400 or 422 and a code, in an answer of bounded size."""
    answer = api.post("/customers", content=MALFORMED[name])

    assert (answer.status_code, answer.json()["code"]) in {(400, "BAD_REQUEST"), (422, "INVALID_FIELD")}
    assert len(answer.content) < 4096


@pytest.mark.parametrize("length", ["told", "not told"])
def test_a_body_that_is_too_large_is_refused(api: httpx.Client, length: str) -> None:
    """By 413, whether it says so before or is found so on the way; what comes after the bound is not kept."""
    body = b'{"phone":"' + b"1" * (2 * MEGABYTE) + b'"}'
    answer = api.post("/customers", content=body if length == "told" else iter([body[:MEGABYTE], body[MEGABYTE:]]))

    assert (413, "BODY_TOO_LARGE") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("name", ODD)
def test_a_body_that_is_odd_is_kept_as_it_was_meant(api: httpx.Client, name: str) -> None:
    """Of a field that comes twice the last counts, for whoever reads; text is text, whatever it looks like."""
    field, meant = ODD[name]
    number = f"139{random.randrange(10**8):08}"
    made = api.post("/customers", content=f'{{"phone":"{number}",'.encode() + field + b"}")

    assert 200 == made.status_code, made.text
    kept = api.get(f"/customers/{made.json()['customer']['id']}").json()["customer"]
    assert meant == kept["name"]


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_that_says_it_is_no_json_is_not_read(api: httpx.Client, media_type: str) -> None:
    """What a form of a foreign page can send is none of ours."""
    answer = api.post("/customers", content=b'{"phone":"13912345678"}', headers={"Content-Type": media_type})

    assert 415 == answer.status_code


@pytest.fixture
def page(target: Target, port: int) -> Iterator[Peer]:
    """A page, welcomed."""
    token = target.signed_in(port)["accessToken"]
    with peer(port) as page:
        page.upgrade("/ws/agent", f"Authorization: Bearer {token}")
        page.send(frame(TEXT, b'{"type":"HELLO","data":{}}'))
        assert page.hear() is not None
        yield page


def test_a_message_that_is_none_is_refused_and_the_session_goes_on(page: Peer) -> None:
    """Each is answered by one ERROR; the tenth within a minute would end it."""
    answered = []
    for body in list(MALFORMED.values())[:8]:
        page.send(frame(BINARY, b'{"type":"DIAL","messageId":"m1","data":' + body[:60_000] + b"}"))
        said = page.hear()
        assert said is not None
        told = json.loads(said.payload)
        answered.append((told["type"], told["data"]["code"]))
        assert len(said.payload) < 4096
    page.send(frame(TEXT, b'{"type":"HEARTBEAT","data":{}}'))
    last = page.hear()

    assert {("ERROR", "BAD_MESSAGE"), ("ERROR", "INVALID_FIELD")} >= set(answered)
    assert last is not None
    assert "HEARTBEAT_ACK" == json.loads(last.payload)["type"]
