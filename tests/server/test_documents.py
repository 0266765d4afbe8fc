"""The documents that describe the server say what it decodes, encodes and refuses, and nothing else."""

import base64
import hashlib
import re
from collections.abc import Iterator
from enum import StrEnum
from html.parser import HTMLParser
from typing import Annotated, Any, Literal, get_args

import jsonschema_rs
import msgspec
import pytest
from starlette.datastructures import Headers

from protocol import messages
from protocol.errors import ERRORS, CloseCode, DialdeskError
from protocol.timestamps import Timestamp
from server import VERSION
from server.asyncapi import describe_messages
from server.config import Config
from server.docs_page import PAGE_POLICY, render_page
from server.forms import Form
from server.http import (
    ANYONE,
    PHONE,
    SIGNED_IN,
    Answer,
    AppBody,
    Body,
    Done,
    Download,
    Endpoint,
    RequestInfo,
    error_answer,
)
from server.identity import Identity
from server.openapi import describe_endpoints
from server.routes import all_routes, documents
from server.streams import Incoming, RawBytes, Redirect, Stream
from storage.idempotency import Once

Json = dict[str, Any]

# --- a server of toys -----------------------------------------------------------------------------------------------


class Colour(StrEnum):
    """What it looks like, in the order of the rainbow."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Wheel(msgspec.Struct, frozen=True, rename="camel"):
    """Goes both ways: asked for and told."""

    width: Annotated[int, msgspec.Meta(ge=1, le=9)] = 3


class NewToy(Body, frozen=True, kw_only=True):
    """A toy to make. `made_of` is wood where nothing is said; <b>bold & "quoted"</b> is escaped."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=20, pattern="^[a-z]+$")]
    made_of: Literal["wood", "tin"] = "wood"
    colours: Annotated[tuple[Colour, ...], msgspec.Meta(max_length=2)] = ()
    price: Annotated[float, msgspec.Meta(gt=0, description="In `yuan`.")] | None = None
    wheel: Wheel | None = None
    labels: dict[Annotated[str, msgspec.Meta(max_length=8)], bool] | None = None
    anything: msgspec.Raw = msgspec.Raw(b"null")


class Play(AppBody, frozen=True, kw_only=True):
    """What an app says of its play."""

    minutes: int = 0


class ToyQuery(Body, frozen=True, kw_only=True):
    """Which toys. `made_of` narrows it."""

    made_of: Annotated[str, msgspec.Meta(description="Of what.")] | None = None
    colour: tuple[Colour, ...] = ()
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    owner: str


