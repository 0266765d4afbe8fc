"""Numbers that the tenant does not call: agents enter them when a customer asks for it, CRMs bring their lists.

An entry is named by its id, since a number has no place in a URL. Numbers are masked unless `customers.reveal` is held;
who sees one masked enters it by its call or its customer. `server.limits` holds every dial to the list.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec

from protocol.errors import DialdeskError, Language
from protocol.messages import Id
from protocol.phone_number import mask, normalize
from protocol.timestamps import Instant, Timestamp, rfc3339
from server.auth import actor_of
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.sheet import RowProblem, read_sheet
from storage import calls, customers, do_not_call
from storage.database import Connection, Database
from storage.do_not_call import Entry, NewEntry, Source
from storage.idempotency import Once

IMPORT_BOUND = 10 * 1024 * 1024
"""The largest CSV file; the route's `body_limit`."""
MOST_ROWS = 50_000
"""The longest CSV file."""
MOST_PROBLEMS = 1000
"""Rows of a CSV file that the report names; the counts tell of all."""
LONGEST = timedelta(days=365 * 20)
"""How far ahead an entry may run out; for longer it is for good."""

_ROWS_AT_ONCE = 50
"""Rows that are judged before others have their turn: 2 ms."""

Number = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
Reason = Annotated[str, msgspec.Meta(max_length=200)]
EntryId = Annotated[str, msgspec.Meta(pattern=r"^dnc_[0-9a-hjkmnp-tv-z]{26}$(?!\n)")]


class NewListing(Body, frozen=True, kw_only=True):
    """Whom not to call: `phone`, or who has it, a customer or a call. Until `expiresAt`, or for good."""

    phone: Number | None = None
    customer_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    call_id: Id | None = None
    reason: Reason = ""
    expires_at: Instant | None = None


class LiftBody(Body, frozen=True, kw_only=True):
    """Why the number may be called again, which the audit log keeps."""

    reason: Annotated[str, msgspec.Meta(pattern=r"\S", max_length=200)]


class CheckBody(Body, frozen=True, kw_only=True):
    """Numbers to look up."""

    phones: Annotated[list[Number], msgspec.Meta(min_length=1, max_length=100)]


class ListingsQuery(Body, frozen=True, kw_only=True):
    """Which part of the list to tell: what was entered before `cursor`."""

    cursor: EntryId | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class Listing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A number that is not called. `source` is how it came: by an agent, the API, a file, or a provider."""

    id: str
    phone: str
    reason: str
    source: Source
    created_by: str
    created_at: Timestamp
    expires_at: Timestamp | None


class ListingAnswer(Answer, frozen=True, kw_only=True):
    """An entry of the list."""

    entry: Listing


class ListingPage(Answer, frozen=True, kw_only=True):
    """A page of the list. `nextCursor`, sent with the same parameters, brings the next; null on the last page."""

    entries: list[Listing]
    next_cursor: str | None


class Checked(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the list says of a number, which stands as it was asked; `entryId` names the entry that forbids it."""

    phone: str
    code: Literal["OK", "DO_NOT_CALL", "INVALID_PHONE"]
    entry_id: str | None


class CheckAnswer(Answer, frozen=True, kw_only=True):
    """What the list says of each number, in the order asked."""

    numbers: list[Checked]


class ListingImport(Answer, frozen=True, kw_only=True):
    """What an import did. `rows` = `added` + `known` + `failed` + `repeated`; `known` stood on the list before.

    `errors` names the first thousand rows that failed.
    """

    rows: int
    added: int
    known: int
    failed: int
    repeated: int
    errors: list[RowProblem]


