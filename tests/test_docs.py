"""What is public is documented, and what is documented is so: the pages are held to the code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest

from clients.__main__ import main as clients_main
from protocol import messages
from protocol.call import Evidence, HangupCause, Outcome, Status
from protocol.errors import ERRORS, CloseCode
from server.__main__ import main as server_main
from server.config import Config
from server.http import Endpoint
from server.routes import all_routes, documents
from server.telemetry import Metrics

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}

SPEECHES = ("FromPhone", "ToPhone", "FromAgent", "ToAgent")

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def test_every_variable_stands_in_the_configuration_with_its_default() -> None:
    """docs/configuration.md has a row for each variable that is read, and tells what holds where it is not set."""
    told = {row[0]: row[1] for row in _rows("docs/configuration.md", "Variable")}
    read = {field.name.upper(): _default(field) for field in msgspec.structs.fields(Config)}

    assert read == told


def test_every_error_code_stands_in_the_list_of_errors() -> None:
    """docs/errors.md has a row for each code, with its HTTP status and whether a repeat may succeed."""
    told = {row[0]: (row[1], row[2]) for row in _rows("docs/errors.md", "Code")}

    assert {code: (str(spec.status), "yes" if spec.retry else "no") for code, spec in ERRORS.items()} == told


def test_every_route_stands_in_a_table_with_what_it_needs() -> None:
    """Somewhere in docs/ each route has a row that tells its method, its path and its permission."""
    told = {
        row[0]: row[1]
        for name in PAGES
        if name.startswith("docs/")
        for row in _rows(name, "Route")  # the same route may stand on several pages, and must not differ
    }

    assert {f"{endpoint.method} {endpoint.path}": endpoint.needs for endpoint in _all_endpoints()} == told


def test_every_permission_that_a_route_needs_is_explained() -> None:
    """docs/security.md says of each permission who holds it."""
    told = {row[0] for row in _rows("docs/security.md", "Permission")}
    needed = {endpoint.needs for endpoint in _all_endpoints()} - {"anyone", "signed in", "phone"}

    assert set() == needed - told


@pytest.mark.parametrize("speech", SPEECHES)
def test_every_message_has_a_heading_in_the_protocol(speech: str) -> None:
    """docs/protocol.md has a heading that names each type of message, whoever says it."""
    headings = " ".join(heading for _, heading in _headings("docs/protocol.md"))
    types = {message.type for message in get_args(getattr(messages, speech))}

    assert set() == {kind for kind in types if f"`{kind}`" not in headings}


def test_every_field_of_a_message_stands_in_the_protocol() -> None:
    """docs/protocol.md names each field as the wire does, also those of what messages hold."""
    held = (messages.Capabilities, messages.ActiveCall, messages.WaitingCommand, messages.DeviceView, messages.LiveCall)
    said = {kind for speech in SPEECHES for kind in get_args(getattr(messages, speech))}
    fields = {field.encode_name for kind in (*held, *said) for field in msgspec.structs.fields(kind)}

    assert set() == {name for name in fields if f"`{name}`" not in PAGES["docs/protocol.md"]}


def test_every_word_of_the_wire_stands_in_the_protocol() -> None:
    """docs/protocol.md names each status, outcome, kind of evidence, hang-up cause and close code."""
    words = {word.value for kind in (Status, Outcome, Evidence, HangupCause) for word in kind}
    codes = {str(code) for name, code in vars(CloseCode).items() if name.isupper()}

    assert set() == {word for word in words | codes if f"`{word}`" not in PAGES["docs/protocol.md"]}


@pytest.mark.parametrize(
    ("program", "group"), [("dialdesk", server_main), ("python -m clients", clients_main)], ids=["server", "clients"]
)
def test_every_command_is_shown(program: str, group: click.Group) -> None:
    """The README or a page of docs/ shows each command of the command line."""
    everything = "\n".join(PAGES.values())

    assert [] == [command for command in _commands(program, group) if command not in everything]


def test_every_metric_is_explained_to_operators() -> None:
    """docs/operate.md has a row for each metric, by the name under which it is scraped, with its labels."""
    told = {row[0]: row[1] for row in _rows("docs/operate.md", "Metric")}
    made = {
        f"{metric._name}_total" if metric._type == "counter" else metric._name: ", ".join(metric._labelnames) or "—"
        for metric in vars(Metrics()).values()
        if hasattr(metric, "_labelnames")
    }

    assert made == told


def test_every_module_stands_on_the_map() -> None:
    """docs/architecture.md says of each module what it is for, and names none that is gone."""
    files = [path for package in ("protocol", "storage", "server", "clients") for path in (ROOT / package).glob("*.py")]
    told = set(re.findall(r"`(\w+\.py)`", PAGES["docs/architecture.md"]))

    assert {path.name for path in files} - {"__init__.py"} == told


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    """A link inside the repository names a file that is there, and a heading that stands in it."""
    dead = []
    for target in _LINK.findall(_FENCED.sub("", PAGES[name])):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if not file.exists() or (anchor and anchor not in _anchors(file.relative_to(ROOT).as_posix())):
            dead.append(target)

    assert [] == dead


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/") and name != "docs/index.md"])
def test_every_page_is_in_the_index(name: str) -> None:
    """docs/index.md names each page beside it."""
    assert name.removeprefix("docs/") in PAGES["docs/index.md"]


def test_the_two_readmes_have_the_same_parts() -> None:
    """README.zh-CN.md has the headings of README.md, level by level, and shows the same commands."""
    levels = [[level for level, _ in _headings(name)] for name in ("README.md", "README.zh-CN.md")]
    fences = [len(_FENCED.findall(PAGES[name])) for name in ("README.md", "README.zh-CN.md")]

    assert levels[0] == levels[1]
    assert fences[0] == fences[1]


# --- reading the code -------------------------------------------------------------------------------------------------


def _default(field: msgspec.structs.FieldInfo) -> str:
    """A default as the table tells it."""
    match field.default:
        case _ if field.required:
            return "required"
        case None | ():
            return "none"
        case bool() as switch:
            return str(switch).lower()
        case int() | float() as number:
            return f"{number:.10g}"
        case text:
            return str(text)


def _all_endpoints() -> list[Endpoint]:
    return [*all_routes(), *documents([], "https://desk.test")]


def _commands(program: str, group: click.Group) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(f"{program} {name}", command)
        else:
            yield f"{program} {name}"


# --- reading the pages ------------------------------------------------------------------------------------------------


def _rows(name: str, first: str) -> Iterator[list[str]]:
    """The cells, without backquotes, of the rows of every table in a page whose first column is headed `first`."""
    wanted = False
    for line in _FENCED.sub("", PAGES[name]).splitlines():
        if not line.startswith("|"):
            wanted = False
            continue
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] == first:
            wanted = True
        elif wanted and not set(line) <= set("|-: "):
            yield cells


def _headings(name: str) -> list[tuple[int, str]]:
    return [(len(marks), text) for marks, text in _HEADING.findall(_FENCED.sub("", PAGES[name]))]


def _anchors(name: str) -> set[str]:
    """What a link may name after `#`: headings in lower case, without punctuation, with dashes for blanks."""
    if name not in PAGES:
        return set()
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for _, text in _headings(name)}
