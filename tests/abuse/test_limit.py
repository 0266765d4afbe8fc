"""A node that is full refuses, in a way that clients understand, and serves on; one that has no more files recovers."""

import resource

import httpx

from tests.abuse.conftest import UNHURRIED, Target
from tests.abuse.crowd import AT_ONCE, Crowd, open_files
from tests.abuse.raw import connected, handshake
from tests.waiting import until

LIMIT, COUNT = 1000, 1200
"""Sessions that the node takes, and peers that come. `python -m tests.abuse.crowd` does it with 20,000."""


def node(target: Target, **settings: str) -> tuple[int, int, str]:
    """A node of its own: its port and process, and the access token of an agent."""
    port = target.node(**UNHURRIED, **settings)
    return port, target.house.processes[-1].pid, target.signed_in(port)["accessToken"]


def is_alive(port: int) -> bool:
    """Whether a node answers somebody new."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


async def test_a_full_node_refuses_and_serves_on(target: Target) -> None:
    """Exactly as many come in as it takes. Others are told 503 and when to come back; those inside are answered, API
    requests too; and where one goes, one comes."""
    port, _, token = node(target, MAX_SESSIONS=str(LIMIT))
    crowd = Crowd(port, token, network=10)
    crowd.come(COUNT)
    inside, refused = len(crowd.inside), list(crowd.refused)
    answered = len(crowd.beat())
    alive = is_alive(port)
    crowd.leave(AT_ONCE)

    def room() -> bool:
        crowd.come(1)
        return len(crowd.inside) > LIMIT - AT_ONCE

    await until(room)
    crowd.leave()

    assert (LIMIT, COUNT - LIMIT) == (inside, len(refused))
    assert {(503, "1")} == set(refused)
    assert (LIMIT, True) == (answered, alive)


def test_sockets_that_said_nothing_are_counted_too(target: Target) -> None:
    """Or whoever has one credential opens as many as the machine bears, ten seconds long."""
    port, _, token = node(target, MAX_SESSIONS="20")
    peers = [connected(port) for _ in range(30)]
    for peer in peers:
        peer.send(handshake("/ws/agent", f"Authorization: Bearer {token}"))
    statuses = [peer.head()[0] for peer in peers]
    for peer in peers:
        peer.line.close()

    assert 20 == statuses.count(101)


async def test_a_node_without_files_left_serves_on_and_recovers(target: Target) -> None:
    """Connections beyond `ulimit -n` are not taken. Who is inside is served, and everybody when they have gone."""
    port, pid, token = node(target)
    crowd = Crowd(port, token, network=11)
    crowd.come(3)
    most = open_files(pid) + 50
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
    silent = [connected(port) for _ in range(200)]
    await until(lambda: open_files(pid) >= most - 1)
    answered = len(crowd.beat())
    for peer in silent:
        peer.line.close()

    await until(lambda: is_alive(port))
    answered += len(crowd.beat())
    crowd.leave()

    assert 6 == answered
