"""A fault run in small: an installation of its own, attacked for a quarter of a minute, and what must hold proven."""

from pathlib import Path

import pytest

from tests.faults.record import Plan
from tests.faults.run import run

PLAN = Plan(seed=100, seconds=15.0, pairs=6)
"""PostgreSQL is stopped, a node killed and then frozen; lines are slow, held and cut, and people do all they may."""


@pytest.mark.timeout(600)  # it takes half a minute, but its installation may wait long for two slow cores
async def test_what_must_hold_holds_under_faults(tmp_path: Path) -> None:
    """Calls go on while nodes, servers and lines fail, and the checker finds nothing."""
    verdict = await run(PLAN, tmp_path, durable=False, say=print)
    print(verdict.counts)

    assert [] == verdict.violations
    assert verdict.counts["faults"] > 0
    assert verdict.counts["calls"] > 0
