"""Where phones and desks bring recordings: keeps them as the server does, and only what is well made."""

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import BodyPartReader, web

PHONE = {"Authorization": "Bearer token-1", "X-Device-Id": "dev-1"}
"""The credential of every phone here."""


class Refusal(NamedTuple):
    """How an upgrade or a request is refused."""

    status: int
    body: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}


def refused(refusal: Refusal) -> web.Response:
    """The answer to what is refused."""
    return web.json_response({"success": False, **refusal.body}, status=refusal.status, headers=dict(refusal.headers))


GONE = Refusal(404, {"code": "NOT_FOUND"})
MALFORMED = Refusal(400, {"code": "BAD_REQUEST"})
MISMATCH = Refusal(422, {"code": "CHECKSUM_MISMATCH"})


class Upload(NamedTuple):
    """An upload in parts: what was told of it, and what has arrived."""

    call_id: str
    size: int
    sha256: str
    media_type: str
    parts: dict[int, bytes]


class Shelf:
    """The server's routes of recordings, for the calls of one phone, and a bucket beside it."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        """Recordings by call id."""
        self.media_types: dict[str, str] = {}
        self.uploads: dict[str, Upload] = {}
        self.asked: Counter[str] = Counter()
        """How often what was asked: `whole`, `begin`, `state`, `part 1` …, `complete`, `bucket`, `play`, `download`."""
        self.refusals: deque[Refusal] = deque()
        """How the next requests are refused, whatever they are."""
        self.part_size = 1000
        self.presigns = False
        """Whether parts are to be PUT into the bucket, and recordings played from it."""
        self.signature = "good"
        """What the bucket takes; URLs are made with `good`."""
        self.bucket = ""
        """The origin of the bucket."""
        self.open = asyncio.Event()
        """While it is not set no part and no file is answered."""
        self.open.set()
        self.holding = asyncio.Event()
        """Set when an answer is held back."""

    def routes(self) -> list[web.RouteDef]:
        """What is served here."""
        mobile, upload = "/api/v1/calls/mobile/recording", "/api/v1/calls/mobile/recording/uploads/{upload_id}"
        return [
            web.post(f"{mobile}/upload", self._whole),
            web.post(f"{mobile}/uploads", self._begin),
            web.get(upload, self._state),
            web.put(upload + "/parts/{number}", self._part),
            web.post(upload + "/complete", self._complete),
            web.post("/api/v1/calls/{call_id}/recording", self._attach),
            web.get("/api/v1/calls/{call_id}/recording", self._play),
            web.put("/bucket/{upload_id}/{number}", self._bucket_part),
            web.get("/bucket/{call_id}", self._bucket_play),
        ]

    async def _whole(self, request: web.Request) -> web.Response:
        if (refusal := self._asked("whole", request)) is not None:
            return refusal
        fields, media_type, content = await _read_form(request)
        await self._hold()
        if list(fields) != ["callId"]:
            return refused(MALFORMED)
        return self._keep(request, fields["callId"], media_type, content)

    async def _attach(self, request: web.Request) -> web.Response:
        fields, media_type, content = await _read_form(request)
        if fields:
            return refused(MALFORMED)
        return self._keep(request, request.match_info["call_id"], media_type, content)

    async def _begin(self, request: web.Request) -> web.Response:
        if (refusal := self._asked("begin", request)) is not None:
            return refusal
        told = await request.json()
        upload = Upload(told["callId"], told["size"], told["sha256"], told["mediaType"], {})
        if (kept := self.kept.get(upload.call_id)) is not None:
            assert upload.sha256 == hashlib.sha256(kept).hexdigest()
            return web.json_response({"success": True, "uploadId": None, "partSize": 1, "parts": [], "stored": True})
        upload_id = f"upl_{len(self.uploads) + 1}"
        self.uploads[upload_id] = upload
        return self._told(upload_id)

    async def _state(self, request: web.Request) -> web.Response:
        if (refusal := self._asked("state", request)) is not None:
            return refusal
        return self._told(request.match_info["upload_id"])

    async def _part(self, request: web.Request) -> web.Response:
        if (refusal := self._asked(f"part {request.match_info['number']}", request)) is not None:
            return refusal
        content = await request.read()
        await self._hold()
        return self._take_part(request, content)

    async def _complete(self, request: web.Request) -> web.Response:
        if (refusal := self._asked("complete", request)) is not None:
            return refusal
        upload = self.uploads.get(request.match_info["upload_id"])
        if upload is None:
            return refused(GONE)
        if len(upload.parts) < len(_sizes(upload.size, self.part_size)):
            return refused(Refusal(409, {"code": "UPLOAD_INCOMPLETE"}))
        content = b"".join(part for _, part in sorted(upload.parts.items()))
        del self.uploads[request.match_info["upload_id"]]
        if hashlib.sha256(content).hexdigest() != upload.sha256:
            return refused(MISMATCH)
        return self._kept(upload.call_id, upload.media_type, content)

    async def _bucket_part(self, request: web.Request) -> web.Response:
        """As a bucket that checks the signature of the URL: another credential beside it, or a type, spoils it."""
        self.asked["bucket"] += 1
        if {"Authorization", "Content-Type"} & set(request.headers) or request.query["signature"] != self.signature:
            return web.Response(status=403, text="<Error/>")
        return self._take_part(request, await request.read())

    async def _play(self, request: web.Request) -> web.Response:
        self.asked["download" if request.query.get("download") == "true" else "play"] += 1
        assert request.headers["Authorization"].startswith("Bearer access-")
        if self.presigns:
            call_id = request.match_info["call_id"]
            return web.Response(status=302, headers={"Location": f"{self.bucket}/bucket/{call_id}?signature=good"})
        return self._bytes(request)

    async def _bucket_play(self, request: web.Request) -> web.Response:
        if "Authorization" in request.headers or request.query["signature"] != self.signature:
            return web.Response(status=403, text="<Error/>")
        return self._bytes(request)

    # ------------------------------------------------------------------------------------------------------------------

    def _asked(self, what: str, request: web.Request) -> web.Response | None:
        self.asked[what] += 1
        assert PHONE == {name: request.headers[name] for name in PHONE}
        assert "Content-Length" in request.headers or request.method == "GET"
        return refused(self.refusals.popleft()) if self.refusals else None

    async def _hold(self) -> None:
        if not self.open.is_set():
            self.holding.set()
            await self.open.wait()

    def _told(self, upload_id: str) -> web.Response:
        upload = self.uploads.get(upload_id)
        if upload is None:
            return refused(GONE)
        parts: list[dict[str, Any]] = [
            {"number": number, "size": size, "arrived": number in upload.parts}
            for number, size in enumerate(_sizes(upload.size, self.part_size), 1)
        ]
        for part in parts:
            if self.presigns and not part["arrived"]:
                part["url"] = f"{self.bucket}/bucket/{upload_id}/{part['number']}?signature=good"
        return web.json_response({"success": True, "uploadId": upload_id, "partSize": self.part_size, "parts": parts})

    def _take_part(self, request: web.Request, content: bytes) -> web.Response:
        upload, number = self.uploads.get(request.match_info["upload_id"]), int(request.match_info["number"])
        if upload is None:
            return refused(GONE)
        if len(content) != _sizes(upload.size, self.part_size)[number - 1]:
            return refused(Refusal(422, {"code": "INVALID_FIELD"}))
        upload.parts[number] = content
        return web.json_response({"success": True, "number": number, "size": len(content)})

    def _keep(self, request: web.Request, call_id: str, media_type: str, content: bytes) -> web.Response:
        if request.headers["X-Content-SHA256"] != hashlib.sha256(content).hexdigest():
            return refused(MISMATCH)
        return self._kept(call_id, media_type, content)

    def _kept(self, call_id: str, media_type: str, content: bytes) -> web.Response:
        self.kept[call_id] = content
        self.media_types[call_id] = media_type
        sha256 = hashlib.sha256(content).hexdigest()
        url = f"/api/v1/calls/{call_id}/recording"
        return web.json_response({"success": True, "recordingUrl": url, "size": len(content), "sha256": sha256})

    def _bytes(self, request: web.Request) -> web.Response:
        content = self.kept.get(request.match_info["call_id"])
        if content is None:
            return refused(GONE)
        asked = request.http_range
        whole = asked.start is None
        return web.Response(body=content if whole else content[asked], status=200 if whole else 206)


async def _read_form(request: web.Request) -> tuple[dict[str, str], str, bytes]:
    """The fields of a form, and the type and content of the file behind them, which is the last part."""
    fields: dict[str, str] = {}
    reader = await request.multipart()
    while isinstance(part := await reader.next(), BodyPartReader):
        if part.name == "file":
            media_type, content = part.headers["Content-Type"], bytes(await part.read())
            assert part.filename
            assert await reader.next() is None
            return fields, media_type, content
        fields[str(part.name)] = (await part.read()).decode()
    raise web.HTTPBadRequest


def _sizes(size: int, part_size: int) -> list[int]:
    return [min(part_size, size - start) for start in range(0, size, part_size)]
