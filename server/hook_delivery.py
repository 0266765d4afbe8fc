"""Telling hooks: messages that wait are claimed, signed and sent by workers, until they are taken or given up.

A message is delivered at least once: a worker that dies between sending and marking leaves its claim to run out, and
another sends the same message, with the same `webhook-id`, again. URLs are the tenants', and may hold secrets of
theirs: they are judged when they are connected to, and no log line and no failure tells more of one than its host.
"""

import asyncio
import contextlib
import email.utils
import ipaddress
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from aiohttp.abc import AbstractResolver
from yarl import URL

from protocol.errors import DialdeskError
from server.config import Config
from server.hook_message import compose, sign
from server.ssrf import Network, Refused, check_url, guarded_session
from server.telemetry import Metrics
from storage import audit, hooks
from storage.audit import Actor
from storage.database import Database
from storage.hooks import DisabledReason, Job, Outcome
from storage.tenant_keys import TenantKeys
from storage.vault import SealError

log = structlog.get_logger()

AT_ONCE = 64
"""Messages that one worker sends at a time."""

OF_EACH = 4
"""Of these for any one hook, unless it fails: then one."""

DEADLINE = 10.0
"""Seconds that a receiver has from the first byte we send to the last that we read."""

LEASE = 60.0
"""Seconds for which a worker that claims a message has it to itself."""

KEPT = 1024
"""Bytes of an answer that are read, and kept in the log."""

PAUSE_MOST = 6 * 3600.0
"""Seconds of rest that a receiver may ask for by Retry-After; who asks for more gets these."""

BACK_OFF_MOST = 8 * 3600.0
HOPELESS_AFTER = 3 * 86400.0
"""Seconds of nothing but failure after which a hook is disabled; a message is tried for as long."""

KEPT_FOR = 30 * 86400.0
"""Seconds for which the log keeps a message."""

RHYTHM = 1.0
"""Seconds after which a worker that still sends looks whether more is due."""

_WORKER = "worker"


