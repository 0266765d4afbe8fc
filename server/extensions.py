"""The extensions of lines that dial from a pool, as administrators import, watch and free them (seed 001).

The paths are the seed's. An extension belongs to a line, and is lent by the dial (line_dial.py); here nobody gets one.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec

from protocol.errors import DialdeskError
from protocol.timestamps import Timestamp, rfc3339
from server.auth import actor_of
from server.http import Answer, Body, Csv, Done, RequestInfo
from server.identity import Identity
from server.paging import Paging
from storage import accounts, extensions, lines
from storage.database import Database
from storage.extensions import Extension, ExtensionSearch, PoolUse, Status
from storage.idempotency import Once

MOST = 10_000
"""Extensions of one import, ranges spelled out."""
MOST_PROBLEMS = 100

_NUMBER = re.compile(r"[0-9A-Za-z_.-]{1,32}")
_RANGE = re.compile(r"([0-9]{1,18})[~～]([0-9]{1,18})")

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Item = Annotated[str, msgspec.Meta(max_length=64)]


class BatchImport(Body, frozen=True, kw_only=True):
    """Extensions for a line's pool: numbers as the provider knows them, or ranges such as `8001~8020`."""

    line_id: Id
    extensions: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=MOST)]


class ExtensionsQuery(Paging, frozen=True, kw_only=True):
    """Which extensions to list: of a line, in a status, lent to a user, whose number begins with `search`."""

    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    line_id: Id | None = None
    status: Status | None = None
    user_id: Id | None = None
    search: Annotated[str, msgspec.Meta(min_length=1, max_length=32)] | None = None


class StatisticsQuery(Body, frozen=True, kw_only=True):
    """Of which line's pool to tell; of all, where none is named."""

    line_id: Id | None = None


class ExtensionFields(Body, frozen=True, kw_only=True):
    """`offline` takes an extension out of the pool, `available` puts it back, at once if it was cooling."""

    status: Literal["available", "offline"]


class Release(Body, frozen=True, kw_only=True):
    """Why the lease is ended by force; the audit log keeps it."""

    reason: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class BatchDelete(Body, frozen=True, kw_only=True):
    """Extensions to delete."""

    extension_ids: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=1000)]


class ExtensionProblem(msgspec.Struct, frozen=True, rename="camel"):
    """An entry, by its line in the file or its place in the list from 1, that was left out: it is no number
    (`INVALID`), stands there twice (`REPEATED`), or is in the pool already (`EXISTS`)."""

    line: int
    extension: str
    reason: Literal["INVALID", "REPEATED", "EXISTS"]


class ExtensionImport(Answer, frozen=True, kw_only=True):
    """What an import did; `problems` names the first hundred of the entries that were skipped or are invalid."""

    imported: int
    skipped: int
    invalid: int
    problems: list[ExtensionProblem]


class ExtensionView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An extension. While it is lent `userId` and `callId` tell to whom; until `coolUntil` nobody is lent it, for its
    provider refused it."""

    id: str
    line_id: str
    line_name: str
    extension: str
    status: Status
    user_id: str | None
    user_name: str | None
    call_id: str | None
    lease_until: Timestamp | None
    cool_until: Timestamp | None
    last_used_at: Timestamp | None
    uses: int
    created_at: Timestamp


class ExtensionAnswer(Answer, frozen=True, kw_only=True):
    """One extension."""

    extension: ExtensionView


class ExtensionPage(Answer, frozen=True, kw_only=True):
    """A page of extensions, by line and number."""

    extensions: list[ExtensionView]
    page: int
    page_size: int
    total: int


class PoolView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How much of a pool is used. `usageRate` is the share in use of what is not offline, from 0 to 1; `uses` counts
    leases since the import."""

    line_id: str
    line_name: str
    total: int
    available: int
    in_use: int
    cooling: int
    offline: int
    usage_rate: float
    uses: int


class PoolStatistics(Answer, frozen=True, kw_only=True):
    """The pools of the tenant, by the name of their line."""

    pools: list[PoolView]


class Released(Answer, frozen=True, kw_only=True):
    """How many leases were ended."""

    released: int


class ExtensionsDeleted(Answer, frozen=True, kw_only=True):
    """What was deleted, and which extensions were not, for they are lent."""

    deleted: int
    in_use: list[str]


