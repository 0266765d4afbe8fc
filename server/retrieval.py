"""Recordings that providers keep for a while at URLs of theirs: fetched into our own store, the URL never kept."""

import asyncio

import structlog

from protocol.errors import DialdeskError
from server.fetch import Fetcher, FetchFailed, back_off
from server.intake import Intake
from storage import fetches
from storage.calls import Reach
from storage.database import Database
from storage.fetches import Fetch, url_place
from storage.vault import SealError, Vault

log = structlog.get_logger()

AT_ONCE = 4
"""Recordings that one worker fetches at a time."""

OFFERED_FOR = 24 * 3600.0
"""Seconds for which providers serve a URL; after it there is no use in trying."""

_FINAL = {"NOT_FOUND", "RECORDING_OFF", "RECORDING_EXISTS", "RECORDING_GONE", "BODY_TOO_LARGE"}
"""Not UNSUPPORTED_AUDIO: some answer 200 with a page of text, or nothing, until the recording is made."""


class Retrieval:
    """Fetches what providers offer. `want` is called by whoever hears of a recording, `fetch` by a worker, for ever."""

    def __init__(self, database: Database, vault: Vault, fetcher: Fetcher, intake: Intake, *, lease: float) -> None:
        self._database = database
        self._vault = vault
        self._fetcher = fetcher
        self._intake = intake
        self._lease = lease

    async def want(self, tenant_id: str, call_id: str, line_id: str, url: str) -> bool:
        """A provider offers the recording of a call at `url`, for about a day.

        False where the call has one already, or was made while recording was off. The URL is judged when it is used.
        """
        sealed = self._vault.seal(url.encode(), url_place(call_id))
        async with self._database.connection() as connection:
            return await fetches.want(
                connection, tenant_id, call_id, line_id, sealed, after=back_off(0), until=OFFERED_FOR
            )

    async def fetch(self) -> None:
        """Fetch what is due, and put off what does not go."""
        async with self._database.connection() as connection:
            due = await fetches.due(connection, self._lease, AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for job in due:
                group.create_task(self._attend(job))

    async def _attend(self, job: Fetch) -> None:
        try:
            failure, final = await self._try(job)
            async with self._database.connection() as connection:
                if failure is None:
                    await fetches.drop(connection, job)
                elif final or job.last_try:
                    log.warning("recording not fetched", call_id=job.call_id, reason=failure)
                    await fetches.give_up(connection, job, failure)
                else:
                    await fetches.put_off(connection, job, back_off(job.tries), failure)
        except DialdeskError as error:  # PostgreSQL is away: the claim ends by itself
            log.warning("fetch put off", call_id=job.call_id, cause=repr(error.__cause__))
        except Exception:  # one that breaks does not keep the others from being fetched
            log.exception("fetch broke", call_id=job.call_id)

    async def _try(self, job: Fetch) -> tuple[str | None, bool]:
        """Fetch one: why it failed, if it did, and whether for good. The reason never quotes the URL."""
        try:
            url = self._vault.open(job.url, url_place(job.call_id)).decode()
            reach = Reach.whole(job.tenant_id)
            target = await self._intake.target(reach, job.call_id)
            async with self._fetcher.fetch(url) as found:
                await self._intake.take(target, "provider", job.line_id, aiter(found), length=found.length)
        except SealError as error:
            return f"a key is missing: {error}", False  # until somebody puts it back
        except FetchFailed as error:
            return str(error), error.final
        except DialdeskError as error:
            return error.code, error.code in _FINAL
        return None, False
