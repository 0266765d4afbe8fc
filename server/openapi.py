"""The OpenAPI document, made from the very declarations that serve: nothing is written twice.

Error codes that an endpoint's function names in its docstring become answers of the operation, beside those that its
declaration entails.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import inspect as mi

from protocol.errors import ERRORS
from protocol.timestamps import Timestamp
from server.code_tables import ERROR_HEADS, error_rows, in_markdown
from server.forms import FIELD_BOUND, FILE
from server.http import ANYONE, IDEMPOTENCY_KEY, NUMBERED, PHONE, SIGNED_IN, Download, Endpoint, bare, media_type
from server.schemas import API, CODE, Json, Schemas, about_struct, split_docstring
from server.streams import Redirect, Stream, Written

HTTP_RULES = f"""
The JSON API of Dialdesk, a realtime call-control server. What happens is told as it happens over WebSockets, which the
AsyncAPI document describes.

A request carries `Authorization: Bearer <token>`: the access token of a user, an API key, or the device token of a
phone, which goes with `X-Device-Id`. Each operation says what it needs: `anyone`, `signed in`, `phone` or a permission.

Bodies are JSON in UTF-8. A field or parameter that is not known here is refused with `INVALID_FIELD`, but for what
phone apps send; whoever reads answers ignores fields it does not know. Ids are opaque text. Times are UTC, RFC 3339
with milliseconds.

Errors have one shape everywhere, but that below `/api/v1/channel/`, where answers have snake_case, `code` is the HTTP
status and the code stands in `error`. `code` is stable; `message` is for people, in Chinese unless `Accept-Language`
puts English first; `retry` in the table of codes tells whether the same request, sent again unchanged, may succeed. A
request may be refused before all of it has come; the answer then says `Connection: close`.

Files are sent as they are, or as `file` in a form (multipart/form-data), behind the form's other fields, of which each
has at most {FIELD_BOUND} bytes. Files are answered whole or, for `Range`, in part (RFC 9110).

An operation that takes `Idempotency-Key` does its work once: the same key and request give the same answer, and
another request under that key gives `IDEMPOTENCY_MISMATCH`. Keys are kept for 24 hours.

`X-Request-Id` is taken from the request or made, and stands in every answer. HEAD is served where GET is. A method
that a path does not take is answered `METHOD_NOT_ALLOWED`, with the header `Allow`.
"""


class Error(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is answered where a request is not carried out. `details` are the values that `message` speaks of."""

    success: Literal[False]
    code: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(ERRORS)})]
    message: str
    details: dict[str, Any]
    timestamp: Timestamp
    request_id: str


