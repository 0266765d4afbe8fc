"""Customers over HTTP: kept one by one or by a CSV file, found, masked and forgotten."""

import asyncio
import csv
import io
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Headers

from protocol.errors import DialdeskError
from server import customers as served
from server.customers import COLUMNS, IMPORT_BOUND, Customers, read_file
from server.http import Endpoint, Http
from server.identity import Identity
from server.telemetry import Metrics
from storage import customers as stored
from storage.database import Database

READ = frozenset({"customers.read"})
WRITE = READ | {"customers.write"}
ROUTES = [
    ("POST", "/api/v1/customers"),
    ("GET", "/api/v1/customers"),
    ("POST", "/api/v1/customers/import"),
    ("GET", "/api/v1/customers/{customer_id}"),
    ("PUT", "/api/v1/customers/{customer_id}"),
    ("DELETE", "/api/v1/customers/{customer_id}"),
]


def person(tenant_id: str, permissions: frozenset[str], user_id: str = "ann") -> Identity:
    """A signed-in user."""
    return Identity(
        kind="user", id=user_id, user_id=user_id, tenant_id=tenant_id, reach="tenant", permissions=permissions
    )


AGENT = person("t1", READ)
CRM = Identity(kind="api_key", id="key", tenant_id="t1", reach="tenant", permissions=WRITE)
ADMIN = person("t1", WRITE | {"customers.reveal"}, "admin")
STRANGER = person("t2", WRITE | {"customers.reveal"}, "eve")


class Shop:
    """Two tenants, and the API in front of their customers."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: dict[str, Identity] = {}
        customers = Customers(database)
        http = Http(database, self._authenticate, Metrics(), body_limit=1 << 20, timeout=30)
        path = "/api/v1/customers"
        endpoints = [
            Endpoint("POST", path, customers.create, needs="customers.write"),
            Endpoint("GET", path, customers.search, needs="customers.read"),
            Endpoint("POST", f"{path}/import", customers.import_file, needs="customers.write", body_limit=IMPORT_BOUND),
            Endpoint("GET", f"{path}/{{customer_id}}", customers.get, needs="customers.read"),
            Endpoint("PUT", f"{path}/{{customer_id}}", customers.save, needs="customers.write"),
            Endpoint("DELETE", f"{path}/{{customer_id}}", customers.delete, needs="customers.write"),
        ]
        app = Starlette(routes=http.routes(endpoints))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk.test")

    async def _authenticate(self, headers: Headers) -> Identity:
        known = self._known.get(headers.get("authorization", ""))
        if known is None:
            raise DialdeskError("UNAUTHENTICATED")
        return known

    async def ask(self, who: Identity, method: str, path: str = "", *, expect: int = 200, **more: Any) -> Any:
        """Send a request below /api/v1/customers as somebody; return the JSON answer, which must have this status."""
        token = secrets.token_hex(4)
        self._known[token] = who
        headers = {"authorization": token, **more.pop("headers", {})}
        response = await self.client.request(method, f"/api/v1/customers{path}", headers=headers, **more)

        assert expect == response.status_code, response.text
        return response.json()

    async def add(self, who: Identity = CRM, **told: Any) -> Any:
        """Make a customer, and return it."""
        body = {"name": "张三", "phone": "13912345678", **told}
        return (await self.ask(who, "POST", json=body))["customer"]

    async def find(self, who: Identity = CRM, **query: Any) -> set[str]:
        """The names of the customers that a search shows on its first page."""
        return {customer["name"] for customer in (await self.ask(who, "GET", params=query))["customers"]}

    async def load(self, content: bytes, *, who: Identity = CRM, expect: int = 200, **more: Any) -> Any:
        """Import a file, and return the report."""
        return await self.ask(who, "POST", "/import", expect=expect, content=content, **more)


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Shop]:
    """The shop of this test."""
    async with database.connection() as connection:
        await connection.execute("INSERT INTO tenant (id, code, name) VALUES ('t1', 't1', 'One'), ('t2', 't2', 'Two')")
    shop = Shop(database)
    async with shop.client:
        yield shop


def sheet(*rows: Sequence[str], header: Sequence[str] = COLUMNS, encoding: str = "utf-8") -> bytes:
    """A CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode(encoding)


# --- one by one -----------------------------------------------------------------------------------------------------


