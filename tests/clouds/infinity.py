"""Infinity on loopback: the form API and the JSON API of one platform, written from the vendor's pages."""

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from aiohttp import web

from tests.audio_files import make_audio
from tests.clouds.cloud import How, PlacedCall, Sequence, Story, WebhookRequestSpec

APP_ID = "app-not-real"
ACCESS_KEY = "access-key-not-real"
COMPANY = "20000105"
AUDIO = make_audio("mp3", 1.0)

WAITED, TALKED = 8, 42
"""Seconds of a call that is answered."""

CAUSES: dict[Story, int] = {"answered": 10001, "no_answer": 10016, "busy": 10006, "rejected": 10003, "invalid": 10014}

LOGIN, CALL, STATE, RECORDS, DOWNLOAD = "login", "call", "state", "records", "download"

SERVICES = {
    "App.Sip_Auth.Login": LOGIN,
    "App.Sip_Call.MakeCall": CALL,
    "App.Sip_Status.GetSipCallStatus": STATE,
    "App.Sip_Cdr.GetBill": RECORDS,
    "App.Sip_Cdr.GetRecodeFile": DOWNLOAD,
}

PATHS: dict[str, tuple[str, dict[str, str]]] = {
    "/api/user/login": (LOGIN, {"app_id": "appid", "access_key": "accesskey"}),
    "/api/make/call": (
        CALL,
        {"ext_number": "extnumber", "dest_number": "destnumber", "dis_number": "disnumber", "custom_id": "customuuid"},
    ),
    "/api/sip/user/call/status": (STATE, {"sip_user": "extnumber"}),
    "/api/bill/records": (
        RECORDS,
        {
            "start_dt": "starttime",
            "end_dt": "endtime",
            "ext_number": "extnumber",
            "dest_number": "destnumber",
            "user_id": "userid",
            "member_id": "memberid",
            "custom_id": "customuuid",
            "sync_flag": "syncflag",
            "direction": "direction",
            "call_method": "callmethod",
            "current_page": "currentpage",
            "items_per_page": "itemsperpage",
        },
    ),
    "/api/voice/download": (DOWNLOAD, {"file_name": "filename"}),
}


