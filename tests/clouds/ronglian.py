"""Ronglian on loopback: the calls of one sub-account, written from what is public of REST API 2013-12-26.

Requests are verified by the description of the signature, not by the adapter's own. Codes that the vendor does not
publish are made up here, and named so.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal
from xml.sax.saxutils import escape

from aiohttp import web

from tests.audio_files import make_audio
from tests.clouds.cloud import How, PlacedCall, Sequence, Story, WebhookRequestSpec

APP_ID = "8a48b551000000000000000000000000"
SUB_SID = "5ub51d00000000000000000000000000"
SUB_TOKEN = "sub-token-not-real"
CALLBACK_URL = "https://dialdesk.example/webhooks/ronglian/secret-not-real"
AUDIO = make_audio("wav", 1.0)

WAITED, TALKED = 8, 42
"""Seconds of a call that is answered."""

BYETYPES: dict[Story, str] = {"answered": "4", "no_answer": "-2", "busy": "8", "rejected": "-9", "invalid": "18"}
"""Why calls end; a refusal is not told from a telephone that rang in vain."""

BAD_SIGNATURE, UNKNOWN_ACCOUNT = "111109", "111141"
MADE_UP_BAD_REQUEST, MADE_UP_NO_SUCH_CALL = "999001", "999002"

_BEIJING = timezone(timedelta(hours=8))


class RonglianCloud:
    """One sub-account. Records and events are pushed in JSON or XML; with `asks_first` there are events of 鉴权 and no
    record. What is public beside the face of a cloud is for tests of this vendor."""

    def __init__(self, pushes: Literal["json", "xml"] = "json", *, asks_first: bool = False) -> None:
        self.url = ""
        self.audio = AUDIO
        self.placed: list[PlacedCall] = []
        self.orders: list[Mapping[str, str]] = []
        self.cancelled: list[Mapping[str, str]] = []
        self.asked: list[str] = []
        self.call_sids: dict[str, str] = {}
        self._pushes = pushes
        self._asks_first = asks_first
        self._over: set[str] = set()
        self._links: set[str] = set()
        self._ids = itertools.count(1)
        self._next: tuple[How, str | None] = ("normal", None)

    # --- the face of a cloud ------------------------------------------------------------------------------------------

    def line(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and secrets of a line here."""
        settings = {"appId": APP_ID, "subAccountSid": SUB_SID, "baseUrl": self.url, "record": True}
        return settings, {"subAccountToken": SUB_TOKEN, "callbackUrl": "" if self._asks_first else CALLBACK_URL}

    def next_place(self, how: How, code: str | None = None) -> None:
        """Say what becomes of the next order."""
        self._next = (how, code)

    async def play(
        self,
        tag: str,
        story: Story,
        *,
        send: Callable[[WebhookRequestSpec], Awaitable[None]],
        order: Sequence = "right",
    ) -> None:
        """End a call, and push what there is to be pushed of it."""
        self._over.add(self.call_sids[tag])
        pushed = self.events(tag, story) if self._asks_first else [("", "CDR", self.record(tag, story))]
        match order:
            case "reversed":
                pushed.reverse()
            case "twice":
                pushed *= 2
            case "lost_end":
                pushed.pop()
        for kind, root, said in pushed:
            await send(self.message(kind, root, said))

    # --- what tests of this vendor do ---------------------------------------------------------------------------------

    def record(self, tag: str, story: Story) -> dict[str, Any]:
        """The record of both legs of a call that has just ended."""
        call, common = self._known(tag)
        answered = story == "answered"
        ended = datetime.now(UTC)
        begun = ended - timedelta(seconds=TALKED)
        agent = common | {
            "caller": "01058364432",
            "called": call.seat,
            "beginCallTime": _local(begun - timedelta(seconds=2 * WAITED)),
            "ringingBeginTime": _local(begun - timedelta(seconds=2 * WAITED)),
            "ringingEndTime": _local(begun - timedelta(seconds=WAITED)),
            "starttime": _local(begun - timedelta(seconds=WAITED)),
            "endtime": _local(ended),
            "duration": str(TALKED + WAITED),
            "byetype": BYETYPES[story],
            "lostRate": "0.00",
            "lineNumber": "326",
        }
        customer = common | {
            "caller": call.seat,
            "called": call.callee,
            "beginCallTime": _local(begun - timedelta(seconds=WAITED)),
            "ringingBeginTime": _local(begun - timedelta(seconds=WAITED)),
            "ringingEndTime": _local(begun) if answered else "",
            "starttime": _local(begun) if answered else "",
            "endtime": _local(ended) if answered else "",
            "duration": str(TALKED) if answered else "0",
            "byetype": BYETYPES[story] if answered else "",
            "lostRate": "",
            "lineNumber": "263",
        }
        names = ("callerCdr", "calledCdr") if self._pushes == "json" else ("CallerCdr", "CalledCdr")
        recording = self.link(tag)  # of the agent too, who waits
        return {names[0]: agent, names[1]: customer, "orderid": f"CM{next(self._ids)}", "recordurl": recording}

    def events(self, tag: str, story: Story) -> list[tuple[str, str, dict[str, Any]]]:
        """The events of a call that has just ended: path, root and content."""
        call, common = self._known(tag)
        answered = story == "answered"
        ended = datetime.now(UTC)
        begun = ended - timedelta(seconds=TALKED)
        numbers = {"type": "1", "subtype": "0", "orderid": "CM1", "caller": call.seat, "called": call.callee}
        auth = {"action": "CallAuth"} | numbers | common
        established = {"action": "CallEstablish"} | numbers | common | {"starttime": _local(begun)}
        hangup = {"action": "Hangup"} | numbers | common
        hangup |= {
            "starttime": _local(begun),  # the agent's, where the customer does not answer
            "endtime": _local(ended),
            "talkDuration": str(TALKED),
            "byetype": BYETYPES[story],
            "recordurl": self.link(tag),
        }
        told = [("CallAuth", auth), *([("CallEstablish", established)] if answered else []), ("Hangup", hangup)]
        return [(kind, "request", said) for kind, said in told]

    def message(self, kind: str, root: str, said: Mapping[str, Any]) -> WebhookRequestSpec:
        """A push, as the vendor makes it."""
        if self._pushes == "json":
            return WebhookRequestSpec(
                kind=kind, headers={"content-type": "application/json"}, body=json.dumps(said).encode()
            )
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{_elements(said)}</{root}>'.encode()
        return WebhookRequestSpec(kind=kind, headers={"content-type": "text/xml"}, body=body)

    def link(self, tag: str) -> str:
        """A URL of the recording of a call."""
        sign = secrets.token_hex(8)
        self._links.add(sign)
        return f"{self.url}/recordings/{tag}.wav?sign={sign}"

    def void_links(self) -> None:
        """The links to recordings have expired."""
        self._links.clear()

    # --- the protocol -------------------------------------------------------------------------------------------------

    async def calls(self, request: web.Request) -> web.StreamResponse:
        """Answer one of the functions of calls."""
        function = request.match_info["function"]
        self.asked.append(function)
        if refused := _verified(request):
            return _failed(refused)
        fields = await request.json()
        return _failed(self._cancel(fields)) if function == "CallCancel" else await self._place(request, fields)

    async def recording(self, request: web.Request) -> web.Response:
        """Serve a recording while its link is valid."""
        if request.query.get("sign") not in self._links:
            return web.Response(status=403)
        return web.Response(body=AUDIO, content_type="audio/wav")

    async def _place(self, request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
        (how, code), self._next = self._next, ("normal", None)
        if how == "refuse":
            return _failed(code or MADE_UP_BAD_REQUEST)
        wrong = (
            not all(isinstance(value, str) for value in fields.values())
            or not all(fields.get(name, "").isdigit() for name in ("from", "to"))
            or len(fields["userData"].encode()) > 256
            or not {fields["needBothCdr"], fields["needRecord"]} <= {"0", "1"}
        )
        if wrong:
            return _failed(MADE_UP_BAD_REQUEST)
        call_sid = f"{next(self._ids):032}"
        self.orders.append(fields)
        self.placed.append(PlacedCall(fields["userData"], fields["to"], fields["from"]))
        self.call_sids[fields["userData"]] = call_sid
        match how:
            case "silent":
                await asyncio.Event().wait()
            case "drop":
                assert request.transport is not None
                request.transport.close()
            case "garbage":
                return web.Response(text="<html>502 Bad Gateway</html>", content_type="text/html", status=502)
        created = f"{datetime.now(_BEIJING):%Y-%m-%d %H:%M:%S}"
        return web.json_response(
            {"statusCode": "000000", "CallBack": {"callSid": call_sid, "dateCreated": created, "orderId": "CM1"}}
        )

    def _cancel(self, fields: Mapping[str, str]) -> str:
        self.cancelled.append(fields)
        if fields["appId"] != APP_ID or fields["type"] not in {"0", "1", "2"}:
            return MADE_UP_BAD_REQUEST
        call_sid = fields["callSid"]
        if call_sid not in self.call_sids.values() or call_sid in self._over:
            return MADE_UP_NO_SUCH_CALL
        self._over.add(call_sid)
        return "000000"

    def _known(self, tag: str) -> tuple[PlacedCall, dict[str, str]]:
        call = next(call for call in self.placed if call.tag == tag)
        return call, {"appId": APP_ID, "subId": SUB_SID, "callSid": self.call_sids[tag], "userData": tag}


@asynccontextmanager
async def ronglian_cloud(
    pushes: Literal["json", "xml"] = "json", *, asks_first: bool = False
) -> AsyncIterator[RonglianCloud]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    cloud = RonglianCloud(pushes, asks_first=asks_first)
    app = web.Application()
    app.router.add_post("/2013-12-26/SubAccounts/{sid}/Calls/{function:Callback|CallCancel}", cloud.calls)
    app.router.add_get("/recordings/{name}", cloud.recording)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cloud.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield cloud
    finally:
        await runner.cleanup()


def _verified(request: web.Request) -> str | None:
    """Return the code of what is wrong with a request's credentials."""
    if request.content_type != "application/json" or request.headers["Accept"] != "application/json":
        return MADE_UP_BAD_REQUEST
    try:
        sid, at = base64.b64decode(request.headers["Authorization"], validate=True).decode().split(":")
        said_at = datetime.strptime(at, "%Y%m%d%H%M%S").replace(tzinfo=_BEIJING)
    except (KeyError, ValueError):
        return BAD_SIGNATURE
    if SUB_SID != sid or SUB_SID != request.match_info["sid"]:
        return UNKNOWN_ACCOUNT
    digest = hashlib.new("md5", usedforsecurity=False)
    for part in (SUB_SID, SUB_TOKEN, at):
        digest.update(part.encode())
    wanted = "".join(f"{byte:02X}" for byte in digest.digest())
    fresh = abs(datetime.now(UTC) - said_at) < timedelta(minutes=5)
    return None if fresh and request.query_string == f"sig={wanted}" else BAD_SIGNATURE


def _failed(code: str) -> web.Response:
    """An answer that is nothing but a code, by HTTP 200 whatever it is."""
    return web.json_response({"statusCode": code} | ({} if code == "000000" else {"statusMsg": "失败"}))


def _elements(said: Mapping[str, Any]) -> str:
    return "".join(
        f"<{name}>{_elements(told) if isinstance(told, Mapping) else escape(told)}</{name}>"
        for name, told in said.items()
    )


def _local(at: datetime) -> str:
    return f"{at.astimezone(_BEIJING):%Y%m%d%H%M%S}"
