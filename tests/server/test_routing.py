"""By which phone a call is made."""

import pytest

from protocol.errors import DialdeskError
from protocol.messages import Capabilities
from server.routing import choose
from storage.calls import Phone


def phone(name: str, *, online: bool = True, busy: bool = False) -> Phone:
    """A phone as its row tells it."""
    return Phone(id=name, hardware_id=f"hw-{name}", online=online, busy=busy, capabilities=Capabilities())


FREE, OTHER = phone("free"), phone("other")
AWAY, ENGAGED = phone("away", online=False), phone("engaged", busy=True)
AWAY_AND_ENGAGED = phone("both", online=False, busy=True)


@pytest.mark.parametrize(
    ("phones", "asked", "default", "chosen"),
    [
        ([FREE], None, None, "free"),
        ([FREE, OTHER], None, None, "free"),
        ([FREE, OTHER], None, "other", "other"),
        ([FREE, OTHER], "other", None, "other"),
        ([FREE, OTHER], "hw-other", "free", "other"),
        ([AWAY, ENGAGED, FREE], None, None, "free"),
        ([FREE, OTHER], None, "a phone that was unbound", "free"),
        ([FREE, AWAY], "free", "away", "free"),
    ],
)
def test_the_phone_asked_for_then_the_default_then_the_first_that_is_free(
    phones: list[Phone], asked: str | None, default: str | None, chosen: str
) -> None:
    """A phone is named by our id or by the app's; a default that is gone names nobody."""
    assert chosen == choose(phones, asked=asked, default=default).id


@pytest.mark.parametrize(
    ("phones", "asked", "default", "code"),
    [
        ([], None, None, "NO_DEVICE"),
        ([], None, "gone", "NO_DEVICE"),
        ([], "free", None, "NOT_FOUND"),
        ([FREE], "other", None, "NOT_FOUND"),
        ([AWAY], None, None, "DEVICE_OFFLINE"),
        ([ENGAGED], None, None, "DEVICE_BUSY"),
        ([AWAY_AND_ENGAGED], None, None, "DEVICE_OFFLINE"),
        ([AWAY, ENGAGED], None, None, "DEVICE_BUSY"),
        ([FREE, AWAY], None, "away", "DEVICE_OFFLINE"),
        ([FREE, ENGAGED], None, "engaged", "DEVICE_BUSY"),
        ([FREE, AWAY], "away", None, "DEVICE_OFFLINE"),
        ([FREE, ENGAGED], "engaged", "free", "DEVICE_BUSY"),
    ],
)
def test_a_phone_that_was_named_is_never_exchanged_for_another(
    phones: list[Phone], asked: str | None, default: str | None, code: str
) -> None:
    """The refusal is the nearest to a call: busy rather than offline where any phone is online."""
    with pytest.raises(DialdeskError) as refused:
        choose(phones, asked=asked, default=default)

    assert code == refused.value.code
