"""A desk at each of the providers: an agent with a seat on a line, whose cloud is on loopback.

House and agent may be the same for a whole module of stories: a desk brings a line and a cloud of its own, and names
the line when it dials, so stories do not meet.
"""

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import aiohttp
import msgspec

from clients.agent import AgentClient
from protocol.call import HangupCause, Outcome
from protocol.identifiers import new_id
from protocol.messages import CallConnected, CallDialing, CallEnded, CallRinging, Message, RecordingReady
from storage.database import Database, open_database
from tests.clouds.aliyun import aliyun_cloud
from tests.clouds.cloud import Sequence, Story, WebhookRequestSpec
from tests.clouds.custom import bellbird_cloud, yunhu_cloud
from tests.clouds.infinity import infinity_cloud
from tests.clouds.ronglian import ronglian_cloud
from tests.clouds.tencent import tencent_cloud
from tests.clouds.tianrun import TianrunCloud, tianrun_cloud
from tests.journeys.house import DEADLINE, House, Process
from tests.waiting import until

M = TypeVar("M", bound=Message)

LOOPBACK = {"PROVIDER_NETWORKS": "127.0.0.0/8", "FETCH_NETWORKS": "127.0.0.0/8"}

CUSTOMER = "13912345678"
TALKED = 42
"""Seconds of talk in an answered call, at all clouds."""
SEAT = {"seatId": "1001", "number": "+8613800138000"}
"""What any provider takes for an agent: an id, an extension or a cno, and a telephone."""

ENDS: dict[Story, tuple[Outcome, HangupCause]] = {
    "answered": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "no_answer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "busy": (Outcome.BUSY, HangupCause.USER_BUSY),
    "rejected": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "invalid": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
}
"""How calls end, wherever a vendor says so."""


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """What the stories must know of a provider.

    `live` is what it tells of an answered call while it lasts, `final` the weight of the last that it tells. `asked` is
    whether a call can be looked up, `hangs_up` whether it ends one when it is asked, `behind` whether it puts the kinds
    of its messages behind the URL that it was given. `ends` names what it does not tell apart, and `refused` is why it
    refuses, where no code is asked for. From a `pool` of one extension it dials one call after the other, for agents
    without a seat.
    """

    provider: str
    cloud: Callable[[], AbstractAsyncContextManager[Any]]
    live: tuple[type, ...] = ()
    final: Literal["provider_record", "in_call_service"] = "provider_record"
    asked: bool = True
    behind: bool = False
    pool: bool = False
    hangs_up: bool = True
    ends: Mapping[Story, tuple[Outcome, HangupCause]] = {}
    refused: HangupCause = HangupCause.NETWORK_ERROR

    def end(self, story: Story) -> tuple[Outcome, HangupCause]:
        """The outcome and the cause that stand in a call's record."""
        return self.ends.get(story, ENDS[story])


TRIES, TRY = 60, 0.5
"""How often, and for how many seconds, a desk waits for what time will bring, before it lets some more go by."""

RANG: dict[Story, tuple[Outcome, HangupCause]] = {"rejected": ENDS["no_answer"]}
"""Ronglian does not tell a refusal from a telephone that rang in vain."""

VENDORS: dict[str, Vendor] = {
    "tencent": Vendor(
        provider="tencent", cloud=tencent_cloud, live=(CallRinging, CallConnected), refused=HangupCause.DEVICE_BUSY
    ),
    "aliyun": Vendor(
        provider="aliyun",
        cloud=aliyun_cloud,
        live=(CallRinging, CallConnected),
        refused=HangupCause.DEVICE_OFFLINE,
    ),
    "aliyun-back2back": Vendor(
        provider="aliyun",
        cloud=lambda: aliyun_cloud("back2back"),
        hangs_up=False,
        live=(CallRinging, CallConnected),
        refused=HangupCause.DEVICE_OFFLINE,
    ),
    "ronglian": Vendor(provider="ronglian", cloud=ronglian_cloud, asked=False, ends=RANG),
    "ronglian-events": Vendor(
        provider="ronglian",
        cloud=lambda: ronglian_cloud("xml", asks_first=True),
        live=(CallConnected,),
        final="in_call_service",
        asked=False,
        behind=True,
        ends=RANG,
    ),
    "tianrun-clink2": Vendor(provider="tianrun", cloud=lambda: tianrun_cloud("clink2"), live=(CallConnected,)),
    "tianrun-cticloud": Vendor(provider="tianrun", cloud=lambda: tianrun_cloud("cticloud"), live=(CallConnected,)),
    "infinity": Vendor(provider="infinity", cloud=infinity_cloud, hangs_up=False),
    "infinity-pool": Vendor(provider="infinity", cloud=lambda: infinity_cloud("json"), pool=True, hangs_up=False),
    "custom-bellbird": Vendor(
        provider="custom", cloud=bellbird_cloud, live=(CallRinging, CallConnected), refused=HangupCause.RESTRICTED
    ),
    "custom-yunhu": Vendor(provider="custom", cloud=yunhu_cloud, refused=HangupCause.RESTRICTED),
}


