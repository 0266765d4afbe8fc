"""Telling hooks: messages reach a real receiver signed, at least once, and whatever it does harms nobody but itself."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web

from protocol.identifiers import new_call_id, new_id
from server.config import Config, master_keys
from server.hook_delivery import (
    BACK_OFF_MOST,
    KEPT,
    OF_EACH,
    PAUSE_MOST,
    HookDelivery,
    asked_pause,
    back_off,
    open_hook_delivery,
)
from server.hook_message import spell
from server.telemetry import Metrics
from storage import hooks
from storage.database import Database
from storage.hooks import Event
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.conftest import Office
from tests.server.fake_origin import Names, origin
from tests.server.hook_receiver import NAME, Forged, Receiver, receiver
from tests.waiting import until

NUMBER = "+8613912345678"
Row = dict[str, Any]


class Post:
    """A tenant with hooks, a worker that delivers to them, and who receives."""

    def __init__(self, database: Database, office: Office, keys: TenantKeys, crm: Receiver) -> None:
        self.database = database
        self.office = office
        self.keys = keys
        self.crm = crm
        self.user_id = ""
        self.delivery: HookDelivery

    async def hook(
        self, url: str | None = None, events: Sequence[Event] = ("call.ended",), reveal: bool = False
    ) -> str:
        """Add a hook: its id."""
        hook_id = new_id("hook")
        async with self.database.transaction() as connection:
            await hooks.add(
                connection,
                self.office.tenant_id,
                hook_id,
                url=url or self.crm.url,
                events=events,
                description="",
                enabled=True,
                reveal=reveal,
                created_by=self.user_id,
            )
        return hook_id

    async def secret(self, hook_id: str, old_for: float = 3600.0) -> str:
        """Give a hook a new secret: as its receiver keeps it."""
        secret = secrets.token_bytes(32)
        async with self.database.transaction() as connection:
            await hooks.add_secret(connection, self.keys, self.office.tenant_id, hook_id, secret, old_for=old_for)
        return spell(secret)

    async def signed_hook(self, **more: Any) -> tuple[str, str]:
        """Add a hook with a secret: (id, secret)."""
        hook_id = await self.hook(**more)
        return hook_id, await self.secret(hook_id)

    async def end_calls(self, how_many: int = 1, event: str = "call.ended") -> None:
        """Let calls end."""
        async with self.database.connection() as connection:
            for _ in range(how_many):
                await connection.execute(
                    "WITH over AS (INSERT INTO call (id, tenant_id, user_id, created_by, call_method, customer_phone,"
                    " custom_data, status, ended_at, outcome, duration, connected_at)"
                    " VALUES ($1, $2, $3, $3, 'mobile', $4, '{\"case\": 7}', 'ended', now(), 'connected', 61,"
                    " now() - interval '1 min') RETURNING tell_hooks($5, call)) SELECT * FROM over",
                    new_call_id(),
                    self.office.tenant_id,
                    self.user_id,
                    NUMBER,
                    event,
                )

    async def log(self, hook_id: str | None = None) -> list[Row]:
        """The rows of deliveries, the oldest first."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT *, extract(epoch FROM next_at - now())::float8 AS wait FROM hook_delivery"
                " WHERE $1::text IS NULL OR hook_id = $1 ORDER BY at",
                hook_id,
            )
        return [dict(row) for row in rows]

    async def state_of(self, hook_id: str) -> Row:
        """The row of a hook."""
        async with self.database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM hook WHERE id = $1", hook_id)
        assert row is not None
        return dict(row)

    async def execute(self, statement: str, *values: Any) -> None:
        """Change rows."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def make_due(self) -> None:
        """Let the time of everything that waits come."""
        await self.execute("UPDATE hook_delivery SET next_at = now() WHERE next_at IS NOT NULL")
        await self.execute("UPDATE hook SET not_before = NULL")


Open = Callable[..., Any]


@pytest.fixture
def post(database: Database, office: Office, configure: Callable[..., Config]) -> Open:
    """Open it: `post(deadline=0.2)`, `post(names=[["10.0.0.1"]])`."""

    @asynccontextmanager
    async def open_post(
        *, deadline: float = 10.0, names: Any = (("127.0.0.1",),), trust: bool = True
    ) -> AsyncIterator[Post]:
        config = configure(hook_networks="127.0.0.1/32")
        keys = TenantKeys(Vault(master_keys(config)))
        async with receiver() as crm:
            opened = Post(database, office, keys, crm)
            opened.user_id = await office.agent()
            async with open_hook_delivery(
                config,
                database,
                keys,
                Metrics(),
                deadline=deadline,
                resolver=Names(**{NAME: names}),
                tls=crm.trust if trust else None,
            ) as opened.delivery:
                yield opened

    return open_post


def replies(*answers: int | web.Response) -> Callable[[web.Request], Any]:
    """Answer with one after the other, the last for ever."""
    left = list(answers)

    async def reply(_: web.Request) -> web.StreamResponse:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=answer, text="because") if isinstance(answer, int) else answer

    return reply


# --- what arrives -----------------------------------------------------------------------------------------------------


async def test_an_event_arrives_signed_and_the_log_says_so(post: Open) -> None:
    """As Standard Webhooks has it; the receiver believes it by its secret, and by no other."""
    async with post() as a_post:
        hook_id, secret = await a_post.signed_hook()
        await a_post.end_calls()
        await a_post.delivery.deliver()
        (message,), (line,) = a_post.crm.messages, await a_post.log()
        hook = await a_post.state_of(hook_id)

    message.demand(secret)
    with pytest.raises(Forged):
        message.demand(spell(bytes(32)))
    assert "application/json" == message.headers["content-type"]
    assert (line["id"], "delivered", 1, 200, "thank you", None) == (
        message.id,
        line["state"],
        line["attempts"],
        line["status"],
        line["answer"],
        line["failure"],
    )
    assert hook["delivered_at"] is not None


async def test_a_message_says_what_happened_when_and_to_what(post: Open) -> None:
    """In the words of the API."""
    async with post() as a_post:
        await a_post.signed_hook(events=["call.ended", "device.online"])
        await a_post.end_calls()
        phone = await a_post.office.phone(a_post.user_id)
        await a_post.execute(
            "UPDATE device SET name = 'Mine' WHERE id = $1 AND tell_hooks('device.online', device) = 1", phone
        )
        await a_post.delivery.deliver()
        told = {message.told["type"]: message.told for message in a_post.crm.messages}
        at = {line["event"]: line["at"] for line in await a_post.log()}

    call, device = told["call.ended"]["data"], told["device.online"]["data"]
    assert ({"type", "timestamp", "data"}, at["call.ended"].replace(microsecond=0)) == (
        told["call.ended"].keys(),
        datetime.fromisoformat(told["call.ended"]["timestamp"]).replace(microsecond=0),
    )
    assert ("ended", "connected", 61, 1, {"case": 7}, a_post.user_id, None) == (
        call["status"],
        call["outcome"],
        call["duration"],
        call["version"],
        call["customData"],
        call["userId"],
        call["recordingUrl"],
    )
    assert (phone, f"hw-{phone}", a_post.user_id, "online") == (
        device["id"],
        device["deviceId"],
        device["userId"],
        device["onlineStatus"],
    )


@pytest.mark.parametrize(("reveal", "number"), [(False, "139****5678"), (True, NUMBER)])
async def test_customers_numbers_are_masked_unless_revealed(post: Open, reveal: bool, number: str) -> None:
    """It is the hook that says so."""
    async with post() as a_post:
        await a_post.signed_hook(reveal=reveal)
        await a_post.end_calls()
        await a_post.delivery.deliver()
        (message,) = a_post.crm.messages

    assert number == message.told["data"]["customerPhone"]
    assert reveal == (b"13912345678" in message.body)


async def test_while_a_secret_is_replaced_both_serve(post: Open) -> None:
    """Until the old one expires; after it, the new one alone."""
    async with post() as a_post:
        hook_id, old = await a_post.signed_hook()
        new = await a_post.secret(hook_id)
        await a_post.end_calls()
        await a_post.delivery.deliver()
        await a_post.execute("UPDATE hook_secret SET expires_at = now() WHERE expires_at IS NOT NULL")
        await a_post.end_calls()
        await a_post.delivery.deliver()
        during, after = a_post.crm.messages

    for secret in (old, new):
        during.demand(secret)
    after.demand(new)
    with pytest.raises(Forged):
        after.demand(old)


async def test_a_secret_that_was_asked_for_twice_does_not_lose_the_one_in_use(post: Open) -> None:
    """The answer to the first rotation was lost, so the receiver still knows the first secret of three; not of four."""
    async with post() as a_post:
        hook_id, first = await a_post.signed_hook()
        for _ in range(2):
            await a_post.secret(hook_id)
        await a_post.end_calls()
        await a_post.delivery.deliver()
        await a_post.secret(hook_id)
        await a_post.end_calls()
        await a_post.delivery.deliver()
        during, after = a_post.crm.messages

    during.demand(first)
    with pytest.raises(Forged):
        after.demand(first)


async def test_secrets_are_in_plain_text_nowhere_in_the_database(post: Open) -> None:
    """They rest sealed under the tenant's key, bound to their hook."""
    async with post() as a_post:
        _, secret = await a_post.signed_hook()
        await a_post.end_calls()
        await a_post.delivery.deliver()
        async with a_post.database.connection() as connection:
            rows = [
                str(tuple(row))
                for table in ("hook", "hook_secret", "hook_delivery", "audit_log")
                for row in await connection.fetch(f"SELECT * FROM {table}")
            ]

    assert not [row for row in rows if secret.removeprefix("whsec_") in row]


