"""One endpoint = one typed function: decode, authorise, call, encode, map errors.

`Endpoint("POST", "/api/v1/calls/{call_id}/note", notes.add, needs="calls.follow_up")` serves the function `notes.add`,
whose parameters say by name what they take:

    identity   who asks; absent only where `needs` is ANYONE
    body       a Struct read from JSON, or `bytes` for the body as it came (`Csv` where it must say that it is CSV)
    query      a Struct read from the query string
    once       idempotency.Once: the function keeps its answer in its own transaction
    request    RequestInfo: address, request id, language
    others     parts of the path

It returns a Struct, encoded as JSON, or a Download. The first line of its docstring is its summary in the OpenAPI
document, which is generated from these same declarations (openapi.py).
"""

import asyncio
import hashlib
import inspect
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qs

import msgspec
import structlog
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from protocol.errors import DialdeskError, Language
from protocol.messages import salvage
from protocol.timestamps import rfc3339
from server.config import Config
from server.identity import Identity
from server.telemetry import Metrics
from storage.database import Database
from storage.idempotency import Once

log = structlog.get_logger()

ANYONE: Literal["anyone"] = "anyone"
"""No credential is asked for."""
SIGNED_IN: Literal["signed in"] = "signed in"
"""Any user or API key."""
PHONE: Literal["phone"] = "phone"
"""A bound work phone, by its device token and X-Device-Id."""

BODY_DEADLINE = 20.0
"""Seconds that a body may take to arrive."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")


Csv = Annotated[bytes, msgspec.Meta(extra_json_schema={"contentMediaType": "text/csv"})]
"""A body that is a CSV file."""


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a request brings; a field that is not known here is refused, for it is a mistake."""


class AppBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a phone app brings; unknown fields are ignored, for an older server must serve a newer app."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a request is told when it succeeds: `success` and the fields of the answer (seed 003)."""

    success: Literal[True] = True


class Done(Answer, frozen=True, kw_only=True):
    """It is done, and there is nothing to add."""


class Download(msgspec.Struct, frozen=True):
    """An answer that is not JSON of ours: a document to show, or with a `filename` a file to keep."""

    content: bytes
    media_type: str
    filename: str | None = None
    headers: dict[str, str] = {}


class RequestInfo(msgspec.Struct, frozen=True):
    """Where a request came from. `ip` is the peer, or what a trusted proxy says the peer is."""

    id: str
    ip: str | None
    language: Language
    user_agent: str
    headers: Headers


Authenticate = Callable[[Headers], Awaitable[Identity]]
S = TypeVar("S", bound=msgspec.Struct)


