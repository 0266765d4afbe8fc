"""What a node answers to peers who break the WebSocket protocol (RFC 6455), and to those who only strain it.

The tables say what goes over the wire, and nothing of who reads it. A peer that breaks the protocol hears one close
frame with the code of the table, and the connection ends; what it sent after the violation is not acted on.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.abuse.conftest import Target
from tests.abuse.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Peer, frame, peer

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009

LARGEST = 64 * 1024
"""Bytes of the largest message (docs/protocol.md)."""

HEARTBEAT = b'{"type":"HEARTBEAT","data":{}}'
"""A message that is answered by HEARTBEAT_ACK, whoever sends it."""


def close(code: int, reason: bytes = b"") -> bytes:
    """A close frame with a status."""
    return frame(CLOSE, code.to_bytes(2) + reason)


def padded(size: int) -> bytes:
    """A heartbeat of so many bytes."""
    empty = b'{"type":"HEARTBEAT","data":{"x":""}}'
    return empty[:-3] + b"a" * (size - len(empty)) + empty[-3:]


class Wrong(NamedTuple):
    """What breaks the protocol, and the codes of which one must be the answer."""

    name: str
    sent: bytes
    codes: int | set[int | None]


VIOLATIONS = [
    # 5.1: a client masks every frame
    Wrong("text that is not masked", frame(TEXT, HEARTBEAT, masked=False), PROTOCOL_ERROR),
    Wrong("empty text that is not masked", frame(TEXT, masked=False), PROTOCOL_ERROR),
    Wrong("a ping that is not masked", frame(PING, b"x", masked=False), PROTOCOL_ERROR),
    Wrong("a close that is not masked", frame(CLOSE, b"\x03\xe8", masked=False), PROTOCOL_ERROR),
    Wrong(
        "a continuation that is not masked",
        frame(TEXT, HEARTBEAT[:5], fin=False) + frame(CONTINUATION, HEARTBEAT[5:], masked=False),
        PROTOCOL_ERROR,
    ),
    # 5.2: reserved bits, where no extension was agreed on
    *(
        Wrong(f"reserved bits {rsv:03b} on {name}", frame(opcode, payload, rsv=rsv), PROTOCOL_ERROR)
        for rsv in (0b100, 0b010, 0b001, 0b111)
        for name, opcode, payload in (
            ("text", TEXT, HEARTBEAT),
            ("a ping", PING, b"x"),
            ("a close", CLOSE, b"\x03\xe8"),
        )
    ),
    Wrong(
        "a reserved bit on a continuation",
        frame(TEXT, HEARTBEAT[:5], fin=False) + frame(CONTINUATION, HEARTBEAT[5:], rsv=0b100),
        PROTOCOL_ERROR,
    ),
    # 5.2: reserved opcodes
    *(Wrong(f"opcode {opcode:X}", frame(opcode, b"x"), PROTOCOL_ERROR) for opcode in (*range(3, 8), *range(11, 16))),
    *(Wrong(f"opcode {opcode:X}, empty", frame(opcode), PROTOCOL_ERROR) for opcode in (3, 11)),
    Wrong("opcode 3, not whole", frame(3, b"x", fin=False), PROTOCOL_ERROR),
    # 5.4: fragments
    Wrong("a continuation of nothing", frame(CONTINUATION, HEARTBEAT), PROTOCOL_ERROR),
    Wrong("a continuation of nothing, not whole", frame(CONTINUATION, HEARTBEAT, fin=False), PROTOCOL_ERROR),
    Wrong(
        "a continuation of what is whole",
        frame(TEXT, b"{}"[:1], fin=False) + frame(PONG) + frame(TEXT, HEARTBEAT),
        PROTOCOL_ERROR,
    ),
    Wrong(
        "text within text",
        frame(TEXT, HEARTBEAT[:5], fin=False) + frame(TEXT, HEARTBEAT[5:]),
        PROTOCOL_ERROR,
    ),
    Wrong(
        "binary within text",
        frame(TEXT, HEARTBEAT[:5], fin=False) + frame(BINARY, HEARTBEAT[5:], fin=False),
        PROTOCOL_ERROR,
    ),
    Wrong(
        "text within binary",
        frame(BINARY, HEARTBEAT[:5], fin=False) + frame(TEXT, HEARTBEAT[5:]),
        PROTOCOL_ERROR,
    ),
    # 5.5: control frames are whole, and at most 125 bytes
    Wrong("a ping in fragments", frame(PING, b"x", fin=False), PROTOCOL_ERROR),
    Wrong("a pong in fragments", frame(PONG, b"x", fin=False), PROTOCOL_ERROR),
    Wrong("a close in fragments", frame(CLOSE, b"\x03\xe8", fin=False), PROTOCOL_ERROR),
    Wrong("a ping of 126 bytes", frame(PING, b"a" * 126), PROTOCOL_ERROR),
    Wrong("a pong of 126 bytes", frame(PONG, b"a" * 126), PROTOCOL_ERROR),
    Wrong("a close of 126 bytes", close(1000, b"a" * 124), PROTOCOL_ERROR),
    Wrong("a ping of 65,536 bytes", frame(PING, b"a" * 65536), {PROTOCOL_ERROR, TOO_BIG}),
    Wrong("a ping that claims 2^40 bytes", frame(PING, b"a", length=2**40), {PROTOCOL_ERROR, TOO_BIG}),
    # 5.5.1 and 7.4: what a close frame may hold
    Wrong("a close of one byte", frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
    *(
        Wrong(f"a close with {code}", close(code, b"because"), PROTOCOL_ERROR)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
    Wrong("a close whose reason is no UTF-8", close(1000, b"\xce\xba\xed\xa0\x80"), INVALID_DATA),
    Wrong("a close whose reason ends within a character", close(1000, b"\xe4\xb8"), INVALID_DATA),
    # 5.2: lengths
    Wrong("a message that claims 2^63 bytes", frame(TEXT, b"a", length=2**63), {PROTOCOL_ERROR, TOO_BIG}),
    Wrong("a message that claims 2^64 - 1 bytes", frame(TEXT, b"a", length=2**64 - 1), {PROTOCOL_ERROR, TOO_BIG}),
    Wrong("a message that claims 2^32 bytes", frame(TEXT, b"a", length=2**32), TOO_BIG),
    Wrong("a message that claims a byte too many", frame(TEXT, length=LARGEST + 1), TOO_BIG),
    Wrong("binary that claims a byte too many", frame(BINARY, length=LARGEST + 1), TOO_BIG),
    # messages that are too large by their fragments
    Wrong(
        "a message as large as may be, and a byte",
        frame(TEXT, padded(LARGEST), fin=False) + frame(CONTINUATION, b"a"),
        TOO_BIG,
    ),
    Wrong(
        "fragments that sum up to too much",
        frame(TEXT, b"a" * 40_000, fin=False)
        + frame(CONTINUATION, b"a" * 20_000, fin=False)
        + frame(CONTINUATION, length=LARGEST - 60_000 + 1),
        TOO_BIG,
    ),
    Wrong(
        "fragments of one byte that sum up to too much",
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"a", fin=False) * LARGEST,
        TOO_BIG,
    ),
    # 8.1: text is UTF-8
    *(
        Wrong(f"text that is {name}", frame(TEXT, b'{"type":"' + data + b'"}'), INVALID_DATA)
        for name, data in (
            ("no UTF-8", b"\xff"),
            ("a lone continuation byte", b"\x80"),
            ("an overlong slash", b"\xc0\xaf"),
            ("an overlong NUL", b"\xe0\x80\x80"),
            ("a surrogate", b"\xed\xa0\x80"),
            ("beyond Unicode", b"\xf4\x90\x80\x80"),
            ("a character cut short", b"\xe4\xb8"),
        )
    ),
    Wrong("text that ends within a character", frame(TEXT, b"\xe4\xb8"), INVALID_DATA),
    Wrong(
        "text whose second fragment is no UTF-8",
        frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"\xff"),
        INVALID_DATA,
    ),
    Wrong(
        "text whose fragments end within a character",
        frame(TEXT, b"\xe4", fin=False) + frame(CONTINUATION, b"\xb8"),
        INVALID_DATA,
    ),
]

ENDLESS = frame(TEXT, b"{", fin=False) + frame(CONTINUATION, fin=False) * (2 * LARGEST)
"""A message of one byte and of fragments without any, none of them the last. 5.4 allows it; memory does not."""

GOODBYES = [
    Wrong("without a status", frame(CLOSE), {None, 1000}),
    *(
        Wrong(f"with {code}", close(code, b"bye"), code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    ),
    Wrong("with a reason as long as may be", close(1000, b"a" * 123), 1000),
    Wrong("with a reason in Chinese", close(4000, "再见".encode()), 4000),
    Wrong("within a message", frame(TEXT, HEARTBEAT[:5], fin=False) + close(1000), {1000, PROTOCOL_ERROR}),
]

STRAINS = {
    "as usual": frame(TEXT, HEARTBEAT),
    "as binary": frame(BINARY, HEARTBEAT),
    "in two fragments": frame(TEXT, HEARTBEAT[:5], fin=False) + frame(CONTINUATION, HEARTBEAT[5:]),
    "in binary fragments": frame(BINARY, HEARTBEAT[:5], fin=False) + frame(CONTINUATION, HEARTBEAT[5:]),
    "in fragments of one byte": b"".join(
        frame(CONTINUATION if place else TEXT, bytes([byte]), fin=place == len(HEARTBEAT) - 1)
        for place, byte in enumerate(HEARTBEAT)
    ),
    "with empty fragments": frame(TEXT, fin=False)
    + frame(CONTINUATION, fin=False)
    + frame(CONTINUATION, HEARTBEAT, fin=False)
    + frame(CONTINUATION),
    "as large as may be": frame(TEXT, padded(LARGEST)),
    "as large as may be, in two fragments": frame(TEXT, padded(LARGEST)[:1000], fin=False)
    + frame(CONTINUATION, padded(LARGEST)[1000:]),
    "with a fragment that ends within a character": frame(
        TEXT, b'{"type":"HEARTBEAT","data":{"x":"' + b"\xe4", fin=False
    )
    + frame(CONTINUATION, b"\xb8", fin=False)
    + frame(CONTINUATION, b'\xad"}}'),
    "with pongs that nobody asked for": frame(PONG) + frame(PONG, b"a" * 125) + frame(TEXT, HEARTBEAT),
    "with a pong within it": frame(TEXT, HEARTBEAT[:5], fin=False) + frame(PONG) + frame(CONTINUATION, HEARTBEAT[5:]),
}
"""What the protocol allows, and peers rarely do. Each is one heartbeat."""


@pytest.fixture(scope="module")
def token(target: Target, port: int) -> str:
    """The access token of an agent."""
    access_token: str = target.signed_in(port)["accessToken"]
    return access_token


@pytest.fixture
def page(port: int, token: str) -> Iterator[Peer]:
    """A page of that agent, welcomed."""
    with peer(port) as page:
        page.upgrade("/ws/agent", f"Authorization: Bearer {token}")
        page.send(frame(TEXT, b'{"type":"HELLO","data":{}}'))
        assert "WELCOME" == kind_of(page.hear())
        yield page


def kind_of(told: Frame | None) -> str:
    """The type of a message."""
    assert told is not None
    assert TEXT == told.opcode, told
    kind: str = json.loads(told.payload)["type"]
    return kind


@pytest.mark.parametrize("wrong", VIOLATIONS, ids=lambda wrong: wrong.name)
def test_a_peer_that_breaks_the_protocol_is_closed(page: Peer, wrong: Wrong) -> None:
    """It hears the code of the table and nothing else, also where it goes on as if nothing were; then it is alone."""
    page.send(wrong.sent + frame(TEXT, HEARTBEAT))
    heard = page.rest()

    assert [CLOSE] == [said.opcode for said in heard]
    assert heard[0].code in (wrong.codes if isinstance(wrong.codes, set) else {wrong.codes})


def test_fragments_without_content_are_not_kept(page: Peer) -> None:
    """More of them than a message may have bytes: each brings nothing, and takes nothing."""
    page.send(ENDLESS + frame(PING, b"still here"))
    heard = page.hear()

    assert heard is not None
    assert (PONG, b"still here") == (heard.opcode, heard.payload)


@pytest.mark.parametrize("wrong", VIOLATIONS[::7], ids=lambda wrong: wrong.name)
def test_a_peer_that_breaks_the_protocol_before_its_first_message_is_closed(
    port: int, token: str, wrong: Wrong
) -> None:
    """The protocol holds from the first frame on, whatever the session waits for."""
    with peer(port) as page:
        page.upgrade("/ws/agent", f"Authorization: Bearer {token}")
        page.send(wrong.sent)
        heard = page.rest()

    assert [CLOSE] == [said.opcode for said in heard]
    assert heard[0].code in (wrong.codes if isinstance(wrong.codes, set) else {wrong.codes})


@pytest.mark.parametrize("goodbye", GOODBYES, ids=lambda goodbye: goodbye.name)
def test_a_goodbye_is_returned(page: Peer, goodbye: Wrong) -> None:
    """With its own status; what comes after it is not acted on, and the server closes the connection."""
    page.send(goodbye.sent + frame(TEXT, HEARTBEAT))
    heard = page.rest()

    assert [CLOSE] == [said.opcode for said in heard]
    assert heard[0].code in (goodbye.codes if isinstance(goodbye.codes, set) else {goodbye.codes})


@pytest.mark.parametrize("strain", STRAINS)
def test_a_message_is_heard_however_it_is_cut(page: Peer, strain: str) -> None:
    """Fragments, in whatever sizes and with whatever control frames between them, are one message."""
    page.send(STRAINS[strain])

    assert "HEARTBEAT_ACK" == kind_of(page.hear())


def test_frames_are_heard_that_come_byte_by_byte(page: Peer) -> None:
    """A segment may end anywhere, within a header too."""
    for byte in frame(PING, b"slow") + STRAINS["in two fragments"] + frame(TEXT, padded(300)):
        page.send(bytes([byte]))

    assert Frame(PONG, b"slow") == page.hear()
    assert ["HEARTBEAT_ACK"] * 2 == [kind_of(page.hear()) for _ in range(2)]


def test_frames_are_heard_that_come_at_once(page: Peer) -> None:
    """A segment may hold many, and end within one."""
    many = frame(TEXT, HEARTBEAT) * 200
    page.send(many[:-3])
    page.send(many[-3:] + frame(PING, b"last"))
    heard = [page.hear() for _ in range(201)]

    assert 1 == heard.count(Frame(PONG, b"last"))
    assert {"HEARTBEAT_ACK"} == {kind_of(said) for said in heard if said != Frame(PONG, b"last")}


@pytest.mark.parametrize("payload", [b"", b"a", b"\xff\x00", b"a" * 125])
def test_a_ping_is_answered_with_what_it_brought(page: Peer, payload: bytes) -> None:
    """Also between the fragments of a message, before that is whole."""
    page.send(frame(TEXT, HEARTBEAT[:5], fin=False) + frame(PING, payload))
    pong = page.hear()
    page.send(frame(CONTINUATION, HEARTBEAT[5:]))

    assert Frame(PONG, payload) == pong
    assert "HEARTBEAT_ACK" == kind_of(page.hear())


@pytest.mark.parametrize("width", [2, 8])
def test_a_length_in_more_bytes_than_it_needs_breaks_nothing(page: Peer, width: int) -> None:
    """RFC 6455 forbids it (5.2) and many servers read it; it is one or the other, and never a frame of another size."""
    page.send(frame(TEXT, HEARTBEAT, width=width) + frame(PING, b"next"))
    heard = page.hear()

    assert heard is not None
    if CLOSE == heard.opcode:
        assert PROTOCOL_ERROR == heard.code
    else:
        assert {"pong", "HEARTBEAT_ACK"} == {
            "pong" if said == Frame(PONG, b"next") else kind_of(said) for said in (heard, page.hear())
        }


def test_no_compression_is_agreed_on(port: int, token: str) -> None:
    """Whatever a client offers: a few bytes cannot become many."""
    offers = "permessage-deflate; client_max_window_bits, permessage-bzip2, x-webkit-deflate-frame"
    with peer(port) as page:
        answered = page.upgrade("/ws/agent", f"Authorization: Bearer {token}", f"Sec-WebSocket-Extensions: {offers}")

    assert "sec-websocket-extensions" not in answered


def test_a_frame_that_stays_away_ends_with_its_connection(port: int, token: str) -> None:
    """Half a header, half a message, half of its fragments: the peer goes, and nobody waits for the rest."""
    for half in (b"\x81", frame(TEXT, HEARTBEAT)[:9], frame(TEXT, HEARTBEAT[:5], fin=False)):
        with peer(port) as page:
            page.upgrade("/ws/agent", f"Authorization: Bearer {token}")
            page.send(half)
    with peer(port) as page:
        page.upgrade("/ws/agent", f"Authorization: Bearer {token}")
        page.send(frame(TEXT, b'{"type":"HELLO","data":{}}'))

        assert "WELCOME" == kind_of(page.hear())


def test_none_of_it_is_an_error_of_ours(target: Target, port: int, page: Peer) -> None:
    """Peers who break the protocol, however they do it, leave nothing in the log that an operator must look at."""
    page.send(frame(TEXT, b"\xff"))
    page.rest()
    with peer(port) as line:
        line.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: said-after-it\r\n\r\n")
        line.answer()
    target.wait(lambda: any("said-after-it" in told for told in target.logged()))

    assert [] == [told for told in target.logged() if '"level":"error"' in told or "Traceback" in told]
