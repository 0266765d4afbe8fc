"""`dialdesk reseal`: what rests sealed under a master key, sealed anew under the first of MASTER_KEYS.

It may run beside nodes, and again. The keys that are no longer first may be dropped after a run that found nothing it
could not open, and that began when every node had the new key first: until then nodes go on sealing under the old one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from server.config import Config, master_keys
from storage.database import Connection, Database, open_database
from storage.devices import push_token_place, reseal_push_tokens, sealed_push_tokens
from storage.fetches import reseal_urls, sealed_urls, url_place
from storage.tenant_keys import TenantKeys
from storage.vault import SealError, Vault

AT_ONCE = 500
"""Secrets that one statement reads or keeps."""


class Resealed(msgspec.Struct, frozen=True):
    """What became of one kind of secrets: how many were sealed anew, and which do not open, each with why."""

    kind: str
    anew: int
    unopened: list[str]


class _Kind(msgspec.Struct, frozen=True):
    """Secrets of one kind: where they are sealed for, how they are read, and how they are kept unless replaced."""

    place: Callable[[str], str]
    after: Callable[[Connection, str, int], Awaitable[list[tuple[str, bytes]]]]
    keep: Callable[[Connection, Sequence[tuple[str, bytes, bytes]]], Awaitable[int]]


async def reseal(config: Config) -> AsyncIterator[Resealed]:
    """Seal everything under the first master key, kind by kind; what does not open stays as it is."""
    vault = Vault(master_keys(config))
    async with open_database(
        config.database_url, timeout=config.database_timeout, statement_cache=config.database_statement_cache
    ) as database:
        async with database.connection() as connection:
            resealed = await TenantKeys(vault).reseal(connection)
        yield Resealed("keys of tenants", *resealed)
        for name, kind in (
            ("push tokens", _Kind(push_token_place, sealed_push_tokens, reseal_push_tokens)),
            ("recording URLs", _Kind(url_place, sealed_urls, reseal_urls)),
        ):
            yield await _reseal(database, vault, name, kind)


async def _reseal(database: Database, vault: Vault, name: str, kind: _Kind) -> Resealed:
    resealed, unopened, after = 0, [], ""
    async with database.connection() as connection:
        while rows := await kind.after(connection, after, AT_ONCE):
            anew = []
            for row_id, sealed in rows:
                try:
                    again = vault.reseal(sealed, kind.place(row_id))
                except SealError as error:
                    unopened.append(f"{kind.place(row_id)}: {error}")
                    continue
                if again != sealed:
                    anew.append((row_id, sealed, again))
            if anew:
                resealed += await kind.keep(connection, anew)
            after = rows[-1][0]
    return Resealed(name, resealed, unopened)
