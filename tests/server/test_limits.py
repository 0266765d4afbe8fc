"""Whether calls may be made now: the tenant's switch, and its hours."""

import secrets
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from protocol.errors import DialdeskError
from server.limits import USUAL_HOURS, decide
from storage.calls import DialContext
from storage.migrate import migrate
from tests.conftest import Neighbours

AGENT = DialContext(
    answered=False,
    team_id=None,
    call_method="mobile",
    default_device_id=None,
    default_line_id=None,
    disabled=False,
    region="CN",
    recording_enabled=True,
    recording_notice="",
    calls_enabled=True,
    calling_from="08:00",
    calling_to="21:00",
    local="12:00",
    now=datetime(2026, 11, 22, 4, tzinfo=UTC),
    phones=[],
)


def judged(**fields: Any) -> str:
    """The code with which a dial at noon is refused, or "may be made"; at noon, but for these fields."""
    try:
        decide(msgspec.structs.replace(AGENT, **fields))
    except DialdeskError as error:
        return error.code
    return "may be made"


@pytest.mark.parametrize(
    ("local", "judgement"),
    [
        ("00:00", "LIMIT_HOURS"),
        ("07:59", "LIMIT_HOURS"),
        ("08:00", "may be made"),
        ("20:59", "may be made"),
        ("21:00", "LIMIT_HOURS"),
        ("23:59", "LIMIT_HOURS"),
    ],
)
def test_calls_are_made_from_the_first_minute_to_before_the_last(local: str, judgement: str) -> None:
    """From 08:00 to 21:00 means that at 21:00 it is over."""
    assert judgement == judged(local=local)


@pytest.mark.parametrize("local", ["00:00", "12:00", "23:59"])
def test_hours_may_be_those_of_the_whole_day(local: str) -> None:
    """Until 24:00 leaves no minute out."""
    assert "may be made" == judged(local=local, calling_from="00:00", calling_to="24:00")


def test_who_switched_off_calls_nobody_at_any_time() -> None:
    """The switch is told before the hours."""
    at_night = {"local": "03:00"}

    assert ("CALLS_OFF", "LIMIT_HOURS") == (judged(calls_enabled=False, **at_night), judged(**at_night))


async def test_a_new_tenant_calls_in_the_usual_hours(neighbours: Neighbours) -> None:
    """The schema itself says so, and that calling is on; the tests' own databases are more liberal."""
    name = f"usual_{secrets.token_hex(4)}"
    server = await asyncpg.connect(neighbours.database_url, timeout=30)
    try:
        await server.execute(f"CREATE DATABASE {name}")
        await migrate(neighbours.database(name))
        connection = await asyncpg.connect(neighbours.database(name), timeout=30)
        told = await connection.fetchrow(
            "INSERT INTO tenant (id, code, name) VALUES ('t1', 'new', 'New')"
            " RETURNING calls_enabled, to_char(calling_from, 'HH24:MI'), to_char(calling_to, 'HH24:MI')"
        )
        await connection.close()
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.close()

    assert (True, *USUAL_HOURS) == tuple(told)
