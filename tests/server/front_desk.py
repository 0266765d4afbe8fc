"""The endpoints of sign-in and administration, with those who come to them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from argon2 import PasswordHasher
from redis.asyncio import Redis
from starlette.applications import Starlette

from protocol.identifiers import new_id
from server.admin import Admin
from server.api_keys import ApiKeys
from server.auth import Auth
from server.calls import Calls
from server.config import Config, master_keys
from server.devices import Devices
from server.http import ANYONE, SIGNED_IN, Endpoint, Http
from server.passwords import Passwords
from server.relay import CloseAgent, ClosePhone, Relay, ToAgent, ToPhone
from server.telemetry import Metrics
from server.tokens import digest, new_token
from server.users import Users
from storage import accounts, nodes
from storage.audit import Actor
from storage.database import Database
from storage.live import Live
from storage.vault import Vault

HASHER = PasswordHasher(time_cost=1, memory_cost=16, parallelism=1)
PASSWORD = "correct horse"
PASSWORD_HASH = HASHER.hash(PASSWORD)
SYSTEM = Actor(kind="system", id="test", tenant_id=None)
HERE = "this-node"


class Sockets:
    """Stands where a node's sessions are, and keeps what reaches them."""

    def __init__(self) -> None:
        self.received: list[ToPhone | ToAgent | ClosePhone | CloseAgent] = []

    def receive(self, carried: ToPhone | ToAgent | ClosePhone | CloseAgent) -> None:
        """Keep it."""
        self.received.append(carried)

    def closed_pages(self) -> list[tuple[str, int, str | None]]:
        """(user id, close code, login id) of the pages that were closed."""
        return [(c.user_id, c.code, c.login_id) for c in self.received if isinstance(c, CloseAgent)]

    def closed_phones(self) -> list[tuple[str, int]]:
        """(device id, close code) of the phones that were closed."""
        return [(c.device_id, c.code) for c in self.received if isinstance(c, ClosePhone)]


