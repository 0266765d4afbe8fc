"""What would become of a dial: by which phone or line it would go, or why by none. Nothing is made, held or counted."""

from typing import Literal

from protocol.errors import DialdeskError
from server import limits, routing
from server.calls import DialRequest, agent_of, customer_of
from server.http import Answer, RequestInfo
from server.identity import Identity
from server.line_dial import weigh
from server.line_routing import Judged, choose_line, refusal
from storage import calls, do_not_call
from storage.database import Database
from storage.lines import LineForDial


class RoutingAnswer(Answer, frozen=True, kw_only=True):
    """What a dial would come to at this moment: `code` is the error that it would be refused with, else null.

    `deviceId` or `lineId` would carry the call. `lines` are the tenant's, each with what was made of it; an agent is
    told of those on which it could call. The last place of a line, or its last free extension, may be gone by then.
    """

    call_method: Literal["mobile", "cloud"]
    code: str | None
    message: str | None
    device_id: str | None
    line_id: str | None
    lines: list[Judged]


class Explain:
    """Explains routing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def explain(self, identity: Identity, body: DialRequest, request: RequestInfo) -> RoutingAnswer:
        """Tell by which phone or line a dial would go, or why by none; nothing is dialled.

        The body is that of a dial. Raises what is wrong with the request itself: NOT_FOUND, FORBIDDEN, INVALID_PHONE.
        """
        user_id = agent_of(identity, body)
        async with self._database.connection() as connection:
            agent = await calls.context(connection, identity.calls, user_id)
            if agent is None:
                raise DialdeskError("NOT_FOUND", what="agent")
            number, _ = await customer_of(connection, identity.tenant_id, body, agent.region)
            listed = await do_not_call.is_listed(connection, identity.tenant_id, number)
            cloud = (body.call_method or agent.call_method) == "cloud"
            known: list[LineForDial] = []
            able: list[LineForDial] = []
            judged: list[Judged] = []
            if cloud:
                known, wish = await weigh(
                    connection,
                    identity.tenant_id,
                    user_id,
                    number,
                    asked=body.line_id,
                    default=agent.default_line_id,
                    case_type=body.case_type,
                    tags=body.tags,
                )
                able, judged = choose_line(known, wish)
        device_id: str | None = None
        refused: DialdeskError | None = None
        try:
            if agent.disabled:
                raise DialdeskError("ACCOUNT_DISABLED")
            limits.decide(agent)
            if not cloud:
                device_id = routing.choose(agent.phones, asked=body.device_id, default=agent.default_device_id).id
            if listed:
                raise DialdeskError("DO_NOT_CALL")
            if cloud and not able:
                raise refusal(judged)
        except DialdeskError as error:
            if error.code == "NOT_FOUND":
                raise
            refused = error
        own = {line.id for line in known if line.seat is not None or line.needs_extension}
        return RoutingAnswer(
            call_method="cloud" if cloud else "mobile",
            code=None if refused is None else refused.code,
            message=None if refused is None else refused.message(request.language),
            device_id=device_id if refused is None else None,
            line_id=able[0].id if able and refused is None else None,
            lines=[one for one in judged if identity.only_user is None or one.line_id in own],
        )
