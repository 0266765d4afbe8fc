"""The keys of tenants' data, sealed by the vault.

A tenant has one from the first time it is asked for, and keeps it. What it sealed names it all the same, so that a
tenant may have others one day. Beneath lie the master keys: those are changed by wrapping the few tenant keys anew, and
not a byte of the data.
"""

import secrets
from collections import OrderedDict

from storage.database import Connection, queries
from storage.vault import SealError, Vault

_SQL = queries("tenant_keys")

_HELD = 1000
"""Keys held open at once; beyond, the one that was not asked for the longest is forgotten, and read again if it is."""

_AT_ONCE = 500
"""Keys that one statement of a resealing takes."""


class TenantKeys:
    """Finds the data keys of tenants, 32 bytes each, and opens them with `vault`."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._held: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    async def current(self, connection: Connection, tenant_id: str) -> tuple[int, bytes]:
        """Return the id and the key that seal the tenant's new data; the first call makes it.

        Inside a transaction the key is made with it, or not at all: what is sealed under it belongs in there too.
        Raises SealError where its master key is not held here.
        """
        row = await connection.fetchrow(_SQL["newest"], tenant_id)
        if row is None:
            sealed = self._vault.seal(secrets.token_bytes(32), _place(tenant_id, 1))
            await connection.execute(_SQL["add"], tenant_id, 1, sealed)
            row = await connection.fetchrow(_SQL["newest"], tenant_id)  # ours, or that of a node which was faster
            assert row is not None
        # Not held: it would stay here though the transaction came to nothing and another node made another key 1.
        return row["id"], self._vault.open(row["sealed"], _place(tenant_id, row["id"]))

    async def key(self, connection: Connection, tenant_id: str, key_id: int) -> bytes:
        """Return the key that sealed data which is kept, by the id that is kept beside it.

        Raises SealError where there is no such key, or its master key is not held here.
        """
        held = self._held.get((tenant_id, key_id))
        if held is None:
            sealed: bytes | None = await connection.fetchval(_SQL["fetch"], tenant_id, key_id)
            if sealed is None:
                raise SealError(f"the tenant {tenant_id} has no key {key_id}")
            held = self._held[tenant_id, key_id] = self._vault.open(sealed, _place(tenant_id, key_id))
            if len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end((tenant_id, key_id))
        return held

    async def reseal(self, connection: Connection) -> tuple[int, list[str]]:
        """Seal every key of the installation under the vault's first master key.

        Returns how many were under another, and which cannot be opened, each with why; those stay as they are. Call it
        outside a transaction, so that each batch stands once it is done, and after a failure another run does the rest.
        An old master key may be dropped after a run that began when no node sealed with it any more.
        """
        resealed, unopened = 0, []
        after = ("", 0)
        while rows := await connection.fetch(_SQL["after"], *after, _AT_ONCE):
            anew = []
            for row in rows:
                place = _place(row["tenant_id"], row["id"])
                try:
                    sealed = self._vault.reseal(row["sealed"], place)
                except SealError as error:
                    unopened.append(f"{place}: {error}")
                    continue
                if sealed != row["sealed"]:
                    anew.append((row["tenant_id"], row["id"], sealed))
            if anew:
                await connection.execute(_SQL["reseal"], *map(list, zip(*anew, strict=True)))
            resealed += len(anew)
            after = (rows[-1]["tenant_id"], rows[-1]["id"])
        return resealed, unopened


def _place(tenant_id: str, key_id: int) -> str:
    return f"tenant/{tenant_id}/key/{key_id}"
