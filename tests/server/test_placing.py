"""Orders at a real fake cloud: written once, whatever the provider does with them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis

from protocol.call import End, Evidence, Outcome, Progress, Status
from protocol.identifiers import new_id
from server.config import Config
from server.providers.infinity import Infinity
from server.providers.provider import CallReference, Order, Placed, PlacementRefused, Refusal, Told
from server.providers.tencent import Tencent
from storage.database import Database
from tests.clouds.infinity import infinity_cloud
from tests.clouds.ronglian import ronglian_cloud
from tests.clouds.tencent import TencentCloud, tencent_cloud
from tests.conftest import Office
from tests.server.line_front import CUSTOMER, Front, line_front
from tests.waiting import until


@pytest.fixture
async def front(
    database: Database, office: Office, redis: Redis, configure: Callable[..., Config], tmp_path: Path
) -> AsyncIterator[Front]:
    """A node that may speak to this machine."""
    config = configure(provider_networks="127.0.0.0/8", recordings="local", recordings_folder=tmp_path / "recordings")
    async with line_front(database, office, redis, config) as front:
        yield front


@pytest.fixture
async def cloud() -> AsyncIterator[TencentCloud]:
    """A cloud that answers orders at once, unless it is told otherwise."""
    async with tencent_cloud() as cloud:
        yield cloud


async def over(front: Front, call_id: str) -> dict[str, object]:
    """The call, when it has ended."""

    async def ended() -> bool:
        return bool((await front.call(call_id))["status"] == "ended")

    await until(ended)
    return await front.call(call_id)


async def test_an_order_that_is_taken_makes_the_call_go(front: Front, cloud: TencentCloud) -> None:
    """The provider knows the call by our id, and we know it by theirs; it is looked up soon."""
    line = await front.line("tencent", cloud)
    call_id = await front.placed(line)
    attempt, call = await front.attempt(call_id), await front.call(call_id)

    assert [call_id] == [placed.tag for placed in cloud.placed]
    assert cloud.session_of(call_id) == attempt["provider_call_id"]
    assert ("calling", "tencent") == (call["status"], attempt["provider"])
    assert attempt["next_look_at"] is not None


async def test_a_refusal_ends_the_call(front: Front, cloud: TencentCloud) -> None:
    """It failed, with the provider's own word; the line is free again, and nobody asks of it."""
    line = await front.line("tencent", cloud)
    cloud.next_place("refuse", "FailedOperation.SeatStatusBusy")
    call_id = await front.dial(line)
    call, attempt = await over(front, call_id), await front.attempt(call_id)

    assert ("failed", "DEVICE_BUSY", "FailedOperation.SeatStatusBusy") == (
        call["outcome"],
        call["hangup_cause"],
        call["raw_cause"],
    )
    assert ("refused", "seat_busy", None) == (attempt["state"], attempt["refusal"], attempt["next_look_at"])


@pytest.mark.parametrize("how", ["garbage", "drop"])
async def test_an_order_of_which_nobody_knows_is_never_written_again(
    front: Front, cloud: TencentCloud, how: str
) -> None:
    """The call stays as it is, is found by our tag, and goes on."""
    line = await front.line("tencent", cloud)
    cloud.next_place(how)  # type: ignore[arg-type]
    call_id = await front.placed(line, "uncertain")
    waiting = await front.call(call_id)
    cloud.pushes(call_id, "no_answer")
    await front.look_up()
    await front.look_up()

    assert ("pending", None) == (waiting["status"], waiting["ended_at"])
    assert [call_id] == [placed.tag for placed in cloud.placed]
    assert "missed" == (await front.call(call_id))["outcome"]


async def test_the_same_dial_again_is_one_order(front: Front, cloud: TencentCloud) -> None:
    """An agent's page that repeats its request under one key calls the customer once."""
    line = await front.line("tencent", cloud)
    body = {"customerPhone": CUSTOMER, "callMethod": "cloud", "lineId": line.id}
    who = {**front.agent, "idempotency-key": new_id("key")}
    answers = [(await front.ask("POST", "/dial", body, who=who)).json()["callId"] for _ in range(3)]
    await front.until_order(answers[0], "placed")

    assert (1, answers[:1]) == (len(set(answers)), [placed.tag for placed in cloud.placed])


