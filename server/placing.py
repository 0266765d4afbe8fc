"""Orders to providers: written once, right after their commit, by the node that took the dial (docs/architecture.md).

What a provider refuses, definitely and before anything rang, goes on at another line if it may (fail_over.py), else it
ends the call. What nobody knows stays open: the call is looked up by its tag (reconciling.py), and the order is never
written again, here or anywhere.
"""

import asyncio
from datetime import UTC, datetime

import structlog

from protocol.call import End, Evidence, HangupCause, Outcome, Progress, Status
from protocol.errors import DialdeskError
from server.calls import Calls
from server.fail_over import commit_to_next
from server.line_config import Accounts
from server.line_dial import LineOrder
from server.line_health import NO_ANSWER, LineHealth, told
from server.providers.provider import (
    UNREACHABLE,
    CallReference,
    Order,
    PlacementRefused,
    Refusal,
    Seat,
    Uncertain,
    Unsupported,
)
from server.ssrf import Refused
from server.telemetry import Metrics
from storage import attempts, extensions
from storage.attempts import Answered, Attempt
from storage.database import Database
from storage.vault import SealError

log = structlog.get_logger()

AT_ONCE = 200
"""Orders that one node writes at a time; more wait for their turn, and expire if it does not come."""

DEADLINE = 15.0
"""Seconds that a provider may take to answer an order, beside its adapter's own deadline."""

FIRST_LOOK = 3.0
"""Seconds after which a call that was placed, or may have been, is first looked up."""

CAUSES: dict[Refusal, HangupCause] = {
    Refusal.SEAT_BUSY: HangupCause.DEVICE_BUSY,
    Refusal.SEAT_OFFLINE: HangupCause.DEVICE_OFFLINE,
    Refusal.SEAT: HangupCause.NETWORK_ERROR,
    Refusal.CALLEE: HangupCause.RESTRICTED,
    Refusal.THROTTLED: HangupCause.NETWORK_ERROR,
    Refusal.EXTENSION: HangupCause.NETWORK_ERROR,
    Refusal.LINE: HangupCause.NETWORK_ERROR,
}


