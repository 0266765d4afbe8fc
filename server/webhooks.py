"""What providers tell us: kept raw and answered at once by a node, read and applied by a worker (seed 003 §5.4).

A message is verified by what its vendor offers, and by the secret in the line's own URL. What names a call that is not
known yet, for it overtook the answer to the order, is read again a little later. What comes without the secret of any
line may come from anybody: it says nothing, but that the calls which it names are to be looked up soon.
"""

import asyncio
import ipaddress
import re
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from urllib.parse import parse_qsl, unquote_to_bytes

import structlog

from protocol.call import End, Progress
from protocol.errors import DialdeskError
from server.auth import neighbourhood
from server.calls import Calls
from server.http import Download, RequestInfo
from server.line_config import Accounts
from server.placing import reference
from server.providers.catalogue import VENDORS, Vendor
from server.providers.provider import (
    Heard,
    PlacementRefused,
    Recording,
    Told,
    Uncertain,
    Unsupported,
    Webhook,
    WebhookRefused,
)
from server.retrieval import Retrieval
from server.rounds import work_off
from server.ssrf import Refused
from server.telemetry import Metrics
from storage import attempts, inbox, lines
from storage.database import Database
from storage.inbox import Message, Settled
from storage.live import Live
from storage.vault import SealError

log = structlog.get_logger()

AT_ONCE = 100
"""Messages that one worker reads at a time, and as many beside these for whose recordings it asks."""

OF_EACH = 10
"""Of these of any one line."""

LEASE = 30.0
DEADLINE = 15.0
TRIES = 12
"""Readings of a message that names an unknown call, or a recording that is not there yet, over a quarter of an hour."""

UNKNOWN_CALL = "it names a call that is not known here"
NO_RECORDING = "the recording that it names cannot be fetched yet"

HINTED = 5.0
"""Seconds between look-ups of one call that words of its provider, or of anybody, bring forward."""

HINTS_A_MINUTE = 600
"""Hints that are read, from one address; those beyond it are answered alike."""

WORDS_IN = 64 * 1024
"""Bytes of a hint that are searched for names of calls, of which the first so many count."""
WORDS = 512
_WORD = re.compile(rb"[A-Za-z0-9_.:@-]{5,128}")


