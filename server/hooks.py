"""Hooks as admins of a tenant manage them: where Dialdesk tells what happens, and the log of what it told."""

import secrets
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from yarl import URL

from protocol.errors import DialdeskError
from protocol.identifiers import new_id
from protocol.timestamps import Instant
from server.auth import actor_of
from server.config import Config
from server.hook_delivery import check_https, hook_networks
from server.hook_message import spell
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.ssrf import Refused
from server.users import amended
from storage import audit, hooks
from storage.database import Connection, Database
from storage.hooks import Delivery, Event, Hook, State
from storage.idempotency import Once
from storage.tenant_keys import TenantKeys

OLD_FOR = 24 * 3600.0
"""Seconds for which messages are signed with a secret that was replaced, too."""

SECRET = 32
"""Bytes of a secret."""

Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
Events = Annotated[list[Event], msgspec.Meta(min_length=1, max_length=50)]
Description = Annotated[str, msgspec.Meta(max_length=200)]


class NewHook(Body, frozen=True, kw_only=True):
    """Where to tell of which events. `reveal`: customers' numbers unmasked; its maker must hold `customers.reveal`."""

    url: Url
    events: Events
    description: Description = ""
    enabled: bool = True
    reveal: bool = False


class HookChange(Body, frozen=True, kw_only=True):
    """What is to be different; what is not named stays as it is."""

    url: Url | msgspec.UnsetType = msgspec.UNSET
    events: Events | msgspec.UnsetType = msgspec.UNSET
    description: Description | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    reveal: bool | msgspec.UnsetType = msgspec.UNSET


class HookMade(Answer, frozen=True, kw_only=True):
    """A hook, and what its messages are signed with: this once, and null where the answer is repeated for the same
    Idempotency-Key."""

    hook: Hook
    secret: str | None


class HookAnswer(Answer, frozen=True, kw_only=True):
    """A hook."""

    hook: Hook


class HookList(Answer, frozen=True, kw_only=True):
    """The tenant's hooks, oldest first; there are never many."""

    hooks: list[Hook]


class DeliveriesQuery(Body, frozen=True, kw_only=True):
    """Which lines of the log to tell, newest first: those after `cursor`, of events since a time."""

    state: State | None = None
    event: Event | Literal["hook.ping"] | None = None
    since: Instant | None = None
    cursor: Annotated[str, msgspec.Meta(pattern=r"^msg_[0-9a-z]{1,40}$(?!\n)")] | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class DeliveryList(Answer, frozen=True, kw_only=True):
    """Lines of the log; `nextCursor` asks for older ones, and is null where there are none."""

    deliveries: list[Delivery]
    next_cursor: str | None


class ResendFailed(Body, frozen=True, kw_only=True):
    """Since when what was given up is to be sent again."""

    since: Instant


class Resent(Answer, frozen=True, kw_only=True):
    """How many are sent again. Where there are `more`, ask once more."""

    resent: int
    more: bool


class Pinged(Answer, frozen=True, kw_only=True):
    """The delivery whose line in the log will tell how it went."""

    delivery_id: str