class Toy(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A toy, and those it is made of."""

    id: str
    made_at: Timestamp
    wheel: Wheel = Wheel()
    parts: list["Toy"] = []
    note: str | None = None
    secret: str | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw = msgspec.Raw(b"null")


class ToyAnswer(Answer, frozen=True, kw_only=True):
    """The toy."""

    toy: Toy


async def make(identity: Identity, body: NewToy, once: Once) -> ToyAnswer:
    """Make a toy.

    Refused by ALREADY_EXISTS, or RATE_LIMITED where too many are made.
    """
    raise AssertionError("never called")


async def find(identity: Identity, query: ToyQuery) -> ToyAnswer:
    """Find toys."""
    raise AssertionError("never called")


async def look(identity: Identity, toy_id: str) -> ToyAnswer:
    """Look at a toy."""
    raise AssertionError("never called")


async def play(identity: Identity, toy_id: str, body: list[Play] | Play) -> Done:
    """Play; say <script>alert("toys")</script> & be merry."""
    raise AssertionError("never called")


async def paint(toy_id: str, body: bytes) -> Done:
    """Take a picture as it is."""
    raise AssertionError("never called")


async def leave() -> Annotated[Download, msgspec.Meta(extra_json_schema={"contentMediaType": "text/csv"})]:
    """Take everything along."""
    raise AssertionError("never called")


async def see() -> Download:
    """See something."""
    raise AssertionError("never called")


class Sketch(Body, frozen=True, kw_only=True):
    """What a drawing is of. `made_of` may be left out."""

    toy_id: Annotated[str, msgspec.Meta(min_length=1)]
    made_of: str | None = None


async def draw(body: Form[Sketch]) -> Done:
    """Take a drawing, and what it is of."""
    raise AssertionError("never called")


async def sing(body: RawBytes) -> Done:
    """Take a song as it is sung."""
    raise AssertionError("never called")


async def hum(body: Incoming) -> Redirect:
    """Take any tune, and say where it is kept."""
    raise AssertionError("never called")


async def hear(
    toy_id: str,
) -> Annotated[Stream, msgspec.Meta(extra_json_schema={"contentMediaType": "audio/*"})] | Redirect:
    """Hear a toy, here or elsewhere."""
    raise AssertionError("never called")


MAKE = Endpoint("POST", "/api/v1/toys", make, needs="toys.make")
FIND = Endpoint("GET", "/api/v1/toys", find, needs="toys.read")
LOOK = Endpoint("GET", "/api/v1/toys/{toy_id}", look, needs=SIGNED_IN)
PLAY = Endpoint("POST", "/api/v1/toys/{toy_id}/play", play, needs=PHONE)
PAINT = Endpoint("PUT", "/api/v1/toys/{toy_id}/picture", paint, needs=ANYONE)
LEAVE = Endpoint("GET", "/api/v1/everything", leave, needs=ANYONE)
SEE = Endpoint("GET", "/something", see, needs=ANYONE)
DRAW = Endpoint("POST", "/api/v1/drawings", draw, needs=ANYONE)
SING = Endpoint("PUT", "/api/v1/songs", sing, needs=ANYONE)
HUM = Endpoint("POST", "/api/v1/songs", hum, needs=ANYONE)
HEAR = Endpoint("GET", "/api/v1/toys/{toy_id}/voice", hear, needs=ANYONE)
TOYS = [MAKE, FIND, LOOK, PLAY, PAINT, LEAVE, SEE, DRAW, SING, HUM, HEAR]


def openapi(endpoints: list[Endpoint]) -> Json:
    """Return the document of some endpoints, read back."""
    document: Json = msgspec.json.decode(describe_endpoints(endpoints, version="1.2.3", server_url="https://desk.test"))
    return document


def operation(endpoint: Endpoint) -> Json:
    """Return what the document says of one toy endpoint."""
    told: Json = openapi(TOYS)["paths"][endpoint.path][endpoint.method.lower()]
    return told


def schema(name: str) -> Json:
    """Return the schema of a toy type."""
    told: Json = openapi(TOYS)["components"]["schemas"][name]
    return told


def parameters(endpoint: Endpoint) -> dict[str, Json]:
    """Return the parameters of a toy endpoint by name."""
    return {parameter["name"]: parameter for parameter in operation(endpoint)["parameters"]}


def sockets() -> Json:
    """Return the document of the sockets, read back."""
    document: Json = msgspec.json.decode(describe_messages(version="1.2.3", server_url="https://desk.test/dial"))
    return document


def references(document: object) -> Iterator[str]:
    """Yield every $ref of a document."""
    match document:
        case dict():
            if "$ref" in document:
                yield document["$ref"]
            for value in document.values():
                yield from references(value)
        case list():
            for value in document:
                yield from references(value)


def resolved(document: Json, reference: str) -> object:
    """Follow a $ref. Raises KeyError where it leads nowhere."""
    place: Any = document
    for step in reference.removeprefix("#/").split("/"):
        place = place[step.replace("~1", "/").replace("~0", "~")]
    return place


def validator(document: Json, reference: str) -> jsonschema_rs.Validator:
    """Return what judges values by one schema of a document."""
    return jsonschema_rs.validator_for(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": reference, **document},
        validate_formats=True,
    )


# --- OpenAPI --------------------------------------------------------------------------------------------------------


def test_the_openapi_document_is_one() -> None:
    """The document obeys the meta-schema of OpenAPI 3.1, and each of its schemas that of JSON Schema."""
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

    document = openapi(TOYS)
    for told in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **told})

    assert [] == list(OPENAPI_31_VALIDATOR.iter_errors(document))


def test_every_reference_leads_somewhere() -> None:
    """No $ref of either document hangs in the air."""
    for document in (openapi(TOYS), sockets()):
        found = set(references(document))

        assert found
        for reference in found:
            assert resolved(document, reference) is not None


def test_every_endpoint_is_told() -> None:
    """Each endpoint stands at its path and method, under the name of its function, and no other does."""
    told = {
        (path, method.upper(), operation["operationId"])
        for path, methods in openapi(TOYS)["paths"].items()
        for method, operation in methods.items()
    }

    assert {(endpoint.path, endpoint.method, endpoint.name) for endpoint in TOYS} == told


def test_docstrings_are_summary_and_description() -> None:
    """The first line of a function's docstring is the summary, the rest and the query's docstring the description."""
    made, found = operation(MAKE), operation(FIND)

    assert "Make a toy." == made["summary"]
    assert "Refused by ALREADY_EXISTS, or RATE_LIMITED where too many are made." == made["description"]
    assert "Which toys. `madeOf` narrows it." == found["description"]


def test_tags_are_the_first_noun_of_the_path() -> None:
    """What stands outside the API proper is of the node."""
    assert (["toys"], ["everything"], ["node"]) == tuple(operation(each)["tags"] for each in (PLAY, LEAVE, SEE))
    assert [{"name": name} for name in ("toys", "everything", "node", "drawings", "songs")] == openapi(TOYS)["tags"]


def test_parts_of_the_path_are_parameters() -> None:
    """A part of the path is required and never empty."""
    expected = {"name": "toy_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}

    assert {"toy_id": expected} == parameters(LOOK)


def test_fields_of_the_query_are_parameters() -> None:
    """A query has a parameter for each field by its name on the wire; null cannot be said, so it is not offered."""
    told = parameters(FIND)

    assert ["madeOf", "colour", "limit", "owner"] == list(told)
    assert {
        "name": "madeOf",
        "in": "query",
        "required": False,
        "description": "Of what.",
        "schema": {"type": "string"},
    } == told["madeOf"]
    assert {"type": "array", "items": {"$ref": "#/components/schemas/Colour"}, "default": []} == told["colour"][
        "schema"
    ]
    assert {"type": "integer", "minimum": 1, "maximum": 100, "default": 20} == told["limit"]["schema"]
    assert told["owner"]["required"]
    assert "ToyQuery" not in openapi(TOYS)["components"]["schemas"]


def test_bodies_are_what_their_decoder_takes() -> None:
    """The schema of a body takes what its decoder takes, and refuses what it refuses."""
    judge = validator(openapi(TOYS), "#/components/schemas/NewToy")
    for body in (
        {"name": "car"},
        {"name": "car", "madeOf": "tin", "colours": ["blue", "red"], "price": 1.5, "wheel": {}, "labels": {"a": True}},
        {"name": "car", "price": None, "wheel": {"width": 9}, "anything": [1, {"x": None}]},
        {},
        {"name": ""},
        {"name": "Car"},
        {"name": "car", "madeOf": "gold"},
        {"name": "car", "made_of": "tin"},
        {"name": "car", "more": 1},
        {"name": "car", "price": 0},
        {"name": "car", "wheel": {"width": 10}},
        {"name": "car", "colours": ["red", "red", "red"]},
        {"name": "car", "labels": {"longer than 8": True}},
    ):
        assert MAKE.decoder is not None
        try:
            MAKE.decoder.decode(msgspec.json.encode(body))
        except msgspec.ValidationError:
            taken = False
        else:
            taken = True

        assert taken == judge.is_valid(body), body


def test_apps_may_say_more_than_is_known() -> None:
    """Unknown fields are forbidden in a Body, and not in an AppBody."""
    assert schema("NewToy")["additionalProperties"] is False
    assert "additionalProperties" not in schema("Play")


def test_a_body_without_required_fields_may_be_left_out() -> None:
    """Http reads an empty body as an object without fields, so it is required where such an object is refused."""
    assert operation(MAKE)["requestBody"]["required"]
    assert not operation(PLAY)["requestBody"]["required"]


def test_bytes_are_told_by_their_media_type() -> None:
    """A body of bytes and a Download have no schema, only a media type, which Annotated may name."""
    assert {"application/octet-stream": {}} == operation(PAINT)["requestBody"]["content"]
    assert {"text/csv": {}} == operation(LEAVE)["responses"]["200"]["content"]
    assert {"*/*": {}} == operation(SEE)["responses"]["200"]["content"]


def test_files_are_told_by_their_media_type() -> None:
    """What is streamed has no schema either; a part of it, and that the asker has it already, are answers too."""
    heard = operation(HEAR)["responses"]

    assert {"application/octet-stream": {}} == operation(SING)["requestBody"]["content"]
    assert {"application/octet-stream": {}} == operation(HUM)["requestBody"]["content"]
    assert [{"audio/*": {}}] * 2 == [heard[status]["content"] for status in ("200", "206")]
    assert "Content-Range" in heard["206"]["headers"]
    assert "content" not in heard["304"]
    assert "`RANGE_NOT_SATISFIABLE`" == heard["416"]["description"]
    assert "Range" in parameters(HEAR)


def test_a_redirect_tells_where() -> None:
    """What is elsewhere is answered 302 with its place, beside what is answered here, if anything is."""
    assert "Location" in operation(HEAR)["responses"]["302"]["headers"]
    assert ["302"] == [status for status in operation(HUM)["responses"] if status < "400"]


def test_a_form_is_its_fields_and_a_file() -> None:
    """A form is told with its fields by their names on the wire, and the file, which must be there."""
    told = operation(DRAW)["requestBody"]["content"]["multipart/form-data"]["schema"]

    assert ["toyId", "madeOf", "file"] == list(told["properties"])
    assert ["toyId", "file"] == told["required"]
    assert ("string", "binary") == (told["properties"]["file"]["type"], told["properties"]["file"]["format"])
    assert told["additionalProperties"] is False
    assert "What a drawing is of. `madeOf` may be left out." == told["description"]


def test_answers_tell_every_field() -> None:
    """What is told is required, but for what may be UNSET; a Struct that is heard too promises no more than it asks."""
    assert ["id", "madeAt", "wheel", "parts", "note", "data"] == schema("Toy")["required"]
    assert ["success", "toy"] == schema("ToyAnswer")["required"]
    assert {"const": True} == schema("ToyAnswer")["properties"]["success"]
    assert "required" not in schema("Wheel")


def test_an_answer_is_what_its_schema_says() -> None:
    """An encoded answer is valid by the schema of its type, a Struct within itself too."""
    toy = Toy(id="toy_1", made_at="2026-11-21T10:30:00.000Z", data=msgspec.Raw(b'{"any":1}'))
    judge = validator(openapi(TOYS), "#/components/schemas/ToyAnswer")
    answer = msgspec.json.decode(msgspec.json.encode(ToyAnswer(toy=msgspec.structs.replace(toy, parts=[toy]))))

    assert judge.is_valid(answer)
    assert not judge.is_valid({"success": True, "toy": {**answer["toy"], "madeAt": "yesterday"}})


def test_raw_is_any_json() -> None:
    """A Raw field has the schema that takes everything, in what is heard and in what is told."""
    assert {} == schema("Toy")["properties"]["data"]
    assert {"default": None} == schema("NewToy")["properties"]["anything"]


def test_an_enum_keeps_its_order() -> None:
    """An enum is told once, with what it means, in the order in which it was written."""
    assert {
        "description": "What it looks like, in the order of the rainbow.",
        "enum": ["red", "green", "blue"],
    } == schema("Colour")


@pytest.mark.parametrize(
    ("endpoint", "security"),
    [
        (MAKE, [{"accessToken": []}, {"apiKey": []}]),
        (LOOK, [{"accessToken": []}, {"apiKey": []}]),
        (PLAY, [{"deviceToken": [], "deviceId": []}]),
        (PAINT, []),
    ],
)
def test_each_operation_says_what_it_needs(endpoint: Endpoint, security: list[Json]) -> None:
    """A permission and SIGNED_IN take a user or an API key, PHONE a device token with its header, ANYONE nothing."""
    assert endpoint.needs == operation(endpoint)["x-dialdesk-permission"]
    assert security == operation(endpoint)["security"]


@pytest.mark.parametrize(
    ("endpoint", "statuses"),
    [
        (MAKE, {200, 400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503}),
        (FIND, {200, 400, 401, 403, 422, 500, 503}),
        (LOOK, {200, 401, 403, 404, 422, 500, 503}),
        (PLAY, {200, 400, 401, 403, 404, 408, 413, 415, 422, 500, 503}),
        (PAINT, {200, 400, 404, 408, 413, 422, 500, 503}),
        (SEE, {200, 500, 503}),
        (DRAW, {200, 400, 408, 413, 415, 422, 500, 503}),
        (HUM, {302, 400, 408, 413, 422, 500, 503}),
        (HEAR, {200, 206, 302, 304, 404, 416, 422, 500, 503}),
    ],
)
def test_statuses_follow_from_the_declaration(endpoint: Endpoint, statuses: set[int]) -> None:
    """An operation tells the statuses that its body, query, path, key and needs entail, and those of named codes."""
    assert statuses == {int(status) for status in operation(endpoint)["responses"]}


def test_codes_that_a_docstring_names_are_told() -> None:
    """A refusal names the codes of its status: what the declaration entails, and what the docstring names."""
    told = operation(MAKE)["responses"]

    assert "`IDEMPOTENCY_MISMATCH`, `ALREADY_EXISTS`" == told["409"]["description"]
    assert "`RATE_LIMITED`" == told["429"]["description"]


def test_what_happens_once_takes_a_key() -> None:
    """The header Idempotency-Key is offered where the function takes `once`, and only there."""
    key = parameters(MAKE)["Idempotency-Key"]

    assert ("header", None) == (key["in"], key.get("required"))
    assert re.search(key["schema"]["pattern"], "a-key")
    assert not re.search(key["schema"]["pattern"], "two words")
    assert "Idempotency-Key" not in parameters(FIND)


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_is_answered_as_told(code: str) -> None:
    """Each error's answer has the shape, the status and the headers that the document promises."""
    document = openapi(TOYS)
    request = RequestInfo(id="req_1", ip=None, language="en", user_agent="", headers=Headers({}), query="")
    status, body, headers = error_answer(DialdeskError(code, allow=["GET"], size=1), request)
    told = document["components"]["responses"][str(status)]

    assert {"$ref": "#/components/schemas/Error"} == told["content"]["application/json"]["schema"]
    assert validator(document, "#/components/schemas/Error").is_valid(msgspec.json.decode(body))
    assert {"content-type", *(name.lower() for name in told["headers"])} == {*headers, "x-request-id"}


def test_two_types_of_one_name_are_refused() -> None:
    """A Struct that has the name of another would stand in its place: the document is not made."""

    class ToyAnswer(Answer, frozen=True, kw_only=True):
        other: str

    async def other() -> ToyAnswer:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match="two types are named ToyAnswer"):
        openapi([FIND, Endpoint("GET", "/other", other, needs=ANYONE)])


