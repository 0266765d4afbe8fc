"""Calls as a CSV file: which rows, how cells are written, what the audit log keeps, and what is refused."""

import csv
import io
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.datastructures import Headers

from protocol.errors import DialdeskError
from protocol.identifiers import new_call_id
from server import export
from server.config import Config
from server.export import Export
from server.http import ANYONE, Endpoint, Http
from server.identity import Identity
from server.streams import Written
from server.telemetry import Metrics
from storage.database import Database
from storage.live import Live
from tests.server.serving import serving

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MARCH = {"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}


def person(reach: Any = "tenant", **more: Any) -> Identity:
    """A supervisor or an administrator; each has a rate of its own."""
    known = {"permissions": frozenset({"calls.export"}), **more}
    return Identity(kind="user", id=secrets.token_hex(4), user_id="boss", tenant_id="t1", reach=reach, **known)


class Archive:
    """The route, in front of a tenant's calls."""

    def __init__(self, database: Database, redis: Redis, config: Config) -> None:
        self.database = database
        self.who = person()
        http = Http(database, self._authenticate, Metrics(), body_limit=1 << 20, timeout=30)
        calls = Export(database, Live(redis, config.redis_prefix)).calls
        endpoints = [
            Endpoint("GET", "/export", calls, needs="calls.export"),
            Endpoint("GET", "/broken", _broken, needs=ANYONE),
        ]
        self.app = Starlette(routes=http.routes(endpoints))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://desk.test")

    async def _authenticate(self, _: Headers) -> Identity:
        return self.who

    async def calls(self, *calls: dict[str, Any]) -> list[str]:
        """Add calls that have ended, each a minute before the one before it, and return their ids."""
        rows: list[dict[str, Any]] = [
            {
                "id": new_call_id(),
                "tenant_id": "t1",
                "user_id": "ann",
                "team_id": "north",
                "created_by": "ann",
                "call_method": "mobile",
                "customer_phone": "+8613912345678",
                "status": "ended",
                "outcome": "connected",
                "created_at": NOON - timedelta(minutes=n),
                "ended_at": NOON,
                "duration": 60,
            }
            | call
            for n, call in enumerate(calls)
        ]
        async with self.database.transaction() as connection:
            for row in rows:
                numbers = ", ".join(f"${n}" for n in range(1, len(row) + 1))
                await connection.execute(f"INSERT INTO call ({', '.join(row)}) VALUES ({numbers})", *row.values())
        return [row["id"] for row in rows]

    async def ask(self, who: Identity | None = None, language: str = "en", **query: Any) -> httpx.Response:
        """Ask for a file; `from_` stands for `from`."""
        self.who = who or person()
        asked = MARCH | {name.rstrip("_"): value for name, value in query.items()}
        return await self.client.get("/export", params=asked, headers={"accept-language": language})

    async def rows(self, who: Identity | None = None, **query: Any) -> list[dict[str, str]]:
        """The rows of a file by their titles."""
        return read(await self.ask(who, **query))

    async def lines(self) -> list[dict[str, Any]]:
        """What the audit log keeps."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT actor_id, action, after FROM audit_log ORDER BY id")
        return [{**row, "after": msgspec.json.decode(row["after"])} for row in rows]


def read(answer: httpx.Response) -> list[dict[str, str]]:
    """The rows of a file by their titles."""
    assert 200 == answer.status_code, answer.text
    assert answer.content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))


@pytest.fixture
async def archive(database: Database, redis: Redis, config: Config) -> AsyncIterator[Archive]:
    """The route of this test."""
    async with database.connection() as connection:
        await connection.execute("""
            INSERT INTO tenant (id, code, name) VALUES ('t1', 't1', 'One');
            INSERT INTO team (id, tenant_id, name) VALUES ('north', 't1', 'North'), ('south', 't1', 'South');
            INSERT INTO app_user (id, tenant_id, team_id, role, username, name, password_hash)
                VALUES ('ann', 't1', 'north', 'agent', 'ann', 'Ann', '-'),
                    ('boss', 't1', NULL, 'supervisor', 'b', 'B', '-');
        """)
    archive = Archive(database, redis, config)
    async with archive.client:
        yield archive


async def test_a_call_is_a_row_that_people_can_read(archive: Archive) -> None:
    """Times are the tenant's, numbers masked unless they may be seen, causes said in the asker's language."""
    [call_id] = await archive.calls(
        {
            "hangup_cause": "USER_BUSY",
            "evidence": "call_log",
            "outcome": "busy",
            "duration": None,
            "customer_name": "张三",
            "follow_up_note": 'He said "no",\r\nand hung up',
        }
    )
    [row] = await archive.rows()
    [chinese] = await archive.rows(language="zh-CN")
    [revealed] = await archive.rows(person(permissions=frozenset({"calls.export", "customers.reveal"})))

    assert (call_id, "2026-03-02 20:00:00") == (row["Call"], row["Dialled (Asia/Shanghai)"])
    assert ("Ann", "North", "张三", "139****5678", "busy", "Busy", "") == tuple(
        row[title] for title in ("Agent", "Team", "Customer", "Number", "Outcome", "Cause", "Seconds of talk")
    )
    assert 'He said "no",\nand hung up' == row["Note"]
    assert ("占线", "用户忙", "工作手机") == (chinese["结果"], chinese["挂断原因"], chinese["方式"])
    assert ("call_log", "手机通话记录") == (row["Evidence"], chinese["依据"])
    assert "'+8613912345678" == revealed["Number"]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋"])
async def test_no_cell_is_a_formula(archive: Archive, begin: str) -> None:
    """A cell that a spreadsheet would compute begins with an apostrophe."""
    await archive.calls({"follow_up_note": f"{begin}HYPERLINK(1)", "customer_name": f"{begin}1"})
    [row] = await archive.rows()

    assert "''" == row["Note"][0] + row["Customer"][0]


async def test_a_file_holds_the_calls_that_are_listed(archive: Archive) -> None:
    """Filters and reach are those of the list, the newest first, over as many pieces as it takes."""
    ids = await archive.calls(*({"outcome": "busy" if n % 3 else "connected"} for n in range(450)))
    await archive.calls({"created_at": NOON + timedelta(days=60)})
    whole, busy = await archive.rows(), await archive.rows(outcome="busy")

    assert ids == [row["Call"] for row in whole]
    assert 300 == len(busy)
    assert [] == await archive.rows(person("teams", teams=("south",)))
    assert 450 == len(await archive.rows(person("teams", teams=("north",)), teamId="north"))


async def test_it_is_told_beforehand_how_much_comes(archive: Archive) -> None:
    """The number of rows and the name of the file are in the head; only rows end with CR LF."""
    await archive.calls({"follow_up_note": "one\r\ntwo"}, {})
    answer = await archive.ask()

    assert ("2", 3) == (answer.headers["x-row-count"], answer.content.count(b"\r\n"))
    assert "text/csv; charset=utf-8" == answer.headers["content-type"]
    assert answer.headers["content-disposition"].startswith('attachment; filename="calls-')


async def test_who_takes_calls_out_is_written_down(archive: Archive) -> None:
    """The audit log keeps who, which filters and how many rows, before the first byte, and no unmasked number."""
    await archive.calls({}, {})
    who = person()
    await archive.rows(who, customerPhone="13912345678", outcome="connected")
    [line] = await archive.lines()

    assert (who.id, "export", 2) == (line["actor_id"], line["action"], line["after"]["rows"])
    assert ("139****5678", ["connected"]) == (line["after"]["customer_phone"], line["after"]["outcomes"])


async def test_too_much_is_refused_and_not_begun(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """More calls than a file may have, or a longer span, is refused with what to do; nothing is written down."""
    monkeypatch.setattr(export, "MOST_ROWS", 2)
    await archive.calls({}, {}, {})
    many = await archive.ask()
    long = await archive.ask(from_="2024-03-02T00:00:00Z")
    none = await archive.client.get("/export")

    assert (422, "EXPORT_TOO_LARGE", 2) == (many.status_code, many.json()["code"], many.json()["details"]["limit"])
    assert ["INVALID_FIELD", "INVALID_FIELD"] == [answer.json()["code"] for answer in (long, none)]
    assert [] == await archive.lines()


async def test_files_are_not_begun_all_the_time(archive: Archive) -> None:
    """Who begins more than thirty within a minute is told when to come back; others go on."""
    who = person()
    codes = [(await archive.ask(who)).status_code for _ in range(31)]

    assert [200] * 30 + [429] == codes
    assert 200 == (await archive.ask()).status_code


async def test_a_file_goes_over_the_wire_in_pieces(archive: Archive, config: Config) -> None:
    """A real server tells a file without saying how long it is, and its end is an end; asked for its head, it sends
    no row."""
    await archive.calls(*({} for _ in range(250)))
    async with (
        serving(archive.app, config) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        answer = await client.get("/export", params=MARCH)
        head = await client.head("/export", params=MARCH)

    assert ("chunked", 250) == (answer.headers["transfer-encoding"], len(read(answer)))
    assert (200, b"", "250") == (head.status_code, head.content, head.headers["x-row-count"])


async def test_an_end_that_is_none_is_seen(archive: Archive, config: Config) -> None:
    """Where there is no more to read before the end, the connection is cut: nobody takes a part for the whole."""
    async with (
        serving(archive.app, config) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/broken")


async def _broken() -> Written:
    """A file that ends too soon."""
    return Written(pieces=_two_pieces(), media_type="text/csv", filename="broken.csv")


async def _two_pieces() -> AsyncIterator[bytes]:
    yield b"one\r\n"
    raise DialdeskError("UNAVAILABLE")
