"""The server keeps the promises of its OpenAPI document, whatever is asked of it: thousands of requests made from it.

Schemathesis runs as the program it is, from another process, and always makes the same requests.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import httpx
import pytest

from server.app import web_node
from server.config import Config
from server.http import Endpoint
from storage.database import Database
from tests.server.companies import NOBODY, Person, Town
from tests.server.serving import serving

EXAMPLES: Final = 10
"""Requests made at random for each operation, beside those at the limits of its types."""
LONGEST: Final = 240.0
"""Seconds after which a run has failed; the longest takes fifteen where nothing else is going on."""

LEFT_OUT: Final = {"Auth.logout": "ends the session of who asks, and with it the test"}

UNCHECKED: Final = {
    "positive_data_acceptance": "types cannot say which ids exist or which words the tenant chose, so that what obeys"
    " them may be refused",
}
UNCHECKED_OF_PHONES: Final = {
    "negative_data_rejection": "a report is not lost for what only informs: an unreadable field of it is dropped",
}


async def explore(
    url: str, person: Person, endpoints: list[Endpoint], unchecked: Iterable[str], folder: Path
) -> tuple[int, str]:
    """Ask these operations of a server for all that its document allows, and more: (exit code, report)."""
    arguments = [
        *("run", f"{url}/api/openapi.json", "--url", url, "--no-color", "--continue-on-failure"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic"),
        *("--checks", "all", "--exclude-checks", ",".join(unchecked)),
        *(f"--include-operation-id={endpoint.name}" for endpoint in endpoints),
        # It knows credentials by the very names that the document gives them.
        *(f"--header={name.title()}:{value}" for name, value in person.headers.items()),
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *arguments),
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")} | {"NO_PROXY": "*"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LONGEST):
            report, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, report.decode()


@pytest.mark.timeout(LONGEST + 30)
@pytest.mark.parametrize("whose", ["admin", "key", "phone", "root"])
async def test_the_server_keeps_the_promises_of_its_document(
    configure: Callable[..., Config], database: Database, tmp_path: Path, whose: str
) -> None:
    """No request of who may ask is the server's fault; each is answered by a status, a type, headers and a body that
    the document tells; what the document does not allow is refused, and so is who shows no credential."""
    config = configure(login_rate=1_000_000, recordings="local", recordings_folder=tmp_path / "recordings")
    async with web_node(config) as node, serving(node.app, config) as server:
        town = Town(database, config)
        company, (_, root) = await town.company("acme"), await town.user(None, "system_admin")
        person = {"admin": company.admin, "key": company.key, "phone": company.phone, "root": root}[whose]
        askers = [person, NOBODY] if person is company.key else [person]
        unchecked = {**UNCHECKED, **(UNCHECKED_OF_PHONES if person is company.phone else {})}
        asked = [
            endpoint
            for endpoint in node.endpoints
            if endpoint.path.startswith("/api/v1/")
            and endpoint.name not in LEFT_OUT
            and company.who_may(endpoint, root) in askers
        ]
        code, report = await explore(server.url, person, asked, unchecked, tmp_path)
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            after = await client.post("/api/v1/auth/ws-ticket", headers=person.headers)

    assert code == 0, report
    assert f"Tested: {len(asked)}" in report
    assert after.status_code not in {401, 403}  # else it was not this person who asked, but nobody