def test_two_endpoints_of_one_name_are_refused() -> None:
    """An operation is known by its function's name, so that one function serves one route."""
    with pytest.raises(TypeError, match="several endpoints are named make"):
        openapi([MAKE, Endpoint("PUT", "/api/v1/toys", make, needs=ANYONE)])


def test_a_type_that_cannot_be_told_is_refused() -> None:
    """Bytes within JSON have no schema of ours."""

    class Picture(Answer, frozen=True, kw_only=True):
        pixels: bytes

    async def picture() -> Picture:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match="no JSON Schema for BytesType"):
        openapi([Endpoint("GET", "/picture", picture, needs=ANYONE)])


# --- AsyncAPI -------------------------------------------------------------------------------------------------------

SPEECH: dict[str, tuple[messages.Decoder[Any], str, str, tuple[type[messages.Message], ...]]] = {
    "fromPhone": (messages.from_phone, "phone", "receive", get_args(messages.FromPhone)),
    "toPhone": (messages.to_phone, "phone", "send", get_args(messages.ToPhone)),
    "fromAgent": (messages.from_agent, "agent", "receive", get_args(messages.FromAgent)),
    "toAgent": (messages.to_agent, "agent", "send", get_args(messages.ToAgent)),
}
EVERY_MESSAGE = [
    pytest.param(speaker, kind, id=f"{speaker}: {kind.type}")
    for speaker, (*_, kinds) in SPEECH.items()
    for kind in kinds
]


