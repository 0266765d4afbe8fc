"""Seed 001's way to make a call: a dial over an Infinity line, by its words."""

from typing import Any

from server.calls import Calls, DialAnswer, DialRequest, Short
from server.http import Body
from server.identity import Identity
from storage.idempotency import Once


class MakeCall(Body, frozen=True, kw_only=True):
    """A call over the line `configId`, on an extension that the line lends. `customParams` come back in every event and
    record of the call, as `customData`."""

    config_id: Short
    customer_phone: Short | None = None
    customer_id: Short | None = None
    customer_name: Short | None = None
    order_id: Short | None = None
    custom_params: dict[str, Any] | None = None
    user_id: Short | None = None


class InfinityCalls:
    """Calls that are asked for by seed 001's route."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def make_call(self, identity: Identity, body: MakeCall, once: Once) -> DialAnswer:
        """Start a call over one line: the same as a dial with `callMethod` cloud and that line's id.

        Raises what a dial raises: NO_EXTENSION, LINE_BUSY, NO_SEAT, NO_LINE, LIMIT_LINE_DAY, LIMIT_HOURS, CALLS_OFF,
        DO_NOT_CALL, TEST_NUMBER_ONLY, INVALID_PHONE, INVALID_FIELD, ACCOUNT_DISABLED, NOT_FOUND, FORBIDDEN.
        """
        dial = DialRequest(
            call_method="cloud",
            line_id=body.config_id,
            customer_phone=body.customer_phone,
            customer_id=body.customer_id,
            customer_name=body.customer_name,
            order_id=body.order_id,
            custom_data=body.custom_params,
            user_id=body.user_id,
        )
        return await self._calls.dial(identity, dial, once)
