"""The board: what agents do now, what their day came to, and who is told of whom."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from protocol.identifiers import new_call_id
from server.board import Board, BoardAnswer, BoardQuery
from server.identity import Identity
from storage.database import Database

AT = datetime.now(UTC).replace(microsecond=0)


def person(user_id: str, reach: Any = "tenant", tenant_id: str = "t1", **more: Any) -> Identity:
    """A signed-in user."""
    return Identity(kind="user", id=user_id, user_id=user_id, tenant_id=tenant_id, reach=reach, **more)


ADMIN = person("admin")
NORTH = person("boss", "teams", teams=("north",))


class Floor:
    """Two tenants, their agents, and a board that counts anew each time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.board = Board(database, every=0.0)

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Change something behind everybody's back."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *arguments)

    async def call(self, user_id: str, **columns: Any) -> str:
        """Add a call of today, by default one that was answered and lasted a minute, and return its id."""
        tenant_id = "t2" if user_id == "eve" else "t1"
        row = {
            "id": new_call_id(),
            "tenant_id": tenant_id,
            "user_id": user_id,
            "team_id": {"ann": "north", "amy": "north", "ben": "south", "boss": None, "eve": "east"}[user_id],
            "created_by": user_id,
            "call_method": "mobile",
            "customer_phone": "+8613912345678",
            "created_at": AT,
            "status": "ended",
        } | columns
        if row["status"] == "ended":
            row = {"outcome": "connected", "evidence": "call_log", "ended_at": AT, "duration": 60} | row
        else:
            row["reap_at"] = AT + timedelta(hours=1)
        numbers = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await self.execute(f"INSERT INTO call ({', '.join(row)}) VALUES ({numbers})", *row.values())
        return str(row["id"])

    async def look(self, who: Identity, **query: Any) -> BoardAnswer:
        """What the board shows."""
        return await self.board.look(who, BoardQuery(**query))

    async def states(self, who: Identity, **query: Any) -> dict[str, str]:
        """The state of each agent that is shown."""
        return {agent.user_id: agent.state for agent in (await self.look(who, **query)).agents}


@pytest.fixture
async def floor(database: Database) -> Floor:
    """The floor of this test; its tenants' days are those of UTC."""
    floor = Floor(database)
    async with database.connection() as connection:
        await connection.execute("""
            INSERT INTO tenant (id, code, name, timezone) VALUES ('t1', 't1', 'One', 'UTC'), ('t2', 't2', 'Two', 'UTC');
            INSERT INTO team (id, tenant_id, name)
                VALUES ('north', 't1', 'North'), ('south', 't1', 'South'), ('east', 't2', 'East');
            INSERT INTO app_user (id, tenant_id, team_id, role, username, name, password_hash) VALUES
                ('ann', 't1', 'north', 'agent', 'ann', 'Ann', '-'), ('amy', 't1', 'north', 'agent', 'amy', 'Amy', '-'),
                ('ben', 't1', 'south', 'agent', 'ben', 'Ben', '-'), ('eve', 't2', 'east', 'agent', 'eve', 'Eve', '-'),
                ('boss', 't1', NULL, 'supervisor', 'boss', 'Boss', '-'),
                ('admin', 't1', NULL, 'tenant_admin', 'admin', 'Admin', '-');
            INSERT INTO node (boot_id, name, kind, leased_until)
                VALUES ('here', 'here', 'web', now() + interval '1 hour');
            INSERT INTO agent_node (user_id, node, since)
                SELECT id, 'here', now() - interval '1 hour' FROM unnest(ARRAY['ann', 'ben']) id;
        """)
    return floor


async def test_each_agent_is_in_the_state_that_pages_and_calls_tell(floor: Floor) -> None:
    """Who has no page is offline, who has one idle; a call makes it calling, an answered one talking, page or not."""
    await floor.call("ben", status="ringing", device_id=None)
    await floor.call("amy", status="connected", connected_at=AT)

    assert {"amy": "talking", "ann": "idle", "ben": "calling"} == await floor.states(ADMIN)
    assert {"amy": "talking", "ann": "idle"} == await floor.states(NORTH)
    assert {"ben": "calling"} == await floor.states(ADMIN, team_id="south")
    assert {"ann": "idle"} == await floor.states(person("ann", "own"))
    assert {} == await floor.states(NORTH, team_id="south")
    assert {"eve": "offline"} == await floor.states(person("stranger", tenant_id="t2"))


async def test_who_else_is_at_a_call_stands_beside_the_agents(floor: Floor) -> None:
    """A supervisor is no agent, and is shown while it calls; a disabled agent is not, unless it still calls."""
    await floor.execute("UPDATE app_user SET disabled_at = now() WHERE id IN ('ann', 'amy')")
    await floor.call("amy", status="calling")
    before = await floor.states(ADMIN)
    await floor.call("boss", status="calling")

    assert {"amy": "calling", "ben": "idle"} == before
    assert {*before, "boss"} == {*await floor.states(ADMIN)}