class Endpoint:
    """One function served at one method and path; an ASGI application."""

    def __init__(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        function: Callable[..., Awaitable[msgspec.Struct | Download]],
        *,
        needs: str,
        body_limit: int | None = None,
        salvaged: type[msgspec.Struct] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.function = function
        self.needs = needs
        self.body_limit = body_limit
        self.salvaged = salvaged
        hints = get_type_hints(function, include_extras=True)
        self.answer = hints.pop("return")
        self.parameters = {name: hints[name] for name in inspect.signature(function).parameters}
        self.body = self.parameters.get("body")
        self.query = self.parameters.get("query")
        self.in_path = re.findall(r"{(\w+)}", path)
        unknown = set(self.parameters) - {"identity", "body", "query", "once", "request", *self.in_path}
        if unknown or not set(self.in_path) <= set(self.parameters):
            raise TypeError(f"{method} {path}: {function.__qualname__} takes {sorted(self.parameters)}")
        as_it_came = bare(self.body) in {None, bytes}
        self.decoder = None if as_it_came else msgspec.json.Decoder(self.body)
        self.media_type = media_type(self.body) if as_it_came else "application/json"
        self.name = function.__qualname__

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


class Http:
    """What all endpoints share; `routes` turns them into Starlette's."""

    def __init__(
        self,
        database: Database,
        authenticate: Authenticate,
        metrics: Metrics,
        *,
        body_limit: int,
        timeout: float,
    ) -> None:
        self._database = database
        self._authenticate = authenticate
        self._metrics = metrics
        self._body_limit = body_limit
        self._timeout = timeout

    def routes(self, endpoints: Sequence[Endpoint]) -> list[Route]:
        """Return one route a path; a method that a path does not take is answered METHOD_NOT_ALLOWED."""
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            if endpoint.method in by_path.setdefault(endpoint.path, {}):
                raise ValueError(f"{endpoint.method} {endpoint.path} is declared twice")
            by_path[endpoint.path][endpoint.method] = endpoint
        return [Route(path, _Resource(self, methods)) for path, methods in by_path.items()]

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for a path that is not served."""
        await self.serve(DialdeskError("NOT_FOUND", what="path"), scope, receive, send)

    async def serve(self, endpoint: Endpoint | DialdeskError, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens: by its endpoint, or by why there is none."""
        request = request_info(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request.id)
        begun = time.perf_counter()
        status, content, more = await self._answer(endpoint, request, scope, receive)
        more = {"x-request-id": request.id, "cache-control": "no-store", "x-content-type-options": "nosniff", **more}
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-length", str(len(content)).encode()),
                    *((name.encode(), value.encode()) for name, value in more.items()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})
        name = endpoint.name if isinstance(endpoint, Endpoint) else "-"
        elapsed = time.perf_counter() - begun
        self._metrics.http_seconds.labels(name, str(status)).observe(elapsed)
        log.info("request", endpoint=name, status=status, ms=round(elapsed * 1000, 1))

    async def _answer(
        self, endpoint: Endpoint | DialdeskError, request: RequestInfo, scope: Scope, receive: Receive
    ) -> tuple[int, bytes, dict[str, str]]:
        try:
            if isinstance(endpoint, DialdeskError):
                raise endpoint
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._call(endpoint, request, scope, receive)
            except TimeoutError as error:
                raise DialdeskError("UNAVAILABLE") from error
        except DialdeskError as error:
            status, content, more = error_answer(error, request)
            if error.status >= 500:
                log.warning("refused", code=error.code, cause=repr(error.__cause__))
            return status, content, more
        except Exception:
            log.exception("request failed")
            return error_answer(DialdeskError("INTERNAL", requestId=request.id), request)
        if isinstance(answer, Download):
            more = {"content-type": answer.media_type, **answer.headers}
            if answer.filename is not None:
                more["content-disposition"] = f'attachment; filename="{answer.filename}"'
            return 200, answer.content, more
        return 200, answer, {"content-type": "application/json"}

    async def _call(self, endpoint: Endpoint, request: RequestInfo, scope: Scope, receive: Receive) -> bytes | Download:
        arguments: dict[str, Any] = dict(scope["path_params"])
        identity = None if endpoint.needs == ANYONE else await self._authenticate(request.headers)
        if identity is not None:
            identity.require(endpoint.needs)
            structlog.contextvars.bind_contextvars(tenant_id=identity.tenant_id, actor_id=identity.id)
        try:
            async with asyncio.timeout(BODY_DEADLINE):
                raw = await _read_body(receive, request.headers, endpoint.body_limit or self._body_limit)
        except TimeoutError as error:
            raise DialdeskError("REQUEST_TIMEOUT") from error
        if "identity" in endpoint.parameters:
            arguments["identity"] = identity
        if endpoint.body is not None:
            arguments["body"] = self._decoded(endpoint, raw, request.headers)
        if endpoint.query is not None:
            arguments["query"] = read_query(scope["query_string"], endpoint.query)
        if "request" in endpoint.parameters:
            arguments["request"] = request
        if "once" not in endpoint.parameters:
            return _encoded(await endpoint.function(**arguments))
        assert identity is not None
        once = Once(
            identity.tenant_id,
            identity.id,
            endpoint.name,
            _idempotency_key(request.headers),
            hashlib.sha256(scope["raw_path"] + b"\n" + raw).digest(),
        )
        return await once.run(self._database, lambda: endpoint.function(**arguments, once=once))

    @staticmethod
    def _decoded(endpoint: Endpoint, raw: bytes, headers: Headers) -> Any:
        told, expected = headers.get("content-type"), endpoint.media_type
        if raw and told and expected and told.partition(";")[0].strip().lower() != expected:
            raise DialdeskError("UNSUPPORTED_MEDIA_TYPE", expected=expected)
        if endpoint.decoder is None:
            return raw
        try:
            return decode(endpoint.decoder, raw or b"{}")
        except DialdeskError as error:
            if endpoint.salvaged is None or error.code != "INVALID_FIELD":
                raise
            return _salvaged(endpoint.salvaged, raw, error)


