"""Customers: who can be clicked on. A small copy of what the CRM knows, kept by its API calls or a CSV file.

A customer is named in paths by our id (`cust_…`) or by the CRM's, its external id. Everybody in the tenant sees all
customers; their numbers are masked unless `customers.reveal` is held.
"""

import asyncio
import re
from typing import Annotated, NamedTuple

import asyncpg
import msgspec

from protocol.errors import DialdeskError, Language
from protocol.identifiers import new_id
from protocol.phone_number import mask, normalize
from protocol.timestamps import Timestamp, rfc3339
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.sheet import RowProblem, read_sheet
from storage import audit, customers
from storage.audit import Actor
from storage.customers import Known, Wanted
from storage.database import Database, Duplicate
from storage.idempotency import Once

IMPORT_BOUND = 10 * 1024 * 1024
"""The largest CSV file; the route's `body_limit`."""
MOST_ROWS = 50_000
"""The longest CSV file."""
ROWS_AT_ONCE = 50
"""Rows that are judged before others have their turn: 2 ms. (A thread would hold the interpreter for longer.)"""
MOST_PROBLEMS = 1000
"""Rows of a CSV file that the report names; the counts tell of all."""

COLUMNS = ("external_id", "name", "phone", "tags", "order_ids")
"""The columns of a CSV file, in any order. Several tags or order ids in a cell are separated by semicolons."""

_OURS = re.compile(r"cust_[0-9a-hjkmnp-tv-z]{26}")
_SEPARATOR = re.compile(r"[;；]")

ExternalId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Name = Annotated[str, msgspec.Meta(pattern=r"\S", max_length=128)]
PhoneText = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
Tags = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...], msgspec.Meta(max_length=50)]
OrderIds = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=128)], ...], msgspec.Meta(max_length=200)
]


# --- what is asked --------------------------------------------------------------------------------------------------


class NewCustomer(Body, frozen=True, kw_only=True):
    """A customer to make. Its external id may not have the form of our ids."""

    external_id: ExternalId | None = None
    name: Name
    phone: PhoneText
    tags: Tags = ()
    order_ids: OrderIds = ()


class CustomerBody(Body, frozen=True, kw_only=True):
    """What is known of a customer; it replaces all that was known, but a number that is left out stays."""

    name: Name
    phone: PhoneText | None = None
    tags: Tags = ()
    order_ids: OrderIds = ()


class SearchQuery(Body, frozen=True, kw_only=True):
    """Which customers to list: `q` is part of a name, a whole number, or an external id."""

    q: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    tag: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    order_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    cursor: Annotated[str, msgspec.Meta(pattern="^cust_[0-9a-hjkmnp-tv-z]{26}$")] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class ImportQuery(Body, frozen=True, kw_only=True):
    """With `dryRun` the file is judged and nothing is kept."""

    dry_run: bool = False


# --- what is answered -----------------------------------------------------------------------------------------------


class Customer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A customer; `id` is ours, `externalId` the CRM's."""

    id: str
    external_id: str | None
    name: str
    phone: str
    tags: list[str]
    order_ids: list[str]
    created_at: Timestamp
    updated_at: Timestamp


class CustomerAnswer(Answer, frozen=True, kw_only=True):
    """One customer."""

    customer: Customer


class SavedAnswer(Answer, frozen=True, kw_only=True):
    """One customer as it was saved; `created` tells that it is new."""

    customer: Customer
    created: bool


class CustomerPage(Answer, frozen=True, kw_only=True):
    """A page of customers. `nextCursor`, sent with the same parameters, brings the next; null on the last page."""

    customers: list[Customer]
    next_cursor: str | None


class ImportAnswer(Answer, frozen=True, kw_only=True):
    """What an import did, or with `dryRun` would do.

    `rows` = `created` + `updated` + `unchanged` + `failed` + `repeated`; the last are rows whose external id comes
    again further down, where the last row counts. `errors` names the first thousand rows that failed or are repeated.
    """

    dry_run: bool
    rows: int
    created: int
    updated: int
    unchanged: int
    failed: int
    repeated: int
    errors: list[RowProblem]


# --- what happens ---------------------------------------------------------------------------------------------------


