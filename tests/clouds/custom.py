"""The two made-up vendors of docs/providers/custom.md on loopback. Their settings are those of the page, so that what
users copy from it is what is tested; how they verify signatures is written here once more, by hand."""

import asyncio
import hashlib
import hmac
import itertools
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo

from aiohttp import web

from tests.audio_files import make_audio
from tests.clouds.cloud import How, PlacedCall, Sequence, Story, WebhookRequestSpec

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "custom.md"
AUDIO = make_audio("mp3", 1.0)
TALKED = 42
BEIJING = ZoneInfo("Asia/Shanghai")

Vendor = Literal["bellbird", "yunhu"]


def described(vendor: Vendor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and secrets as they stand on the page."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = dict(
        re.findall(rf"^```json custom-(settings|secrets) {vendor}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    )
    return json.loads(blocks["settings"]), json.loads(blocks["secrets"])


class _Vendor:
    """What both have in common: orders, how the next of them goes, and recordings behind links that expire."""

    name: Vendor

    def __init__(self) -> None:
        self.url = ""
        self.audio = AUDIO
        self.placed: list[PlacedCall] = []
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self._next: tuple[How, str | None] = ("normal", None)
        self._links: set[str] = set()

    def line(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and secrets of a line here: the page's, but for where they lead."""
        settings, hidden = described(self.name)
        return {**settings, "baseUrl": self.url}, hidden

    def next_place(self, how: How, code: str | None = None) -> None:
        """Say what becomes of the next order."""
        self._next = (how, code)

    def void_links(self) -> None:
        """The links to recordings have expired."""
        self._links.clear()

    async def recording(self, request: web.Request) -> web.Response:
        """Serve a recording while its link is valid."""
        if request.query.get("sign") not in self._links:
            return web.Response(status=403)
        return web.Response(body=AUDIO, content_type="audio/mpeg")

    def link(self) -> str:
        """Make a link."""
        sign = secrets.token_hex(8)
        self._links.add(sign)
        return f"{self.url}/audio/call.mp3?sign={sign}"

    def _how(self) -> tuple[How, str | None]:
        how, self._next = self._next, ("normal", None)
        return how

    async def _odd(self, request: web.Request, how: How) -> web.StreamResponse | None:
        match how:
            case "silent":
                await asyncio.Event().wait()
            case "drop":
                assert request.transport is not None
                request.transport.close()
            case "garbage":
                return web.Response(text="<html>Welcome</html>", content_type="text/html")
        return None


class Bellbird(_Vendor):
    """JSON, HMAC-SHA256, live events."""

    name: Vendor = "bellbird"

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, dict[str, Any]] = {}
        self.page_size = 2
        self.refusals: dict[str, tuple[int, str]] = {}
        self._ids = itertools.count(1)
        self._deliveries = itertools.count(1)

    async def play(
        self,
        tag: str,
        story: Story,
        *,
        send: Callable[[WebhookRequestSpec], Awaitable[None]],
        order: Sequence = "right",
    ) -> None:
        """Dialling and ringing come in one batch; then the answer, the hang-up, and the record, each by itself."""
        messages = self.story(tag, story)
        if order == "lost_end":
            messages = messages[:-2]
        if order == "reversed":
            messages.reverse()
        if order == "twice":
            messages = [message for message in messages for _ in range(2)]
        for message in messages:
            await send(message)

    def story(self, tag: str, story: Story) -> list[WebhookRequestSpec]:
        """End a call, and return the messages that tell of it."""
        call = next(each for each in self.calls.values() if each["reference"] == tag)
        ended = datetime.now(UTC).replace(microsecond=0)
        answered = ended - timedelta(seconds=TALKED)
        causes = {
            "answered": "normal", "no_answer": "no_answer", "busy": "busy", "rejected": "declined",
            "invalid": "unallocated",
        }  # fmt: skip
        brief = {"id": call["id"], "reference": tag}
        batches = [[("call.dialing", brief, answered - timedelta(seconds=9)), ("call.ringing", brief, answered)]]
        call |= {"state": "over", "endedAt": _iso(ended), "cause": causes[story], "talkSeconds": 0, "answeredAt": None}
        hangup = {**brief, "cause": causes[story], "endedAt": _iso(ended)}
        if story == "answered":
            call |= {"answeredAt": _iso(answered), "talkSeconds": TALKED}
            call["recording"] = {"id": f"rec_{call['id']}", "url": self.link()}
            batches.append([("call.answered", {**brief, "answeredAt": _iso(answered)}, answered)])
            hangup["answeredAt"] = _iso(answered)
        batches.append([("call.hangup", hangup, ended)])
        batches.append([("call.record", dict(call), ended)])
        return [
            self.message([{"type": kind, "leg": "customer", "at": _iso(at), "call": told} for kind, told, at in batch])
            for batch in batches
        ]

    def message(
        self, events: list[dict[str, Any]], *, at: datetime | None = None, key: str = "bell-push-key-not-real"
    ) -> WebhookRequestSpec:
        """A message, signed with its time."""
        body = json.dumps({"delivery": f"d_{next(self._deliveries)}", "events": events}).encode()
        time = str(int((at or datetime.now(UTC)).timestamp()))
        digest = hmac.new(key.encode(), time.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers = {"content-type": "application/json", "bell-signature": f"t={time},v1={digest}"}
        return WebhookRequestSpec(headers=headers, body=body)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Verify and carry out a request."""
        body = await request.read()
        signed = "\n".join(
            (request.method, request.path, request.rel_url.raw_query_string, request.headers.get("X-Bell-Time", ""))
        ).encode() + b"\n" + body  # fmt: skip
        digest = hmac.new(b"bell-secret-not-real", signed, hashlib.sha256).hexdigest()
        if request.headers.get("X-Bell-Key") != "bell-key-not-real":
            return _no(401, "unknown_key")
        if request.headers.get("Authorization") != f"BELL1 {digest}":
            return _no(401, "bad_signature")
        if abs(int(request.headers["X-Bell-Time"]) - datetime.now(UTC).timestamp()) > 60:
            return _no(401, "bad_time")
        said = json.loads(body) if body else {}
        self.asked.append((request.method, request.path, said))
        return await self._carried_out(request, said)

    async def _carried_out(self, request: web.Request, said: dict[str, Any]) -> web.StreamResponse:
        name = request.match_info.get("id", "")
        if f"{request.method} {request.path}" in self.refusals:
            return _no(*self.refusals[f"{request.method} {request.path}"])
        match request.method, request.path.split("/")[2:]:
            case "POST", ["calls"]:
                return await self._place(request, said)
            case "GET", ["calls"]:
                found = [call for call in self.calls.values() if call["orderedAt"] >= request.query["from"]]
                begin = (int(request.query["page"]) - 1) * self.page_size
                return _yes(calls=found[begin : begin + self.page_size])
            case "GET", ["account"]:
                return _yes(account={"balance": "12.50"})
            case "GET", ["recordings", _]:
                known = any(call.get("recording", {}).get("id") == name for call in self.calls.values())
                return _yes(url=self.link()) if known else _no(404, "no_such_call")
            case method, ["calls", _, *_] if name in self.calls:
                call = self.calls[name]
                if method != "GET" and call["state"] == "over":
                    return _no(404, "no_such_call")
                return _yes(call=call)
            case _:
                return _no(404, "no_such_call")

    async def _place(self, request: web.Request, said: dict[str, Any]) -> web.StreamResponse:
        how, code = self._how()
        if how == "refuse":
            return _no(422, code or "number_invalid")
        assert isinstance(said["ringSeconds"], int)
        call = {
            "id": f"c_{next(self._ids)}",
            "reference": said["reference"],
            "state": "dialing",
            "orderedAt": _iso(datetime.now(UTC)),
        }
        self.calls[call["id"]] = call
        self.placed.append(PlacedCall(said["reference"], said["to"], said["agent"]["number"]))
        return await self._odd(request, how) or _yes(call=call)


class Yunhu(_Vendor):
    """Forms, MD5 over sorted fields, one callback with a token."""

    name: Vendor = "yunhu"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, str]] = []
        self.hung_up: list[str] = []

    async def play(
        self,
        tag: str,
        story: Story,
        *,
        send: Callable[[WebhookRequestSpec], Awaitable[None]],
        order: Sequence = "right",
    ) -> None:
        """End a call: its record is on the list, and is sent once, twice or never."""
        row = self.row(tag, story)
        self.rows.append(row)
        for _ in range({"right": 1, "reversed": 1, "twice": 2, "lost_end": 0}[order]):
            await send(self.message(row))

    def row(self, tag: str, story: Story) -> dict[str, str]:
        """The record of a call that has just ended."""
        ended = datetime.now(BEIJING)
        answered = story == "answered"
        results = {"answered": "0", "no_answer": "1", "busy": "2", "rejected": "3", "invalid": "4"}
        return {
            "userData": tag,
            "answer": f"{ended - timedelta(seconds=TALKED):%Y%m%d%H%M%S}" if answered else "",
            "hangup": f"{ended:%Y%m%d%H%M%S}",
            "billSec": str(TALKED) if answered else "0",
            "result": results[story],
            "recordFile": self.link() if answered else "",
        }

    def message(self, row: dict[str, str], shown: str = "yunhu-push-not-real") -> WebhookRequestSpec:
        """A callback."""
        headers = {"content-type": "application/x-www-form-urlencoded", "x-push-token": shown}
        return WebhookRequestSpec(headers=headers, body=urlencode(row).encode())

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Verify and carry out a request."""
        fields = dict(parse_qsl((await request.read()).decode(), keep_blank_values=True))
        sign = fields.pop("sign", "")
        text = "&".join(f"{name}={fields[name]}" for name in sorted(fields) if fields[name]) + "&key=yunhu-key-not-real"
        if sign != hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper():
            return _code("1001")
        time = datetime.strptime(fields["time"], "%Y%m%d%H%M%S").replace(tzinfo=BEIJING)
        if fields["appId"] != "ent-1001" or abs(time - datetime.now(UTC)) > timedelta(minutes=1):
            return _code("1001")
        self.asked.append((request.method, request.path, fields))
        match request.path:
            case "/openapi/call.do":
                how, code = self._how()
                if how == "refuse":
                    return _code(code or "3001")
                self.placed.append(PlacedCall(fields["userData"], fields["tel"], fields["agentNo"]))
                return await self._odd(request, how) or _code("0")
            case "/openapi/hangup.do":
                if any(row["userData"] == fields["userData"] for row in self.rows):
                    return _code("3002")
                self.hung_up.append(fields["userData"])
                return _code("0")
            case "/openapi/cdr.do":
                rows = [row for row in self.rows if fields["begin"] <= row["hangup"] <= fields["end"]]
                return _code("0", rows=[row for row in rows if row["userData"] == fields["userData"]])
            case _:
                return _code("0")


@asynccontextmanager
async def bellbird_cloud() -> AsyncIterator[Bellbird]:
    """Serve Bellbird on a free port of 127.0.0.1 until the block ends."""
    cloud = Bellbird()
    async with _served(cloud, cloud.answer, "/v2/{function}", "/v2/{function}/{id}", "/v2/{function}/{id}/{control}"):
        yield cloud


@asynccontextmanager
async def yunhu_cloud() -> AsyncIterator[Yunhu]:
    """Serve Yunhu on a free port of 127.0.0.1 until the block ends."""
    cloud = Yunhu()
    async with _served(cloud, cloud.answer, "/openapi/{function}"):
        yield cloud


@asynccontextmanager
async def _served(
    cloud: _Vendor, answer: Callable[[web.Request], Awaitable[web.StreamResponse]], *paths: str
) -> AsyncIterator[None]:
    app = web.Application()
    for path in paths:
        app.router.add_route("*", path, answer)
    app.router.add_get("/audio/{name}", cloud.recording)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cloud.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield
    finally:
        await runner.cleanup()


def _yes(**told: Any) -> web.Response:
    return web.json_response({"ok": True, **told})


def _no(status: int, code: str) -> web.Response:
    return web.json_response({"ok": False, "error": {"code": code, "message": "not done"}}, status=status)


def _code(code: str, **data: Any) -> web.Response:
    return web.json_response({"code": code, "msg": "", "data": data})


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
