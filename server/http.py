"""One endpoint = one typed function: decode, authorise, call, encode, map errors.

`Endpoint("POST", "/api/v1/calls/{call_id}/note", notes.add, needs="calls.follow_up")` serves the function `notes.add`,
whose parameters say by name what they take:

    identity   who asks; absent only where `needs` is ANYONE
    body       a Struct read from JSON; `bytes` for the body as it came (`Csv` where it must say that it is CSV);
               Incoming, to read it as it comes, or a Form, a file with fields: `timeout` says how long it may take
    query      a Struct read from the query string
    once       idempotency.Once: the function keeps its answer in its own transaction
    request    RequestInfo: address, request id, language
    others     parts of the path

It returns a Struct, encoded as JSON, or a Download, a Stream, something Written or a Redirect. The first line of its
docstring is its summary in the OpenAPI document, which is generated from these same declarations (openapi.py).
"""

import asyncio
import contextlib
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
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from protocol.errors import DialdeskError, Language
from protocol.messages import salvage
from protocol.timestamps import rfc3339
from server.config import Config
from server.forms import Form, read_fields, read_form
from server.identity import Identity
from server.streams import (
    SEND_DEADLINE,
    Incoming,
    Outgoing,
    Redirect,
    Stream,
    Written,
    answer_stream,
    answer_written,
    content_disposition,
    pour,
)
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
"""Seconds that a body may take to arrive, unless its endpoint gives it more."""

NUMBERED = "/api/v1/channel/"
"""Below this a refusal's `code` is its HTTP status, and its own code stands in `error` (seed 000 TRD 2)."""
NUMBERED_WITHIN = 5.0
"""Seconds that a request there may take."""

LINGER = 5.0
"""Seconds that a request may go on after it was answered before its end, so that its sender gets to read the answer."""

LINGER_BOUND = 16 * 1024 * 1024
"""Bytes of it that are read, and forgotten, meanwhile."""

QUOTED = 300
"""Characters of a refusal's reason, which may quote the name of a field: an answer is not as long as any request."""

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
    status: int = 200


class RequestInfo(msgspec.Struct, frozen=True):
    """Where a request came from. `ip` is the peer, or what a trusted proxy says the peer is."""

    id: str
    ip: str | None
    language: Language
    user_agent: str
    headers: Headers
    query: str


Authenticate = Callable[[Headers], Awaitable[Identity]]
S = TypeVar("S", bound=msgspec.Struct)


