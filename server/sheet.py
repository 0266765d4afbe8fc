"""Rows of a CSV file that somebody wrote with a spreadsheet, and what is said of those that are no good."""

import csv
import io
from collections.abc import Iterator

import msgspec

from protocol.errors import DialdeskError


class RowProblem(msgspec.Struct, frozen=True):
    """A row that is not taken: the line on which it ends, why by code, and in words."""

    line: int
    code: str
    message: str


def read_sheet(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Return the rows that say something, without the blanks around, each with the number of the line on which it ends.

    Raises INVALID_FIELD where it cannot be read as CSV.
    """
    reader = csv.reader(io.StringIO(_decoded(content), newline=""), strict=True)
    try:
        for cells in reader:
            row = [cell.strip() for cell in cells]
            if any(row):
                yield reader.line_num, row
    except csv.Error as error:
        raise DialdeskError("INVALID_FIELD", reason=f"line {reader.line_num}: {error}") from error


def _decoded(content: bytes) -> str:
    """UTF-8, as most programs write it, else GB18030, as Excel does in China: a file of Chinese names in the latter is
    hardly ever valid UTF-8."""
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise DialdeskError("INVALID_FIELD", reason="the file must be CSV text in UTF-8 or GB18030")