@pytest.mark.parametrize(("speaker", "kind"), EVERY_MESSAGE)
def test_every_message_is_told_where_it_is_said(speaker: str, kind: type[messages.Message]) -> None:
    """A message stands in its channel and in the operation of its direction, by a name that is its own."""
    document = sockets()
    _, channel, action, _ = SPEECH[speaker]
    told = document["operations"][speaker]

    assert (action, f"#/channels/{channel}") == (told["action"], told["channel"]["$ref"])
    assert {"$ref": f"#/channels/{channel}/messages/{kind.__name__}"} in told["messages"]
    assert kind.type == document["components"]["messages"][kind.__name__]["name"]


def test_each_direction_tells_its_messages_and_no_other() -> None:
    """The operations have as many messages as the unions of the protocol."""
    told = {speaker: len(operation["messages"]) for speaker, operation in sockets()["operations"].items()}

    assert {speaker: len(kinds) for speaker, (*_, kinds) in SPEECH.items()} == told


@pytest.mark.parametrize(("speaker", "kind"), EVERY_MESSAGE)
def test_every_example_is_true(speaker: str, kind: type[messages.Message]) -> None:
    """The example of a message obeys its payload's schema, and the decoder of its speaker reads it as that message."""
    document = sockets()
    (example,) = (
        example["payload"]
        for example in document["components"]["messages"][kind.__name__]["examples"]
        if speaker == example["name"]
    )
    judge = validator(document, f"#/components/messages/{kind.__name__}/payload")
    decoder = SPEECH[speaker][0]

    judge.validate(example)
    envelope = decoder.decode(msgspec.json.encode(example))

    assert kind is type(envelope.message)
    assert (kind.type in messages.SEQUENCED) == (envelope.seq is not None)