async def test_a_customer_is_found_by_our_id_and_by_the_crms(shop: Shop) -> None:
    """What was told is kept, the number in its normal form, and read by either id."""
    made = await shop.add(
        ADMIN, externalId="c-1", name=" 张三 ", phone="139 1234 5678", tags=["VIP", "VIP", "新"], orderIds=["o-1"]
    )
    by_ours, by_theirs = [(await shop.ask(ADMIN, "GET", f"/{one}"))["customer"] for one in (made["id"], "c-1")]

    assert made == by_ours == by_theirs
    assert ("c-1", "张三", "+8613912345678", ["VIP", "新"], ["o-1"]) == tuple(
        made[name] for name in ("externalId", "name", "phone", "tags", "orderIds")
    )


async def test_numbers_are_masked_unless_the_role_may_see_them(shop: Shop) -> None:
    """The number shows three and four digits in every answer, and all of them to who holds customers.reveal."""
    made = await shop.add(CRM, externalId="c-1")
    told = {"name": "张三", "phone": "13912345678"}
    for who, shown in ((CRM, "139****5678"), (ADMIN, "+8613912345678")):
        assert shown == (await shop.ask(who, "GET", f"/{made['id']}"))["customer"]["phone"]
        assert shown == (await shop.ask(who, "GET"))["customers"][0]["phone"]
        assert shown == (await shop.ask(who, "PUT", "/c-1", json=told))["customer"]["phone"]
    assert "139****5678" == made["phone"]


async def test_a_customer_is_made_once_for_a_key(shop: Shop) -> None:
    """The same Idempotency-Key gets the same answer and makes no second customer."""
    answers = [
        await shop.ask(CRM, "POST", json={"name": "A", "phone": "13912345678"}, headers={"idempotency-key": "k1"})
        for _ in range(2)
    ]

    assert answers[0] == answers[1]
    assert 1 == len((await shop.ask(CRM, "GET"))["customers"])


async def test_an_external_id_names_one_customer_of_a_tenant(shop: Shop) -> None:
    """A second customer with the same external id is refused, but not another tenant's."""
    await shop.add(externalId="c-1")
    body = {"name": "B", "phone": "13912345678", "externalId": "c-1"}

    assert "ALREADY_EXISTS" == (await shop.ask(CRM, "POST", json=body, expect=409))["code"]
    assert "c-1" == (await shop.ask(STRANGER, "POST", json=body))["customer"]["externalId"]


async def test_saving_makes_the_customer_or_replaces_it(shop: Shop) -> None:
    """PUT by the CRM's id makes what is not known and replaces all that is, under the same id of ours."""
    first = await shop.ask(CRM, "PUT", "/c-1", json={"name": "A", "phone": "13912345678", "tags": ["VIP"]})
    second = await shop.ask(CRM, "PUT", "/c-1", json={"name": "B", "phone": "13700000001"})
    third = await shop.ask(ADMIN, "PUT", f"/{first['customer']['id']}", json={"name": "C", "phone": "13700000002"})

    assert [True, False, False] == [answer["created"] for answer in (first, second, third)]
    assert 1 == len({answer["customer"]["id"] for answer in (first, second, third)})
    assert ("B", []) == (second["customer"]["name"], second["customer"]["tags"])
    assert ("C", "+8613700000002", "c-1") == tuple(third["customer"][name] for name in ("name", "phone", "externalId"))


async def test_a_number_that_is_left_out_stays(shop: Shop) -> None:
    """Who sees the number masked can change the rest; a customer that is not known needs one."""
    await shop.add(externalId="c-1", phone="13912345678")
    await shop.ask(CRM, "PUT", "/c-1", json={"name": "B"})
    await shop.ask(CRM, "PUT", "/c-1", json={"name": "C", "phone": "139****5678"}, expect=422)
    await shop.ask(CRM, "PUT", "/c-2", json={"name": "B"}, expect=404)
    kept = (await shop.ask(ADMIN, "GET", "/c-1"))["customer"]

    assert ("B", "+8613912345678") == (kept["name"], kept["phone"])