# --- what is not taken ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 429, 500, 503])
async def test_what_is_not_taken_is_sent_again_as_it_was(post: Open, status: int) -> None:
    """With the same id and body, a time and a signature of its own; only 2xx takes it."""
    async with post() as a_post:
        hook_id, secret = await a_post.signed_hook()
        a_post.crm.reply = replies(status, 204)
        await a_post.end_calls()
        await a_post.delivery.deliver()
        (missed,), failing = await a_post.log(), (await a_post.state_of(hook_id))["failing_since"]
        await a_post.make_due()
        await a_post.delivery.deliver()
        (taken,), hook = await a_post.log(), await a_post.state_of(hook_id)
        first, second = a_post.crm.messages

    assert ("waiting", status, "because", 1) == (
        missed["state"],
        missed["status"],
        missed["answer"],
        missed["attempts"],
    )
    assert missed["failure"].startswith(f"{NAME} answered {status}")
    assert 0 <= missed["wait"] <= 10.0
    assert ("delivered", 204, None, 2) == (taken["state"], taken["status"], taken["failure"], taken["attempts"])
    assert (first.id, first.body) == (second.id, second.body)
    for message in (first, second):
        message.demand(secret)
    assert (True, None) == (failing is not None, hook["failing_since"])


@pytest.mark.parametrize("location", ["inside", "self"])
async def test_redirects_are_not_followed(post: Open, location: str) -> None:
    """Neither to where we do not go, nor elsewhere."""
    asked = []

    async def secret(request: web.Request) -> web.Response:
        asked.append(request)
        return web.Response(text="inside")

    async with post() as a_post, origin(secret) as inside:
        await a_post.signed_hook()
        to = f"http://127.0.0.1:{inside.port}/" if location == "inside" else a_post.crm.url
        a_post.crm.reply = replies(web.Response(status=307, headers={"location": to}))
        await a_post.end_calls()
        await a_post.delivery.deliver()
        (line,) = await a_post.log()

    assert ([], 1) == (asked, len(a_post.crm.messages))
    assert f"{NAME} answered 307; redirects are not followed" == line["failure"]


