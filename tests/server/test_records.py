"""Calls as they are read over HTTP: one, lists, the feed of changes, follow-ups and statistics."""

import base64
import itertools
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers

from protocol.call import HangupCause
from protocol.errors import DialdeskError
from protocol.identifiers import new_call_id
from server import statistics as counted
from server.http import Endpoint, Http
from server.identity import Identity
from server.records import Records
from server.statistics import Statistics
from server.telemetry import Metrics
from storage import records as stored
from storage.database import Database

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
AGENT = frozenset({"calls.read", "calls.follow_up", "calls.statistics"})
ROUTES = [
    ("GET", "/api/v1/calls"),
    ("GET", "/api/v1/calls/statistics"),
    ("GET", "/api/v1/calls/follow-ups"),
    ("GET", "/api/v1/calls/unrecorded"),
    ("GET", "/api/v1/calls/options"),
    ("GET", "/api/v1/calls/{call_id}"),
    ("GET", "/api/v1/calls/{call_id}/status"),
    ("PUT", "/api/v1/calls/{call_id}/follow-up"),
    ("POST", "/api/v1/calls/{call_id}/follow-up/done"),
]


def person(user_id: str, tenant_id: str = "t1", reach: Any = "own", **more: Any) -> Identity:
    """A signed-in user."""
    known = {"permissions": AGENT, **more}
    return Identity(kind="user", id=user_id, user_id=user_id, tenant_id=tenant_id, reach=reach, **known)


ANN = person("ann")
BEN = person("ben")
EVE = person("eve", "t2")
ADMIN = person("admin", reach="tenant")
AUDITOR = person("admin", reach="tenant", permissions=AGENT | {"customers.reveal"})
NORTH = person("boss", reach="teams", teams=("north",))
SOUTH = person("boss", reach="teams", teams=("south",))
BOTH = person("boss", reach="teams", teams=("north", "south"))
NO_TEAM = person("boss", reach="teams")
STRANGER = person("stranger", "t2", reach="tenant")
CRM = Identity(kind="api_key", id="key", tenant_id="t1", reach="tenant", permissions=AGENT)