def test_welcome_is_another_to_phones_than_to_agents() -> None:
    """The two messages with the tag WELCOME have names and payloads of their own."""
    told = sockets()["components"]["messages"]

    assert ("WELCOME", "WELCOME") == (told["WelcomePhone"]["name"], told["WelcomeAgent"]["name"])
    assert told["WelcomePhone"]["payload"] != told["WelcomeAgent"]["payload"]


def test_the_codes_stand_in_the_description() -> None:
    """The AsyncAPI document lists every close code, and every error with its status and both texts."""
    description = sockets()["info"]["description"]
    closes = {code for name, code in vars(CloseCode).items() if name.isupper()}

    assert closes == {int(code) for code in re.findall(r"^\| (\d{4}) ", description, re.MULTILINE)}
    assert all(f"| {code} | {spec.status} " in description for code, spec in ERRORS.items())
    assert all(spec.zh in description and spec.en in description for spec in ERRORS.values())


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://desk.test/dial", {"host": "desk.test", "protocol": "wss", "pathname": "/dial"}),
        ("http://127.0.0.1:8000", {"host": "127.0.0.1:8000", "protocol": "ws", "pathname": "/"}),
    ],
)
def test_sockets_are_where_the_server_is(url: str, server: Json) -> None:
    """The address of the sockets follows from the server's URL."""
    document = msgspec.json.decode(describe_messages(version="1", server_url=url))

    assert {"main": server} == document["servers"]


