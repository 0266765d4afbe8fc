"""Batches over pub/sub: the ways in, who waits for whom, and what is lost when a server is in trouble."""

import asyncio
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import trustme
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

import storage.redis_line
import storage.redis_servers
from storage.bus import Bus
from storage.live import RedisClient, open_redis
from tests import redises
from tests.conftest import in_background
from tests.waiting import DEADLINE, until


class Post:
    """A bus of numbers, and what became of them."""

    def __init__(self, redis: RedisClient, *, deadline: float = DEADLINE, bound: int = 1000) -> None:
        self.taken = 0
        self.lost = 0
        self.problems: list[Exception] = []
        self.heard: list[int] = []
        self.bus: Bus[int] = Bus(
            redis, msgspec.json.encode, deadline=deadline, bound=bound, taken=self._take, lost=self._lose
        )

    def hear(self, batch: bytes) -> None:
        """Keep what a batch brings."""
        self.heard += msgspec.json.decode(batch, type=list[int])

    def _take(self, count: int) -> None:
        self.taken += count

    def _lose(self, count: int, problem: Exception) -> None:
        self.lost += count
        self.problems.append(problem)


@pytest.fixture
def channel() -> str:
    """A channel of this test alone."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redises.Cluster]:
    """Three masters with a replica each."""
    with in_background(redises.cluster(tmp_path_factory.mktemp("cluster"))) as redis:
        yield redis


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """The URL of a server that takes connections and never says a word."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _pump(reader, writer, answer=False)

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()


@asynccontextmanager
async def post_at(url: str, *, deadline: float = DEADLINE, bound: int = 1000) -> AsyncIterator[Post]:
    """A bus that runs until the block ends."""
    redis = open_redis(url)
    post = Post(redis, deadline=deadline, bound=bound)
    running = asyncio.create_task(post.bus.run())
    try:
        yield post
        assert not running.done(), "the bus has ended"
    finally:
        running.cancel()
        await asyncio.wait([running])
        await redis.aclose()


async def goes_round(url: str, channel: str) -> None:
    """What is put is heard, in its order."""
    async with post_at(url) as post, post.bus.listening(channel, post.hear):
        for number in range(5):
            post.bus.put(channel, number)
        await until(lambda: len(post.heard) == 5)

        assert ([0, 1, 2, 3, 4], 5, 0) == (post.heard, post.taken, post.lost)


async def test_a_user_with_a_name_gets_in(neighbours: Any, channel: str) -> None:
    """Redis knows users beside the default one."""
    name, password = f"u{secrets.token_hex(4)}", "p@ss/word"
    async with open_redis(neighbours.redis_url) as redis:
        assert isinstance(redis, Redis)
        await redis.acl_setuser(name, enabled=True, passwords=[f"+{password}"], commands=["+@all"], channels=["*"])
        try:
            at = urlsplit(neighbours.redis_url)
            await goes_round(f"redis://{name}:p%40ss%2Fword@{at.hostname}:{at.port}/0", channel)
        finally:
            await redis.acl_deluser(name)


async def test_a_user_without_a_password_gets_in(neighbours: Any, channel: str) -> None:
    """By its name alone, which is told."""
    name = f"u{secrets.token_hex(4)}"
    async with open_redis(neighbours.redis_url) as redis:
        assert isinstance(redis, Redis)
        await redis.acl_setuser(name, enabled=True, nopass=True, commands=["+@all"], channels=["*"])
        try:
            at = urlsplit(neighbours.redis_url)
            await goes_round(f"redis://{name}@{at.hostname}:{at.port}/0", channel)
        finally:
            await redis.acl_deluser(name)


async def test_whoever_has_a_wrong_password_loses_everything(neighbours: Any, channel: str) -> None:
    """It is refused, counted, and told why."""
    at = urlsplit(neighbours.redis_url)
    async with post_at(f"redis://:wrong@{at.hostname}:{at.port}/0") as post:
        post.bus.put(channel, 1)
        await until(lambda: post.lost == 1)

        assert "WRONGPASS" in str(post.problems[0])
        with pytest.raises(RedisError, match="WRONGPASS"):
            async with post.bus.listening(channel, post.hear):
                pass


async def test_a_socket_of_the_machine_does(tmp_path: Path, channel: str) -> None:
    """unix:// needs no port."""
    path = tmp_path / "s"
    server = redises.Valkey(tmp_path / "valkey", 0, [f"unixsocket {path}"])
    server.start()
    try:
        await until(path.exists)
        await goes_round(f"unix://:{redises.PASSWORD}@{path}", channel)
    finally:
        server.kill()


