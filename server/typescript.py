"""The types of the TypeScript SDK, made from the documents that a node serves: nothing is written twice.

`python -m server.typescript` writes clients/web/sdk/src/generated.ts; with `--check` it only says whether that is as it
would be written. It needs neither a database nor Node.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from protocol.errors import ERRORS
from server import VERSION
from server.asyncapi import describe_messages
from server.openapi import describe_endpoints
from server.routes import all_routes
from server.schemas import Json

GENERATED = Path(__file__).parents[1] / "clients" / "web" / "sdk" / "src" / "generated.ts"

HEAD = """\
// Made by `python -m server.typescript` from the server's OpenAPI and AsyncAPI documents. Not to be edited.

"""

BODIES = {"multipart/form-data": "FormData", "text/csv": "Blob | string", "application/octet-stream": "Blob | string"}
"""What a page sends where a body is not JSON, by media type."""


def describe_types(openapi: Json, asyncapi: Json) -> str:
    """Return the module: every message by who says it, every operation by method and path, and the types they name.

    A type of the API that differs from one of the sockets under the same name is called `Api…`.
    """
    of_sockets: dict[str, Json] = asyncapi["components"]["schemas"]
    of_api: dict[str, Json] = openapi["components"]["schemas"]
    renamed = {name: f"Api{name}" for name, schema in of_api.items() if of_sockets.get(name, schema) != schema}
    blocks = [
        *(_declared(name, schema, {}) for name, schema in of_sockets.items()),
        *(
            _declared(renamed.get(name, name), schema, renamed)
            for name, schema in of_api.items()
            if name in renamed or name not in of_sockets
        ),
        *_speeches(asyncapi),
        _operations(openapi, renamed),
        _words("SEQUENCED", "Events that carry `seq`.", sorted(_sequenced(asyncapi))),
        _words(
            "RETRIED",
            "Error codes after which the same request may succeed.",
            sorted(code for code, error in ERRORS.items() if error.retry),
        ),
    ]
    return HEAD + "\n".join(blocks)


def _declared(name: str, schema: Json, renamed: dict[str, str]) -> str:
    about = _comment(schema.get("description", ""), "")
    if "properties" in schema or schema.get("type") == "object":
        return f"{about}export interface {name} {_object(schema, renamed, '')}\n"
    return f"{about}export type {name} = {_type(schema, renamed, '')}\n"


def _speeches(asyncapi: Json) -> Iterator[str]:
    messages = asyncapi["components"]["messages"]
    for speaker, operation in asyncapi["operations"].items():
        kinds = [messages[_last(reference)] for reference in operation["messages"]]
        fields = {kind["name"]: kind["payload"]["properties"]["data"] for kind in kinds}
        lines = "".join(f"  {name}: {_type(data, {}, '  ')}\n" for name, data in fields.items())
        name = speaker[0].upper() + speaker[1:]
        about = f"/** The `data` of each message in the direction `{speaker}`, by its type. */"
        yield f"{about}\nexport interface {name} {{\n{lines}}}\n"


def _sequenced(asyncapi: Json) -> Iterator[str]:
    for message in asyncapi["components"]["messages"].values():
        if "seq" in message["payload"]["required"]:
            yield message["name"]


def _operations(openapi: Json, renamed: dict[str, str]) -> str:
    lines = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            about = f"{operation['summary']} Needs: {operation['x-dialdesk-permission']}."
            lines.append(_comment(about, "  "))
            lines.append(f'  "{method.upper()} {path}": {_operation(operation, renamed)}\n')
    return f"/** Every operation of the API. */\nexport interface Operations {{\n{''.join(lines)}}}\n"


def _operation(operation: Json, renamed: dict[str, str]) -> str:
    lines = []
    for place in ("path", "query"):
        parameters = [parameter for parameter in operation["parameters"] if parameter["in"] == place]
        if parameters:
            required = [parameter["name"] for parameter in parameters if parameter.get("required")]
            schema = {"properties": {p["name"]: p["schema"] for p in parameters}, "required": required}
            lines.append(f"{place}{'' if required else '?'}: {_object(schema, renamed, '    ')}")
    if body := operation.get("requestBody"):
        lines.append(f"body{'' if body['required'] else '?'}: {_body(body['content'], renamed)}")
    if any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"]):
        lines.append("key?: string")
    lines.append(f"answer: {_answer(operation, renamed)}")
    return "{\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def _body(content: Json, renamed: dict[str, str]) -> str:
    ((media_type, body),) = content.items()
    return _type(body["schema"], renamed, "    ") if media_type == "application/json" else BODIES[media_type]


def _answer(operation: Json, renamed: dict[str, str]) -> str:
    content = operation["responses"].get("200", {}).get("content", {})
    return (
        _type(content["application/json"]["schema"], renamed, "    ") if "application/json" in content else "Response"
    )


def _words(name: str, about: str, words: list[str]) -> str:
    lines = "".join(f'  "{word}",\n' for word in words)
    return f"/** {about} */\nexport const {name}: ReadonlySet<string> = new Set([\n{lines}])\n"


def _type(schema: Json, renamed: dict[str, str], indent: str) -> str:
    match schema:
        case {"$ref": reference}:
            return renamed.get(_last(schema), _last(schema)) if reference else ""
        case {"anyOf": members}:
            return " | ".join(dict.fromkeys(_type(member, renamed, indent) for member in members))
        case {"const": value}:
            return json.dumps(value)
        case {"enum": values}:
            return " | ".join(json.dumps(value) for value in values)
        case {"type": "array", "items": items}:
            item = _type(items, renamed, indent)
            return f"({item})[]" if " | " in item else f"{item}[]"
        case {"type": "object", "properties": _}:
            return _object(schema, renamed, indent)
        case {"type": "object"}:
            return f"Record<string, {_type(schema.get('additionalProperties') or {}, renamed, indent)}>"
        case {"type": "integer" | "number"}:
            return "number"
        case {"type": "string" | "boolean" | "null" as plain}:
            return str(plain)
    return "unknown"


def _object(schema: Json, renamed: dict[str, str], indent: str) -> str:
    required = schema.get("required", ())
    fields = [
        f"{indent}  {name}{'' if name in required else '?'}: {_type(field, renamed, indent + '  ')}\n"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"{{\n{''.join(fields)}{indent}}}" if fields else "{}"


def _last(reference: Json) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _comment(text: str, indent: str) -> str:
    lines = [line.rstrip() for line in text.replace("*/", "* /").splitlines()]
    if len(lines) <= 1:
        return "".join(f"{indent}/** {line} */\n" for line in lines)
    return f"{indent}/**\n" + "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines) + f"{indent} */\n"


def main(arguments: Iterable[str]) -> None:
    """Write the module, or with `--check` exit with a message where it is not what it should be."""
    endpoints = all_routes()
    openapi: Any = msgspec.json.decode(
        describe_endpoints(endpoints, version=VERSION, server_url="https://desk.example")
    )
    asyncapi: Any = msgspec.json.decode(describe_messages(version=VERSION, server_url="https://desk.example"))
    types = describe_types(openapi, asyncapi)
    if "--check" not in arguments:
        GENERATED.write_text(types, encoding="utf-8")
    elif not GENERATED.exists() or GENERATED.read_text(encoding="utf-8") != types:
        sys.exit(f"{GENERATED.name} is not what the server's documents say: run `make types`")


if __name__ == "__main__":
    main(sys.argv[1:])
