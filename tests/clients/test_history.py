"""What was heard can be looked through and waited on, and is forgotten in time."""

import asyncio

import pytest

from clients.history import History
from protocol.messages import Ack, CallEnd, CallStatus, Envelope, Message


def history_of(*messages: Message, keep: int = 10) -> History[Message]:
    """A history in which these came to pass."""
    history: History[Message] = History(keep)
    for message in messages:
        history.add(Envelope(message, None, 0))
    return history


def ringing(call_id: str) -> CallStatus:
    """A report that is easily told from another."""
    return CallStatus(call_id=call_id, status="ringing")


async def test_finds_what_came_before() -> None:
    """Who waits for something that came already has it at once: the first that fits."""
    history = history_of(Ack(message_id="m"), ringing("call_1"), ringing("call_2"))

    assert ringing("call_1") == await history.wait_for(CallStatus)
    assert ringing("call_2") == await history.wait_for(CallStatus, call_id="call_2")
    assert ringing("call_2") == await history.wait_for(CallStatus, where=lambda report: report.call_id > "call_1")


async def test_waits_for_what_comes() -> None:
    """Who waits is woken by what fits, and by nothing else."""
    history = history_of()
    waiting = asyncio.create_task(history.wait_for(CallStatus, call_id="call_2"))
    await asyncio.sleep(0)
    history.add(Envelope(ringing("call_1"), None, 0))
    history.add(Envelope(ringing("call_2"), None, 0))

    assert ringing("call_2") == await waiting


async def test_passes_over_what_came_before_a_position() -> None:
    """With `since` only what came after that position counts."""
    history = history_of(ringing("call_1"))
    since = history.position
    history.add(Envelope(ringing("call_2"), None, 0))

    assert ringing("call_2") == await history.wait_for(CallStatus, since=since)


async def test_forgets_the_oldest() -> None:
    """No more is kept than was asked for, and what was forgotten is not found."""
    history = history_of(*(ringing(f"call_{number}") for number in range(5)), keep=2)

    assert ringing("call_3") == await history.wait_for(CallStatus)


async def test_tells_what_came_instead() -> None:
    """Who waits in vain is told what did come."""
    history = history_of(ringing("call_1"))
    with pytest.raises(TimeoutError, match=r"no CALL_END of call_1 within 0 s; there came: CALL_STATUS"):
        await history.wait_for(CallEnd, call_id="call_1", timeout=0)


async def test_iterates_over_all() -> None:
    """Iteration yields what is kept, then what comes, each once, and ends with the reason for the end."""
    history = history_of(ringing("call_1"))
    seen = []

    async def follow() -> None:
        async for envelope in history:
            seen.append(envelope.message)
            if len(seen) == 2:
                history.end(EOFError("over"))

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    history.add(Envelope(ringing("call_2"), None, 0))
    with pytest.raises(EOFError, match="over"):
        await following

    assert [ringing("call_1"), ringing("call_2")] == seen


async def test_end_reaches_who_waits() -> None:
    """When nothing will come any more, who waits is told why instead of waiting on; so is who comes later."""
    history = history_of()
    waiting = asyncio.create_task(history.wait_for(CallEnd))
    await asyncio.sleep(0)
    history.end(EOFError("over"))
    with pytest.raises(EOFError, match="over"):
        await waiting
    with pytest.raises(EOFError, match="over"):
        await history.wait_for(CallEnd)
