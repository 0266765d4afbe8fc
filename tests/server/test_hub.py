"""This node's sessions: who a message reaches, who is closed, and how all of them leave."""

import asyncio

import msgspec
import pytest

from protocol.errors import CloseCode
from protocol.messages import Reconnect, to_phone
from server.hub import Hub
from server.outbox import Outbox
from server.relay import NO_FRAME, CloseAgent, ClosePhone, ToAgent, ToPhone
from server.telemetry import Metrics


class Link:
    """A session of a phone or a page, and instead of its socket what it is told."""

    def __init__(self, epoch: int = 0, login_id: str | None = None) -> None:
        self.reads = True
        self.permitted = True
        self.told: list[str] = []
        self.outbox = Outbox(self, 1000, lambda: self.permitted)
        self.epoch = epoch
        self.login_id = login_id
        self.last_seq: int | None = 0
        self.events: list[tuple[int, bytes]] = []

    def deliver(self, frame: bytes) -> None:
        """Send a frame."""
        self.outbox.put(frame)

    def last_heard(self) -> float:
        """A moment ago."""
        return 0.0

    def event(self, seq: int, frame: bytes) -> None:
        """Take an event."""
        self.events.append((seq, frame))

    def resync(self, seq: int) -> None:
        """Not told here."""
        raise AssertionError(seq)

    @property
    def code(self) -> int | None:
        """With which code it is being closed."""
        return self.outbox.closing[0] if self.outbox.closing else None

    def send(self, frame: bytes) -> None:
        """It is told a frame."""
        self.told.append(frame.decode())

    def close(self, code: int, _reason: str) -> None:
        """It is closed."""
        self.told.append(f"closed {code}")

    def abort(self) -> None:
        """Nobody is cut here."""
        raise AssertionError


@pytest.fixture
def metrics() -> Metrics:
    """The numbers of this node."""
    return Metrics()


@pytest.fixture
def hub(metrics: Metrics) -> Hub:
    """A node that takes three sessions."""
    return Hub(metrics, bound=3)


def frame(text: str) -> msgspec.Raw:
    """A frame as it is carried."""
    return msgspec.Raw(msgspec.json.encode(text))


async def test_a_frame_reaches_every_session_of_its_phone(hub: Hub) -> None:
    """Also one not claimed yet, for what is committed after the claim is sent here; and no other phone."""
    old, new, other = Link(1), Link(), Link(1)
    for device_id, link in (("p", old), ("p", new), ("q", other)):
        hub.join_phone(device_id, link)

    hub.receive(ToPhone("p", frame("dial")))
    hub.receive(ToPhone("nobody", frame("dial")))
    for link in (old, new, other):
        link.outbox.close(1012, "")

    assert [['"dial"', "closed 1012"], ['"dial"', "closed 1012"], ["closed 1012"]] == [
        link.told for link in (old, new, other)
    ]


async def test_an_event_reaches_every_page_of_its_agent(hub: Hub) -> None:
    """And nobody else's."""
    pages, other = [Link(), Link()], Link()
    for page in pages:
        hub.join_agent("ann", page)
    hub.join_agent("ben", other)

    hub.receive(ToAgent("ann", 7, frame("event")))
    hub.receive(ToAgent("nobody", 7, frame("event")))

    assert [[(7, b'"event"')], [(7, b'"event"')], []] == [page.events for page in (*pages, other)]


async def test_a_claimed_session_replaces_the_older_ones_of_its_phone(hub: Hub) -> None:
    """4501 to those of a lower epoch; one that is being claimed is left alone, for it may be newer still."""
    older, claimed, unclaimed, other = Link(4), Link(5), Link(), Link(4)
    for link in (older, claimed, unclaimed):
        hub.join_phone("p", link)
    hub.leave_phone("p", unclaimed)
    hub.join_phone("p", unclaimed)
    hub.leave_phone("p", older)
    hub.join_phone("p", older)

    hub.replace("p", claimed)

    assert [CloseCode.REPLACED, None, None, None] == [link.code for link in (older, claimed, unclaimed, other)]


@pytest.mark.parametrize(
    ("below", "closed"),
    [(None, ["e0", "e4", "e5"]), (5, ["e4"]), (6, ["e4", "e5"]), (4, [])],
)
async def test_a_close_with_an_epoch_reaches_older_sessions_only(
    hub: Hub, below: int | None, closed: list[str]
) -> None:
    """Without one it reaches all, claimed or not."""
    links = {"e0": Link(), "e4": Link(4), "e5": Link(5)}
    for link in links.values():
        hub.join_phone("p", link)

    hub.receive(ClosePhone("p", CloseCode.UNBOUND, "unbound", NO_FRAME, below))

    assert closed == [name for name, link in links.items() if link.code == CloseCode.UNBOUND]


async def test_a_phone_is_told_the_last_word_before_it_is_closed(hub: Hub) -> None:
    """After all that waited; without a last word there is just the close."""
    told, untold = Link(1), Link(1)
    hub.join_phone("p", told)
    hub.join_phone("q", untold)
    told.deliver(b"before")

    hub.receive(ClosePhone("p", CloseCode.UNBOUND, "unbound", frame("bye")))
    hub.receive(ClosePhone("q", CloseCode.UNBOUND, "unbound", NO_FRAME))

    assert (["before", '"bye"', "closed 4503"], ["closed 4503"]) == (told.told, untold.told)