async def test_credentials_that_do_not_open_send_nothing(front: Front, cloud: TencentCloud) -> None:
    """The order stays unwritten, and expires."""
    line = await front.line("tencent", cloud)
    await front.execute("UPDATE call_line SET secrets = '\\x00' WHERE id = $1", line.id)
    call_id = await front.dial(line)
    await front.execute("UPDATE attempt SET expires_at = now()")
    await front.reconciling.look_up()
    call = await over(front, call_id)

    assert ([], "EXPIRED") == (cloud.placed, call["hangup_cause"])


async def test_a_line_of_another_tenant_is_not_there(front: Front, cloud: TencentCloud) -> None:
    """A dial that names it is refused as if nobody had it, and makes no call."""
    line = await front.line("tencent", cloud)
    other = new_id("tenant")
    await front.execute(
        "INSERT INTO tenant (id, code, name, timezone) SELECT $1, 'other', $1, timezone FROM tenant", other
    )
    _, stranger = await front.person("agent", Office(front.database, other))
    answers = [
        await front.ask(
            "POST", "/dial", {"customerPhone": CUSTOMER, "callMethod": "cloud", "lineId": line_id}, who=stranger
        )
        for line_id in (line.id, "line_that_never_was")
    ]

    assert [(404, "NOT_FOUND")] * 2 == [(answer.status_code, answer.json()["code"]) for answer in answers]
    assert (0, []) == (await front.count("call"), cloud.placed)


async def test_hanging_up_is_asked_of_the_provider(front: Front, cloud: TencentCloud) -> None:
    """The call ends when the provider says so, not before."""
    line = await front.line("tencent", cloud)
    call_id = await front.placed(line)
    answer = await front.ask("POST", "/hangup", {"callId": call_id}, who=front.agent)

    assert answer.is_success, answer.text
    assert "HangUpCall" in [action for action, _ in cloud.asked]
    assert "calling" == (await front.call(call_id))["status"]


async def test_a_provider_that_cannot_hang_up_is_said_so(front: Front) -> None:
    """Infinity has no such function."""
    async with infinity_cloud() as cloud:
        line = await front.line("infinity", cloud)
        call_id = await front.placed(line)
        answer = await front.ask("POST", "/hangup", {"callId": call_id}, who=front.agent)

    assert "HANGUP_UNSUPPORTED" == answer.json()["code"]


async def test_a_provider_that_is_not_reached_may_be_asked_to_hang_up_again(front: Front) -> None:
    """Nothing was sent to it: that is not a provider that cannot hang up."""
    async with ronglian_cloud() as cloud:
        call_id = await front.placed(await front.line("ronglian", cloud))
    answer = await front.ask("POST", "/hangup", {"callId": call_id}, who=front.agent)

    assert "UNAVAILABLE" == answer.json()["code"]