class DoNotCall:
    """The do-not-call lists of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, identity: Identity, body: NewListing, request: RequestInfo, once: Once) -> ListingAnswer:
        """Put a number on the list, at once; one that stands there already is never kept for a shorter time.

        A call that is under way goes on. Raises NOT_FOUND, INVALID_PHONE, and INVALID_FIELD unless exactly one of
        `phone`, `customerId` and `callId` is given and `expiresAt` lies ahead.
        """
        _demand_ahead(body.expires_at)
        source: Source = "api" if identity.kind == "api_key" else "agent"
        async with self._database.transaction() as connection:
            new = NewEntry(
                phone=await _number(connection, identity, body), reason=body.reason.strip(), expires_at=body.expires_at
            )
            actor = actor_of(identity, request)
            entry = await do_not_call.add(connection, actor, identity.tenant_id, new, source)
            answer = ListingAnswer(entry=_told(entry, identity))
            await once.keep(connection, answer)
        return answer

    async def list_entries(self, identity: Identity, query: ListingsQuery) -> ListingPage:
        """List the numbers that are not called now, the last entered first."""
        async with self._database.search() as connection:
            found = await do_not_call.entries(connection, identity.tenant_id, query.cursor, query.limit + 1)
        more, found = len(found) > query.limit, found[: query.limit]
        return ListingPage(
            entries=[_told(entry, identity) for entry in found], next_cursor=found[-1].id if more else None
        )

    async def check(self, identity: Identity, body: CheckBody) -> CheckAnswer:
        """Tell which of up to a hundred numbers may not be called; hours are not looked at."""
        async with self._database.connection() as connection:
            region = await customers.region(connection, identity.tenant_id)
            numbers = [_normal(phone, region) for phone in body.phones]
            found = await do_not_call.listed(connection, identity.tenant_id, [one for one in numbers if one])
        return CheckAnswer(
            numbers=[
                Checked(
                    phone=phone,
                    code="INVALID_PHONE" if number is None else "DO_NOT_CALL" if number in found else "OK",
                    entry_id=None if number is None else found.get(number),
                )
                for phone, number in zip(body.phones, numbers, strict=True)
            ]
        )

    async def lift(self, identity: Identity, entry_id: str, body: LiftBody, request: RequestInfo) -> Done:
        """Take a number off the list, for a reason that the audit log keeps."""
        async with self._database.transaction() as connection:
            actor = actor_of(identity, request)
            await do_not_call.lift(connection, actor, identity.tenant_id, entry_id, body.reason.strip())
        return Done()

    async def import_file(self, identity: Identity, request: RequestInfo, body: bytes, once: Once) -> ListingImport:
        """Put the numbers of a CSV file on the list, for good: UTF-8 or GB18030, with a header row.

        The columns are `phone` and, if you like, `reason`. The good rows are entered together, or none of them; the
        report names the others. Nothing is taken off the list.
        """
        async with self._database.connection() as connection:
            region = await customers.region(connection, identity.tenant_id)
        rows, good, problems = await _read(body, region, request.language)
        async with self._database.transaction() as connection:
            actor = actor_of(identity, request)
            added = await do_not_call.import_all(connection, actor, identity.tenant_id, list(good.values()))
            answer = ListingImport(
                rows=rows,
                added=added,
                known=len(good) - added,
                failed=len(problems),
                repeated=rows - len(good) - len(problems),
                errors=problems[:MOST_PROBLEMS],
            )
            await once.keep(connection, answer)
        return answer


async def _number(connection: Connection, identity: Identity, body: NewListing) -> str:
    """The number that a request means, in its normal form."""
    if sum(named is not None for named in (body.phone, body.customer_id, body.call_id)) != 1:
        raise DialdeskError("INVALID_FIELD", reason="give one of phone, customerId and callId")
    if body.call_id is not None:
        called = await do_not_call.number_of_call(connection, identity.calls, body.call_id)
        if called is None:
            raise DialdeskError("NOT_FOUND", what="call")
        return called
    number = body.phone
    if body.customer_id is not None:
        known = await calls.customer_phone(connection, identity.tenant_id, body.customer_id)
        if known is None:
            raise DialdeskError("NOT_FOUND", what="customer")
        number, _ = known
    assert number is not None
    return normalize(number, await customers.region(connection, identity.tenant_id))


def _demand_ahead(expires_at: datetime | None) -> None:
    now = datetime.now(UTC)
    if expires_at is not None and not now < expires_at < now + LONGEST:
        raise DialdeskError("INVALID_FIELD", reason="expiresAt lies within the next 20 years; leave it out for good")


def _normal(phone: str, region: str) -> str | None:
    try:
        return normalize(phone, region)
    except DialdeskError:
        return None  # what is no number is told as such


async def _read(content: bytes, region: str, language: Language) -> tuple[int, dict[str, NewEntry], list[RowProblem]]:
    """Judge a CSV file row by row: (rows, the good ones by their number, the others). Of twins the last counts."""
    lines = read_sheet(content)
    header = [cell.lower() for cell in next(lines, (0, []))[1]]
    if header not in (["phone"], ["phone", "reason"], ["reason", "phone"]):
        raise DialdeskError("INVALID_FIELD", reason="the first line must name the columns phone and, perhaps, reason")
    rows = 0
    good: dict[str, NewEntry] = {}
    problems: list[RowProblem] = []
    for line, cells in lines:
        rows += 1
        if rows % _ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)
        if rows > MOST_ROWS:
            raise DialdeskError("INVALID_FIELD", reason=f"the file has more than {MOST_ROWS} rows")
        try:
            entry = _row(header, cells, region)
        except DialdeskError as error:
            problems.append(RowProblem(line, error.code, error.message(language)))
        else:
            good[entry.phone] = entry
    return rows, good, problems


def _row(header: list[str], cells: list[str], region: str) -> NewEntry:
    if any(cells[len(header) :]):
        raise DialdeskError("INVALID_FIELD", reason="the row has more cells than there are columns")
    told = dict(zip(header, cells, strict=False))
    reason = told.get("reason", "")
    if len(reason) > 200:
        raise DialdeskError("INVALID_FIELD", reason="reason has at most 200 characters")
    return NewEntry(phone=normalize(told.get("phone", ""), region), reason=reason)


def _told(entry: Entry, identity: Identity) -> Listing:
    return Listing(
        id=entry.id,
        phone=entry.phone if identity.may("customers.reveal") else mask(entry.phone),
        reason=entry.reason,
        source=entry.source,
        created_by=entry.created_by,
        created_at=rfc3339(entry.created_at),
        expires_at=rfc3339(entry.expires_at),
    )
