"""Calls as a CSV file for spreadsheets: the calls that `GET /api/v1/calls` lists, row by row while it is told.

Who takes calls out of the house leaves a line in the audit log before the first byte. Numbers are masked as everywhere.
A cell that a spreadsheet would take for a formula begins with an apostrophe (OWASP, CSV injection).
"""

import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import asyncpg
import msgspec

from protocol.call import HangupCause
from protocol.errors import DialdeskError, Language
from protocol.phone_number import mask
from protocol.timestamps import Instant
from server.auth import actor_of
from server.http import RequestInfo
from server.identity import Identity
from server.records import Filters, cause_in, recording_of, ringing, wanted_by
from server.streams import Written
from storage import accounts, audit, records
from storage.calls import Reach
from storage.database import Database
from storage.live import Live
from storage.records import Place, Wanted

MOST_ROWS: Final = 100_000
"""Rows of one file; more is refused."""
MOST_DAYS: Final = 366
"""Days that a file may span."""
A_MINUTE: Final = 30
"""Files that one asker may have begun within a minute."""
AT_A_TIME: Final = 200
"""Calls that are read, and written, at a time."""

CsvFile = Annotated[Written, msgspec.Meta(extra_json_schema={"contentMediaType": "text/csv"})]


class ExportQuery(Filters, frozen=True, kw_only=True):
    """Which calls to write: as they are listed, dialled from `from` on and before `to`, by default now. No more than
    366 days lie between; `outcome` and `recording` may be repeated."""

    from_: Instant = msgspec.field(name="from")


class Export:
    """Writes calls to files."""

    def __init__(self, database: Database, live: Live) -> None:
        self._database = database
        self._live = live

    async def calls(self, identity: Identity, query: ExportQuery, request: RequestInfo) -> CsvFile:
        """Write calls to a CSV file, newest first, its head in the asker's language.

        In UTF-8 with a byte order mark, times by the tenant's clock. `X-Row-Count` tells how many rows follow the head.
        Raises EXPORT_TOO_LARGE for more than 100,000 calls, INVALID_PHONE for a `customerPhone` that is no number, and
        RATE_LIMITED for more than thirty files a minute.
        """
        wait = await self._live.allow(f"export:{identity.id}", A_MINUTE, 60)
        if wait is not None:
            raise DialdeskError("RATE_LIMITED", retryAfter=wait)
        async with self._database.search() as connection:
            tenant = await records.tenant(connection, identity.tenant_id)
            wanted = _bounded(await wanted_by(connection, identity, query), tenant["now"])
            rows = await records.count(connection, identity.calls, wanted, MOST_ROWS + 1)
            team_ids = await accounts.team_ids(connection, identity.tenant_id)
        if rows > MOST_ROWS:
            raise DialdeskError("EXPORT_TOO_LARGE", limit=MOST_ROWS)
        async with self._database.transaction() as connection:
            after = {"rows": rows, **_told(wanted)}
            await audit.record(connection, actor_of(identity, request), "export", "call", "list", after=after)
        sheet = _Sheet(
            language=request.language,
            timezone=_zone(tenant["timezone"]),
            teams={team_id: name for name, team_id in team_ids.items()},
            revealed=identity.may("customers.reveal"),
        )
        return Written(
            pieces=self._write(identity.calls, wanted, sheet),
            media_type="text/csv; charset=utf-8",
            filename=f"calls-{tenant['today']}.csv",
            headers={"x-row-count": str(rows)},
        )

    async def _write(self, reach: Reach, wanted: Wanted, sheet: "_Sheet") -> AsyncIterator[bytes]:
        """The file, piece by piece. A connection is lent for one piece, however slowly it is read."""
        yield b"\xef\xbb\xbf" + sheet.head()
        place: Place | None = None
        more = True
        while more:
            async with self._database.search() as connection:
                page = await records.newest(connection, reach, wanted, place, AT_A_TIME)
            place, more = page.reached, page.more
            if page.rows:
                yield sheet.rows(page.rows)


def _bounded(wanted: Wanted, now: datetime) -> Wanted:
    """Without what is dialled from now on, which was not counted. Raises INVALID_FIELD for a span that is none."""
    assert wanted.created_from is not None
    until = min(wanted.created_to or now, now)
    if until - wanted.created_from > timedelta(days=MOST_DAYS):
        raise DialdeskError("INVALID_FIELD", reason=f"from and to must span {MOST_DAYS} days at most")
    return msgspec.structs.replace(wanted, created_to=until)