async def _silent(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _no_end(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"a\0")
    await asyncio.Event().wait()
    return response


async def _flood(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


@pytest.mark.parametrize(
    ("reply", "state", "failure"),
    [
        (_silent, "waiting", f"{NAME} did not answer within 0.5 s"),
        (_cut, "waiting", f"{NAME} did not answer: ServerDisconnectedError"),
        (_no_end, "delivered", None),
        (_flood, "delivered", None),
    ],
    ids=["silent", "cut", "no end", "flood"],
)
async def test_a_receiver_that_misbehaves_costs_its_time_and_no_more(
    post: Open, reply: Any, state: str, failure: str | None
) -> None:
    """A deadline and a bound for all that it says; who said 2xx has taken it, however it goes on."""
    async with post(deadline=0.5) as a_post:
        await a_post.signed_hook()
        a_post.crm.reply = reply
        await a_post.end_calls()
        await a_post.delivery.deliver()
        (line,) = await a_post.log()

    assert (state, failure) == (line["state"], line["failure"])
    assert len(line["answer"] or "") <= KEPT


async def test_the_log_keeps_the_beginning_of_an_answer(post: Open) -> None:
    """As text that PostgreSQL takes, whatever bytes came."""
    async with post() as a_post:
        await a_post.signed_hook()
        a_post.crm.reply = replies(web.Response(status=500, body=b"\0\xff" + b"x" * 5000))
        await a_post.end_calls()
        await a_post.delivery.deliver()
        (line,) = await a_post.log()

    assert "\ufffd\ufffd" + "x" * (KEPT - 2) == line["answer"]


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "::1", "127.0.0.2"])
async def test_a_name_that_turns_inwards_is_not_connected_to(post: Open, address: str) -> None:
    """It was judged when the hook was saved, and is judged at every connection."""
    async with post(names=[["127.0.0.1"], [address]]) as a_post:
        await a_post.signed_hook()
        for _ in range(2):
            await a_post.end_calls()
            await a_post.delivery.deliver()
        _, line = await a_post.log()

    assert 1 == len(a_post.crm.messages)
    assert f"{NAME} leads to an address that is not of the public internet" == line["failure"]


