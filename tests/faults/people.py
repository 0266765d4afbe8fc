"""Agents who call and call, and the phones on their desks, each writing down what it asks, hears and does."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from clients import memory as disk
from clients.agent import AgentClient
from clients.api import Api, Refused, Unreachable
from clients.behaviour import Behaviour, NetworkLost, Step
from clients.connection import Link, Stopped, Timing
from clients.memory import (
    Binding,
    Bound,
    Connecting,
    Entry,
    Handset,
    Memory,
)
from clients.phone import PhoneClient
from protocol.call import Evidence, HangupCause, Outcome
from protocol.messages import (
    Ack,
    CallEnd,
    CallEnded,
    CallStatus,
    CancelDial,
    DeviceOnline,
    DialCommand,
    Envelope,
    Error,
    Resync,
    ToAgent,
    ToPhone,
    WelcomeAgent,
    WelcomePhone,
    encode,
    new_message_id,
    to_phone,
)
from tests.faults.record import (
    Accepted,
    Acked,
    AgentLine,
    Asked,
    Declined,
    Dialled,
    GivenUp,
    Journal,
    Lost,
    Ordered,
    PageStands,
    PageWelcomed,
    PhoneLine,
    PhoneStands,
    PhoneWelcomed,
    Reloaded,
    Reported,
    Spurned,
    Started,
    Told,
    Twin,
    now,
)
from tests.faults.world import World

TIMING = Timing(
    open_timeout=3.0,
    write_timeout=3.0,
    close_timeout=0.5,
    silence=9.0,
    backoff_base=0.1,
    backoff_cap=1.5,
    steady_after=2.0,
    resend_after=1.5,
    resend_cap=6.0,
)

PATIENCE = 4.0
"""Seconds that an agent waits for an answer."""

SEATING = 60.0
"""Seconds that anything may take before the faults begin."""

TWINS_STAY = 6.0
"""Seconds after which a second socket goes, where the server has not closed it."""

CUSTOMER = "13912345678"


class _Words(msgspec.Struct):
    """What a report says, be it of progress or of an end."""

    status: str
    evidence: str | None = None


class WatchedMemory(Memory):
    """A phone's memory that also tells the history what the phone is about to do or say."""

    journal: Journal[PhoneLine | GivenUp]

    def note(self, entry: Entry) -> None:
        """Write an entry down, in the history first."""
        match entry:
            case disk.Started(call_id=call_id):
                self.journal.write(Dialled(at=now(), call_id=call_id))
            case disk.Reported(report=report):
                said = msgspec.json.decode(report.data, type=_Words)
                self.journal.write(
                    Reported(
                        at=now(),
                        message_id=report.message_id,
                        call_id=report.call_id,
                        type=report.type,
                        status=said.status,
                        evidence=said.evidence,
                    )
                )
            case _:
                pass  # of commands the phone hears, and of acks too: written where it hears them
        super().note(entry)


class WatchedPhone(PhoneClient):
    """A phone that tells the history what it hears."""

    journal: Journal[PhoneLine | GivenUp]
    epoch = 0

    def _hear(self, link: Link[ToPhone], envelope: Envelope[ToPhone]) -> None:
        write, at = self.journal.write, now()
        match envelope:
            case Envelope(message=WelcomePhone(epoch=epoch)):
                self.epoch = epoch
                write(PhoneWelcomed(at=at, epoch=epoch))
            case Envelope(message=DialCommand(call_id=call_id, expires_at=expires_at), message_id=str(command)):
                write(Ordered(at=at, message_id=command, call_id=call_id, expires_at=expires_at / 1000))
            case Envelope(message=CancelDial(call_id=call_id), message_id=str(command)):
                write(Ordered(at=at, message_id=command, call_id=call_id, expires_at=None))
            case Envelope(message=Ack(message_id=report)):
                write(Acked(at=at, message_id=report))
            case Envelope(message=Error(message_id=str(report), retry=False, code=code)):
                write(Spurned(at=at, message_id=report, code=code))
            case _:
                pass  # says nothing of calls
        super()._hear(link, envelope)


