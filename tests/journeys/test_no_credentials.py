"""The story of every provider, with all that goes wrong in it; then what it left behind is searched for credentials."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from clients.api import Refused
from tests.journeys.desk import VENDORS, Desk, Office, Vendor
from tests.journeys.house import House

SHORTEST = 8
"""Characters of what is searched for: a shorter word, such as a user name, may stand anywhere."""

SIGNED = re.compile(r"[?&](?:sign|signature|token|expires)=[\w%.-]+", re.IGNORECASE)
"""What makes a URL a key: whoever has a recording's, has the recording."""


class Search:
    """What must be nowhere, and all that was seen."""

    def __init__(self) -> None:
        self.credentials: set[str] = set()
        self.seen: dict[str, list[str]] = {}

    def see(self, where: str, what: object) -> None:
        """Keep something that was shown to somebody."""
        self.seen.setdefault(where, []).append(str(what))

    def leaks(self, where: str) -> set[str]:
        """The credentials that stand there, as they are or as bytes are shown."""
        text = "\n".join(self.seen[where])
        return {secret for secret in self.credentials if secret in text or secret.encode().hex() in text}


@pytest.mark.timeout(240)
async def test_no_credential_is_left_anywhere(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    """Not in a log line though everything is logged, an answer, a refusal, an audit row or any other row of any table.

    A line's own callback URLs are shown to who manages it, and rows keep what is sealed."""
    search = Search()
    async with Office.at(house, LOG_LEVEL="debug") as office:
        for vendor in VENDORS.values():
            await _story(search, office, vendor)
        admin = office.administrator
        for path in ("calls", "calls/lines", "calls/lines/providers", "admin/audit?pageSize=100"):
            search.see("answers", await admin.get(f"/api/v1/{path}"))
        await _dump(search, house)
    for process in house.processes:
        await process.stop()
    search.see("log", "".join(capfd.readouterr()))

    assert len(search.credentials) > len(VENDORS)
    assert any("Calls.hang_up" in text for text in search.seen["log"])
    assert {where: set() for where in search.seen} == {where: search.leaks(where) for where in search.seen}
    shown = {"log", "answers", "refusals", "audit_log", "call_event"}
    assert {where: [] for where in shown} == {where: SIGNED.findall("\n".join(search.seen[where])) for where in shown}


async def _story(search: Search, office: Office, vendor: Vendor) -> None:
    """A line is set up, tried, and changed in vain; calls are answered, refused, garbled, dropped and hung up."""
    admin = office.administrator
    async with Desk.at(vendor, office) as desk:
        settings, secrets = desk.cloud.line()
        secrets.pop("callbackUrl", None)  # the line's own is told instead
        token = urlsplit(next(iter(desk.callbacks.values()))).path.rpartition("/")[2]
        search.credentials |= {token, *(word for word in _words(secrets) if len(word) >= SHORTEST)}
        form = {**settings, **secrets}

        shown = await admin.get(f"/api/v1/calls/lines/{desk.line_id}")
        assert token in str(shown["config"].pop("callbackUrls"))
        search.see("answers", shown)
        for body in (
            {"providerConfig": {**form, "surprise": secrets}},
            {"providerConfig": {**form, **{name: [secrets] for name in secrets}}},
            {"providerConfig": {**form, "baseUrl": f"http://169.254.169.254/{token}"}},
        ):
            await _asked(search, admin.put(f"/api/v1/calls/lines/{desk.line_id}", body))
        await _asked(search, admin.post(f"/api/v1/calls/lines/{desk.line_id}/test"))

        answered = await desk.dial()
        await desk.ordered(answered)
        await desk.play(answered, "answered")
        await desk.end(answered)
        search.see("answers", await desk.agent.get(f"/api/v1/calls/{answered}"))
        for how in ("refuse", "garbage", "drop"):
            desk.cloud.next_place(how)
            try:
                call_id = await desk.dial()
            except Refused as refused:  # the agent's one extension may still be at work
                search.see("refusals", (refused, refused.details))
                continue
            await _asked(search, desk.agent.post("/api/v1/calls/hangup", {"callId": call_id}))
            search.see("answers", await desk.agent.get(f"/api/v1/calls/{call_id}"))


async def _asked(search: Search, asking: Any) -> None:
    try:
        search.see("answers", await asking)
    except Refused as refused:
        search.see("refusals", (refused, refused.details))


async def _dump(search: Search, house: House) -> None:
    """Every row of every table."""
    for table in await house.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        name = table["tablename"]
        for row in await house.rows(f'SELECT t::text AS row FROM "{name}" t'):
            search.see(name, row["row"])


def _words(value: object) -> Iterator[str]:
    match value:
        case dict():
            for each in value.values():
                yield from _words(each)
        case str():
            yield value
