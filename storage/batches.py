"""Rows that had their time, dropped a batch at a time, so that no statement runs or locks for long."""

from storage.database import Connection


async def drop_all(connection: Connection, statement: str, *arguments: object) -> int:
    """Run a DELETE of one batch until one is smaller than that before it; returns how many rows went. Not in a
    transaction.

    One batch a round would be a bound on what an installation may write in a day; and until nothing is left, a round
    would have no end where rows grow old as fast as they go.
    """
    gone = last = 0
    while batch := int((await connection.execute(statement, *arguments)).removeprefix("DELETE ")):
        gone += batch
        if batch < last:
            break
        last = batch
    return gone
