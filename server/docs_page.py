"""`/api/docs`: both documents shown to people, rendered here, without a script and without anything from elsewhere."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

import msgspec

from protocol.errors import ERRORS
from server.asyncapi import SOCKET_RULES
from server.code_tables import CLOSE_HEADS, ERROR_HEADS, close_rows, error_rows
from server.openapi import HTTP_RULES
from server.schemas import API, NAMES, Json

_STYLE = """\
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5b6570;--line:#d9dee4;--soft:#f4f6f8;--paper:#fff;--link:#0b5cad;
--get:#0b6bcb;--post:#1a7f37;--put:#9a6700;--delete:#c0292f}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--dim:#9aa5b1;--line:#333b44;--soft:#1b2128;--paper:#12161b;
--link:#6cb2f7;--get:#58a6ff;--post:#56c271;--put:#d9a520;--delete:#ff7b72}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem}
body{margin:0;color:var(--ink);background:var(--paper);font:15px/1.55 system-ui,"Noto Sans CJK SC",sans-serif;
display:grid;grid-template-columns:22rem minmax(0,1fr)}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.25rem 1rem;border-right:1px solid var(--line);
background:var(--soft);font-size:13px}
nav code{font-size:12px}
nav ul{list-style:none;margin:0 0 .75rem;padding:0}
nav li a{display:flex;gap:.5rem;padding:.1rem 0;color:inherit;overflow-wrap:anywhere}
nav strong{display:block;margin-top:.75rem;color:var(--dim);font-weight:600}
main{padding:1.5rem clamp(1rem,4vw,3rem) 6rem;max-width:68rem}
a{color:var(--link);text-decoration:none}
a:hover{text-decoration:underline}
h1{margin:0 0 .5rem;font-size:1.8rem}
h2{margin:3rem 0 1rem;padding-bottom:.3rem;border-bottom:1px solid var(--line);font-size:1.4rem}
h3{margin:0 0 .4rem;font-size:1.05rem;overflow-wrap:anywhere}
article{margin:0 0 1rem;padding:1rem 1.1rem;border:1px solid var(--line);border-radius:8px}
article:target{border-color:var(--link)}
p,ul{margin:.4rem 0}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{padding:.05em .3em;border-radius:4px;background:var(--soft)}
h3 code,nav code{padding:0;background:none}
h3 code,h3 .method{font-size:15px}
h3 .method{min-width:4.5rem}
pre{margin:.5rem 0;padding:.75rem;overflow:auto;border-radius:6px;background:var(--soft)}
.method{display:inline-block;min-width:3.6rem;font:700 12px/1.5 ui-monospace,Menlo,Consolas,monospace}
nav .method{min-width:2.9rem;font-size:10px;line-height:20px}
.get{color:var(--get)}
.post{color:var(--post)}
.put{color:var(--put)}
.delete{color:var(--delete)}
.dim{color:var(--dim);font-size:13px;font-weight:400}
details{margin:.5rem 0}
summary{cursor:pointer;font-weight:600}
.scroll{overflow:auto}
table{width:100%;margin:.4rem 0;border-collapse:collapse;font-size:13.5px}
th,td{padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--dim);font-weight:600}
td:first-child{white-space:nowrap}
td+td code{overflow-wrap:anywhere}
@media (max-width:52rem){body{display:block}nav{position:static;height:auto;max-height:40vh;border:0}}
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy under which `page` is to be served: its own style, and nothing else."""


def render_page(openapi_document: bytes, asyncapi_document: bytes) -> bytes:
    """Return both documents as one page of HTML, without scripts and without anything from elsewhere."""
    http, sockets = msgspec.json.decode(openapi_document), msgspec.json.decode(asyncapi_document)
    operations = [
        (path, method, operation) for path, methods in http["paths"].items() for method, operation in methods.items()
    ]
    by_tag = {tag["name"]: [entry for entry in operations if tag["name"] in entry[2]["tags"]] for tag in http["tags"]}
    content = _joined(
        _contents(by_tag, sockets),
        _tag(
            "main",
            _tag("h1", http["info"]["title"]),
            _tag("p", f"Version {http['info']['version']}, at {http['servers'][0]['url']}.", class_="dim"),
            _prose(HTTP_RULES),
            _tag("h2", "Errors", id="errors"),
            _error_table(),
            *(
                _tag("section", _tag("h2", tag), *(_operation(*entry, http) for entry in entries))
                for tag, entries in by_tag.items()
            ),
            _tag("h2", "Sockets", id="sockets"),
            _prose(SOCKET_RULES),
            _table(CLOSE_HEADS, close_rows()),
            *(_channel(name, sockets) for name in sockets["channels"]),
            *_types("Types of the API", "http", http),
            *_types("Types of the sockets", "ws", sockets),
        ),
    )
    head = _tag(
        "head",
        _Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width">'),
        _tag("title", http["info"]["title"]),
        _tag("style", _Markup(_STYLE)),
    )
    return f"<!doctype html>\n{_tag('html', head, _tag('body', content), lang='en')}\n".encode()


class _Markup(str):
    """Text that is HTML already; all other is escaped where it enters a tag."""

    __slots__ = ()


def _joined(*parts: str) -> _Markup:
    return _Markup("".join(part if isinstance(part, _Markup) else escape(part) for part in parts))


def _tag(name: str, /, *inside: str, **attributes: str) -> _Markup:
    """Return an element; an attribute whose name is a word of Python's ends in an underscore."""
    told = "".join(f' {attribute.rstrip("_")}="{escape(value)}"' for attribute, value in attributes.items())
    return _Markup(f"<{name}{told}>{_joined(*inside)}</{name}>")


