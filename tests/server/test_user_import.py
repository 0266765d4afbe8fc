"""What a CSV file of users says."""

import pytest

from protocol.errors import DialdeskError
from server.user_import import PASSWORDS, ROWS, Row, read_rows


def refused(content: bytes) -> str:
    """The code by which a file is refused."""
    with pytest.raises(DialdeskError) as refusal:
        read_rows(content)
    return refusal.value.code


def test_columns_come_in_any_order() -> None:
    """The first line says which column is which; blanks around cells and blank lines do not matter."""
    rows = read_rows(b"Name, username ,TEAM\r\n Ann , ann,North\r\n\r\nBen,ben,\r\n")

    assert [
        Row(line=2, username="ann", name="Ann", role="", team="North", password=""),
        Row(line=4, username="ben", name="Ben", role="", team="", password=""),
    ] == rows


def test_password_keeps_its_blanks() -> None:
    """A password is taken as it stands."""
    (row,) = read_rows(b"username,name,password\nann,Ann, my secret ")

    assert " my secret " == row.password


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_file_of_any_spreadsheet(encoding: str) -> None:
    """Chinese names come through in UTF-8, with or without its mark, and in what spreadsheets in China write."""
    (row,) = read_rows("username,name,team\nzhang,张三,华北组\n".encode(encoding))

    assert ("zhang", "张三", "华北组") == (row.username, row.name, row.team)


def test_cell_may_hold_commas_and_quotes() -> None:
    """Quoted cells are read as RFC 4180 says; a line number is that of the row's end."""
    first, second = read_rows(b'username,name\nann,"Smith, ""Ann""\nSecond"\nben,Ben')

    assert ('Smith, "Ann"\nSecond', 3) == (first.name, first.line)
    assert 4 == second.line


@pytest.mark.parametrize(
    "content", [b"", b"username", b"username,name,age\n", b"username,username,name\n", b"username,name\nann\n"]
)
def test_wrong_columns_are_refused(content: bytes) -> None:
    """A missing, unknown or repeated column, or a row of another length, is INVALID_FIELD."""
    assert "INVALID_FIELD" == refused(content)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'username,name\n"ann,Ann', b'username,name\n"ann"x,Ann'])
def test_what_is_no_csv_is_refused(content: bytes) -> None:
    """What cannot be read as CSV is BAD_REQUEST."""
    assert "BAD_REQUEST" == refused(content)


def test_file_has_a_bound() -> None:
    """A file has at most a thousand rows, of which a hundred bring a password."""
    row = b"ann,Ann,\n"
    most = b"username,name,password\n" + row * ROWS

    assert ROWS == len(read_rows(most))
    assert "INVALID_FIELD" == refused(most + row)
    assert "INVALID_FIELD" == refused(b"username,name,password\n" + b"ann,Ann,secret12\n" * (PASSWORDS + 1))