class House:
    """Two tenants, three agents, and the API in front of their calls."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: dict[str, Identity] = {}
        records = Records(database, settle=0.0)
        http = Http(database, self._authenticate, Metrics(), body_limit=1 << 20, timeout=30)
        endpoints = [
            Endpoint("GET", "/api/v1/calls", records.list_calls, needs="calls.read"),
            Endpoint("GET", "/api/v1/calls/statistics", Statistics(database).count, needs="calls.statistics"),
            Endpoint("GET", "/api/v1/calls/follow-ups", records.follow_ups_due, needs="calls.read"),
            Endpoint("GET", "/api/v1/calls/unrecorded", records.not_recorded, needs="calls.read"),
            Endpoint("GET", "/api/v1/calls/options", records.options, needs="calls.read"),
            Endpoint("GET", "/api/v1/calls/{call_id}", records.get, needs="calls.read"),
            Endpoint("GET", "/api/v1/calls/{call_id}/status", records.status, needs="calls.read"),
            Endpoint("PUT", "/api/v1/calls/{call_id}/follow-up", records.follow_up, needs="calls.follow_up"),
            Endpoint(
                "POST", "/api/v1/calls/{call_id}/follow-up/done", records.complete_follow_up, needs="calls.follow_up"
            ),
        ]
        app = Starlette(routes=http.routes(endpoints))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk.test")

    async def _authenticate(self, headers: Headers) -> Identity:
        known = self._known.get(headers.get("authorization", ""))
        if known is None:
            raise DialdeskError("UNAUTHENTICATED")
        return known

    async def ask(self, who: Identity, method: str, path: str, *, expect: int = 200, **more: Any) -> Any:
        """Send a request as somebody, and return the JSON answer, which must have this status."""
        token = secrets.token_hex(4)
        self._known[token] = who
        headers = {"authorization": token, **more.pop("headers", {})}
        response = await self.client.request(method, path, headers=headers, **more)

        assert expect == response.status_code, response.text
        return response.json()

    async def get(self, who: Identity, path: str = "", *, expect: int = 200, **query: Any) -> Any:
        """GET below /api/v1/calls; `from_` stands for `from`."""
        params = {name.rstrip("_"): _said(value) for name, value in query.items()}
        return await self.ask(who, "GET", f"/api/v1/calls{path}", expect=expect, params=params)

    async def note(self, who: Identity, call_id: str, *, expect: int = 200, **record: Any) -> Any:
        """PUT the follow-up record of a call."""
        return await self.ask(who, "PUT", f"/api/v1/calls/{call_id}/follow-up", expect=expect, json=record)

    async def call(self, user_id: str = "ann", **columns: Any) -> str:
        """Add a call, by default one that was answered and lasted a minute, and return its id."""
        return (await self.calls([{"user_id": user_id, **columns}]))[0]

    async def calls(self, calls: Sequence[Mapping[str, Any]]) -> list[str]:
        """Add calls and return their ids."""
        rows = [_call(**columns) for columns in calls]
        statements = [
            f"INSERT INTO call ({', '.join(row)}) VALUES ({', '.join(f'${n}' for n in range(1, len(row) + 1))})"
            for row in rows
        ]
        async with self.database.transaction() as connection:
            for statement, row in zip(statements, rows, strict=True):
                await connection.execute(statement, *row.values())
        return [row["id"] for row in rows]

    async def walk(self, who: Identity, path: str = "", **query: Any) -> list[list[str]]:
        """The ids of the calls of each page, from the first to the last."""
        pages = []
        cursor: dict[str, Any] = {}
        while True:
            page = await self.get(who, path, **query, **cursor)
            pages.append(ids(page))
            if not page["hasMore"]:
                return pages
            cursor = {"cursor": page["nextCursor"]}


def _call(user_id: str = "ann", **given: Any) -> dict[str, Any]:
    """The columns of a call. What is told of its end is left out where it has not ended."""
    at = given.get("created_at", NOON)
    columns: dict[str, Any] = {
        "id": new_call_id(),
        "tenant_id": "t2" if user_id == "eve" else "t1",
        "user_id": user_id,
        "team_id": {"ann": "north", "ben": "south", "eve": "east", "boss": None}[user_id],
        "created_by": user_id,
        "call_method": "mobile",
        "customer_phone": "+8613912345678",
        "status": "ended",
        "created_at": at,
        "updated_at": at,
    }
    if given.get("status", "ended") == "ended":
        columns |= {
            "outcome": "connected",
            "evidence": "call_log",
            "hangup_cause": "NORMAL_CLEARING",
            "closed_by": "phone",
            "connected_at": at + timedelta(seconds=10),
            "ended_at": at + timedelta(seconds=70),
            "duration": 60,
        }
    else:
        columns["reap_at"] = at + timedelta(hours=4)
    return columns | given


def _said(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def ids(page: Any) -> list[str]:
    """The ids of the calls of a page."""
    return [call["callId"] for call in page["calls"]]


@pytest.fixture
async def house(database: Database) -> AsyncIterator[House]:
    """The house of this test."""
    async with database.connection() as connection:
        await connection.execute("""
            INSERT INTO tenant (id, code, name) VALUES ('t1', 't1', 'One'), ('t2', 't2', 'Two');
            INSERT INTO team (id, tenant_id, name)
                VALUES ('north', 't1', 'North'), ('south', 't1', 'South'), ('east', 't2', 'East');
            INSERT INTO app_user (id, tenant_id, team_id, role, username, name, password_hash) VALUES
                ('ann', 't1', 'north', 'agent', 'ann', 'Ann', '-'), ('ben', 't1', 'south', 'agent', 'ben', 'Ben', '-'),
                ('eve', 't2', 'east', 'agent', 'eve', 'Eve', '-'),
                ('boss', 't1', NULL, 'supervisor', 'boss', 'Boss', '-');
        """)
    house = House(database)
    async with house.client:
        yield house


# --- who may read what ----------------------------------------------------------------------------------------------


async def test_a_call_out_of_reach_does_not_exist(house: House) -> None:
    """Another agent, another team and another tenant are told the same of a call as of one that was never made."""
    call_id = await house.call(follow_up_next_at=NOON, followed_up_at=NOON, followed_up_by="ann")
    before = await house.get(ANN, f"/{call_id}")
    for who in (BEN, EVE, SOUTH, NO_TEAM, STRANGER):
        for method, path in ROUTES:
            if "{" in path:
                more = {"json": {"note": "mine now"}} if method == "PUT" else {}
                answer = await house.ask(who, method, path.format(call_id=call_id), expect=404, **more)

                assert "NOT_FOUND" == answer["code"]
    assert before == await house.get(ANN, f"/{call_id}")


_EITHER_WAY: list[dict[str, Any]] = [{}, {"userId": "ann"}]


async def test_lists_hold_no_call_out_of_reach(house: House) -> None:
    """Lists, counts and the feed tell nothing of other agents, teams or tenants, also where the asker names them."""
    await house.call(follow_up_next_at=NOON, followed_up_at=NOON, followed_up_by="ann")
    await house.call()
    for who in (BEN, EVE, SOUTH, NO_TEAM, STRANGER):
        for narrowed in _EITHER_WAY:
            for path in ("", "/follow-ups", "/unrecorded"):
                assert [] == ids(await house.get(who, path, **narrowed))
            assert [] == ids(await house.get(who, updatedSince=NOON, **narrowed))
            counts = await house.get(who, "/statistics", from_="2026-03-01", to="2026-03-03", **narrowed)

            assert ([], 0) == (counts["rows"], counts["total"]["calls"])


async def test_a_call_within_reach_is_read_alike(house: House) -> None:
    """The agent, the supervisor, the administrator and the CRM read the same call."""
    call_id = await house.call()
    await house.call("eve")
    for who in (ANN, NORTH, BOTH, ADMIN, CRM):
        for path, more in (("", {}), ("", {"updatedSince": NOON}), ("/unrecorded", {}), ("", {"userId": "ann"})):
            assert [call_id] == ids(await house.get(who, path, **more))
        assert call_id == (await house.get(who, f"/{call_id}"))["call"]["callId"]
        assert 1 == (await house.get(who, "/statistics", from_="2026-03-01", to="2026-03-03"))["total"]["calls"]


async def test_a_supervisor_reaches_the_own_calls_too(house: House) -> None:
    """Calls that a supervisor makes without a team are listed among those of the teams, and noted like any other."""
    made = await house.calls(
        [
            {"user_id": ("boss", "ann", "boss")[n % 3], "created_at": NOON + timedelta(seconds=n)}
            | ({"team_id": "north"} if n % 3 == 2 else {})
            for n in range(12)
        ]
    )
    await house.call("ben")
    for who, mine in ((NORTH, made), (NO_TEAM, [call_id for n, call_id in enumerate(made) if n % 3 != 1])):
        for path in ("", "/unrecorded"):
            pages = await house.walk(who, path, limit=5)

            assert mine[::-1] == [call_id for page in pages for call_id in page]
        assert mine == ids(await house.get(who, updatedSince=NOON))
        counts = await house.get(who, "/statistics", from_="2026-03-01", to="2026-03-03")

        assert len(mine) == counts["total"]["calls"]
    await house.note(NO_TEAM, made[0], result="已接通", nextFollowUpAt="2999-01-01T00:00:00Z")

    assert [made[0]] == ids(await house.get(NO_TEAM, "/follow-ups", before="2999-01-02T00:00:00Z"))
    assert "已接通" == (await house.get(NO_TEAM, f"/{made[0]}"))["call"]["followUp"]["result"]
    await house.ask(NO_TEAM, "POST", f"/api/v1/calls/{made[0]}/follow-up/done")


async def test_every_route_needs_its_permission(house: House) -> None:
    """Who holds no permission is refused before anything is read."""
    nobody = person("ann", permissions=frozenset())
    for method, path in ROUTES:
        answer = await house.ask(nobody, method, path.format(call_id="call_1"), expect=403)

        assert "FORBIDDEN" == answer["code"]


async def test_numbers_are_masked_unless_the_role_may_see_them(house: House) -> None:
    """The customer's number shows three and four digits, and all of them to who holds customers.reveal."""
    call_id = await house.call(customer_phone="+8613912345678")
    for who, shown in ((ANN, "139****5678"), (CRM, "139****5678"), (AUDITOR, "+8613912345678")):
        assert shown == (await house.get(who, f"/{call_id}"))["call"]["customerPhone"]
        assert [shown] == [call["customerPhone"] for call in (await house.get(who))["calls"]]
        assert [shown] == [call["customerPhone"] for call in (await house.get(who, "/unrecorded"))["calls"]]


