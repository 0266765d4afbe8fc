"""Line breaks and the like where a header, a log line or a name is made of what somebody sent."""

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.abuse.conftest import UNHURRIED, Target
from tests.abuse.raw import DEADLINE, TEXT, frame, handshake, peer

EVIL = 'a\r\nX-Evil: 1\r\n\r\n{"event":"forged","level":"error"}\x1b[2J\u2028\u0085.'
"""Ends a header, an answer and a line of a log, clears a terminal, and is a line's end to some who read JSON."""

NUMBER = "13912345678"


@pytest.fixture(scope="module")
def talkative(target: Target) -> int:
    """A node that logs each request."""
    return target.node(**UNHURRIED | {"LOG_LEVEL": "debug", "LOG_FORMAT": "json"})


@pytest.fixture(scope="module")
def api(target: Target, talkative: int) -> Iterator[httpx.Client]:
    """An administrator."""
    token = target.signed_in(talkative, "tenant_admin")["accessToken"]
    headers = {"Authorization": f"Bearer {token}", "Accept-Language": "en"}
    with httpx.Client(base_url=f"http://127.0.0.1:{talkative}", headers=headers, timeout=DEADLINE) as client:
        yield client


@pytest.mark.parametrize(
    "header", ["X-Request-Id", "User-Agent", "Accept-Language", "X-Forwarded-For", "Idempotency-Key"]
)
@pytest.mark.parametrize("value", [b"a\rX-Evil: 1", b"a\nX-Evil: 1", b"a\0b"])
def test_a_header_with_a_line_break_is_none(talkative: int, header: str, value: bytes) -> None:
    """The request is refused whole; nothing of it stands in the answer."""
    with peer(talkative) as line:
        line.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + header.encode() + b": " + value + b"\r\n\r\n")
        status, headers, _ = line.answer()

    assert 400 == status
    assert "x-evil" not in headers


@pytest.mark.parametrize("sent", ["a" * 65, "a b", "<script>", "a%0d%0ab", "a\tb", "é", "../..", ""])
def test_a_request_id_that_is_none_is_not_returned(talkative: int, sent: str) -> None:
    """Another is made in its place: what is returned, and logged, is letters, digits and a few signs."""
    with peer(talkative) as line:
        line.send(f"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: {sent}\r\n\r\n".encode())
        _, headers, _ = line.answer()

    assert re.fullmatch(r"req_[0-9a-f]{16}", headers["x-request-id"])


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/calls/a%0d%0aX-Evil:%201",
        "/%0d%0aX-Evil:%201",
        "/api/v1/calls?cursor=a%0d%0aX-Evil:%201",
        "/api/v1/nothing?a=%0aX-Evil:1",
        "/phone%0d%0aX-Evil:%201",
        "/api/v1/calls/webhook/infinity/a%0d%0aX-Evil:%201",
    ],
)
def test_a_line_break_in_a_path_is_in_no_header(api: httpx.Client, path: str) -> None:
    """Also where the answer is a redirect or names what was asked for."""
    answer = api.get(path)

    assert "x-evil" not in answer.headers
    assert not any("\r" in value or "\n" in value for value in answer.headers.values())


def test_evil_text_comes_back_as_text_and_in_no_header(api: httpx.Client) -> None:
    """A name is kept as it is, and told as JSON that nobody takes for a page."""
    made = api.post("/api/v1/customers", json={"phone": "13912340000", "name": "<script>alert(1)</script>" + EVIL})
    refused = api.post("/api/v1/customers", json={"phone": EVIL[:30], "name": "x"})
    unknown = api.post("/api/v1/customers", json={"phone": NUMBER, EVIL: "x"})

    for answer in (made, refused, unknown):
        assert "application/json" == answer.headers["content-type"]
        assert "nosniff" == answer.headers["x-content-type-options"]
        assert "x-evil" not in answer.headers
    assert made.json()["customer"]["name"].endswith(EVIL)


def test_a_log_line_is_one_object_whatever_was_sent(target: Target, api: httpx.Client, talkative: int) -> None:
    """Nobody forges a line, and no telephone number stands in one."""
    token = api.headers["authorization"]
    qr = api.post("/api/v1/calls/device/bindQRCode", json={}).json()
    bound = api.post(
        "/api/v1/calls/device/bind",
        json={
            "token": json.loads(qr["qrCodeData"])["token"],
            "deviceId": "evil-" + "x" * 40,
            "phoneNumber": NUMBER,
            "deviceName": EVIL,
            "deviceModel": EVIL,
            "osType": "android",
            "osVersion": EVIL,
            "appVersion": EVIL,
        },
    ).json()
    assert bound["success"], bound
    api.post("/api/v1/auth/login", json={"username": EVIL[:60], "password": EVIL})
    api.post("/api/v1/customers", json={"phone": NUMBER, "name": EVIL})
    api.get(f"/api/v1/customers?phone={NUMBER}%0d%0a")
    api.get(f"/api/v1/calls/{NUMBER}%0a%7b%7d")
    api.post("/api/v1/calls/dial", json={"customerPhone": NUMBER, "customerName": EVIL, "customData": {"a": EVIL}})
    api.post("/api/v1/calls/webhook/infinity/none", content=EVIL.encode(), headers={"X-Evil": "a\x1b[2Jb"})
    with peer(talkative) as phone:
        phone.send(
            handshake(
                "/ws/phone?a=%0d%0a%7b%7d",
                f"Authorization: Bearer {bound['authToken']}",
                "X-Device-Id: evil-" + "x" * 40,
                "User-Agent: \xff{}",
            )
        )
        assert 101 == phone.head()[0]
        online = {"type": "DEVICE_ONLINE", "data": {"bootId": EVIL, "appVersion": EVIL, "osVersion": EVIL}}
        phone.send(frame(TEXT, json.dumps(online).encode()))
        assert phone.hear() is not None
        phone.send(frame(TEXT, json.dumps({"type": EVIL, "messageId": EVIL, "data": {}}).encode()))
        assert phone.hear() is not None
        end = {"type": "CALL_END", "messageId": "m", "data": {"callId": EVIL, "status": EVIL, "hangupCause": EVIL}}
        phone.send(frame(TEXT, json.dumps(end).encode()))
        assert phone.hear() is not None
    api.get("/healthz", headers={"X-Request-Id": "the-last"})

    def lines() -> list[str]:
        return [line for line in target.logged() if line.strip()]

    target.wait(lambda: any("the-last" in line for line in lines()))
    told = [json.loads(line) for line in lines()]
    secrets = [NUMBER, token.removeprefix("Bearer "), bound["authToken"], target.house.password]

    assert all(isinstance(each, dict) and each["level"] and each["timestamp"] for each in told)
    assert "forged" not in {each["event"] for each in told}
    assert [] == [line for line in lines() if any(secret in line for secret in secrets)]
    assert [] == [line for line in lines() if re.search(r"[\x00-\x1f\x7f]", line)]