class NumberedError(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is answered below `/api/v1/channel/` where a request is not carried out: `code` is the HTTP status, and
    `error` what is called `code` elsewhere."""

    success: Literal[False]
    code: int
    error: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(ERRORS)})]
    message: str
    details: dict[str, Any]
    timestamp: Timestamp
    request_id: str


def describe_endpoints(endpoints: Sequence[Endpoint], *, version: str, server_url: str) -> bytes:
    """Return the OpenAPI 3.1 document of the endpoints.

    Raises TypeError where two functions or two types would go by one name, or a type cannot be described.
    """
    schemas = Schemas()
    asked = [_asked(endpoint, schemas) for endpoint in endpoints]
    answered = [_answered(endpoint, schemas) for endpoint in endpoints]
    error = schemas.told(Error)

    names = Counter(endpoint.name for endpoint in endpoints)
    if repeated := [name for name, times in names.items() if times > 1]:
        raise TypeError(f"several endpoints are named {', '.join(repeated)}")

    paths: dict[str, Json] = {}
    for endpoint, question, answer in zip(endpoints, asked, answered, strict=True):
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = {**_headed(endpoint), **question, **answer}

    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Dialdesk API",
                "version": version,
                "description": f"{HTTP_RULES}\n\n{in_markdown(ERROR_HEADS, error_rows())}",
            },
            "servers": [{"url": server_url}],
            "tags": [{"name": tag} for tag in dict.fromkeys(map(_tag_of, endpoints))],
            "paths": paths,
            "components": {
                "schemas": schemas.named,
                "responses": {str(status): _refusal(status, error) for status in _statuses(ERRORS)},
                "headers": {
                    "X-Request-Id": {
                        "description": "The id of the request: its own, or one that was made.",
                        "required": True,
                        "schema": {"type": "string"},
                    }
                },
                "securitySchemes": {
                    "accessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                    "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key, by its scopes."},
                    "deviceToken": {"type": "http", "scheme": "bearer", "description": "The token of a bound phone."},
                    "deviceId": {"type": "apiKey", "in": "header", "name": "X-Device-Id"},
                },
            },
        }
    )


def _headed(endpoint: Endpoint) -> Json:
    """What an operation is, and who may ask for it."""
    _, description = split_docstring(endpoint.function.__doc__)
    about_query = "" if endpoint.query is None else about_struct(endpoint.query)
    return {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": "\n\n".join(filter(None, (description, about_query))),
        "tags": [_tag_of(endpoint)],
        "security": _security(endpoint.needs),
        "x-dialdesk-permission": endpoint.needs,
    }


def _asked(endpoint: Endpoint, schemas: "Schemas") -> Json:
    """What an operation takes: parameters and body."""
    parameters: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"minLength": 1, **schemas.heard(endpoint.parameters[name])},
        }
        for name in endpoint.in_path
    ]
    if endpoint.query is not None:
        parameters += [_query_parameter(name, field, schema) for name, field, schema in schemas.fields(endpoint.query)]
    if "once" in endpoint.parameters:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Makes the request happen once, however often it is sent.",
                "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
            }
        )
    if any(bare(answer) is Stream for answer in _answers(endpoint)):
        parameters.append(
            {
                "name": "Range",
                "in": "header",
                "description": "One range of bytes, as `bytes=0-65535`; several are answered by the whole.",
                "schema": {"type": "string"},
            }
        )
    question: Json = {"parameters": parameters}
    if endpoint.form is not None:
        question["requestBody"] = {
            "required": True,
            "content": {"multipart/form-data": {"schema": _form(endpoint.form, schemas)}},
        }
    elif endpoint.decoder is not None:
        question["requestBody"] = {
            "required": not _takes_nothing(endpoint.decoder),
            "content": {"application/json": {"schema": schemas.heard(endpoint.body)}},
        }
    elif endpoint.body is not None:
        question["requestBody"] = {
            "required": True,
            "content": {endpoint.media_type or "application/octet-stream": {}},
        }
    return question


def _form(kind: type[msgspec.Struct], schemas: "Schemas") -> Json:
    """A form's fields, and the file, which comes last."""
    fields = list(schemas.fields(kind))
    return {
        "description": about_struct(kind),
        "type": "object",
        "properties": {
            **{name: schema for name, _, schema in fields},
            FILE: {"type": "string", "format": "binary", "description": "The last part of the form."},
        },
        "required": [*(name for name, field, _ in fields if field.required), FILE],
        **({"additionalProperties": False} if kind.__struct_config__.forbid_unknown_fields else {}),
    }


def _answered(endpoint: Endpoint, schemas: "Schemas") -> Json:
    """What an operation answers when it succeeds, and one refusal a status, which names its codes."""
    codes = _codes(endpoint)
    numbered = schemas.told(NumberedError) if endpoint.path.startswith(NUMBERED) else None
    return {
        "responses": {
            **{status: told for answer in _answers(endpoint) for status, told in _successes(answer, schemas).items()},
            **{
                str(status): {
                    **(_refusal(status, numbered) if numbered else {"$ref": f"#/components/responses/{status}"}),
                    "description": ", ".join(f"`{code}`" for code in codes if ERRORS[code].status == status),
                }
                for status in _statuses(codes)
            },
        }
    }


def _answers(endpoint: Endpoint) -> list[Any]:
    """The types that an endpoint answers with."""
    several = get_origin(endpoint.answer) in {Union, UnionType}
    return list(get_args(endpoint.answer)) if several else [endpoint.answer]


def _successes(answer: Any, schemas: "Schemas") -> dict[str, Json]:
    """What one type of answer looks like, by status."""
    kind = bare(answer)
    if kind is Redirect:
        location = {"Location": {"required": True, "schema": {"type": "string", "format": "uri-reference"}}}
        return {"302": {"description": "It is there for now.", "headers": {**_headers(302), **location}}}
    if kind is Written:
        return {"200": _success("The file.", {media_type(answer) or "*/*": {}})}
    if kind is Download:
        return {"200": _success("The document.", {media_type(answer) or "*/*": {}})}
    if kind is Stream:
        content: Json = {media_type(answer) or "*/*": {}}
        part = _success("The part that `Range` asks for.", content)
        part["headers"]["Content-Range"] = {"required": True, "schema": {"type": "string"}}
        return {
            "200": _success("The file.", content),
            "206": part,
            "304": {"description": "The file is the one that `If-None-Match` names.", "headers": _headers(304)},
        }
    about = split_docstring(about_struct(answer))[0]
    return {"200": _success(about, {"application/json": {"schema": schemas.told(answer)}})}


def _success(description: str, content: Json) -> Json:
    return {"description": description, "headers": _headers(200), "content": content}


def _codes(endpoint: Endpoint) -> list[str]:
    """The errors of an operation: what its declaration entails, and what its function's docstring names."""
    codes = {"INTERNAL", "UNAVAILABLE", *CODE.findall(endpoint.function.__doc__ or "")}
    if endpoint.needs != ANYONE:
        codes |= {"UNAUTHENTICATED", "TOKEN_EXPIRED", "ACCOUNT_DISABLED", "TENANT_SUSPENDED"}
    if endpoint.needs == PHONE:
        codes |= {"DEVICE_UNBOUND"}
    elif endpoint.needs not in {ANYONE, SIGNED_IN}:
        codes |= {"FORBIDDEN", "PASSWORD_CHANGE_REQUIRED"}
    if endpoint.in_path:
        codes |= {"NOT_FOUND", "INVALID_FIELD"}
    if endpoint.query is not None:
        codes |= {"BAD_REQUEST", "INVALID_FIELD"}
    if endpoint.body is not None:
        codes |= {"BAD_REQUEST", "INVALID_FIELD", "BODY_TOO_LARGE", "REQUEST_TIMEOUT"}
    if endpoint.media_type is not None:
        codes |= {"UNSUPPORTED_MEDIA_TYPE"}
    if any(bare(answer) is Stream for answer in _answers(endpoint)):
        codes |= {"RANGE_NOT_SATISFIABLE"}
    if "once" in endpoint.parameters:
        codes |= {"INVALID_FIELD", "IDEMPOTENCY_MISMATCH"}
    return [code for code in ERRORS if code in codes]


def _refusal(status: int, error: Json) -> Json:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _headers(status),
        "content": {"application/json": {"schema": error}},
    }


