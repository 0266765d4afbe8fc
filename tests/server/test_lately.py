"""Whether a colleague called a number minutes ago, as an agent is told before calling it again."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers

from server.http import Endpoint, Http
from server.identity import Identity
from server.lately import Lately
from server.telemetry import Metrics
from storage.database import Database
from tests.conftest import Office

PATH = "/api/v1/calls/lately"
NUMBER, KEPT = "139 0013 9000", "+8613900139000"


class Desk:
    """An office of two agents, Ann who asks and Bob who called, and the API."""

    def __init__(self, database: Database, office: Office, ann: str, bob: str) -> None:
        self.database = database
        self.office = office
        self.ann, self.bob = ann, bob
        self.agent = Identity(
            kind="user",
            id=ann,
            user_id=ann,
            tenant_id=office.tenant_id,
            reach="own",
            permissions=frozenset({"calls.dial"}),
        )
        self.key = Identity(
            kind="api_key",
            id="key_1",
            tenant_id=office.tenant_id,
            reach="tenant",
            permissions=frozenset({"calls.dial"}),
        )
        self._known: dict[str, Identity] = {}
        http = Http(database, self._authenticate, Metrics(), body_limit=1 << 20, timeout=30)
        endpoint = Endpoint("POST", PATH, Lately(database).tell, needs="calls.dial")
        app = Starlette(routes=http.routes([endpoint]))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk.test")

    async def _authenticate(self, headers: Headers) -> Identity:
        return self._known[headers["authorization"]]

    async def ask(self, who: Identity | None = None, *, expect: str = "ok", **of: Any) -> Any:
        """Ask of NUMBER, or of what is named; return what is told of a call, or of the refusal."""
        token = secrets.token_hex(4)
        self._known[token] = who or self.agent
        response = await self.client.post(
            PATH, json=of or {"customerPhone": NUMBER}, headers={"authorization": token, "accept-language": "en"}
        )
        answer = response.json()
        assert expect == (answer["code"] if not response.is_success else "ok"), answer
        return answer["call"] if response.is_success else answer

    async def call(self, user_id: str, ago: str, *, tenant_id: str | None = None, **fields: Any) -> str:
        """Have a call to NUMBER in the records that began so long `ago`: ended and missed, unless it is said."""
        call_id = f"call_{secrets.token_hex(8)}"
        told = {"status": "ended", "outcome": "missed", **fields}
        async with self.database.connection() as connection:
            await connection.execute(
                "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, customer_phone, created_at, status,"
                " outcome, closed_by, hangup_cause, dialing_at, ended_at, reap_at)"
                " SELECT $1, $2, $3, $3, 'cloud', $4, t.at, $6, $7, CASE WHEN $6 = 'ended' THEN 'provider' END,"
                " CASE WHEN $6 = 'ended' THEN 'NO_ANSWER' END, CASE WHEN $8 THEN t.at END,"
                " CASE WHEN $6 = 'ended' THEN t.at END, CASE WHEN $6 <> 'ended' THEN now() END"
                " FROM (SELECT now() - $5::text::interval AS at) t",
                call_id,
                tenant_id or self.office.tenant_id,
                user_id,
                KEPT,
                ago,
                told["status"],
                told["outcome"],
                told.get("dialled", True),
            )
        return call_id

    async def execute(self, statement: str, *values: Any) -> None:
        """Change something behind the API's back."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)


@pytest.fixture
async def desk(database: Database, office: Office) -> AsyncIterator[Desk]:
    """An office with two agents."""
    desk = Desk(database, office, await office.agent(), await office.agent())
    await desk.execute("UPDATE app_user SET name = 'Bob' WHERE id = $1", desk.bob)
    async with desk.client:
        yield desk


async def test_a_colleagues_call_is_told(desk: Desk) -> None:
    """Who called the number last, when and how it went, and nothing else; one's own calls are no news."""
    before = await desk.ask()
    await desk.call(desk.bob, "20 minutes", outcome="busy")
    await desk.call(desk.bob, "10 minutes")
    await desk.call(desk.ann, "5 minutes")
    told = await desk.ask()

    assert before is None
    assert {"userName", "at", "status", "outcome"} == told.keys()
    assert ("Bob", "ended", "missed") == (told["userName"], told["status"], told["outcome"])


