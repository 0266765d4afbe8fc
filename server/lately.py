"""Whether a colleague called a number minutes ago. It is told before the number is called again, and forbids nothing.

Only this is told across the reach of agents: a colleague's name, when, and how it went; no id, no number, no note.
"""

from datetime import timedelta
from typing import Annotated

import msgspec

from protocol.call import Outcome, Status
from protocol.errors import DialdeskError
from protocol.messages import Id
from protocol.timestamps import Timestamp, rfc3339
from server.calls import DialRequest, customer_of
from server.http import Answer, Body
from server.identity import Identity
from storage import customers, records
from storage.database import Connection, Database

WINDOW = timedelta(minutes=30)
"""How long after its end a call is of interest to whoever calls the same number."""


class LatelyRequest(Body, frozen=True, kw_only=True):
    """Of whom to tell: exactly one of a number, a customer that is known here, and a call of the asker's."""

    customer_phone: Annotated[str, msgspec.Meta(min_length=1, max_length=40)] | None = None
    customer_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    call_id: Id | None = None


class LatelyCall(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The latest call of a colleague: begun `at`; `outcome` once it has ended, null while it goes on."""

    user_name: str
    at: Timestamp
    status: Status
    outcome: Outcome | None


class LatelyAnswer(Answer, frozen=True, kw_only=True):
    """The call to the number by another agent of the tenant that goes on, or else that ended last within half an hour;
    null: there is none, or it is no number, as one that is still being typed."""

    call: LatelyCall | None


class Lately:
    """Tells of colleagues' calls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, identity: Identity, body: LatelyRequest) -> LatelyAnswer:
        """Tell whether a colleague called a number minutes ago, and how it went.

        A call that failed or was cancelled before anything was dialled does not count. An API key that names no call is
        told of any agent's. Raises NOT_FOUND, and INVALID_FIELD unless one of the three is named.
        """
        if sum(one is not None for one in (body.customer_phone, body.customer_id, body.call_id)) != 1:
            raise DialdeskError("INVALID_FIELD", reason="give one of customerPhone, customerId and callId")
        async with self._database.connection() as connection:
            try:
                agent_id, number = await _asked(connection, identity, body)
            except DialdeskError as refusal:
                if refusal.code != "INVALID_PHONE":
                    raise
                return LatelyAnswer(call=None)  # what is no number was called by nobody
            row = await records.lately(connection, identity.tenant_id, number, agent_id, WINDOW)
        if row is None:
            return LatelyAnswer(call=None)
        return LatelyAnswer(
            call=LatelyCall(
                user_name=row["user_name"],
                at=rfc3339(row["created_at"]),
                status=Status(row["status"]),
                outcome=row["outcome"] and Outcome(row["outcome"]),
            )
        )


async def _asked(connection: Connection, identity: Identity, body: LatelyRequest) -> tuple[str | None, str]:
    """Whose colleagues are asked of, and the number as it is kept."""
    if body.call_id is not None:
        call = await records.get(connection, identity.calls, body.call_id)
        if call is None:
            raise DialdeskError("NOT_FOUND", what="call")
        return call["user_id"], call["customer_phone"]
    region = await customers.region(connection, identity.tenant_id)
    wanted = DialRequest(customer_phone=body.customer_phone, customer_id=body.customer_id)
    number, _ = await customer_of(connection, identity.tenant_id, wanted, region)
    return identity.user_id, number
