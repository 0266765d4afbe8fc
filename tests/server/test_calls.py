"""Calls as agents ask for them and phones tell of them: dialled once, moved once a report, closed when nobody tells."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from protocol.call import Evidence, Outcome
from protocol.errors import DialdeskError
from protocol.identifiers import new_id
from protocol.messages import CallEnd, CallStatus, CancelDial, Dial, DialCommand, HangUp, to_phone
from server.calls import Calls, DialAnswer, DialRequest, HangUpRequest
from server.config import Config
from server.identity import Identity
from server.relay import CloseAgent, ClosePhone, Relay, ToAgent, ToPhone
from server.reports import AppEnd, AppStatus
from server.telemetry import Metrics
from storage import calls as stored
from storage import nodes
from storage.database import Database
from storage.events import Emitted
from storage.idempotency import Once
from tests.conftest import Office
from tests.storage.test_nodes import claim_of
from tests.waiting import until_blocked

HERE = "this-node"
NUMBER = "13900139000"
AGENT = frozenset({"calls.dial", "calls.control"})
PENDING_FOR_LONG = timedelta(seconds=31)  # 20 s to start dialling, 10 s to say so
RUNG_FOR_LONG = timedelta(seconds=121)
OUT_OF_HOURS = """
    UPDATE tenant SET
        calling_from = CASE WHEN (now() AT TIME ZONE timezone)::time < '12:00' THEN time '14:00' ELSE time '08:00' END,
        calling_to = CASE WHEN (now() AT TIME ZONE timezone)::time < '12:00' THEN time '15:00' ELSE time '09:00' END
"""


class Sockets:
    """Stands where this node's sessions are, and keeps what reaches them."""

    def __init__(self) -> None:
        self.to_phones: list[ToPhone] = []
        self.to_agents: list[ToAgent] = []

    def receive(self, carried: ToPhone | ToAgent | ClosePhone | CloseAgent) -> None:
        """Keep it."""
        match carried:
            case ToPhone():
                self.to_phones.append(carried)
            case ToAgent():
                self.to_agents.append(carried)
            case unexpected:
                raise AssertionError(unexpected)


class Floor:
    """The call control of one node, and those who use it."""

    def __init__(self, database: Database, office: Office, redis: Redis, config: Config) -> None:
        self.database = database
        self.office = office
        self.sockets = Sockets()
        metrics = Metrics()
        relay = Relay(redis, config.redis_prefix, lambda: HERE, metrics, canary_every=1, deaf_after=5)
        relay.connect(self.sockets)
        self.calls = Calls(database, relay, metrics, config)

    def told(self) -> list[dict[str, Any]]:
        """What the pages of agents here were sent."""
        return [msgspec.json.decode(bytes(event.frame)) for event in self.sockets.to_agents]

    async def staff(self, **capabilities: Any) -> tuple[Identity, str]:
        """An agent with a page and an online phone on this node: (who, device id)."""
        user_id = await self.office.agent()
        device_id = await self.office.phone(user_id, **capabilities)
        await self.execute("UPDATE device SET node = $2 WHERE id = $1", device_id, HERE)
        async with self.database.connection() as connection:
            await nodes.attend(connection, [user_id], HERE)
        return self.agent(user_id), device_id

    def agent(self, user_id: str, **more: Any) -> Identity:
        """A signed-in user of the office."""
        known = {"tenant_id": self.office.tenant_id, "permissions": AGENT, **more}
        return Identity(kind="user", id=user_id, user_id=user_id, **known)

    def handset(self, device_id: str) -> Identity:
        """A phone of the office, by its token."""
        return Identity(kind="phone", id=device_id, tenant_id=self.office.tenant_id)

    async def dial(self, who: Identity, *, key: str | None = None, **fields: Any) -> str:
        """Dial as over HTTP; returns the call id."""
        request = DialRequest(**{"customer_phone": NUMBER, **fields})
        digest = hashlib.sha256(msgspec.json.encode(request)).digest()
        once = Once(who.tenant_id, who.id, "Calls.dial", key, digest)
        answer = await once.run(self.database, lambda: self.calls.dial(who, request, once))
        return msgspec.json.decode(answer, type=DialAnswer).call_id

    async def say(self, device_id: str, call_id: str, status: str, message_id: str | None = None, **more: Any) -> None:
        """A phone says how far a call is: a progress, or `ended` with an outcome."""
        report: CallStatus | CallEnd
        if "outcome" in more:
            report = CallEnd(call_id=call_id, status=more.pop("outcome"), **more)
        else:
            report = CallStatus(call_id=call_id, status=status, **more)  # type: ignore[arg-type]
        await self.calls.apply(self.office.tenant_id, device_id, message_id or new_id("msg"), report)

    async def end(
        self, device_id: str, call_id: str, outcome: Outcome, message_id: str | None = None, **more: Any
    ) -> None:
        """A phone says that a call is over."""
        await self.say(device_id, call_id, "ended", message_id, outcome=outcome, **more)

    async def hang_up(self, who: Identity, call_id: str) -> None:
        """Hang up as over HTTP."""
        await self.calls.hang_up(who, HangUpRequest(call_id=call_id))

    async def reap_after(self, call_id: str, stood: timedelta) -> None:
        """Let a call have stood still for so long, and let the reaper look."""
        await self.execute("UPDATE call SET reap_at = reap_at - $2::interval WHERE id = $1", call_id, stood)
        await self.calls.reap(self.office.tenant_id, call_id)

    async def execute(self, statement: str, *values: Any) -> None:
        """Change rows behind the back of the code."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def rows(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """Look at rows."""
        async with self.database.connection() as connection:
            return await connection.fetch(statement, *values)

    async def call(self, call_id: str) -> dict[str, Any]:
        """A call as its row stands."""
        [row] = await self.rows("SELECT * FROM call WHERE id = $1", call_id)
        return dict(row)

    async def ended(self, call_id: str) -> tuple[Any, ...]:
        """What the row of a call says about its end."""
        row = await self.call(call_id)
        return tuple(row[name] for name in ("status", "outcome", "closed_by", "evidence", "hangup_cause"))

    async def history(self, call_id: str) -> list[tuple[str, str, str]]:
        """(source, kind, effect) of all that was written of a call."""
        rows = await self.rows("SELECT source, kind, effect FROM call_event WHERE call_id = $1 ORDER BY id", call_id)
        return [tuple(row) for row in rows]

    async def commands(self, call_id: str) -> list[tuple[str, bool, bool]]:
        """(type, whether it is still sent, whether it was acked) of a call's commands."""
        rows = await self.rows(
            "SELECT type, next_send_at IS NOT NULL, acked_at IS NOT NULL FROM command"
            " WHERE call_id = $1 ORDER BY created_at",
            call_id,
        )
        return [tuple(row) for row in rows]

    async def stream(self, user_id: str) -> list[tuple[int, str]]:
        """(seq, type) of an agent's events."""
        rows = await self.rows("SELECT seq, type FROM agent_event WHERE user_id = $1 ORDER BY seq", user_id)
        return [tuple(row) for row in rows]

    async def written(self) -> dict[str, int]:
        """How many rows a dial has left behind, by table."""
        tables = ("call", "call_event", "command", "idempotency_key", "agent_event")
        return {table: (await self.rows(f"SELECT count(*) FROM {table}"))[0][0] for table in tables}


NOTHING = {"call": 0, "call_event": 0, "command": 0, "idempotency_key": 0, "agent_event": 0}