class Phone:
    """A handset, from one start of its app to the next."""

    def __init__(
        self,
        binding: Binding,
        store: Path,
        journal: Journal[PhoneLine | GivenUp],
        twins: Journal[Twin],
        chance: random.Random,
    ) -> None:
        self.clock_wrong_by = 0.0
        """Seconds by which the clock on its wall is ahead."""
        self._binding = binding
        self._journal = journal
        self._twins = twins
        self._chance = chance
        self._twinned: set[asyncio.Task[None]] = set()
        self._playing = 0
        memory = WatchedMemory(store, fsync=False)
        memory.journal = journal
        memory.note(Bound(binding))
        behaviour = Behaviour(
            script=self._play,
            auto_dial=chance.random() < 0.8,
            tap_after=chance.uniform(0.2, 2),
            hang_up=chance.random() < 0.9,
            answer_signal=chance.random() < 0.8,
        )
        self._client = WatchedPhone(memory, behaviour, timing=TIMING)
        self._on: AsyncExitStack | None = None

    @property
    def name(self) -> str:
        """What the phone calls itself."""
        return self._binding.handset.device_id

    @property
    def settled(self) -> bool:
        """Whether it is online, by one socket, has no more to say, and all that it said was acked."""
        quiet = not self._playing and not self._twinned
        return quiet and self._client.online.is_set() and self._client.settled.is_set()

    @property
    def epoch(self) -> int | None:
        """Of its session; None while it has none."""
        return self._client.epoch if self._client.online.is_set() else None

    async def start(self) -> None:
        """Switch it on."""
        self._journal.write(Started(at=now()))
        self._client.journal = self._journal
        assert isinstance(self._client.memory, WatchedMemory)
        self._client.memory.journal = self._journal
        self._on = AsyncExitStack()
        await self._on.enter_async_context(self._client)

    async def reboot(self, dark: float) -> None:
        """End without a word, and start again after so many seconds."""
        await self._client.kill()
        await asyncio.sleep(dark)
        self._client = self._client.restarted()
        await self.start()

    def open_twins(self, origins: Sequence[str]) -> None:
        """Open a socket more at each of these nodes, all of one count, and then come back with a newer one. Of some the
        first message is late: it comes when the newer one stands."""
        memory = self._client.memory
        memory.note(Connecting(memory.connection + 1))
        for origin in origins:
            twin = self._be_twin(origin, memory.connection, late=self._chance.random() < 0.5)
            self._twinned.add(task := asyncio.create_task(twin, name=f"twin of {self.name}"))
            task.add_done_callback(self._twinned.discard)
        with contextlib.suppress(RuntimeError):  # it is on its way back already
            self._client.link.drop()

    async def leave(self, *, politely: bool) -> None:
        """Go away to stay away: with a word, or without."""
        if politely:
            await self._client.go_offline()
        else:
            self._client.lose_network()

    def stand(self) -> None:
        """Write down how it is at the end."""
        if self._client.stopped is not None:
            self._journal.write(GivenUp(at=now(), code=self._client.stopped.code, reason=self._client.stopped.reason))
        waiting = len(self._client.memory.unacked)
        self._journal.write(PhoneStands(at=now(), epoch=self.epoch, waiting=waiting))

    async def end(self) -> None:
        """Switch it off, and let go of what is open."""
        for twin in list(self._twinned):
            twin.cancel()
        await asyncio.gather(*self._twinned, return_exceptions=True)
        if self._on is not None:
            await self._on.aclose()

    async def _play(self, command: DialCommand) -> AsyncIterator[Step]:
        self._playing += 1
        try:
            async for step in self._course(command):
                yield step
        finally:
            self._playing -= 1

    async def _course(self, command: DialCommand) -> AsyncIterator[Step]:
        """What happens when it dials. All that the phone tells of time is by the clock on its wall."""
        chance, signal = self._chance, self._client.behaviour.answer_signal
        grounds = Evidence.IN_CALL_SERVICE if signal else Evidence.CALL_LOG

        def seen(status: str) -> CallStatus:
            wall = self._wall().timestamp() * 1000
            return CallStatus(call_id=command.call_id, status=status, timestamp=wall, evidence=Evidence.IN_CALL_SERVICE)  # type: ignore[arg-type]

        def ended(outcome: Outcome, cause: HangupCause | None = None, started: datetime | None = None) -> CallEnd:
            wall = self._wall()
            return CallEnd(
                call_id=command.call_id,
                status=outcome,
                start_time=started,
                end_time=wall,
                duration=None if started is None else (wall - started).total_seconds(),
                hangup_cause=cause,
                evidence=grounds,
            )

        yield seen("calling")
        await _pause(chance.uniform(0, 0.4))
        if signal:
            yield seen("ringing")
        await _pause(chance.uniform(0, 1))
        match chance.choices(("talks", "busy", "rejects", "misses"), (70, 10, 10, 10))[0]:
            case "busy":
                end = ended(Outcome.BUSY, HangupCause.USER_BUSY)
            case "rejects":
                end = ended(Outcome.REJECTED, HangupCause.CALL_REJECTED)
            case "misses":
                end = ended(Outcome.MISSED, HangupCause.NO_ANSWER)
            case _:
                started = self._wall()
                if signal:
                    yield seen("connected")
                if chance.random() < 0.1:
                    yield NetworkLost(chance.uniform(0.2, 4))
                await _pause(chance.choice((0.0, 0.2, 1.0, 3.0)))
                end = ended(Outcome.CONNECTED, started=started)
        yield end
        if chance.random() < 0.3:
            await _pause(chance.uniform(0, 1))
            yield msgspec.structs.replace(end, evidence=Evidence.CALL_LOG)

    def _wall(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.clock_wrong_by)

    async def _be_twin(self, origin: str, count: int, *, late: bool) -> None:
        """A second socket: welcomed or not, it hears, and never acks."""
        handset = self._binding.handset
        url = urlunsplit(urlsplit(origin)._replace(scheme="ws", path="/ws/phone"))
        headers = {"Authorization": f"Bearer {self._binding.auth_token}", "X-Device-Id": handset.device_id}
        online = DeviceOnline(
            app_version=handset.app_version,
            os_type=handset.os_type,
            os_version=handset.os_version,
            capabilities=self._client.behaviour.capabilities,
            boot_id="twin",
            connection=count,
            pending_reports=0,
        )
        epoch = code = None
        newer, since = self._client.heard, self._client.heard.position
        try:
            socket = await connect(
                url, additional_headers=headers, compression=None, ping_interval=None, open_timeout=3, proxy=None
            )
        except (OSError, InvalidHandshake):
            return  # the node is away
        try:
            async with asyncio.timeout(TWINS_STAY):
                if late:
                    await newer.wait_for(WelcomePhone, since=since, timeout=TWINS_STAY)
                await socket.send(encode(online), text=True)
                while True:
                    heard = to_phone.decode(await socket.recv(decode=False)).message
                    if isinstance(heard, WelcomePhone):
                        epoch = heard.epoch
        except TimeoutError:
            pass  # it goes as it came
        except ConnectionClosed:
            code = socket.close_code or 1006
        finally:
            socket.transport.abort()
            self._twins.write(Twin(at=now(), device=self.name, connection=count, epoch=epoch, code=code))