@pytest.mark.parametrize(("login_id", "closed"), [(None, ["a", "b", "none"]), ("a", ["a"]), ("z", [])])
async def test_signing_out_closes_the_pages_of_its_login(hub: Hub, login_id: str | None, closed: list[str]) -> None:
    """Without a login, all pages of the agent; never those of another."""
    pages = {"a": Link(login_id="a"), "b": Link(login_id="b"), "none": Link()}
    other = Link(login_id="a")
    for page in pages.values():
        hub.join_agent("ann", page)
    hub.join_agent("ben", other)

    hub.receive(CloseAgent("ann", CloseCode.UNBOUND, "signed out", login_id))

    assert closed == [name for name, page in pages.items() if page.code == CloseCode.UNBOUND]
    assert other.code is None


async def test_the_node_knows_who_is_here(hub: Hub) -> None:
    """Claimed phones and agents with pages, until the last of them has left."""
    claimed, unclaimed, page, second = Link(3), Link(), Link(), Link()
    hub.join_phone("p", claimed)
    hub.join_phone("q", unclaimed)
    hub.join_agent("ann", page)
    hub.leave_phone("q", unclaimed)
    hub.join_agent("ann", second)
    known = hub.phones(), hub.agents(), len(hub.pages("ann"))
    hub.leave_phone("p", claimed)
    hub.leave_agent("ann", page)
    one_left = hub.agents()
    hub.leave_agent("ann", second)

    assert (([("p", claimed)], ["ann"], 2), ["ann"]) == (known, one_left)
    assert ([], [], []) == (hub.phones(), hub.agents(), hub.pages("ann"))


async def test_sockets_are_bounded_from_when_they_are_let_in(hub: Hub) -> None:
    """Also those that have not said a word."""
    for _ in range(3):
        before = hub.full
        hub.let_in()
    after = hub.full
    hub.let_go()

    assert (False, True, False) == (before, after, hub.full)


async def test_sessions_are_counted_by_how_they_were_closed(hub: Hub, metrics: Metrics) -> None:
    """By our code, or as closed by the peer; those that did not read once more."""
    peer, slow = Link(1), Link(1)
    hub.join_phone("p", peer)
    hub.join_phone("q", slow)
    slow.deliver(b"a" * 1001)
    hub.leave_phone("p", peer)
    hub.leave_phone("q", slow)

    def sample(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert (1, 1, 1, 0) == (
        sample("dialdesk_session_closes_total", kind="phone", code="peer"),
        sample("dialdesk_session_closes_total", kind="phone", code="4410"),
        sample("dialdesk_outbox_drops_total"),
        sample("dialdesk_sessions", kind="phone"),
    )


async def test_a_lost_lease_closes_all_and_says_nothing_that_waited(hub: Hub) -> None:
    """1012 to everybody, claimed or not, and their frames are dropped."""
    links = [Link(1), Link(), Link()]
    hub.join_phone("p", links[0])
    hub.join_phone("p", links[1])
    hub.join_agent("ann", links[2])
    links[0].permitted = False
    links[0].deliver(b"dial")

    hub.lose_all()
    links[0].permitted = True
    hub.speak_again()

    assert [["closed 1012"]] * 3 == [link.told[:1] for link in links]
    assert "dial" not in links[0].told


async def test_what_waited_for_the_lease_is_said_when_it_is_held_again(hub: Hub) -> None:
    """To phones and pages, each in its order, and before what is said later."""
    phone, page = Link(1), Link()
    hub.join_phone("p", phone)
    hub.join_agent("ann", page)
    phone.permitted = page.permitted = False
    for link in (phone, page):
        link.outbox.put(b"1")
        link.outbox.put(b"2")
    before = [*phone.told, *page.told]
    phone.permitted = page.permitted = True
    phone.outbox.put(b"3")

    hub.speak_again()

    assert ([], ["1", "2", "3"], ["1", "2"]) == (before, phone.told, page.told)


async def test_draining_tells_everybody_to_come_back_and_closes_them(hub: Hub) -> None:
    """RECONNECT with a time to spread over, after what waited, and 1012."""
    phone, page = Link(1), Link()
    hub.join_phone("p", phone)
    hub.join_agent("ann", page)
    phone.deliver(b"before")

    await hub.drain(0.1)
    told = [phone.told, page.told]

    assert (True, ["before", "closed 1012"], "closed 1012") == (hub.draining, [told[0][0], told[0][2]], told[1][1])
    assert Reconnect(after_ms=1000, reason="draining") == to_phone.decode(told[0][1]).message


async def test_who_was_let_in_before_the_drain_and_comes_during_it_is_sent_away(hub: Hub) -> None:
    """A socket joins with its first message, which may come after the drain has begun: it is not left behind."""
    await hub.drain(0)
    phone, page = Link(), Link()
    hub.join_phone("p", phone)
    hub.join_agent("ann", page)

    assert [CloseCode.DRAINING] * 2 == [phone.code, page.code]


async def test_a_drained_node_waits_until_all_have_left(hub: Hub) -> None:
    """`empty` returns at once without sessions, else when the last has gone."""
    await hub.empty()
    first, second = Link(1), Link(1)
    hub.join_phone("p", first)
    hub.join_phone("q", second)
    waiting = asyncio.create_task(hub.empty())
    await asyncio.sleep(0)
    hub.leave_phone("p", first)
    await asyncio.sleep(0)
    still_waiting = not waiting.done()
    hub.leave_phone("q", second)
    async with asyncio.timeout(5):
        await waiting

    assert still_waiting