def _between(parts: Iterable[str], mark: str) -> _Markup:
    return _Markup(escape(mark).join(_joined(part) for part in parts))


def _spans(text: str) -> _Markup:
    """Names between backticks, and error codes, which lead to their rows."""

    def shown(part: str) -> str:
        name = part.strip("`")
        if name in ERRORS:
            return _tag("a", _tag("code", name), href=f"#error-{name}")
        return part if name == part else _tag("code", name)

    return _joined(*map(shown, NAMES.split(text)))


def _prose(text: str) -> _Markup:
    """Paragraphs as docstrings have them, and names between backticks."""
    return _joined(*(_tag("p", _spans(block)) for block in text.split("\n\n") if block.strip()))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> _Markup:
    head = _tag("tr", *(_tag("th", cell) for cell in heads))
    body = (_tag("tr", *(_tag("td", cell) for cell in row)) for row in rows)
    return _tag("div", _tag("table", _tag("thead", head), _tag("tbody", *body)), class_="scroll")


def _error_table() -> _Markup:
    return _table(
        ERROR_HEADS,
        (
            (_tag("code", code, id=f"error-{code}"), status, retry, en, _tag("span", zh, lang="zh-CN"))
            for code, status, retry, en, zh in error_rows()
        ),
    )


def _contents(by_tag: Mapping[str, Sequence[tuple[str, str, Json]]], sockets: Json) -> _Markup:
    def entry(target: str, *shown: str) -> _Markup:
        return _tag("li", _tag("a", *shown, href=f"#{target}"))

    return _tag(
        "nav",
        _tag("ul", entry("errors", "Errors"), entry("sockets", "Sockets"), entry("http", "Types")),
        *(
            _joined(
                _tag("strong", tag),
                _tag(
                    "ul",
                    *(
                        entry(operation["operationId"], _method(method), _tag("code", path.removeprefix(API)))
                        for path, method, operation in entries
                    ),
                ),
            )
            for tag, entries in by_tag.items()
        ),
        *(
            _joined(
                _tag("strong", channel["address"]),
                _tag(
                    "ul",
                    *(
                        entry(f"{name}-{kind}", _tag("code", sockets["components"]["messages"][kind]["name"]))
                        for kind in channel["messages"]
                    ),
                ),
            )
            for name, channel in sockets["channels"].items()
        ),
    )


def _method(method: str) -> _Markup:
    return _tag("span", method.upper(), class_=f"method {method}")


def _operation(path: str, method: str, operation: Json, http: Json) -> _Markup:
    needs = operation["x-dialdesk-permission"]
    parts = [
        _tag("h3", _method(method), _tag("code", path)),
        _tag("p", _spans(operation["summary"])),
        _prose(operation["description"]),
        _tag("p", "Needs ", _tag("code", needs), "." if operation["security"] else ": no credential.", class_="dim"),
    ]
    if operation["parameters"]:
        rows = (
            (_name(each), each["in"], _kind(each["schema"], "http"), _about(each)) for each in operation["parameters"]
        )
        parts.append(_table(("parameter", "in", "type", ""), rows))
    if "requestBody" in operation:
        optional = "" if operation["requestBody"]["required"] else ", which may be left out"
        parts.append(_content(f"Body{optional}", operation["requestBody"]["content"], http))
    told = {status: response for status, response in operation["responses"].items() if status < "400"}
    for status, response in told.items():
        title = "Answer" if status == "200" else f"Answer {status}"
        if "content" in response:
            parts.append(_content(title, response["content"], http))
        else:
            parts.append(_tag("p", f"{title}: ", _spans(response["description"])))
    refusals = [
        (status, _spans(response["description"]))
        for status, response in operation["responses"].items()
        if status not in told
    ]
    parts.append(_tag("details", _tag("summary", "Errors"), _table(("status", "codes"), refusals)))
    return _tag("article", *parts, id=operation["operationId"])


