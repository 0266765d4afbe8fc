"""The numbers that a line under test may dial: handsets of the tenant's own people (seed 000 §9, test mode)."""

from typing import Annotated

import msgspec

from protocol.errors import DialdeskError
from protocol.phone_number import normalize
from server.auth import actor_of
from server.http import Answer, Body, RequestInfo
from server.identity import Identity
from storage import customers, lines
from storage.database import Database
from storage.lines import TrialNumber

MOST = 200
"""Numbers of one tenant."""


class Number(Body, frozen=True, kw_only=True):
    """A number, in any way of writing it, and a note on whose it is."""

    phone: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    note: Annotated[str, msgspec.Meta(max_length=100)] = ""


class NumbersBody(Body, frozen=True, kw_only=True):
    """All the numbers that lines under test may dial: what is not among them, they dial no more."""

    numbers: Annotated[list[Number], msgspec.Meta(max_length=MOST)]


class NumbersAnswer(Answer, frozen=True, kw_only=True):
    """The numbers that lines under test may dial, unmasked: they are no customers'."""

    numbers: list[TrialNumber]


class TrialNumbers:
    """The test numbers of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_numbers(self, identity: Identity) -> NumbersAnswer:
        """List the numbers that lines in `testing` may dial."""
        async with self._database.connection() as connection:
            return NumbersAnswer(numbers=await lines.trial_numbers(connection, identity.tenant_id))

    async def put(self, identity: Identity, body: NumbersBody, request: RequestInfo) -> NumbersAnswer:
        """Replace the numbers that lines in `testing` may dial; the next dial goes by them.

        Raises INVALID_PHONE, and INVALID_FIELD for a number that is named twice.
        """
        async with self._database.transaction() as connection:
            region = await customers.region(connection, identity.tenant_id)
            numbers = [
                TrialNumber(phone=normalize(number.phone, region), note=number.note.strip()) for number in body.numbers
            ]
            if len({number.phone for number in numbers}) < len(numbers):
                raise DialdeskError("INVALID_FIELD", reason="a number is named twice - at `$.numbers`")
            await lines.put_trial_numbers(connection, actor_of(identity, request), identity.tenant_id, numbers)
            return NumbersAnswer(numbers=await lines.trial_numbers(connection, identity.tenant_id))