class Extensions:
    """The pools of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def batch_import(
        self, identity: Identity, body: BatchImport, request: RequestInfo, once: Once
    ) -> ExtensionImport:
        """Put extensions into a line's pool; those that are in it already are skipped.

        Raises NOT_FOUND, and INVALID_FIELD for a line that dials from no pool and for more than 10,000 extensions.
        """
        return await self._add(identity, body.line_id, enumerate(body.extensions, 1), request, once)

    async def import_file(
        self, identity: Identity, line_id: str, body: Csv, request: RequestInfo, once: Once
    ) -> ExtensionImport:
        """Put the extensions of a file into a line's pool: one in the first cell of each line, whatever stands behind.

        A first line `extension` is a heading. Raises NOT_FOUND, BAD_REQUEST where it is no text, and INVALID_FIELD for
        a line that dials from no pool and for more than 10,000 extensions.
        """
        return await self._add(identity, line_id, _first_cells(body), request, once)

    async def list_extensions(self, identity: Identity, extension_id: str, query: ExtensionsQuery) -> ExtensionPage:
        """List the extensions of the tenant that the path names, and who has which now.

        The seed has the tenant's id where other methods have an extension's. Raises NOT_FOUND for another tenant, and
        for a line that is not there.
        """
        tenant_id = _own(identity, extension_id)
        wanted = ExtensionSearch(line_id=query.line_id, status=query.status, user_id=query.user_id, number=query.search)
        async with self._database.search() as connection:
            if query.line_id is not None:
                await lines.get(connection, tenant_id, query.line_id)
            total, found = await extensions.search(connection, tenant_id, wanted, query.asked)
        return ExtensionPage(
            extensions=list(map(_view, found)), page=query.page, page_size=query.page_size, total=total
        )

    async def statistics(self, identity: Identity, tenant_id: str, query: StatisticsQuery) -> PoolStatistics:
        """Tell how much of each line's pool is used now.

        Raises NOT_FOUND for another tenant, and for a line that is not there.
        """
        tenant_id = _own(identity, tenant_id)
        async with self._database.search() as connection:
            if query.line_id is not None:
                await lines.get(connection, tenant_id, query.line_id)
            found = await extensions.statistics(connection, tenant_id, query.line_id)
        return PoolStatistics(pools=list(map(_pool, found)))

    async def get(self, identity: Identity, extension_id: str) -> ExtensionAnswer:
        """Tell one extension. Raises NOT_FOUND."""
        async with self._database.connection() as connection:
            found = await extensions.get(connection, identity.tenant_id, extension_id)
        return ExtensionAnswer(extension=_view(found))

    async def update(
        self, identity: Identity, extension_id: str, body: ExtensionFields, request: RequestInfo
    ) -> ExtensionAnswer:
        """Take an extension out of the pool, or put it back.

        Raises NOT_FOUND, and IN_USE while it is lent.
        """
        actor = actor_of(identity, request)
        async with self._database.transaction() as connection:
            await extensions.turn(connection, actor, identity.tenant_id, extension_id, body.status)
            found = await extensions.get(connection, identity.tenant_id, extension_id)
        return ExtensionAnswer(extension=_view(found))

    async def release(self, identity: Identity, extension_id: str, body: Release, request: RequestInfo) -> Released:
        """End the lease of an extension by force, though its call may be under way: only if you know that it is not.

        Raises NOT_FOUND.
        """
        async with self._database.transaction() as connection:
            await extensions.get(connection, identity.tenant_id, extension_id)
            released = await extensions.force_release(
                connection,
                actor_of(identity, request),
                identity.tenant_id,
                extension_id=extension_id,
                reason=body.reason,
            )
        return Released(released=released)

    async def release_agent(self, identity: Identity, user_id: str, body: Release, request: RequestInfo) -> Released:
        """End all leases of an agent by force, though calls may be under way: only if you know that they are not.

        An agent who has none is a success: nothing is released. Raises NOT_FOUND.
        """
        async with self._database.transaction() as connection:
            await accounts.get_user(connection, identity.tenant_id, user_id)
            released = await extensions.force_release(
                connection, actor_of(identity, request), identity.tenant_id, user_id=user_id, reason=body.reason
            )
        return Released(released=released)

    async def delete(self, identity: Identity, extension_id: str, request: RequestInfo) -> Done:
        """Delete an extension. Raises NOT_FOUND, and IN_USE while it is lent."""
        async with self._database.transaction() as connection:
            actor = actor_of(identity, request)
            if await extensions.delete(connection, actor, identity.tenant_id, [extension_id]):
                raise DialdeskError("IN_USE", what="extension")
        return Done()

    async def batch_delete(self, identity: Identity, body: BatchDelete, request: RequestInfo) -> ExtensionsDeleted:
        """Delete extensions, but for those that are lent, which the answer names.

        Raises NOT_FOUND where one of them is not there; then all stay.
        """
        wanted = list(dict.fromkeys(body.extension_ids))
        async with self._database.transaction() as connection:
            actor = actor_of(identity, request)
            in_use = await extensions.delete(connection, actor, identity.tenant_id, wanted)
        return ExtensionsDeleted(deleted=len(wanted) - len(in_use), in_use=in_use)

    async def _add(
        self,
        identity: Identity,
        line_id: str,
        entries: Iterator[tuple[int, str]],
        request: RequestInfo,
        once: Once,
    ) -> ExtensionImport:
        given, problems = _spelled_out(entries)
        invalid = len(problems)
        async with self._database.transaction() as connection:
            line = await lines.get(connection, identity.tenant_id, line_id)
            if line.setup.provider not in {"infinity", "custom"}:
                raise DialdeskError("INVALID_FIELD", reason="lineId: the line's provider dials from no pool")
            numbers = list(dict.fromkeys(number for _, number in given))
            new = await extensions.add(connection, actor_of(identity, request), identity.tenant_id, line_id, numbers)
            problems += _left_out(given, new)
            problems.sort(key=lambda problem: problem.line)
            answer = ExtensionImport(
                imported=len(new),
                skipped=len(given) - len(new),
                invalid=invalid,
                problems=problems[:MOST_PROBLEMS],
            )
            await once.keep(connection, answer)
        return answer


def _spelled_out(entries: Iterator[tuple[int, str]]) -> tuple[list[tuple[int, str]], list[ExtensionProblem]]:
    """Return (place, number) of each extension, ranges spelled out, and the entries that are neither. Raises
    INVALID_FIELD where there are too many."""
    given: list[tuple[int, str]] = []
    problems: list[ExtensionProblem] = []
    for place, entry in entries:
        text = entry.strip()
        if (ends := _RANGE.fullmatch(text)) and len(ends[1]) == len(ends[2]) and int(ends[1]) <= int(ends[2]):
            first, last = int(ends[1]), int(ends[2])
            numbers = (str(number).zfill(len(ends[1])) for number in range(first, min(last, first + MOST) + 1))
            given.extend((place, number) for number in numbers)
        elif _NUMBER.fullmatch(text):
            given.append((place, text))
        else:
            problems.append(ExtensionProblem(place, text[:64], "INVALID"))
        if len(given) + len(problems) > MOST:
            raise DialdeskError("INVALID_FIELD", reason=f"there are more than {MOST} extensions")
    return given, problems


def _left_out(given: Sequence[tuple[int, str]], new: set[str]) -> Iterator[ExtensionProblem]:
    """What was given and not put into the pool: it was there, or is the second of its kind."""
    seen: set[str] = set()
    for place, number in given:
        if number in seen:
            yield ExtensionProblem(place, number, "REPEATED")
        elif number not in new:
            yield ExtensionProblem(place, number, "EXISTS")
        seen.add(number)


def _first_cells(content: bytes) -> Iterator[tuple[int, str]]:
    """The first cell of each line that has one, and the line's number; a heading is none of them."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = content.decode("gb18030")  # what spreadsheets in China write
        except UnicodeDecodeError as error:
            raise DialdeskError("BAD_REQUEST", reason="the file is neither UTF-8 nor GB 18030") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in reader:
            cell = cells[0].strip() if cells else ""
            if cell and not (reader.line_num == 1 and cell.lower() == "extension"):
                yield reader.line_num, cell
    except csv.Error as error:
        raise DialdeskError("BAD_REQUEST", reason=f"line {reader.line_num}: {error}") from error


def _own(identity: Identity, tenant_id: str) -> str:
    """The seed's paths name the tenant; everybody asks of their own. Raises NOT_FOUND."""
    if tenant_id != identity.tenant_id:
        raise DialdeskError("NOT_FOUND", what="tenant")
    return tenant_id


def _view(found: Extension) -> ExtensionView:
    return ExtensionView(
        id=found.id,
        line_id=found.line_id,
        line_name=found.line_name,
        extension=found.number,
        status=found.status,
        user_id=found.user_id,
        user_name=found.user_name,
        call_id=found.call_id,
        lease_until=rfc3339(found.lease_until),
        cool_until=rfc3339(found.cool_until),
        last_used_at=rfc3339(found.last_used_at),
        uses=found.uses,
        created_at=rfc3339(found.created_at),
    )


def _pool(use: PoolUse) -> PoolView:
    working = use.total - use.offline
    return PoolView(
        **msgspec.structs.asdict(use),
        usage_rate=round(use.in_use / working, 4) if working else 0.0,
    )
