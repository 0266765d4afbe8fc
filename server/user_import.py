"""Users from a spreadsheet: what a CSV file says, before anybody judges it."""

import csv
import io
from typing import Final

import msgspec

from protocol.errors import DialdeskError

ROWS: Final = 1000
"""Rows of one file."""
PASSWORDS: Final = 100
"""Rows of one file that may bring a password: each costs a tenth of a second, and the others sign in meanwhile."""

_COLUMNS: Final = ("username", "name", "role", "team", "password")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row as it stands, without the blanks around; what is missing is empty. `line` is the file's, from 1."""

    line: int
    username: str
    name: str
    role: str
    team: str
    password: str


def read_rows(content: bytes) -> list[Row]:
    """Read a CSV file whose first line names its columns, in any order: username, name; role, team, password.

    Taken as UTF-8, else as GB 18030, which spreadsheets in China write. Raises BAD_REQUEST where it is no such file,
    INVALID_FIELD for an unknown or missing column and for more rows, or rows with passwords, than one file may have.
    """
    reader = csv.reader(io.StringIO(_text(content), newline=""), strict=True)
    try:
        columns = [column.strip().lower() for column in next(reader, [])]
        if len(set(columns)) < len(columns) or not {"username", "name"} <= set(columns) <= set(_COLUMNS):
            raise DialdeskError("INVALID_FIELD", reason=f"the first line names the columns {', '.join(_COLUMNS)}")
        rows = [_row(reader.line_num, columns, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise DialdeskError("BAD_REQUEST", reason=f"line {reader.line_num}: {error}") from error
    if len(rows) > ROWS:
        raise DialdeskError("INVALID_FIELD", reason=f"a file has at most {ROWS} rows; split it")
    if sum(row.password != "" for row in rows) > PASSWORDS:
        raise DialdeskError(
            "INVALID_FIELD", reason=f"at most {PASSWORDS} rows bring a password; leave it out to have them made"
        )
    return rows


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass  # then it is what Excel writes in China
    try:
        return content.decode("gb18030")
    except UnicodeDecodeError as error:
        raise DialdeskError("BAD_REQUEST", reason="the file is neither UTF-8 nor GB 18030") from error


def _row(line: int, columns: list[str], cells: list[str]) -> Row:
    if len(cells) != len(columns):
        raise DialdeskError("INVALID_FIELD", reason=f"line {line} has {len(cells)} cells, not {len(columns)}")
    given = {
        column: cell if column == "password" else cell.strip() for column, cell in zip(columns, cells, strict=True)
    }
    return Row(line=line, **{column: given.get(column, "") for column in _COLUMNS})
