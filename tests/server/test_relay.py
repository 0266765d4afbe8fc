"""Between nodes: what is carried, what is dropped and counted, and how a node finds out that it does not hear."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import capture_logs

import server.relay
from server.relay import NO_FRAME, CloseAgent, ClosePhone, Relay, ToAgent, ToPhone
from server.telemetry import Metrics
from storage.embedded import Servers, running
from storage.events import Emitted
from storage.live import open_redis
from tests.proxy import proxy_to
from tests.waiting import DEADLINE, until

FRAME = b'{"type":"X"}'


class Ear:
    """Stands where a node's sessions are."""

    def __init__(self) -> None:
        self.heard: list[ToPhone | ToAgent | ClosePhone | CloseAgent] = []

    def receive(self, carried: ToPhone | ToAgent | ClosePhone | CloseAgent) -> None:
        """Keep what was carried."""
        self.heard.append(carried)


class Node:
    """A node's end of the relay, alive."""

    def __init__(self, url: str, prefix: str, name: str, *, deaf_after: float = 60.0) -> None:
        # as `open_redis` makes it, but with patience for a slow machine
        self.redis = Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=DEADLINE)
        self.address = name
        self.metrics = Metrics()
        self.ear = Ear()
        self.gaps = 0
        self.relay = Relay(
            self.redis, prefix, lambda: self.address, self.metrics, canary_every=0.05, deaf_after=deaf_after
        )
        self.relay.connect(self.ear)

    def gap(self) -> None:
        """Something may have been missed."""
        self.gaps += 1

    def count(self, name: str) -> float:
        """A counter of this node."""
        value = self.metrics.registry.get_sample_value(f"dialdesk_relay_{name}_total")
        assert value is not None
        return value

    def heard(self) -> list[Any]:
        """Frames that came for phones."""
        return [bytes(message.frame) for message in self.ear.heard if isinstance(message, ToPhone)]

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """Publish, subscribe and sing, and hear oneself, while the block runs."""
        tasks = [
            asyncio.create_task(chore)
            for chore in (self.relay.publish(), self.relay.subscribe(self.gap), self.relay.sing())
        ]
        try:
            await until(lambda: self.relay.hears() and self.gaps > 0)
            yield
            assert not any(task.done() for task in tasks), "a chore of the node has ended"
        finally:
            pending = set(tasks)
            while pending:  # as the server does: the client may swallow a cancellation that meets its own time-out
                for task in pending:
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=1.0)
            await self.redis.aclose()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine drops no message."""
    monkeypatch.setattr(server.relay, "_DEADLINE", DEADLINE)


@pytest.fixture
def prefix() -> str:
    """The channels of this test alone."""
    return f"test-{secrets.token_hex(6)}:"


@pytest.fixture
async def pair(redis: Redis, neighbours: Any, prefix: str) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes on one Redis."""
    a, b = (Node(neighbours.redis_url, prefix, name) for name in ("a", "b"))
    async with a.living(), b.living():
        yield a, b


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """A Valkey of this test alone, which may be stopped, paused and told to kill."""
    async with running(tmp_path / "valkey", postgres=False, s3=False, durable=False) as servers:
        yield servers


async def test_messages_arrive_at_the_node_they_are_for(pair: tuple[Node, Node]) -> None:
    """All kinds, as they were said and in their order, and at no other node."""
    a, b = pair

    a.relay.to_phone("b", "p", FRAME)
    a.relay.announce([Emitted("ann", 7, FRAME, ["b"])])
    a.relay.close_phone("b", "p", 4503, "unbound", FRAME)
    a.relay.close_phone("b", "p", 4501, "replaced", epoch=3)
    a.relay.close_agent(["b"], "ann", 4503, "signed out", "login")
    await until(lambda: len(b.ear.heard) == 5)

    assert [
        ToPhone("p", msgspec.Raw(FRAME)),
        ToAgent("ann", 7, msgspec.Raw(FRAME)),
        ClosePhone("p", 4503, "unbound", msgspec.Raw(FRAME)),
        ClosePhone("p", 4501, "replaced", NO_FRAME, 3),
        CloseAgent("ann", 4503, "signed out", "login"),
    ] == b.ear.heard
    assert [] == a.ear.heard


async def test_an_event_goes_to_every_node_that_holds_a_page(pair: tuple[Node, Node]) -> None:
    """Here straight away, elsewhere through Redis."""
    a, b = pair

    a.relay.announce([Emitted("ann", 1, FRAME, ["a", "b"])])
    here = list(a.ear.heard)
    await until(lambda: bool(b.ear.heard))

    assert [ToAgent("ann", 1, msgspec.Raw(FRAME))] == here == b.ear.heard