def _told(wanted: Wanted) -> dict[str, Any]:
    """What was asked for, as the audit log keeps it."""
    told = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value}
    if wanted.customer_phone is not None:
        told["customer_phone"] = mask(wanted.customer_phone)
    return told


def _zone(name: str) -> tzinfo:
    """The tenant's time zone; UTC where this machine does not know it, though PostgreSQL does."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


# --- the file ---------------------------------------------------------------------------------------------------------

_HEAD: Final = {
    "zh-CN": (
        "通话编号",
        "拨打时间（{zone}）",
        "接通时间",
        "结束时间",
        "坐席",
        "团队",
        "方式",
        "客户姓名",
        "客户号码",
        "客户编号",
        "订单号",
        "外部编号",
        "结果",
        "振铃秒数",
        "通话秒数",
        "挂断原因",
        "依据",
        "录音",
        "跟进结果",
        "客户意向",
        "备注",
        "下次跟进",
    ),
    "en": (
        "Call",
        "Dialled ({zone})",
        "Answered",
        "Ended",
        "Agent",
        "Team",
        "Method",
        "Customer",
        "Number",
        "Customer id",
        "Order",
        "External id",
        "Outcome",
        "Seconds of ringing",
        "Seconds of talk",
        "Cause",
        "Evidence",
        "Recording",
        "Result",
        "Intention",
        "Note",
        "Next follow-up",
    ),
}

_WORDS: Final[Mapping[Language, Mapping[str, str]]] = {
    "zh-CN": {
        "pending": "等待手机响应",
        "calling": "正在呼叫",
        "ringing": "对方振铃",
        "connected": "已接通",
        "missed": "未接",
        "busy": "占线",
        "rejected": "拒接",
        "failed": "失败",
        "cancelled": "已取消",
        "unknown": "未知",
        "mobile": "工作手机",
        "cloud": "云线路",
        "sip": "SIP",
        "none": "无",
        "awaited": "上传中",
        "ready": "有",
        "expired": "已过期",
        "deleted": "已删除",
        "server": "服务器",
        "assumed": "人工报告",
        "in_call_service": "手机系统",
        "cx_call": "手机系统",
        "call_log": "手机通话记录",
        "provider_record": "运营商记录",
    },
    "en": {},
}
"""Words of the API, as people say them; in English as they stand."""

_FORMULA: Final = tuple("=+-@\t\r\n＝＋－＠")
"""With what a cell begins that a spreadsheet may compute."""


class _Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are written."""

    language: Language
    timezone: tzinfo
    teams: Mapping[str, str]
    revealed: bool

    def head(self) -> bytes:
        """The first line."""
        return _lines([[title.format(zone=self.timezone) for title in _HEAD[self.language]]])

    def rows(self, calls: Sequence[asyncpg.Record]) -> bytes:
        """A line for each call."""
        return _lines([self._row(call) for call in calls])

    def _row(self, call: asyncpg.Record) -> list[object]:
        phone = call["customer_phone"]
        cause = call["hangup_cause"]
        return [
            call["id"],
            *(self._time(call[name]) for name in ("created_at", "connected_at", "ended_at")),
            call["user_name"],
            self.teams.get(call["team_id"]),
            self._word(call["call_method"]),
            call["customer_name"],
            phone if self.revealed else mask(phone),
            call["customer_id"],
            call["order_id"],
            call["external_id"],
            self._word(call["outcome"] or call["status"]),
            ringing(call),
            call["duration"],
            None if cause is None else cause_in(HangupCause(cause), self.language).text,
            self._word(call["evidence"]),
            self._word(recording_of(call)),
            call["follow_up_result"],
            call["follow_up_intention"],
            call["follow_up_note"],
            self._time(call["follow_up_next_at"]),
        ]

    def _time(self, at: datetime | None) -> str | None:
        return None if at is None else f"{at.astimezone(self.timezone):%Y-%m-%d %H:%M:%S}"

    def _word(self, word: str | None) -> str | None:
        return None if word is None else _WORDS[self.language].get(word, word)


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    """The rows in CSV (RFC 4180). Only rows end with CR LF: breaks within a cell are LF."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    plain = value.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    return f"'{plain}" if value.startswith(_FORMULA) else plain