async def test_tls_is_checked(neighbours: Any, channel: str, tmp_path: Path) -> None:
    """rediss:// takes the authority of the URL, and nobody else's word."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    at = urlsplit(neighbours.redis_url)
    tasks = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        near, far = await asyncio.open_connection(at.hostname, at.port)
        await asyncio.gather(_pump(reader, far), _pump(near, writer))

    server = await asyncio.start_server(forward, "localhost", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        await goes_round(f"rediss://:{at.password}@localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}", channel)
        async with post_at(f"rediss://:{at.password}@localhost:{port}/0") as post:
            with pytest.raises(ssl.SSLCertVerificationError):
                async with post.bus.listening(channel, post.hear):
                    pass
    finally:
        server.close()
        await asyncio.wait(tasks)


async def test_a_context_of_tls_is_made_once(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each connection: it takes tens of milliseconds, and a server that is away is tried often."""
    made = []
    make = ssl.create_default_context

    def count() -> ssl.SSLContext:
        made.append(context := make())
        return context

    monkeypatch.setattr(ssl, "create_default_context", count)
    async with post_at("rediss://127.0.0.1:1/0") as post:
        for _ in range(3):
            with pytest.raises(OSError):
                async with post.bus.listening(channel, post.hear):
                    pass

    assert 1 == len(made)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer: bool = True) -> None:
    try:
        while data := await reader.read(65536):
            if answer:
                writer.write(data)
    except OSError:
        pass  # aborted: that is how the bus hangs up
    finally:
        writer.close()


