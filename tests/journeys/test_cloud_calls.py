"""The story of a call over a line, at each provider: from the API to the vendor, its messages and its record.

Whatever goes wrong on the way, a telephone is rung once, and the record is right in the end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
import pytest_asyncio

from clients.api import Refused
from protocol.messages import CallDialing, CallEnded
from tests.clouds.cloud import How, Sequence, Story
from tests.conftest import Bucket, Neighbours, fresh_database
from tests.journeys.desk import TALKED, VENDORS, Desk, Office
from tests.journeys.house import House
from tests.journeys.test_recordings import storage
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNANSWERED: tuple[Story, ...] = ("no_answer", "busy", "rejected", "invalid")
UNSAID: tuple[How, ...] = ("garbage", "drop")
"""What a provider may do with an order that it takes, and not say so; it may also be silent."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(neighbours: Neighbours, template: str, s3: Bucket) -> AsyncIterator[Office]:
    """The house of all these stories."""
    async with fresh_database(neighbours, template) as database_url, AsyncExitStack() as stack:
        house = House(database_url, neighbours.redis_url, stack)
        await house.open()
        yield await stack.enter_async_context(Office.at(house, **storage("s3", s3, Path())))


@pytest_asyncio.fixture(params=VENDORS, loop_scope="module")
async def desk(request: Any, office: Office) -> AsyncIterator[Desk]:
    """A desk at each of the providers."""
    async with Desk.at(VENDORS[request.param], office) as desk:
        yield desk


@pytest.mark.parametrize("order", get_args(Sequence))
async def test_a_call_over_a_line(desk: Desk, order: Sequence) -> None:
    """In whatever order a provider tells of a call, and whatever is lost, record and recording are right in the end."""
    call_id = await desk.dial()
    await desk.hears(CallDialing, call_id)
    await desk.play(call_id, "answered", order)
    if order == "lost_end" and not desk.vendor.asked:
        assert "ended" != (await desk.record(call_id))["status"]
        await desk.play(call_id, "answered")  # late, for it cannot be asked
    ended = await desk.end(call_id)
    audio = await desk.recording(call_id)
    record = await desk.record(call_id)
    told = await desk.told(call_id)

    assert desk.vendor.end("answered") == (ended.status, ended.hangup_cause)
    assert ("cloud", desk.line_id, "provider", "ended", "connected", TALKED, True) == tuple(
        record[name] for name in ("callMethod", "lineId", "closedBy", "status", "outcome", "duration", "hasRecording")
    )
    assert desk.cloud.audio == audio
    assert [CallDialing, *desk.vendor.live, CallEnded] == told or (
        order == "reversed" and [CallDialing, CallEnded] == [kind for kind in told if kind not in desk.vendor.live]
    )
    assert [call_id] == [placed.tag for placed in desk.cloud.placed]
    assert 0 == await desk.calls_on_line()
    assert (0, 0) == (desk.agent.gaps, desk.agent.repeats)


async def test_calls_that_nobody_answers(desk: Desk) -> None:
    """Why the customer did not answer stands in the record, as far as the provider tells, and nothing of a talk."""
    ends, talks = [], []
    for story in UNANSWERED:
        call_id = await desk.dial()
        await desk.hears(CallDialing, call_id)
        await desk.play(call_id, story)
        ended = await desk.end(call_id)
        record = await desk.record(call_id)
        ends.append((ended.status, ended.hangup_cause))
        talks.append((record["duration"], record["connectedAt"], record["recording"]))

    assert [desk.vendor.end(story) for story in UNANSWERED] == ends
    assert [(0, None, "none")] * len(UNANSWERED) == talks
    assert 0 == await desk.calls_on_line()


async def test_a_provider_that_refuses_ends_the_call(desk: Desk) -> None:
    """A definite refusal ends the call at once, the agent learns why, and the line is free for the next."""
    desk.cloud.next_place("refuse")

    call_id = await desk.dial()
    ended = await desk.hears(CallEnded, call_id)
    free = await desk.calls_on_line()
    next_id = await desk.dial()
    await desk.hears(CallDialing, next_id)
    await desk.play(next_id, "answered")
    await desk.end(next_id)

    assert ("failed", desk.vendor.refused, 0) == (ended.status, ended.hangup_cause, free)
    assert [next_id] == [placed.tag for placed in desk.cloud.placed]


async def test_orders_that_nobody_knows_of_are_looked_up_and_never_repeated(desk: Desk) -> None:
    """A provider that takes an order and does not say so is not asked again. Where it can be asked how the call went,
    it is, though all its messages are lost; where it cannot, they tell."""
    call_ids, ends = [], []
    for how in UNSAID:
        desk.cloud.next_place(how)
        call_id = await desk.dial()
        await desk.ordered(call_id)
        await desk.play(call_id, "answered", lost=desk.vendor.asked)
        ended = await desk.end(call_id)
        call_ids.append(call_id)
        ends.append((ended.status, ended.hangup_cause))

    assert [desk.vendor.end("answered")] * len(UNSAID) == ends
    assert call_ids == [placed.tag for placed in desk.cloud.placed]
    assert 0 == await desk.calls_on_line()


async def test_orders_that_are_not_answered_in_time(office: Office) -> None:
    """Where a provider takes an order and is silent, the node gives up waiting, and the call is looked up all the same.
    The providers are silent together."""

    async def dialled(desk: Desk) -> bool:
        desk.cloud.next_place("silent")
        call_id = await desk.dial()
        await until(lambda: desk.ordered_as(call_id, "uncertain"), 40.0)
        await desk.play(call_id, "answered", lost=desk.vendor.asked)
        ended = await desk.end(call_id)
        return desk.vendor.end("answered") == (ended.status, ended.hangup_cause) and 1 == len(desk.cloud.placed)

    async with AsyncExitStack() as stack:
        desks = [await stack.enter_async_context(Desk.at(vendor, office)) for vendor in VENDORS.values()]
        right = await asyncio.gather(*map(dialled, desks))

    assert dict.fromkeys(VENDORS, True) == dict(zip(VENDORS, right, strict=True))


async def test_an_agent_hangs_up(desk: Desk) -> None:
    """A call tells whether it can be hung up from here. Where it can, the provider is asked, and the call ends when the
    provider says so; where it cannot, the agent is told."""
    call_id = await desk.dial()
    await desk.hears(CallDialing, call_id)
    desk.talk(call_id)
    controls = await desk.controls(call_id)
    try:
        await desk.agent.hang_up(call_id)
        hung_up = True
    except Refused as refused:
        hung_up = "HANGUP_UNSUPPORTED" != refused.code
    await desk.play(call_id, "answered")
    await desk.end(call_id)

    assert (desk.vendor.hangs_up, desk.vendor.hangs_up) == ("hang_up" in controls, hung_up)


@pytest.mark.parametrize("desk", ["tencent"], indirect=True)
async def test_without_a_seat_there_is_no_call(desk: Desk) -> None:
    """An agent who has no seat on a line is told so, and nothing is ordered."""
    other = await desk.office.house.agent(desk.office.node)

    with pytest.raises(Refused) as refused:
        await other.dial(customer_phone=next(desk.office.customers), call_method="cloud", line_id=desk.line_id)

    assert ("NO_SEAT", []) == (refused.value.code, desk.cloud.placed)