class Endpoint:
    """One function served at one method and path; an ASGI application."""

    def __init__(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        function: Callable[..., Awaitable[msgspec.Struct]],
        *,
        needs: str,
        body_limit: int | None = None,
        timeout: float | None = None,
        salvaged: type[msgspec.Struct] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.function = function
        self.needs = needs
        self.body_limit = body_limit
        self.timeout = timeout
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
        kind = bare(self.body)
        self.form: type[msgspec.Struct] | None = get_args(kind)[0] if get_origin(kind) is Form else None
        self.streamed = kind is Incoming or self.form is not None
        if self.streamed and "once" in self.parameters:
            raise TypeError(f"{method} {path}: what is read as it comes cannot be compared with what came before")
        as_it_came = self.streamed or kind in {None, bytes}
        self.decoder = None if as_it_came else msgspec.json.Decoder(self.body)
        self.media_type = media_type(self.body) if as_it_came else "application/json"
        if self.form is not None:
            self.media_type = "multipart/form-data"
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
        idle: float = BODY_DEADLINE,
    ) -> None:
        """`timeout` bounds a request, beside what its endpoint gives its body; `idle` how long a body may be silent."""
        self._database = database
        self._authenticate = authenticate
        self._metrics = metrics
        self._body_limit = body_limit
        self._timeout = timeout
        self._idle = idle

    def routes(self, endpoints: Sequence[Endpoint]) -> list[BaseRoute]:
        """Return one route for all paths without parameters, which go before others, and one for each other path; a
        method that a path does not take is answered METHOD_NOT_ALLOWED."""
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            if endpoint.method in by_path.setdefault(endpoint.path, {}):
                raise ValueError(f"{endpoint.method} {endpoint.path} is declared twice")
            by_path[endpoint.path][endpoint.method] = endpoint
        resources = {path: _Resource(self, methods) for path, methods in by_path.items()}
        fixed = {path: resource for path, resource in resources.items() if "{" not in path}
        return [_Fixed(fixed), *(Route(path, resource) for path, resource in resources.items() if path not in fixed)]

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for a path that is not served."""
        await self.serve(DialdeskError("NOT_FOUND", what="path"), scope, receive, send)

    async def serve(self, endpoint: Endpoint | DialdeskError, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens: by its endpoint, or by why there is none."""
        request = request_info(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request.id)
        begun = time.perf_counter()
        body = self._incoming(endpoint, request, receive)
        outgoing = await self._answer(endpoint, request, scope, body)
        name = endpoint.name if isinstance(endpoint, Endpoint) else "-"
        elapsed = time.perf_counter() - begun
        self._metrics.http_seconds.labels(name, str(outgoing.status)).observe(elapsed)
        await body.take_arrived()
        more = {
            "x-request-id": request.id,
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **({} if outgoing.length is None else {"content-length": str(outgoing.length)}),
            **({} if body.ended else {"connection": "close"}),
            **outgoing.headers,
        }
        headers = [(name.encode(), value.encode("latin-1")) for name, value in more.items()]
        await send({"type": "http.response.start", "status": outgoing.status, "headers": headers})
        told = "whole" if outgoing.rest is None else await pour(outgoing, receive, send)
        if outgoing.rest is None:
            await _finish(b"" if scope["method"] == "HEAD" else outgoing.content, body, send)
        log.info("request", endpoint=name, status=outgoing.status, ms=round(elapsed * 1000, 1), told=told)

    def _incoming(self, endpoint: Endpoint | DialdeskError, request: RequestInfo, receive: Receive) -> Incoming:
        limit, within = self._body_limit, BODY_DEADLINE
        if isinstance(endpoint, Endpoint):
            limit, within = endpoint.body_limit or limit, endpoint.timeout or within
        return Incoming(receive, request.headers, limit=limit, idle=self._idle, within=within)

    async def _answer(
        self, endpoint: Endpoint | DialdeskError, request: RequestInfo, scope: Scope, body: Incoming
    ) -> Outgoing:
        try:
            if isinstance(endpoint, DialdeskError):
                raise endpoint
            try:
                async with asyncio.timeout(self._limit(endpoint)):
                    answer = await self._call(endpoint, request, scope, body)
                    return await _outgoing(answer, request, scope["method"])
            except TimeoutError as error:
                raise DialdeskError("UNAVAILABLE") from error
        except DialdeskError as error:
            if error.status >= 500:
                log.warning("refused", code=error.code, cause=repr(error.__cause__))
            return _refusal(error, request, scope["path"])
        except Exception:
            log.exception("request failed")
            return _refusal(DialdeskError("INTERNAL", requestId=request.id), request, scope["path"])

    def _limit(self, endpoint: Endpoint) -> float:
        usual = (endpoint.timeout or 0) + self._timeout
        return min(usual, NUMBERED_WITHIN) if endpoint.path.startswith(NUMBERED) else usual

    async def _call(self, endpoint: Endpoint, request: RequestInfo, scope: Scope, body: Incoming) -> Any:
        """Return what the function answers, or the JSON of it."""
        arguments: dict[str, Any] = dict(scope["path_params"])
        identity = None if endpoint.needs == ANYONE else await self._authenticate(request.headers)
        if identity is not None:
            identity.require(endpoint.needs)
            structlog.contextvars.bind_contextvars(tenant_id=identity.tenant_id, actor_id=identity.id)
        raw = b"" if endpoint.streamed else await body.whole()
        if "identity" in endpoint.parameters:
            arguments["identity"] = identity
        if endpoint.query is not None:
            arguments["query"] = read_query(scope["query_string"], endpoint.query)
        if endpoint.body is not None:
            arguments["body"] = await _heard(endpoint, body, raw)
        if "request" in endpoint.parameters:
            arguments["request"] = request
        if "once" not in endpoint.parameters:
            return await endpoint.function(**arguments)
        assert identity is not None
        once = Once(
            identity.tenant_id,
            identity.id,
            endpoint.name,
            _idempotency_key(request.headers),
            hashlib.sha256(scope["raw_path"] + b"\n" + raw).digest(),
        )
        return await once.run(self._database, lambda: endpoint.function(**arguments, once=once))


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