async def test_a_connection_nobody_used_for_long_is_opened_anew(
    neighbours: Any, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a firewall has forgotten costs no message."""
    async with post_at(neighbours.redis_url) as post, post.bus.listening(channel, post.hear):
        post.bus.put(channel, 1)
        await until(lambda: post.taken == 1)
        first = [lane.line for lane in post.bus._lanes.values()]
        monkeypatch.setattr(storage.redis_line, "IDLE", -1.0)
        post.bus.put(channel, 2)
        await until(lambda: len(post.heard) == 2)

        assert first != [lane.line for lane in post.bus._lanes.values()]
        assert ([1, 2], 0) == (post.heard, post.lost)


async def test_a_doubted_connection_is_opened_anew(neighbours: Any, channel: str) -> None:
    """Whoever sends and does not hear itself may be talking to a server that everybody else has left."""
    async with post_at(neighbours.redis_url) as post, post.bus.listening(channel, post.hear):
        post.bus.put(channel, 1)
        await until(lambda: post.taken == 1)
        first = [lane.line for lane in post.bus._lanes.values()]
        post.bus.doubt()
        post.bus.put(channel, 2)
        await until(lambda: len(post.heard) == 2)

        assert first != [lane.line for lane in post.bus._lanes.values()]
        assert ([1, 2], 0) == (post.heard, post.lost)


async def test_a_flaw_of_who_hears_ends_the_subscription_loudly(neighbours: Any, channel: str) -> None:
    """It is not taken for a fault of Redis."""

    def stumble(_: bytes) -> None:
        raise LookupError("a flaw")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    async with post_at(neighbours.redis_url) as post:
        async with post.bus.listening(channel, stumble) as line:
            post.bus.put(channel, 1)
            with pytest.raises(LookupError):
                await line.wait(DEADLINE)


async def test_no_more_waits_than_the_bound(silent: str, channel: str) -> None:
    """Whoever puts more is told so at once."""
    post = Post(open_redis(silent), bound=2)

    assert [True, True, False] == [post.bus.put(channel, number) for number in range(3)]


async def test_what_an_ended_bus_did_not_carry_is_counted(silent: str, channel: str) -> None:
    """What was under way, and what waited behind it."""
    async with post_at(silent) as post:
        post.bus.put(channel, 1)
        await until(lambda: post.bus.waiting == 0)
        post.bus.put(channel, 2)
        post.bus.put(f"{channel}-2", 3)

    assert (0, 3, 0) == (post.taken, post.lost, post.bus.waiting)


async def test_what_is_under_way_is_flushed_too(silent: str, channel: str) -> None:
    """Whoever flushes may leave afterwards: nothing is in the air."""
    async with post_at(silent, deadline=0.3) as post:
        post.bus.put(channel, 1)
        await until(lambda: post.bus.waiting == 0)
        await post.bus.flush()

        assert 1 == post.lost


async def test_a_cluster_carries_by_all_its_masters(cluster: redises.Cluster) -> None:
    """Each channel lives at one; what is put into all of them in one tick arrives, by three round trips."""
    channels = [_channel_of(part) for part in range(3)]
    async with post_at(cluster.url) as post:
        async with (
            post.bus.listening(channels[0], post.hear),
            post.bus.listening(channels[1], post.hear),
            post.bus.listening(channels[2], post.hear),
        ):
            for number in range(30):
                post.bus.put(channels[number % 3], number)
            await until(lambda: len(post.heard) == 30)

    assert (list(range(30)), 30, 0) == (sorted(post.heard), post.taken, post.lost)


async def test_a_cluster_tells_why_it_does_not_answer(cluster: redises.Cluster, channel: str) -> None:
    """The last of those that were asked, at least."""
    async with post_at(cluster.url.replace(redises.PASSWORD, "wrong")) as post:
        post.bus.put(channel, 1)
        await until(lambda: post.lost == 1)

    assert "nobody answers CLUSTER SLOTS: ResponseError: WRONGPASS" in str(post.problems[0])


async def test_the_first_word_to_a_cluster_arrives(cluster: redises.Cluster, channel: str) -> None:
    """Also from one who never asked before which master has what: the command line tells once, and ends."""
    async with post_at(cluster.url) as hearer, hearer.bus.listening(channel, hearer.hear):
        redis = open_redis(cluster.url)
        teller = Post(redis)
        for number in range(9):
            teller.bus.put(f"{channel}-{number}", number)
        teller.bus.put(channel, 9)
        await teller.bus.flush()
        await redis.aclose()
        await until(lambda: hearer.heard == [9])

    assert (10, 0, 0) == (teller.taken, teller.lost, teller.bus.waiting)


async def test_a_master_that_hangs_holds_up_nobody_else(cluster: redises.Cluster) -> None:
    """What goes to the others arrives while its own waits, which is lost and counted after the deadline."""
    stuck, well = _channel_of(0), _channel_of(1)
    async with post_at(cluster.url, deadline=0.6) as post, post.bus.listening(well, post.hear):
        post.bus.put(stuck, 1)
        await until(lambda: post.taken == 1)
        hanging = await cluster.owner(stuck)
        hanging.send(signal.SIGSTOP)
        try:
            post.bus.put(stuck, 2)
            await asyncio.sleep(0)
            post.bus.put(well, 3)
            await until(lambda: post.heard == [3])
            lost_by_then = post.lost
            await until(lambda: post.lost >= 1)
        finally:
            hanging.send(signal.SIGCONT)
        await until(lambda: _is_taken(post, stuck))

        assert 0 == lost_by_then


async def test_a_master_that_hangs_takes_no_room_from_others(cluster: redises.Cluster) -> None:
    """The bound is for each."""
    stuck, well = _channel_of(0), _channel_of(1)
    async with post_at(cluster.url, bound=2) as post, post.bus.listening(well, post.hear):
        for channel in (stuck, well):
            post.bus.put(channel, 1)
        await until(lambda: post.taken == 2)
        hanging = await cluster.owner(stuck)
        hanging.send(signal.SIGSTOP)
        try:
            crowd = [post.bus.put(stuck, 2) for _ in range(3)]
            other = post.bus.put(well, 3)
            await until(lambda: post.heard == [1, 3])
        finally:
            hanging.send(signal.SIGCONT)

    assert ([True, True, False], True) == (crowd, other)


async def test_what_goes_to_another_master_goes_before_what_is_newer(
    cluster: redises.Cluster, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put before it was known where the channel lives is not overtaken."""
    monkeypatch.setattr(storage.redis_servers, "PAUSE", DEADLINE)  # it is asked once
    async with post_at(cluster.url) as hearer, hearer.bus.listening(channel, hearer.hear):
        redis = open_redis(cluster.url)
        teller = Post(redis)
        teller.bus.put(channel, 1)
        await teller.bus._servers.locate()
        teller.bus.put(channel, 2)
        await teller.bus.flush()
        await redis.aclose()
        await until(lambda: len(hearer.heard) == 2)

    assert [1, 2] == hearer.heard


async def test_a_slot_that_moves_is_followed(cluster: redises.Cluster) -> None:
    """Who listens is told that it ended, and hears at the new master; who sends loses at most what was under way."""
    channel = _channel_of(2)
    slot = key_slot(channel.encode())
    async with post_at(cluster.url) as post:
        old = await cluster.owner(channel)
        new = next(server for server in cluster.masters() if server is not old)
        name = await new.says("CLUSTER", "MYID")
        assert isinstance(name, bytes)
        async with post.bus.listening(channel, post.hear) as line:
            post.bus.put(channel, 1)
            await until(lambda: post.heard == [1])
            for server in (new, old):
                await server.says("CLUSTER", "SETSLOT", slot, "NODE", name.decode())
            with pytest.raises(RedisError):
                await line.wait(DEADLINE)
        await until(lambda: _listens(post, channel))

        assert await cluster.owner(channel) is new


async def _listens(post: Post, channel: str) -> bool:
    """Whether a number put now comes by a new subscription."""
    try:
        async with post.bus.listening(channel, post.hear) as line:
            post.heard.clear()
            post.bus.put(channel, 2)
            await line.wait(0.5)
            return post.heard == [2]
    except RedisError:
        return False


async def _is_taken(post: Post, channel: str) -> bool:
    before = post.taken
    post.bus.put(channel, 4)
    await asyncio.sleep(0)
    await until(lambda: post.bus.waiting == 0)
    return post.taken > before


def _channel_of(part: int) -> str:
    """A channel of a third of the slots."""
    each: Callable[[int], str] = lambda number: f"test-{secrets.token_hex(4)}-{number}"  # noqa: E731
    return next(name for name in map(each, range(1000)) if key_slot(name.encode()) * 3 // 16384 == part)