class Placing:
    """Writes the orders of one node, and what else is asked of a provider for a call."""

    def __init__(
        self, database: Database, accounts: Accounts, calls: Calls, health: LineHealth, metrics: Metrics
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._calls = calls
        self._health = health
        self._metrics = metrics
        self._places = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, order: LineOrder) -> None:
        """Write the order of a call that has just been committed. Nobody waits for it: events tell how it goes."""
        task = asyncio.create_task(self._place(order), name=f"order {order.call_id}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def stop(self) -> None:
        """Let orders that are being written be answered; what is left is looked up by a worker."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=DEADLINE)

    async def hang_up(self, tenant_id: str, call_id: str) -> None:
        """End a call at its provider. Raises HANGUP_UNSUPPORTED, UNAVAILABLE where the provider did not answer."""
        attempt = await self._call_off(tenant_id, call_id)
        if attempt.state == "refused":
            return
        if attempt.state == "over":
            await self._called_off(attempt)
            return
        async with self._database.connection() as connection:
            provider = await self._accounts.open(connection, tenant_id, attempt.line_id)
        try:
            async with asyncio.timeout(DEADLINE):
                await provider.hang_up(reference(attempt))
        except PlacementRefused as refused:
            raise DialdeskError("UNAVAILABLE" if refused.code == UNREACHABLE else "HANGUP_UNSUPPORTED") from refused
        except (Unsupported, Refused) as error:
            raise DialdeskError("HANGUP_UNSUPPORTED") from error
        except (Uncertain, TimeoutError) as error:
            raise DialdeskError("UNAVAILABLE") from error

    async def _place(self, order: LineOrder) -> None:
        wanted: LineOrder | None = order
        try:
            async with self._places:
                while wanted is not None:
                    wanted = await self._write(wanted)
        except (DialdeskError, SealError) as error:  # before it was sent it expires, after it is looked up
            log.warning("order not written", call_id=order.call_id, cause=repr(error))
        except Exception:
            log.exception("order failed", call_id=order.call_id)

    async def _write(self, wanted: LineOrder) -> LineOrder | None:
        """Write an order, once, and return that of the line which carries the call instead, if this one refuses it."""
        tenant_id, call_id = wanted.tenant_id, wanted.call_id
        async with self._database.connection() as connection:
            provider = await self._accounts.open(connection, tenant_id, wanted.line_id)
            attempt = await attempts.send(connection, tenant_id, call_id, DEADLINE + FIRST_LOOK, provider.controls)
        if attempt is None:
            return None  # it expired, or was called off
        order = Order(
            tag=call_id,
            callee=wanted.callee,
            caller=wanted.caller,
            seat=Seat(id=attempt.seat_id, number=attempt.seat_number),
            extension=attempt.extension,
            ring_timeout=wanted.ring_timeout,
            expires_at=wanted.expires_at,
        )
        try:
            async with asyncio.timeout(DEADLINE):
                placed = await provider.place(order)
        except PlacementRefused as refused:
            return await self._refused(wanted, attempt, refused)
        except Refused as refused:  # the address of the line leads inside: nothing was sent
            inside = PlacementRefused(Refusal.LINE, "address", str(refused), known=True)
            return await self._refused(wanted, attempt, inside)
        except (Uncertain, TimeoutError) as error:
            log.warning("order uncertain", call_id=call_id, provider=attempt.provider, cause=str(error))
            await self._keep(attempt, "uncertain")
            await self._health.failed(tenant_id, attempt.line_id, NO_ANSWER)
        else:
            await self._keep(attempt, "placed", provider_call_id=placed.provider_call_id)
            begun = Progress(Status.CALLING, datetime.now(UTC), Evidence.ASSUMED)
            await self._calls.hear(
                tenant_id, call_id, f"placed_{attempt.n}", "ORDER_PLACED", begun, b"{}", attempt=attempt.n
            )
            await self._health.placed(tenant_id, attempt.line_id)
        return None

    async def _keep(self, attempt: Attempt, state: Answered, *, provider_call_id: str | None = None) -> None:
        self._metrics.orders.labels(attempt.provider, state).inc()
        async with self._database.connection() as connection:
            await attempts.answered(
                connection,
                attempt.tenant_id,
                attempt.call_id,
                attempt.n,
                state,
                provider_call_id=provider_call_id,
                look_after=FIRST_LOOK,
            )

    async def _refused(self, wanted: LineOrder, attempt: Attempt, refused: PlacementRefused) -> LineOrder | None:
        """Take the call to another line, and return the order for it; end it where there is none.

        A call that rang all the same goes on, and is looked up. What ends here is weak evidence: should the provider
        have a record of the call, that counts.
        """
        log.info("order refused", call_id=attempt.call_id, provider=attempt.provider, code=refused.code)
        self._metrics.orders.labels(attempt.provider, f"refused_{refused.refusal}").inc()
        if refused.refusal is Refusal.LINE:
            await self._health.failed(attempt.tenant_id, attempt.line_id, told(refused))
        async with self._database.connection() as connection:
            following = await commit_to_next(connection, wanted, attempt, refused)
            if following is not None:
                log.info("order goes on", call_id=attempt.call_id, line_id=following.line_id)
                return following
            async with connection.transaction():
                final = await attempts.refuse(connection, attempt, refused.refusal, FIRST_LOOK)
                if final and attempt.extension is not None:
                    await extensions.give_back(
                        connection, attempt.tenant_id, attempt.call_id, attempt.n, refused.refusal
                    )
        if not final:
            log.warning("refused, but it rang", call_id=attempt.call_id, provider=attempt.provider, code=refused.code)
            return None
        end = End(
            outcome=Outcome.FAILED,
            at=datetime.now(UTC),
            by="provider",
            evidence=Evidence.ASSUMED,
            cause=CAUSES[refused.refusal],
            raw_cause=refused.code[:128],
        )
        once = f"refused_{attempt.n}"
        await self._calls.hear(attempt.tenant_id, attempt.call_id, once, "ORDER_REFUSED", end, b"{}", attempt=attempt.n)
        return None

    async def _call_off(self, tenant_id: str, call_id: str) -> Attempt:
        """Let no other attempt follow, and return the last one. Raises NOT_FOUND."""
        seen = 0
        async with self._database.connection() as connection:
            while True:
                attempt = await attempts.call_off(connection, tenant_id, call_id)
                if attempt is None:
                    raise DialdeskError("NOT_FOUND", what="call")
                if attempt.state != "refused" or attempt.n == seen:
                    return attempt
                seen = attempt.n  # refused while we waited: it has gone on, or it ends now

    async def _called_off(self, attempt: Attempt) -> None:
        """End a call whose order was not written, and never will be."""
        end = End(
            outcome=Outcome.CANCELLED,
            at=datetime.now(UTC),
            by="server",
            evidence=Evidence.SERVER,
            cause=HangupCause.CANCELLED,
        )
        await self._calls.hear(attempt.tenant_id, attempt.call_id, "called_off", "CALLED_OFF", end, b"{}")


def reference(attempt: Attempt) -> CallReference:
    """The call as its provider may know it."""
    return CallReference(
        tag=attempt.call_id,
        provider_call_id=attempt.provider_call_id,
        seat=Seat(id=attempt.seat_id, number=attempt.seat_number),
        extension=attempt.extension,
        callee=attempt.callee,
        ordered_at=attempt.ordered_at,
    )
