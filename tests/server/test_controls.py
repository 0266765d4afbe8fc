"""Mute and transfer at fake clouds, and what each call says can be done to it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from protocol.errors import ERRORS
from server.config import Config
from storage.database import Database
from tests.clouds.custom import Bellbird, bellbird_cloud
from tests.clouds.tencent import tencent_cloud
from tests.conftest import Office
from tests.server.line_front import Front, Line, line_front

COLLEAGUE = "+8613800000007"


class Desk:
    """A call over a line of a provider that can do everything."""

    def __init__(self, front: Front, line: Line, cloud: Bellbird, call_id: str) -> None:
        self.front = front
        self.line = line
        self.cloud = cloud
        self.call_id = call_id

    async def mute(self, who: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
        """Mute the call."""
        return await self._control("mute", who, body)

    async def transfer(self, who: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
        """Transfer the call."""
        return await self._control("transfer", who, body)

    async def history(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """What was done to the call: (by whom, what, what it changed, more)."""
        shown = (await self.front.ask("GET", f"/{self.call_id}", who=self.front.agent)).json()
        return [
            (event["source"], event["kind"], event["effect"], event["data"])
            for event in shown["events"]
            if event["source"] == "agent" and event["kind"] != "DIAL"
        ]

    async def controls(self, call_id: str | None = None) -> list[str]:
        """What the call says can be done to it, in its record and in its status."""
        path = f"/{call_id or self.call_id}"
        record = (await self.front.ask("GET", path, who=self.front.agent)).json()
        status = (await self.front.ask("GET", f"{path}/status", who=self.front.agent)).json()
        assert record["controls"] == status["controls"]
        told: list[str] = record["controls"]
        return told

    def asked(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What was asked of the provider after the order."""
        return self.cloud.asked[1:]

    async def _control(self, what: str, who: dict[str, str] | None, body: dict[str, Any]) -> dict[str, Any]:
        sent = {"callId": self.call_id, **body}
        answer: dict[str, Any] = (await self.front.ask("POST", f"/{what}", sent, who=who or self.front.agent)).json()
        return answer


@pytest.fixture
def local(configure: Callable[..., Config], tmp_path: Path) -> Config:
    """A node that may speak to this machine."""
    return configure(provider_networks="127.0.0.0/8", recordings="local", recordings_folder=tmp_path / "recordings")


@pytest.fixture
async def front(database: Database, office: Office, redis: Redis, local: Config) -> AsyncIterator[Front]:
    """The API of an office."""
    async with line_front(database, office, redis, local) as front:
        yield front


@pytest.fixture
async def desk(front: Front) -> AsyncIterator[Desk]:
    """A call that was placed."""
    async with bellbird_cloud() as cloud:
        line = await front.line("custom", cloud)
        yield Desk(front, line, cloud, await front.placed(line))


async def test_a_call_is_muted_and_heard_again(desk: Desk) -> None:
    """The provider is asked, and the call's history tells who did it."""
    await desk.mute()
    await desk.mute(muted=False)

    assert [("POST", "/v2/calls/c_1/mute", {}), ("POST", "/v2/calls/c_1/unmute", {})] == desk.asked()
    assert [
        ("agent", "MUTE", "none", {"by": desk.front.agent_id}),
        ("agent", "UNMUTE", "none", {"by": desk.front.agent_id}),
    ] == await desk.history()


async def test_a_call_is_transferred_to_a_number(desk: Desk) -> None:
    """Told in any form, dialled in one, and masked in the history."""
    await desk.transfer(number="138 0000 0007")

    assert [("POST", "/v2/calls/c_1/transfer", {"to": COLLEAGUE})] == desk.asked()
    assert [("agent", "TRANSFER", "none", {"by": desk.front.agent_id, "to": "138****0007"})] == await desk.history()


@pytest.mark.parametrize("to", [{}, {"number": COLLEAGUE, "seatId": "2002"}])
async def test_a_transfer_names_one_target(desk: Desk, to: dict[str, Any]) -> None:
    """A number or a seat."""
    assert "INVALID_FIELD" == (await desk.transfer(**to))["code"]
    assert "INVALID_PHONE" == (await desk.transfer(number="12"))["code"]
    assert [] == desk.asked()


