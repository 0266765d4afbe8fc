"""Alibaba Cloud CCC 2020-07-01 on loopback: RPC-style requests, ACS3-HMAC-SHA256, and events of channels.

Written from the vendor's pages and response models; the signature from "V3 request structure and signature", whose
published example a test holds it to.
"""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal
from urllib.parse import quote

from aiohttp import web

from tests.audio_files import make_audio
from tests.clouds.cloud import How, PlacedCall, Story, WebhookRequestSpec

INSTANCE = "ccc-not-real"
KEY_ID = "LTAI-not-real"
KEY_SECRET = "secret-not-real"
BROKER = "02160000001"

TALKED = 42
"""Seconds of a call that is answered."""

SKEW = timedelta(minutes=15)
"""How old a signed request may be."""

ENDS: dict[Story, tuple[str, str, str]] = {
    "answered": ("Success", "", "200 - Okay"),
    "no_answer": ("NoAnswer", "NoAnswer", "480 - Temporarily Unavailable"),
    "busy": ("NoAnswer", "Busy", "486 - Busy Here"),
    "rejected": ("Reject", "", "603 - Decline"),
    "invalid": ("NoAnswer", "NotExist", "404 - Not Found"),
}
"""ContactDisposition, EarlyMediaState and ReleaseReason of a story."""

PLACING = {"MakeCall", "StartBack2BackCall"}


class Refuse(Exception):  # noqa: N818 - an answer
    """An error of the vendor."""

    def __init__(self, status: int, code: str, message: str = "", params: list[str] | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"Code": code, "HttpStatusCode": status, "Message": message, "Params": params or []}


def signature(secret: str, method: str, query: Mapping[str, str], signed: Mapping[str, str], payload: bytes) -> str:
    """Return the ACS3-HMAC-SHA256 signature of a request to "/" with these headers, whose names are in lower case."""
    names = sorted(signed)
    canonical = "\n".join(
        (
            method,
            "/",
            "&".join(f"{quote(name, safe='-_.~')}={quote(query[name], safe='-_.~')}" for name in sorted(query)),
            "".join(f"{name}:{signed[name].strip()}\n" for name in names),
            ";".join(names),
            sha256(payload).hexdigest(),
        )
    )
    to_sign = f"ACS3-HMAC-SHA256\n{sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret.encode(), to_sign.encode(), sha256).hexdigest()


class Call:
    """A call that was ordered: its JobId, what was asked for, when, and its record once there is one."""

    def __init__(self, job_id: str, action: str, asked: Mapping[str, str], taken_at: datetime) -> None:
        self.job_id = job_id
        self.asked = asked
        self.taken_at = taken_at
        self.type = "BACK2BACK" if action == "StartBack2BackCall" else "OUTBOUND"
        self.agent = asked.get("UserId", "")
        self.caller = asked.get("Caller", "")
        self.callee = asked["Callee"]
        self.record: dict[str, Any] | None = None


