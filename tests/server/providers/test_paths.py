"""Paths: what they lead to, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.providers.paths import Condition, Is, Paths, word

CALL = {
    "data": {"id": 7, "empty": "", "null": None},
    "legs": [{"role": "agent", "at": 1}, "odd", {"role": "customer", "at": 2}],
    "a.b": {"c[0]": "quoted"},
    "名称": "中",
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data.id", 7),
        ("$.data.id", 7),
        ("legs[0].at", 1),
        ("legs[-1].at", 2),
        ("legs[9].at", None),
        ("legs[-9].at", None),
        ("legs[role=customer].at", 2),
        ("legs[role=nobody].at", None),
        ("legs.at", None),
        ("data[0]", None),
        ("data.id.more", None),
        ('"a.b"."c[0]"', "quoted"),
        ("名称", "中"),
        ("data.empty", None),
        ("data.null", None),
        (("data.null", "data.empty", "data.id"), 7),
        ("$", CALL),
    ],
)
def test_a_path_leads_to_what_stands_there(path: str | tuple[str, ...], expected: object) -> None:
    """Members, elements and chosen elements; nothing, null and an empty string are nothing."""
    assert expected == Paths(path).find(CALL)


def test_a_path_may_begin_with_an_element() -> None:
    """The value may be an array."""
    assert [1, 1] == [Paths(path).find([{"a": 1}]) for path in ("[0].a", "$[0].a")]


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a[",
        "a[]",
        "a[x]",
        "a[1",
        "a]b",
        'a"b',
        "a[0]b",
        "$x[",
        "a" * 201,
        "a" + ".a" * 16,
        (),
    ],
)
def test_what_is_no_path_is_refused(path: str | tuple[str, ...]) -> None:
    """Half steps, empty ones, and what is too long."""
    with pytest.raises(ValueError):
        Paths(path)


def test_words_are_printable_scalars() -> None:
    """What JSON tells now as a number and now as a string is the same word; nothing else is one."""
    assert ["true", "7", "7", "2.5", "x"] == [word(each) for each in (True, 7, 7.0, 2.5, " x ")]
    nothings: list[object] = [None, [], {}, "a\nb", "\ud800", "x" * 257]
    assert [""] * 6 == [word(each) for each in nothings]


def test_a_condition_compares_words() -> None:
    """One value or several, of whatever type."""
    assert Condition(Is("data.id", "7")).holds(CALL)
    assert Condition(Is("data.id", (1, 7))).holds(CALL)
    assert not Condition(Is("data.id", 8)).holds(CALL)
    assert not Condition(Is("data.none", True)).holds(CALL)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("abc") | st.text(), inner),
)


@given(st.text() | st.text(alphabet='abc.[]0-="$'), _json)
def test_no_path_does_anything_else(path: str, value: object) -> None:
    """A text is a path, or a ValueError; and a path leads somewhere or nowhere in any value."""
    try:
        paths = Paths(path)
    except ValueError:
        return

    paths.find(value)
    assert paths.word(value).isprintable()