async def test_what_is_no_customer_is_refused(shop: Shop) -> None:
    """Fields of the wrong size or form are invalid, numbers that nobody could dial too."""
    ours = "cust_" + "0" * 26
    bodies: list[tuple[dict[str, Any], str]] = [
        ({"name": ""}, "INVALID_FIELD"),
        ({"name": " "}, "INVALID_FIELD"),
        ({"name": "x" * 129}, "INVALID_FIELD"),
        ({"name": "a\0b"}, "INVALID_FIELD"),
        ({"phone": "12"}, "INVALID_PHONE"),
        ({"phone": "110"}, "INVALID_PHONE"),
        ({"tags": [""]}, "INVALID_FIELD"),
        ({"tags": ["x"] * 51}, "INVALID_FIELD"),
        ({"orderIds": ["x" * 129]}, "INVALID_FIELD"),
        ({"externalId": ""}, "INVALID_FIELD"),
        ({"externalId": ours}, "INVALID_FIELD"),
        ({"vip": True}, "INVALID_FIELD"),
    ]
    for body, code in bodies:
        told = {"name": "A", "phone": "13912345678", **body}
        assert code == (await shop.ask(CRM, "POST", json=told, expect=422))["code"], body
    told = {"name": "A", "phone": "13912345678"}
    await shop.ask(CRM, "PUT", f"/{ours}", json=told, expect=404)
    await shop.ask(CRM, "PUT", f"/{'x' * 129}", json=told, expect=422)
    await shop.ask(CRM, "GET", "/%00", expect=422)

    assert set() == await shop.find()


async def test_a_forgotten_customer_is_gone_and_the_log_says_who_did_it(shop: Shop) -> None:
    """DELETE forgets by either id, once, and leaves a line in the audit log without name or number."""
    made = await shop.add(externalId="c-1")
    await shop.ask(CRM, "DELETE", "/c-1")
    await shop.ask(CRM, "DELETE", "/c-1", expect=404)
    async with shop.database.connection() as connection:
        lines = await connection.fetch("SELECT tenant_id, actor_id, action, resource_id, before FROM audit_log")

    assert set() == await shop.find()
    assert [("t1", "key", "customer.delete", made["id"], '{"externalId": "c-1"}')] == [tuple(line) for line in lines]


async def test_another_tenants_customer_does_not_exist(shop: Shop) -> None:
    """A stranger can neither find, read, change nor forget a customer, and may use the same external id."""
    made = await shop.add(externalId="c-1")
    before = await shop.ask(ADMIN, "GET", "/c-1")
    for customer_id in (made["id"], "c-1"):
        await shop.ask(STRANGER, "GET", f"/{customer_id}", expect=404)
        await shop.ask(STRANGER, "DELETE", f"/{customer_id}", expect=404)
        await shop.ask(STRANGER, "PUT", f"/{customer_id}", json={"name": "mine"}, expect=404)
    for query in ({}, {"q": "张"}, {"q": "13912345678"}, {"q": "c-1"}):
        assert set() == await shop.find(STRANGER, **query)
    await shop.ask(STRANGER, "PUT", "/c-1", json={"name": "mine", "phone": "13700000001"})
    await shop.load(sheet(["c-1", "mine", "13700000002", "", ""]), who=STRANGER)

    assert before == await shop.ask(ADMIN, "GET", "/c-1")


async def test_every_route_needs_its_permission(shop: Shop) -> None:
    """Reading needs customers.read, anything else customers.write."""
    made = await shop.add()
    for method, path in ROUTES:
        suffix = path.removeprefix("/api/v1/customers").format(customer_id=made["id"])
        for who in (person("t1", frozenset()), AGENT):
            allowed = method == "GET" and who is AGENT
            await shop.ask(who, method, suffix, expect=200 if allowed else 403)


# --- found ----------------------------------------------------------------------------------------------------------


async def test_customers_are_found_by_what_is_known_of_them(shop: Shop) -> None:
    """The search takes part of a name, a number however written, an external id, a tag or an order."""
    await shop.add(name="北京某某科技", phone="13700000001", externalId="C-100", tags=["VIP"], orderIds=["o-1", "o-2"])
    await shop.add(name="Some_One 100%", phone="13700000002", tags=["VIP", "new"])
    await shop.add(name="someXone", phone="13700000003")
    searches: list[tuple[dict[str, str], set[str]]] = [
        ({"q": "科技"}, {"北京某某科技"}),
        ({"q": "SOME"}, {"Some_One 100%", "someXone"}),
        ({"q": "some_"}, {"Some_One 100%"}),
        ({"q": "0%"}, {"Some_One 100%"}),
        ({"q": "\\"}, set()),
        ({"q": "+86 137-0000-0003"}, {"someXone"}),
        ({"q": "1370000"}, set()),
        ({"q": "C-100"}, {"北京某某科技"}),
        ({"q": "  "}, {"北京某某科技", "Some_One 100%", "someXone"}),
        ({"tag": "VIP"}, {"北京某某科技", "Some_One 100%"}),
        ({"tag": "VIP", "q": "one"}, {"Some_One 100%"}),
        ({"orderId": "o-2"}, {"北京某某科技"}),
    ]
    for query, expected in searches:
        assert expected == await shop.find(AGENT, **query), query