class Webhooks:
    """Takes messages of providers. Every answer is of a message that is kept, but for the answers to hints."""

    def __init__(self, database: Database, accounts: Accounts, live: Live, metrics: Metrics) -> None:
        self._database = database
        self._accounts = accounts
        self._live = live
        self._metrics = metrics

    async def hint(self, provider: str, body: bytes, request: RequestInfo) -> Download:
        """Look up soon what calls a message names, of which nobody knows who sent it. Raises NOT_FOUND."""
        vendor = _vendor(provider)
        wait = await self._live.allow(f"hint:{neighbourhood(request.ip)}", HINTS_A_MINUTE, 60)
        if wait is None and (words := _words(body, request.query)):
            async with self._database.connection() as connection:
                await attempts.hinted(connection, provider, words, HINTED)
        self._metrics.webhooks.labels(provider, "hint" if wait is None else "hint_ignored").inc()
        return Download(vendor.reply.content, vendor.reply.media_type)

    async def take(self, provider: str, token: str, body: bytes, request: RequestInfo) -> Download:
        """Keep what a provider sends to the URL of a line. Raises NOT_FOUND, FORBIDDEN."""
        vendor = _vendor(provider)
        if token in vendor.kinds + vendor.behind:
            return await self.hint(provider, body, request)  # to one of several URLs, as of a line, but of none
        return await self._take(provider, "", token, body, request)

    async def take_query(self, provider: str, token: str, request: RequestInfo) -> Download:
        """Keep what a provider says in a query, by GET. Raises NOT_FOUND, FORBIDDEN."""
        return await self._take(provider, "", token, b"", request)

    async def take_kind(self, provider: str, kind: str, token: str, body: bytes, request: RequestInfo) -> Download:
        """Keep what a provider sends to one of the URLs of a line. Raises NOT_FOUND, FORBIDDEN."""
        if token in _vendor(provider).behind:
            kind, token = token, kind  # the vendor puts the kind behind the URL that it was given
        return await self._take(provider, kind, token, body, request)

    async def take_kind_query(self, provider: str, kind: str, token: str, request: RequestInfo) -> Download:
        """Keep what a provider says to one of the URLs of a line, by GET. Raises NOT_FOUND, FORBIDDEN."""
        return await self.take_kind(provider, kind, token, b"", request)

    async def _take(self, provider: str, kind: str, token: str, body: bytes, request: RequestInfo) -> Download:
        vendor = _vendor(provider)
        async with self._database.connection() as connection:
            line = await lines.by_token(connection, token)
            if line is None or line.provider != provider or kind not in vendor.kinds + vendor.behind:
                raise DialdeskError("NOT_FOUND", what="path")
            if not _allowed(request.ip, line.allowed_networks):
                raise DialdeskError("FORBIDDEN", permission="callback")
            try:
                cloud = await self._accounts.open(connection, line.tenant_id, line.line_id)
            except SealError as error:  # until somebody puts the master key back
                raise DialdeskError("UNAVAILABLE") from error
            webhook = Webhook(
                kind=kind,
                query=dict(parse_qsl(request.query, keep_blank_values=True)),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=body,
                received_at=datetime.now(UTC),
            )
            try:
                once = cloud.key_of(webhook)
            except WebhookRefused as refused:  # the line is set up for no messages
                raise DialdeskError("NOT_FOUND", what="path") from refused
            new = await inbox.keep(
                connection,
                line.tenant_id,
                line.line_id,
                once,
                kind,
                webhook.query,
                webhook.headers,
                body,
                request.ip,
            )
        self._metrics.webhooks.labels(provider, "kept" if new else "repeated").inc()
        reply = cloud.reply()
        return Download(reply.content, reply.media_type, status=reply.status)


