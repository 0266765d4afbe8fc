"""Tianrun on loopback: Clink2 and CtiCloud, written from what is published of either."""

import asyncio
import base64
import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlencode

from aiohttp import web

from tests.audio_files import make_audio
from tests.clouds.cloud import How, PlacedCall, Sequence, Story, WebhookRequestSpec

KEY_ID = "key-not-real"
SECRET = "secret-not-real"
ENTERPRISE = "7000002"
AUDIO = make_audio("mp3", 1.0)

WAITED, TALKED = 8, 42
"""Seconds of a call that is answered."""

RESULTS: dict[Story, tuple[int, int]] = {
    "answered": (33, 200),
    "no_answer": (32, 487),
    "busy": (32, 486),
    "rejected": (32, 603),
    "invalid": (32, 404),
}
"""The vendor's status and the customer's SIP answer."""

Platform = Literal["clink2", "cticloud"]


class TianrunCloud:
    """One account on one of the platforms. What is public beside the face of a cloud is for tests of this vendor."""

    def __init__(self, platform: Platform) -> None:
        self.url = ""
        self.audio = AUDIO
        self.placed: list[PlacedCall] = []
        self.asked: list[str] = []
        self.said: list[Mapping[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.seats: dict[str, dict[str, Any]] = {}
        self.recordings: set[str] = set()
        self.filters_tags = True
        self._platform = platform
        self._ids = itertools.count(9)
        self._next: tuple[How, str | None] = ("normal", None)
        self._failures: dict[str, list[tuple[int, str, str]]] = {}
        self._links: set[str] = set()

    # --- the face of a cloud ------------------------------------------------------------------------------------------

    def line(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and secrets of a line here."""
        who = {"accessKeyId": KEY_ID} if self._platform == "clink2" else {}
        settings = {"platform": self._platform, "baseUrl": self.url, "enterpriseId": ENTERPRISE, **who}
        return settings, {"secret": SECRET}

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
        """Push that the seat rings, that the customer has answered if so, and the end; and keep a record."""
        call = self.order_of(tag)
        row = self.record(tag, story)
        self.rows.append(row)
        live = {"enterpriseId": ENTERPRISE, "cno": call.seat, "mainUniqueId": row["uniqueId"], "requestUniqueId": tag}
        pushes = [{**live, "event": "ringing", "ringingTime": row["startTime"]}]
        if story == "answered":
            pushes.append({**live, "event": "previewOutcallBridge", "bridgeTime": row["bridgeTime"]})
        pushes.append(self.hung_up(row, tag))
        match order:
            case "reversed":
                pushes.reverse()
            case "twice":
                pushes = [push for push in pushes for _ in range(2)]
            case "lost_end":
                pushes.pop()
        for push in pushes:
            headers = {"content-type": "application/x-www-form-urlencoded"}
            await send(WebhookRequestSpec(headers=headers, body=urlencode(push).encode()))

    # --- what tests of this vendor do ---------------------------------------------------------------------------------

    def order_of(self, tag: str) -> PlacedCall:
        """The order that was taken with this tag."""
        return next(call for call in self.placed if call.tag == tag)

    def record(self, tag: str, story: Story) -> dict[str, Any]:
        """The record of a call that has just ended."""
        call = self.order_of(tag)
        status, sip = RESULTS[story]
        ended = datetime.now(UTC).replace(microsecond=0)
        bridged = ended - timedelta(seconds=TALKED)
        began = int(((bridged if story == "answered" else ended) - timedelta(seconds=WAITED)).timestamp())
        unique_id = f"medias_1-{began}.{next(self._ids)}"
        name = f"{unique_id}.mp3" if story == "answered" else ""
        if name:
            self.recordings.add(unique_id if self._platform == "clink2" else name)
        row = {
            "uniqueId": unique_id,
            "cno": call.seat,
            "customerNumber": call.callee,
            "callType": "预览外呼",
            "startTime": began,
            "bridgeTime": int(bridged.timestamp()) if story == "answered" else 0,
            "endTime": int(ended.timestamp()),
            "status": "双方接听" if story == "answered" else "客户未接听",
            "statusCode": status,
            "sipCause": sip,
            "endReason": 1000,
        }
        if self._platform == "clink2":
            return {**row, "recordFile": name or None, "tag_not_told": tag}
        files = [{"file": name, "type": "record", "index": "1"}] if name else []
        return {**{key: str(value) for key, value in row.items()}, "requestUniqueId": tag, "recordFile": files}

    def hung_up(self, row: Mapping[str, Any], tag: str) -> dict[str, Any]:
        """The push at hang-up, with the fields that the console proposes."""
        files = row["recordFile"]
        return {
            "cdr_enterprise_id": ENTERPRISE,
            "cdr_main_unique_id": row["uniqueId"],
            "cdr_customer_number": row["customerNumber"],
            "cdr_status": row["statusCode"],
            "cdr_call_type": "4",
            "cdr_cno": row["cno"],
            "cdr_start_time": row["startTime"],
            "cdr_answer_time": row["startTime"],
            "cdr_bridge_time": row["bridgeTime"],
            "cdr_end_time": row["endTime"],
            "cdr_request_unique_id": tag,
            "cdr_record_file_1": (files[0]["file"] if isinstance(files, list) and files else files) or "",
            "cdr_end_reason": row["endReason"],
            "sipCause": row["sipCause"],
        }

    def at_work(self, tag: str, how: Literal["ringing", "calling", "talking"], **parts: Any) -> None:
        """Let the seat of a call be at work on it."""
        call = self.order_of(tag)
        if self._platform == "clink2":
            agent, customer = {"ringing": ("响铃", "空闲"), "calling": ("呼叫中", "响铃"), "talking": ("通话", "通话")}[
                how
            ]
            seat: dict[str, Any] = {"agentStatus": agent, "customerStatus": customer, "customerNumber": call.callee}
        else:
            unique_id = f"medias_1-{int(datetime.now(UTC).timestamp())}.{next(self._ids)}"
            device = {"ringing": 3, "calling": 4, "talking": 4}[how]
            seat = {"state": "呼叫中", "loginStatus": 1, "deviceStatus": device, "mainUniqueId": unique_id}
        self.seats[call.seat] = {**seat, "cno": call.seat, **parts}

    def fail(self, path: str, status: int, code: str, text: str = "") -> None:
        """Answer the next request for this path with an error."""
        self._failures.setdefault(path, []).append((status, code, text))

    def times(self, path: str) -> int:
        """How often a path was asked for."""
        return self.asked.count(path)

    def void_links(self) -> None:
        """The links to recordings have expired."""
        self._links.clear()

    # --- the protocols ------------------------------------------------------------------------------------------------

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request of either platform, if it is signed."""
        query = dict(request.query)
        body: dict[str, Any] = await request.json() if request.can_read_body else {}
        clink2 = self._platform == "clink2"
        path = request.path if clink2 else request.path.removeprefix("/interface/v10")
        self.asked.append(path)
        if not (_signed_for_clink2(request) if clink2 else _signed_for_cticloud(query)):
            return self._error(403, "InvalidSignature" if clink2 else "3", "签名错误")
        if self._failures.get(path):
            return self._error(*self._failures[path].pop(0))
        said = query | body
        self.said.append(said)
        match path:
            case "/cc/callout" | "/previewOutcall":
                return await self._call(request, said)
            case "/cc/unlink" | "/cc/callout_cancel" | "/cc/transfer" | "/previewOutcallCancel":
                del self.seats[said["cno"]]
                return self._result({})
            case "/agent/unlink":
                (cno,) = [cno for cno, seat in self.seats.items() if seat["mainUniqueId"] == said["uniqueId"]]
                del self.seats[cno]
                return self._result({})
            case "/cc/agent_status":
                seats = [seat for seat in self.seats.values() if said.get("cnos[0]", seat["cno"]) == seat["cno"]]
                return self._result({"totalCount": len(seats), "agentStatus": seats})
            case "/agentStatus/get":
                idle = {"state": "空闲", "loginStatus": 1, "deviceStatus": 0}
                return self._result(self.seats.get(said["cno"], idle))
            case "/cc/describe_cdr_ob":
                found = [row for row in self.rows if row["uniqueId"] == said["mainUniqueId"]]
                return self._result({"cdrOb": _shown(found[0])}) if found else self._error(404, "NotFound", "不存在")
            case "/cc/list_cdr_obs":
                start, size = int(said["offset"]), int(said["limit"])
                rows = [
                    row for row in self.rows if not self.filters_tags or row["tag_not_told"] == said["requestUniqueId"]
                ]
                page = [_shown(row) for row in rows[start : start + size]]
                return self._result({"totalCount": len(rows), "pageSize": size, "cdrObs": page})
            case "/cdr/ob/query":
                return self._result(self._queried(said))
            case "/cc/describe_record_file_url":
                return self._recording(said["mainUniqueId"])
            case _:
                return self._recording(said["recordFile"])

    async def recording(self, request: web.Request) -> web.Response:
        """Serve a recording while its link is valid."""
        if request.query.get("sign") not in self._links:
            return web.Response(status=403)
        return web.Response(body=AUDIO, content_type="audio/mpeg")

    def _queried(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        start, size = int(said["start"]), int(said["limit"])
        rows = [row for row in self.rows if row["uniqueId"] == said.get("uniqueId", row["uniqueId"])]
        if self.filters_tags and "requestUniqueId" in said:
            rows = [row for row in rows if row["requestUniqueId"] == said["requestUniqueId"]]
        if "startTime" in said:
            rows = [row for row in rows if int(said["startTime"]) <= int(row["startTime"]) <= int(said["endTime"])]
        return rows[start : start + size]

    async def _call(self, request: web.Request, said: Mapping[str, Any]) -> web.StreamResponse:
        (how, code), self._next = self._next, ("normal", None)
        if how == "refuse":
            return self._error(400 if self._platform == "clink2" else 200, code or "1", "")
        callee = said["customerNumber"] if self._platform == "clink2" else said["tel"]
        self.placed.append(PlacedCall(said["requestUniqueId"], callee, said["cno"]))
        match how:
            case "silent":
                await asyncio.Event().wait()
            case "drop":
                assert request.transport is not None
                request.transport.close()
            case "garbage":
                return web.Response(text="<html>502 Bad Gateway</html>", content_type="text/html", status=502)
        return self._result({"result": {"cno": said["cno"], "requestUniqueId": said["requestUniqueId"]}})

    def _recording(self, name: str) -> web.Response:
        if name not in self.recordings:
            return self._error(404 if self._platform == "clink2" else 200, "1", "录音文件不存在")
        sign = secrets.token_hex(8)
        self._links.add(sign)
        url = f"{self.url}/recordings/{name}?sign={sign}"
        return self._result({"recordFileUrl": url} if self._platform == "clink2" else url)

    def _result(self, data: object) -> web.Response:
        if self._platform == "clink2":
            assert isinstance(data, dict)
            return web.json_response({"requestId": "request", **data})
        return web.json_response({"result": "0", "description": "成功", "data": data})

    def _error(self, status: int, code: str, text: str) -> web.Response:
        if self._platform == "clink2":
            error = {"code": code, "message": text}
            return web.json_response({"httpStatus": status, "requestId": "request", "error": error}, status=status)
        return web.json_response({"result": code, "description": text}, status=status)


@asynccontextmanager
async def tianrun_cloud(platform: Platform = "clink2") -> AsyncIterator[TianrunCloud]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    cloud = TianrunCloud(platform)
    app = web.Application()
    app.router.add_get("/recordings/{name}", cloud.recording)
    app.router.add_route("*", "/{path:.*}", cloud.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cloud.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield cloud
    finally:
        await runner.cleanup()


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "tag_not_told"}


def _signed_for_clink2(request: web.Request) -> bool:
    """Verify as the description says: the query as it came, without the signature, in the order of its names.

    HMAC is spelled out (RFC 2104), so that the two sides share nothing."""
    pairs = [pair for pair in request.rel_url.raw_query_string.split("&") if not pair.startswith("Signature=")]
    said = f"{request.method}{request.headers['Host']}{request.path}?{'&'.join(sorted(pairs))}".encode()
    key = SECRET.encode().ljust(64, b"\0")
    inner = hashlib.sha1(bytes(byte ^ 0x36 for byte in key) + said, usedforsecurity=False).digest()
    outer = hashlib.sha1(bytes(byte ^ 0x5C for byte in key) + inner, usedforsecurity=False).digest()
    at = datetime.strptime(request.query["Timestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    fresh = abs(datetime.now(UTC) - at) <= timedelta(seconds=int(request.query["Expires"]))
    genuine = request.query.get("Signature") == base64.b64encode(outer).decode()
    return fresh and genuine and request.query["AccessKeyId"] == KEY_ID


def _signed_for_cticloud(query: dict[str, str]) -> bool:
    signer = query.pop("departmentId" if query.pop("validateType") == "1" else "enterpriseId")
    timestamp, sign = query.pop("timestamp"), query.pop("sign")
    md5 = hashlib.new("md5", usedforsecurity=False)
    for part in (signer, timestamp, SECRET):
        md5.update(part.encode())
    fresh = abs(datetime.now(UTC).timestamp() - int(timestamp)) <= 300
    return fresh and sign == md5.hexdigest()