class InfinityCloud:
    """One account on the platform. What is public beside the face of a cloud is for tests of this vendor."""

    def __init__(self, api: Literal["form", "json"]) -> None:
        self.url = ""
        self.audio = AUDIO
        self.placed: list[PlacedCall] = []
        self.orders: list[Mapping[str, str]] = []
        self.asked: list[str] = []
        self.bills: list[dict[str, Any]] = []
        self.states: dict[str, dict[str, Any]] = {}
        self.filters_tags = True
        self.rings_extensions = False
        self.collisions: list[str] = []
        self.hold_logins: asyncio.Event | None = None
        self.recordings: set[str] = set()
        self.zone = ZoneInfo("Asia/Shanghai")
        self._api = api
        self._base = ""
        self.tokens_given: list[str] = []
        self._tokens: set[str] = set()
        self._links: set[str] = set()
        self._ids = itertools.count(982)
        self._next: tuple[How, str | None] = ("normal", None)
        self._failures: dict[str, list[str]] = {}

    # --- the face of a cloud ------------------------------------------------------------------------------------------

    def line(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and secrets of a line here."""
        settings = {"appId": APP_ID, "api": self._api, "baseUrl": self.url, "companyCode": COMPANY}
        return settings, {"accessKey": ACCESS_KEY}

    def next_place(self, how: How, code: str | None = None) -> None:
        """Say what becomes of the next order; a code of three digits is one of the outer level."""
        self._next = (how, code)

    async def play(
        self,
        tag: str,
        story: Story,
        *,
        send: Callable[[WebhookRequestSpec], Awaitable[None]],
        order: Sequence = "right",
    ) -> None:
        """End a call: the record is on the list, and is sent once, twice or never; there is nothing else to send."""
        record = self.record(tag, story)
        self.bills.append({name: value for name, value in record.items() if name not in {"uuid", "recordurl"}})
        deliveries = {"right": 1, "reversed": 1, "twice": 2, "lost_end": 0}[order]
        body = json.dumps(record).encode()
        for _ in range(deliveries):
            await send(WebhookRequestSpec(headers={"content-type": "application/json"}, body=body))

    # --- what tests of this vendor do ---------------------------------------------------------------------------------

    def record(self, tag: str, story: Story) -> dict[str, Any]:
        """The record of a call that has just ended."""
        call = next(call for call in self.placed if call.tag == tag)
        if self.rings_extensions:
            del self.states[call.seat]
        answered = story == "answered"
        ended = datetime.now(UTC).replace(microsecond=0)
        answer = ended - timedelta(seconds=TALKED)
        name = f"{ended:%Y%m%d%H%M%S}_{call.seat}_{tag}.mp3" if answered else ""
        if name:
            self.recordings.add(name)
        return {
            "id": next(self._ids),
            "companycode": COMPANY,
            "direction": "callout",
            "type": "callout",
            "callmethod": 3,
            "starttime": self._local((answer if answered else ended) - timedelta(seconds=WAITED)),
            "answertime": self._local(answer) if answered else "",
            "endtime": self._local(ended),
            "duration": WAITED,
            "billsec": TALKED if answered else 0,
            "userid": "",
            "memberid": "",
            "chengshudu": "0",
            "ext": "0",
            "disnumber": "075566834205",
            "destnumber": call.callee,
            "extnumber": call.seat,
            "recordfilename": name,
            "downloadip": "",
            "hangupdirection": 10040,
            "hangupcause": CAUSES[story],
            "uuid": f"uuid-{tag}",
            "userkey": "",
            "customuuid": tag,
            "taskid": "",
            "round": 0,
            "recordurl": self._link(name) if name else "",
        }

    def fail(self, function: str, *codes: str) -> None:
        """Answer the next requests of this function with these errors, one each."""
        self._failures.setdefault(function, []).extend(codes)

    def void_tokens(self) -> None:
        """Twelve hours have gone by."""
        self._tokens.clear()

    def void_links(self) -> None:
        """The links to recordings have expired."""
        self._links.clear()

    def times(self, function: str) -> int:
        """How often a function was asked for."""
        return self.asked.count(function)

    # --- the protocol -------------------------------------------------------------------------------------------------

    async def form(self, request: web.Request) -> web.StreamResponse:
        """Answer the form API: one URL, and the function is a field."""
        fields = {name: str(value) for name, value in (await request.post()).items()}
        return await self._answer(request, SERVICES[fields.pop("service")], fields)

    async def json(self, request: web.Request) -> web.StreamResponse:
        """Answer the JSON API: each function has a path, and the company stands in every request."""
        function, names = PATHS[request.path]
        fields = await request.json()
        if fields.pop("company_code", "") != COMPANY:
            return _error("400")
        token = {"token": fields.pop("token")} if "token" in fields else {}
        return await self._answer(request, function, {names[name]: value for name, value in fields.items()} | token)

    async def recording(self, request: web.Request) -> web.Response:
        """Serve a recording while its link is valid."""
        if request.query.get("sign") not in self._links:
            return web.Response(status=403)
        return web.Response(body=AUDIO, content_type="audio/mpeg")

    def at(self, base: str) -> None:
        """Take the address that is served at."""
        self._base = base
        self.url = f"{base}/api/yunhu" if self._api == "form" else base

    async def _answer(self, request: web.Request, function: str, fields: dict[str, str]) -> web.StreamResponse:
        self.asked.append(function)
        if function == LOGIN:
            return await self._log_in(fields)
        if fields.pop("token", "") not in self._tokens:
            return _error("600")
        if self._failures.get(function):
            return _error(self._failures[function].pop(0))
        match function:
            case "call":
                return await self._call(request, fields)
            case "state":
                extensions = fields["extnumber"].split(",")
                return _result([self.states.get(each, _idle(each)) for each in extensions])
            case "records":
                return self._page(fields)
            case _:
                if fields["filename"] not in self.recordings:
                    return _error("1029")
                return _result({"downurl": self._link(fields["filename"]), "expiredtime": "2020-02-11 17:27:23"})

    async def _log_in(self, fields: Mapping[str, str]) -> web.Response:
        if self.hold_logins is not None:
            await self.hold_logins.wait()
        if self._failures.get(LOGIN):
            return _error(self._failures[LOGIN].pop(0))
        if fields != {"appid": APP_ID, "accesskey": ACCESS_KEY}:
            return _error("601")
        token = secrets.token_hex(16)
        self._tokens.add(token)
        self.tokens_given.append(token)
        return _result({"companycode": COMPANY, "companyname": "test", "token": token, "authmodel": ""})

    async def _call(self, request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
        (how, code), self._next = self._next, ("normal", None)
        if how == "refuse":
            return _error(code or "1002")
        if self.rings_extensions:  # it is busy from an order to the record of its call
            extension = fields["extnumber"]
            if extension in self.states:
                self.collisions.append(extension)
                return _error("1204")
            self.states[extension] = in_state(extension, 1204, callee=fields["destnumber"])
        self.orders.append(fields)
        self.placed.append(PlacedCall(fields["customuuid"], fields["destnumber"], fields["extnumber"]))
        match how:
            case "silent":
                await asyncio.Event().wait()
            case "drop":
                assert request.transport is not None
                request.transport.close()
            case "garbage":
                return web.Response(text="<html>502 Bad Gateway</html>", content_type="text/html", status=502)
        return _result(None)

    def _page(self, fields: Mapping[str, str]) -> web.Response:
        number, size = int(fields["currentpage"]), int(fields["itemsperpage"])
        if fields["syncflag"] != "3" or not 1 <= size <= 1000:
            return _error("400")
        found = [
            bill
            for bill in self.bills
            if fields["starttime"] <= bill["starttime"] <= fields["endtime"]
            and fields["extnumber"] in {"", bill["extnumber"]}
            and (not self.filters_tags or fields["customuuid"] in {"", bill["customuuid"]})
        ]
        bills = [
            {name: value for name, value in bill.items() if name != "disnumber"}
            | {"displaynumber": bill.get("disnumber", ""), "answertime": bill["answertime"] or None}
            for bill in found[(number - 1) * size : number * size]
        ]
        return _result({"totalitems": len(found), "currentpage": number, "itemsperpage": size, "bills": bills})

    def _link(self, name: str) -> str:
        sign = secrets.token_hex(8)
        self._links.add(sign)
        return f"{self._base}/recordings/{name}?sign={sign}"

    def _local(self, at: datetime) -> str:
        return f"{at.astimezone(self.zone):%Y-%m-%d %H:%M:%S}"


@asynccontextmanager
async def infinity_cloud(api: Literal["form", "json"] = "form") -> AsyncIterator[InfinityCloud]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    cloud = InfinityCloud(api)
    app = web.Application()
    app.router.add_post("/api/yunhu", cloud.form)
    for path in PATHS:
        app.router.add_post(path, cloud.json)
    app.router.add_get("/recordings/{name}", cloud.recording)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cloud.at(f"http://127.0.0.1:{runner.addresses[0][1]}")
        yield cloud
    finally:
        await runner.cleanup()


def in_state(extension: str, status: int, *, callee: str | None = None) -> dict[str, Any]:
    """An extension as the platform tells of it; of one that is not in a call it says nothing but its status."""
    silent = dict.fromkeys(("caller", "disnumber", "direction", "channel", "idleduration", "callduration"))
    return {"extnumber": extension, "status": status, "callee": callee, **silent}


def _idle(extension: str) -> dict[str, Any]:
    return in_state(extension, 1201)


def _result(result: object) -> web.Response:
    data = {"status": 0, "desc": "获取成功", "reqtime": 1581506689, "rsptime": 1581506689}
    return web.json_response({"ret": 200, "data": data | ({} if result is None else {"result": result}), "msg": ""})


def _error(code: str) -> web.Response:
    """An error of the outer level, or one of the inner, whose code is a string here and a number there."""
    if len(code) == 3:
        return web.json_response({"ret": int(code), "data": [], "msg": "非法请求"})
    errors = {"code": code, "codemsg": f"refused for {ACCESS_KEY}"}
    return web.json_response({"ret": 200, "data": {"status": 1, "desc": "失败", "errors": errors}, "msg": ""})
