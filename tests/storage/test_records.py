"""Lists of calls look at no more rows than they must."""

from collections.abc import Iterator
from typing import Any

import msgspec

from storage.database import Database, queries
from tests.conftest import Office

CALLS = 30_000


async def test_a_page_by_a_common_outcome_looks_at_few_calls(database: Database, office: Office) -> None:
    """Where every other call is wanted a page of twenty looks at some forty, though it might look at ten thousand."""
    ann = await office.agent()
    wanted: list[Any] = [["busy"], *[None] * 12]
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, customer_phone, status, outcome,"
            " ended_at, created_at)"
            " SELECT 'call_' || n, $1, $2, $2, 'mobile', '+8613900000000', 'ended',"
            " CASE n % 2 WHEN 0 THEN 'busy' ELSE 'missed' END, now(), now() - n * interval '1 minute'"
            " FROM generate_series(1, $3) n",
            office.tenant_id,
            ann,
            CALLS,
        )
        await connection.execute("ANALYZE call")
        explained = await connection.fetchval(
            "EXPLAIN (ANALYZE, FORMAT JSON) " + queries("records")["newest"],
            *(office.tenant_id, None, None, None, None, 21, 10_000, *wanted),
        )
    [plan] = msgspec.json.decode(explained)
    looked_at = max(node["Actual Rows"] for node in nodes(plan["Plan"]) if node.get("Relation Name") == "call")

    assert looked_at < 100


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a plan and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)