class Hooks:
    """The hooks of all tenants."""

    def __init__(self, database: Database, keys: TenantKeys, config: Config) -> None:
        self._database = database
        self._keys = keys
        self._networks = hook_networks(config)

    async def create(self, identity: Identity, body: NewHook, request: RequestInfo, once: Once) -> HookMade:
        """Make a hook.

        Raises TOO_MANY_HOOKS, INVALID_FIELD for a URL that leads where we do not go, and FORBIDDEN to reveal numbers
        for who may not see them.
        """
        if body.reveal and not identity.may("customers.reveal"):
            raise DialdeskError("FORBIDDEN", permission="customers.reveal")
        hook_id, secret = new_id("hook"), secrets.token_bytes(SECRET)
        async with self._database.transaction() as connection:
            if not await hooks.add(
                connection,
                identity.tenant_id,
                hook_id,
                url=self._checked(body.url),
                events=sorted(set(body.events)),
                description=body.description,
                enabled=body.enabled,
                reveal=body.reveal,
                created_by=identity.id,
            ):
                raise DialdeskError("TOO_MANY_HOOKS", limit=hooks.HOOKS)
            await hooks.add_secret(connection, self._keys, identity.tenant_id, hook_id, secret, old_for=OLD_FOR)
            hook = await _existing(connection, identity, hook_id)
            await audit.record(connection, actor_of(identity, request), "create", "hook", hook_id, after=_audited(hook))
            await once.keep(connection, HookMade(hook=hook, secret=None))
        return HookMade(hook=hook, secret=spell(secret))

    async def list_hooks(self, identity: Identity) -> HookList:
        """List the tenant's hooks."""
        async with self._database.connection() as connection:
            return HookList(hooks=await hooks.all_of(connection, identity.tenant_id))

    async def get(self, identity: Identity, hook_id: str) -> HookAnswer:
        """Tell one hook."""
        async with self._database.connection() as connection:
            return HookAnswer(hook=await _existing(connection, identity, hook_id))

    async def update(self, identity: Identity, hook_id: str, body: HookChange, request: RequestInfo) -> HookAnswer:
        """Change a hook. One that is enabled again is sent what waits for it.

        Raises FORBIDDEN for who may not see customers' numbers, and would have them sent to another place or at all.
        """
        async with self._database.transaction() as connection:
            before = await _existing(connection, identity, hook_id, lock=True)
            wanted = amended(before, body)
            wanted = msgspec.structs.replace(
                wanted,
                events=sorted(set(wanted.events)),
                url=before.url if wanted.url == before.url else self._checked(wanted.url),
            )
            moved = (wanted.url, wanted.reveal) != (before.url, before.reveal)
            if wanted.reveal and moved and not identity.may("customers.reveal"):
                raise DialdeskError("FORBIDDEN", permission="customers.reveal")
            await hooks.change(connection, identity.tenant_id, wanted)
            after = await _existing(connection, identity, hook_id)
            told = [_audited(hook) for hook in (before, after)]
            was, now = [{name: one[name] for name in one if told[0][name] != told[1][name]} for one in told]
            await audit.record(
                connection, actor_of(identity, request), "update", "hook", hook_id, before=was, after=now
            )
        return HookAnswer(hook=after)

    async def delete(self, identity: Identity, hook_id: str, request: RequestInfo) -> Done:
        """Delete a hook, with what waits for it."""
        async with self._database.transaction() as connection:
            if not await hooks.remove(connection, identity.tenant_id, hook_id):
                raise DialdeskError("NOT_FOUND", what="hook")
            await audit.record(connection, actor_of(identity, request), "delete", "hook", hook_id)
        return Done()

    async def rotate_secret(self, identity: Identity, hook_id: str, request: RequestInfo) -> HookMade:
        """Give a hook a new secret. For 24 hours messages are signed with the one before, too.

        Asked again because the answer did not arrive, it gives another: the last two before it go on as well.
        """
        secret = secrets.token_bytes(SECRET)
        async with self._database.transaction() as connection:
            await _existing(connection, identity, hook_id, lock=True)
            await hooks.add_secret(connection, self._keys, identity.tenant_id, hook_id, secret, old_for=OLD_FOR)
            hook = await _existing(connection, identity, hook_id)
            await audit.record(connection, actor_of(identity, request), "rotate_secret", "hook", hook_id)
        return HookMade(hook=hook, secret=spell(secret))

    async def ping(self, identity: Identity, hook_id: str) -> Pinged:
        """Send a hook a message of the type `hook.ping`, to see whether it is taken.

        Raises HOOK_DISABLED.
        """
        delivery_id = new_id("msg")
        async with self._database.connection() as connection:
            await _enabled(connection, identity, hook_id)
            if not await hooks.ping(connection, identity.tenant_id, hook_id, delivery_id):
                raise DialdeskError("HOOK_DISABLED")
        return Pinged(delivery_id=delivery_id)

    async def list_deliveries(self, identity: Identity, hook_id: str, query: DeliveriesQuery) -> DeliveryList:
        """Tell the log of a hook, newest first; it goes 30 days back."""
        async with self._database.search() as connection:
            await _existing(connection, identity, hook_id)
            found, more = await hooks.deliveries(
                connection,
                identity.tenant_id,
                hook_id,
                state=query.state,
                event=query.event,
                since=None if query.since is None else _utc(query.since),
                after=query.cursor,
                limit=query.page_size,
            )
        return DeliveryList(deliveries=found, next_cursor=found[-1].id if more else None)

    async def resend(self, identity: Identity, hook_id: str, delivery_id: str) -> Done:
        """Send a message again, whatever became of it, with the same id.

        Raises HOOK_DISABLED.
        """
        async with self._database.connection() as connection:
            await _enabled(connection, identity, hook_id)
            if not await hooks.resend(connection, identity.tenant_id, hook_id, delivery_id):
                raise DialdeskError("NOT_FOUND", what="delivery")
        return Done()

    async def resend_failed(self, identity: Identity, hook_id: str, body: ResendFailed) -> Resent:
        """Send again what was given up of the events since a time.

        Raises HOOK_DISABLED.
        """
        since = _utc(body.since)
        async with self._database.connection() as connection:
            await _enabled(connection, identity, hook_id)
            resent = await hooks.resend_failed(connection, identity.tenant_id, hook_id, since)
        return Resent(resent=resent, more=resent == hooks.RESENT_AT_ONCE)

    def _checked(self, url: str) -> str:
        try:
            return str(check_https(url, self._networks))
        except Refused as refused:
            raise DialdeskError("INVALID_FIELD", reason=str(refused)) from refused


def _audited(hook: Hook) -> dict[str, Any]:
    """What the audit log tells of a hook: of the URL the host only, for the rest may be a secret of the receiver."""
    return {
        "host": URL(hook.url).host,
        "events": hook.events,
        "description": hook.description,
        "enabled": hook.enabled,
        "reveal": hook.reveal,
    }


def _utc(at: datetime) -> datetime:
    """The first and last day of the calendar have offsets under which they are no time at all in UTC."""
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise DialdeskError("INVALID_FIELD", reason="a time lies outside the calendar") from error


async def _existing(connection: Connection, identity: Identity, hook_id: str, *, lock: bool = False) -> Hook:
    hook = await hooks.find(connection, identity.tenant_id, hook_id, lock=lock)
    if hook is None:
        raise DialdeskError("NOT_FOUND", what="hook")
    return hook


async def _enabled(connection: Connection, identity: Identity, hook_id: str) -> None:
    if not (await _existing(connection, identity, hook_id)).enabled:
        raise DialdeskError("HOOK_DISABLED")