@pytest.mark.parametrize("url", ["http://crm.example/", "https://127.0.0.2/", "https://user@crm.example/"])
async def test_a_url_that_would_not_be_saved_is_not_asked(post: Open, url: str) -> None:
    """Such as one that stands there from before a rule."""
    async with post() as a_post:
        await a_post.signed_hook(url=url)
        await a_post.end_calls()
        await a_post.delivery.deliver()
        (line,) = await a_post.log()

    assert ("waiting", None) == (line["state"], line["status"])
    assert [] == a_post.crm.messages


async def test_who_cannot_prove_its_name_is_told_nothing(post: Open) -> None:
    """Its certificate must be of the name, by an authority that this machine trusts."""
    async with post(trust=False) as a_post:
        await a_post.signed_hook()
        await a_post.end_calls()
        await a_post.delivery.deliver()
        (line,) = await a_post.log()

    assert [] == a_post.crm.messages
    assert f"{NAME} did not answer: ClientConnectorCertificateError" == line["failure"]


async def test_a_missing_master_key_puts_messages_off(post: Open) -> None:
    """Nothing is sent unsigned; with the key it goes on."""
    async with post() as a_post:
        await a_post.signed_hook()
        await a_post.end_calls()
        right, a_post.delivery._keys = a_post.delivery._keys, TenantKeys(Vault({"other": bytes(32)}))
        await a_post.delivery.deliver()
        (line,) = await a_post.log()
        a_post.delivery._keys = right
        await a_post.make_due()
        await a_post.delivery.deliver()

    assert "waiting" == line["state"]
    assert line["failure"].startswith("a key is missing")
    assert 1 == len(a_post.crm.messages)


# --- how long it is tried ---------------------------------------------------------------------------------------------