class _Resource:
    """One path: finds the endpoint of the method. A class, so that Starlette calls it as an ASGI application."""

    def __init__(self, http: Http, methods: Mapping[str, Endpoint]) -> None:
        self._http = http
        self._methods = methods
        self._allowed = sorted({*methods, "HEAD"} if "GET" in methods else methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        endpoint = self._methods.get(method) or DialdeskError("METHOD_NOT_ALLOWED", allow=self._allowed)
        await self._http.serve(endpoint, scope, receive, send)


def bare(hint: Any) -> Any:
    """The type without what is said about it."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def media_type(hint: Any) -> str | None:
    """What `Annotated[…, Meta(extra_json_schema={"contentMediaType": …})]` says of its content."""
    told = [(meta.extra_json_schema or {}).get("contentMediaType") for meta in getattr(hint, "__metadata__", ())]
    return next(filter(None, told), None)


def _salvaged(kind: type[msgspec.Struct], raw: bytes, refusal: DialdeskError) -> Any:
    """Read one report or a batch of them without what cannot be read and only informs."""
    try:
        if raw.lstrip().startswith(b"["):
            reports = msgspec.json.decode(
                raw, type=Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=500)]
            )
            return [salvage(bytes(report), kind) for report in reports]
        return salvage(raw, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusal from error


def decode(decoder: msgspec.json.Decoder[Any], raw: bytes) -> Any:
    """Read JSON. Raises BAD_REQUEST where it is none, INVALID_FIELD where a field is not what it should be."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise DialdeskError("INVALID_FIELD", reason=str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DialdeskError("BAD_REQUEST", reason=str(error)) from error


def read_query(query_string: bytes, kind: type[S]) -> S:
    """Read a query string into a Struct; a name given several times becomes a list. What is given counts: neither a
    blank nor `null` is the same as leaving a filter out, and a time is RFC 3339, not a number."""
    try:
        pairs = parse_qs(query_string.decode("ascii"), keep_blank_values=True, max_num_fields=100, errors="strict")
    except (ValueError, UnicodeError) as error:
        raise DialdeskError("BAD_REQUEST", reason=str(error)) from error
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    given: dict[str, Any] = {}
    for name, values in pairs.items():
        told = str(fields[name].type) if name in fields else ""
        if "null" in values or ("datetime" in told and values[-1].lstrip("+-").replace(".", "").isdigit()):
            raise DialdeskError("INVALID_FIELD", reason=f"{name} may not be {values[-1]}")
        given[name] = values if "tuple" in told else values[-1]
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise DialdeskError("INVALID_FIELD", reason=str(error)) from error


def error_answer(error: DialdeskError, request: RequestInfo) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of an error: one shape everywhere (seed 004 §8.3.2)."""
    body = msgspec.json.encode(
        {
            "success": False,
            "code": error.code,
            "message": error.message(request.language),
            "details": error.details,
            "timestamp": rfc3339(datetime.now(UTC)),
            "requestId": request.id,
        }
    )
    headers = {"content-type": "application/json"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 405:
        headers["allow"] = ", ".join(error.details["allow"])
    if error.status in {429, 503}:
        headers["retry-after"] = str(error.details.get("retryAfter", 1))
    return error.status, body, headers


def request_info(scope: Scope) -> RequestInfo:
    """Read where a request or an upgrade comes from."""
    headers = Headers(scope=scope)
    return RequestInfo(
        id=_request_id(headers),
        ip=_address(scope),
        language=_language_of(headers),
        user_agent=headers.get("user-agent", "")[:256],
        headers=headers,
    )


def origin_allowed(headers: Headers, config: Config) -> bool:
    """Whether a browser's page may open a socket here: one of ours, or of ALLOWED_ORIGINS. Apps send no Origin."""
    origin = headers.get("origin")
    return origin is None or origin in {config.public_url.rstrip("/"), *config.allowed_origins}


def _address(scope: Scope) -> str | None:
    """The peer's address; None where it has none that is one, as behind a proxy that passes on what it was told."""
    try:
        address = ip_address(scope["client"][0].partition("%")[0])  # without the interface of a link-local one
    except (TypeError, ValueError):
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _language_of(headers: Headers) -> Language:
    """The language of messages for people: zh-CN unless `Accept-Language` puts English first."""
    first = headers.get("accept-language", "").partition(",")[0].strip().lower()
    return "en" if first.startswith("en") else "zh-CN"


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"


def _idempotency_key(headers: Headers) -> str | None:
    key = headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise DialdeskError("INVALID_FIELD", reason="Idempotency-Key must be 1 to 128 visible ASCII characters")
    return key


def _encoded(answer: msgspec.Struct | Download) -> bytes | Download:
    return answer if isinstance(answer, Download) else msgspec.json.encode(answer)


async def _read_body(receive: Receive, headers: Headers, limit: int) -> bytes:
    told = headers.get("content-length", "0")
    if told.isdecimal() and int(told) > limit:
        raise DialdeskError("BODY_TOO_LARGE", limit=limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise DialdeskError("BAD_REQUEST", reason="the connection closed before the body was complete")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise DialdeskError("BODY_TOO_LARGE", limit=limit)
        if not message.get("more_body", False):
            return b"".join(parts)