class Asker:
    """Somebody who sends requests: with a token, from an address."""

    def __init__(self, app: Starlette, token: str | None, ip: str) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(ip, 1)), base_url="http://desk/api/v1"
        )
        self.headers: dict[str, str] = {"accept-language": "en"}
        if token is not None:
            self.headers["authorization"] = f"Bearer {token}"

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] = {},
        **query: Any,
    ) -> dict[str, Any]:
        """Send a request and return its answer, which says `success` or a `code`."""
        response = await self._client.request(
            method, path, json=body, content=content, params=query, headers={**self.headers, **headers}
        )
        answer: dict[str, Any] = response.json()
        assert answer["success"] == (response.status_code == 200)
        return answer

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        """GET."""
        return await self.ask("GET", path, **query)

    async def post(self, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """POST a JSON body."""
        return await self.ask("POST", path, {} if body is None else body, **query)

    async def put(self, path: str, body: Any) -> dict[str, Any]:
        """PUT a JSON body."""
        return await self.ask("PUT", path, body)

    async def delete(self, path: str) -> dict[str, Any]:
        """DELETE."""
        return await self.ask("DELETE", path)


class FrontDesk:
    """A node's endpoints, in front of the real database and the real relay."""

    def __init__(self, database: Database, redis: Redis, passwords: Passwords, config: Config) -> None:
        self.database = database
        self.config = config
        metrics = Metrics()
        self.sockets = Sockets()
        relay = Relay(
            redis, config.redis_prefix, lambda: HERE, metrics, canary_every=config.canary, deaf_after=config.deaf_after
        )
        relay.connect(self.sockets)
        self.live = Live(redis, config.redis_prefix)
        self.auth = auth = Auth(database, self.live, relay, passwords, config)
        calls = Calls(database, relay, metrics, config)
        devices = Devices(database, relay, Vault(master_keys(config)), self.live, config, calls)
        http = Http(database, auth.authenticate, metrics, body_limit=config.body_limit, timeout=config.request_timeout)
        self._app = Starlette(
            routes=http.routes(
                [
                    *_auth_routes(auth),
                    *_admin_routes(Admin(database, relay, passwords)),
                    *_user_routes(Users(database, relay, passwords, devices)),
                    *_key_routes(ApiKeys(database, relay)),
                    Endpoint("GET", "/api/v1/phone", auth.me, needs="phone"),
                ]
            )
        )

    def caller(self, token: str | None = None, ip: str = "192.0.2.1") -> Asker:
        """Somebody with a token, or none."""
        return Asker(self._app, token, ip)

    async def sign_in(self, username: str, password: str = PASSWORD) -> dict[str, Any]:
        """Sign in, which succeeds, and return the session."""
        session = await self.caller().post("/auth/login", {"username": username, "password": password})
        assert session["success"], session
        return session

    async def signed_in(self, username: str) -> Asker:
        """Somebody who has signed in."""
        return self.caller((await self.sign_in(username))["accessToken"])

    async def tenant(self, code: str) -> str:
        """Make a tenant with an admin named `<code>.admin`, and return its id."""
        async with self.database.transaction() as connection:
            tenant_id = await accounts.create_tenant(connection, SYSTEM, code=code, name=code.title())
        await self.user(tenant_id, f"{code}.admin", "tenant_admin")
        return tenant_id

    async def user(self, tenant_id: str | None, username: str, role: str = "agent", **more: Any) -> str:
        """Make a user whose password is PASSWORD, and return its id."""
        settings = {"password_hash": PASSWORD_HASH, "must_change_password": False, **more}
        async with self.database.transaction() as connection:
            return await accounts.create_user(
                connection, SYSTEM, tenant_id, username=username, name=username.title(), role=role, **settings
            )

    async def team(self, tenant_id: str, name: str) -> str:
        """Make a team and return its id."""
        async with self.database.transaction() as connection:
            return (await accounts.create_team(connection, SYSTEM, tenant_id, name)).id

    async def page(self, user_id: str) -> None:
        """Let the user have a page open on this node."""
        async with self.database.connection() as connection:
            await nodes.attend(connection, [user_id], HERE)

    async def phone(self, tenant_id: str, user_id: str, hardware_id: str = "hw-1") -> tuple[str, str]:
        """Bind a phone that is online on this node: (device id, device token)."""
        device_id, token = new_id("dev"), new_token("ddp")
        async with self.database.connection() as connection:
            await connection.execute(
                """
                INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version,
                    app_version, token_hash, node, online_status, conn_epoch)
                VALUES ($1, $2, $3, $4, '', 'phone', 'model', 'android', '16', '1', $5, $6, 'online', 1)
                """,
                device_id,
                tenant_id,
                hardware_id,
                user_id,
                digest(token),
                HERE,
            )
        return device_id, token

    async def value(self, query: str, *arguments: Any) -> Any:
        """Ask the database for one value."""
        async with self.database.connection() as connection:
            return await connection.fetchval(query, *arguments)

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Change something behind everybody's back, such as the past."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *arguments)

    async def told(self, resource_id: str) -> list[tuple[str, str, str]]:
        """(actor kind, actor id, action) of what the audit log tells of something, oldest first."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT actor_kind, actor_id, action FROM audit_log WHERE resource_id = $1 ORDER BY id", resource_id
            )
        return [(row["actor_kind"], row["actor_id"], row["action"]) for row in rows]


@asynccontextmanager
async def front_desk(
    database: Database, redis: Redis, config: Config, passwords: Passwords | None = None
) -> AsyncIterator[FrontDesk]:
    """Open the endpoints of a node; its passwords are hashed at no cost unless told."""
    async with database.connection() as connection:
        await nodes.enlist(connection, HERE, HERE, "web", 3600)
    with passwords or Passwords(HASHER) as opened:
        yield FrontDesk(database, redis, opened, config)


def _auth_routes(auth: Auth) -> list[Endpoint]:
    api = "/api/v1/auth"
    return [
        Endpoint("POST", f"{api}/login", auth.login, needs=ANYONE),
        Endpoint("POST", f"{api}/refresh", auth.refresh, needs=ANYONE),
        Endpoint("POST", f"{api}/logout", auth.logout, needs=SIGNED_IN),
        Endpoint("POST", f"{api}/password", auth.change_password, needs=SIGNED_IN),
        Endpoint("POST", f"{api}/exchange", auth.exchange, needs="sessions.exchange"),
        Endpoint("POST", f"{api}/ws-ticket", auth.ws_ticket, needs=ANYONE),
        Endpoint("GET", "/api/v1/me", auth.me, needs=SIGNED_IN),
    ]


def _admin_routes(admin: Admin) -> list[Endpoint]:
    api = "/api/v1/admin"
    return [
        Endpoint("GET", f"{api}/tenants", admin.list_tenants, needs="tenants.manage"),
        Endpoint("POST", f"{api}/tenants", admin.create_tenant, needs="tenants.manage"),
        Endpoint("GET", f"{api}/tenants/{{tenant_id}}", admin.get_tenant, needs="tenants.manage"),
        Endpoint("PUT", f"{api}/tenants/{{tenant_id}}", admin.rename_tenant, needs="tenants.manage"),
        Endpoint("POST", f"{api}/tenants/{{tenant_id}}/suspend", admin.suspend_tenant, needs="tenants.manage"),
        Endpoint("POST", f"{api}/tenants/{{tenant_id}}/resume", admin.resume_tenant, needs="tenants.manage"),
        Endpoint("GET", f"{api}/tenant", admin.get_config, needs="tenant.configure"),
        Endpoint("PUT", f"{api}/tenant", admin.put_config, needs="tenant.configure"),
        Endpoint("GET", f"{api}/teams", admin.list_teams, needs="users.read"),
        Endpoint("POST", f"{api}/teams", admin.create_team, needs="teams.manage"),
        Endpoint("PUT", f"{api}/teams/{{team_id}}", admin.rename_team, needs="teams.manage"),
        Endpoint("DELETE", f"{api}/teams/{{team_id}}", admin.delete_team, needs="teams.manage"),
        Endpoint("GET", f"{api}/audit", admin.list_audit, needs="audit.read"),
    ]


def _user_routes(users: Users) -> list[Endpoint]:
    api = "/api/v1/admin"
    return [
        Endpoint("GET", f"{api}/roles", users.list_roles, needs="users.read"),
        Endpoint("GET", f"{api}/users", users.list_users, needs="users.read"),
        Endpoint("POST", f"{api}/users", users.create, needs="users.manage"),
        Endpoint("POST", f"{api}/users/import", users.import_users, needs="users.manage"),
        Endpoint("GET", f"{api}/users/{{user_id}}", users.get, needs="users.read"),
        Endpoint("PUT", f"{api}/users/{{user_id}}", users.update, needs="users.manage"),
        Endpoint("POST", f"{api}/users/{{user_id}}/disable", users.disable, needs="users.manage"),
        Endpoint("POST", f"{api}/users/{{user_id}}/enable", users.enable, needs="users.manage"),
        Endpoint("POST", f"{api}/users/{{user_id}}/reset-password", users.reset_password, needs="users.manage"),
        Endpoint("POST", f"{api}/users/{{user_id}}/unlock", users.unlock, needs="users.manage"),
    ]


def _key_routes(keys: ApiKeys) -> list[Endpoint]:
    api = "/api/v1/admin"
    return [
        Endpoint("GET", f"{api}/api-keys", keys.list_keys, needs="api_keys.manage"),
        Endpoint("POST", f"{api}/api-keys", keys.create, needs="api_keys.manage"),
        Endpoint("DELETE", f"{api}/api-keys/{{key_id}}", keys.revoke, needs="api_keys.manage"),
    ]
