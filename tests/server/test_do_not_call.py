"""The do-not-call list over HTTP, and the numbers that a line under test may dial."""

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers

from protocol.errors import DialdeskError
from protocol.timestamps import rfc3339
from server import do_not_call as served
from server.do_not_call import DoNotCall
from server.http import Endpoint, Http
from server.identity import Identity
from server.telemetry import Metrics
from server.trial_numbers import TrialNumbers
from storage import audit, do_not_call, lines
from storage.audit import AuditSearch
from storage.database import Database
from tests.conftest import Office

BASE = "/api/v1/calls"
NUMBER, MASKED = "13900139000", "139****9000"
ALL = frozenset({"do_not_call.read", "do_not_call.add", "do_not_call.manage", "lines.manage"})


class Desk:
    """The API in front of an office's list: asked by its admin, who may all, unless it is said who asks."""

    def __init__(self, database: Database, office: Office, agent_id: str) -> None:
        self.database = database
        self.office = office
        self.admin = self.person("admin", ALL | {"customers.reveal"})
        self.agent = self.person(agent_id, frozenset({"do_not_call.read", "do_not_call.add"}), own=True)
        self._known: dict[str, Identity] = {}
        listed, trial = DoNotCall(database), TrialNumbers(database)
        http = Http(database, self._authenticate, Metrics(), body_limit=1 << 20, timeout=30)
        endpoints = [
            Endpoint("POST", f"{BASE}/do-not-call", listed.add, needs="do_not_call.add"),
            Endpoint("GET", f"{BASE}/do-not-call", listed.list_entries, needs="do_not_call.read"),
            Endpoint("POST", f"{BASE}/do-not-call/check", listed.check, needs="do_not_call.read"),
            Endpoint("POST", f"{BASE}/do-not-call/import", listed.import_file, needs="do_not_call.manage"),
            Endpoint("POST", f"{BASE}/do-not-call/{{entry_id}}/lift", listed.lift, needs="do_not_call.manage"),
            Endpoint("GET", f"{BASE}/test-numbers", trial.list_numbers, needs="lines.manage"),
            Endpoint("PUT", f"{BASE}/test-numbers", trial.put, needs="lines.manage"),
        ]
        app = Starlette(routes=http.routes(endpoints))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk.test")

    def person(self, user_id: str, permissions: frozenset[str], *, own: bool = False) -> Identity:
        """Somebody of the office."""
        return Identity(
            kind="user",
            id=user_id,
            user_id=user_id,
            tenant_id=self.office.tenant_id,
            reach="own" if own else "tenant",
            permissions=permissions,
        )

    async def _authenticate(self, headers: Headers) -> Identity:
        known = self._known.get(headers.get("authorization", ""))
        if known is None:
            raise DialdeskError("UNAUTHENTICATED")
        return known

    async def ask(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        who: Identity | None = None,
        expect: str = "ok",
        content: bytes | None = None,
        key: str | None = None,
    ) -> Any:
        """Send a request; return the answer, which must be this: `ok`, or an error code."""
        token = secrets.token_hex(4)
        self._known[token] = who or self.admin
        told = {"authorization": token, "accept-language": "en"}
        if content is not None:
            told["content-type"] = "text/csv"
        if key is not None:
            told["idempotency-key"] = key
        response = await self.client.request(method, f"{BASE}{path}", json=json, content=content, headers=told)
        answer = response.json()
        assert expect == (answer["code"] if not response.is_success else "ok"), answer
        return answer

    async def add(self, phone: str = NUMBER, **fields: Any) -> Any:
        """Put a number on the list; return its entry."""
        return (await self.ask("POST", "/do-not-call", {"phone": phone, **fields}))["entry"]

    async def bring(self, content: str, expect: str = "ok") -> Any:
        """Import a file."""
        return await self.ask("POST", "/do-not-call/import", content=content.encode(), expect=expect)

    async def listed(self) -> list[str]:
        """The numbers on the list, as the admin sees them."""
        entries = (await self.ask("GET", "/do-not-call?limit=100"))["entries"]
        return sorted(entry["phone"] for entry in entries)

    async def call(self, call_id: str, user_id: str) -> None:
        """Have an agent's call to NUMBER in the records."""
        async with self.database.connection() as connection:
            await connection.execute(
                "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, customer_phone, status, reap_at)"
                " VALUES ($1, $2, $3, $3, 'cloud', $4, 'pending', now())",
                call_id,
                self.office.tenant_id,
                user_id,
                f"+86{NUMBER}",
            )


