"""Templates: what is put into a text, in which format, and what is no template."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.providers import templates
from server.providers.templates import JsonTemplate, Kind, Missing, Template, Value, Values, check_pattern

KNOWN = {
    "tag": Kind.TEXT,
    "callee": Kind.NUMBER,
    "caller": Kind.NUMBER,
    "timeout": Kind.WHOLE,
    "timestamp": Kind.TIME,
    "body": Kind.PART,
    "secret.*": Kind.TEXT,
}
VALUES = Values(
    {
        "tag": "call_1",
        "callee": "+8613912345678",
        "caller": None,
        "timeout": 60,
        "timestamp": datetime(2026, 11, 22, 9, 30, 4, 500_000, tzinfo=UTC),
        "body": "",
        "secret.key": "s3cret/+",
    },
    "CN",
    ZoneInfo("Asia/Shanghai"),
)


def filled(text: str, **more: Value) -> str:
    """A template, filled."""
    return Template(text, KNOWN).filled(VALUES.and_also(more))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{tag}/{tag}", "call_1/call_1"),
        ("{{tag}} {{{tag}}}", "{tag} {call_1}"),
        ("{callee}", "+8613912345678"),
        ("{callee:e164}", "+8613912345678"),
        ("{callee:digits}", "8613912345678"),
        ("{callee:national}", "13912345678"),
        ("{callee:00}", "008613912345678"),
        ("{timeout}", "60"),
        ("{timestamp}", "1795339804"),
        ("{timestamp:s}", "1795339804"),
        ("{timestamp:ms}", "1795339804500"),
        ("{timestamp:rfc3339}", "2026-11-22T09:30:04.500Z"),
        ("{timestamp:%Y%m%d%H%M%S}", "20261122173004"),
        ("{timestamp:%Y-%m-%d %H:%M:%S}", "2026-11-22 17:30:04"),
        ("{secret.key:url}", "s3cret%2F%2B"),
        ("{tag:upper}{tag:lower}", "CALL_1call_1"),
        ("{tag:base64}", "Y2FsbF8x"),
        ("{tag:md5}", "e2c1ce991a0992f93969eccea47f764f"),
        ("{body:sha256}", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("<{caller?}{body}>", "<>"),
    ],
)
def test_a_template_is_filled(text: str, expected: str) -> None:
    """Values stand where their placeholders stood, in the format that is asked for."""
    assert expected == filled(text)


def test_numbers_without_an_international_form_are_of_the_region() -> None:
    """Service numbers, extensions, and numbers of other countries."""
    assert "00864001234567" == filled("{callee:00}", callee="4001234567")
    assert "4001234567" == filled("{callee:national}", callee="4001234567")
    assert "+15417543010" == filled("{callee:national}", callee="+15417543010")
    assert "0015417543010" == filled("{callee:00}", callee="+15417543010")
    assert "+what" == filled("{callee:national}", callee="+what")


@pytest.mark.parametrize(
    "text",
    [
        "{", "}", "{tag", "tag}", "{}", "{ tag }", "{tag!r}", "{tag.__class__}", "{tag[0]}", "{other}", "{secret.}",
        "{tag:nothing}", "{callee:upper}", "{timeout:s}", "{timestamp:%Q}", "{timestamp:%Y}", "{tag:}",
        "x" * (templates.LONGEST + 1), "{tag}" * (templates.MOST + 1),
    ],
)  # fmt: skip
def test_what_is_no_template_is_refused(text: str) -> None:
    """Loose braces, unknown names and formats, attributes, and what is too large."""
    with pytest.raises(ValueError):
        Template(text, KNOWN)


def test_a_value_that_is_needed_must_be_there() -> None:
    """None and an empty string are no values, but for those of which the template says so."""
    with pytest.raises(Missing, match="caller"):
        filled("{caller}")
    with pytest.raises(Missing, match="tag"):
        filled("{tag}", tag="")

    assert Template("a{caller?}", KNOWN).left_out(VALUES)
    assert not Template("a{tag?}", KNOWN).left_out(VALUES)


def test_json_is_filled_member_by_member() -> None:
    """A lone whole number stays one, other scalars are as they were, and what has no value is left out."""
    shape = {
        "to": "{callee}",
        "from": "{caller?}",
        "n": ["{timeout}", "{timeout} s", "{caller?}", 7, None, {"a": True}],
    }

    assert {"to": "+8613912345678", "n": [60, "60 s", 7, None, {"a": True}]} == JsonTemplate(shape, KNOWN).filled(
        VALUES
    )


def test_json_templates_are_bounded() -> None:
    """Neither deep nor large ones are read, and a wrong one is told by its path."""
    deep: object = "x"
    for _ in range(2000):
        deep = [deep]

    for shape in (deep, ["x"] * (templates.LARGEST + 1)):
        with pytest.raises(ValueError, match="at most"):
            JsonTemplate(shape, KNOWN)
    with pytest.raises(ValueError, match=r"a\[0\]\.b"):
        JsonTemplate({"a": [{"b": "{no}"}]}, KNOWN)


@pytest.mark.parametrize(
    "pattern", ["%Y-%m-%d", "%H:%M", "%Y%m%d%H%M%", "%Y%y%m%d%H%M", "%Y%m%d%H%M%Y", "%c", "x" * 65]
)
def test_a_pattern_of_times_tells_a_date_and_a_time(pattern: str) -> None:
    """Each directive once, and no others."""
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)


@given(st.text() | st.text(alphabet="{}?:%.tagYmdHMs0"))
def test_no_text_does_anything_else(text: str) -> None:
    """A text is a template, or a ValueError; and what is filled in is bounded."""
    try:
        template = Template(text, KNOWN)
    except ValueError:
        return

    try:
        assert len(template.filled(VALUES)) <= templates.LONGEST + templates.MOST * 100
    except Missing:
        assert "caller" in template.names


@given(st.text(max_size=40))
def test_a_text_in_doubled_braces_is_itself(text: str) -> None:
    """Whoever doubles braces gets them back."""
    assert text == filled(text.replace("{", "{{").replace("}", "}}"))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_json)
def test_no_json_does_anything_else(shape: object) -> None:
    """A JSON value is a template, or a ValueError."""
    try:
        template = JsonTemplate(shape, KNOWN)
    except ValueError:
        return

    template.filled(VALUES)