# --- one call -------------------------------------------------------------------------------------------------------


async def test_status_tells_the_talk_so_far_and_in_the_end(house: House) -> None:
    """A call not answered has not talked, an answered one since the answer, an ended one for as long as was told."""
    now = datetime.now(UTC)
    ringing = await house.call(status="ringing", created_at=now)
    talking = await house.call("ben", status="connected", created_at=now, connected_at=now - timedelta(seconds=100))
    ended = await house.call()
    lost = await house.call(outcome="unknown", duration=None, evidence="server", hangup_cause="LOST")
    answers = [await house.get(ADMIN, f"/{call_id}/status") for call_id in (ringing, talking, ended, lost)]

    assert ["ringing", "connected", "ended", "ended"] == [answer["status"] for answer in answers]
    assert [0, 60, None] == [answers[n]["duration"] for n in (0, 2, 3)]
    assert 100 <= answers[1]["duration"] < 160
    assert (None, "2026-03-02T12:00:10.000Z") == (answers[0]["startTime"], answers[2]["startTime"])
    assert ("connected", "LOST") == (answers[2]["outcome"], answers[3]["hangupCause"])


async def test_a_call_is_told_with_all_that_is_known_of_it(house: House) -> None:
    """The answer holds every field of the seed's call record, and null where nothing is known."""
    call_id = await house.call(
        call_method="cloud",
        line_id="line_1",
        provider_call_id="pc_1",
        provider_job_id="pj_1",
        caller_number="02112345678",
        customer_id="c-1",
        order_id="o-1",
        external_id="x-1",
        custom_data='{"score": 7}',
        ringing_at=NOON + timedelta(seconds=4),
        has_recording=True,
        recording_size=1024000,
        raw_cause="16",
    )
    call = (await house.get(ANN, f"/{call_id}"))["call"]
    expected = {
        "callId": call_id,
        "callMethod": "cloud",
        "lineId": "line_1",
        "providerCallId": "pc_1",
        "providerJobId": "pj_1",
        "callerNumber": "02112345678",
        "customerId": "c-1",
        "orderId": "o-1",
        "externalId": "x-1",
        "customData": {"score": 7},
        "ringDuration": 6,
        "duration": 60,
        "hasRecording": True,
        "recordingSize": 1024000,
        "hangupCause": "NORMAL_CLEARING",
        "rawCause": "16",
        "userName": "Ann",
        "createdAt": "2026-03-02T12:00:00.000Z",
        "dialingAt": None,
        "deviceId": None,
        "followUp": None,
    }

    assert expected == {name: call[name] for name in expected}
    assert [call] == (await house.get(ANN))["calls"]


async def test_ringing_lasts_to_the_answer_or_the_end(house: House) -> None:
    """The ring duration is null where no ringing was seen, and never negative."""
    at = NOON + timedelta(seconds=20)
    missed = {"outcome": "missed", "connected_at": None, "duration": 0, "ended_at": at + timedelta(seconds=30)}
    call_ids = await house.calls(
        [{"ringing_at": at, **missed}, missed, {"ringing_at": at, "connected_at": at - timedelta(seconds=5)}]
    )

    assert [30, None, 0] == [(await house.get(ANN, f"/{one}"))["call"]["ringDuration"] for one in call_ids]


async def test_a_call_brings_its_history_up_to_a_bound(house: House) -> None:
    """Events come oldest first with what they said and changed; a history too long for one answer says so."""
    call_id = await house.call()
    async with house.database.connection() as connection:
        await connection.execute(
            "INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)"
            """ SELECT $1, 't1', 'phone', 'CALL_STATUS', 'none', json_build_object('n', n)"""
            " FROM generate_series(1, 200) n",
            call_id,
        )
    whole = await house.get(ANN, f"/{call_id}")
    async with house.database.connection() as connection:
        await connection.execute(
            "INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)"
            " VALUES ($1, 't1', 'phone', 'CALL_END', 'moved', '{}')",
            call_id,
        )
    cut = await house.get(ANN, f"/{call_id}")

    assert (list(range(1, 201)), False) == ([event["data"]["n"] for event in whole["events"]], whole["eventsTruncated"])
    assert {"source": "phone", "kind": "CALL_STATUS", "effect": "none"}.items() <= whole["events"][0].items()
    assert (whole["events"], True) == (cut["events"], cut["eventsTruncated"])