@pytest.fixture
async def desk(database: Database, office: Office) -> AsyncIterator[Desk]:
    """An office with an agent."""
    desk = Desk(database, office, await office.agent())
    async with desk.client:
        yield desk


async def test_a_number_is_put_on_the_list_as_people_write_it(desk: Desk) -> None:
    """It stands there in its one form, with who entered it and why."""
    entry = await desk.add("+86 139-0013 9000", reason=" asked us ")

    assert {"phone": f"+86{NUMBER}", "reason": "asked us", "source": "agent", "createdBy": "admin"} == {
        name: entry[name] for name in ("phone", "reason", "source", "createdBy")
    }
    assert entry["expiresAt"] is None
    assert [entry] == (await desk.ask("GET", "/do-not-call"))["entries"]


async def test_a_key_enters_numbers_as_the_api(desk: Desk) -> None:
    """Where a number came from can be told."""
    key = Identity(kind="api_key", id="key_1", tenant_id=desk.office.tenant_id, reach="tenant", permissions=ALL)

    entry = (await desk.ask("POST", "/do-not-call", {"phone": NUMBER}, who=key))["entry"]

    assert ("api", "key_1") == (entry["source"], entry["createdBy"])


async def test_an_agent_enters_whom_it_called_without_seeing_the_number(desk: Desk) -> None:
    """By the call or the customer; the answer has the number masked, for who may not see it."""
    await desk.call("call_1", desk.agent.id)
    async with desk.database.connection() as connection:
        await connection.execute(
            "INSERT INTO customer (id, tenant_id, external_id, name, phone) VALUES ('cust_1', $1, 'C-1', 'Li', $2)",
            desk.office.tenant_id,
            f"+86{NUMBER}",
        )
    by_call = await desk.ask("POST", "/do-not-call", {"callId": "call_1"}, who=desk.agent)
    by_customer = await desk.ask("POST", "/do-not-call", {"customerId": "C-1"}, who=desk.agent)

    assert MASKED == by_call["entry"]["phone"]
    assert by_call["entry"]["id"] == by_customer["entry"]["id"]
    assert [f"+86{NUMBER}"] == await desk.listed()


async def test_an_agent_enters_nobody_by_a_call_out_of_its_reach(desk: Desk) -> None:
    """Another agent's call does not exist for it."""
    await desk.call("call_1", await desk.office.agent())

    await desk.ask("POST", "/do-not-call", {"callId": "call_1"}, who=desk.agent, expect="NOT_FOUND")

    assert [] == await desk.listed()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "INVALID_FIELD"),
        ({"phone": NUMBER, "callId": "call_1"}, "INVALID_FIELD"),
        ({"phone": "12"}, "INVALID_PHONE"),
        ({"customerId": "none"}, "NOT_FOUND"),
        ({"callId": "none"}, "NOT_FOUND"),
        ({"phone": NUMBER, "reason": "x" * 201}, "INVALID_FIELD"),
        ({"phone": NUMBER, "reason": "\0"}, "INVALID_FIELD"),
        ({"phone": NUMBER, "expiresAt": "2026-01-01T00:00:00Z"}, "INVALID_FIELD"),
        ({"phone": NUMBER, "expiresAt": "9999-12-31T23:59:59-14:00"}, "INVALID_FIELD"),
        ({"phone": NUMBER, "expiresAt": "tomorrow"}, "INVALID_FIELD"),
    ],
)
async def test_what_names_nobody_or_no_time_is_refused(desk: Desk, body: dict[str, Any], code: str) -> None:
    """One of number, customer and call, until a time to come; and nothing is entered."""
    await desk.ask("POST", "/do-not-call", body, expect=code)

    assert [] == await desk.listed()