@pytest.fixture
async def floor(database: Database, office: Office, redis: Redis, config: Config) -> Floor:
    """A node's call control, the node being enlisted."""
    async with database.connection() as connection:
        await nodes.enlist(connection, HERE, HERE, "web", 60)
    return Floor(database, office, redis, config)


async def refusal(asked: Awaitable[Any]) -> str:
    """The code with which something is refused, or "accepted"."""
    try:
        await asked
    except DialdeskError as error:
        return error.code
    return "accepted"


async def foreign(database: Database) -> Office:
    """Another tenant of the same database."""
    tenant_id = new_id("tenant")
    async with database.connection() as connection:
        await connection.execute("INSERT INTO tenant (id, code, name) VALUES ($1, 'foreign', 'Foreign')", tenant_id)
    return Office(database, tenant_id)


# --- dialling ---------------------------------------------------------------------------------------------------------


async def test_a_dial_that_cannot_be_written_fails_no_other(floor: Floor) -> None:
    """Dials of one moment are committed together; one that holds what no row can hold, or finds its phone taken, is
    refused alone."""
    staff = [await floor.staff() for _ in range(4)]
    asked: list[dict[str, Any]] = [{}, {"customer_name": "\0"}, {}, {}]

    told = await asyncio.gather(
        *(floor.dial(who, **fields) for (who, _), fields in zip(staff, asked, strict=True)),
        floor.dial(staff[3][0]),
        return_exceptions=True,
    )

    refused = [error.code for error in told if isinstance(error, DialdeskError)]
    assert sorted(["INVALID_FIELD", "DEVICE_BUSY"]) == sorted(refused)
    assert {"call": 3, "call_event": 3, "command": 3, "idempotency_key": 0, "agent_event": 0} == await floor.written()


async def test_reports_of_one_moment_are_committed_each_for_itself(floor: Floor) -> None:
    """One that is poisoned is refused alone; the others move their calls, and each agent is told of its own."""
    staff = [await floor.staff() for _ in range(5)]
    ids = [await floor.dial(who) for who, _ in staff]
    raw = ["fine", "fine", "\0", "fine", "fine"]

    told = await asyncio.gather(
        *(
            floor.end(phone, call_id, Outcome.MISSED, hangup_cause=cause)
            for (_, phone), call_id, cause in zip(staff, ids, raw, strict=True)
        ),
        return_exceptions=True,
    )

    assert [True, True, False, True, True] == [one is None for one in told]
    assert ["ended", "ended", "pending", "ended", "ended"] == [(await floor.call(call_id))["status"] for call_id in ids]
    assert [1, 1, 0, 1, 1] == [len(await floor.stream(who.id)) for who, _ in staff]


async def test_a_dial_commits_call_event_command_and_answer_and_then_tells_the_phone(floor: Floor) -> None:
    """The phone's node is sent the very command that stands in the row, under its id."""
    who, phone = await floor.staff()

    call_id = await floor.dial(who, key="k1", customer_name="Li", order_id="o1", custom_data={"case": 7})
    row = await floor.call(call_id)
    [sent] = floor.sockets.to_phones
    [command] = await floor.rows("SELECT * FROM command")
    told = to_phone.decode(bytes(sent.frame))

    assert {"call": 1, "call_event": 1, "command": 1, "idempotency_key": 1, "agent_event": 0} == await floor.written()
    assert ("pending", phone, "+8613900139000", "Li", "o1") == tuple(
        row[name] for name in ("status", "device_id", "customer_phone", "customer_name", "order_id")
    )
    assert ({"case": 7}, 1) == (msgspec.json.decode(row["custom_data"]), row["version"])
    assert (phone, command["id"], command["device_id"]) == (sent.device_id, told.message_id, phone)
    assert msgspec.json.decode(command["data"]) == msgspec.json.decode(bytes(sent.frame))["data"]
    assert isinstance(told.message, DialCommand)
    assert (call_id, NUMBER) == (told.message.call_id, told.message.customer_phone)
    assert [("agent", "DIAL", "created")] == await floor.history(call_id)


@pytest.mark.parametrize(("auto_dial", "seconds"), [(True, 20), (False, 60)])
async def test_a_command_expires_sooner_where_nobody_must_tap(floor: Floor, auto_dial: bool, seconds: int) -> None:
    """20 s for a phone that dials by itself, 60 s where a person must tap; and the reaper waits 10 s more."""
    who, _ = await floor.staff(autoDial=auto_dial)

    call_id = await floor.dial(who)
    [row] = await floor.rows(
        "SELECT c.expires_at - c.created_at AS life, c.expires_at, l.reap_at - c.expires_at AS patience,"
        " c.next_send_at - c.created_at AS resend"
        " FROM command c JOIN call l ON l.id = c.call_id WHERE l.id = $1",
        call_id,
    )
    told = to_phone.decode(bytes(floor.sockets.to_phones[0].frame)).message

    assert isinstance(told, DialCommand)
    assert timedelta(seconds=seconds - 1) < row["life"] <= timedelta(seconds=seconds)
    assert timedelta(seconds=10) == row["patience"]
    assert timedelta(seconds=3) == row["resend"]
    assert row["expires_at"].timestamp() == pytest.approx(told.expires_at / 1000, abs=0.001)


@pytest.mark.parametrize(
    ("enabled", "can", "recordings", "asked"),
    [(True, True, "s3", True), (True, False, "s3", False), (False, True, "s3", False), (True, True, "off", False)],
    ids=["all", "not the handset", "not the tenant", "not the installation"],
)
async def test_a_phone_is_asked_to_record_where_everybody_can_and_will(
    floor: Floor, redis: Redis, configure: Callable[..., Config], enabled: bool, can: bool, recordings: str, asked: bool
) -> None:
    """Tenant, handset and installation: then the command says so, with what to tell the customer first. What the tenant
    had chosen is kept with the call, whatever it chooses later and whether or not its handset can."""
    floor = Floor(floor.database, floor.office, redis, configure(recordings=recordings, s3_bucket="kept"))
    await floor.execute("UPDATE tenant SET recording_enabled = $1, recording_notice = '本次通话将被录音'", enabled)
    who, _ = await floor.staff(recording=can)

    call_id = await floor.dial(who)
    await floor.execute("UPDATE tenant SET recording_enabled = NOT recording_enabled")
    told = msgspec.json.decode(bytes(floor.sockets.to_phones[0].frame))["data"]
    expected = {"record": True, "consentNotice": "本次通话将被录音"} if asked else {}

    assert expected == {name: told[name] for name in ("record", "consentNotice") if name in told}
    assert enabled == (await floor.call(call_id))["record"]


async def test_a_tenant_without_a_notice_has_nothing_told(
    floor: Floor, redis: Redis, configure: Callable[..., Config]
) -> None:
    """The phone records, and the command has no empty notice for it to show."""
    floor = Floor(floor.database, floor.office, redis, configure(recordings="s3", s3_bucket="kept"))
    who, _ = await floor.staff(recording=True)

    await floor.dial(who)
    told = msgspec.json.decode(bytes(floor.sockets.to_phones[0].frame))["data"]

    assert (True, False) == (told["record"], "consentNotice" in told)


