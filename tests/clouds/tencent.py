"""Tencent Cloud Contact Center on loopback: API 3.0 and its signature, and data push, from the vendor's pages."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import web

from tests.audio_files import make_audio
from tests.clouds.cloud import How, PlacedCall, Story, WebhookRequestSpec

APPLICATION = 1400000000
SECRET_ID = "AKIDnotreal"
SECRET_KEY = "secret-key-not-real"
PUSH_USER, PUSH_PASSWORD = "tccc", "push-password-not-real"
T = TypeVar("T")

AUDIO = make_audio("mp3", 1.0)

WAITED, TALKED = 8, 42
"""Seconds of a call that is answered."""

ENDS: dict[Story, tuple[int, str]] = {
    "answered": (1, "ok"),
    "no_answer": (202, "notAnswer"),
    "busy": (206, "busy"),
    "rejected": (203, "userReject"),
    "invalid": (205, "numberNotExist"),
}


class Refused(Exception):  # noqa: N818 - an answer
    """The answer is an error with this code."""


class Asked(msgspec.Struct, rename="pascal", forbid_unknown_fields=True, kw_only=True):
    """What every question of this API has."""

    sdk_app_id: int


class CreateCallOutSession(Asked, rename="pascal", forbid_unknown_fields=True):
    """A dual call; what the pages call 已废弃 is unknown here."""

    user_id: str
    callee: str
    is_force_use_mobile: bool
    callers: list[str] | None = None
    uui: str = msgspec.field(name="UUI", default="")


class OfSession(Asked, rename="pascal", forbid_unknown_fields=True):
    """HangUpCall, DescribeTelSession."""

    session_id: str


class DescribeSessionDetail(OfSession, rename="pascal", forbid_unknown_fields=True):
    """One session, whole."""

    start_timestamp: int | None = None
    end_timestamp: int | None = None


class DescribeTelCdr(Asked, rename="pascal", forbid_unknown_fields=True):
    """Records; pages count from 0."""

    start_time_stamp: int
    end_time_stamp: int
    page_size: int
    page_number: int
    session_ids: list[str] | None = None
    phones: list[str] | None = None


def tc3_signature(
    secret_key: str, *, date: str, service: str, timestamp: str, content_type: str, host: str, body: bytes
) -> str:
    """TC3-HMAC-SHA256 of a POST to `/` that signs content-type and host (cloud.tencent.com/document/api/213/30654)."""
    canonical = "\n".join(
        [
            "POST",
            "/",
            "",
            f"content-type:{content_type}",
            f"host:{host}",
            "",
            "content-type;host",
            hashlib.sha256(body).hexdigest(),
        ]
    )
    text = "\n".join(
        ["TC3-HMAC-SHA256", timestamp, f"{date}/{service}/tc3_request", hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"TC3{secret_key}".encode()
    for part in (date, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


class TencentCloud:
    """One application. What is public beside the face of a cloud is for tests of this vendor."""

    def __init__(self) -> None:
        self.url = ""
        self.audio = AUDIO
        self.placed: list[PlacedCall] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.heads: list[Mapping[str, str]] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.cdrs: list[dict[str, Any]] = []
        self.answers: dict[str, web.Response] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.refusals: dict[str, str] = {}
        self.expired = False
        self._next: tuple[How, str | None] = ("normal", None)
        self._next_session: dict[str, str] = {}

    # --- the face of a cloud ------------------------------------------------------------------------------------------

    def line(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and secrets of a line here."""
        settings = {"sdkAppId": APPLICATION, "baseUrl": self.url, "callers": ["+862066247698"]}
        secrets = {
            "secretId": SECRET_ID,
            "secretKey": SECRET_KEY,
            "pushUser": PUSH_USER,
            "pushPassword": PUSH_PASSWORD,
        }
        return settings, secrets

    def next_place(self, how: How, code: str | None = None) -> None:
        """Say what becomes of the next order."""
        self._next = (how, code)

    async def play(
        self,
        tag: str,
        story: Story,
        *,
        send: Callable[[WebhookRequestSpec], Awaitable[None]],
        order: Literal["right", "reversed", "twice", "lost_end"] = "right",
    ) -> None:
        """End a call: its session is gone, its record can be found, and record and recordings are pushed."""
        pushes = self.pushes(tag, story)
        orders = {"right": pushes, "reversed": pushes[::-1], "twice": [*pushes, *pushes], "lost_end": pushes[1:]}
        for push in orders[order]:
            await send(push)

    # --- what tests of this vendor do ---------------------------------------------------------------------------------

    def session_of(self, tag: str) -> str:
        """The session of an order."""
        return self._next_session[tag]

    def live(self, tag: str, status: str, **times: int) -> None:
        """Say where a session stands, and its times in seconds."""
        self.sessions[self.session_of(tag)].update({"SessionStatus": status, **times})

    def pushes(self, tag: str, story: Story) -> list[WebhookRequestSpec]:
        """Let a call end now, and return what is pushed: the record, then the recordings of agent and customer."""
        session = self.session_of(tag)
        placed = next(call for call in self.placed if call.tag == tag)
        self.sessions.pop(session, None)
        answered = story == "answered"
        ended = int(time.time())
        accepted = ended - TALKED if answered else 0
        number, word = ENDS[story]
        record: dict[str, Any] = {
            "SessionId": session,
            "Caller": "008602066247698",
            "Callee": placed.callee,
            "Direction": 1,
            "CallType": 1,
            "StartTimestamp": ended - TALKED - 2 * WAITED,
            "RingTimestamp": 0 if story == "invalid" else ended - TALKED - WAITED,
            "AcceptTimestamp": accepted,
            "EndedTimestamp": ended,
            "Duration": TALKED if answered else 0,
            "EndStatusString": word,
            "HungUpSide": "user",
            "ServeParticipants": [{"Mail": placed.seat, "Type": "staffPhoneSeat", "RecordId": f"{session}-seat"}],
            "AFieldOfNextYear": {"Anything": 1},
        }
        found = {**record, "EndStatus": number, "UUI": tag}
        if answered:
            found |= {"RecordURL": self.recording(session), "RecordId": session}
        self.cdrs.append(found)
        pushes = [self.push("cdr", {**record, "SdkAppId": APPLICATION, "Uui": tag})]
        if answered:
            for side, name in ((placed.seat, f"{session}-seat"), (placed.callee, session)):
                body = {
                    "SdkAppId": APPLICATION,
                    "RecordId": name,
                    "SessionId": session,
                    "Timestamp": ended,
                    "EndpointUser": side,
                    "RecordURL": self.recording(name),
                }
                pushes.append(self.push("record", body))
        return pushes

    def push(self, action: str, body: object) -> WebhookRequestSpec:
        """Return a message as it is pushed."""
        pair = base64.b64encode(f"{PUSH_USER}:{PUSH_PASSWORD}".encode()).decode()
        headers = {
            "content-type": "application/json;charset=utf8",
            "x-tccc-push-uuid": str(uuid.uuid4()),
            "authorization": f"Basic {pair}",
        }
        return WebhookRequestSpec(
            query={"action": action, "version": "1"}, headers=headers, body=json.dumps(body).encode()
        )

    def recording(self, name: str) -> str:
        """Where a recording can be fetched, by whoever has the URL, until `expired`."""
        return f"{self.url}/recordings/{name}.mp3?sign=recording-signature-not-real"

    # --- the API ------------------------------------------------------------------------------------------------------

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Verify the signature and answer one action."""
        body = await request.read()
        action = request.headers.get("X-TC-Action", "")
        self.heads.append(request.headers.copy())
        try:
            self._verify(request, body)
            self.asked.append((action, json.loads(body)))
            if action in self.held:
                await self.held[action].wait()
            if action in self.answers:
                return self.answers[action]
            if action in self.refusals:
                raise Refused(self.refusals[action])
            if action == "CreateCallOutSession":
                return await self._place(request, _decode(body, CreateCallOutSession))
            answer = self._answer(action, body)
        except Refused as refused:
            answer = {"Error": {"Code": str(refused), "Message": f"{SECRET_ID}: {refused}, said the fake"}}
        return web.json_response({"Response": {**answer, "RequestId": str(uuid.uuid4())}})

    async def send_audio(self, request: web.Request) -> web.Response:
        """Serve a recording."""
        if self.expired or request.query.get("sign") != "recording-signature-not-real":
            return web.Response(status=403)
        return web.Response(body=AUDIO, content_type="audio/mpeg")

    def _verify(self, request: web.Request, body: bytes) -> None:
        shown = re.fullmatch(
            r"TC3-HMAC-SHA256 Credential=(\w+)/([\d-]+)/(\w+)/tc3_request, SignedHeaders=content-type;host,"
            r" Signature=([0-9a-f]{64})",
            request.headers.get("Authorization", ""),
        )
        timestamp = request.headers.get("X-TC-Timestamp", "")
        if request.method != "POST" or request.path_qs != "/" or request.headers.get("X-TC-Version") != "2020-02-10":
            raise Refused("InvalidParameter")
        if shown is None or not timestamp.isdigit():
            raise Refused("AuthFailure.InvalidAuthorization")
        key, date, service, signature = shown.groups()
        if key != SECRET_ID:
            raise Refused("AuthFailure.SecretIdNotFound")
        at = int(timestamp)
        if abs(at - time.time()) > 300 or time.strftime("%Y-%m-%d", time.gmtime(at)) != date or service != "ccc":
            raise Refused("AuthFailure.SignatureExpire")
        expected = tc3_signature(
            SECRET_KEY,
            date=date,
            service=service,
            timestamp=timestamp,
            content_type=request.headers["Content-Type"],
            host=request.headers["Host"],
            body=body,
        )
        if not hmac.compare_digest(expected, signature):
            raise Refused("AuthFailure.SignatureFailure")

    async def _place(self, request: web.Request, order: CreateCallOutSession) -> web.StreamResponse:
        if order.sdk_app_id != APPLICATION or not order.is_force_use_mobile or not order.callee.startswith("0086"):
            raise Refused("InvalidParameterValue")
        if len(order.uui.encode()) > 1024:
            raise Refused("InvalidParameter")
        (how, code), self._next = self._next, ("normal", None)
        if how == "refuse":
            raise Refused(code or "FailedOperation.SeatStatusBusy")
        session = str(uuid.uuid4())
        self.placed.append(PlacedCall(order.uui, order.callee, order.user_id))
        self._next_session[order.uui] = session
        self.sessions[session] = {
            "SessionID": session,
            "Callee": order.callee,
            "StaffEmail": order.user_id,
            "StartTimestamp": int(time.time()),
            "RingTimestamp": 0,
            "AcceptTimestamp": 0,
            "SessionStatus": "seatJoining",
            "Direction": 1,
        }
        match how:
            case "silent":
                await asyncio.Event().wait()
            case "drop":
                assert request.transport is not None
                request.transport.abort()
            case "garbage":
                return web.Response(text="<html>bad gateway?</html>", content_type="text/html")
        return web.json_response({"Response": {"SessionId": session, "RequestId": str(uuid.uuid4())}})

    def _answer(self, action: str, body: bytes) -> dict[str, Any]:
        match action:
            case "HangUpCall":
                hung = _decode(body, OfSession)
                if self.sessions.pop(hung.session_id, None) is None:
                    raise Refused("FailedOperation.SessionNotExists")
                return {}
            case "DescribeTelSession":
                asked = _decode(body, OfSession)
                if asked.session_id not in self.sessions:
                    raise Refused("FailedOperation.SessionNotExists")
                return {"Session": self.sessions[asked.session_id]}
            case "DescribeTelCdr":
                return self._page(_decode(body, DescribeTelCdr))
            case "DescribeSessionDetail":
                detail = _decode(body, DescribeSessionDetail)
                found = [cdr for cdr in self.cdrs if cdr["SessionId"] == detail.session_id]
                if not found:
                    raise Refused("InvalidParameterValue.RecordNotExist")
                return found[0]
            case _:
                raise Refused("InvalidAction")

    def _page(self, asked: DescribeTelCdr) -> dict[str, Any]:
        span = asked.end_time_stamp - asked.start_time_stamp
        if asked.page_size > 100 or not 0 < span < 90 * 86400 or asked.end_time_stamp > time.time() + 600:
            raise Refused("InvalidParameterValue")
        found = [
            cdr
            for cdr in self.cdrs
            if asked.start_time_stamp <= cdr["StartTimestamp"] <= asked.end_time_stamp
            and (asked.session_ids is None or cdr["SessionId"] in asked.session_ids)
            and (asked.phones is None or cdr["Callee"] in asked.phones)
        ]
        first = asked.page_number * asked.page_size
        return {"TotalCount": len(found), "TelCdrList": found[first : first + asked.page_size]}


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Refused("InvalidParameter") from error


@asynccontextmanager
async def tencent_cloud() -> AsyncIterator[TencentCloud]:
    """Serve one until the block ends; whoever is still waiting for an answer is cut off."""
    cloud = TencentCloud()
    app = web.Application()
    app.router.add_get("/recordings/{name}", cloud.send_audio)
    app.router.add_route("*", "/{path:.*}", cloud.respond)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cloud.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield cloud
    finally:
        await runner.cleanup()