async def _audit(a_post: Post) -> list[tuple[str, str, Any]]:
    async with a_post.database.connection() as connection:
        rows = await connection.fetch("SELECT actor_kind, action, after FROM audit_log WHERE resource = 'hook'")
    return [(row["actor_kind"], row["action"], msgspec.json.decode(row["after"])) for row in rows]


async def test_who_is_gone_is_asked_no_more(post: Open) -> None:
    """410 disables the hook, with a notice and a line in the audit log; what waits stays, and the next is not made."""
    async with post() as a_post:
        hook_id, _ = await a_post.signed_hook()
        a_post.crm.reply = replies(410)
        await a_post.end_calls(2)
        await a_post.execute("UPDATE hook SET failing_since = now()")  # so that they go one by one
        await a_post.delivery.deliver()
        await a_post.end_calls()
        await a_post.make_due()
        await a_post.delivery.deliver()
        hook, log, audit = await a_post.state_of(hook_id), await a_post.log(), await _audit(a_post)

    assert (False, "gone", True) == (hook["enabled"], hook["disabled_reason"], hook["disabled_at"] is not None)
    assert ["failed", "waiting"] == sorted(line["state"] for line in log)
    assert [("system", "disable", {"enabled": False, "disabledReason": "gone"})] == audit
    assert 1 == len(a_post.crm.messages)


async def test_days_of_nothing_but_failure_disable_a_hook(post: Open) -> None:
    """With a notice and a line in the audit log."""
    async with post() as a_post:
        hook_id, _ = await a_post.signed_hook()
        a_post.crm.reply = replies(500)
        await a_post.end_calls()
        await a_post.delivery.deliver()
        before = (await a_post.state_of(hook_id))["enabled"]
        await a_post.execute("UPDATE hook SET failing_since = now() - interval '73 hours'")
        await a_post.make_due()
        await a_post.delivery.deliver()
        hook, audit = await a_post.state_of(hook_id), await _audit(a_post)

    assert (True, False, "failing") == (before, hook["enabled"], hook["disabled_reason"])
    assert [("system", "disable", {"enabled": False, "disabledReason": "failing"})] == audit


async def test_a_message_is_given_up_in_the_end(post: Open) -> None:
    """After the last try; it stands in the log, and is not sent any more."""
    async with post() as a_post:
        await a_post.signed_hook()
        a_post.crm.reply = replies(500)
        await a_post.end_calls()
        await a_post.execute("UPDATE hook_delivery SET give_up_at = now()")
        for _ in range(2):
            await a_post.delivery.deliver()
            await a_post.make_due()
        (line,) = await a_post.log()

    assert ("failed", 1) == (line["state"], line["attempts"])


async def test_a_receiver_that_asks_for_rest_gets_it(post: Open) -> None:
    """Nothing of its hook is sent before; other hooks do not wait."""
    async with post() as a_post:
        tired, _ = await a_post.signed_hook()
        other, _ = await a_post.signed_hook(events=["call.corrected"])
        a_post.crm.reply = replies(web.Response(status=429, headers={"retry-after": "1000"}), 200)
        await a_post.end_calls()
        await a_post.delivery.deliver()
        await a_post.end_calls()
        await a_post.end_calls(event="call.corrected")
        await a_post.delivery.deliver()
        rested, taken = await a_post.log(tired), await a_post.log(other)
        await a_post.make_due()
        await a_post.delivery.deliver()

        assert ["waiting", "waiting"] == [line["state"] for line in rested]
        assert 990 < rested[0]["wait"] <= 1000
        assert ["delivered"] == [line["state"] for line in taken]
        assert ["delivered"] * 2 == [line["state"] for line in await a_post.log(tired)]


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("99999999999", PAUSE_MOST),
        ("9" * 400, PAUSE_MOST),
        ("Sun, 22 Nov 2026 10:01:00 GMT", 60.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0.0),
        ("Sun, 22 Nov 9026 09:00:00 GMT", PAUSE_MOST),
        ("Sun, 22 Nov 2026 10:01:00 -0000", 60.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u00b2", None),
        ("", None),
    ],
)
def test_rest_is_asked_for_in_seconds_or_by_date(told: str | None, seconds: float | None) -> None:
    """Within bounds; what is neither says nothing."""
    assert seconds == asked_pause(told, datetime(2026, 11, 22, 10, tzinfo=UTC))