class Customers:
    """The customers of a tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, identity: Identity, body: NewCustomer, once: Once) -> CustomerAnswer:
        """Make a customer. Raises ALREADY_EXISTS for an external id that is known, and INVALID_PHONE."""
        try:
            async with self._database.transaction() as connection:
                known = _known(body, await customers.region(connection, identity.tenant_id))
                row = await customers.create(connection, identity.tenant_id, known)
                answer = CustomerAnswer(customer=_told(row, identity))
                await once.keep(connection, answer)
        except Duplicate as duplicate:
            if duplicate.constraint != "customer_tenant_id_external_id_key":
                raise
            raise DialdeskError("ALREADY_EXISTS", what="customer") from duplicate
        return answer

    async def save(self, identity: Identity, customer_id: str, body: CustomerBody) -> SavedAnswer:
        """Make or replace a customer: by the CRM's id whether or not it is known here, by ours if it is.

        `phone` may be left out for a customer that is known, since who sees it masked cannot repeat it.
        Raises NOT_FOUND, INVALID_PHONE and INVALID_FIELD.
        """
        tenant_id = identity.tenant_id
        async with self._database.transaction() as connection:
            region = await customers.region(connection, tenant_id)
            if body.phone is not None and not _OURS.fullmatch(customer_id):
                new = _known(
                    NewCustomer(
                        external_id=customer_id,
                        name=body.name,
                        phone=body.phone,
                        tags=body.tags,
                        order_ids=body.order_ids,
                    ),
                    region,
                )
                row = await customers.upsert(connection, tenant_id, new)
                return SavedAnswer(customer=_told(row, identity), created=row["id"] == new.id)
            known = await customers.update(
                connection,
                tenant_id,
                customer_id,
                name=body.name,
                phone=None if body.phone is None else normalize(body.phone, region),
                tags=_distinct(body.tags),
                order_ids=_distinct(body.order_ids),
            )
        if known is None:
            raise DialdeskError("NOT_FOUND", what="customer")
        return SavedAnswer(customer=_told(known, identity), created=False)

    async def get(self, identity: Identity, customer_id: str) -> CustomerAnswer:
        """Return a customer."""
        async with self._database.connection() as connection:
            row = await customers.get(connection, identity.tenant_id, customer_id)
        if row is None:
            raise DialdeskError("NOT_FOUND", what="customer")
        return CustomerAnswer(customer=_told(row, identity))

    async def search(self, identity: Identity, query: SearchQuery) -> CustomerPage:
        """List customers, the newest first."""
        text = (query.q or "").strip() or None
        async with self._database.search() as connection:
            wanted = Wanted(
                text=text,
                phone=None if text is None else _number(text, await customers.region(connection, identity.tenant_id)),
                tag=query.tag,
                order_id=query.order_id,
            )
            rows = await customers.search(connection, identity.tenant_id, wanted, query.cursor, query.limit + 1)
        more, rows = len(rows) > query.limit, rows[: query.limit]
        return CustomerPage(
            customers=[_told(row, identity) for row in rows], next_cursor=rows[-1]["id"] if more else None
        )

    async def delete(self, identity: Identity, request: RequestInfo, customer_id: str) -> Done:
        """Forget a customer; calls keep the number and the name they were made with."""
        async with self._database.transaction() as connection:
            gone = await customers.delete(connection, identity.tenant_id, customer_id)
            if gone is None:
                raise DialdeskError("NOT_FOUND", what="customer")
            await audit.record(
                connection,
                _actor(identity, request),
                "customer.delete",
                "customer",
                gone["id"],
                before={"externalId": gone["external_id"]},
            )
        return Done()

    async def import_file(
        self, identity: Identity, request: RequestInfo, query: ImportQuery, body: bytes, once: Once
    ) -> ImportAnswer:
        """Make or replace customers from a CSV file, in UTF-8 or GB18030, with a header row.

        The columns are `external_id`, `name`, `phone`, `tags` and `order_ids`, in any order; several tags or order ids
        stand in one cell, separated by semicolons. The good rows are applied together, or none of them; the report
        names the others.
        """
        async with self._database.connection() as connection:
            region = await customers.region(connection, identity.tenant_id)
        file = await read_file(body, region, request.language)
        async with self._database.transaction() as connection:
            saved = await customers.import_all(connection, identity.tenant_id, file.good, dry_run=query.dry_run)
            answer = ImportAnswer(
                dry_run=query.dry_run,
                rows=file.rows,
                created=saved.created,
                updated=saved.updated,
                unchanged=len(file.good) - saved.created - saved.updated,
                failed=file.failed,
                repeated=file.rows - file.failed - len(file.good),
                errors=file.problems,
            )
            if not query.dry_run:
                counts = {"created": saved.created, "updated": saved.updated, "failed": file.failed}
                await audit.record(
                    connection, _actor(identity, request), "customer.import", "customer", "*", after=counts
                )
                await once.keep(connection, answer)
        return answer


def _known(new: NewCustomer, region: str) -> Known:
    """Raises INVALID_PHONE, and INVALID_FIELD for an external id too long or such as paths take for ours."""
    if new.external_id is not None and (_OURS.fullmatch(new.external_id) or len(new.external_id) > 128):
        raise DialdeskError("INVALID_FIELD", reason="externalId has at most 128 characters and not the form of our ids")
    return Known(
        id=new_id("cust"),
        external_id=new.external_id,
        name=new.name.strip(),
        phone=normalize(new.phone, region),
        tags=_distinct(new.tags),
        order_ids=_distinct(new.order_ids),
    )


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _number(text: str, region: str) -> str | None:
    try:
        return normalize(text, region)
    except DialdeskError:
        return None  # not a number, then: a name


def _told(row: asyncpg.Record, identity: Identity) -> Customer:
    phone: str = row["phone"]
    return Customer(
        id=row["id"],
        external_id=row["external_id"],
        name=row["name"],
        phone=phone if identity.may("customers.reveal") else mask(phone),
        tags=row["tags"],
        order_ids=row["order_ids"],
        created_at=rfc3339(row["created_at"]),
        updated_at=rfc3339(row["updated_at"]),
    )


def _actor(identity: Identity, request: RequestInfo) -> Actor:
    return Actor(kind=identity.kind, id=identity.id, tenant_id=identity.tenant_id, ip=request.ip, request_id=request.id)


# --- CSV files ------------------------------------------------------------------------------------------------------


class CustomerFile(NamedTuple):
    """What a CSV file says: how many rows it has, those to keep, how many are no good, and what is wrong with which."""

    rows: int
    good: list[Known]
    failed: int
    problems: list[RowProblem]


async def read_file(content: bytes, region: str, language: Language) -> CustomerFile:
    """Judge a CSV file row by row. Raises INVALID_FIELD where it cannot be read as one, or is too long.

    Of rows with the same external id the last good one is kept. A full file takes seconds, in which others are served.
    """
    lines = read_sheet(content)
    header = [cell.lower() for cell in next(lines, (0, []))[1]]
    if sorted(header) != sorted(COLUMNS):
        raise DialdeskError("INVALID_FIELD", reason=f"the first line must name the columns {', '.join(COLUMNS)}")
    rows = failed = 0
    good: dict[str, tuple[int, Known]] = {}
    problems: list[RowProblem] = []
    for line, cells in lines:
        rows += 1
        if rows % ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)
        if rows > MOST_ROWS:
            raise DialdeskError("INVALID_FIELD", reason=f"the file has more than {MOST_ROWS} rows")
        try:
            external_id, known = _row(header, cells, region)
        except DialdeskError as error:
            failed += 1
            problems.append(RowProblem(line, error.code, error.message(language)))
            continue
        if external_id in good:
            problems.append(_repeated(good[external_id][0], line, language))
        good[external_id] = line, known
    problems.sort(key=lambda problem: problem.line)
    return CustomerFile(rows, [known for _, known in good.values()], failed, problems[:MOST_PROBLEMS])


def _row(header: list[str], cells: list[str], region: str) -> tuple[str, Known]:
    """Judge one row by the rules of the JSON API, and one more: it has an external id, or it would come twice."""
    if any(cells[len(header) :]):
        raise DialdeskError("INVALID_FIELD", reason="the row has more cells than there are columns")
    told = dict.fromkeys(COLUMNS, "") | dict(zip(header, cells, strict=False))
    try:
        new = msgspec.convert(
            {
                "externalId": told["external_id"],
                "name": told["name"],
                "phone": told["phone"],
                "tags": _listed(told["tags"]),
                "orderIds": _listed(told["order_ids"]),
            },
            NewCustomer,
        )
    except msgspec.ValidationError as error:
        raise DialdeskError("INVALID_FIELD", reason=str(error)) from error
    return told["external_id"], _known(new, region)


def _listed(cell: str) -> list[str]:
    return [part.strip() for part in _SEPARATOR.split(cell) if part.strip()]


def _repeated(line: int, again: int, language: Language) -> RowProblem:
    zh, en = f"第 {again} 行的 external_id 与此行相同，以后者为准", f"Line {again} has the same external_id, and counts"
    return RowProblem(line, "REPEATED", zh if language == "zh-CN" else en)
