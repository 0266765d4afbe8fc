"""Requests on whose end two readers may not agree: what a proxy took for a body must never be answered as a request.

A node refuses each of them, and closes the connection, so that nothing behind it is read (RFC 9112 §6, §7.1, §11.2).
"""

import pytest

from tests.abuse.raw import handshake, peer

SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\nConnection: close\r\n\r\n"
"""What an attacker wants answered. Its id comes back where it is."""


def request(*lines: str, body: bytes = b"{}", method: str = "POST", path: str = "/api/v1/auth/login") -> bytes:
    """A request with these header lines, as they are."""
    head = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def chunked(body: bytes) -> bytes:
    """A request whose body comes in chunks, as they are."""
    return request("Transfer-Encoding: chunked", body=body)


WHOLE = b"2\r\n{}\r\n0\r\n\r\n"
"""A body in chunks as it should be."""

AMBIGUOUS = {
    "Content-Length before Transfer-Encoding": request(
        "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "Transfer-Encoding before Content-Length": request(
        "Transfer-Encoding: chunked", "Content-Length: 5", body=b"0\r\n\r\n"
    ),
    "two lengths": request("Content-Length: 2", "Content-Length: 0"),
    "two equal lengths": request("Content-Length: 2", "Content-Length: 2"),
    "a length before a colon that stands off": request("Content-Length : 2"),
    "an encoding before a colon that stands off": request("Transfer-Encoding : chunked", body=WHOLE),
    "two encodings": request("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=WHOLE),
    "a length in a trailer": chunked(b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n"),
    "a folded header": request("X: a\r\n Transfer-Encoding: chunked", "Content-Length: 2"),
    "a header that begins with a blank": request(" Content-Length: 2"),
    "a header without a colon": request("Content-Length", "Content-Length: 2"),
    "a header without a name": request(": 2", "Content-Length: 2"),
    "a name with a blank": request("Content Length: 2", "Content-Length: 2"),
    "a name with a NUL": request("Content-Length\0: 2", "Content-Length: 2"),
    "a value with a NUL": request("X: \0", "Content-Length: 2"),
    "a value with a bare CR": request("X: a\rContent-Length: 0", "Content-Length: 2"),
    "a line that ends with a bare LF": request("X: a\nContent-Length: 0", "Content-Length: 2"),
    "a head that ends with bare LFs": b"GET /healthz HTTP/1.1\nHost: x\n\n",
    **{
        f"a length of {length!r}": request(f"Content-Length: {length}")
        for length in ("+2", "-2", "0x2", "2 2", "2,2", "2;", "two", "", "\x0b2", "9" * 30)
    },
    **{
        f"an encoding of {encoding!r}": request(f"Transfer-Encoding: {encoding}", body=WHOLE)
        for encoding in ("xchunked", "chunked, chunked", "identity", "chunked, gzip", "gzip", "", "\x0bchunked")
    },
    **{
        f"chunks such as {chunks!r}": chunked(chunks)
        for chunks in (
            b"zz\r\n{}\r\n0\r\n\r\n",
            b"-2\r\n{}\r\n0\r\n\r\n",
            b"0x2\r\n{}\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
            b"\r\n{}\r\n0\r\n\r\n",
            b" 2\r\n{}\r\n0\r\n\r\n",
            b"2 \r\n{}\r\n0\r\n\r\n",
            b"2\n{}\n0\n\n",
            b"2\r{}\r\n0\r\n\r\n",
            b"2;\n{}\r\n0\r\n\r\n",
            b'2;a="\r\n"\r\n{}\r\n0\r\n\r\n',
            b"2\r\n{}0\r\n\r\n",
            b"2\r\n{}xx0\r\n\r\n",
        )
    },
}

STRANGERS = {
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100 + b"\r\n\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "a method that is none": b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method in lower case": b"get /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a path with a NUL": b"GET /heal\0thz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path that is no ASCII": b"GET /heal\xffthz HTTP/1.1\r\nHost: x\r\n\r\n",
}
"""What is no request of HTTP/1.1 to this server."""

CLEAR = {
    "a length": request("Content-Length: 2"),
    "a length before a tab": request("Content-Length: 2\t"),
    "chunks": chunked(WHOLE),
    "an encoding in capitals": request("Transfer-Encoding: CHUNKED", body=WHOLE),
    "a chunk with an extension": chunked(b"2;a=b\r\n{}\r\n0\r\n\r\n"),
    "a trailer": chunked(b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"),
    "a body that nobody asked for": request("Content-Length: 3", body=b"abc", method="GET", path="/healthz"),
    "chunks that nobody asked for": request(
        "Transfer-Encoding: chunked", body=b"0\r\n\r\n", method="GET", path="/healthz"
    ),
    "an address as a proxy is told it": b"GET http://evil.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a request to trace": b"TRACE /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
}
"""What has one end by anybody's reading: the request behind it is one."""


@pytest.mark.parametrize("name", [*AMBIGUOUS, *STRANGERS])
def test_what_has_no_clear_end_is_refused_with_all_behind_it(port: int, name: str) -> None:
    """400 and an end to the connection: of what follows nothing is read."""
    with peer(port) as line:
        line.send((AMBIGUOUS | STRANGERS)[name] + SMUGGLED)
        status, headers, _ = line.answer()
        rest = line.everything()

    assert (400, "close", b"") == (status, headers["connection"], rest)


@pytest.mark.parametrize("name", CLEAR)
def test_what_has_a_clear_end_lets_the_next_be_read(port: int, name: str) -> None:
    """One answer each, in their order."""
    with peer(port) as line:
        line.send(CLEAR[name] + SMUGGLED)
        first, _, _ = line.answer()
        second, headers, _ = line.answer()

    assert first in {200, 405, 422}
    assert (200, "smuggled") == (second, headers["x-request-id"])


@pytest.mark.parametrize("version", ["", " HTTP/1.0", " HTTP/2.0"])
def test_another_version_gets_one_answer(port: int, version: str) -> None:
    """Who does not say HTTP/1.1 is answered, if at all, once: the connection is not kept."""
    with peer(port) as line:
        line.send(
            f"GET /healthz{version}\r\nHost: x\r\n\r\n".encode().replace(
                b"\r\nHost: x", b"" if not version else b"\r\nHost: x"
            )
        )
        line.send(SMUGGLED)
        told = line.everything()

    assert 1 == told.count(b"HTTP/1.1 ")
    assert b"smuggled" not in told


def test_pipelined_requests_are_answered_in_their_order(port: int) -> None:
    """Many in one segment, and each once."""
    ids = [f"number-{number}" for number in range(50)]
    with peer(port) as line:
        line.send(
            b"".join(f"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: {each}\r\n\r\n".encode() for each in ids)
        )
        answered = [line.answer()[1]["x-request-id"] for _ in ids]

    assert ids == answered


def test_another_upgrade_is_not_made(port: int) -> None:
    """HTTP/2 in the clear is none of ours: the answer comes over HTTP/1.1."""
    with peer(port) as line:
        line.send(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        status, _, _ = line.answer()

    assert 200 == status


BAD_HANDSHAKES = {
    "with another method": (handshake("/ws/agent").replace(b"GET", b"POST"), {400, 405}),
    "of an older version": (handshake("/ws/agent").replace(b"Version: 13", b"Version: 8"), {400, 426}),
    "of two versions": (handshake("/ws/agent", "Sec-WebSocket-Version: 8"), {400}),
    "without a version": (handshake("/ws/agent").replace(b"Sec-WebSocket-Version", b"X-Version"), {400, 426}),
    "without a key": (handshake("/ws/agent").replace(b"Sec-WebSocket-Key", b"X-Key"), {400}),
    "with a key too short": (handshake("/ws/agent").replace(b"GVlbiBieXRlcy4uLg==", b"A=="), {400}),
    "with a key that is no base64": (handshake("/ws/agent").replace(b"Key: c2l4d", b"Key: !!!!!"), {400}),
    "with a key beyond ASCII": (handshake("/ws/agent").replace(b"Key: c2l4d", b"Key: \xff\xfe\xff\xfe"), {400}),
    "with two keys": (handshake("/ws/agent", "Sec-WebSocket-Key: c2l4dGVlbiBieXRlcy4uLg=="), {400}),
    "to a path that is none": (handshake("/ws/nowhere"), {404}),
    "to a path with odd bytes": (handshake("/ws/agent%ff%00"), {404}),
    "from another origin": (handshake("/ws/agent", "Origin: https://evil.example"), {403}),
    "from no origin at all": (handshake("/ws/agent", "Origin: null"), {403}),
    "without a credential": (handshake("/ws/agent"), {401}),
    "with a token that is none": (handshake("/ws/agent", "Authorization: Bearer a.b.c"), {401}),
    "with a token beyond ASCII": (handshake("/ws/agent", "Authorization: Bearer \xff"), {401}),
    "with a ticket that is none": (handshake("/ws/agent?ticket=ddt_%00%ff"), {401}),
}


@pytest.mark.parametrize("name", BAD_HANDSHAKES)
def test_a_handshake_that_is_none_is_refused(port: int, name: str) -> None:
    """By an answer over HTTP, and an end to the connection: no frame is read, and no other request."""
    sent, statuses = BAD_HANDSHAKES[name]
    with peer(port) as line:
        line.send(sent)
        status, headers, _ = line.answer()
        rest = line.everything()

    assert status in statuses
    assert ("close", b"") == (headers["connection"], rest)