async def test_a_call_that_goes_on_is_told(desk: Desk) -> None:
    """That a colleague is talking to the customer at this moment is what matters most."""
    await desk.call(desk.bob, "1 minute", status="connected", outcome=None)
    told = await desk.ask()

    assert ("connected", None) == (told["status"], told["outcome"])


async def test_who_talks_now_is_told_first(desk: Desk) -> None:
    """A long call that goes on is told before a newer one that has ended, and for half an hour after its own end."""
    long = await desk.call(desk.bob, "2 hours", status="connected", outcome=None)
    await desk.call(await desk.office.agent(), "5 minutes")
    during = await desk.ask()
    await desk.execute(
        "UPDATE call SET status = 'ended', outcome = 'connected', closed_by = 'phone', ended_at = now(),"
        " reap_at = NULL, hangup_cause = 'NORMAL_CLEARING' WHERE id = $1",
        long,
    )
    after = await desk.ask()

    assert ("Bob", None) == (during["userName"], during["outcome"])
    assert ("Bob", "connected") == (after["userName"], after["outcome"])


@pytest.mark.parametrize(
    ("ago", "fields"),
    [
        ("31 minutes", {}),
        ("1 minute", {"outcome": "failed", "dialled": False}),
        ("1 minute", {"outcome": "cancelled", "dialled": False}),
    ],
    ids=["long ago", "failed", "cancelled"],
)
async def test_what_did_not_bother_the_customer_is_not_told(desk: Desk, ago: str, fields: dict[str, Any]) -> None:
    """What is long ago, or came to an end before anything was dialled, warns of nothing."""
    await desk.call(desk.bob, ago, **fields)

    assert await desk.ask() is None


async def test_a_customer_or_a_call_may_be_named(desk: Desk) -> None:
    """The number is found where only its customer is known, by our id or the CRM's, or a call to it."""
    await desk.execute(
        "INSERT INTO customer (id, tenant_id, external_id, name, phone) VALUES ('cus_1', $1, 'C-1', 'Chen', $2)",
        desk.office.tenant_id,
        KEPT,
    )
    await desk.call(desk.bob, "10 minutes")
    own = await desk.call(desk.ann, "1 minute", status="calling", outcome=None)
    told = [await desk.ask(**of) for of in ({"customerId": "cus_1"}, {"customerId": "C-1"}, {"callId": own})]

    assert ["Bob"] * 3 == [one["userName"] for one in told]


async def test_a_key_is_told_of_any_agent(desk: Desk) -> None:
    """Of a number it is told whoever called last; of a call, who else did."""
    own = await desk.call(desk.ann, "1 minute")
    last = await desk.ask(desk.key)
    other = await desk.ask(desk.key, callId=own)

    assert (desk.ann, None) == (last["userName"], other)


async def test_what_cannot_be_asked(desk: Desk, database: Database) -> None:
    """A call out of reach does not exist, nor does a customer; two names or none are one too many or too few."""
    bobs = await desk.call(desk.bob, "1 minute")
    await desk.ask(callId=bobs, expect="NOT_FOUND")
    await desk.ask(customerId="nobody", expect="NOT_FOUND")
    await desk.ask(customerPhone=None, expect="INVALID_FIELD")
    refusal = await desk.ask(customerPhone=NUMBER, customerId="C-1", expect="INVALID_FIELD")

    assert "give one of customerPhone, customerId and callId" == refusal["details"]["reason"]


async def test_what_is_no_number_was_called_by_nobody(desk: Desk) -> None:
    """A number is asked of while it is typed: that it is not complete is no error."""
    told = [await desk.ask(customerPhone=typed) for typed in ("12", "1391234", "139 0013 90001", "hello")]

    assert [None] * 4 == told


async def test_other_tenants_are_not_told_of(desk: Desk) -> None:
    """A call to the same number by somebody of another tenant is nobody's news here."""
    await desk.execute("INSERT INTO tenant (id, code, name) VALUES ('tenant_other', 'other', 'Other')")
    await desk.execute(
        "INSERT INTO app_user (id, tenant_id, role, username, name, password_hash)"
        " VALUES ('user_other', 'tenant_other', 'agent', 'user_other', 'Other', '-')"
    )
    await desk.call("user_other", "1 minute", tenant_id="tenant_other")

    assert await desk.ask() is None