class HookDelivery:
    """One worker's sending; opened by `open_hook_delivery`. `deliver` and `tidy` are chores, done again and again."""

    def __init__(
        self,
        database: Database,
        keys: TenantKeys,
        session: ClientSession,
        networks: tuple[Network, ...],
        metrics: Metrics,
        *,
        deadline: float,
    ) -> None:
        self._database = database
        self._keys = keys
        self._session = session
        self._networks = networks
        self._metrics = metrics
        self._deadline = deadline
        self._busy: Counter[str] = Counter()

    async def deliver(self) -> None:
        """Send what is due until nothing is. A slow receiver keeps nobody else waiting."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            while under_way := await self._claimed(under_way):
                _, under_way = await asyncio.wait(under_way, timeout=RHYTHM, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in under_way:  # empty unless this is cancelled, or PostgreSQL is away: what they hold comes again
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def tidy(self) -> None:
        """Drop what the log has kept for long enough."""
        async with self._database.connection() as connection:
            await hooks.expire(connection, KEPT_FOR)

    async def _claimed(self, under_way: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """What is under way, with as much more as there is room for."""
        if (room := AT_ONCE - len(under_way)) == 0:
            return under_way
        async with self._database.connection() as connection:
            due = await hooks.claim(connection, lease=LEASE, most=room, of_each=OF_EACH, busy=+self._busy)
        return under_way | {asyncio.create_task(self._attend(job)) for job in due}

    async def _attend(self, job: Job) -> None:
        """Send one message and mark what became of it."""
        self._busy[job.hook_id] += 1
        try:
            outcome = await self._send(job)
            await self._mark(job, outcome)
        except DialdeskError as error:  # PostgreSQL is away: the claim ends by itself
            log.warning("delivery put off", hook_id=job.hook_id, cause=repr(error.__cause__))
        except Exception:  # one that breaks does not keep the others from being sent
            log.exception("delivery broke", hook_id=job.hook_id, delivery_id=job.id)
        finally:
            self._busy[job.hook_id] -= 1

    async def _send(self, job: Job) -> Outcome:
        try:
            async with self._database.connection() as connection:
                secrets = await hooks.secrets_of(connection, self._keys, job)
        except SealError as error:  # until somebody puts the master key back
            return Outcome(status=None, answer=None, failure=f"a key is missing: {error}", took_ms=0)
        body = compose(job)
        stamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "webhook-id": job.id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign(secrets, job.id, stamp, body),
        }
        begun = time.perf_counter()
        status, answer, failure, pause = await self._post(job.url, headers, body)
        took = time.perf_counter() - begun
        self._metrics.hook_seconds.observe(took)
        return Outcome(status=status, answer=answer, failure=failure, took_ms=round(took * 1000), pause=pause)

    async def _post(
        self, url: str, headers: dict[str, str], body: bytes
    ) -> tuple[int | None, str | None, str | None, float | None]:
        """Send a request: (status, beginning of the answer, why it counts as not taken, how long to rest)."""
        try:
            checked = check_https(url, self._networks)
        except Refused as refused:
            return None, None, str(refused), None
        host = checked.raw_host or ""
        answered: tuple[int, str | None] | None = None
        answer: str | None = None
        try:
            async with asyncio.timeout(self._deadline):
                async with self._session.post(checked, data=body, headers=headers, allow_redirects=False) as response:
                    answered = response.status, response.headers.get("Retry-After")
                    answer = await _beginning(response)
        except Refused as refused:
            return None, None, str(refused), None
        except TimeoutError:
            if answered is None:
                return None, None, f"{host} did not answer within {self._deadline:g} s", None
        except (ClientError, OSError, ValueError) as error:  # without its text, which may quote the URL
            if answered is None:
                return None, None, f"{host} did not answer: {type(error).__name__}", None
        assert answered is not None  # from here on its body does not count
        status, retry_after = answered
        if 200 <= status < 300:
            return status, answer, None, None
        more = "; redirects are not followed" if 300 <= status < 400 else ""
        return status, answer, f"{host} answered {status}{more}", asked_pause(retry_after, datetime.now(UTC))

    async def _mark(self, job: Job, outcome: Outcome) -> None:
        if outcome.failure is None:
            async with self._database.connection() as connection:
                await hooks.delivered(connection, job, outcome)
            self._metrics.hook_deliveries.labels("delivered").inc()
            return
        gone = outcome.status == 410
        again_in = None if gone or job.last_try else max(back_off(job.tries), outcome.pause or 0.0)
        async with self._database.transaction() as connection:
            hopeless = await hooks.failed(connection, job, outcome, again_in=again_in, hopeless_after=HOPELESS_AFTER)
            reason: DisabledReason | None = "gone" if gone else "failing" if hopeless else None
            if reason is not None and await hooks.disable(connection, job.tenant_id, job.hook_id, reason):
                await audit.record(
                    connection,
                    Actor(kind="system", id=_WORKER, tenant_id=job.tenant_id),
                    "disable",
                    "hook",
                    job.hook_id,
                    before={"enabled": True},
                    after={"enabled": False, "disabledReason": reason},
                    reason=outcome.failure,
                )
                log.warning("hook disabled", hook_id=job.hook_id, tenant_id=job.tenant_id, reason=reason)
        self._metrics.hook_deliveries.labels("given_up" if again_in is None else "failed").inc()


@asynccontextmanager
async def open_hook_delivery(
    config: Config,
    database: Database,
    keys: TenantKeys,
    metrics: Metrics,
    *,
    deadline: float = DEADLINE,
    resolver: AbstractResolver | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HookDelivery]:
    """Open what sends, by HOOK_NETWORKS."""
    networks = hook_networks(config)
    timeout = ClientTimeout(total=None)  # in total there is each message's own deadline
    async with guarded_session(networks, timeout=timeout, resolver=resolver, tls=tls) as session:
        yield HookDelivery(database, keys, session, networks, metrics, deadline=deadline)


def hook_networks(config: Config) -> tuple[Network, ...]:
    """The networks, beside the public internet, that hooks may lead to."""
    return tuple(ipaddress.ip_network(network) for network in config.hook_networks)


def check_https(url: str, networks: tuple[Network, ...]) -> URL:
    """Judge the URL of a hook by what it says, and return it as it is to be asked for. Raises Refused."""
    checked = check_url(url, networks=networks)
    if checked.scheme != "https":
        raise Refused("the URL must begin with https://")
    return checked


def back_off(tries: int, chance: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after so many `tries` that failed: anything up to 10 s, doubled with each, at most
    8 hours (full jitter: after an outage they do not all come at once). `chance` draws from 0 to 1."""
    return min(10.0 * 2.0 ** min(tries - 1, 12), BACK_OFF_MOST) * chance()


def asked_pause(retry_after: str | None, now: datetime) -> float | None:
    """Return the seconds of rest that a Retry-After asks for, within bounds; None where it says nothing we read."""
    if retry_after is None:
        return None
    seconds: float | None = None
    if retry_after.strip().isascii() and retry_after.strip().isdigit():
        seconds = float(retry_after[:12])
    else:
        with contextlib.suppress(ValueError):  # neither seconds nor a date: as if it were not there
            at = email.utils.parsedate_to_datetime(retry_after)
            seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    return None if seconds is None else min(max(seconds, 0.0), PAUSE_MOST)


async def _beginning(response: ClientResponse) -> str:
    """What an answer begins with. PostgreSQL keeps no NUL."""
    kept = b""
    while len(kept) < KEPT and (piece := await response.content.read(KEPT - len(kept))):
        kept += piece
    return kept.decode(errors="replace").replace("\0", "\ufffd")