async def test_hanging_up_at_a_slow_provider_holds_up_nobody(
    front: Front, cloud: TencentCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait for their provider, none of them keeps a connection to the database meanwhile."""
    asked, answer = [], asyncio.Event()

    async def slow(_: Tencent, call: CallReference) -> None:
        asked.append(call.tag)
        await answer.wait()

    async def all_wait() -> bool:
        return len(asked) == 20

    monkeypatch.setattr(Tencent, "hang_up", slow)
    call_id = await front.placed(await front.line("tencent", cloud))
    async with asyncio.TaskGroup() as group:
        hanging_up = [
            group.create_task(front.ask("POST", "/hangup", {"callId": call_id}, who=front.agent)) for _ in range(20)
        ]
        await until(all_wait)
        others = await asyncio.gather(*[front.ask("GET", "/lines", who=front.admin) for _ in range(20)])
        answer.set()

    assert {200} == {other.status_code for other in others}
    assert {200} == {task.result().status_code for task in hanging_up}


async def test_a_call_that_may_have_been_placed_is_not_said_to_have_expired(front: Front, cloud: TencentCloud) -> None:
    """Who is told that it expired dials again; an order that nobody answered may be ringing."""
    line = await front.line("tencent", cloud)
    cloud.next_place("drop")
    written = await front.placed(line, "uncertain")
    await front.execute("UPDATE call_line SET secrets = '\\x00' WHERE id = $1", line.id)
    never = await front.dial(line)
    await front.execute("UPDATE call SET reap_at = now() - interval '1 s'")
    for call_id in (written, never):
        await front.reading._calls.reap(front.office.tenant_id, call_id)

    assert ["LOST", "EXPIRED"] == [(await front.call(call_id))["hangup_cause"] for call_id in (written, never)]


def told(call_id: str, event: Progress | End, once: str) -> Told:
    """What the provider says of a call."""
    return Told(provider_call_id="theirs", tag=call_id, event=event, once=once, raw=b"{}")


@pytest.mark.parametrize("lines", [1, 2])
async def test_a_call_that_rang_though_it_was_refused_goes_on(
    front: Front, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """It keeps its extension, goes to no other line, is looked up, and ends as its record says."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def refuse(_: Infinity, order: Order) -> Placed:
        asked.set()
        await answer.wait()
        raise PlacementRefused(Refusal.LINE, "601", "no", known=True)

    monkeypatch.setattr(Infinity, "place", refuse)
    async with infinity_cloud() as cloud, infinity_cloud() as other:
        taken = [
            await front.line("infinity", at, accountId=f"account {n}", priority=n)
            for n, at in enumerate([cloud, other][:lines])
        ]
        line = taken[0]
        await front.execute("DELETE FROM line_seat")  # so extensions of the pools are lent
        for one in taken:
            await front.execute(
                "INSERT INTO extension (id, tenant_id, line_id, number) VALUES ($2, $1, $2, '1001')",
                front.office.tenant_id,
                one.id,
            )
        call_id = await front.dial()
        await asked.wait()
        answered = Progress(Status.CONNECTED, datetime.now(UTC), Evidence.IN_CALL_SERVICE)
        await front.reading.tell(front.office.tenant_id, line.id, told(call_id, answered, "answered"))
        answer.set()
        await front.until_order(call_id, "uncertain")
        talking, attempt = await front.call(call_id), await front.attempt(call_id)
        extension = await front.row("SELECT * FROM extension WHERE line_id = $1", line.id)
        record = End(
            outcome=Outcome.CONNECTED,
            at=datetime.now(UTC),
            by="provider",
            evidence=Evidence.PROVIDER_RECORD,
            duration=65,
        )
        await front.reading.tell(front.office.tenant_id, line.id, told(call_id, record, "record"))
        call = await front.call(call_id)

    assert ("connected", None) == (talking["status"], talking["ended_at"])
    assert (1, None) == (attempt["n"], attempt["refusal"])
    assert attempt["next_look_at"] is not None
    assert ("in_use", call_id) == (extension["status"], extension["call_id"])
    assert [] == other.placed
    assert ("connected", 65) == (call["outcome"], call["duration"])


async def test_the_record_of_a_refused_call_corrects_its_end(front: Front, cloud: TencentCloud) -> None:
    """That an order was refused is weaker than what the provider wrote down of the call."""
    line = await front.line("tencent", cloud)
    cloud.next_place("refuse", "FailedOperation.SeatStatusBusy")
    call_id = await front.dial(line)
    refused = await over(front, call_id)
    record = End(
        outcome=Outcome.CONNECTED, at=datetime.now(UTC), by="provider", evidence=Evidence.PROVIDER_RECORD, duration=65
    )
    await front.reading.tell(front.office.tenant_id, line.id, told(call_id, record, "record"))
    call = await front.call(call_id)

    assert ("failed", "connected", 65) == (refused["outcome"], call["outcome"], call["duration"])