async def test_an_external_id_that_looks_like_a_number_is_found_too(shop: Shop) -> None:
    """A CRM may number its customers with eleven digits."""
    await shop.add(name="A", phone="13700000001", externalId="13800000001")
    await shop.add(name="B", phone="13800000001")

    assert {"A", "B"} == await shop.find(q="13800000001")


async def test_a_walk_sees_each_customer_once_while_customers_are_made(shop: Shop) -> None:
    """Following nextCursor shows every customer that was there at the start, the newest first, each once."""
    made = [(await shop.add())["id"] for _ in range(7)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = await shop.ask(AGENT, "GET", params=query)
        seen += [customer["id"] for customer in page["customers"]]
        await shop.add()
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]

    assert sorted(made, reverse=True) == seen


async def test_a_search_that_cannot_be_meant_is_refused(shop: Shop) -> None:
    """Values out of range, misspelt names and cursors that were made up are invalid fields."""
    for query in ({"limit": 0}, {"limit": 101}, {"cursor": "x"}, {"query": "x"}, {"q": "\0"}, {"q": "x" * 129}):
        assert "INVALID_FIELD" == (await shop.ask(AGENT, "GET", params=query, expect=422))["code"], query


# --- CSV files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
async def test_a_file_makes_and_replaces_customers(shop: Shop, encoding: str) -> None:
    """Files as CRMs and Excel write them are taken, and the report counts what became of the rows."""
    await shop.add(name="张三", phone="13700000001", externalId="c-1", tags=["VIP"])
    await shop.add(name="老名字", phone="13700000002", externalId="c-2")
    report = await shop.load(
        sheet(
            ["c-1", "张三", "137 0000 0001", "VIP", ""],
            ["c-2", "李四", "13700000002", "VIP；新客户; ", "o-1;o-2"],
            ["c-3", "王五", "13700000003", "", ""],
            encoding=encoding,
        )
    )
    changed = (await shop.ask(ADMIN, "GET", "/c-2"))["customer"]

    assert {"rows": 3, "created": 1, "updated": 1, "unchanged": 1, "failed": 0, "repeated": 0, "errors": []} == {
        name: report[name] for name in ("rows", "created", "updated", "unchanged", "failed", "repeated", "errors")
    }
    assert ("李四", ["VIP", "新客户"], ["o-1", "o-2"]) == tuple(changed[name] for name in ("name", "tags", "orderIds"))
    assert {"张三", "李四", "王五"} == await shop.find()


async def test_bad_rows_are_named_and_the_good_ones_kept(shop: Shop) -> None:
    """The report says for each row that is not taken which line it is and why, in the asker's language."""
    file = sheet(
        ["c-1", "A", "12", "", ""],
        [],
        ["", "B", "13700000001", "", ""],
        ["c-2", "", "13700000001", "", ""],
        ["c-3", "two\nlines", "13700000001", "", ""],
        ["c-4", "D", "13700000001", "", "", "more"],
        ["c-5", "E", "13700000001"],
        ["c-6", "F", "1.37E+10", "", ""],
    )
    report = await shop.load(file, headers={"accept-language": "en"})

    assert [
        (2, "INVALID_PHONE"),
        (4, "INVALID_FIELD"),
        (5, "INVALID_FIELD"),
        (8, "INVALID_FIELD"),
        (10, "INVALID_PHONE"),
    ] == [(problem["line"], problem["code"]) for problem in report["errors"]]
    assert "The phone number is not valid; check it and dial again" == report["errors"][0]["message"]
    assert (7, 2, 5) == (report["rows"], report["created"], report["failed"])
    assert {"two\nlines", "E"} == await shop.find()


async def test_of_repeated_rows_the_last_good_one_counts(shop: Shop) -> None:
    """An external id that comes again is reported on the line that does not count."""
    file = sheet(
        ["c-1", "first", "13700000001", "", ""],
        ["c-1", "second", "13700000001", "", ""],
        ["c-1", "bad", "12", "", ""],
        ["c-1", "third", "13700000001", "", ""],
    )
    report = await shop.load(file)

    assert [(2, "REPEATED"), (3, "REPEATED"), (4, "INVALID_PHONE")] == [
        (problem["line"], problem["code"]) for problem in report["errors"]
    ]
    assert (4, 1, 1, 2) == tuple(report[name] for name in ("rows", "created", "failed", "repeated"))
    assert {"third"} == await shop.find()


