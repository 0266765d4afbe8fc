"""What holds for every adapter: in whatever order, and however often, a vendor tells of a call, the record is the same.

The told events are what the fake cloud pushed and what a look-up found, read by the adapter itself; they are applied as
`Calls.hear` does: a fact that was heard before is not heard again.
"""

import asyncio
import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.call import CallState, End, Evidence, Moved, Outcome, Progress, Status, advance
from server.providers.catalogue import open_provider
from server.providers.provider import CallReference, Order, Recording, Seat, Told, Unsupported, Webhook
from tests.clouds.cloud import Story, WebhookRequestSpec
from tests.journeys.desk import VENDORS

CALLEE = "+8613912345678"
SEAT = Seat(id="1001", number="+8613800138000")
STORIES: tuple[Story, ...] = ("answered", "no_answer", "busy", "rejected", "invalid")
SLACK = timedelta(hours=1)
"""How long before its order a call began, in these tests, as far as is told; and how long after it, it is judged."""


@functools.cache
def told_of(vendor: str, story: Story) -> tuple[Told, ...]:
    """All that a vendor ever tells of such a call."""
    return tuple(asyncio.run(_told_of(vendor, story)))


async def _told_of(vendor: str, story: Story) -> list[Told]:
    known = VENDORS[vendor]
    tag, said = f"call_20260101_{story}", []
    async with known.cloud() as cloud, aiohttp.ClientSession() as http:
        setup, secrets = (msgspec.json.encode(part) for part in cloud.line())
        provider = open_provider(known.provider, setup, secrets, http)  # type: ignore[arg-type]
        ordered_at = datetime.now(UTC)
        placed = await provider.place(Order(tag=tag, callee=CALLEE, caller="+862066247698", seat=SEAT))

        async def send(message: WebhookRequestSpec) -> None:
            said.append(message)

        await cloud.play(tag, story, send=send)
        received_at = ordered_at - timedelta(
            seconds=5
        )  # what has no time of its own was heard before the call was over
        told: list[Told] = []
        for message in said:
            headers = {name.lower(): value for name, value in message.headers.items()}
            webhook = Webhook(
                kind=message.kind, query=message.query, headers=headers, body=message.body, received_at=received_at
            )
            told += provider.read_webhook(webhook)
        reference = CallReference(
            tag=tag,
            provider_call_id=placed.provider_call_id,
            seat=SEAT,
            extension=None,
            callee=CALLEE,
            ordered_at=ordered_at,
        )
        try:
            told += await provider.look_up(reference) or []
        except Unsupported:
            assert not known.asked
    return told


def record_of(told: Sequence[Told]) -> CallState:
    """What becomes of a call of which this is told in this order. When it was dialled, when it rang, and on what
    grounds an answer was first believed, is known only to who hears it in time."""
    now = datetime.now(UTC)
    state, heard = CallState(created_at=datetime.min.replace(tzinfo=UTC)), set[str]()
    for fact in told:
        if fact.once in heard or not isinstance(fact.event, Progress | End):
            continue
        heard.add(fact.once)
        match advance(state, fact.event, now + SLACK):
            case Moved(moved):
                state = moved
    return msgspec.structs.replace(state, dialing_at=None, ringing_at=None, connected_evidence=None)


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("vendor", VENDORS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_order_and_repetition_change_no_record(vendor: str, story: Story, data: st.DataObject) -> None:
    """Any order, any repetition: one record, whose outcome is what the vendor's words mean."""
    told = told_of(vendor, story)
    again = data.draw(st.lists(st.sampled_from(told), max_size=5))
    mixed = data.draw(st.permutations([*told, *again]))
    right = record_of(told)

    assert right == record_of(mixed)
    assert Status.ENDED is right.status
    assert (right.outcome is Outcome.CONNECTED) == (story == "answered")


@pytest.mark.parametrize("vendor", VENDORS)
def test_an_answered_call_has_talk_and_a_recording(vendor: str) -> None:
    """Each vendor says how long they talked, and offers what was recorded."""
    told = told_of(vendor, "answered")
    record = record_of(told)

    assert record.duration
    assert record.connected_at is not None
    assert any(isinstance(fact.event, Recording) for fact in told)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("story", [story for story in STORIES if story != "answered"])
def test_an_answer_that_was_none_does_not_outlive_the_record(vendor: str, story: Story) -> None:
    """Somebody took up a telephone, it was said while it rang; a record that knows of no answer outweighs it."""
    told = told_of(vendor, story)
    rang = next((fact for fact in told if isinstance(fact.event, Progress | End)), told[0])
    early = Progress(Status.CONNECTED, datetime.now(UTC) - SLACK, Evidence.ASSUMED)
    heard = msgspec.structs.replace(rang, event=early, once="heard early")

    assert None is record_of([heard, *told]).connected_at
    assert record_of(told) == record_of([heard, *told])