async def test_what_the_provider_refuses_is_told(desk: Desk) -> None:
    """With the provider's own word, and nothing is noted."""
    desk.cloud.refusals["POST /v2/calls/c_1/mute"] = (422, "not_talking")
    told = await desk.mute()

    assert ("CONTROL_REFUSED", True) == (told["code"], "not_talking" in told["message"])
    assert [] == await desk.history()


async def test_a_transfer_that_nobody_knows_of_is_not_asked_for_again(desk: Desk) -> None:
    """A telephone may be ringing: the answer forbids to repeat it, while to mute again does no harm."""
    desk.cloud.refusals["POST /v2/calls/c_1/transfer"] = (500, "server_error")
    desk.cloud.refusals["POST /v2/calls/c_1/mute"] = (500, "server_error")
    transferred = await desk.transfer(number=COLLEAGUE)
    muted = await desk.mute()

    assert ("CONTROL_UNCERTAIN", False) == (transferred["code"], ERRORS[transferred["code"]].retry)
    assert ("UNAVAILABLE", True) == (muted["code"], ERRORS[muted["code"]].retry)
    assert 2 == len(desk.asked())


async def test_a_call_that_has_ended_is_left_alone(desk: Desk) -> None:
    """There is nobody to be muted."""
    await desk.front.play(desk.line, desk.cloud, desk.call_id, "answered")

    assert "CALL_ENDED" == (await desk.mute())["code"]
    assert "CALL_ENDED" == (await desk.transfer(number=COLLEAGUE))["code"]
    assert [] == await desk.controls()


async def test_a_call_is_controlled_by_who_reaches_it(desk: Desk) -> None:
    """For a colleague it is not there."""
    _, colleague = await desk.front.person("agent")

    assert "NOT_FOUND" == (await desk.mute(colleague))["code"]
    assert "NOT_FOUND" == (await desk.transfer(colleague, number=COLLEAGUE))["code"]


async def test_a_call_says_what_can_be_done_to_it(desk: Desk) -> None:
    """That is, what its provider can do."""
    assert ["hang_up", "mute", "transfer"] == await desk.controls()


async def test_what_a_provider_cannot_do_is_not_supported(front: Front) -> None:
    """It is asked nothing, and the call says so before."""
    async with tencent_cloud() as cloud:
        line = await front.line("tencent", cloud)
        desk = Desk(front, line, cloud, await front.placed(line))  # type: ignore[arg-type]

        assert ["hang_up"] == await desk.controls()
        assert "NOT_SUPPORTED" == (await desk.mute())["code"]
        assert "NOT_SUPPORTED" == (await desk.transfer(number=COLLEAGUE))["code"]
        assert ["CreateCallOutSession"] == [action for action, _ in cloud.asked]


async def test_a_call_on_a_phone_is_controlled_on_the_phone(desk: Desk) -> None:
    """It is hung up from here as far as its handset can be; what is still to be dialled, always."""
    await desk.front.office.phone(desk.front.agent_id, hangUp=False)
    answer = await desk.front.ask("POST", "/dial", {"customerPhone": "13900139000"}, who=desk.front.agent)
    desk.call_id = call_id = answer.json()["callId"]
    pending = await desk.controls()
    await desk.front.execute("UPDATE call SET status = 'calling' WHERE id = $1", call_id)
    calling = await desk.controls()
    await desk.front.execute("UPDATE device SET capabilities = '{\"hangUp\": true}'")

    assert (["hang_up"], [], ["hang_up"]) == (pending, calling, await desk.controls())
    assert "NOT_SUPPORTED" == (await desk.mute())["code"]


async def test_a_call_whose_order_was_not_written_is_called_off(desk: Desk) -> None:
    """Hung up before its order went out, it never goes out, and the provider hears of neither."""
    await desk.front.execute("UPDATE attempt SET state = 'committed', expires_at = now() + interval '1 hour'")
    answer = await desk.front.ask("POST", "/hangup", {"callId": desk.call_id}, who=desk.front.agent)
    call = await desk.front.call(desk.call_id)

    assert answer.is_success
    assert ("ended", "cancelled", "CANCELLED") == (call["status"], call["outcome"], call["hangup_cause"])
    assert "over" == (await desk.front.attempt(desk.call_id))["state"]
    assert [] == desk.asked()