async def test_what_is_for_this_node_does_not_go_through_redis(pair: tuple[Node, Node]) -> None:
    """It has arrived when the sending returns."""
    a, _ = pair

    a.relay.to_phone("a", "p", FRAME)

    assert [FRAME] == a.heard()


async def test_a_phone_without_a_node_is_told_nothing(pair: tuple[Node, Node]) -> None:
    """Its command waits in its row."""
    a, b = pair

    a.relay.to_phone(None, "p", FRAME)
    a.relay.close_phone(None, "p", 4503, "unbound")
    a.relay.to_phone("b", "p", FRAME)
    await until(lambda: bool(b.ear.heard))

    assert (1, []) == (len(b.ear.heard), a.ear.heard)


async def test_what_is_sent_in_one_tick_goes_in_one_message(redis: Redis, pair: tuple[Node, Node], prefix: str) -> None:
    """A hundred frames for a node are one PUBLISH, and arrive in their order."""
    a, b = pair
    async with redis.pubsub(ignore_subscribe_messages=True) as listener:
        await listener.subscribe(f"{prefix}node:b")
        await until(lambda: _subscribers(redis, f"{prefix}node:b", 2))
        for number in range(100):
            a.relay.to_phone("b", "p", b"%d" % number)
        await until(lambda: len(b.ear.heard) == 100)
        batches: list[list[Any]] = []
        while sum(len(batch) for batch in batches) < 100:
            message = await listener.get_message(timeout=5)
            if message is not None:
                batches.append([one for one in msgspec.json.decode(message["data"]) if one[0] == "p"])

    assert [100] == [len(batch) for batch in batches if batch]
    assert [b"%d" % number for number in range(100)] == b.heard()


async def _subscribers(redis: Redis, channel: str, at_least: int) -> bool:
    [(_, count)] = await redis.pubsub_numsub(channel)
    return bool(count >= at_least)


