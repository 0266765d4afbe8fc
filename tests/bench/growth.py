"""What a dial and a list cost as calls pile up: the same company, the same day, and ever more records behind it.

Every size has a database of its own (`history.py`) and a house of its own on it. One dial or reading is for one size,
the next for the next: what the machine does meanwhile falls on all of them.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import aiohttp
import asyncpg
import click
import msgspec

from server.tokens import AccessTokens, Claims
from storage.embedded import running
from tests.bench.ground import USUAL_TIMES, load, percentile
from tests.bench.history import AGENTS, LARGE, SQL, grown, phone_of
from tests.bench.pairs import End
from tests.bench.processes import ProcessError
from tests.bench.results import Grown, Results
from tests.bench.rigs import temporary
from tests.bench.steady import Desk, Steady
from tests.journeys.house import House

DESKS = range(100, 108)
"""The agents who dial, on one node, each with a phone on the other."""

RATE = 10
"""Dials a second over all of them: nobody waits for anybody."""

DEEP = 20
"""Places in the middle of the list from where pages are read."""

WARM_UP = 10

Where = Callable[[random.Random, list[str]], str]


class Listing(msgspec.Struct, frozen=True):
    """Something that desks and consoles read: as whom, and where, for each reading anew."""

    user: str
    path: Where


def _calls(**fields: Callable[[random.Random], str]) -> Where:
    return lambda chance, _: "/api/v1/calls?" + urlencode({name: value(chance) for name, value in fields.items()})


def _always(path: str) -> Where:
    return lambda _, __: path


def _long_ago(chance: random.Random) -> datetime:
    return datetime.now(UTC) - timedelta(days=chance.uniform(30, 700))


def _week(chance: random.Random, _: list[str]) -> str:
    begin = _long_ago(chance)
    days = {"from": begin.isoformat(), "to": (begin + timedelta(days=7)).isoformat()}
    return "/api/v1/calls?" + urlencode(days)


def _customer(chance: random.Random) -> int:
    """One whom every size has, and of the large tenant."""
    return 10 * chance.randrange(190) + chance.randrange(6)


def _today() -> str:
    return datetime.now(ZoneInfo("Asia/Shanghai")).date().isoformat()


LISTINGS: dict[str, Listing] = {
    "newest": Listing("admin", _always("/api/v1/calls")),
    "a page deep in the list": Listing(
        "admin", lambda chance, cursors: f"/api/v1/calls?cursor={chance.choice(cursors)}"
    ),
    "one agent's": Listing("admin", _calls(userId=lambda chance: f"user_0_{chance.randrange(AGENTS)}")),
    "one number's": Listing("admin", _calls(customerPhone=lambda chance: f"139{_customer(chance):08}")),
    "one customer's": Listing("admin", _calls(customerId=lambda chance: f"cust_{_customer(chance)}")),
    "one order's": Listing("admin", _calls(orderId=lambda chance: f"order-{3 * chance.randrange(3000)}")),
    "one phone's": Listing("admin", _calls(deviceId=lambda chance: f"dev_0_{chance.randrange(AGENTS)}")),
    "of a week": Listing("admin", _week),
    "of one outcome": Listing("admin", _calls(outcome=lambda _: "busy")),
    "of a rare outcome": Listing("admin", _calls(outcome=lambda _: "unknown")),
    "of one team": Listing("admin", _calls(teamId=lambda chance: f"team_0_{chance.randrange(10)}")),
    "an agent's own": Listing("user_0_7", _always("/api/v1/calls")),
    "of three teams": Listing("supervisor", _always("/api/v1/calls")),
    "changes of a minute": Listing(
        "admin", _calls(updatedSince=lambda _: (datetime.now(UTC) - timedelta(minutes=1)).isoformat())
    ),
    "follow-ups due": Listing("admin", _always("/api/v1/calls/follow-ups")),
    "an agent's due": Listing("user_0_7", _always("/api/v1/calls/follow-ups")),
    "not recorded": Listing("admin", _always("/api/v1/calls/unrecorded")),
    "an agent's not recorded": Listing("user_0_7", _always("/api/v1/calls/unrecorded")),
    "the board": Listing("admin", _always("/api/v1/calls/board")),
    "statistics of a day": Listing("admin", lambda _, __: f"/api/v1/calls/statistics?from={_today()}&to={_today()}"),
    "customers": Listing("admin", _always("/api/v1/customers")),
}
"""What is read, by how the table calls it."""


async def measure_growth(
    sizes: Sequence[int], turns: int, seconds: int, readings: int, place: Path, *, data: Path | None
) -> None:
    """Measure dials and lists at each size, in turns. What was made in `data` by an earlier run is used again."""
    results = Results(place, pinned=False)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(running(data or temporary(stack) / "data", s3=False))
        urls = {records: await grown(servers.database_url, records) for records in sizes}
        companies = [await Company.open(stack, records, url, servers.redis_url) for records, url in urls.items()]
        for turn in range(turns):
            for grown_ in (*await _dial(companies, turn, seconds), *await _read(companies, turn, readings)):
                results.add(grown_)
                click.echo(
                    f"{grown_.records:>10,} records, {grown_.what:27} {grown_.count:5} times:"
                    f" p50 {grown_.p50:7.2f} ms, p99 {grown_.p99:7.2f} ms; {load()}"
                )


async def _dial(companies: Sequence["Company"], turn: int, seconds: float) -> list[Grown]:
    """Dial at a low and steady rate, in each company in turn."""
    desks = [desk for together in zip(*(company.desks for company in companies), strict=True) for desk in together]
    await Steady(desks, RATE).run(len(desks) / RATE)
    steady = Steady(desks, RATE)
    await steady.run(seconds * len(companies))
    if steady.failed:
        raise ProcessError(f"{steady.failed} calls failed")
    told = []
    for company in companies:
        made = [call for call in steady.calls if call.desk in company.desks]
        told.append(_grown(company, "dial until the phone has it", turn, [call.commanded for call in made]))
        told.append(_grown(company, "a call until its end is told", turn, [call.ended for call in made]))
    return told


async def _read(companies: Sequence["Company"], turn: int, readings: int) -> list[Grown]:
    """Read every list so many times, one after the other, and each time in all companies."""
    told = []
    for what, listing in LISTINGS.items():
        took: dict[Company, list[float]] = {company: [] for company in companies}
        for number in range(WARM_UP + readings):
            for company in companies:
                took[company].append(await company.read(listing, random.Random(f"{turn} {what} {number}")))
        told += [_grown(company, what, turn, times[WARM_UP:]) for company, times in took.items()]
    return told


def _grown(company: "Company", what: str, turn: int, took: list[float]) -> Grown:
    p50, p99 = percentile(took, 50), percentile(took, 99)
    return Grown(records=company.records, what=what, turn=turn, count=len(took), p50=p50, p99=p99)


class Company:
    """An installation with a history: two nodes and a worker, desks that dial, and people who read."""

    def __init__(
        self, records: int, origin: str, desks: Sequence[Desk], http: aiohttp.ClientSession, tokens: dict[str, str]
    ) -> None:
        self.records = records
        self._origin = origin
        self.desks = desks
        self._http = http
        self._tokens = tokens
        self._cursors: list[str] = []

    @classmethod
    async def open(cls, stack: AsyncExitStack, records: int, database_url: str, redis_url: str) -> "Company":
        """Start it on its database."""
        connection = await asyncpg.connect(database_url, timeout=10)
        try:
            users = [*{listing.user for listing in LISTINGS.values()}, *(f"user_0_{number}" for number in DESKS)]
            await connection.execute(SQL["sign_in"], users)
            await connection.execute("DELETE FROM tenant WHERE code = 'house'")  # of an earlier run
        finally:
            await connection.close()
        house = House(database_url, redis_url, stack)
        await house.open()
        house.tenant_id = LARGE
        mint = AccessTokens(house.config().secret_key, 24 * 3600).mint
        tokens = {user: f"Bearer {mint(Claims(user, f'login_{user}'))}" for user in users}
        phones_node, pages = await house.node(**USUAL_TIMES), await house.node(**USUAL_TIMES)
        await house.worker(**USUAL_TIMES)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        desks = [
            await Desk.open(
                http,
                pages.origin,
                End(f"ws://127.0.0.1:{pages.port}/ws/agent", "agent", {"Authorization": tokens[f"user_0_{number}"]}),
                End(f"ws://127.0.0.1:{phones_node.port}/ws/phone", "phone", phone_of(f"user_0_{number}")),
            )
            for number in DESKS
        ]
        company = cls(records, pages.origin, desks, http, tokens)
        await company._look_deep()
        return company

    async def read(self, listing: Listing, chance: random.Random) -> float:
        """Read a list once: how many milliseconds it took."""
        path = listing.path(chance, self._cursors)
        begin = time.perf_counter()
        await self._get(listing.user, path)
        return (time.perf_counter() - begin) * 1000

    async def _look_deep(self) -> None:
        chance = random.Random(0)
        for _ in range(DEEP):
            to = urlencode({"to": _long_ago(chance).isoformat()})
            page = msgspec.json.decode(await self._get("admin", f"/api/v1/calls?{to}"))
            self._cursors.append(page["nextCursor"])

    async def _get(self, user: str, path: str) -> bytes:
        async with self._http.get(self._origin + path, headers={"Authorization": self._tokens[user]}) as answer:
            body = await answer.read()
        if answer.status != 200:
            raise ProcessError(f"{path}: {body.decode()}")
        return body