class AliyunCloud:
    """One instance. What is public beside the face of a cloud is for tests of this vendor."""

    def __init__(self, mode: Literal["agent", "back2back"], clock: Callable[[], datetime]) -> None:
        self.url = ""
        self.placed: list[PlacedCall] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.calls: dict[str, Call] = {}
        self.other_records: list[dict[str, Any]] = []
        self.released: list[str] = []
        self.answers: dict[str, web.Response] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.recording_lives = 86400
        self.audio = make_audio("wav", 1.0)
        self._mode = mode
        self._clock = clock
        self._next: tuple[How, str | None] = ("normal", None)
        self._nonces: set[str] = set()
        self._actions: dict[str, Callable[[dict[str, str]], object]] = {
            "MakeCall": lambda asked: self._take("MakeCall", asked),
            "StartBack2BackCall": lambda asked: self._take("StartBack2BackCall", asked),
            "ReleaseCall": self._release,
            "MuteCall": self._control,
            "UnmuteCall": self._control,
            "BlindTransfer": self._control,
            "GetCallDetailRecord": self._record,
            "ListCallDetailRecordsV2": self._records,
            "GetMonoRecording": self._recording,
            "GetInstance": lambda _: {"Name": "Not real", "Status": "Normal", "NumberList": [{"Number": BROKER}]},
        }

    def line(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return settings and secrets, as JSON, of a line at this cloud."""
        settings = {"instanceId": INSTANCE, "mode": self._mode, "broker": BROKER, "baseUrl": self.url}
        return settings, {"accessKeyId": KEY_ID, "accessKeySecret": KEY_SECRET}

    def next_place(self, how: How, code: str | None = None) -> None:
        """Say what becomes of the next order; `code` is the vendor's word for a refusal."""
        self._next = (how, code)

    async def play(
        self,
        tag: str,
        story: Story,
        *,
        send: Callable[[WebhookRequestSpec], Awaitable[None]],
        order: Literal["right", "reversed", "twice", "lost_end"] = "right",
    ) -> None:
        """Let a call that was placed go as the story says: send the events, and let its record be found."""
        call = self.calls[tag]
        call.record = self._told_of(call, story)
        events = self.events(tag, story)
        match order:
            case "reversed":
                events.reverse()
            case "twice":
                events = [event for event in events for _ in range(2)]
            case "lost_end":
                events = [event for event in events if event["eventType"] not in {"Released", "CDRReady"}]
        for event in events:
            await send(self.webhook(event))

    def webhook(self, event: Mapping[str, object]) -> WebhookRequestSpec:
        """Return an event as it is posted, to the one URL that an instance has."""
        body = json.dumps(event).encode()
        return WebhookRequestSpec(kind="status", headers={"content-type": "application/json"}, body=body)

    def events(self, tag: str, story: Story) -> list[dict[str, object]]:
        """Return what the vendor tells of such a call, in its order."""
        call = self.calls[tag]
        disposition, early_media, reason = ENDS[story]
        answered = disposition == "Success"
        at = self._times(call)
        common = {
            "instanceId": INSTANCE,
            "contactId": call.job_id,
            "callType": call.type,
            "mediaType": "AUDIO",
            "caller": call.caller,
            "callee": call.callee,
            "tags": tag,
        }
        agent = {"channelId": self.channel(call, "agent"), "agentId": call.agent} | common
        customer = {"channelId": self.channel(call, "customer")} | common
        end = {"releaseReason": reason, "releaseInitiator": call.callee}
        if early_media:
            end |= {"earlyMediaState": early_media, "earlyMediaText": f"{early_media} 0.9987"}
        events: list[tuple[str, dict[str, str], datetime]] = [
            ("Dialing", agent, at["begun"]),
            ("Ringing", agent, at["begun"]),
            ("Established", agent, at["agent"]),
            ("Dialing", customer, at["dialing"]),
            ("Ringing", customer, at["ringing"]),
            *([("Established", customer, at["established"])] if answered else []),
            ("Released", customer | end, at["released"]),
            ("Released", agent | {"releaseReason": "200 - Okay"}, at["released"]),
            ("CDRReady", common, at["released"]),
        ]
        if self._mode == "agent":
            events.insert(0, ("AgentDialing", {"agentId": call.agent} | common, at["begun"]))
        if answered:
            recording = {
                "instanceId": INSTANCE,
                "contactId": call.job_id,
                "agentIds": call.agent,
                "fileName": f"{call.job_id}.wav",
                "downloadURL": self.recording_url(call.job_id),
            }
            events.append(("RecordingReady", recording, at["released"]))
        return [{**told, "eventType": kind, "eventTime": _iso(when)} for kind, told, when in events]

    def channel(self, call: Call, side: Literal["agent", "customer"]) -> str:
        """Return a channel's id, which says where it leads: `ch:user:13100000000->80011474:1609225718294:job-1`."""
        stamp = f"{int(call.taken_at.timestamp() * 1000)}:{call.job_id}"
        if side == "customer":
            return f"ch:user:{BROKER}->{call.callee}:{stamp}"
        return f"ch:user:{call.callee}->{'80011474' if call.agent else call.caller}:{stamp}"

    def recording_url(self, job_id: str) -> str:
        """Return a signed URL of a recording, such as stands in an event."""
        expires = int(time.time()) + self.recording_lives
        return f"{self.url}/recordings/{job_id}.wav?Expires={expires}&Signature=not-real"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Verify a request and do what it asks."""
        try:
            action = await self._verified(request)
            asked = dict(request.query)
            self.asked.append((action, asked))
            if action in self.held:
                await self.held[action].wait()
            if action in self.answers:
                return self.answers.pop(action)
            if asked.get("InstanceId") != INSTANCE:
                raise Refuse(404, "NotExists.InstanceId", "The specified instance does not exist.")
            if action in PLACING:
                how, code = self._next
                self._next = ("normal", None)
                if how == "refuse":
                    raise _refusal(code or "InvalidOperation.UserState", asked)
                data = self._actions[action](asked)
                if how != "normal":
                    return await _misbehave(request, how)
            else:
                data = self._actions[action](asked)
        except Refuse as refusal:
            return web.json_response(refusal.body, status=refusal.status)
        told = {"Code": "OK", "HttpStatusCode": 200, "Message": "", "RequestId": "not-real"}
        return web.json_response(told if data is None else told | {"Data": data})

    async def record(self, request: web.Request) -> web.StreamResponse:
        """Serve a recording while its URL is valid."""
        if int(request.query.get("Expires", "0")) < time.time():
            return web.Response(status=403, text="<Code>AccessDenied</Code><Message>Request has expired.</Message>")
        return web.Response(body=self.audio, content_type="audio/wav")

    async def _verified(self, request: web.Request) -> str:
        """Return the action of a request that is signed with the key; raise Refuse for any other."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        payload = await request.read()
        algorithm, _, parts = headers.get("authorization", "").partition(" ")
        given = dict(part.split("=", 1) for part in parts.split(",") if "=" in part)
        names = given.get("SignedHeaders", "").split(";")
        needed = {"host", *(name for name in headers if name.startswith("x-acs-"))}
        if algorithm != "ACS3-HMAC-SHA256" or not needed <= set(names):
            raise Refuse(400, "IncompleteSignature", "The request signature does not conform to the standards.")
        if given.get("Credential") != KEY_ID:
            raise Refuse(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        signed = {name: headers.get(name, "") for name in names}
        right = signature(KEY_SECRET, request.method, request.query, signed, payload)
        if signed.get("x-acs-content-sha256") != sha256(payload).hexdigest() or given.get("Signature") != right:
            raise Refuse(400, "SignatureDoesNotMatch", "Specified signature is not matched with our calculation.")
        if abs(datetime.fromisoformat(signed["x-acs-date"]) - datetime.now(UTC)) > SKEW:
            raise Refuse(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
        if signed["x-acs-signature-nonce"] in self._nonces:
            raise Refuse(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces.add(signed["x-acs-signature-nonce"])
        action = signed["x-acs-action"]
        if request.method != "POST" or signed["x-acs-version"] != "2020-07-01" or action not in self._actions:
            raise Refuse(404, "InvalidAction.NotFound", "Specified api is not found.")
        return action

    def _take(self, action: str, asked: dict[str, str]) -> object:
        if action == "StartBack2BackCall":
            _require(asked, "Caller", "Callee", "Broker")
        _require(asked, "Callee")
        call = Call(f"job-{len(self.calls) + 1}", action, asked, self._clock())
        tag = asked.get("Tags", "")
        self.calls[tag] = call
        self.placed.append(PlacedCall(tag, call.callee, call.agent or call.caller))
        context = {"JobId": call.job_id, "InstanceId": INSTANCE, "CallType": call.type, "ChannelContexts": []}
        return {"ContextId": 123456, "CallContext": context, "UserContext": {"UserId": call.agent}}

    def _release(self, asked: dict[str, str]) -> object:
        call = self._live(asked)
        self.released.append(call.job_id)
        return {"CallContext": {"JobId": call.job_id}}

    def _control(self, asked: dict[str, str]) -> object:
        return {"CallContext": {"JobId": self._live(asked).job_id}}

    def _live(self, asked: dict[str, str]) -> Call:
        for call in self.calls.values():
            if call.job_id == asked.get("JobId") and call.record is None and call.agent == asked.get("UserId"):
                return call
        raise Refuse(404, "NotExists.JobId", f"The call {asked.get('JobId')} does not exist.")

    def _record(self, asked: dict[str, str]) -> object:
        for call in self.calls.values():
            if call.job_id == asked.get("ContactId"):
                return call.record
        raise Refuse(404, "NotExists.ContactId", "The specified contact does not exist.")

    def _records(self, asked: dict[str, str]) -> object:
        _require(asked, "PageNumber", "PageSize")
        number, size = int(asked["PageNumber"]), int(asked["PageSize"])
        if not (1 <= number <= 100 and 1 <= size <= 100):
            raise Refuse(400, "Parameter.Maximum", "The parameter must be less than or equal to 100.")
        types = json.loads(asked["ContactTypeList"])
        found = [
            record
            for record in [*self.other_records, *(call.record for call in self.calls.values() if call.record)]
            if record["ContactType"] in types
            and record["CalledNumber"] == asked["CalledNumber"]
            and int(asked["StartTime"]) <= record["StartTime"] <= int(asked["EndTime"])
        ]
        page = found[(number - 1) * size : number * size]
        return {"List": page, "PageNumber": number, "PageSize": size, "TotalCount": len(found)}

    def _recording(self, asked: dict[str, str]) -> object:
        for call in self.calls.values():
            if call.job_id == asked.get("ContactId") and call.record and call.record["RecordingReady"]:
                name = f"{call.job_id}.wav"
                return {"FileName": name, "FileUrl": self.recording_url(call.job_id), "Duration": TALKED * 1000}
        raise Refuse(404, "NotExists.Recording", "The specified recording does not exist.")

    def _told_of(self, call: Call, story: Story) -> dict[str, Any]:
        disposition, early_media, reason = ENDS[story]
        answered = disposition == "Success"
        at = {moment: int(when.timestamp() * 1000) for moment, when in self._times(call).items()}
        return {
            "ContactId": call.job_id,
            "ContactType": call.type,
            "ContactDisposition": disposition,
            "CallingNumber": call.caller,
            "CalledNumber": call.callee,
            "AgentIds": call.agent,
            "StartTime": at["begun"],
            "EstablishedTime": at["established"] if answered else "",
            "ReleaseTime": at["released"],
            "CallDuration": TALKED if answered else 0,
            "EarlyMediaState": early_media,
            "ReleaseInitiator": "customer",
            "ReleaseReason": reason,
            "RecordingReady": answered,
        }

    def _times(self, call: Call) -> dict[str, datetime]:
        """A minute at most, and as much as has gone by since the order: nothing lies in the future."""
        whole = min(max(self._clock() - call.taken_at, timedelta(0)), timedelta(seconds=60))
        shares = {"begun": 0, "agent": 10, "dialing": 10, "ringing": 15, "established": 30, "released": 100}
        return {moment: call.taken_at + whole * share / 100 for moment, share in shares.items()}


@asynccontextmanager
async def aliyun_cloud(
    mode: Literal["agent", "back2back"] = "agent", clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> AsyncIterator[AliyunCloud]:
    """Serve one instance on a free port of 127.0.0.1 until the block ends; whoever still waits is cut off.

    `clock` is that of the exchange, by which calls begin and end.
    """
    cloud = AliyunCloud(mode, clock)
    app = web.Application()
    app.router.add_get("/recordings/{name}", cloud.record)
    app.router.add_route("*", "/", cloud.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        cloud.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield cloud
    finally:
        await runner.cleanup()


async def _misbehave(request: web.Request, how: How) -> web.StreamResponse:
    if how == "garbage":
        return web.Response(text="<html>502 Bad Gateway</html>", content_type="text/html")
    if how == "drop":
        assert request.transport is not None
        request.transport.abort()
    await asyncio.Event().wait()  # until the client goes, or the cloud
    raise AssertionError


def _refusal(code: str, asked: Mapping[str, str]) -> Refuse:
    if code == "InvalidOperation.UserState":
        expected = "BREAK,READY,WORKING"
        message = f"User state (OFFLINE) does not meet expectations ({expected})"
        return Refuse(400, code, message, ["OFFLINE", expected])
    return Refuse(400, code, f"Refused: {asked['Callee']} by {KEY_ID}")


def _require(asked: Mapping[str, str], *names: str) -> None:
    for name in names:
        if not asked.get(name):
            raise Refuse(400, "Parameter.Null", f"The parameter {name} may not be null.")


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
