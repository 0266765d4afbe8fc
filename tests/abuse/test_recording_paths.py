"""Recordings asked for by paths, ids, links and ranges that were made up: there is no way from them to another file."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from server.config import Config
from storage.database import Database
from tests.abuse.raw import peer
from tests.server.companies import Person
from tests.server.record_room import AUDIO, Desk, desk

SECRET = b"the secret beside the recordings"

CLIMBS = [
    "..",
    "%2e%2e",
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fsecret",
    "..%5c..%5csecret",
    "....//....//secret",
    "..%252f..%252fsecret",
    "%c0%ae%c0%ae%c0%afsecret",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "file:%2f%2f%2fetc%2fpasswd",
    "secret%00.mp3",
    "%00",
    "%0d%0aSet-Cookie:%20a=b",
    "C:%5cWindows%5cwin.ini",
    "~root",
    "%ff%fe",
    "*",
    "a" * 4000,
]
"""What stands where an id should."""

PATHS = [
    "/api/v1/calls/{}/recording",
    "/api/v1/calls/{}/recording?download=true",
    "/api/v1/calls/{}/recording/waveform",
    "/api/v1/calls/mobile/recording/uploads/{}",
    "/api/v1/recordings/{}",
    "/{}",
    "/assets/{}",
]

RANGES = {
    "bytes=0-3": (206, AUDIO[:4]),
    "bytes=-4": (206, AUDIO[-4:]),
    f"bytes=0-{10**30}": (206, AUDIO),
    f"bytes=-{10**30}": (206, AUDIO),
    f"bytes={10**30}-": (416, None),
    f"bytes={len(AUDIO)}-": (416, None),
    "bytes=-0": (416, None),
}
"""Ranges that mean something."""

NO_RANGES = [
    "bytes=5-2",
    "bytes=--1",
    "bytes=a-b",
    "bytes=1e2-",
    "bytes=0x0-0x4",
    "bytes=-",
    "bytes=",
    "bytes",
    "items=0-3",
    "bytes=0-0,2-2",
    "bytes=" + ",".join(["0-"] * 1000),
    "bytes=" + ",".join(f"{at}-{at}" for at in range(1000)),
    "bytes=0-3\t,",
    "bytes=\u00b2-",
    "bytes=٣-",
]
"""Those that mean nothing, or more than one piece: to whom many small ranges are served, one request is many."""


@pytest.fixture
async def kept(
    database: Database, redis: Redis, configure: Callable[..., Config], tmp_path: Path
) -> AsyncIterator[Desk]:
    """A node that keeps recordings in a folder, beside which there is a secret."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "secret").write_bytes(SECRET)
    async with desk(database, redis, configure(recordings="local", recordings_folder=tmp_path / "kept")) as opened:
        yield opened


async def ask(
    desk: Desk, path: str, who: Person | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """Ask for a path as it is, which no client makes better on the way."""
    port = int(str(desk.client.base_url).rstrip("/").rpartition(":")[2])
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in (who.headers if who else {}).items()]

    def exchange() -> tuple[int, dict[str, str], bytes]:
        with peer(port) as line:
            line.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
            return line.answer()

    return await asyncio.to_thread(exchange)


async def test_no_path_leads_to_another_file(kept: Desk) -> None:
    """Whatever stands in it, whoever asks: there is no such thing, or it may not be, and the answer is one of ours."""
    for path, who, climb in itertools.product(PATHS, (kept.admin, kept.room.firm.phone), CLIMBS):
        status, headers, body = await ask(kept, path.format(climb), who)

        assert status in {400, 401, 403, 404, 405, 422}, (path, climb, status)
        assert SECRET not in body
        assert b"root:" not in body
        assert "set-cookie" not in headers