class Reading:
    """Reads what was kept: chores of a worker."""

    def __init__(
        self, database: Database, accounts: Accounts, calls: Calls, retrieval: Retrieval, metrics: Metrics
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._calls = calls
        self._retrieval = retrieval
        self._metrics = metrics

    async def read(self) -> None:
        """Read what is due. Messages of one call may be read in any order: what they tell is weighed, not believed."""
        await work_off(self._claim, self._attend, AT_ONCE)

    async def ask(self) -> None:
        """Ask for recordings that messages told by name: providers may be slow, and no end of a call waits for that."""
        await work_off(self._claim_asking, self._attend, AT_ONCE)

    async def _claim(self, room: int, busy: Counter[str]) -> list[Message]:
        async with self._database.connection() as connection:
            return await inbox.due(connection, LEASE, room, of_each=OF_EACH, busy=busy)

    async def _claim_asking(self, room: int, busy: Counter[str]) -> list[Message]:
        async with self._database.connection() as connection:
            return await inbox.due(connection, LEASE, room, of_each=OF_EACH, busy=busy, asks=True)

    async def _attend(self, message: Message) -> None:
        try:
            problem = await self._apply(message)
        except WebhookRefused as refused:
            await self._settle(message, "refused", str(refused))
        except (DialdeskError, SealError) as error:
            log.warning("message put off", line_id=message.line_id, cause=repr(error))
            if isinstance(error, DialdeskError) and error.code == "NOT_FOUND":
                await self._settle(message, "failed", "the line is gone")
        except Exception as error:
            log.exception("message not read", line_id=message.line_id, message=message.id)
            await self._settle(message, "failed", repr(error)[:200])
        else:
            if problem is None:
                await self._settle(message, "applied")
            elif problem == NO_RECORDING and not message.asks:
                async with self._database.connection() as connection:
                    await inbox.ask(connection, message)
            elif message.tries < TRIES:
                async with self._database.connection() as connection:
                    await inbox.put_off(connection, message, min(2.0**message.tries, 120.0), problem)
            else:
                await self._settle(message, "failed", problem)

    async def _apply(self, message: Message) -> str | None:
        """Apply all that a message tells; why it must be read again, if it must."""
        async with self._database.connection() as connection:
            cloud = await self._accounts.open(connection, message.tenant_id, message.line_id)
        webhook = Webhook(
            kind=message.kind,
            query=message.query,
            headers=message.headers,
            body=message.body,
            received_at=message.received_at,
        )
        problem = None
        for told in cloud.read_webhook(webhook):
            if isinstance(told.event, Recording) and told.event.url is None and not message.asks:
                problem = problem or NO_RECORDING
                continue
            problem = await self.tell(message.tenant_id, message.line_id, told) or problem
            if isinstance(told.event, Heard):
                await self._look_soon(message.tenant_id, message.line_id, told)
        return problem

    async def tell(self, tenant_id: str, line_id: str, told: Told) -> str | None:
        """Apply one thing that a provider told; why it must be told again later, if it must."""
        async with self._database.connection() as connection:
            found = await attempts.find(connection, tenant_id, line_id, told.provider_call_id, told.tag)
            if found is None:
                return UNKNOWN_CALL
            if found.overtaken:
                log.info("overtaken", call_id=found.call_id, line_id=line_id, said=type(told.event).__name__)
                return None
            call_id = found.call_id
            if found.provider_call_id is None and told.provider_call_id is not None:
                await attempts.named(connection, tenant_id, call_id, found.n, told.provider_call_id)
        match told.event:
            case Progress() | End() as event:
                kind = type(event).__name__.upper()
                await self._calls.hear(tenant_id, call_id, told.once, kind, event, told.raw, attempt=found.n)
            case Recording(url=str(url)):
                await self._retrieval.want(tenant_id, call_id, line_id, url)
            case Recording(name=name):
                return await self._ask_for_recording(tenant_id, call_id, line_id, name)
            case Heard():
                pass
        return None

    async def _look_soon(self, tenant_id: str, line_id: str, told: Told) -> None:
        """What moves nothing by itself, such as that a record is ready now, is a reason to ask."""
        async with self._database.connection() as connection:
            found = await attempts.find(connection, tenant_id, line_id, told.provider_call_id, told.tag)
            if found is not None:
                await attempts.look_soon(connection, tenant_id, found.call_id, found.n, HINTED)

    async def _ask_for_recording(self, tenant_id: str, call_id: str, line_id: str, name: str | None) -> str | None:
        """A provider that tells a recording by its name gives a URL to who asks for it; perhaps not at once."""
        async with self._database.connection() as connection:
            attempt = await attempts.of_call(connection, tenant_id, call_id)
            cloud = await self._accounts.open(connection, tenant_id, line_id)
        assert attempt is not None
        try:
            async with asyncio.timeout(DEADLINE):
                url = await cloud.recording_url(reference(attempt), name)
        except (Uncertain, Unsupported, PlacementRefused, Refused, TimeoutError) as error:
            log.info("recording not told", call_id=call_id, cause=str(error))
            return NO_RECORDING
        if url is None:
            return NO_RECORDING
        await self._retrieval.want(tenant_id, call_id, line_id, url)
        return None

    async def _settle(self, message: Message, state: Settled, problem: str | None = None) -> None:
        async with self._database.connection() as connection:
            await inbox.settle(connection, message, state, problem)


def _vendor(provider: str) -> Vendor:
    """The provider that stands in a path. Raises NOT_FOUND."""
    known = next((vendor for name, vendor in VENDORS.items() if name == provider), None)
    if known is None:
        raise DialdeskError("NOT_FOUND", what="path")
    return known


def _allowed(ip: str | None, networks: list[str]) -> bool:
    if not networks:
        return True
    return ip is not None and any(ipaddress.ip_address(ip) in ipaddress.ip_network(network) for network in networks)


def _words(body: bytes, query: str) -> list[str]:
    """Whatever may be the name of a call in a message of any form."""
    text = unquote_to_bytes(query.encode() + b" " + body[:WORDS_IN])
    return [word.decode() for word in dict.fromkeys(islice(_WORD.findall(text), WORDS))]
