"""A POST sent twice creates once."""

import asyncio

import msgspec
import pytest

from protocol.errors import DialdeskError
from storage import idempotency
from storage.database import Connection, Database, Duplicate
from storage.idempotency import Once


class Made(msgspec.Struct):
    """The answer: which one was made."""

    number: int


class Workshop:
    """Makes tenants, each under a number of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.made = 0

    async def once(
        self,
        key: str | None,
        body: bytes = b"body",
        actor_id: str = "ann",
        operation: str = "make",
        code: str | None = None,
        fail: Exception | None = None,
    ) -> int:
        """Make one, under a key; returns the number in the answer."""
        once = Once("t1", actor_id, operation, key, body)

        async def make() -> Made:
            self.made += 1
            answer = Made(self.made)
            async with self.database.transaction() as connection:
                await connection.execute(
                    "INSERT INTO tenant (id, code, name) VALUES ($1, $2, 'x')",
                    f"made{answer.number}",
                    code or f"made{answer.number}",
                )
                await once.keep(connection, answer)
                if fail is not None:
                    raise fail
            return answer

        return msgspec.json.decode(await once.run(self.database, make), type=Made).number

    async def rows(self) -> tuple[int, int]:
        """How many were made and how many answers kept."""
        async with self.database.connection() as connection:
            return (
                await connection.fetchval("SELECT count(*) FROM tenant"),
                await connection.fetchval("SELECT count(*) FROM idempotency_key"),
            )


@pytest.fixture
def workshop(database: Database) -> Workshop:
    """Where things are made once."""
    return Workshop(database)


async def test_the_same_request_gets_the_same_answer(workshop: Workshop) -> None:
    """And nothing more is made."""
    assert [1, 1, 1] == [await workshop.once("k") for _ in range(3)]
    assert (1, 1) == await workshop.rows()


async def test_without_a_key_a_request_happens_as_often_as_it_is_sent(workshop: Workshop) -> None:
    """Nothing is kept."""
    assert [1, 2] == [await workshop.once(None) for _ in range(2)]
    assert (2, 0) == await workshop.rows()


async def test_a_key_belongs_to_its_actor_and_operation(workshop: Workshop) -> None:
    """Two people, or two kinds of request, may use the same key."""
    numbers = [
        await workshop.once("k"),
        await workshop.once("k", actor_id="ben"),
        await workshop.once("k", operation="mend"),
    ]

    assert [1, 2, 3] == numbers


async def test_a_key_used_for_another_request_is_refused(workshop: Workshop) -> None:
    """IDEMPOTENCY_MISMATCH, and nothing is made."""
    await workshop.once("k")

    with pytest.raises(DialdeskError) as refused:
        await workshop.once("k", body=b"another body")

    assert ("IDEMPOTENCY_MISMATCH", (1, 1)) == (refused.value.code, await workshop.rows())


async def test_twins_at_once_make_one(workshop: Workshop) -> None:
    """The loser's transaction comes to nothing, and it gets the winner's answer."""
    numbers = await asyncio.gather(*(workshop.once("k") for _ in range(6)))

    assert (1, (1, 1)) == (len(set(numbers)), await workshop.rows())


async def test_twins_with_different_bodies_make_one_and_refuse_one(workshop: Workshop) -> None:
    """Also where neither was committed when the other looked."""
    outcomes = await asyncio.gather(
        workshop.once("k", body=b"one"), workshop.once("k", body=b"two"), return_exceptions=True
    )

    assert ["IDEMPOTENCY_MISMATCH"] == [error.code for error in outcomes if isinstance(error, DialdeskError)]
    assert (1, 1) == await workshop.rows()


async def test_a_request_that_failed_may_be_made_under_its_key(workshop: Workshop) -> None:
    """What is refused is not kept."""
    for failure in (DialdeskError("DEVICE_BUSY"), ZeroDivisionError()):
        with pytest.raises(type(failure)):
            await workshop.once("k", fail=failure)

    assert (3, (1, 1)) == (await workshop.once("k"), await workshop.rows())


async def test_another_rule_that_refuses_is_told(workshop: Workshop) -> None:
    """What exists already, and was not made under this key, is no twin."""
    await workshop.once("k1", code="same")

    with pytest.raises(Duplicate) as duplicate:
        await workshop.once("k2", code="same")

    assert "tenant_code_key" == duplicate.value.constraint


@pytest.mark.parametrize("refusal", [DialdeskError("DEVICE_BUSY"), Duplicate("call_live_device")])
async def test_who_is_refused_because_of_its_own_twin_gets_the_twins_answer(
    workshop: Workshop, refusal: Exception
) -> None:
    """A dial finds its phone busy, with the call that the same request made a moment ago."""

    async def lose() -> Made:
        """Begins before its twin is committed, and is refused after it."""
        await workshop.once("k")
        raise refusal

    assert b'{"number":1}' == await Once("t1", "ann", "make", "k", b"body").run(workshop.database, lose)
    assert (1, 1) == await workshop.rows()


async def test_keys_are_forgotten_after_a_day(workshop: Workshop, database: Database) -> None:
    """Older ones go, younger ones stay."""
    await workshop.once("old")
    async with database.connection() as connection:
        await connection.execute("UPDATE idempotency_key SET created_at = now() - interval '25 hours'")
    await workshop.once("young")
    async with database.connection() as connection:
        gone = await _expire(connection)
        left = await connection.fetch("SELECT key FROM idempotency_key")

    assert ([1, 0], ["young"]) == (gone, [row["key"] for row in left])


async def _expire(connection: Connection) -> list[int]:
    return [await idempotency.expire(connection) for _ in range(2)]
