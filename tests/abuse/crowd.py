"""More peers than a node takes: they come until it is full, those beyond are refused, and who is there is served.

    python -m tests.abuse.crowd --count 20000 --limit 19800

does it with a house of its own, and tells what it cost; `test_limit.py` does the same with fewer. A process may open no
more files than `ulimit -n` says: the node as many as the limit and some, and each of two processes of peers half.
"""

import asyncio
import multiprocessing
import sys
import time
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import httpx

from tests.abuse.raw import CLOSE, TEXT, Peer, connected, frame, handshake
from tests.bench.ground import USUAL_TIMES, cpu, load, memory, open_house, percentile
from tests.waiting import until

AT_ONCE = 50
"""Peers that knock together: the next come when these have been welcomed or refused."""

PATIENT = {"FIRST_MESSAGE": "10", "PROBE_AFTER": "3000", "OFFLINE_AFTER": "3300", "CLOSE_AFTER": "3600"}
"""Who waits until all have come is not idle."""

HELLO = frame(TEXT, b'{"type":"HELLO","data":{}}')
HEARTBEAT = frame(TEXT, b'{"type":"HEARTBEAT","data":{}}')


class Crowd:
    """Pages of one agent, from some of the addresses of this machine's own network."""

    def __init__(self, port: int, token: str, network: int) -> None:
        self._port = port
        self._handshake = handshake("/ws/agent", f"Authorization: Bearer {token}")
        self._network = network
        self.inside: list[Peer] = []
        self.refused: list[tuple[int | None, str | None]] = []
        """Of each that was refused, the HTTP status or close code, and what it was told of when to come back."""

    def come(self, count: int) -> None:
        """So many knock."""
        for begun in range(0, count, AT_ONCE):
            together = [self._knock(number) for number in range(begun, min(count, begun + AT_ONCE))]
            let_in = []
            for peer in together:
                status, headers = peer.head()
                if status == 101:
                    peer.send(HELLO)
                    let_in.append(peer)
                else:
                    self.refused.append((status, headers.get("retry-after")))
                    peer.line.close()
            for peer in let_in:
                said = peer.hear()
                if said is not None and b'"WELCOME"' in said.payload:
                    self.inside.append(peer)
                else:
                    self.refused.append((said.code if said is not None and said.opcode == CLOSE else None, None))
                    peer.line.close()

    def beat(self, every: int = 1) -> list[float]:
        """Have some of them beat, one after the other: how many seconds each waited for its answer."""
        waited = []
        for peer in self.inside[::every]:
            begin = time.perf_counter()
            peer.send(HEARTBEAT)
            while (said := peer.hear()) is not None and b"HEARTBEAT_ACK" not in said.payload:
                pass
            assert said is not None
            waited.append(time.perf_counter() - begin)
        return waited

    def leave(self, count: int | None = None) -> None:
        """So many go, or all of them, without a word."""
        going, self.inside = self.inside[:count], self.inside[len(self.inside[:count]) :]
        for peer in going:
            peer.line.close()

    def _knock(self, number: int) -> Peer:
        peer = connected(self._port, f"127.0.{self._network}.{number % 250 + 1}")
        peer.send(self._handshake)
        return peer


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _crowd_of_its_own(orders: Connection, port: int, token: str, network: int, count: int) -> None:
    """A process of peers: does what it is told to, and tells what became of it."""
    crowd = Crowd(port, token, network)
    while (order := orders.recv()) != "leave":
        match order:
            case "come":
                crowd.come(count)
                orders.send((len(crowd.inside), crowd.refused))
            case "beat":
                orders.send(crowd.beat(every=20))
    crowd.leave()
    orders.send(None)


@click.command()
@click.option("--count", default=20_000, show_default=True, help="How many peers come.")
@click.option("--limit", default=19_800, show_default=True, help="How many a node takes.")
def main(count: int, limit: int) -> None:
    """Fill a node, and tell what that costs it and those who are there."""
    asyncio.run(_measure(count, limit))


async def _measure(count: int, limit: int) -> None:
    async with AsyncExitStack() as stack:
        house, _ = await open_house(stack)
        node = await house.node(**(USUAL_TIMES | PATIENT), MAX_SESSIONS=str(limit))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=node.origin, timeout=60))
        who = {"username": await house.user("agent"), "password": house.password}
        signed_in: dict[str, Any] = (await http.post("/api/v1/auth/login", json=who)).json()
        idle, spent, begin = memory(node), cpu(node.pid), time.perf_counter()

        crowds = []
        spawning = multiprocessing.get_context("spawn")
        for network in (1, 2):
            ours, theirs = spawning.Pipe()
            arguments = (theirs, node.port, signed_in["accessToken"], network, count // 2)
            process = spawning.Process(target=_crowd_of_its_own, args=arguments)
            process.start()
            theirs.close()
            crowds.append((process, ours))

        async def tell(order: str) -> list[Any]:
            for _, orders in crowds:
                orders.send(order)
            return [await asyncio.to_thread(orders.recv) for _, orders in crowds]

        came = await tell("come")
        took, spent = time.perf_counter() - begin, cpu(node.pid) - spent
        inside, refused = sum(of for of, _ in came), [each for _, those in came for each in those]
        waited = [second for those in await tell("beat") for second in those]
        asked = []
        for _ in range(100):
            begin = time.perf_counter()
            (
                await http.get("/api/v1/me", headers={"Authorization": f"Bearer {signed_in['accessToken']}"})
            ).raise_for_status()
            asked.append(time.perf_counter() - begin)
        full = memory(node)
        await tell("leave")
        begin = time.perf_counter()
        await until(lambda: open_files(node.pid) < 200, 60)
        emptied = time.perf_counter() - begin
        for process, _ in crowds:
            process.join(30)
        click.echo(
            f"{count} peers came in {took:.0f} s ({count / took:.0f}/s, {spent / count * 1e6:.0f} us of CPU each):"
            f" {inside} are inside, {len(refused)} were told {sorted(set(refused))};"
            f" {(full - idle) / inside / 1024:.1f} KiB of memory a session;"
            f" heartbeats answered in {_told(waited)}; GET /me in {_told(asked)};"
            f" all gone after {emptied:.1f} s, with {(memory(node) - idle) / 2**20:.0f} MiB more than before; {load()}"
        )


def _told(seconds: list[float]) -> str:
    return f"p50 {percentile(seconds, 50) * 1e3:.1f} ms, p99 {percentile(seconds, 99) * 1e3:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
