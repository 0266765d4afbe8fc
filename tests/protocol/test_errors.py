"""The table of errors: complete in both languages, and safe to tell."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ERRORS, CloseCode, DialdeskError, ErrorSpec

EVERY_ERROR = [pytest.param(code, spec, id=code) for code, spec in ERRORS.items()]


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize(("code", "spec"), EVERY_ERROR)
def test_an_error_is_told_in_both_languages(code: str, spec: ErrorSpec) -> None:
    """The Chinese text is Chinese, the English one is English, and both are filled from the same details."""
    assert any("一" <= character <= "鿿" for character in spec.zh)
    assert spec.en.isascii()
    assert fields(spec.zh) == fields(spec.en)


@pytest.mark.parametrize(("code", "spec"), EVERY_ERROR)
def test_an_error_shows_its_details(code: str, spec: ErrorSpec) -> None:
    """Each named detail stands in both texts, and no bracket is left over."""
    details = {name: f"<{name}>" for name in fields(spec.en)}
    error = DialdeskError(code, **details)

    for text in (error.message("zh-CN"), error.message("en")):
        assert [] == [told for told in details.values() if told not in text]
        assert not set("{}") & set(text)
    assert error.message("en") == str(error)


@pytest.mark.parametrize(("code", "spec"), EVERY_ERROR)
def test_an_error_without_its_details_is_told_all_the_same(code: str, spec: ErrorSpec) -> None:
    """What was forgotten shows as nothing; the error itself must never fail."""
    error = DialdeskError(code)

    assert error.message("zh-CN")
    assert error.message("en")


@given(
    st.sampled_from(sorted(ERRORS)),
    st.dictionaries(
        st.sampled_from(["code", "self", "reason", "what", "type", "limit", "until"]) | st.text(max_size=5),
        st.none() | st.text() | st.integers() | st.lists(st.text(max_size=3), max_size=2) | st.just("{reason!r:>9}"),
    ),
)
def test_no_detail_can_break_an_error(code: str, details: dict[str, Any]) -> None:
    """Details of any name and value, brackets included, are told as they are."""
    error = DialdeskError(code, **details)

    assert (code, details) == (error.code, error.details)
    assert error.message("zh-CN")
    assert error.message("en")


@pytest.mark.parametrize(("code", "spec"), EVERY_ERROR)
def test_status_and_retry_agree(code: str, spec: ErrorSpec) -> None:
    """Codes are stable names; statuses are errors; what is our fault, comes too fast or was damaged on its way may be
    tried again."""
    error = DialdeskError(code)

    assert code == code.upper()
    assert code.replace("_", "").isalpha()
    assert 400 <= spec.status <= 599
    assert (spec.status, spec.retry) == (error.status, error.retry)
    if spec.status in (429, *range(500, 600)):
        assert spec.retry
    if spec.status in (400, 401, 403, 404, 405, 410, 413, 415, 422) and code != "CHECKSUM_MISMATCH":
        assert not spec.retry


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("BAD_REQUEST", 400),
        ("UNAUTHENTICATED", 401),
        ("FORBIDDEN", 403),
        ("ORIGIN_NOT_ALLOWED", 403),
        ("NOT_FOUND", 404),
        ("IDEMPOTENCY_MISMATCH", 409),
        ("DEVICE_BUSY", 409),
        ("RATE_LIMITED", 429),
        ("DRAINING", 503),
    ],
)
def test_a_status_that_was_promised_is_kept(code: str, status: int) -> None:
    """Clients of other people are written to these."""
    assert status == DialdeskError(code).status


def test_an_error_that_is_not_in_the_table_cannot_be_raised() -> None:
    """A code that nobody described is a mistake of ours."""
    with pytest.raises(KeyError):
        DialdeskError("OUT_OF_CHEESE")


def test_close_codes_say_who_comes_back() -> None:
    """docs/protocol.md: from 4500 on one stays away; the others come back."""
    codes = {name: code for name, code in vars(CloseCode).items() if name.isupper()}

    assert {
        "DRAINING": 1012,
        "FIRST_MESSAGE": 4400,
        "REFRESH_TOKEN": 4401,
        "HEARTBEAT_LOST": 4408,
        "SLOW_CONSUMER": 4410,
        "TOO_MANY_MESSAGES": 4429,
        "VERSION_NOT_SERVED": 4500,
        "REPLACED": 4501,
        "UNBOUND": 4503,
    } == codes
