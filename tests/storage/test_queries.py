"""Every named query is one that PostgreSQL can run on the schema of this version."""

from pathlib import Path

import asyncpg
import pytest

import storage
from storage.database import Database, queries

NOUNS = sorted(path.stem for path in (Path(storage.__file__).parent / "sql").glob("*.sql"))


@pytest.mark.parametrize("noun", NOUNS)
async def test_every_query_prepares_on_the_schema(noun: str, database: Database) -> None:
    """PostgreSQL parses and plans each statement of each noun."""
    refused = {}
    async with database.connection() as connection:
        for name, statement in queries(noun).items():
            try:
                await connection.prepare(statement)
            except asyncpg.PostgresError as error:
                refused[name] = str(error)

    assert {} == refused


@pytest.mark.parametrize("noun", NOUNS)
def test_every_query_says_what_it_does(noun: str) -> None:
    """The line after the name is a comment for people."""
    silent = [name for name, statement in queries(noun).items() if not statement.startswith("-- ")]

    assert [] == silent