class _Fixed(BaseRoute):
    """Paths without parameters, each found by one look, where Starlette would try a hundred patterns in turn."""

    def __init__(self, resources: Mapping[str, _Resource]) -> None:
        self._resources = resources

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the path is one of them."""
        resource = self._resources.get(scope["path"]) if scope["type"] == "http" else None
        return (Match.NONE, {}) if resource is None else (Match.FULL, {"endpoint": resource, "path_params": {}})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have it answered."""
        await scope["endpoint"](scope, receive, send)


async def _heard(endpoint: Endpoint, body: Incoming, raw: bytes) -> Any:
    """What the function takes as its body; what is streamed is refused before it is read, if its head says enough."""
    if endpoint.streamed:
        body.demand(endpoint.media_type)
        return body if endpoint.form is None else await read_form(body, endpoint.form)
    if raw:
        body.demand(endpoint.media_type)
    if endpoint.decoder is None:
        return raw
    try:
        return decode(endpoint.decoder, raw or b"{}")
    except DialdeskError as error:
        if endpoint.salvaged is None or error.code != "INVALID_FIELD":
            raise
        return _salvaged(endpoint.salvaged, raw, error)


async def _outgoing(answer: Any, request: RequestInfo, method: str) -> Outgoing:
    """An answer as it goes out; of a Stream its first bytes have been read."""
    match answer:
        case Stream():
            return await answer_stream(answer, request.headers, method)
        case Written():
            return await answer_written(answer, method)
        case Redirect():
            return Outgoing(status=302, headers={"location": answer.url}, length=0)
        case Download():
            headers = {"content-type": answer.media_type, **answer.headers}
            if answer.filename is not None:
                headers["content-disposition"] = content_disposition(answer.filename)
            if answer.status == 204:  # which has neither content nor a length
                return Outgoing(status=204, headers=answer.headers)
            return Outgoing(status=answer.status, headers=headers, length=len(answer.content), content=answer.content)
    content = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    headers = {"content-type": "application/json"}
    return Outgoing(status=200, headers=headers, length=len(content), content=content)


def _refusal(error: DialdeskError, request: RequestInfo, path: str) -> Outgoing:
    status, content, headers = error_answer(error, request, numbered=path.startswith(NUMBERED))
    return Outgoing(status=status, headers=headers, length=len(content), content=content)


async def _finish(content: bytes, body: Incoming, send: Send) -> None:
    """Send an answer's content. Where the request is not over, the peer is given time to read the answer: closing a
    socket that has unread bytes takes from the peer what it has not read yet."""
    await send({"type": "http.response.body", "body": content, "more_body": not body.ended})
    if not body.ended:
        await body.discard(seconds=LINGER, most=LINGER_BOUND)
        with contextlib.suppress(TimeoutError):  # returning with the answer open closes the connection as well
            async with asyncio.timeout(SEND_DEADLINE):
                await send({"type": "http.response.body", "body": b""})


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
        raise DialdeskError("INVALID_FIELD", reason=str(error)[:QUOTED]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DialdeskError("BAD_REQUEST", reason=str(error)[:QUOTED]) from error


def read_query(query_string: bytes, kind: type[S]) -> S:
    """Read a query string into a Struct. Raises BAD_REQUEST where it is none, and what `read_fields` raises."""
    try:
        pairs = parse_qs(query_string.decode("ascii"), keep_blank_values=True, max_num_fields=100, errors="strict")
    except (ValueError, UnicodeError) as error:
        raise DialdeskError("BAD_REQUEST", reason=str(error)) from error
    return read_fields(pairs, kind)


def error_answer(
    error: DialdeskError, request: RequestInfo, *, numbered: bool = False
) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of an error: one shape everywhere (seed 004 §8.3.2), but see NUMBERED."""
    body = msgspec.json.encode(
        {
            "success": False,
            **({"code": error.status, "error": error.code} if numbered else {"code": error.code}),
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
    if error.status == 416:
        headers["content-range"] = f"bytes */{error.details['size']}"
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
        query=scope["query_string"].decode("latin-1"),
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
