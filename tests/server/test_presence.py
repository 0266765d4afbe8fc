"""What a node writes of its phones: claims together, losses though late, and sessions that are not the true ones."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from protocol.errors import CloseCode, DialdeskError
from server.hub import Hub
from server.lease import Lease
from server.presence import Presences
from server.relay import ClosePhone, Relay
from server.telemetry import Metrics
from storage import nodes
from storage.database import Database, open_database
from storage.nodes import Presence
from tests.conftest import Office
from tests.proxy import Proxy, proxy_to
from tests.server.test_hub import Link
from tests.server.test_relay import Node
from tests.storage.test_nodes import claim_of
from tests.waiting import until


class House:
    """One node's presences, over a line that may be cut; and the ears of that node and of another."""

    def __init__(self, database: Database, redis: Redis, prefix: str) -> None:
        self.metrics = Metrics()
        self.lease = Lease(database, self.metrics, name="n", kind="web", length=60, renew_every=5)
        self.hub = Hub(self.metrics, bound=100)
        self.relay = Relay(redis, prefix, lambda: self.lease.boot_id, self.metrics, canary_every=0.05, deaf_after=5)
        self.relay.connect(self.hub)
        self.presences = Presences(database, self.relay, self.lease, self.hub, resend_after=3)

    async def claim(self, *claims: Any) -> list[Any]:
        """Claim at once."""
        return await asyncio.gather(*(self.presences.claim(claim) for claim in claims))

    def session(self, device_id: str, epoch: int) -> Link:
        """A session of the phone on this node."""
        link = Link(epoch)
        self.hub.join_phone(device_id, link)
        return link


@pytest.fixture
def prefix() -> str:
    """The channels of this test alone."""
    return f"test-{secrets.token_hex(6)}:"


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[Proxy]:
    """The line to PostgreSQL, which may be cut."""
    async with proxy_to(database_url) as line:
        yield line


@pytest.fixture
async def house(line: Proxy, redis: Redis, prefix: str) -> AsyncIterator[House]:
    """A node with a lease."""
    async with open_database(line.url, max_size=4, timeout=5) as database:
        house = House(database, redis, prefix)
        await house.lease.take()
        yield house


async def row(database: Database, device_id: str) -> tuple[str | None, str, int]:
    """Node, online status and epoch of a phone."""
    async with database.connection() as connection:
        found = await connection.fetchrow("SELECT node, online_status, conn_epoch FROM device WHERE id = $1", device_id)
    assert found is not None
    return found["node"], found["online_status"], found["conn_epoch"]


async def test_claims_of_one_tick_are_one_transaction(house: House, database: Database, office: Office) -> None:
    """Fifty phones that come back at once cost one round trip, and each gets its own answer."""
    user = await office.agent()
    phones = [await office.phone(user, online=False) for _ in range(50)]

    claimed = await house.claim(*(claim_of(phone) for phone in phones))
    async with database.connection() as connection:
        transactions = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM device WHERE node IS NOT NULL")
    events = await _events(database, user)

    assert phones == [session.device_id for session in claimed if session is not None]
    assert (1, list(range(1, 51))) == (transactions, events)


async def _events(database: Database, user_id: str) -> list[int]:
    async with database.connection() as connection:
        return [
            r["seq"]
            for r in await connection.fetch("SELECT seq FROM agent_event WHERE user_id = $1 ORDER BY seq", user_id)
        ]


async def test_of_two_sockets_of_a_phone_the_newer_is_claimed(house: House, database: Database, office: Office) -> None:
    """In one batch, by the phone's own count, whichever asked first; the other is told that it is replaced."""
    user = await office.agent()
    phone, other = await office.phone(user), await office.phone(user)

    newer, older, beside = await house.claim(claim_of(phone, 8), claim_of(phone, 7), claim_of(other, 1))

    assert newer is not None
    assert beside is not None
    assert ("replaced", 1) == (older, newer.epoch)
    assert (house.lease.boot_id, "online", 1) == await row(database, phone)


async def test_the_node_that_held_the_older_session_is_told(
    house: House, neighbours: Any, prefix: str, database: Database, office: Office
) -> None:
    """It closes what is older than the new epoch, 4501."""
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await nodes.enlist(connection, "old", "old", "web", 60)
        await nodes.claim(connection, "old", [claim_of(phone)])

    other = Node(neighbours.redis_url, prefix, "old")
    async with other.living():
        await house.claim(claim_of(phone, 2))
        await house.relay.carry()
        await until(lambda: bool(other.ear.heard))
    [close] = other.ear.heard

    assert isinstance(close, ClosePhone)
    assert (phone, CloseCode.REPLACED, 2) == (close.device_id, close.code, close.epoch)


async def test_a_claim_that_is_committed_stands_though_its_sendings_cannot_be_counted(
    house: House, database: Database, office: Office
) -> None:
    """The session is told of its epoch all the same: no phone is online in its row without a session."""
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, reap_at)"
            " VALUES ('call_1', $1, $2, $2, $3, 'mobile', '+8613900000000', now())",
            office.tenant_id,
            user,
            phone,
        )
        await connection.execute(
            "INSERT INTO command (id, tenant_id, call_id, device_id, type, data, expires_at, next_send_at)"
            " VALUES ('m1', $1, 'call_1', $2, 'DIAL_COMMAND', '{}', now() + interval '1 hour', now())",
            office.tenant_id,
            phone,
        )
        # A statement about commands that is refused for a passing reason, as a deadlock would be.
        await connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = 'deadlock_detected'; END $$"
        )
        await connection.execute("CREATE TRIGGER refuse BEFORE UPDATE ON command EXECUTE FUNCTION refuse()")

    [claimed] = await house.claim(claim_of(phone))

    assert claimed is not None
    assert (1, ["m1"]) == (claimed.epoch, [command.message_id for command in claimed.commands])