async def test_an_entry_may_end(desk: Desk) -> None:
    """`expiresAt` is kept, and told."""
    tomorrow = rfc3339(datetime.now(UTC) + timedelta(days=1))

    assert tomorrow == (await desk.add(expiresAt=tomorrow))["expiresAt"]


async def test_the_same_request_again_is_answered_the_same(desk: Desk) -> None:
    """Under one key nothing is entered twice, and the log has one line."""
    first, again = [
        await desk.ask("POST", "/do-not-call", {"phone": NUMBER, "reason": "asked"}, key="click-1") for _ in range(2)
    ]
    async with desk.database.connection() as connection:
        told, _ = await audit.lines(connection, desk.office.tenant_id, AuditSearch(resource="do_not_call"), None, 10)

    assert first == again
    assert ["add"] == [line.action for line in told]


async def test_numbers_are_looked_up_without_standing_in_a_url(desk: Desk) -> None:
    """Each is told as it was asked, also one that is no number, with the entry by which it is forbidden."""
    entry = await desk.add()
    answer = await desk.ask(
        "POST", "/do-not-call/check", {"phones": ["139 0013 9000", "13900139001", "12"]}, who=desk.agent
    )

    assert [
        {"phone": "139 0013 9000", "code": "DO_NOT_CALL", "entryId": entry["id"]},
        {"phone": "13900139001", "code": "OK", "entryId": None},
        {"phone": "12", "code": "INVALID_PHONE", "entryId": None},
    ] == answer["numbers"]


@pytest.mark.parametrize("phones", [[], ["1390013900"] * 101, [""], ["1" * 41]])
async def test_a_look_up_has_a_bound(desk: Desk, phones: list[str]) -> None:
    """From one number to a hundred."""
    await desk.ask("POST", "/do-not-call/check", {"phones": phones}, expect="INVALID_FIELD")


async def test_who_lifts_an_entry_says_why(desk: Desk) -> None:
    """Agents do not lift; without a reason nobody does; with one the number may be called again."""
    entry = await desk.add()
    path = f"/do-not-call/{entry['id']}/lift"
    await desk.ask("POST", path, {"reason": "x"}, who=desk.agent, expect="FORBIDDEN")
    await desk.ask("POST", path, {"reason": " "}, expect="INVALID_FIELD")
    await desk.ask("POST", path, {}, expect="INVALID_FIELD")
    kept = await desk.listed()
    await desk.ask("POST", path, {"reason": "asked us to call"})
    await desk.ask("POST", path, {"reason": "again"}, expect="NOT_FOUND")
    async with desk.database.connection() as connection:
        told, _ = await audit.lines(connection, desk.office.tenant_id, AuditSearch(resource="do_not_call"), None, 10)

    assert ([f"+86{NUMBER}"], []) == (kept, await desk.listed())
    assert [("lift", "asked us to call"), ("add", None)] == [(line.action, line.reason) for line in told]


async def test_the_list_comes_in_pages_and_masked(desk: Desk) -> None:
    """The cursor of a page, which holds no number, brings the next; who may not reveal sees none."""
    for n in range(3):
        await desk.add(f"1390013900{n}")
    first = await desk.ask("GET", "/do-not-call?limit=2", who=desk.agent)
    rest = await desk.ask("GET", f"/do-not-call?limit=2&cursor={first['nextCursor']}", who=desk.agent)

    assert ([2, 1], None) == ([len(page["entries"]) for page in (first, rest)], rest["nextCursor"])
    assert {"139****9000", "139****9001", "139****9002"} == {
        entry["phone"] for page in (first, rest) for entry in page["entries"]
    }


async def test_a_file_is_imported_row_by_row(desk: Desk) -> None:
    """Good rows are entered; the report counts the others, and names those that are no numbers."""
    await desk.add("13900139001")
    answer = await desk.bring("reason,phone\nasked us,139 0013 9000\n,13900139001\nx,12\n\n,13900139000\na,b,c\n")

    assert {"rows": 5, "added": 1, "known": 1, "failed": 2, "repeated": 1} == {
        name: answer[name] for name in ("rows", "added", "known", "failed", "repeated")
    }
    assert [(4, "INVALID_PHONE"), (7, "INVALID_FIELD")] == [(row["line"], row["code"]) for row in answer["errors"]]
    assert [f"+86{NUMBER}", "+8613900139001"] == await desk.listed()