class Office:
    """A house with a node, a worker, an administrator and an agent, in which lines may be dialled now."""

    def __init__(
        self, house: House, database: Database, node: Process, administrator: AgentClient, agent: AgentClient
    ) -> None:
        self.house = house
        self.database = database
        self.node = node
        self.administrator = administrator
        self.agent = agent
        self.customers = map("1391234{:04}".format, itertools.count())
        """Telephone numbers that were not dialled yet: some vendors know a call by nothing else."""

    @classmethod
    @asynccontextmanager
    async def at(cls, house: House, **settings: str) -> AsyncIterator["Office"]:
        """Open the house, until the block ends."""
        await house.rows("UPDATE tenant SET timezone = $1", where_it_is_noon())
        node = await house.node(**LOOPBACK, **settings)
        await house.worker(**LOOPBACK, **settings)
        async with open_database(house.database_url, max_size=2) as database:
            yield cls(house, database, node, await house.administrator(node), await house.agent(node))


class Desk:
    """The agent's seat on a line of its own at `cloud`, and the line's callback URLs."""

    def __init__(self, office: Office, vendor: Vendor, cloud: Any) -> None:
        self.office = office
        self.vendor = vendor
        self.cloud = cloud
        self.agent = office.agent
        self.line_id = ""
        self.callbacks: dict[str, str] = {}

    @classmethod
    @asynccontextmanager
    async def at(cls, vendor: Vendor, office: Office) -> AsyncIterator["Desk"]:
        """Set up the line as an administrator does; the cloud is there until the block ends."""
        async with vendor.cloud() as cloud:
            desk = cls(office, vendor, cloud)
            await desk._open()
            yield desk

    async def dial(self) -> str:
        """Have a customer called over this line; returns the call's id."""
        return await self.agent.dial(
            customer_phone=next(self.office.customers), call_method="cloud", line_id=self.line_id, timeout=DEADLINE
        )

    async def hears(self, kind: type[M], call_id: str) -> M:
        """Wait until the agent hears so of the call."""
        return await self.agent.events.wait_for(kind, call_id=call_id, timeout=DEADLINE)

    async def ordered(self, call_id: str) -> None:
        """Wait until the provider took the order."""
        await until(lambda: call_id in [placed.tag for placed in self.cloud.placed])

    async def ordered_as(self, call_id: str, state: str) -> bool:
        """Whether this is what the node made of the provider's answer to the order."""
        async with self.office.database.connection() as connection:
            found: str = await connection.fetchval("SELECT state FROM attempt WHERE call_id = $1", call_id)
        return state == found

    async def play(self, call_id: str, story: Story, order: Sequence = "right", *, lost: bool = False) -> None:
        """Let the call go so; each message of the provider is read before the next one comes, or `lost`."""
        await self.cloud.play(call_id, story, send=self._lose if lost else self.send, order=order)

    def talk(self, call_id: str) -> None:
        """Let agent and customer talk, at clouds that show how their seats are."""
        if isinstance(self.cloud, TianrunCloud):
            self.cloud.at_work(call_id, "talking")

    async def send(self, message: WebhookRequestSpec) -> None:
        """Be the provider, who calls back; returns when its message was read."""
        behind = self.vendor.behind
        url = f"{self.callbacks['all']}/{message.kind}" if behind else self.callbacks[message.kind or "all"]
        async with aiohttp.ClientSession() as http:
            async with http.request(
                message.method, url, params=dict(message.query), headers=dict(message.headers), data=message.body
            ) as answer:
                assert 200 == answer.status, await answer.text()
        await until(self._read)

    async def end(self, call_id: str) -> CallEnded:
        """Wait for the last that will be told of how a call went; the hours in which it would be asked go by."""
        for _ in range(TRIES):
            await self.let_time_pass(call_id)
            try:
                return await self.agent.events.wait_for(
                    CallEnded, call_id=call_id, where=lambda end: end.evidence == self.vendor.final, timeout=TRY
                )
            except TimeoutError:
                continue
        raise TimeoutError(f"the call has not ended: {await self.record(call_id)}")

    async def recording(self, call_id: str) -> bytes:
        """Wait until the call's recording was fetched, and play it."""
        await self.let_time_pass(call_id)
        for _ in range(TRIES):
            try:
                await self.agent.events.wait_for(RecordingReady, call_id=call_id, timeout=TRY)
                break
            except TimeoutError:
                await self.let_time_pass(call_id)
        return await self.agent.play(call_id)

    async def let_time_pass(self, call_id: str) -> None:
        """What is to be asked or fetched later is asked and fetched now."""
        async with self.office.database.connection() as connection:
            await connection.execute(
                "UPDATE attempt SET next_look_at = now() WHERE call_id = $1 AND next_look_at IS NOT NULL", call_id
            )
            await connection.execute(
                "UPDATE recording_fetch SET next_at = now() WHERE call_id = $1 AND state = 'waiting'", call_id
            )

    async def told(self, call_id: str) -> list[type]:
        """What the agent was told of a call, each kind once, in the order of its first: the end is told again when a
        record corrects it."""
        told: list[type] = []
        async for envelope in self.agent.events:
            message = envelope.message
            if isinstance(message, (CallDialing, CallRinging, CallConnected, CallEnded)) and message.call_id == call_id:
                if type(message) not in told:
                    told.append(type(message))
                if isinstance(message, CallEnded) and message.evidence == self.vendor.final:
                    break
        return told

    async def record(self, call_id: str) -> dict[str, Any]:
        """The call as the API tells it."""
        record: dict[str, Any] = (await self.agent.get(f"/api/v1/calls/{call_id}"))["call"]
        return record

    async def controls(self, call_id: str) -> list[str]:
        """What the API says can be done to the call now."""
        controls: list[str] = (await self.agent.get(f"/api/v1/calls/{call_id}"))["controls"]
        return controls

    async def calls_on_line(self) -> int:
        """How many calls take a place on the line."""
        answer = await self.office.administrator.get(f"/api/v1/calls/lines/{self.line_id}")
        calls: int = answer["line"]["currentConcurrent"]
        return calls

    async def _open(self) -> None:
        admin = self.office.administrator
        settings, secrets = self.cloud.line()
        form = {**settings, **secrets}
        form.pop("callbackUrl", None)  # which Dialdesk fills in itself
        name = new_id("line")  # no cloud's address, for the next cloud may have the same
        line = {
            "name": name,
            "accountId": name,
            "providerType": self.vendor.provider,
            "providerConfig": form,
            "status": "active",
        }
        self.line_id = (await admin.post("/api/v1/calls/lines", line))["id"]
        self.callbacks = (await admin.get(f"/api/v1/calls/lines/{self.line_id}"))["config"]["callbackUrls"]
        if self.vendor.pool:
            pool = {"lineId": self.line_id, "extensions": ["8001"]}
            await admin.post("/api/v1/infinity/extensions/batch-import", pool)
        else:
            me = (await self.agent.get("/api/v1/me"))["user"]["id"]
            await admin.put(f"/api/v1/calls/lines/{self.line_id}/seats/{me}", SEAT)

    async def _lose(self, message: WebhookRequestSpec) -> None:
        """Be the provider, whose message does not arrive."""

    async def _read(self) -> bool:
        async with self.office.database.connection() as connection:
            unread: bool = await connection.fetchval(
                "SELECT EXISTS (SELECT FROM webhook_inbox WHERE line_id = $1 AND state = 'new' AND problem IS NULL)",
                self.line_id,
            )
        return not unread


def where_it_is_noon() -> str:
    """A time zone where lines may call now, whenever the tests run."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
