"""Credentials guessed and used twice, at two nodes at once: what the one lets pass, the other must know of."""

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.abuse.conftest import UNHURRIED, Target
from tests.abuse.raw import DEADLINE, handshake, peer

AT_ONCE = 12
"""How many attempts are made at the same time, half of them at each node."""


@pytest.fixture(scope="module")
def ports(target: Target, port: int) -> tuple[int, int]:
    """Two nodes of one house."""
    return port, target.node(**UNHURRIED)


def ask(port: int, path: str, body: object, token: str | None = None, *, address: str = "127.0.0.1") -> httpx.Response:
    """Post to a node, from any of the addresses of this machine's own network."""
    headers = {"Accept-Language": "en"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=DEADLINE) as client:
        return client.post(f"http://127.0.0.1:{port}/api/v1{path}", json=body, headers=headers)


def code_of(response: httpx.Response) -> str:
    """`OK`, or why not."""
    return "OK" if response.status_code == 200 else str(response.json()["code"])


def at_once(ports: tuple[int, int], attempt: Callable[[int], Any]) -> list[Any]:
    """Make the attempt many times at the same time, at both nodes."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(attempt, ports * (AT_ONCE // 2)))


# --- used twice -------------------------------------------------------------------------------------------------------


def test_a_ticket_opens_one_socket(target: Target, ports: tuple[int, int]) -> None:
    """Of many sockets that show it at once, one is let in, and none later."""
    access = target.signed_in(ports[0])["accessToken"]
    ticket = ask(ports[0], "/auth/ws-ticket", {}, access).json()["ticket"]

    def knock(port: int) -> int:
        with peer(port) as line:
            line.send(handshake(f"/ws/agent?ticket={ticket}"))
            return line.head()[0]

    raced = Counter(at_once(ports, knock))

    assert {101: 1, 401: AT_ONCE - 1} == raced
    assert [401, 401] == [knock(port) for port in ports]


def test_a_refresh_token_is_good_once_and_its_second_use_ends_the_login(target: Target, ports: tuple[int, int]) -> None:
    """One of many gets tokens, the others end the login: neither thief nor owner goes on with what the one got."""
    session = target.signed_in(ports[0])
    answers = at_once(ports, lambda port: ask(port, "/auth/refresh", {"refreshToken": session["refreshToken"]}))
    codes = Counter(map(code_of, answers))
    renewed = [answer.json() for answer in answers if answer.status_code == 200]

    assert {"OK": 1, "REFRESH_REUSED": AT_ONCE - 1} == codes
    for tokens in (session, *renewed):
        for port in ports:
            assert "UNAUTHENTICATED" == code_of(ask(port, "/auth/ws-ticket", {}, tokens["accessToken"]))
    for port in ports:
        assert "OK" != code_of(ask(port, "/auth/refresh", {"refreshToken": renewed[0]["refreshToken"]}))


@pytest.mark.parametrize("kind", ["scanned", "typed"])
def test_a_bind_code_binds_one_phone(target: Target, ports: tuple[int, int], kind: str) -> None:
    """Of many handsets that show it at once one is bound, and gets a token; none later."""
    session = target.signed_in(ports[0])
    made = ask(ports[0], "/calls/device/bindQRCode", {}, session["accessToken"]).json()
    token = json.loads(made["qrCodeData"])["token"] if kind == "scanned" else made["typedCode"]

    def bind(port: int, handset: str = "") -> httpx.Response:
        return ask(
            port,
            "/calls/device/bind",
            {
                "token": token,
                "deviceId": handset or f"handset-{port}-{id(object())}",
                "deviceName": "x",
                "deviceModel": "x",
                "osType": "android",
                "osVersion": "16",
                "appVersion": "1",
            },
        )

    answers = at_once(ports, bind)
    bound = [answer.json()["authToken"] for answer in answers if answer.status_code == 200]
    rows = target.run(
        target.house.rows("SELECT id FROM device WHERE user_id = $1 AND unbound_at IS NULL", session["user"]["id"])
    )

    assert {"OK": 1, "BIND_TOKEN_INVALID": AT_ONCE - 1} == Counter(map(code_of, answers))
    assert ["BIND_TOKEN_INVALID"] * 2 == [code_of(bind(port)) for port in ports]
    assert (1, 1) == (len(bound), len(rows))


def test_signing_out_at_one_node_holds_at_the_other(target: Target, ports: tuple[int, int]) -> None:
    """From the next request on; a token that was read a moment ago is not believed a moment longer."""
    session = target.signed_in(ports[0])
    access, refresh = session["accessToken"], session["refreshToken"]
    for port in ports:
        assert "OK" == code_of(ask(port, "/auth/ws-ticket", {}, access))
    ask(ports[0], "/auth/logout", {}, access).raise_for_status()

    assert ["UNAUTHENTICATED"] * 2 == [code_of(ask(port, "/auth/ws-ticket", {}, access)) for port in ports]
    assert ["UNAUTHENTICATED"] * 2 == [code_of(ask(port, "/auth/refresh", {"refreshToken": refresh})) for port in ports]


def test_a_ticket_dies_with_its_login(target: Target, ports: tuple[int, int]) -> None:
    """It says who asked for it, and is believed only as far as they are."""
    access = target.signed_in(ports[0])["accessToken"]
    ticket = ask(ports[0], "/auth/ws-ticket", {}, access).json()["ticket"]
    ask(ports[1], "/auth/logout", {}, access).raise_for_status()
    with peer(ports[1]) as line:
        line.send(handshake(f"/ws/agent?ticket={ticket}"))
        status, _ = line.head()

    assert 401 == status


# --- guessed ----------------------------------------------------------------------------------------------------------


def guess(port: int, username: str, password: str, address: str = "127.0.0.1") -> httpx.Response:
    """Try to sign in."""
    return ask(port, "/auth/login", {"username": username, "password": password}, address=address)


def test_guesses_at_two_nodes_from_many_addresses_lock_an_account(target: Target, ports: tuple[int, int]) -> None:
    """Five are looked at, wherever they are made and from wherever; then the right password is none either."""
    username = target.user()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(
            pool.map(
                lambda number: guess(ports[number % 2], username, f"wrong-{number}", f"127.0.1.{number + 1}"),
                range(AT_ONCE),
            )
        )
    after = [code_of(guess(port, username, target.house.password, "127.0.2.1")) for port in ports]

    assert {"BAD_CREDENTIALS": 5, "ACCOUNT_LOCKED": AT_ONCE - 5} == Counter(map(code_of, answers))
    assert ["ACCOUNT_LOCKED"] * 2 == after


def test_an_address_that_guesses_is_limited_at_all_nodes(target: Target) -> None:
    """Whatever names it tries: the count is one, and others are not held up."""
    first, second = (target.node(**UNHURRIED, LOGIN_RATE="6") for _ in range(2))
    answers = [guess((first, second)[n % 2], f"nobody-{n}", "x", "127.0.3.1") for n in range(10)]
    other = guess(first, target.user(), target.house.password, "127.0.3.2")

    assert ["BAD_CREDENTIALS"] * 6 + ["RATE_LIMITED"] * 4 == [code_of(answer) for answer in answers]
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in answers[6:])
    assert 200 == other.status_code


def test_who_is_not_there_is_refused_like_who_is(target: Target, ports: tuple[int, int]) -> None:
    """Status, headers and body of the answer to a wrong password are the same, but for time and request id."""
    told = [guess(ports[0], username, "wrong") for username in (target.user(), "nobody-of-that-name")]
    bodies = [{**answer.json(), "timestamp": None, "requestId": None} for answer in told]
    headers = [{name: value for name, value in answer.headers.items() if name != "date"} for answer in told]

    assert told[0].status_code == told[1].status_code
    assert bodies[0] == bodies[1]
    assert headers[0].keys() == headers[1].keys()
    assert headers[0]["content-length"] == headers[1]["content-length"]