async def test_no_more_waits_than_the_bound(redis: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more is dropped and counted; what waits is carried."""
    monkeypatch.setattr(Relay, "OUTGOING_BOUND", 3)
    metrics = Metrics()
    relay = Relay(redis, prefix, lambda: "a", metrics, canary_every=1, deaf_after=5)
    for _ in range(5):
        relay.to_phone("b", "p", FRAME)
    dropped = metrics.registry.get_sample_value("dialdesk_relay_dropped_total")

    await relay.carry()

    assert (2, 3) == (dropped, metrics.registry.get_sample_value("dialdesk_relay_sent_total"))


async def test_the_log_tells_why_redis_refuses(neighbours: Any, prefix: str) -> None:
    """In its own words."""
    at = urlsplit(neighbours.redis_url)
    async with open_redis(f"redis://:wrong@{at.hostname}:{at.port}/0") as redis:
        relay = Relay(redis, prefix, lambda: "a", Metrics(), canary_every=1, deaf_after=5)
        relay.to_phone("b", "p", FRAME)
        with capture_logs() as logs:
            await relay.carry()

    [(event, error)] = [(entry["event"], entry["error"]) for entry in logs]
    assert "relay dropped messages" == event
    assert "WRONGPASS" in error


async def test_nothing_waits_for_a_redis_that_is_down(servers: Servers, prefix: str) -> None:
    """Sending returns at once, the loss is counted, the node knows that it is deaf. When Redis is back, so is the
    relay, and it says that something may have been missed."""
    a, b = (Node(servers.valkey.url, prefix, name, deaf_after=0.3) for name in ("a", "b"))
    async with a.living(), b.living():
        await servers.valkey.kill()
        for _ in range(10):
            a.relay.to_phone("b", "p", b"1")
        await until(lambda: a.count("dropped") >= 10)
        await until(lambda: not b.relay.hears())
        gaps = b.gaps
        await servers.valkey.start()
        await until(lambda: _hears_of(a, b))

        assert b.gaps > gaps
        assert {b"0"} == set(b.heard())


async def test_a_subscriber_that_was_killed_hears_again_and_says_what_it_missed(servers: Servers, prefix: str) -> None:
    """CLIENT KILL TYPE pubsub: whatever was published meanwhile is gone, and `after_gap` says so."""
    a, b = (Node(servers.valkey.url, prefix, name) for name in ("a", "b"))
    async with open_redis(servers.valkey.url) as admin, a.living(), b.living():
        gaps = b.gaps
        await admin.client_kill_filter(_type="pubsub")
        await until(lambda: b.gaps > gaps)
        await until(lambda: _hears_of(a, b))

        assert b.gaps > gaps


async def _hears_of(a: Node, b: Node) -> bool:
    a.relay.to_phone("b", "p", b"0")
    return bool(b.ear.heard)


async def test_a_paused_redis_makes_a_node_deaf_until_it_goes_on(servers: Servers, prefix: str) -> None:
    """No error comes, only silence: the missing canary tells; afterwards the subscription is a new one."""
    a = Node(servers.valkey.url, prefix, "a", deaf_after=0.3)
    async with open_redis(servers.valkey.url) as admin, a.living():
        gaps = a.gaps
        await admin.client_pause(1000, all=True)
        await until(lambda: not a.relay.hears())
        await until(lambda: a.relay.hears() and a.gaps > gaps)

        assert a.count("deaf") >= 1


async def test_a_line_that_swallows_everything_is_noticed(neighbours: Any, prefix: str) -> None:
    """A half-open connection never fails by itself; the node that was cut off comes back on new ones."""
    async with proxy_to(neighbours.redis_url) as line:
        a = Node(line.url, prefix, "a", deaf_after=0.3)
        async with a.living():
            gaps = a.gaps
            line.swallow()
            await until(lambda: not a.relay.hears())
            await line.cut()
            line.let_pass()
            await line.open()
            await until(lambda: a.relay.hears() and a.gaps > gaps)

            assert a.count("deaf") >= 1


async def test_garbage_on_the_channel_harms_nobody(redis: Redis, pair: tuple[Node, Node], prefix: str) -> None:
    """What a node of another version or a stranger publishes is dropped and counted; what comes after it is heard."""
    a, b = pair
    deep = b'[["p", "p", ' + b"[" * 5000 + b"]" * 5000 + b"]]"
    code = b'[["cp", "p", 70000, "", null]]'
    for payload in (b"", b"\xff", b"{}", b"[1]", b'[["of tomorrow", 1]]', b'[["p", "p"]]', b"null", deep, code):
        await redis.publish(f"{prefix}node:b", payload)

    a.relay.to_phone("b", "p", FRAME)
    await until(lambda: bool(b.ear.heard))

    assert ([FRAME], 9) == (b.heard(), b.count("dropped"))


async def test_what_is_not_understood_takes_nothing_with_it(redis: Redis, pair: tuple[Node, Node], prefix: str) -> None:
    """Of a batch of a node of another version, the messages that this one knows are heard, the others counted."""
    _, b = pair
    await redis.publish(f"{prefix}node:b", b'[["of tomorrow", 1], ["p", "p", %b], ["of tomorrow", 2]]' % FRAME)
    await until(lambda: bool(b.ear.heard))

    assert ([FRAME], 2) == (b.heard(), b.count("dropped"))


async def test_a_node_that_changes_its_address_hears_under_the_new_one(pair: tuple[Node, Node]) -> None:
    """A lost lease changes the boot id; what is sent to the old one is nobody's."""
    a, b = pair
    gaps = b.gaps
    b.address = "b2"
    await until(lambda: b.gaps > gaps)
    a.relay.to_phone("b", "p", b'"old"')
    a.relay.to_phone("b2", "p", b'"new"')
    await until(lambda: bool(b.ear.heard))

    assert [b'"new"'] == b.heard()


async def test_a_process_without_sessions_only_sends(redis: Redis, pair: tuple[Node, Node], prefix: str) -> None:
    """The worker connects nobody: what it sends to its own address goes nowhere, the rest arrives."""
    _, b = pair
    worker = Relay(redis, prefix, lambda: "w", Metrics(), canary_every=1, deaf_after=5)

    worker.to_phone("w", "p", FRAME)
    worker.to_phone("b", "p", FRAME)
    await worker.carry()
    await until(lambda: bool(b.ear.heard))

    assert [FRAME] == b.heard()


async def test_two_installations_share_a_redis_unheard_by_each_other(neighbours: Any, prefix: str) -> None:
    """Pub/sub ignores database numbers; the prefix keeps apart."""
    here, there = (Node(neighbours.redis_url, one, "b") for one in (prefix, f"{prefix}other:"))
    sender = Node(neighbours.redis_url, prefix, "a")
    async with here.living(), there.living(), sender.living():
        sender.relay.to_phone("b", "p", FRAME)
        await until(lambda: bool(here.ear.heard))

    assert [] == there.ear.heard