async def _no_phone(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return floor.agent(await floor.office.agent()), {}


async def _phone_offline(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    who, phone = await floor.staff()
    await floor.execute("UPDATE device SET online_status = 'offline' WHERE id = $1", phone)
    return who, {}


async def _handset_busy(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    who, phone = await floor.staff()
    await floor.execute("UPDATE device SET handset_busy = true WHERE id = $1", phone)
    return who, {}


async def _default_offline(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    """Another phone is free, but the agent does not hold that one in hand."""
    who, phone = await floor.staff()
    await floor.office.phone(who.id)
    await floor.execute("UPDATE app_user SET default_device_id = $2 WHERE id = $1", who.id, phone)
    await floor.execute("UPDATE device SET online_status = 'offline' WHERE id = $1", phone)
    return who, {}


async def _bad_number(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return (await floor.staff())[0], {"customer_phone": "12"}


async def _cloud_asked(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return (await floor.staff())[0], {"call_method": "cloud"}


async def _cloud_usual(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    who, _ = await floor.staff()
    await floor.execute("UPDATE app_user SET call_method = 'cloud' WHERE id = $1", who.id)
    return who, {}


async def _phone_of_another_agent(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return (await floor.staff())[0], {"device_id": (await floor.staff())[1]}


async def _phone_of_another_tenant(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    elsewhere = await foreign(floor.database)
    return (await floor.staff())[0], {"device_id": await elsewhere.phone(await elsewhere.agent())}


async def _for_another_without_scope(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return (await floor.staff())[0], {"user_id": (await floor.staff())[0].id}


async def _for_an_agent_of_another_tenant(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    elsewhere = await foreign(floor.database)
    user_id = await elsewhere.agent()
    await elsewhere.phone(user_id)
    who = floor.agent(await floor.office.agent(), reach="tenant", permissions=AGENT | {"calls.dial_for"})
    return who, {"user_id": user_id}


async def _for_an_agent_out_of_reach(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    chief = floor.agent(
        await floor.office.agent(), reach="teams", teams=("north",), permissions=AGENT | {"calls.dial_for"}
    )
    return chief, {"user_id": (await floor.staff())[0].id}


async def _key_without_agent(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    await floor.staff()
    return Identity(
        kind="api_key",
        id="key_1",
        tenant_id=floor.office.tenant_id,
        reach="tenant",
        permissions=frozenset({"calls.dial"}),
    ), {}


async def _disabled(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    who, _ = await floor.staff()
    await floor.execute("UPDATE app_user SET disabled_at = now() WHERE id = $1", who.id)
    return who, {}


async def _nobody_to_call(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return (await floor.staff())[0], {"customer_phone": None}


async def _unknown_customer(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return (await floor.staff())[0], {"customer_phone": None, "customer_id": "cust_nobody"}


async def _customer_of_another_tenant(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    elsewhere = await foreign(floor.database)
    await floor.execute(
        "INSERT INTO customer (id, tenant_id, name, phone) VALUES ('cust_1', $1, 'Li', '+8613900139000')",
        elsewhere.tenant_id,
    )
    return (await floor.staff())[0], {"customer_phone": None, "customer_id": "cust_1"}


async def _too_much_data(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return (await floor.staff())[0], {"custom_data": {"x": "x" * 5000}}


async def _calls_off(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    await floor.execute("UPDATE tenant SET calls_enabled = false")
    return (await floor.staff())[0], {}


async def _out_of_hours(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    await floor.execute(OUT_OF_HOURS)
    return (await floor.staff())[0], {}


async def _out_of_hours_without_a_phone(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    await floor.execute(OUT_OF_HOURS)
    return await _no_phone(floor)


async def _out_of_hours_over_a_line(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    await floor.execute(OUT_OF_HOURS)
    return (await floor.staff())[0], {"call_method": "cloud"}


async def _not_to_be_called(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    await _list(floor, None)
    return (await floor.staff())[0], {}


async def _not_to_be_called_over_a_line(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    await _list(floor, timedelta(hours=1))
    return (await floor.staff())[0], {"call_method": "cloud"}


async def _customer_not_to_be_called(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    await _list(floor, None)
    await floor.execute(
        "INSERT INTO customer (id, tenant_id, name, phone) VALUES ('cust_1', $1, 'Li', $2)",
        floor.office.tenant_id,
        f"+86{NUMBER}",
    )
    return (await floor.staff())[0], {"customer_phone": None, "customer_id": "cust_1"}


async def _list(floor: Floor, ends: timedelta | None) -> None:
    """Put NUMBER on the tenant's do-not-call list, for so long or for good."""
    await floor.execute(
        "INSERT INTO do_not_call (id, tenant_id, phone, created_by, expires_at) VALUES ($1, $2, $3, 'x', now() + $4)",
        new_id("dnc"),
        floor.office.tenant_id,
        f"+86{NUMBER}",
        ends,
    )


async def _nul_in_a_name(floor: Floor) -> tuple[Identity, dict[str, Any]]:
    return (await floor.staff())[0], {"customer_name": "L\0i"}


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (_no_phone, "NO_DEVICE"),
        (_phone_offline, "DEVICE_OFFLINE"),
        (_default_offline, "DEVICE_OFFLINE"),
        (_handset_busy, "DEVICE_BUSY"),
        (_bad_number, "INVALID_PHONE"),
        (_cloud_asked, "NO_LINE"),
        (_cloud_usual, "NO_LINE"),
        (_phone_of_another_agent, "NOT_FOUND"),
        (_phone_of_another_tenant, "NOT_FOUND"),
        (_for_another_without_scope, "FORBIDDEN"),
        (_for_an_agent_of_another_tenant, "NOT_FOUND"),
        (_for_an_agent_out_of_reach, "NOT_FOUND"),
        (_key_without_agent, "INVALID_FIELD"),
        (_disabled, "ACCOUNT_DISABLED"),
        (_nobody_to_call, "INVALID_FIELD"),
        (_unknown_customer, "NOT_FOUND"),
        (_customer_of_another_tenant, "NOT_FOUND"),
        (_too_much_data, "INVALID_FIELD"),
        (_calls_off, "CALLS_OFF"),
        (_out_of_hours, "LIMIT_HOURS"),
        (_out_of_hours_without_a_phone, "LIMIT_HOURS"),
        (_out_of_hours_over_a_line, "LIMIT_HOURS"),
        (_not_to_be_called, "DO_NOT_CALL"),
        (_not_to_be_called_over_a_line, "DO_NOT_CALL"),
        (_customer_not_to_be_called, "DO_NOT_CALL"),
        (_nul_in_a_name, "INVALID_FIELD"),
    ],
)
async def test_a_refused_dial_says_why_and_leaves_nothing_behind(floor: Floor, case: Any, code: str) -> None:
    """No row of any table, no frame to anybody."""
    who, fields = await case(floor)

    refused = await refusal(floor.dial(who, key="k1", **fields))

    assert code == refused
    assert NOTHING == await floor.written()
    assert [] == [*floor.sockets.to_phones, *floor.sockets.to_agents]


async def test_a_number_is_called_again_when_its_entry_has_run_out(floor: Floor) -> None:
    """Nobody has to lift it; and another tenant's list is not asked."""
    elsewhere = await foreign(floor.database)
    await _list(floor, -timedelta(seconds=1))
    await floor.execute(
        "INSERT INTO do_not_call (id, tenant_id, phone, created_by) VALUES ('dnc_1', $1, $2, 'x')",
        elsewhere.tenant_id,
        f"+86{NUMBER}",
    )
    who, _ = await floor.staff()

    assert "accepted" == await refusal(floor.dial(who))


async def test_a_call_goes_on_when_its_number_comes_on_the_list_and_calling_ends(floor: Floor) -> None:
    """The rules are asked of dials; what is under way is reported, and hung up, as ever."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await _list(floor, None)
    await floor.execute("UPDATE tenant SET calls_enabled = false")
    await floor.say(phone, call_id, "connected")
    await floor.hang_up(who, call_id)

    assert "connected" == (await floor.call(call_id))["status"]


async def test_a_phone_on_a_call_takes_no_other(floor: Floor) -> None:
    """DEVICE_BUSY while the call lives, whoever asks; free again at its end."""
    who, phone = await floor.staff()
    first = await floor.dial(who)

    busy = await refusal(floor.dial(who, device_id=phone))
    await floor.end(phone, first, Outcome.MISSED)
    second = await refusal(floor.dial(who, device_id=phone))

    assert ("DEVICE_BUSY", "accepted") == (busy, second)


async def test_of_twenty_dials_at_once_on_one_phone_exactly_one_is_made(floor: Floor) -> None:
    """The others are told DEVICE_BUSY, and only one command goes out."""
    who, phone = await floor.staff()

    answers = Counter(await asyncio.gather(*(refusal(floor.dial(who, key=f"k{n}")) for n in range(20))))

    assert {"accepted": 1, "DEVICE_BUSY": 19} == answers
    assert {"call": 1, "call_event": 1, "command": 1, "idempotency_key": 1, "agent_event": 0} == await floor.written()
    assert [phone] == [sent.device_id for sent in floor.sockets.to_phones]


async def test_a_dial_that_loses_to_one_not_yet_committed_is_told_busy(floor: Floor) -> None:
    """The index says DEVICE_BUSY where the look before it could not: the winner committed in between."""
    who, phone = await floor.staff()

    async with floor.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, reap_at)"
            " VALUES ('call_1', $1, $2, $2, $3, 'mobile', '+8613900139000', now())",
            who.tenant_id,
            who.id,
            phone,
        )
        loser = asyncio.create_task(refusal(floor.dial(who)))
        await until_blocked(floor.database)

    assert "DEVICE_BUSY" == await loser


async def test_a_dial_follows_a_phone_that_is_just_moving_to_another_node(floor: Floor) -> None:
    """A dial during a claim waits for it, and its command goes to where the phone went."""
    who, phone = await floor.staff()
    await floor.execute("UPDATE device SET node = 'old-node' WHERE id = $1", phone)

    async with floor.database.transaction() as connection:
        await nodes.claim(connection, HERE, [claim_of(phone)])
        dial = asyncio.create_task(floor.dial(who))
        await until_blocked(floor.database)
        assert [] == floor.sockets.to_phones
    await dial

    assert [phone] == [sent.device_id for sent in floor.sockets.to_phones]


async def test_a_phone_that_claims_while_it_is_dialled_finds_the_command_waiting(floor: Floor) -> None:
    """Whichever of dial and claim comes first, the new session learns of the command: by WELCOME or by the relay."""
    who, phone = await floor.staff()
    await floor.execute("UPDATE device SET node = 'old-node' WHERE id = $1", phone)

    async def claim() -> int:
        async with floor.database.transaction() as connection:
            claimed, _ = await nodes.claim(connection, HERE, [claim_of(phone)])
        return len(claimed[phone].commands)

    _, waiting = await asyncio.gather(floor.dial(who), claim())

    assert 1 == waiting + len(floor.sockets.to_phones)


async def test_a_dial_during_an_unbinding_finds_no_phone(floor: Floor) -> None:
    """The phone was the agent's when the dial looked and is not when it is made: nothing is left behind."""
    who, phone = await floor.staff()

    async with floor.database.transaction() as connection:
        await connection.execute("UPDATE device SET unbound_at = now() WHERE id = $1", phone)
        dial = asyncio.create_task(refusal(floor.dial(who, key="k1")))
        await until_blocked(floor.database)

    assert "NO_DEVICE" == await dial
    assert NOTHING == await floor.written()


async def test_an_api_key_with_the_scope_dials_for_the_agent_it_names(floor: Floor) -> None:
    """The call is the agent's, made by the key."""
    who, _ = await floor.staff()
    crm = Identity(
        kind="api_key",
        id="key_1",
        tenant_id=who.tenant_id,
        reach="tenant",
        permissions=frozenset({"calls.dial", "calls.dial_for"}),
    )

    row = await floor.call(await floor.dial(crm, user_id=who.id))

    assert (who.id, "key_1") == (row["user_id"], row["created_by"])


async def test_a_supervisor_dials_with_a_phone_of_their_own(floor: Floor) -> None:
    """Whoever reaches teams reaches themselves too, being in none of them."""
    who, _ = await floor.staff()
    supervisor = floor.agent(who.id, reach="teams", teams=("north",))

    hung_up = await refusal(floor.hang_up(supervisor, await floor.dial(supervisor)))

    assert "accepted" == hung_up


async def test_a_known_customer_is_dialled_by_either_id(floor: Floor) -> None:
    """Ours or the CRM's; the number and the name come from the row."""
    who, phone = await floor.staff()
    await floor.execute(
        "INSERT INTO customer (id, tenant_id, external_id, name, phone)"
        " VALUES ('cust_1', $1, 'crm-1', 'Li', '+8613900139000')",
        who.tenant_id,
    )

    rows = []
    for customer_id in ("cust_1", "crm-1"):
        call_id = await floor.dial(who, customer_phone=None, customer_id=customer_id)
        await floor.end(phone, call_id, Outcome.MISSED)
        rows.append(await floor.call(call_id))

    assert [("+8613900139000", "Li")] * 2 == [(row["customer_phone"], row["customer_name"]) for row in rows]


# --- once -------------------------------------------------------------------------------------------------------------


async def test_the_same_key_and_body_make_one_call(floor: Floor) -> None:
    """The repeat gets the same call id, also after the call ended, and nothing more is sent."""
    who, phone = await floor.staff()

    first = await floor.dial(who, key="k1")
    second = await floor.dial(who, key="k1")
    await floor.end(phone, first, Outcome.MISSED)
    third = await floor.dial(who, key="k1")

    assert [first, first] == [second, third]
    assert 1 == len(floor.sockets.to_phones)


async def test_the_same_key_with_another_body_is_refused(floor: Floor) -> None:
    """IDEMPOTENCY_MISMATCH, and no call."""
    who, phone = await floor.staff()
    await floor.end(phone, await floor.dial(who, key="k1"), Outcome.MISSED)

    refused = await refusal(floor.dial(who, key="k1", customer_phone="13800138000"))

    assert "IDEMPOTENCY_MISMATCH" == refused
    assert 1 == (await floor.written())["call"]


async def test_twins_at_once_get_the_same_call(floor: Floor) -> None:
    """A client that repeats its request before it was answered learns of its call, not that its phone is busy."""
    who, _ = await floor.staff()

    answers = Counter(await asyncio.gather(*(floor.dial(who, key="k1") for _ in range(8)), return_exceptions=True))

    assert [8] == list(answers.values()), answers
    assert {"call": 1, "call_event": 1, "command": 1, "idempotency_key": 1, "agent_event": 0} == await floor.written()


async def test_a_refused_dial_may_be_tried_again_under_its_key(floor: Floor) -> None:
    """A refusal is not kept: DEVICE_OFFLINE now may be a call later."""
    who, phone = await floor.staff()
    await floor.execute("UPDATE device SET online_status = 'offline' WHERE id = $1", phone)

    refused = await refusal(floor.dial(who, key="k1"))
    await floor.execute("UPDATE device SET online_status = 'online' WHERE id = $1", phone)
    accepted = await refusal(floor.dial(who, key="k1"))

    assert ("DEVICE_OFFLINE", "accepted") == (refused, accepted)


async def test_dial_on_the_socket_is_made_once_per_message(floor: Floor) -> None:
    """DIAL's messageId is its key; its fields are those of the request."""
    who, _ = await floor.staff()
    message = Dial(customer_phone=NUMBER, external_id="crm-1")

    first = await floor.calls.dial_message(who, message, "m1")
    second = await floor.calls.dial_message(who, message, "m1")
    other = await refusal(floor.calls.dial_message(who, Dial(customer_phone="13800138000"), "m1"))

    assert (first, "IDEMPOTENCY_MISMATCH") == (second, other)
    assert "crm-1" == (await floor.call(first))["external_id"]


async def test_the_socket_asks_for_the_same_permissions(floor: Floor) -> None:
    """DIAL needs calls.dial, HANGUP calls.control."""
    who, _ = await floor.staff()
    viewer = floor.agent(who.id, permissions=frozenset())

    refused = [
        await refusal(floor.calls.dial_message(viewer, Dial(customer_phone=NUMBER), "m1")),
        await refusal(floor.calls.hang_up_message(viewer, HangUp(call_id="call_1"))),
    ]

    assert ["FORBIDDEN", "FORBIDDEN"] == refused


# --- reports ----------------------------------------------------------------------------------------------------------


async def test_a_call_from_dial_to_end_tells_the_agent_each_step(floor: Floor) -> None:
    """Each report moves the call, is written down, and reaches the agent with the next seq and the masked number."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who, custom_data={"case": 7}, order_id="o1")

    for status in ("calling", "ringing", "connected"):
        await floor.say(phone, call_id, status, evidence=Evidence.IN_CALL_SERVICE)
    await floor.end(
        phone, call_id, Outcome.CONNECTED, evidence=Evidence.IN_CALL_SERVICE, duration=12, has_recording=True
    )
    row = await floor.call(call_id)
    told = floor.told()

    assert [(1, "CALL_DIALING"), (2, "CALL_RINGING"), (3, "CALL_CONNECTED"), (4, "CALL_ENDED")] == await floor.stream(
        who.id
    )
    assert [1, 2, 3, 4] == [event.seq for event in floor.sockets.to_agents] == [frame["seq"] for frame in told]
    assert [("139****9000", call_id, "o1", {"case": 7})] * 4 == [
        tuple(frame["data"][name] for name in ("customerPhone", "callId", "orderId", "customData")) for frame in told
    ]
    assert ("ended", "connected", "phone", "in_call_service", "NORMAL_CLEARING") == await floor.ended(call_id)
    assert (5, 12, True, None) == tuple(row[name] for name in ("version", "duration", "has_recording", "reap_at"))
    assert row["dialing_at"] <= row["ringing_at"] <= row["connected_at"] <= row["ended_at"]
    assert [("phone", "CALL_STATUS", "moved")] * 3 + [("phone", "CALL_END", "moved")] == (await floor.history(call_id))[
        1:
    ]
    assert [("DIAL_COMMAND", False, True)] == await floor.commands(call_id)


async def test_a_repeated_report_changes_nothing(floor: Floor) -> None:
    """The same message id again: no event, no line of history, no new version."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.say(phone, call_id, "ringing", "m1")
    before = await floor.call(call_id), await floor.history(call_id), await floor.stream(who.id)

    for _ in range(3):
        await floor.say(phone, call_id, "ringing", "m1")

    assert before == (await floor.call(call_id), await floor.history(call_id), await floor.stream(who.id))


async def test_the_same_word_under_another_id_is_noted_only(floor: Floor) -> None:
    """It says what is known: a line of history and no event."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await floor.say(phone, call_id, "ringing", "m1")
    await floor.say(phone, call_id, "ringing", "m2")

    assert [("phone", "CALL_STATUS", "moved"), ("phone", "CALL_STATUS", "none")] == (await floor.history(call_id))[1:]
    assert [(1, "CALL_RINGING")] == await floor.stream(who.id)


async def test_reports_out_of_order_never_move_a_call_backwards(floor: Floor) -> None:
    """What comes too late is recorded as illegal, acknowledged, and changes nothing."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    for status in ("connected", "calling", "ringing"):
        await floor.say(phone, call_id, status)
    await floor.end(phone, call_id, Outcome.CONNECTED, duration=3)
    await floor.say(phone, call_id, "connected")

    assert ["moved", "illegal", "illegal", "moved", "illegal"] == [e for _, _, e in (await floor.history(call_id))[1:]]
    assert [(1, "CALL_CONNECTED"), (2, "CALL_ENDED")] == await floor.stream(who.id)
    assert "ended" == (await floor.call(call_id))["status"]


async def test_an_end_from_the_call_log_corrects_the_first(floor: Floor) -> None:
    """Stronger evidence replaces the outcome, told as enriched; weaker evidence afterwards does not take it back."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await floor.end(phone, call_id, Outcome.MISSED, evidence=Evidence.ASSUMED)
    await floor.end(phone, call_id, Outcome.CONNECTED, evidence=Evidence.CALL_LOG, duration=30)
    await floor.end(phone, call_id, Outcome.MISSED, evidence=Evidence.ASSUMED)
    enriched = [frame["data"].get("enriched", False) for frame in floor.told()]

    assert ("ended", "connected", "phone", "call_log", "NORMAL_CLEARING") == await floor.ended(call_id)
    assert 30 == (await floor.call(call_id))["duration"]
    assert [False, True] == enriched
    assert ["moved", "enriched", "none"] == [e for _, _, e in (await floor.history(call_id))[1:]]


STORE = (
    "UPDATE call SET version = version + 1, has_recording = true, recording_size = 884736, recording_status = 'ready'"
    " WHERE id = $1"
)
"""What a stored recording writes into its call."""


def recording_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What the row of a call says of its recording."""
    return tuple(row[name] for name in ("status", "has_recording", "recording_size", "recording_status"))


@pytest.mark.parametrize("since", ["ready", "expired", "deleted"])
async def test_a_late_claim_does_not_unsay_a_recording_that_was_stored(floor: Floor, since: str) -> None:
    """Stronger evidence corrects how the call ended, and its word on the recording is not taken: neither in the row nor
    in what the agent is told, even if the recording has left since. A claim of nothing else changes nothing."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.end(phone, call_id, Outcome.MISSED, has_recording=False, recording_size=0)
    await floor.execute(STORE, call_id)
    await floor.execute("UPDATE call SET recording_status = $2 WHERE id = $1", call_id, since)

    log: dict[str, Any] = {"evidence": Evidence.CALL_LOG, "duration": 30, "has_recording": False, "recording_size": 7}
    await floor.end(phone, call_id, Outcome.CONNECTED, **log)
    await floor.end(phone, call_id, Outcome.CONNECTED, **log)

    assert ("ended", True, 884736, since) == recording_of(await floor.call(call_id))
    assert "connected" == (await floor.call(call_id))["outcome"]
    assert [False, True] == [frame["data"]["hasRecording"] for frame in floor.told()]
    assert ["moved", "enriched", "none"] == [effect for _, _, effect in (await floor.history(call_id))[1:]]


async def test_a_claim_counts_where_nothing_was_stored(floor: Floor) -> None:
    """Also after a recording that could not be had: that the phone has one, and how large, is the phone's word."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.end(phone, call_id, Outcome.CONNECTED, has_recording=False)
    await floor.execute("UPDATE call SET recording_status = 'failed' WHERE id = $1", call_id)

    await floor.end(phone, call_id, Outcome.CONNECTED, evidence=Evidence.CALL_LOG, has_recording=True, recording_size=7)

    assert ("ended", True, 7, "failed") == recording_of(await floor.call(call_id))


async def test_a_recording_that_is_stored_while_its_call_lives_outlives_the_end(floor: Floor) -> None:
    """Whoever ends the call: a phone that says nothing or no, the reaper, and an unbinding, which know of none."""
    who, phone = await floor.staff()

    async def reap(call_id: str) -> None:
        await floor.reap_after(call_id, PENDING_FOR_LONG)

    async def unbind(call_id: str) -> None:
        async with floor.database.transaction() as connection:
            await floor.calls.close_lost(connection, who.tenant_id, [phone], "unbound")

    async def say_nothing(call_id: str) -> None:
        await floor.end(phone, call_id, Outcome.CONNECTED)

    async def say_no(call_id: str) -> None:
        await floor.end(phone, call_id, Outcome.CONNECTED, has_recording=False, recording_size=0)

    for ending in (say_nothing, say_no, reap, unbind):
        call_id = await floor.dial(who)
        await floor.execute(STORE, call_id)
        await ending(call_id)

        assert ("ended", True, 884736, "ready") == recording_of(await floor.call(call_id)), ending.__name__


async def test_a_claim_that_meets_a_recording_being_stored_is_judged_again(floor: Floor) -> None:
    """The report was read before the recording was stored and is committed after it: the recording stands."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    async with floor.database.transaction() as connection:
        await connection.execute(STORE, call_id)
        end = asyncio.create_task(floor.end(phone, call_id, Outcome.CONNECTED, has_recording=False))
        await until_blocked(floor.database)
    await end

    assert ("ended", True, 884736, "ready") == recording_of(await floor.call(call_id))
    assert [True] == [frame["data"]["hasRecording"] for frame in floor.told()]


async def test_a_report_of_another_phone_is_refused_for_good(floor: Floor) -> None:
    """NOT_FOUND, which the phone drops: for a call of another phone, another tenant, and none at all."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    _, other = await floor.staff()
    elsewhere = await foreign(floor.database)
    missed = CallEnd(call_id=call_id, status=Outcome.MISSED)

    refused = [
        await refusal(floor.calls.apply(who.tenant_id, other, "m1", missed)),
        await refusal(floor.calls.apply(elsewhere.tenant_id, phone, "m2", missed)),
        await refusal(floor.end(phone, "call_of_nobody", Outcome.MISSED)),
    ]

    assert ["NOT_FOUND"] * 3 == refused
    assert "pending" == (await floor.call(call_id))["status"]
    assert not DialdeskError("NOT_FOUND").retry


async def test_a_phone_that_moved_to_another_agent_still_tells_the_truth(floor: Floor) -> None:
    """A report is judged by the phone its command went to, not by its owner of today; the agent of the call is told."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    new_owner = await floor.office.agent()
    await floor.execute("UPDATE device SET user_id = $2 WHERE id = $1", phone, new_owner)

    await floor.end(phone, call_id, Outcome.MISSED)

    assert ([(1, "CALL_ENDED")], []) == (await floor.stream(who.id), await floor.stream(new_owner))


async def test_reports_at_once_are_all_recorded_and_none_is_lost(floor: Floor) -> None:
    """From several connections in any order: each has its line, and the strongest evidence stands in the end."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await asyncio.gather(
        *(floor.say(phone, call_id, status) for status in ("calling", "ringing", "connected") for _ in range(2)),
        floor.end(phone, call_id, Outcome.MISSED, evidence=Evidence.ASSUMED),
        floor.end(phone, call_id, Outcome.CONNECTED, evidence=Evidence.CALL_LOG, duration=9),
    )
    effects = Counter(effect for _, _, effect in (await floor.history(call_id))[1:])
    told = effects["moved"] + effects["enriched"]

    assert 8 == effects.total()
    assert ("ended", "connected", "phone", "call_log", "NORMAL_CLEARING") == await floor.ended(call_id)
    assert list(range(1, told + 1)) == [seq for seq, _ in await floor.stream(who.id)]
    assert 1 + told == (await floor.call(call_id))["version"]


async def test_twins_of_a_report_at_once_count_once(floor: Floor) -> None:
    """The same message over two connections: both are acknowledged, one moves the call."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await asyncio.gather(
        *(floor.end(phone, call_id, Outcome.MISSED, "m1", evidence=Evidence.CALL_LOG) for _ in range(8))
    )

    assert [("phone", "CALL_END", "moved")] == (await floor.history(call_id))[1:]
    assert [(1, "CALL_ENDED")] == await floor.stream(who.id)


async def test_calls_of_one_agent_on_many_phones_share_a_stream_without_holes(floor: Floor) -> None:
    """Reports of many phones at once: every seq once, in the order of commits."""
    who, first = await floor.staff()
    phones = [first, *[await floor.office.phone(who.id) for _ in range(5)]]
    dialled = [(phone, await floor.dial(who, device_id=phone)) for phone in phones]

    async def live(phone: str, call_id: str) -> None:
        for status in ("calling", "ringing", "connected"):
            await floor.say(phone, call_id, status)
        await floor.end(phone, call_id, Outcome.CONNECTED)

    await asyncio.gather(*(live(*pair) for pair in dialled))

    assert list(range(1, 25)) == [seq for seq, _ in await floor.stream(who.id)]
    assert list(range(1, 25)) == sorted(event.seq for event in floor.sockets.to_agents)


@pytest.mark.parametrize(
    "end",
    [
        {"end_time": datetime(1, 1, 1, tzinfo=UTC), "start_time": datetime(9999, 12, 31, tzinfo=UTC)},
        {"end_time": datetime(2001, 1, 1), "start_time": datetime(2001, 1, 1)},  # noqa: DTZ001 - a phone may leave the offset out
        {"duration": -5.0},
        {"duration": 1e300},
        {"hangup_cause": "a word of tomorrow", "recording_size": 2**53},
    ],
)
async def test_whatever_a_phone_claims_its_report_is_kept(floor: Floor, end: dict[str, Any]) -> None:
    """Wrong clocks, impossible durations and unknown words end the call all the same, inside what is possible."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await floor.say(phone, call_id, "calling", timestamp=1e300)
    await floor.say(phone, call_id, "connected", timestamp=-1e18)
    await floor.end(phone, call_id, Outcome.CONNECTED, **end)
    row = await floor.call(call_id)

    assert ("ended", "connected") == (row["status"], row["outcome"])
    assert all(
        row["created_at"] <= row[name] <= row["updated_at"] for name in ("dialing_at", "connected_at", "ended_at")
    )
    assert 0 <= row["duration"] <= 24 * 3600
    assert end.get("hangup_cause") == row["raw_cause"]


# --- hanging up -------------------------------------------------------------------------------------------------------


async def test_hanging_up_commits_a_cancel_and_silences_the_dial(floor: Floor) -> None:
    """The phone is sent CANCEL_DIAL under the id of its row; the call itself stays until its phone says so."""
    who, _ = await floor.staff()
    call_id = await floor.dial(who)

    await floor.hang_up(who, call_id)
    told = to_phone.decode(bytes(floor.sockets.to_phones[1].frame))
    [command] = await floor.rows("SELECT id FROM command WHERE type = 'CANCEL_DIAL'")

    assert (CancelDial(call_id=call_id, reason="hangup"), command["id"]) == (told.message, told.message_id)
    assert [("DIAL_COMMAND", False, False), ("CANCEL_DIAL", True, False)] == await floor.commands(call_id)
    assert "pending" == (await floor.call(call_id))["status"]
    assert ("agent", "HANGUP", "none") == (await floor.history(call_id))[-1]


async def test_a_cancelled_dial_is_never_sent_again(floor: Floor) -> None:
    """Neither by the sweep nor with the next WELCOME; the cancel is."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.hang_up(who, call_id)
    await floor.execute("UPDATE command SET next_send_at = now() - interval '1 s' WHERE next_send_at IS NOT NULL")

    async with floor.database.transaction() as connection:
        claimed, _ = await nodes.claim(connection, HERE, [claim_of(phone)])
        due = await stored.due(connection, HERE, 3)

    assert ["CANCEL_DIAL"] == [command.type for command in claimed[phone].commands]
    assert ["CANCEL_DIAL"] == [command.type for command in due]


async def test_the_end_of_a_call_silences_its_cancel(floor: Floor) -> None:
    """Nothing of an ended call is sent any more."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.hang_up(who, call_id)

    await floor.end(phone, call_id, Outcome.CANCELLED)

    assert [False, False] == [sent for _, sent, _ in await floor.commands(call_id)]


async def test_hanging_up_twice_cancels_once(floor: Floor) -> None:
    """The second is a success that sends nothing."""
    who, _ = await floor.staff()
    call_id = await floor.dial(who)

    for _ in range(2):
        await floor.hang_up(who, call_id)

    assert 2 == len(floor.sockets.to_phones)
    assert 2 == len(await floor.commands(call_id))


async def test_hanging_up_from_two_pages_at_once_cancels_once(floor: Floor) -> None:
    """However many ask at the same moment, one CANCEL_DIAL is committed."""
    who, _ = await floor.staff()
    call_id = await floor.dial(who)

    async with floor.database.transaction() as connection:
        await connection.execute("SELECT FROM call WHERE id = $1 FOR NO KEY UPDATE", call_id)
        asked = [asyncio.create_task(floor.hang_up(who, call_id)) for _ in range(3)]
        await until_blocked(floor.database, len(asked))
    await asyncio.gather(*asked)

    assert ["CANCEL_DIAL", "DIAL_COMMAND"] == sorted(kind for kind, _, _ in await floor.commands(call_id))


async def test_hanging_up_an_ended_call_is_a_success(floor: Floor) -> None:
    """It is over: nothing is written or sent."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.end(phone, call_id, Outcome.MISSED)
    before = await floor.history(call_id)

    await floor.hang_up(who, call_id)

    assert before == await floor.history(call_id)
    assert 1 == len(floor.sockets.to_phones)


async def test_a_hang_up_that_loses_to_the_end_of_the_call_writes_nothing(floor: Floor) -> None:
    """The call lived when the hang-up looked, and had ended when it came to be committed."""
    who, _ = await floor.staff()
    call_id = await floor.dial(who)

    async with floor.database.transaction() as connection:
        await connection.execute(
            "UPDATE call SET status = 'ended', ended_at = now(), outcome = 'missed', reap_at = NULL WHERE id = $1",
            call_id,
        )
        hang_up = asyncio.create_task(floor.hang_up(who, call_id))
        await until_blocked(floor.database)
    await hang_up

    assert ["DIAL_COMMAND"] == [kind for kind, _, _ in await floor.commands(call_id)]


async def test_a_handset_that_cannot_hang_up_is_hung_up_by_hand(floor: Floor) -> None:
    """HANGUP_UNSUPPORTED once it dials; before that the dial itself can still be taken back."""
    who, phone = await floor.staff(hangUp=False)
    pending, dialling = await floor.dial(who), ""
    await floor.hang_up(who, pending)
    await floor.end(phone, pending, Outcome.CANCELLED)
    dialling = await floor.dial(who)
    await floor.say(phone, dialling, "calling")

    refused = await refusal(floor.hang_up(who, dialling))

    assert "HANGUP_UNSUPPORTED" == refused
    assert ["DIAL_COMMAND"] == [kind for kind, _, _ in await floor.commands(dialling)]


async def test_only_who_reaches_a_call_hangs_it_up(floor: Floor) -> None:
    """NOT_FOUND for another agent, another team and another tenant; the tenant's admin may."""
    who, _ = await floor.staff()
    call_id = await floor.dial(who)
    other = await floor.office.agent()
    elsewhere = await foreign(floor.database)

    refused = [
        await refusal(floor.hang_up(floor.agent(other), call_id)),
        await refusal(floor.hang_up(floor.agent(other, reach="teams", teams=("north",)), call_id)),
        await refusal(floor.hang_up(floor.agent(other, reach="tenant", tenant_id=elsewhere.tenant_id), call_id)),
        await refusal(floor.hang_up(floor.agent(other, reach="tenant"), call_id)),
    ]

    assert ["NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "accepted"] == refused


# --- the reaper -------------------------------------------------------------------------------------------------------


async def test_a_call_whose_command_never_arrived_expires(floor: Floor) -> None:
    """Unacked and unreported: EXPIRED, unknown, by the reaper; its phone is free and its command silent."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await floor.reap_after(call_id, PENDING_FOR_LONG)

    assert ("ended", "unknown", "reaper", "server", "EXPIRED") == await floor.ended(call_id)
    assert [("DIAL_COMMAND", False, False)] == await floor.commands(call_id)
    assert [(1, "CALL_ENDED")] == await floor.stream(who.id)
    assert "accepted" == await refusal(floor.dial(who, device_id=phone))


async def test_a_call_whose_command_arrived_and_was_never_reported_is_lost(floor: Floor) -> None:
    """Acked and unreported: LOST, for it may have been dialled."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    [command] = await floor.rows("SELECT id FROM command")
    await floor.calls.ack(phone, command["id"])

    await floor.reap_after(call_id, PENDING_FOR_LONG)

    assert ("ended", "unknown", "reaper", "server", "LOST") == await floor.ended(call_id)


@pytest.mark.parametrize(("status", "stood"), [("calling", RUNG_FOR_LONG), ("ringing", RUNG_FOR_LONG)])
async def test_a_call_that_rings_for_ever_is_lost(floor: Floor, status: str, stood: timedelta) -> None:
    """A phone that can tell an answer and does not for two minutes has lost the call."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.say(phone, call_id, status)

    await floor.reap_after(call_id, timedelta(seconds=110))
    too_early = (await floor.call(call_id))["status"]
    await floor.reap_after(call_id, stood)

    assert status == too_early
    assert ("ended", "unknown", "reaper", "server", "LOST") == await floor.ended(call_id)


@pytest.mark.parametrize(
    ("signal", "status"), [(False, "calling"), (False, "ringing"), (True, "connected"), (False, "connected")]
)
async def test_people_may_talk_for_hours(floor: Floor, signal: bool, status: str) -> None:
    """An answered call, and one whose phone cannot tell an answer, is left alone for four hours."""
    who, phone = await floor.staff(answerSignal=signal)
    call_id = await floor.dial(who)
    await floor.say(phone, call_id, status)

    await floor.reap_after(call_id, timedelta(hours=3, minutes=59))
    talking = (await floor.call(call_id))["status"]
    await floor.reap_after(call_id, timedelta(minutes=2))

    assert status == talking
    assert ("ended", "unknown", "reaper", "server", "LOST") == await floor.ended(call_id)


async def test_a_late_truth_corrects_a_reaped_call(floor: Floor) -> None:
    """What the reaper wrote is a blank: the phone's word replaces it, told as enriched."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.reap_after(call_id, PENDING_FOR_LONG)

    await floor.say(phone, call_id, "connected")
    await floor.end(phone, call_id, Outcome.CONNECTED, evidence=Evidence.CALL_LOG, duration=42)

    assert ("ended", "connected", "phone", "call_log", "NORMAL_CLEARING") == await floor.ended(call_id)
    assert 42 == (await floor.call(call_id))["duration"]
    assert [(1, "CALL_ENDED"), (2, "CALL_ENDED")] == await floor.stream(who.id)
    assert ["moved", "illegal", "enriched"] == [effect for _, _, effect in (await floor.history(call_id))[1:]]


async def test_a_report_and_the_reaper_at_once_leave_one_story(floor: Floor) -> None:
    """Whoever comes first, the phone's word stands in the end and the history holds both."""
    who, phone = await floor.staff()

    for _ in range(5):
        call_id = await floor.dial(who)
        await floor.execute("UPDATE call SET reap_at = now() - interval '1 s' WHERE id = $1", call_id)
        await asyncio.gather(
            floor.calls.reap(who.tenant_id, call_id),
            floor.end(phone, call_id, Outcome.MISSED, evidence=Evidence.CALL_LOG),
            floor.calls.reap(who.tenant_id, call_id),
        )
        assert ("ended", "missed", "phone", "call_log", "NO_ANSWER") == await floor.ended(call_id)

    seqs = [seq for seq, _ in await floor.stream(who.id)]
    assert list(range(1, len(seqs) + 1)) == seqs


async def test_a_call_that_is_not_due_or_over_is_not_reaped(floor: Floor) -> None:
    """The reaper looks again under its own eyes: what moved on meanwhile stays."""
    who, phone = await floor.staff()
    living = await floor.dial(who)

    await floor.calls.reap(who.tenant_id, living)
    await floor.calls.reap(who.tenant_id, "call_of_nobody")
    await floor.end(phone, living, Outcome.MISSED)
    await floor.calls.reap(who.tenant_id, living)
    await floor.calls.disown(who.tenant_id, living)

    assert ("ended", "missed", "phone", "assumed", "NO_ANSWER") == await floor.ended(living)


async def test_a_call_that_its_phone_does_not_know_is_lost(floor: Floor) -> None:
    """Disowned: unknown and LOST, open to correction."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    await floor.say(phone, call_id, "connected")

    await floor.calls.disown(who.tenant_id, call_id)

    assert ("ended", "unknown", "reaper", "server", "LOST") == await floor.ended(call_id)


# --- unbinding --------------------------------------------------------------------------------------------------------


async def test_unbinding_closes_the_living_calls_of_its_phones(floor: Floor) -> None:
    """Inside the caller's transaction, which announces afterwards; the phones of others are left alone."""
    who, phone = await floor.staff()
    other, _ = await floor.staff()
    call_id, untouched = await floor.dial(who), await floor.dial(other)

    async with floor.database.transaction() as connection:
        emitted = await floor.calls.close_lost(connection, who.tenant_id, [phone], "unbound")

    assert [(who.id, 1, [HERE])] == [(event.user_id, event.seq, event.nodes) for event in emitted]
    assert ("ended", "unknown", "server", "server", "LOST") == await floor.ended(call_id)
    assert "pending" == (await floor.call(untouched))["status"]
    assert [] == floor.sockets.to_agents


async def test_an_unbinding_that_comes_to_nothing_closes_no_call(floor: Floor) -> None:
    """Rolled back: the call lives, its command is still sent, no seq was spent."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    emitted: list[Emitted] = []

    async def unbind() -> None:
        async with floor.database.transaction() as connection:
            emitted.extend(await floor.calls.close_lost(connection, who.tenant_id, [phone], "unbound"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await unbind()
    await floor.end(phone, call_id, Outcome.MISSED)

    assert 1 == len(emitted)
    assert ("ended", "missed", "phone", "assumed", "NO_ANSWER") == await floor.ended(call_id)
    assert [(1, "CALL_ENDED")] == await floor.stream(who.id)


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def test_a_batch_of_reports_is_told_one_by_one(floor: Floor) -> None:
    """What is committed, what is refused for good, and in the order asked; one bad report spoils no other."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    answer = await floor.calls.report_end(
        floor.handset(phone),
        [
            AppEnd(call_id="call_of_nobody", status=Outcome.MISSED, message_id="m1"),
            AppEnd(call_id=call_id, status=Outcome.MISSED, message_id="m2", hangup_cause="NO\0ANSWER"),
            AppEnd(call_id=call_id, status=Outcome.MISSED, message_id="m3"),
            AppEnd(call_id=call_id, status=Outcome.MISSED, message_id="m3"),
        ],
    )

    assert [
        ("m1", False, "NOT_FOUND", False),
        ("m2", False, "INVALID_FIELD", False),
        ("m3", True, None, None),
        ("m3", True, None, None),
    ] == [(r.message_id, r.accepted, r.code, r.retry) for r in answer.results]
    assert 2 == len(await floor.history(call_id))


async def test_a_report_over_http_and_over_the_socket_is_the_same_report(floor: Floor) -> None:
    """The same message id on either way counts once."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await floor.say(phone, call_id, "ringing", "m1")
    answer = await floor.calls.report_status(
        floor.handset(phone), AppStatus(call_id=call_id, status="ringing", message_id="m1")
    )

    assert [True] == [result.accepted for result in answer.results]
    assert 2 == len(await floor.history(call_id))


async def test_reports_of_the_seeds_form_are_known_by_what_they_say(floor: Floor) -> None:
    """Without a messageId a repeat is still a repeat, single or in a batch."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)
    ringing = AppStatus(call_id=call_id, status="ringing", timestamp=1703491200000)

    await floor.calls.report_status(floor.handset(phone), ringing)
    await floor.calls.report_status(floor.handset(phone), [ringing, ringing])

    assert [("phone", "CALL_STATUS", "moved")] == (await floor.history(call_id))[1:]


async def test_the_seeds_status_ended_ends_a_call_whose_outcome_nobody_knows(floor: Floor) -> None:
    """`/mobile/status` takes `ended`; the CALL_END that follows tells how."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await floor.calls.report_status(floor.handset(phone), AppStatus(call_id=call_id, status="ended"))
    unknown = await floor.ended(call_id)
    await floor.calls.report_end(floor.handset(phone), AppEnd(call_id=call_id, status=Outcome.BUSY))

    assert ("ended", "unknown", "phone", "assumed", "UNKNOWN") == unknown
    assert ("ended", "busy", "phone", "assumed", "USER_BUSY") == await floor.ended(call_id)


async def test_an_end_is_no_repeat_of_a_status_that_reads_the_same(floor: Floor) -> None:
    """Without ids, "connected" as CALL_STATUS and "connected" as CALL_END are two reports: the second ends the call."""
    who, phone = await floor.staff()
    call_id = await floor.dial(who)

    await floor.calls.report_status(floor.handset(phone), AppStatus(call_id=call_id, status="connected"))
    await floor.calls.report_end(floor.handset(phone), AppEnd(call_id=call_id, status=Outcome.CONNECTED))

    assert ("ended", "connected") == (await floor.ended(call_id))[:2]
