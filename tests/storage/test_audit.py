"""The audit log as rows."""

from storage.audit import Actor, AuditSearch, lines, record
from storage.database import Database

ANN = Actor(kind="user", id="ann", tenant_id="t1", ip="192.0.2.1", request_id="req-1")
NOBODY = AuditSearch()


async def write(database: Database, actor: Actor, *names: str) -> None:
    """Write a line for each name."""
    async with database.transaction() as connection:
        for name in names:
            await record(connection, actor, "update", "team", name, before={"name": None}, after={"name": name})


async def test_line_is_told_as_it_was_written(database: Database) -> None:
    """What was recorded comes back, with when it was."""
    await write(database, ANN, "north")
    async with database.connection() as connection:
        (line,), older = await lines(connection, "t1", NOBODY, None, 10)

    assert ("user", "ann", "update", "team", "north") == (
        line.actor_kind,
        line.actor_id,
        line.action,
        line.resource,
        line.resource_id,
    )
    assert ({"name": None}, {"name": "north"}) == (line.before, line.after)
    assert ("192.0.2.1", "req-1") == (line.ip, line.request_id)
    assert line.at.endswith("Z")
    assert older is None


async def test_lines_are_told_in_parts(database: Database) -> None:
    """A part tells what to ask for the next with, the last one nothing; a full last part too."""
    await write(database, ANN, "a", "b", "c", "d")
    async with database.connection() as connection:
        first, older = await lines(connection, "t1", NOBODY, None, 2)
        second, oldest = await lines(connection, "t1", NOBODY, older, 2)

    assert (["d", "c"], ["b", "a"]) == ([line.resource_id for line in first], [line.resource_id for line in second])
    assert older is not None
    assert oldest is None


async def test_tenants_and_the_installation_are_apart(database: Database) -> None:
    """A tenant's lines are told to it alone; the lines of no tenant stand by themselves."""
    await write(database, ANN, "north")
    await write(database, Actor(kind="user", id="eve", tenant_id="t2"), "south")
    await write(database, Actor(kind="system", id="cli", tenant_id=None), "all")
    async with database.connection() as connection:
        seen = [
            [line.resource_id for line in (await lines(connection, tenant, NOBODY, None, 10))[0]]
            for tenant in ("t1", "t2", "t3", None)
        ]

    assert [["north"], ["south"], [], ["all"]] == seen


async def test_search_takes_all_that_is_given(database: Database) -> None:
    """Lines are found that match every filter."""
    await write(database, ANN, "north", "south")
    async with database.connection() as connection:
        found, _ = await lines(connection, "t1", AuditSearch(resource="team", resource_id="north"), None, 10)
        none, _ = await lines(connection, "t1", AuditSearch(resource_id="north", actor_id="eve"), None, 10)
        acted, _ = await lines(connection, "t1", AuditSearch(actor_id="ann", action="update"), None, 10)

    assert (["north"], [], ["south", "north"]) == tuple(
        [line.resource_id for line in part] for part in (found, none, acted)
    )


async def test_line_comes_to_nothing_with_its_change(database: Database) -> None:
    """A change that is rolled back leaves no line."""
    try:
        async with database.transaction() as connection:
            await record(connection, ANN, "delete", "team", "north")
            raise LookupError
    except LookupError:
        pass  # which rolled back
    async with database.connection() as connection:
        found, _ = await lines(connection, "t1", NOBODY, None, 10)

    assert [] == found