async def test_a_claim_that_postgresql_does_not_take_is_refused_to_every_asker(
    house: House, line: Proxy, office: Office
) -> None:
    """UNAVAILABLE: their sockets are closed and they come back; later claims go through."""
    user = await office.agent()
    phones = [await office.phone(user) for _ in range(3)]
    await line.cut()
    refused = await asyncio.gather(
        *(house.presences.claim(claim_of(phone)) for phone in phones), return_exceptions=True
    )
    await line.open()
    [claimed] = await house.claim(claim_of(phones[0]))

    assert ["UNAVAILABLE"] * 3 == [error.code for error in refused if isinstance(error, DialdeskError)]
    assert claimed is not None


async def test_a_loss_is_written_when_postgresql_is_back(
    house: House, line: Proxy, database: Database, office: Office
) -> None:
    """What cannot be written now is kept and said again; agents are told once it is committed."""
    user = await office.agent()
    phone = await office.phone(user, online=False)
    await house.claim(claim_of(phone))
    page = Link()
    house.hub.join_agent(user, page)
    async with database.connection() as connection:
        await nodes.attend(connection, [user], house.lease.boot_id)
    writing = asyncio.create_task(house.presences.write())
    await line.cut()
    house.presences.say(Presence(phone, 1, "offline"))
    untaken = await house.presences.flush()
    during = await row(database, phone)
    await line.open()
    await until(lambda: _is(database, phone, "offline"))
    await until(lambda: bool(page.events))
    writing.cancel()

    assert (False, (house.lease.boot_id, "online", 1)) == (untaken, during)
    assert [2] == [seq for seq, _ in page.events]


async def _is(database: Database, device_id: str, status: str) -> bool:
    return (await row(database, device_id))[1] == status


async def test_a_later_word_takes_the_place_of_an_earlier_one(
    house: House, line: Proxy, database: Database, office: Office
) -> None:
    """Also when the earlier one is being said again: only the last about a session is written."""
    user = await office.agent()
    phone = await office.phone(user)
    await house.claim(claim_of(phone))
    await line.cut()
    house.presences.say(Presence(phone, 1, "offline"))
    await house.presences.flush()
    house.presences.say(Presence(phone, 1, "online"))
    await line.open()

    assert await house.presences.flush()
    assert (house.lease.boot_id, "online", 1) == await row(database, phone)
    assert [] == await _events(database, user)


async def test_the_word_of_an_older_session_is_beside_that_of_a_newer(
    house: House, database: Database, office: Office
) -> None:
    """Both are said at once, and only the newest epoch is heard."""
    user = await office.agent()
    phone = await office.phone(user)
    await house.claim(claim_of(phone, 1))
    await house.claim(claim_of(phone, 2))
    house.presences.say(Presence(phone, 2, "online"))
    house.presences.say(Presence(phone, 1, "lost"))
    await house.presences.flush()

    assert (house.lease.boot_id, "online", 2) == await row(database, phone)


async def test_nothing_said_is_nothing_written(house: House, line: Proxy) -> None:
    """Without a word there is no transaction to fail."""
    await line.cut()

    assert await house.presences.flush()
    await line.open()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE device SET conn_epoch = conn_epoch + 1, node = 'elsewhere'", CloseCode.REPLACED),
        ("UPDATE device SET node = NULL", CloseCode.DRAINING),
        ("UPDATE device SET unbound_at = now()", CloseCode.UNBOUND),
        ("UPDATE device SET unbound_at = now(), conn_epoch = conn_epoch + 1, node = NULL", CloseCode.UNBOUND),
        ("UPDATE device SET last_heartbeat = NULL", None),
    ],
)
async def test_a_session_that_is_not_the_true_one_any_more_is_closed(
    house: House, database: Database, office: Office, change: str, code: int | None
) -> None:
    """By the code that tells the phone why; the true one is left alone, and when it was heard is written."""
    user = await office.agent()
    phone, untouched = await office.phone(user), await office.phone(user)
    await house.claim(claim_of(phone), claim_of(untouched))
    session, other, newer = house.session(phone, 1), house.session(untouched, 1), house.session(phone, 2)
    async with database.connection() as connection:
        await connection.execute(f"{change} WHERE id = $1", phone)

    await house.presences.check(100.0, [(phone, 1, 90.0), (untouched, 1, 40.0)])
    async with database.connection() as connection:
        ago = await connection.fetchval(
            "SELECT extract(epoch FROM now() - last_heartbeat)::float8 FROM device WHERE id = $1", untouched
        )

    assert (code, None, None) == (session.code, other.code, newer.code)
    assert 60 <= ago < 75


async def test_a_phone_without_a_session_here_is_given_up(house: House, database: Database, office: Office) -> None:
    """A claim whose commit was answered to nobody leaves a row that says "here": the check finds it, and its grace
    begins."""
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await nodes.claim(connection, house.lease.boot_id, [claim_of(phone)])

    await house.presences.check(0.0, [])
    await house.presences.flush()

    assert (None, "online", 1) == await row(database, phone)
