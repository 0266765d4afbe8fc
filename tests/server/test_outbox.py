"""What waits to be written: its order, its bound, and how a socket comes to its end, read or not."""

import asyncio

import pytest

import server.outbox
from protocol.errors import CloseCode
from server.outbox import Outbox

BOUND = 100


class Peer:
    """The socket of an outbox: what it was sent, and whether it was cut. It may stop reading after some frames."""

    def __init__(self, *, reads: bool = True, takes: int | None = None) -> None:
        self.frames: list[str] = []
        self.closed: tuple[int, str] | None = None
        self.cut = asyncio.Event()
        self.reads = reads
        self.permitted = True
        self._takes = takes

    def outbox(self) -> Outbox:
        """The outgoing side of it."""
        return Outbox(self, BOUND, lambda: self.permitted)

    def send(self, frame: bytes) -> None:
        """Take a frame."""
        assert self.reads
        assert self.permitted
        assert self.closed is None
        self.frames.append(frame.decode())
        self.reads = self._takes is None or len(self.frames) % self._takes > 0

    def close(self, code: int, reason: str) -> None:
        """Take the close."""
        self.closed = code, reason

    def abort(self) -> None:
        """Be cut."""
        self.cut.set()


async def test_a_frame_is_written_at_once() -> None:
    """Nothing waits where nothing has to."""
    peer = Peer()
    outbox = peer.outbox()
    outbox.put(b"1")
    outbox.put(b"2")

    assert (["1", "2"], None, False) == (peer.frames, peer.closed, outbox.dropped)


async def test_frames_are_written_in_order_as_the_peer_reads() -> None:
    """Those filed while it did not, before those filed later."""
    peer = Peer(reads=False, takes=2)
    outbox = peer.outbox()
    for text in (b"1", b"2", b"3"):
        outbox.put(text)
    peer.reads = True
    outbox.put(b"4")
    waiting = list(peer.frames)
    outbox.flush()
    some = list(peer.frames)
    peer.reads = True
    outbox.flush()

    assert ([], ["1", "2"], ["1", "2", "3", "4"]) == (waiting, some, peer.frames)


async def test_a_close_writes_first_what_waits() -> None:
    """Then its own last frame, then the close."""
    peer = Peer(reads=False)
    outbox = peer.outbox()
    outbox.put(b"1")
    outbox.put(b"2")
    outbox.close(4503, "unbound", b"last")
    before = peer.closed
    peer.reads = True
    outbox.flush()

    assert (None, ["1", "2", "last"], (4503, "unbound")) == (before, peer.frames, peer.closed)


async def test_the_first_close_counts_and_nothing_is_filed_after_it() -> None:
    """Neither another code, nor another last frame, nor a frame."""
    peer = Peer(reads=False)
    outbox = peer.outbox()
    outbox.close(4503, "unbound", b"last")
    outbox.close(1012, "draining", b"another")
    outbox.put(b"late")
    peer.reads = True
    outbox.flush()

    assert (["last"], (4503, "unbound"), (4503, "unbound")) == (peer.frames, peer.closed, outbox.closing)


async def test_a_peer_that_does_not_read_is_closed_at_the_bound() -> None:
    """More than the bound waits: all of it is dropped, and the code is 4410."""
    peer = Peer(reads=False)
    outbox = peer.outbox()
    outbox.put(b"a" * BOUND)
    full = outbox.closing
    outbox.put(b"b")
    peer.reads = True
    outbox.flush()

    assert (None, [], (CloseCode.SLOW_CONSUMER, "slow consumer"), True) == (
        full,
        peer.frames,
        peer.closed,
        outbox.dropped,
    )


async def test_what_was_written_does_not_count_against_the_bound() -> None:
    """The bound is of what waits, not of what ever was."""
    peer = Peer(reads=False)
    outbox = peer.outbox()
    for _ in range(10):
        outbox.put(b"a" * BOUND)
        peer.reads = True
        outbox.flush()
        peer.reads = False

    assert (10, None) == (len(peer.frames), outbox.closing)


async def test_a_frame_larger_than_the_bound_closes_too() -> None:
    """Nothing is too important for the bound."""
    outbox = Peer().outbox()

    outbox.put(b"a" * (BOUND + 1))

    assert (CloseCode.SLOW_CONSUMER, "slow consumer") == outbox.closing


async def test_a_peer_that_never_takes_the_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The abort comes by itself some seconds after the close was filed."""
    monkeypatch.setattr(server.outbox, "SEND_CLOSE", 0.05)
    peer = Peer(reads=False)
    outbox = peer.outbox()
    outbox.put(b"1")
    outbox.close(1012, "draining")
    async with asyncio.timeout(20):
        await peer.cut.wait()

    assert [] == peer.frames


async def test_nothing_is_said_while_the_lease_is_not_held() -> None:
    """What is filed waits, and is written when the node may speak again."""
    peer = Peer()
    outbox = peer.outbox()
    peer.permitted = False
    outbox.put(b"1")
    outbox.put(b"2")
    outbox.flush()
    before = list(peer.frames)
    peer.permitted = True
    outbox.flush()

    assert ([], ["1", "2"]) == (before, peer.frames)


async def test_what_is_discarded_while_the_lease_is_not_held_is_never_said() -> None:
    """A swept lease takes with it what waited; only the close is said."""
    peer = Peer()
    outbox = peer.outbox()
    peer.permitted = False
    outbox.put(b"1")
    outbox.close(1012, "lease lost", discard=True)
    peer.permitted = True
    outbox.flush()

    assert ([], (1012, "lease lost")) == (peer.frames, peer.closed)


async def test_a_discard_counts_though_the_socket_is_closing_already() -> None:
    """What waits before an earlier close may not be said either, once the lease is lost."""
    peer = Peer()
    outbox = peer.outbox()
    peer.permitted = False
    outbox.put(b"1")
    outbox.close(4503, "unbound", b"last")
    outbox.close(1012, "lease lost", discard=True)

    assert ([], (4503, "unbound")) == (peer.frames, peer.closed)
