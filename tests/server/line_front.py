"""A web node at whose back are lines of fake clouds, and the worker's chores, done when a test says so."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from redis.asyncio import Redis

from protocol.identifiers import new_id
from server.app import web_node
from server.calls import Calls
from server.config import Config, master_keys
from server.fetch import open_fetcher
from server.intake import Intake
from server.line_config import open_accounts
from server.reconciling import Reconciling
from server.relay import Relay
from server.retrieval import Retrieval
from server.stores import open_stores
from server.telemetry import Metrics
from server.tokens import AccessTokens, Claims
from server.webhooks import Reading
from storage import credentials
from storage.database import Database
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.clouds.cloud import WebhookRequestSpec
from tests.conftest import Office
from tests.waiting import until

CUSTOMER = "+8613912345678"
SEAT = {"seatId": "1001", "number": "+8613800138000"}
"""What any provider takes for an agent: an id, an extension or a cno, and a telephone."""


class Line:
    """A line, at which its agent has a seat; `callbacks` are its URLs by their kinds."""

    def __init__(self, line_id: str, provider: str, callbacks: Mapping[str, str]) -> None:
        self.id = line_id
        self.provider = provider
        self.callbacks = callbacks

    def path(self, kind: str = "") -> str:
        """Where the provider calls back."""
        return urlsplit(self.callbacks[kind or "all"]).path


class Front:
    """The API of one office, its agent and its admin; `reading` and `reconciling` are a worker's."""

    def __init__(
        self,
        database: Database,
        office: Office,
        client: httpx.AsyncClient,
        config: Config,
        reading: Reading,
        reconciling: Reconciling,
    ) -> None:
        self.database = database
        self.office = office
        self.client = client
        self.reading = reading
        self.reconciling = reconciling
        self._tokens = AccessTokens(config.secret_key, 3600)
        self.agent_id = ""
        self.admin: dict[str, str] = {}
        self.agent: dict[str, str] = {}

    async def person(self, role: str, office: Office | None = None) -> tuple[str, dict[str, str]]:
        """Somebody of the office who has signed in: (id, the headers of whatever is asked)."""
        user_id = await (office or self.office).agent(role)
        async with self.database.transaction() as connection:
            login_id = await credentials.open_login(connection, user_id, 3600)
        return user_id, {"authorization": f"Bearer {self._tokens.mint(Claims(user_id, login_id))}"}

    async def ask(self, method: str, path: str, json: Any = None, *, who: Mapping[str, str]) -> httpx.Response:
        """Send a request below /api/v1/calls."""
        return await self.client.request(method, f"/api/v1/calls{path}", json=json, headers=dict(who))

    async def line(self, provider: str, cloud: Any, settings: Mapping[str, Any] = {}, **fields: Any) -> Line:
        """Set up a line at a fake cloud, with a seat of the agent; `settings` are other than the cloud's own."""
        usual, given = cloud.line()
        form = {name: value for name, value in (usual | settings | given).items() if name != "callbackUrl"}
        body = {"name": new_id("line"), "providerType": provider, "providerConfig": form, "status": "active", **fields}
        made = await self.ask("POST", "/lines", body, who=self.admin)
        assert made.is_success, made.text
        line_id = made.json()["id"]
        seat = await self.ask("PUT", f"/lines/{line_id}/seats/{self.agent_id}", SEAT, who=self.admin)
        assert seat.is_success, seat.text
        shown = await self.ask("GET", f"/lines/{line_id}", who=self.admin)
        return Line(line_id, provider, shown.json()["config"]["callbackUrls"])

    async def dial(self, line: Line | None = None, **fields: Any) -> str:
        """Dial over a line; returns the call's id."""
        body = {"customerPhone": CUSTOMER, "callMethod": "cloud", "lineId": line and line.id, **fields}
        answer = await self.ask("POST", "/dial", body, who=self.agent)
        assert answer.is_success, answer.text
        call_id: str = answer.json()["callId"]
        return call_id

    async def placed(self, line: Line, state: str = "placed") -> str:
        """Dial, and wait until the provider's answer to the order, or that there was none, is kept."""
        call_id = await self.dial(line)
        await self.until_order(call_id, state)
        return call_id

    async def until_order(self, call_id: str, state: str) -> None:
        """Wait until an order stands so."""

        async def stands() -> bool:
            if state != (await self.attempt(call_id))["state"]:
                return False
            return state != "placed" or (await self.call(call_id))["dialing_at"] is not None

        await until(stands)

    async def send(self, line: Line, message: WebhookRequestSpec) -> None:
        """Be the provider, who calls back."""
        answer = await self.call_back(line.path(message.kind), message)
        assert 200 == answer.status_code, answer.text

    async def send_behind(self, line: Line, message: WebhookRequestSpec) -> None:
        """Be a provider that puts the kind of a message behind the one URL that it was given."""
        answer = await self.call_back(f"{line.path()}/{message.kind}".rstrip("/"), message)
        assert 200 == answer.status_code, answer.text

    async def call_back(self, path: str, message: WebhookRequestSpec) -> httpx.Response:
        """Be whoever calls this path."""
        return await self.client.request(
            message.method, path, params=dict(message.query), headers=dict(message.headers), content=message.body
        )

    async def play(self, line: Line, cloud: Any, call_id: str, story: Any, order: Any = "right") -> None:
        """Let a call go as the story says, and read what the provider told of it."""
        await cloud.play(call_id, story, send=lambda message: self.send(line, message), order=order)
        await self.read()

    async def read(self) -> None:
        """Let what was put off be due, and have a worker read."""
        await self.execute("UPDATE webhook_inbox SET next_at = now() WHERE state = 'new'")
        await self.reading.read()
        await self.reading.ask()

    async def look_up(self) -> None:
        """Let every look-up that is planned be due, and have a worker ask."""
        await self.execute("UPDATE attempt SET next_look_at = now() WHERE next_look_at IS NOT NULL")
        await self.reconciling.look_up()

    async def call(self, call_id: str) -> dict[str, Any]:
        """A call."""
        return await self.row("SELECT * FROM call WHERE id = $1", call_id)

    async def attempt(self, call_id: str) -> dict[str, Any]:
        """The latest attempt of a call."""
        return await self.row("SELECT * FROM attempt WHERE call_id = $1 ORDER BY n DESC LIMIT 1", call_id)

    async def inbox(self) -> list[tuple[str, int, str | None]]:
        """What became of each message: (state, readings, problem)."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT state, tries, problem FROM webhook_inbox ORDER BY id")
        return [(row["state"], row["tries"], row["problem"]) for row in rows]

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        number: int = (await self.row(f"SELECT count(*) AS n FROM {table}"))["n"]
        return number

    async def row(self, statement: str, *arguments: Any) -> dict[str, Any]:
        """The one row that is found."""
        async with self.database.connection() as connection:
            row = await connection.fetchrow(statement, *arguments)
        assert row is not None
        return dict(row)

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Change rows."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *arguments)


@asynccontextmanager
async def line_front(database: Database, office: Office, redis: Redis, config: Config) -> AsyncIterator[Front]:
    """Open a node and what a worker does, in a tenant where lines may call now."""
    metrics = Metrics()
    vault = Vault(master_keys(config))
    keys = TenantKeys(vault)
    relay = Relay(redis, config.redis_prefix, lambda: "worker", metrics, canary_every=1, deaf_after=5)
    async with (
        web_node(config) as node,
        open_accounts(config, keys) as accounts,
        open_stores(config, database, keys) as stores,
        open_fetcher(config) as fetcher,
        httpx.AsyncClient(transport=httpx.ASGITransport(node.app), base_url="http://desk.test") as client,
    ):
        calls = Calls(database, relay, metrics, config)
        retrieval = Retrieval(database, vault, fetcher, Intake(database, stores, relay, metrics, config), lease=60.0)
        reading = Reading(database, accounts, calls, retrieval, metrics)
        reconciling = Reconciling(database, accounts, calls, reading, metrics)
        front = Front(database, office, client, config, reading, reconciling)
        noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
        await front.execute("UPDATE tenant SET timezone = $2 WHERE id = $1", office.tenant_id, noon)
        _, front.admin = await front.person("tenant_admin")
        front.agent_id, front.agent = await front.person("agent")
        yield front