@pytest.mark.parametrize("content", ["", "number\n13900139000\n", "phone,phone\n", "phone,reason,x\n", '"'])
async def test_a_file_that_is_none_changes_nothing(desk: Desk, content: str) -> None:
    """The first line names the columns."""
    await desk.bring(content, expect="INVALID_FIELD")


async def test_a_file_has_a_bound(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row too many refuses the file, and none of it is entered."""
    monkeypatch.setattr(served, "MOST_ROWS", 2)
    await desk.bring("phone\n13900139000\n13900139001\n13900139002\n", expect="INVALID_FIELD")

    assert [] == await desk.listed()


async def test_an_imported_number_is_listed_for_good(desk: Desk) -> None:
    """It stands where dials look."""
    await desk.add(expiresAt=rfc3339(datetime.now(UTC) + timedelta(days=1)))
    await desk.bring(f"phone\n{NUMBER}\n")
    async with desk.database.connection() as connection:
        entries = await do_not_call.entries(connection, desk.office.tenant_id, None, 10)

    assert [None] == [entry.expires_at for entry in entries]


# --- test numbers -----------------------------------------------------------------------------------------------------


async def test_test_numbers_are_replaced_as_a_whole(desk: Desk) -> None:
    """What is not among them is none any more; a line under test goes by what stands there now."""
    first = await desk.ask("PUT", "/test-numbers", {"numbers": [{"phone": "139 0013 9001", "note": "Li"}]})
    await desk.ask("PUT", "/test-numbers", {"numbers": [{"phone": NUMBER, "note": "me"}]})
    told = await desk.ask("GET", "/test-numbers")
    async with desk.database.connection() as connection:
        may = [
            await lines.is_test_number(connection, desk.office.tenant_id, phone)
            for phone in (f"+86{NUMBER}", "+8613900139001")
        ]
        elsewhere = await lines.is_test_number(connection, "another", f"+86{NUMBER}")

    assert [{"phone": "+8613900139001", "note": "Li"}] == first["numbers"]
    assert [{"phone": f"+86{NUMBER}", "note": "me"}] == told["numbers"]
    assert ([True, False], False) == (may, elsewhere)


async def test_test_numbers_are_in_the_audit_log_masked_and_once(desk: Desk) -> None:
    """Putting the same again changes nothing; who may not manage lines neither reads nor puts them."""
    body = {"numbers": [{"phone": NUMBER}]}
    for _ in range(2):
        await desk.ask("PUT", "/test-numbers", body)
    await desk.ask("PUT", "/test-numbers", {"numbers": []}, who=desk.agent, expect="FORBIDDEN")
    await desk.ask("GET", "/test-numbers", who=desk.agent, expect="FORBIDDEN")
    async with desk.database.connection() as connection:
        told, _ = await audit.lines(connection, desk.office.tenant_id, AuditSearch(resource="trial_numbers"), None, 10)

    assert [({"numbers": []}, {"numbers": [MASKED]})] == [(line.before, line.after) for line in told]


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([{"phone": "12"}], "INVALID_PHONE"),
        ([{"phone": NUMBER}, {"phone": f"+86 {NUMBER}"}], "INVALID_FIELD"),
        ([{"phone": NUMBER, "note": "x" * 101}], "INVALID_FIELD"),
        ([{"phone": f"1390013{n:04}"} for n in range(201)], "INVALID_FIELD"),
    ],
)
async def test_test_numbers_are_judged_before_any_changes(desk: Desk, numbers: list[Any], code: str) -> None:
    """One that is no good refuses all."""
    await desk.ask("PUT", "/test-numbers", {"numbers": numbers}, expect=code)

    assert [] == (await desk.ask("GET", "/test-numbers"))["numbers"]