def _content(title: str, content: Json, document: Json) -> _Markup:
    ((media_type, told),) = content.items()
    if "schema" not in told:
        return _tag("p", f"{title}: ", _tag("code", media_type))
    schema = told["schema"]
    named = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
    kind = _kind(schema, "http") if media_type == "application/json" else _tag("code", media_type)
    return _tag("details", _tag("summary", title, ": ", kind), _schema(named, "http"))


def _channel(name: str, sockets: Json) -> _Markup:
    channel = sockets["channels"][name]
    return _tag(
        "section",
        _tag("h2", channel["address"]),
        _prose(channel["description"]),
        *(_socket_message(name, kind, sockets) for kind in channel["messages"]),
    )


def _socket_message(channel: str, kind: str, sockets: Json) -> _Markup:
    message = sockets["components"]["messages"][kind]
    ways = {"receive": f"{channel} → server", "send": f"server → {channel}"}
    examples = [
        (ways[sockets["operations"][example["name"]]["action"]], example["payload"])
        for example in message["examples"]
        if sockets["operations"][example["name"]]["channel"]["$ref"] == f"#/channels/{channel}"
    ]
    data = message["payload"]["properties"]["data"]["$ref"].rpartition("/")[2]
    return _tag(
        "article",
        _tag(
            "h3", _tag("code", message["name"]), " ", _tag("span", ", ".join(way for way, _ in examples), class_="dim")
        ),
        _tag("p", _spans(message["summary"])),
        _prose(message.get("description", "")),
        _tag("details", _tag("summary", "Data"), _fields(sockets["components"]["schemas"][data], "ws")),
        *(
            _tag(
                "details",
                _tag("summary", f"Example, {way}"),
                _tag("pre", msgspec.json.format(msgspec.json.encode(payload), indent=2).decode()),
            )
            for way, payload in examples
        ),
        id=f"{channel}-{kind}",
    )


def _types(title: str, prefix: str, document: Json) -> Iterator[_Markup]:
    yield _tag("h2", title, id=prefix)
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield _tag("article", _tag("h3", _tag("code", name)), _schema(schema, prefix), id=f"{prefix}-{name}")


def _schema(schema: Json, prefix: str) -> _Markup:
    """A type as people read it: what it means, then its fields, or what it may be."""
    about = _prose(schema.get("description", ""))
    shown = _fields(schema, prefix) if "properties" in schema else _tag("p", _kind(schema, prefix))
    return _joined(about, shown)


def _fields(schema: Json, prefix: str) -> _Markup:
    if not schema["properties"]:
        return _tag("p", "No fields.", class_="dim")
    rows = (
        (_name({"name": name, "required": name in schema.get("required", [])}), _kind(field, prefix), _about(field))
        for name, field in schema["properties"].items()
    )
    return _table(("field", "type", ""), rows)


def _name(told: Json) -> _Markup:
    return _joined(_tag("code", told["name"]), "" if told.get("required") else _tag("span", " optional", class_="dim"))


def _about(told: Json) -> _Markup:
    schema = told.get("schema", told)
    default = [f"default `{msgspec.json.encode(schema['default']).decode()}`"] if "default" in schema else []
    return _spans("; ".join([*filter(None, [told.get("description")]), *default]))


def _kind(schema: Json, prefix: str) -> _Markup:
    """The type of a value in a few words."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return _tag("a", name, href=f"#{prefix}-{name}")
        case {"const": value}:
            return _literal(value)
        case {"enum": values}:
            return _between(map(_literal, values), " | ")
        case {"anyOf": options}:
            return _between((_kind(option, prefix) for option in options), " or ")
        case {"type": "array"}:
            return _joined("list of ", _kind(schema["items"], prefix), _limits(schema, "Items", "items"))
        case {"type": "object", "additionalProperties": dict(values)}:
            return _joined("map of ", _kind(values, prefix), _limits(schema, "Properties", "names"))
        case {"type": name}:
            told = schema.get("format") or schema.get("pattern")
            return _joined(name, f" ({told})" if told else "", _limits(schema, "Length", "characters"))
    return _joined("any JSON")


def _literal(value: object) -> _Markup:
    return _tag("code", msgspec.json.encode(value).decode())


def _limits(schema: Json, measured: str, unit: str) -> str:
    least = schema.get(f"min{measured}", schema.get("minimum"))
    most = schema.get(f"max{measured}", schema.get("maximum"))
    of = f" {unit}" if f"min{measured}" in schema or f"max{measured}" in schema else ""
    match least, most:
        case None, None:
            return ""
        case None, _:
            return f", at most {most}{of}"
        case _, None:
            return f", at least {least}{of}"
        case _:
            return f", {least} to {most}{of}"