# --- the page -------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Reads the page strictly: tags are balanced, and all that leads away or runs is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.style = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and its attributes."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links |= {value or "" for name, value in attrs if name in {"href", "src"}}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag, which must be this one."""
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        """Note text."""
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)


def read_page(endpoints: list[Endpoint]) -> Reader:
    """Return the page of some endpoints, read."""
    document = describe_endpoints(endpoints, version="1.2.3", server_url="https://desk.test")
    reader = Reader()
    reader.feed(render_page(document, describe_messages(version="1.2.3", server_url="https://desk.test")).decode())
    reader.close()

    assert [] == reader.open
    return reader


def test_the_page_shows_everything() -> None:
    """Every path, permission, message, type and error stands on the page."""
    shown = set(read_page(TOYS).text)

    assert {endpoint.path for endpoint in TOYS} <= shown
    assert {endpoint.needs for endpoint in TOYS} <= shown
    assert {kind.type for *_, kinds in SPEECH.values() for kind in kinds} <= shown
    assert {"Toy", "Colour", "LiveCall"} <= shown
    assert {text for spec in ERRORS.values() for text in (spec.en, spec.zh)} <= shown


def test_the_page_is_inert() -> None:
    """Nothing on the page runs or is fetched, whatever the docstrings say; its style is the one its policy allows."""
    page = read_page(TOYS)

    assert not page.tags & {"script", "link", "img", "iframe", "form", "b"}
    assert {"charset", "name", "content", "lang", "class", "id", "href"} >= page.attributes
    assert all(link.startswith("#") for link in page.links)
    assert 'Play; say <script>alert("toys")</script> & be merry.' in page.text
    assert base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode() in PAGE_POLICY