class WatchedAgent(AgentClient):
    """A page that tells the history what it hears."""

    journal: Journal[AgentLine | GivenUp]

    def _hear(self, link: Link[ToAgent], envelope: Envelope[ToAgent]) -> None:
        match envelope.message:
            case WelcomeAgent(last_seq=last_seq):
                self.journal.write(PageWelcomed(at=now(), seen=self.last_seq, last_seq=last_seq))
            case Resync(to_seq=to_seq):
                self.journal.write(Lost(at=now(), to_seq=to_seq))
            case message if envelope.seq is not None:
                call_id = getattr(message, "call_id", None)
                self.journal.write(Told(at=now(), seq=envelope.seq, type=message.type, call_id=call_id))
            case _:
                pass  # answers, and signs of life
        super()._hear(link, envelope)


class Desk:
    """An agent with a page, who calls and calls."""

    def __init__(
        self, client: WatchedAgent, user_id: str, journal: Journal[AgentLine | GivenUp], chance: random.Random
    ) -> None:
        self.user_id = user_id
        self._client = client
        self._journal = client.journal = journal
        self._chance = chance
        self._on = AsyncExitStack()

    @property
    def last_seq(self) -> int | None:
        """How far the page has heard."""
        return self._client.last_seq

    async def open(self) -> None:
        """Open the page."""
        await self._on.enter_async_context(self._client)
        await self._client.connect(timeout=SEATING)

    async def end(self) -> None:
        """Close the page."""
        await self._on.aclose()

    async def bind(self, number: int, api: Api) -> Binding:
        """Bind a phone."""
        qr = await self._client.bind_qr()
        handset = Handset(device_id=f"phone-{number:03}", phone_number="13800138000")
        phone = await PhoneClient.bind(qr["qrCodeData"], handset, api=api)
        assert phone.memory.binding is not None
        return phone.memory.binding

    def reload(self) -> None:
        """Load the page anew."""
        self._journal.write(Reloaded(at=now()))
        self._client.last_seq = None
        with contextlib.suppress(RuntimeError):  # it is on its way back already
            self._client.link.drop()

    async def work(self) -> None:
        """Call, for ever."""
        while self._client.stopped is None:
            await _pause(self._chance.uniform(0.1, 3))
            try:
                await self._call()
            except Stopped:
                return  # which `stand` tells

    def stand(self) -> None:
        """Write down how the page is at the end."""
        stopped = self._client.stopped
        if isinstance(stopped, Stopped):
            self._journal.write(GivenUp(at=now(), code=stopped.code, reason=stopped.reason))
        elif stopped is not None:
            self._journal.write(GivenUp(at=now(), code=stopped.status, reason=stopped.code))
        else:
            self._journal.write(PageStands(at=now()))

    async def _call(self) -> None:
        chance = self._chance
        call_id = await self._dial(new_message_id(), over_http=chance.random() < 0.3)
        if call_id is None:
            return
        if chance.random() < 0.15:
            await _pause(chance.uniform(0, 2))
            with contextlib.suppress(Refused, Unreachable, TimeoutError):  # the call then ends as it may
                await self._client.hang_up(call_id, timeout=PATIENCE)
        with contextlib.suppress(TimeoutError):  # the agent looks no longer, and dials again
            await self._client.events.wait_for(CallEnded, call_id=call_id, timeout=chance.uniform(5, 20))

    async def _dial(self, key: str, *, over_http: bool) -> str | None:
        """Dial, asking again where no answer comes, or it is to be asked again; most people do, some give up."""
        while True:
            self._journal.write(Asked(at=now(), key=key))
            try:
                if over_http:
                    async with asyncio.timeout(PATIENCE):
                        call_id = await self._client.dial_over_http(key=key, customer_phone=CUSTOMER)
                else:
                    call_id = await self._client.dial(key=key, timeout=PATIENCE, customer_phone=CUSTOMER)
            except Refused as refusal:
                self._journal.write(Declined(at=now(), key=key, code=refusal.code))
                if not refusal.retry:
                    return None
            except (Unreachable, TimeoutError):
                pass  # nobody knows whether it was accepted: asked again it is the same dial
            else:
                self._journal.write(Accepted(at=now(), key=key, call_id=call_id))
                return call_id
            if self._chance.random() < 0.3:
                return None
            await _pause(self._chance.uniform(0.1, 1))