def _headers(status: int) -> Json:
    """The headers of an answer, beside what HTTP itself says of it."""
    headers: Json = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    match status:
        case 401:
            headers["WWW-Authenticate"] = {"required": True, "schema": {"type": "string"}}
        case 405:
            headers["Allow"] = {"required": True, "schema": {"type": "string"}}
        case 416:
            headers["Content-Range"] = {"required": True, "schema": {"type": "string", "pattern": r"^bytes \*/\d+$"}}
        case 429 | 503:
            headers["Retry-After"] = {
                "description": "Seconds.",
                "required": True,
                "schema": {"type": "integer", "minimum": 0},
            }
    return headers


def _security(needs: str) -> list[Json]:
    if needs == PHONE:
        return [{"deviceToken": [], "deviceId": []}]
    return [] if needs == ANYONE else [{"accessToken": []}, {"apiKey": []}]


def _query_parameter(name: str, field: mi.Field, schema: Json) -> Json:
    """A field of a query. A query string cannot say null: what may be null may be left out."""
    match schema:
        case {"anyOf": [only, {"type": "null"}], **rest}:
            schema = {**only, **rest}
        case {"anyOf": [*options, {"type": "null"}], **rest}:
            schema = {"anyOf": options, **rest}
    parameter: Json = {"name": name, "in": "query", "required": field.required, "schema": schema}
    if "description" in schema:
        parameter["description"] = schema.pop("description")
    return parameter


def _tag_of(endpoint: Endpoint) -> str:
    return endpoint.path.removeprefix(API).partition("/")[0] if endpoint.path.startswith(API) else "node"


def _statuses(codes: Iterable[str]) -> list[int]:
    return sorted({ERRORS[code].status for code in codes})


def _takes_nothing(decoder: msgspec.json.Decoder[Any]) -> bool:
    """Whether the body may be left out, which is then read as an object without fields."""
    try:
        decoder.decode(b"{}")
    except msgspec.ValidationError:
        return False
    return True