async def test_an_id_of_no_call_is_refused(house: House) -> None:
    """Whatever stands in the path, the answer is an error of ours."""
    for call_id, expected in (("call_nobody", 404), ("%F0%9F%93%9E", 404), ("x" * 500, 404), ("%00", 422)):
        assert not (await house.get(ADMIN, f"/{call_id}/status", expect=expected))["success"]


# --- lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [ADMIN, BOTH, ANN], ids=["tenant", "teams", "own"])
async def test_a_walk_sees_each_call_once_while_calls_are_made(house: House, who: Identity) -> None:
    """Following nextCursor shows every call that was there at the start, newest first, each once."""
    made = await house.calls(
        [{"user_id": ("ann", "ben")[n % 2], "created_at": NOON + timedelta(seconds=n // 5)} for n in range(23)]
    )
    expected = [call_id for n, call_id in enumerate(made) if who is not ANN or n % 2 == 0]
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = await house.get(who, limit=4, **cursor)
        seen += ids(page)
        await house.call(created_at=NOON + timedelta(minutes=1))
        if not page["hasMore"]:
            break
        cursor = {"cursor": page["nextCursor"]}

    assert page["nextCursor"] is None
    assert len(expected) == len(seen)
    assert set(expected) == set(seen)
    assert seen == sorted(seen, key=lambda one: (made.index(one) // 5, one), reverse=True)


async def test_each_filter_finds_its_calls(house: House) -> None:
    """A filter leaves out what it does not name, and an unanswerable one nothing at all."""
    async with house.database.connection() as connection:
        await connection.execute(
            "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version,"
            " app_version, token_hash) VALUES ('dev_1', 't1', 'h', 'ann', '', '', '', 'android', '', '', 'x')"
        )
    wanted = await house.call(
        "ben",
        outcome="busy",
        call_method="cloud",
        device_id="dev_1",
        customer_id="c-1",
        customer_phone="+8613700000001",
        order_id="o-1",
        external_id="x-1",
        has_recording=True,
        recording_status="ready",
        created_at=NOON + timedelta(hours=1),
    )
    live = await house.call(status="ringing", created_at=NOON - timedelta(hours=1))
    other = await house.call(has_recording=True)
    filters: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {wanted, live, other}),
        ({"status": "ringing"}, {live}),
        ({"status": "ended"}, {wanted, other}),
        ({"outcome": "busy"}, {wanted}),
        ({"outcome": ["busy", "connected"]}, {wanted, other}),
        ({"callMethod": "cloud"}, {wanted}),
        ({"userId": "ben"}, {wanted}),
        ({"teamId": "south"}, {wanted}),
        ({"deviceId": "dev_1"}, {wanted}),
        ({"customerId": "c-1"}, {wanted}),
        ({"customerPhone": "137-0000-0001"}, {wanted}),
        ({"orderId": "o-1"}, {wanted}),
        ({"externalId": "x-1"}, {wanted}),
        ({"recording": "awaited"}, {other}),
        ({"recording": "ready"}, {wanted}),
        ({"recording": ["ready", "none"]}, {wanted, live}),
        ({"recording": "awaited", "outcome": "busy"}, set()),
        ({"from_": NOON, "to": NOON + timedelta(hours=1)}, {other}),
        ({"outcome": "busy", "userId": "ann"}, set()),
    ]
    for query, expected in filters:
        assert expected == set(ids(await house.get(CRM, **query))), query
        assert expected == set(ids(await house.get(BOTH, **query))), query
        assert expected == set(ids(await house.get(CRM, updatedSince=NOON - timedelta(days=1), **query))), query


async def test_what_became_of_a_recording_is_told_and_searched_in_one_word(house: House) -> None:
    """It is awaited where the phone says that there is one and recording was on, until something has become of it; only
    one that is ready has a place to be played from. The word that a call tells is the word it is found by."""
    cases: list[tuple[str, dict[str, Any]]] = [
        ("none", {}),
        ("none", {"has_recording": False}),
        ("none", {"has_recording": True, "record": False}),
        ("awaited", {"has_recording": True}),
        *((word, {"has_recording": True, "recording_status": word}) for word in ("ready", "expired", "deleted")),
        ("failed", {"recording_status": "failed"}),
        ("ready", {"has_recording": True, "recording_status": "ready", "record": False}),
    ]
    made = await house.calls(
        [{**columns, "created_at": NOON + timedelta(seconds=n)} for n, (_, columns) in enumerate(cases)]
    )
    told = (await house.get(ADMIN, limit=100))["calls"][::-1]
    one = (await house.get(ANN, f"/{made[3]}"))["call"]

    assert [word for word, _ in cases] == [call["recording"] for call in told]
    assert [columns.get("record", True) for _, columns in cases] == [call["record"] for call in told]
    assert [
        f"/api/v1/calls/{call_id}/recording" if cases[n][0] == "ready" else None for n, call_id in enumerate(made)
    ] == [call["recordingUrl"] for call in told]
    assert told[3] == one
    for word in {word for word, _ in cases}:
        found = [call_id for call_id, (its, _) in zip(made, cases, strict=True) if its == word]

        assert found[::-1] == ids(await house.get(ADMIN, recording=word))
        assert found == ids(await house.get(ADMIN, recording=word, updatedSince=NOON))
    await house.get(ADMIN, recording="lost", expect=422)


async def test_a_rare_kind_is_looked_for_in_parts(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few calls are wanted a page may be short and go on; the walk still finds each of them once."""
    monkeypatch.setattr(stored, "MOST_LOOKED_AT", 8)
    feeds: list[dict[str, Any]] = [{}, {"updatedSince": NOON}]
    rare: list[dict[str, Any]] = [{"outcome": "rejected"}, {"recording": "awaited"}]
    made = await house.calls(
        [
            {
                "user_id": "ann" if n % 3 else "ben",
                "created_at": NOON + timedelta(seconds=n),
                "outcome": "rejected" if n in {0, 19, 20, 39} else "missed",
                "has_recording": n in {0, 19, 20, 39},
            }
            for n in range(40)
        ]
    )
    for who in (ADMIN, BOTH, ANN):
        expected = [made[n] for n in (39, 20, 19, 0) if who is not ANN or n % 3]
        for feed, kind in itertools.product(feeds, rare):
            pages = await house.walk(who, limit=3, **kind, **feed)

            assert expected[:: -1 if feed else 1] == [call_id for page in pages for call_id in page]
            assert any(len(page) < 3 for page in pages[:-1])
            assert 3 < len(pages) < 20


@pytest.mark.parametrize("path", ["/follow-ups", "/unrecorded"])
async def test_lists_of_work_to_do_are_walked_likewise(
    house: House, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follow-ups come the longest due first, unrecorded calls the last ended first, each once."""
    monkeypatch.setattr(stored, "MOST_LOOKED_AT", 5)
    due = path == "/follow-ups"
    made = await house.calls(
        [
            {
                "user_id": "ben" if n % 4 else "ann",
                "created_at": NOON + timedelta(seconds=n // 2),
                "follow_up_next_at": NOON + timedelta(days=1, seconds=n // 2) if due else None,
                "followed_up_at": NOON if due else None,
                "followed_up_by": "ann" if due else None,
            }
            for n in range(24)
        ]
    )
    for who in (ADMIN, BOTH, NORTH, ANN):
        seen = [call_id for page in await house.walk(who, path, limit=3) for call_id in page]
        anns = [call_id for page in await house.walk(who, path, limit=3, userId="ann") for call_id in page]
        reached = [call_id for n, call_id in enumerate(made) if who in (ADMIN, BOTH) or n % 4 == 0]

        assert sorted(reached, key=lambda one: (made.index(one) // 2, one), reverse=not due) == seen
        assert [call_id for call_id in seen if made.index(call_id) % 4 == 0] == anns


async def test_a_cursor_that_was_not_given_out_is_refused(house: House) -> None:
    """A cursor that was made up or changed is an invalid field."""
    await house.calls([{}, {}])
    given = (await house.get(ADMIN, limit=1))["nextCursor"]
    made_up = [base64.urlsafe_b64encode(text).decode() for text in (b'["newest", 7, "x"]', b"null", b"[]", b"\xff")]
    for cursor in ("x", "!!!!", "é", "A" * 513, given[:-4], given + "AAAA", "\0", *made_up):
        assert "INVALID_FIELD" == (await house.get(ADMIN, cursor=cursor, expect=422))["code"], cursor


async def test_a_cursor_leads_on_in_its_own_list_only(house: House) -> None:
    """The cursor of one list is refused by the others."""
    await house.calls([{}, {}])
    cursor = (await house.get(ADMIN, limit=1))["nextCursor"]
    for path, more in (("/unrecorded", {}), ("/follow-ups", {}), ("", {"updatedSince": NOON})):
        assert "INVALID_FIELD" == (await house.get(ADMIN, path, cursor=cursor, expect=422, **more))["code"]


async def test_a_query_that_cannot_be_meant_is_refused(house: House) -> None:
    """Values out of range, misspelt names and times without or beyond a place in time are invalid fields."""
    queries: list[dict[str, Any]] = [
        {"limit": 0},
        {"limit": 101},
        {"status": "dialling"},
        {"outcome": "good"},
        {"updatedsince": "2026-01-01T00:00:00Z"},
        {"from_": "2026-01-01T00:00:00"},
        {"from_": "0001-01-01T00:00:00+14:00"},
        {"to": "9999-12-31T23:59:59-14:00"},
        {"updatedSince": "0001-01-01T00:00:00+14:00"},
        {"externalId": "\0"},
        {"customerId": "x" * 129},
    ]
    for query in queries:
        assert "INVALID_FIELD" == (await house.get(ADMIN, expect=422, **query))["code"], query


async def test_a_number_that_is_none_cannot_be_asked_for(house: House) -> None:
    """The filter by number says where the number is no number."""
    assert "INVALID_PHONE" == (await house.get(ADMIN, customerPhone="12", expect=422))["code"]


# --- the feed of changes --------------------------------------------------------------------------------------------


async def test_the_feed_goes_on_where_it_was_left(house: House) -> None:
    """Changes come in their order, the cursor never ends, and a call that changes again comes again."""
    first, second = await house.calls([{"updated_at": NOON}, {"updated_at": NOON + timedelta(seconds=1)}])
    start = await house.get(CRM, updatedSince=NOON, limit=1)
    rest = await house.get(CRM, updatedSince=NOON, cursor=start["nextCursor"])
    nothing = await house.get(CRM, updatedSince=NOON, cursor=rest["nextCursor"])
    await house.note(ANN, first, result="已接通")
    again = await house.get(CRM, updatedSince=NOON, cursor=nothing["nextCursor"])

    assert [[first], [second], [], [first]] == [ids(page) for page in (start, rest, nothing, again)]
    assert [True, False, False, False] == [page["hasMore"] for page in (start, rest, nothing, again)]
    assert "已接通" == again["calls"][0]["followUp"]["result"]


async def test_the_feed_of_no_changes_can_be_left_and_taken_up(house: House) -> None:
    """A feed that has shown nothing yet gives a cursor all the same."""
    empty = await house.get(CRM, updatedSince=NOON)
    call_id = await house.call(updated_at=NOON)

    assert [call_id] == ids(await house.get(CRM, updatedSince=NOON, cursor=empty["nextCursor"]))


async def test_the_feed_waits_for_changes_that_are_committed_late(house: House) -> None:
    """A change whose transaction began first and commits last is not skipped: what came after it waits."""
    slow, quick = await house.calls([{}, {}])
    change = "UPDATE call SET updated_at = now() WHERE tenant_id = 't1' AND id = $1"
    async with house.database.transaction() as connection:
        await connection.execute(change, slow)
        async with house.database.connection() as other:
            await other.execute(change, quick)
        before = await house.get(CRM, updatedSince=NOON + timedelta(seconds=1))
    after = await house.get(CRM, updatedSince=NOON + timedelta(seconds=1), cursor=before["nextCursor"])

    assert [] == ids(before)
    assert [slow, quick] == ids(after)


# --- the agent's record ---------------------------------------------------------------------------------------------


async def test_a_record_is_kept_and_replaced(house: House) -> None:
    """What the agent noted is told with the call; noting again replaces all of it."""
    call_id = await house.call()
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    await house.note(
        ANN, call_id, result="已接通", intention="有意向", note=" 回电 📞 ", nextFollowUpAt=soon.isoformat()
    )
    first = (await house.get(ANN, f"/{call_id}"))["call"]["followUp"]
    await house.note(ADMIN, call_id, result="拒接")
    second = (await house.get(ANN, f"/{call_id}"))["call"]["followUp"]

    assert ("已接通", "有意向", "回电 📞", "ann") == tuple(
        first[name] for name in ("result", "intention", "note", "recordedBy")
    )
    assert soon == datetime.fromisoformat(first["nextFollowUpAt"])
    assert ("拒接", None, None, None, "admin") == tuple(
        second[name] for name in ("result", "intention", "note", "nextFollowUpAt", "recordedBy")
    )


async def test_a_record_that_says_nothing_or_nonsense_is_refused(house: House) -> None:
    """A record says something, chooses from the tenant's lists, and plans for the future."""
    call_id = await house.call()
    records: list[dict[str, Any]] = [
        {},
        {"note": "  "},
        {"result": "不存在的结果"},
        {"intention": "已接通"},
        {"note": "x" * 2001},
        {"note": "a\0b"},
        {"nextFollowUpAt": "2020-01-01T00:00:00Z"},
        {"nextFollowUpAt": "2036-01-01T00:00:00"},
        {"nextFollowUpAt": "9999-12-31T23:59:59-14:00"},
        {"nextFollowupAt": "2036-01-01T00:00:00Z"},
    ]
    for record in records:
        assert "INVALID_FIELD" == (await house.note(ANN, call_id, expect=422, **record))["code"], record
    assert (await house.get(ANN, f"/{call_id}"))["call"]["followUp"] is None


async def test_the_refusal_of_a_choice_names_the_choices(house: House) -> None:
    """The agent's page learns from the error what the tenant's lists hold."""
    async with house.database.connection() as connection:
        await connection.execute("UPDATE tenant SET call_results = '{promised,refused}' WHERE id = 't1'")
    answer = await house.note(ANN, await house.call(), expect=422, result="已接通")

    assert ["promised", "refused"] == answer["details"]["allowed"]
    assert "promised, refused" in answer["message"]


async def test_a_note_taken_during_the_call_is_its_record(house: House) -> None:
    """A call noted while it went on is not listed as unrecorded when it ends."""
    call_id = await house.call(status="connected")
    await house.note(ANN, call_id, note="wants a brochure")
    async with house.database.connection() as connection:
        await connection.execute(
            "UPDATE call SET status = 'ended', outcome = 'connected', ended_at = now(), reap_at = NULL WHERE id = $1",
            call_id,
        )

    assert [] == ids(await house.get(ANN, "/unrecorded"))


async def test_a_call_is_unrecorded_from_its_end_to_its_record(house: House) -> None:
    """The list of unrecorded calls holds ended calls only, and lets go of those that were noted."""
    ended = await house.call()
    await house.call("ben", status="connected")
    before = ids(await house.get(ADMIN, "/unrecorded"))
    await house.note(ANN, ended, result="已接通")

    assert ([ended], []) == (before, ids(await house.get(ADMIN, "/unrecorded")))


async def test_a_follow_up_is_due_from_its_time_until_it_is_done(house: House) -> None:
    """Planned follow-ups are listed from when they are due, and no more once they are marked as done."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    call_id = await house.call()
    await house.note(ANN, call_id, nextFollowUpAt=soon.isoformat())
    now, later = ids(await house.get(ANN, "/follow-ups")), ids(await house.get(ANN, "/follow-ups", before=soon))
    for _ in range(2):
        await house.ask(ANN, "POST", f"/api/v1/calls/{call_id}/follow-up/done")
    done = (await house.get(ANN, f"/{call_id}"))["call"]

    assert ([], [call_id]) == (now, later)
    assert [] == ids(await house.get(ANN, "/follow-ups", before=soon))
    assert done["updatedAt"] == done["followUp"]["doneAt"]


async def test_what_was_not_planned_cannot_be_done(house: House) -> None:
    """A call without a next follow-up has none to mark as done."""
    await house.ask(ANN, "POST", f"/api/v1/calls/{await house.call()}/follow-up/done", expect=404)


async def test_noting_a_later_call_completes_earlier_follow_ups_of_the_customer(house: House) -> None:
    """The agent's record of a later call to the same number or customer id does what was planned on earlier calls."""
    planned = {"follow_up_next_at": NOON + timedelta(hours=1), "followed_up_at": NOON}
    other = {"customer_phone": "+8613800000000"}
    same_number, same_customer, *kept, noted = await house.calls(
        [
            planned,
            {**planned, **other, "customer_id": "c-1"},
            {**planned, **other, "customer_id": "c-2"},
            {**planned, "user_id": "ben"},
            {**planned, "created_at": NOON + timedelta(hours=2)},
            {"created_at": NOON + timedelta(hours=1), "customer_id": "c-1"},
        ]
    )
    before = set(ids(await house.get(ADMIN, "/follow-ups")))
    await house.note(ANN, noted, result="已接通")

    assert {same_number, same_customer, *kept} == before
    assert set(kept) == set(ids(await house.get(ADMIN, "/follow-ups")))


async def test_planning_again_makes_a_done_follow_up_due_again(house: House) -> None:
    """A new record with a next time is a new plan."""
    call_id = await house.call(follow_up_next_at=NOON, follow_up_done_at=NOON + timedelta(hours=1), followed_up_at=NOON)
    soon = datetime.now(UTC) + timedelta(hours=1)
    await house.note(ANN, call_id, nextFollowUpAt=soon.isoformat())

    assert [call_id] == ids(await house.get(ANN, "/follow-ups", before=soon))


# --- options --------------------------------------------------------------------------------------------------------


async def test_options_are_the_tenants_lists_and_every_cause_in_the_askers_language(house: House) -> None:
    """The quick record's choices come with what each hang-up cause means and what to do about it."""
    chinese = await house.get(ANN, "/options")
    english = await house.ask(ANN, "GET", "/api/v1/calls/options", headers={"accept-language": "en-GB"})
    causes = {cause["code"]: cause for cause in chinese["causes"]}

    assert ("已接通", "有意向") == (chinese["results"][0], chinese["intentions"][0])
    assert set(HangupCause) == set(causes)
    assert {"code": "UNALLOCATED_NUMBER", "text": "空号", "advice": "标记为无效"} == causes["UNALLOCATED_NUMBER"]
    assert {"code": "USER_BUSY", "text": "Busy", "advice": "Dial again later"} in english["causes"]
    assert all(cause["text"].isascii() and cause["advice"].isascii() for cause in english["causes"])


# --- statistics -----------------------------------------------------------------------------------------------------


def _counted(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count calls the plain way, by the definitions in Tally."""
    strong = {"in_call_service", "cx_call", "call_log", "provider_record"}
    ended = [call for call in calls if call["status"] == "ended"]
    answered = [call for call in ended if call["outcome"] == "connected"]
    proven = [call for call in answered if {call["evidence"], call["connected_evidence"]} & strong]
    assumed = [call for call in answered if call not in proven]
    unknown = [call for call in ended if call["outcome"] == "unknown"]
    known = len(ended) - len(assumed) - len(unknown)
    times = [call["duration"] for call in proven if call["duration"] is not None]
    return {
        "calls": len(calls),
        "finished": len(ended),
        "connected": len(proven),
        "connectedAssumed": len(assumed),
        "unknown": len(unknown),
        "connectRate": round(len(proven) / known, 4) if known else None,
        "talkSeconds": sum(times),
        "talkSecondsAssumed": sum(call["duration"] or 0 for call in assumed),
        "averageTalkSeconds": round(sum(times) / len(times), 1) if times else None,
    }


def _some_call(chance: random.Random) -> dict[str, Any]:
    evidence = ["server", "assumed", "in_call_service", "call_log", "provider_record", None]
    call: dict[str, Any] = {
        "user_id": chance.choice(["ann", "ben", "ben", "eve"]),
        "call_method": chance.choice(["mobile", "cloud", "sip"]),
        "line_id": chance.choice(["line_1", "line_2", None]),
        "created_at": NOON + timedelta(hours=chance.uniform(-30 * 24, 30 * 24)),
    }
    if chance.random() < 0.1:
        return (
            call
            | {"status": chance.choice(["pending", "connected"]), "outcome": None, "duration": None}
            | {
                "evidence": None,
                "connected_evidence": None,
            }
        )
    outcome = chance.choice(["connected", "connected", "missed", "busy", "failed", "unknown"])
    return call | {
        "status": "ended",
        "outcome": outcome,
        "evidence": chance.choice(evidence),
        "connected_evidence": chance.choice(evidence) if outcome == "connected" else None,
        "duration": chance.choice([None, 0, chance.randrange(600)]) if outcome == "connected" else 0,
    }


@pytest.mark.parametrize("timezone", ["Asia/Shanghai", "America/New_York"])
async def test_statistics_are_what_a_plain_count_says(house: House, timezone: str) -> None:
    """However calls are grouped and narrowed, each number is what counting them one by one gives, also across DST."""
    chance = random.Random(timezone)
    made = [_some_call(chance) for _ in range(300)]
    await house.calls(made)
    async with house.database.connection() as connection:
        await connection.execute("UPDATE tenant SET timezone = $1 WHERE id = 't1'", timezone)
    first, last = "2026-02-10", "2026-03-25"
    mine = [
        call | {"day": str(call["created_at"].astimezone(ZoneInfo(timezone)).date())}
        for call in made
        if call["user_id"] != "eve"
    ]
    mine = [call for call in mine if first <= call["day"] <= last]
    keys: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        "day": lambda call: {"day": call["day"]},
        "agent": lambda call: {"userId": call["user_id"], "userName": call["user_id"].title()},
        "team": lambda call: (
            {"teamId": "north", "teamName": "North"}
            if call["user_id"] == "ann"
            else {"teamId": "south", "teamName": "South"}
        ),
        "line": lambda call: {"lineId": call["line_id"]},
        "method": lambda call: {"callMethod": call["call_method"]},
    }
    narrowings: list[tuple[Identity, dict[str, Any], Callable[[Mapping[str, Any]], bool]]] = [
        (ADMIN, {}, bool),
        (ANN, {}, lambda call: call["user_id"] == "ann"),
        (SOUTH, {}, lambda call: call["user_id"] == "ben"),
        (CRM, {"userId": "ann"}, lambda call: call["user_id"] == "ann"),
        (
            BOTH,
            {"teamId": "south", "callMethod": "cloud"},
            lambda call: call["user_id"] == "ben" and call["call_method"] == "cloud",
        ),
    ]
    groupings = [
        ["day"],
        ["agent"],
        ["team"],
        ["line"],
        ["method"],
        ["day", "agent"],
        ["line", "method"],
        ["team", "team"],
    ]
    for who, narrowed, counts in narrowings:
        for by in groupings:
            groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
            for call in filter(counts, mine):
                groups[str({name: told for key in by for name, told in keys[key](call).items()})].append(call)
            answer = await house.get(who, "/statistics", from_=first, to=last, groupBy=by, **narrowed)
            told = {
                str({name: row[name] for key in by for name in keys[key](mine[0])}): {
                    name: row[name] for name in _counted([])
                }
                for row in answer["rows"]
            }

            assert {key: _counted(calls) for key, calls in groups.items()} == told, (who.id, by)
            assert _counted(list(filter(counts, mine))) == answer["total"]
            assert {frozenset(_counted([])) | frozenset(name for key in by for name in keys[key](mine[0]))} == {
                frozenset(row) for row in answer["rows"]
            }
            assert (first, last, timezone) == (answer["from"], answer["to"], answer["timezone"])


async def test_statistics_cover_the_last_seven_days_of_the_tenant(house: House) -> None:
    """Without days the tenant's today and the six days before are counted, day by day in order."""
    today = datetime.now(ZoneInfo("Asia/Shanghai")).replace(hour=12)
    await house.calls([{"created_at": today - timedelta(days=n)} for n in (6, 0, 7, 3)])
    answer = await house.get(ANN, "/statistics")

    assert [str((today - timedelta(days=n)).date()) for n in (6, 3, 0)] == [row["day"] for row in answer["rows"]]
    assert 3 == answer["total"]["calls"]


async def test_a_year_is_counted_as_one(house: House) -> None:
    """A long span is counted in parts, which meet without gap or overlap and add up."""
    await house.calls([{"created_at": NOON + timedelta(days=n)} for n in range(-70, 70)])
    answer = await house.get(ANN, "/statistics", from_="2025-03-02", to="2026-03-02", groupBy="agent")
    days = await house.get(ANN, "/statistics", from_="2025-03-02", to="2026-03-02")

    assert [("ann", 71)] == [(row["userId"], row["calls"]) for row in answer["rows"]]
    assert (71, {1}) == (len(days["rows"]), {row["calls"] for row in days["rows"]})


async def test_statistics_of_a_span_that_makes_no_sense_are_refused(house: House) -> None:
    """Days in the wrong order, more than a year of them, and unknown groups are invalid fields."""
    queries: list[dict[str, Any]] = [
        {"from_": "2026-03-02", "to": "2026-03-01"},
        {"from_": "2025-01-01", "to": "2026-01-02"},
        {"from_": "2099-01-01"},
        {"from_": "2026-02-30"},
        {"groupBy": "hour"},
        {"groupBy": ["day", "agent", "team"]},
    ]
    for query in queries:
        assert "INVALID_FIELD" == (await house.get(ANN, "/statistics", expect=422, **query))["code"], query


async def test_statistics_reach_to_the_ends_of_the_calendar(house: House) -> None:
    """The first and the last day that can be written are days like others, without calls."""
    for day in ("0001-01-01", "9999-12-31"):
        total = (await house.get(ANN, "/statistics", to=day))["total"]

        assert (0, None, None) == (total["calls"], total["connectRate"], total["averageTalkSeconds"])


async def test_statistics_with_too_many_rows_are_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer has a bound, and the error says how to stay below it."""
    monkeypatch.setattr(counted, "MOST_ROWS", 3)
    await house.calls([{"created_at": NOON + timedelta(days=n)} for n in range(4)])
    span: dict[str, Any] = {"from_": "2026-03-01", "to": "2026-03-20"}

    assert "INVALID_FIELD" == (await house.get(ANN, "/statistics", expect=422, **span))["code"]
    assert 4 == (await house.get(ANN, "/statistics", groupBy="agent", **span))["total"]["calls"]


def test_an_answer_is_not_proven_by_an_assumption() -> None:
    """The grounds that prove nothing are those that rank lowest."""
    assert ["server", "assumed"] == counted._ASSUMED