def test_tries_grow_apart_and_go_on_for_days() -> None:
    """Anything up to a bound that doubles: after an outage they do not come all at once."""
    most = [back_off(tries, lambda: 1.0) for tries in range(1, 40)]

    assert [10.0, 20.0, 40.0] == most[:3]
    assert BACK_OFF_MOST == most[-1] == back_off(10**9, lambda: 1.0)
    assert most == sorted(most)
    assert 0.0 == back_off(5, lambda: 0.0)
    assert timedelta(days=3) < timedelta(seconds=sum(most) / 2) < timedelta(days=6)


# --- many at once -----------------------------------------------------------------------------------------------------


async def test_a_worker_that_died_between_sending_and_marking_leaves_it_to_another(post: Open) -> None:
    """Which sends it again with the same id, by which the receiver knows it; nothing is lost, and nothing else told."""
    async with post() as a_post:
        _, secret = await a_post.signed_hook()
        a_post.crm.reply = _silent
        await a_post.end_calls()
        dying = asyncio.create_task(a_post.delivery.deliver())
        await until(lambda: len(a_post.crm.messages) == 1)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        (left,) = await a_post.log()
        a_post.crm.reply = Receiver.ok
        await a_post.delivery.deliver()
        early = len(a_post.crm.messages)
        await a_post.make_due()  # the claim is over
        await a_post.delivery.deliver()
        (line,) = await a_post.log()
        first, second = a_post.crm.messages

    assert ("waiting", None, 1) == (left["state"], left["status"], early)
    assert (first.id, first.body) == (second.id, second.body)
    second.demand(secret)
    assert ("delivered", 2) == (line["state"], line["attempts"])


async def test_a_slow_receiver_keeps_nobody_waiting(post: Open) -> None:
    """Of one hook so many are under way and no more, while the others get theirs."""
    released = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        if request.query.get("slow"):
            await released.wait()
        return web.Response()

    async with post() as a_post:
        a_post.crm.reply = slow
        slow_hook, _ = await a_post.signed_hook(url=f"{a_post.crm.url}&slow=1")
        await a_post.end_calls(10)
        delivering = asyncio.create_task(a_post.delivery.deliver())
        await until(lambda: a_post.crm.at_once == OF_EACH)
        quick, _ = await a_post.signed_hook()
        await a_post.end_calls(10)

        async def all_quick() -> bool:
            return ["delivered"] * 10 == [line["state"] for line in await a_post.log(quick)]

        await until(all_quick)
        waiting = {line["state"] for line in await a_post.log(slow_hook)}
        released.set()
        await delivering
        done = {line["state"] for line in await a_post.log()}

    assert ({"waiting"}, {"delivered"}) == (waiting, done)
    assert a_post.crm.most_at_once <= 2 * OF_EACH


async def test_workers_share_what_is_due(post: Open) -> None:
    """Each message is sent once, by one of them."""
    async with post() as a_post:
        await a_post.signed_hook()
        await a_post.end_calls(50)
        await asyncio.gather(*(a_post.delivery.deliver() for _ in range(3)))
        ids = [message.id for message in a_post.crm.messages]

    assert 50 == len(ids) == len(set(ids))


async def test_no_log_line_and_no_failure_tells_a_url(post: Open, capfd: pytest.CaptureFixture[str]) -> None:
    """A URL may hold a secret of its receiver."""
    async with post() as a_post:
        await a_post.signed_hook()
        for reply in (replies(500), _cut, replies(410)):
            a_post.crm.reply = reply
            await a_post.end_calls()
            await a_post.make_due()
            await a_post.delivery.deliver()
        told = str(await a_post.log())

    assert "f0e1d2c3" not in told + "".join(capfd.readouterr())
