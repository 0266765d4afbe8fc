"""What can be done to a call while it lasts, beside hanging up: mute and transfer, where its provider can.

A call on a work phone is muted and transferred on the handset. Nothing here moves a call: its provider tells how it
goes.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
import structlog

from protocol.call import Status
from protocol.errors import DialdeskError
from protocol.messages import Id
from protocol.phone_number import mask, normalize
from server.http import Answer, Body
from server.identity import Identity
from server.line_config import Accounts
from server.placing import reference
from server.providers.provider import CallReference, Control, PlacementRefused, Provider, Uncertain, Unsupported
from server.ssrf import Refused
from storage import attempts, calls, customers
from storage.calls import Explanation, Source
from storage.database import Connection, Database
from storage.vault import SealError

log = structlog.get_logger()

DEADLINE = 15.0
"""Seconds that a provider may take, beside its adapter's own deadline."""


class MuteRequest(Body, frozen=True, kw_only=True):
    """Mute the agent towards the customer, or with `muted` false no longer."""

    call_id: Id
    muted: bool = True


class TransferRequest(Body, frozen=True, kw_only=True):
    """Hand the customer to a telephone `number`, or to another agent by the `seatId` at the line's provider."""

    call_id: Id
    number: Annotated[str, msgspec.Meta(min_length=1, max_length=40)] | None = None
    seat_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z@._-]{1,64}$(?!\n)")] | None = None


class ControlAnswer(Answer, frozen=True, kw_only=True):
    """The provider did it, or says so."""


class Controls:
    """Mutes and transfers calls over lines."""

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._database = database
        self._accounts = accounts

    async def mute(self, identity: Identity, body: MuteRequest) -> ControlAnswer:
        """Mute the agent of a call towards the customer, or no longer.

        Raises NOT_FOUND, CALL_ENDED, NOT_SUPPORTED where phone or provider cannot, CONTROL_REFUSED, and UNAVAILABLE
        where the provider did not answer: to ask again does no harm.
        """
        async with self._database.connection() as connection:
            cloud, call = await self._open(connection, identity, body.call_id, "mute")
        try:
            async with _asking():
                await cloud.mute(call, on=body.muted)
        except (Uncertain, TimeoutError) as error:
            raise DialdeskError("UNAVAILABLE") from error
        await self._note(identity, call, "MUTE" if body.muted else "UNMUTE", {"by": identity.id})
        return ControlAnswer()

    async def transfer(self, identity: Identity, body: TransferRequest) -> ControlAnswer:
        """Hand the customer of a call to somebody else.

        Raises NOT_FOUND, CALL_ENDED, INVALID_PHONE, INVALID_FIELD unless one of number and seat is given, NOT_SUPPORTED
        where phone or provider cannot, CONTROL_REFUSED, and CONTROL_UNCERTAIN where the provider did not answer: a
        telephone may be ringing, so it is not to be asked again blindly.
        """
        if (body.number is None) == (body.seat_id is None):
            raise DialdeskError("INVALID_FIELD", reason="give either number or seatId")
        async with self._database.connection() as connection:
            cloud, call = await self._open(connection, identity, body.call_id, "transfer")
            if body.number is None:
                to = shown = body.seat_id or ""
            else:
                to = normalize(body.number, await customers.region(connection, identity.tenant_id))
                shown = mask(to)
        try:
            async with _asking():
                await cloud.transfer(call, to)
        except (Uncertain, TimeoutError) as error:
            raise DialdeskError("CONTROL_UNCERTAIN") from error
        await self._note(identity, call, "TRANSFER", {"by": identity.id, "to": shown})
        return ControlAnswer()

    async def _open(
        self, connection: Connection, identity: Identity, call_id: str, control: Control
    ) -> tuple[Provider, CallReference]:
        """The call as its provider knows it, and the provider, which has this control."""
        found = await calls.visible(connection, identity.calls, call_id)
        if found is None:
            raise DialdeskError("NOT_FOUND", what="call")
        if found.status is Status.ENDED:
            raise DialdeskError("CALL_ENDED")
        attempt = await attempts.of_call(connection, identity.tenant_id, call_id)
        if attempt is None:  # it is on a work phone
            raise DialdeskError("NOT_SUPPORTED")
        try:
            cloud = await self._accounts.open(connection, identity.tenant_id, attempt.line_id)
        except SealError as error:
            raise DialdeskError("UNAVAILABLE") from error
        if control not in cloud.controls:
            raise DialdeskError("NOT_SUPPORTED")
        return cloud, reference(attempt)

    async def _note(self, identity: Identity, call: CallReference, kind: str, said: dict[str, str]) -> None:
        """Keep in the call's history what was done to it, and by whom."""
        async with self._database.connection() as connection:
            stored = await calls.read(connection, identity.tenant_id, call.tag)
            assert stored is not None
            source: Source = "api" if identity.kind == "api_key" else "agent"
            why = Explanation(source=source, kind=kind, effect="none", data=msgspec.json.encode(said))
            await calls.note(connection, stored, why)
        log.info("control", call_id=call.tag, kind=kind, by=identity.id)


@asynccontextmanager
async def _asking() -> AsyncIterator[None]:
    """Bound what is asked of a provider, and say what it refuses."""
    try:
        async with asyncio.timeout(DEADLINE):
            yield
    except Unsupported as error:
        raise DialdeskError("NOT_SUPPORTED") from error
    except PlacementRefused as error:
        raise DialdeskError("CONTROL_REFUSED", code=error.code) from error
    except Refused as error:  # the address of the line leads inside: nothing was sent
        raise DialdeskError("CONTROL_REFUSED", code="address") from error