async def test_a_call_is_told_masked_and_since_when(floor: Floor) -> None:
    """The customer's number is masked without the permission to see it; an idle agent is so since its last call."""
    answered, ended = AT - timedelta(minutes=2), AT + timedelta(minutes=1)
    call_id = await floor.call("amy", status="connected", connected_at=answered, customer_name="Zhang")
    await floor.call("ann", ended_at=ended)
    amy, ann, _ = (await floor.look(ADMIN)).agents
    revealed = await floor.look(person("admin", permissions=frozenset({"customers.reveal"})))

    [call] = amy.live
    assert (call_id, "139****5678", "Zhang") == (call.call_id, call.customer_phone, call.customer_name)
    assert (f"{answered:%Y-%m-%dT%H:%M:%S}.000Z", call.connected_at) == (call.connected_at, amy.since)
    assert f"{ended:%Y-%m-%dT%H:%M:%S}.000Z" == ann.since
    assert ["+8613912345678"] == [call.customer_phone for agent in revealed.agents for call in agent.live]


async def test_who_has_a_phone_and_a_line_may_be_at_two_calls(floor: Floor) -> None:
    """Both are told, the answered one first, and the agent is counted once."""
    talk = await floor.call("amy", status="connected", connected_at=AT)
    ring = await floor.call("amy", status="ringing", created_at=AT + timedelta(minutes=1))
    answer = await floor.look(ADMIN)

    assert [[talk, ring]] == [[call.call_id for call in agent.live] for agent in answer.agents if agent.live]
    assert (1, 0) == (answer.states.talking, answer.states.calling)
    assert 3 == len(answer.agents)


async def test_of_who_has_changed_teams_no_more_is_told_than_lists_tell(floor: Floor) -> None:
    """Calls are those of the team they were begun in: the new supervisor sees that the agent calls, and not whom; the
    old one goes on seeing the call. What the agents' rows come to is what the day comes to."""
    await floor.call("ben")
    away, here = await floor.call("ben", status="ringing"), await floor.call("ann", status="ringing")
    await floor.execute(
        "UPDATE app_user SET team_id = CASE id WHEN 'ben' THEN 'north' ELSE 'south' END WHERE id IN ('ann', 'ben')"
    )
    north = await floor.look(NORTH)
    told = {agent.user_id: (agent.state, [call.call_id for call in agent.live]) for agent in north.agents}

    assert {"amy": ("offline", []), "ann": ("calling", [here]), "ben": ("calling", [])} == told
    assert north.today.calls == sum(agent.calls for agent in north.agents)
    assert {here, away} == {call.call_id for agent in (await floor.look(ADMIN)).agents for call in agent.live}


async def test_the_day_is_counted_as_statistics_count(floor: Floor) -> None:
    """Proven answers and assumed ones stand apart; what was before the day, or is another tenant's, is not counted."""
    await floor.call("ann")
    await floor.call("ann", evidence="assumed", duration=30)
    await floor.call("ann", outcome="busy", duration=None)
    await floor.call("ben", duration=5)
    await floor.call("ann", created_at=AT - timedelta(days=1))
    await floor.call("eve")
    whole, north, ann = await floor.look(ADMIN), await floor.look(NORTH), (await floor.look(NORTH)).agents[1]

    assert (4, 2, 1, 65, 30) == tuple(getattr(whole.today, name) for name in whole.today.__struct_fields__)
    assert (3, 1, 1, 60, 30) == tuple(getattr(north.today, name) for name in north.today.__struct_fields__)
    assert ("ann", 3, 1) == (ann.user_id, ann.calls, ann.connected)
    assert 1 == (await floor.look(ADMIN, team_id="south")).today.calls


async def test_with_too_many_agents_the_busy_ones_are_told(floor: Floor) -> None:
    """A limit leaves out who is offline first; the numbers of states count everybody."""
    await floor.call("ben", status="ringing")
    answer = await floor.look(ADMIN, limit=1)

    assert ["ben"] == [agent.user_id for agent in answer.agents]
    assert (0, 1, 1, 1) == tuple(getattr(answer.states, name) for name in answer.states.__struct_fields__)


async def test_the_phone_of_an_agent_is_told(floor: Floor) -> None:
    """An agent without a phone has none; one whose phones are all away has one that is offline."""
    for name, user_id, status in (("a", "ann", "online"), ("b", "ann", "offline"), ("c", "ben", "offline")):
        await floor.execute(
            "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version,"
            " app_version, token_hash, online_status) VALUES ($1, 't1', $1, $2, '', '', '', 'ios', '', '', $3, $4)",
            name,
            user_id,
            name.encode(),
            status,
        )

    assert {"amy": None, "ann": "online", "ben": "offline"} == {
        agent.user_id: agent.phone for agent in (await floor.look(ADMIN)).agents
    }


async def test_the_day_is_not_counted_at_every_look(floor: Floor) -> None:
    """Within a while the counts are those of the last time, whoever asks; the states are always those of now."""
    board = Board(floor.database, every=3600)
    before = await board.look(ADMIN, BoardQuery())
    await floor.call("ben", status="ringing")
    after = await board.look(NORTH, BoardQuery()), await board.look(ADMIN, BoardQuery())

    assert [0, 0, 0] == [answer.today.calls for answer in (before, *after)]
    assert 1 == after[1].states.calling