def test_links_of_the_page_lead_somewhere() -> None:
    """Each link leads to an id, and no id is given twice."""
    page = read_page(TOYS)

    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert sorted(set(page.ids)) == sorted(page.ids)


# --- the real server ------------------------------------------------------------------------------------------------


async def test_the_real_server_is_told(config: Config) -> None:
    """All endpoints of a web node make a valid document without loose ends, and stand on its page."""
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

    from server.app import web_node

    async with web_node(config) as node:
        endpoints = [endpoint for endpoint in node.endpoints if endpoint.path.startswith("/api/v1/")]
    document = openapi(endpoints)
    page = read_page(endpoints)

    assert [] == list(OPENAPI_31_VALIDATOR.iter_errors(document))
    assert all(resolved(document, reference) is not None for reference in set(references(document)))
    assert {endpoint.path for endpoint in endpoints} <= set(page.text)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert all(endpoint.summary for endpoint in endpoints)


async def test_the_documents_are_shown_to_whoever_asks() -> None:
    """Each is made of all routes but those that show it, whenever it is asked for, and again the same."""
    endpoints = all_routes()
    http = describe_endpoints(endpoints, version=VERSION, server_url="https://desk.test")
    sockets = describe_messages(version=VERSION, server_url="https://desk.test")

    endpoints += (showing := documents(endpoints, "https://desk.test"))
    shown = [await endpoint.function() for endpoint in showing * 2]

    assert [http, sockets, render_page(http, sockets)] * 2 == [document.content for document in shown]