async def seat(
    world: World, pairs: int, folder: Path, chance: random.Random, stack: AsyncExitStack
) -> tuple[list[Desk], list[Phone]]:
    """Sign everybody in, each with a phone that is bound and online."""
    desks, phones = [], []
    twins: Journal[Twin] = stack.enter_context(Journal(folder / "twins.jsonl"))
    disks = folder / "memory"
    disks.mkdir()
    api = await stack.enter_async_context(Api(world.places[0].url, timeout=SEATING))
    for number in range(pairs):
        office, cell = chance.choice(world.places), chance.choice(world.places)
        client = await WatchedAgent.login(
            office.url, await world.house.user("agent"), world.house.password, timing=TIMING, timeout=SEATING
        )
        user_id = (await client.get("/api/v1/me"))["user"]["id"]
        asked = stack.enter_context(Journal[AgentLine | GivenUp](folder / "agents" / f"{user_id}.jsonl"))
        desk = Desk(client, user_id, asked, random.Random(chance.random()))
        stack.push_async_callback(desk.end)
        await desk.open()
        binding = await desk.bind(number, api)
        url = urlsplit(binding.websocket_url)._replace(netloc=urlsplit(cell.url).netloc)
        binding = msgspec.structs.replace(binding, websocket_url=urlunsplit(url))
        name = binding.handset.device_id
        done = stack.enter_context(Journal[PhoneLine | GivenUp](folder / "phones" / f"{name}.jsonl"))
        phone = Phone(binding, disks / name, done, twins, random.Random(chance.random()))
        stack.push_async_callback(phone.end)
        await phone.start()
        desks.append(desk)
        phones.append(phone)
    return desks, phones


async def _pause(seconds: float) -> None:
    """How long people take."""
    await asyncio.sleep(seconds)