async def test_a_dry_run_tells_what_would_be_and_keeps_nothing(shop: Shop) -> None:
    """With dryRun the report is the one the import will give, and nothing is kept, not even the key."""
    await shop.add(name="A", phone="13700000001", externalId="c-1")
    file = sheet(["c-1", "B", "13700000001", "", ""], ["c-2", "C", "13700000002", "", ""], ["c-3", "D", "12", "", ""])
    key = {"idempotency-key": "k1"}
    rehearsed = await shop.load(file, params={"dryRun": "true"}, headers=key)
    between = await shop.find()
    done = await shop.load(file, headers=key)
    again = await shop.load(file, headers=key)

    assert {"A"} == between
    assert {**rehearsed, "dryRun": False} == done == again
    assert {"B", "C"} == await shop.find()


async def test_an_import_leaves_a_line_in_the_audit_log(shop: Shop) -> None:
    """Who imported how much is known later; a dry run leaves none."""
    file = sheet(["c-1", "B", "13700000001", "", ""])
    await shop.load(file, params={"dryRun": "true"})
    await shop.load(file)
    async with shop.database.connection() as connection:
        lines = await connection.fetch("SELECT tenant_id, actor_id, action, after FROM audit_log")

    assert [("t1", "key", "customer.import", '{"failed": 0, "created": 1, "updated": 0}')] == [
        tuple(line) for line in lines
    ]


async def test_a_file_that_is_none_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without the header, in another encoding, with open quotes, too long or too large change nothing."""
    row = ["c-1", "B", "13700000001", "", ""]
    for content in (
        b"",
        b"\0\0\0",
        sheet(row, header=["external_id", "name", "phone", "tags", "order_ids", "vip"]),
        sheet(row, header=["external_id", "name", "phone", "tags"]),
        sheet(row, header=["external_id", "name", "phone", "tags", "tags"]),
        sheet(row, encoding="utf-16"),
        sheet(row) + b'c-2,"open',
    ):
        assert "INVALID_FIELD" == (await shop.load(content, expect=422))["code"], content
    await shop.load(b"x" * (IMPORT_BOUND + 1), expect=413)
    monkeypatch.setattr(served, "MOST_ROWS", 2)
    await shop.load(sheet(row, row, row), expect=422)

    assert set() == await shop.find()


async def test_columns_may_stand_in_any_order(shop: Shop) -> None:
    """The header says which column is which."""
    await shop.load(
        sheet(["o-1", "13700000001", "B", "VIP", "c-1"], header=["order_ids", "phone", "Name", " TAGS ", "external_id"])
    )

    assert {"B"} == await shop.find(q="c-1", tag="VIP", orderId="o-1")


async def test_imports_at_the_same_time_wait_for_one_another(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with the same customers in different orders are applied one after the other, never half and half."""
    monkeypatch.setattr(stored, "AT_ONCE", 7)
    rows = [[f"c-{n}", "name", "13700000001", "", ""] for n in range(50)]
    files = [
        sheet(*([one, f"file {which}", *rest] for one, _, *rest in rows[:: -1 if which % 2 else 1]))
        for which in range(4)
    ]
    reports = await asyncio.gather(*(shop.load(file) for file in files))

    assert 50 == sum(report["created"] for report in reports)
    assert 1 == len(await shop.find(limit=100))


async def test_a_report_names_a_thousand_rows_and_counts_them_all(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of bad rows has a bound; the first are told."""
    monkeypatch.setattr(served, "MOST_PROBLEMS", 3)
    report = await shop.load(sheet(*([f"c-{n}", "B", "12", "", ""] for n in range(5))))

    assert ([2, 3, 4], 5) == ([problem["line"] for problem in report["errors"]], report["failed"])


_cell = st.text(st.characters(codec="utf-8", exclude_characters="\0;；"), min_size=1, max_size=12).map(str.strip)
_words = st.lists(_cell.filter(bool), max_size=3, unique=True)


@given(
    st.lists(
        st.tuples(_cell.filter(bool), _cell.filter(bool), _words, _words), max_size=5, unique_by=lambda row: row[0]
    ),
    st.sampled_from(["utf-8-sig", "gb18030"]),
)
async def test_a_file_says_what_was_written_to_it(rows: list[Any], encoding: str) -> None:
    """Whatever stands in the cells, quotes, commas and line breaks too, it is read as it was written."""
    written = sheet(
        *([one, name, "13700000001", ";".join(tags), " ; ".join(orders)] for one, name, tags, orders in rows),
        encoding=encoding,
    )
    file = await read_file(written, "CN", "en")

    assert (len(rows), []) == (file.rows, file.problems)
    assert rows == [(known.external_id, known.name, list(known.tags), list(known.order_ids)) for known in file.good]