async def test_an_id_of_another_company_is_none(kept: Desk) -> None:
    """Also where the asker may do all with recordings of its own: reading, linking, holding, deleting."""
    stranger = (await kept.room.town.company("other")).admin
    for method, below in (
        ("GET", ""),
        ("GET", "?download=true"),
        ("GET", "/waveform"),
        ("POST", "/link"),
        ("PUT", "/hold"),
        ("DELETE", "?reason=because"),
    ):
        answer = await kept.ask(
            stranger, method, below, json={"hold": True, "reason": "because"} if method == "PUT" else None
        )

        assert (404, "NOT_FOUND") == (answer.status_code, answer.json()["code"]), (method, below)


async def test_a_range_is_never_more_than_the_recording(kept: Desk) -> None:
    """However large its numbers are."""
    answers = {asked: await kept.ask(kept.agent, range=asked) for asked in RANGES}

    assert RANGES == {
        asked: (answer.status_code, answer.content if answer.status_code == 206 else None)
        for asked, answer in answers.items()
    }


async def test_what_is_no_single_range_is_answered_whole_or_refused(kept: Desk) -> None:
    """And never piece by piece: an answer is at most as long as the recording."""
    for asked in NO_RANGES:
        headers = [(name.encode(), value.encode()) for name, value in kept.agent.headers.items()]
        answer = await kept.client.get(kept.path, headers=[*headers, (b"range", asked.encode())])

        assert (200, AUDIO) == (answer.status_code, answer.content), asked


async def test_a_link_that_was_changed_is_none(kept: Desk) -> None:
    """Each bit of it counts, and no other way of signing is believed."""
    url = (await kept.ask(kept.agent, "POST", "/link")).json()["url"]
    token = url.rpartition("/")[2]
    head, body, signature = token.split(".")
    unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"
    changed = [
        f"{head}.{body}.",
        f"{unsigned}.{body}.",
        f"{unsigned}.{body}.{signature}",
        f"{head}.{body[:-1]}{'A' if body[-1] != 'A' else 'B'}.{signature}",
        f"{head}.{body}.{signature[::-1]}",
        f"{head}.{body}.{signature}.{signature}",
        f"{token}%00",
        f"{token}/..",
        f"..%2f{token}",
        f"{token}%0a",
    ]
    played, _, audio = await ask(kept, f"/api/v1/recordings/{token}")
    answers = [(await ask(kept, f"/api/v1/recordings/{each}"))[0] for each in changed]

    assert (200, AUDIO) == (played, audio)
    assert [404] * len(changed) == answers


NAMES = {
    "../../../../etc/cron.d/x": 200,
    "/etc/passwd": 200,
    "..\\..\\x.exe": 200,
    "a\0b.mp3": 200,
    'a\\"; filename=\\"evil.html': 200,
    "\u202egnp.exe": 200,
    "a\r\nX-Evil: 1\r\n\r\n<script>": 415,  # it ends the header, and is the beginning of the file
    "n" * 5000: 400,
}
"""What a file is called, and what becomes of it."""


async def test_the_name_of_an_uploaded_file_goes_nowhere(kept: Desk) -> None:
    """It is part of no path, no key and no header: what comes back is called by an id of ours."""
    for name, status in NAMES.items():
        call_id = await kept.room.call(has_recording=True)
        form = (
            f'--b\r\nContent-Disposition: form-data; name="callId"\r\n\r\n{call_id}\r\n--b\r\n'
            f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: audio/mpeg\r\n\r\n'
        )
        uploaded = await kept.client.post(
            "/api/v1/calls/mobile/recording/upload",
            content=form.encode() + AUDIO + b"\r\n--b--\r\n",
            headers={**kept.room.firm.phone.headers, "content-type": "multipart/form-data; boundary=b"},
        )

        assert status == uploaded.status_code, (name, uploaded.text)
        if status == 200:
            key = await kept.room.value("SELECT object_key FROM recording WHERE call_id = $1", call_id)
            download = await kept.client.get(
                f"/api/v1/calls/{call_id}/recording?download=true", headers=kept.admin.headers
            )

            assert re.fullmatch(r"[a-z0-9_./-]+", key, re.IGNORECASE)
            assert ".." not in key
            assert f'attachment; filename="{key.rpartition("/")[2]}"' == download.headers["content-disposition"]
            assert AUDIO == download.content
