"""The types of the TypeScript SDK: they say what the documents say."""

from typing import Any

import pytest

from server import typescript
from server.typescript import GENERATED, describe_types, main

Json = dict[str, Any]

TEXT: Json = {"type": "string", "maxLength": 9}
NOTHING: Json = {"openapi": "3.1.0", "paths": {}, "components": {"schemas": {}}}
SILENT: Json = {"operations": {}, "components": {"schemas": {}, "messages": {}}}


def declared(**schemas: Json) -> str:
    """What is declared for schemas of the API."""
    return describe_types({**NOTHING, "components": {"schemas": schemas}}, SILENT)


def test_the_committed_types_are_those_of_the_documents() -> None:
    """`--check` passes on what is committed; where this fails, run `make types`."""
    main(["--check"])


def test_drift_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` fails where the file says something else, and where there is none; without it the file is written."""
    monkeypatch.setattr(typescript, "GENERATED", tmp_path / "generated.ts")

    with pytest.raises(SystemExit, match="make types"):
        main(["--check"])
    main([])
    main(["--check"])

    assert GENERATED.read_text(encoding="utf-8") == (tmp_path / "generated.ts").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (TEXT, "string"),
        ({"type": "integer", "minimum": 0}, "number"),
        ({"type": "number"}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({}, "unknown"),
        ({"const": True}, "true"),
        ({"enum": ["a", "b"]}, '"a" | "b"'),
        ({"$ref": "#/components/schemas/Other"}, "Other"),
        ({"anyOf": [TEXT, {"type": "null"}]}, "string | null"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "number"),
        ({"type": "array", "items": TEXT}, "string[]"),
        ({"type": "array", "items": {"anyOf": [TEXT, {"type": "null"}]}}, "(string | null)[]"),
        ({"type": "object", "additionalProperties": TEXT}, "Record<string, string>"),
        ({"type": "object"}, "Record<string, unknown>"),
    ],
)
def test_a_field_has_the_type_of_its_schema(schema: Json, expected: str) -> None:
    """Each kind of schema that our types make is a type of TypeScript."""
    text = declared(Toy={"type": "object", "properties": {"field": schema}, "required": ["field"]})

    assert f"export interface Toy {{\n  field: {expected}\n}}\n" in text


def test_what_may_be_left_out_is_optional() -> None:
    """A field that is not required has a question mark, and its type says what it says."""
    text = declared(Toy={"description": "A toy.", "type": "object", "properties": {"name": TEXT}})

    assert "/** A toy. */\nexport interface Toy {\n  name?: string\n}\n" in text


def test_two_types_of_one_name_are_told_apart() -> None:
    """A type of the API that differs from one of the sockets goes by another name, wherever it is named."""
    sockets: Json = {**SILENT, "components": {"schemas": {"Error": {"enum": ["a"]}}, "messages": {}}}
    ours: Json = {"Error": {"enum": ["b"]}, "Toy": {"properties": {"error": {"$ref": "#/components/schemas/Error"}}}}

    text = describe_types({**NOTHING, "components": {"schemas": ours}}, sockets)

    assert 'export type Error = "a"\n' in text
    assert 'export type ApiError = "b"\n' in text
    assert "  error?: ApiError\n" in text


def test_operations_say_what_they_take_and_answer() -> None:
    """Parameters by where they stand, the body, the key, and a Response where the answer is a file."""
    paths = operations()

    assert (
        '"GET /api/v1/calls/{call_id}": {\n    path: {\n      call_id: string\n    }\n    answer: CallAnswer' in paths
    )
    assert '"POST /api/v1/auth/ws-ticket": {\n    body?: TicketRequest\n    answer: Ticket\n  }' in paths
    assert '"POST /api/v1/calls/dial": {\n    body?: DialRequest\n    key?: string\n    answer: ' in paths
    assert "answer: Response" in paths[paths.index('"GET /api/v1/calls/{call_id}/recording"') :]


def operations() -> str:
    """The operations, as committed."""
    text = GENERATED.read_text(encoding="utf-8")
    return text[text.index("export interface Operations") :]
