"""A floor full of agents, written straight into the database: two teams, the calls of two weeks, two under way."""

from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from protocol.identifiers import new_call_id, new_id
from storage.database import Connection
from tests.browser.people import CUSTOMERS, People

TEAMS: Final = {"华东一组": ("周敏", "吴磊", "郑雅文"), "华南二组": ("冯刚", "褚倩", "卫国")}
TALKING, CALLING, IDLE = "周敏", "冯刚", "吴磊"
"""Who talks, calls, and waits; the others are offline."""

_ENDS: Final = ("connected", "missed", "connected", "busy", "connected", "rejected", "missed", "failed")
_CAUSES: Final = {
    "connected": "NORMAL_CLEARING",
    "missed": "NO_ANSWER",
    "busy": "USER_BUSY",
    "rejected": "CALL_REJECTED",
    "failed": "NETWORK_ERROR",
}


class Floor:
    """The teams and agents that were made, by name."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.tenant_id = people.house.tenant_id
        self.teams: dict[str, str] = {}
        self.agents: dict[str, str] = {}
        self.live: dict[str, str] = {}

    async def open(self) -> None:
        """Let the agents come in, and their calls have been made."""
        connection = await asyncpg.connect(self.people.house.database_url, timeout=10)
        try:
            async with connection.transaction():
                for team, names in TEAMS.items():
                    await self._staff(connection, team, names)
                await self._past(connection)
                await self._now(connection)
        finally:
            await connection.close()

    async def supervisor(self, team: str) -> str:
        """Make a supervisor of a team; the user name."""
        username = await self.people.house.user("supervisor")
        await self.people.rows(
            f"INSERT INTO team_supervisor (tenant_id, team_id, user_id) "
            f"SELECT tenant_id, '{self.teams[team]}', id FROM app_user WHERE username = '{username}'"
        )
        return username

    async def _staff(self, connection: Connection, team: str, names: tuple[str, ...]) -> None:
        self.teams[team] = new_id("team")
        await connection.execute(
            "INSERT INTO team (id, tenant_id, name) VALUES ($1, $2, $3)", self.teams[team], self.tenant_id, team
        )
        for name in names:
            self.agents[name] = new_id("user")
            await connection.execute(
                "INSERT INTO app_user (id, tenant_id, team_id, role, username, name, password_hash)"
                " VALUES ($1, $2, $3, 'agent', 'a' || right($1, 8), $4, '-')",
                self.agents[name],
                self.tenant_id,
                self.teams[team],
                name,
            )

    async def _past(self, connection: Connection) -> None:
        now = datetime.now(UTC)
        rows = []
        for place, (name, user_id) in enumerate(self.agents.items()):
            for day in range(14):
                for n in range(2 + (place + day) % 4):
                    customer = CUSTOMERS[(place + n) % len(CUSTOMERS)]
                    outcome = _ENDS[(place * 3 + day + n) % len(_ENDS)]
                    at = now - timedelta(days=day, minutes=7 * n + place + 1)
                    talked = 40 + 37 * ((place + n + day) % 6) if outcome == "connected" else 0
                    rows.append((user_id, self._team_of(name), customer, outcome, at, talked))
        await connection.executemany(
            "INSERT INTO call (id, tenant_id, user_id, team_id, created_by, call_method, customer_name, customer_phone,"
            " status, outcome, evidence, hangup_cause, created_at, connected_at, ended_at, duration, follow_up_result,"
            " followed_up_at, followed_up_by) VALUES"
            " ($1, $2, $3, $4, $3, 'mobile', $5, $6, 'ended', $7, 'call_log', $8, $9, $10, $11, $12, $13, $11, $3)",
            [
                (
                    new_call_id(),
                    self.tenant_id,
                    user_id,
                    team_id,
                    customer[1],
                    f"+86{customer[2]}",
                    outcome,
                    _CAUSES[outcome],
                    at,
                    at + timedelta(seconds=12) if talked else None,
                    at + timedelta(seconds=12 + talked),
                    talked,
                    "已接通" if talked else "无人接听",
                )
                for user_id, team_id, customer, outcome, at, talked in rows
            ],
        )

    async def _now(self, connection: Connection) -> None:
        for name, status in ((TALKING, "connected"), (CALLING, "ringing")):
            self.live[name] = new_call_id()
            await connection.execute(
                "INSERT INTO call (id, tenant_id, user_id, team_id, created_by, call_method, customer_name,"
                " customer_phone, status, created_at, connected_at, reap_at) VALUES"
                " ($1, $2, $3, $4, $3, 'mobile', $5, $6, $7::text, now() - interval '95 seconds',"
                " CASE WHEN $7::text = 'connected' THEN now() - interval '80 seconds' END, now() + interval '4 hours')",
                self.live[name],
                self.tenant_id,
                self.agents[name],
                self._team_of(name),
                CUSTOMERS[0][1],
                f"+86{CUSTOMERS[0][2]}",
                status,
            )
        for name, status in ((TALKING, "online"), (CALLING, "online"), (IDLE, "offline")):
            await connection.execute(
                "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type,"
                " os_version, app_version, token_hash, online_status, last_heartbeat) VALUES"
                " ($1, $2, $1, $3, '+8613800001111', '工作手机', 'Pixel 9', 'android', '16', '1.0', $4, $5, now())",
                new_id("dev"),
                self.tenant_id,
                self.agents[name],
                name.encode(),
                status,
            )
        for name in (TALKING, CALLING, IDLE):
            await connection.execute(
                "INSERT INTO agent_node (user_id, node) SELECT $1, boot_id FROM node WHERE swept_at IS NULL LIMIT 1",
                self.agents[name],
            )

    def _team_of(self, name: str) -> str:
        return next(self.teams[team] for team, names in TEAMS.items() if name in names)
