"""A phone's recordings on their way: one at a time, again and again until the server has them."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from clients.api import Api, Refused, Unreachable
from clients.connection import Timing, full_jitter
from clients.memory import Brought, Memory, Recorded, Recording
from clients.recording import UPLOAD, AudioFile, Pieces, bring_in_parts, bring_whole
from protocol.messages import RecordingUpload

log = logging.getLogger(__name__)

TIMES = 3
"""How often a recording is brought that the server then has not."""


class Uploads:
    """Brings what `memory` holds of recordings, each when what was reported of its call is settled.

    A recording that was brought is told by `report`; the duty ends when that is acked, or the server will not have the
    recording. `credentials` may hold an attempt back.
    """

    def __init__(
        self,
        memory: Memory,
        timing: Timing,
        origin: str,
        *,
        credentials: Callable[[], Awaitable[Mapping[str, str]]],
        report: Callable[[RecordingUpload], None],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.refused: dict[str, str] = {}
        """Recordings that the server will not have: code by call id."""
        self.empty = asyncio.Event()
        """Set while no recording waits to be brought, or to be acked."""
        self.twice = False
        """A fault for tests: what was brought is brought once more."""
        self.cut_after: int | None = None
        """A fault for tests: the line is cut, once, when so many more bytes have gone out."""
        self._memory = memory
        self._timing = timing
        self._origin = origin
        self._credentials = credentials
        self._report = report
        self._tls = tls
        self._running = False
        self._attempt: asyncio.Timeout | None = None
        if not memory.recordings:
            self.empty.set()

    def put(self, recording: Recording) -> None:
        """Write a recording down; it is due when the end of its call is settled."""
        self._memory.note(Recorded(recording))
        self.empty.clear()

    def bring(self, tasks: asyncio.TaskGroup) -> None:
        """Bring what is due, the oldest first, in a task that lives while there is something."""
        if not self._running and self._next() is not None:
            self._running = True
            tasks.create_task(self._run())

    def answered(self, call_id: str, code: str | None) -> None:
        """The report of a recording was acked, or refused with this code."""
        recording = self._memory.recordings.get(call_id)
        if recording is None:
            return
        if code == "NOT_FOUND" and recording.times < TIMES:
            self._memory.note(Recorded(msgspec.structs.replace(recording, upload_id=None)))
        else:
            self._end(call_id, code)

    def cut(self) -> None:
        """Lose the line; the attempt under way fails."""
        if self._attempt is not None and not self._attempt.expired():
            self._attempt.reschedule(asyncio.get_running_loop().time())

    def _next(self) -> Recording | None:
        unsettled = {report.call_id for report in self._memory.unacked.values()}
        return next((found for call_id, found in self._memory.recordings.items() if call_id not in unsettled), None)

    async def _run(self) -> None:
        async with Api(self._origin, tls=self._tls) as api:
            try:
                while (recording := self._next()) is not None:
                    await self._bring(api, recording.call_id)
            finally:
                self._running = False  # at once: closing takes time, in which more may become due

    async def _bring(self, api: Api, call_id: str) -> None:
        try:
            file = await self._persist(api, call_id)
            if self.twice:
                await self._persist(api, call_id)
        except Refused as refusal:
            log.warning("the recording of %s is not taken: %s", call_id, refusal)
            self._end(call_id, refusal.code)
            return
        recording = self._memory.recordings[call_id]
        self._memory.note(Recorded(msgspec.structs.replace(recording, times=recording.times + 1)))
        self._report(RecordingUpload(call_id=call_id, size=file.size, sha256=file.sha256))

    async def _persist(self, api: Api, call_id: str) -> AudioFile:
        """Try until it is brought. Raises Refused where it never will be."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begun_at = loop.time()
            try:
                async with asyncio.timeout(None) as self._attempt:
                    return await self._try(api, call_id)
            except (Unreachable, TimeoutError) as error:
                why: Exception = error
            except Refused as refusal:
                if not refusal.retry:
                    raise
                why = refusal
            finally:
                self._attempt = None
            if loop.time() - begun_at >= self._timing.steady_after:
                failures = 0
            pause = full_jitter(failures, self._timing)
            failures += 1
            log.info("the recording of %s was not brought: %s; next attempt in %.1f s", call_id, why, pause)
            await asyncio.sleep(pause)

    async def _try(self, api: Api, call_id: str) -> AudioFile:
        headers = await self._credentials()
        recording = self._memory.recordings[call_id]
        try:
            file = await AudioFile.open(Path(recording.path), self._wire)
        except OSError as error:
            raise Refused("RECORDING_MISSING", f"the file cannot be read: {error}", retry=False) from error
        if file.size <= self._timing.upload_whole:
            await bring_whole(api, UPLOAD, file, headers, callId=call_id)
        else:
            await bring_in_parts(api, call_id, file, headers, recording.upload_id, self._begun(recording))
        return file

    def _begun(self, recording: Recording) -> Callable[[str | None], None]:
        return lambda upload_id: self._memory.note(Recorded(msgspec.structs.replace(recording, upload_id=upload_id)))

    def _end(self, call_id: str, code: str | None) -> None:
        if code is not None:
            self.refused[call_id] = code
        self._memory.note(Brought(call_id))
        if not self._memory.recordings:
            self.empty.set()

    async def _wire(self, pieces: Pieces) -> Pieces:
        """The way out, which tests cut."""
        async for piece in pieces:
            if self.cut_after is not None and len(piece) > self.cut_after:
                yield piece[: self.cut_after]
                self.cut_after = None
                raise ConnectionAbortedError("cut, as the test asked")
            if self.cut_after is not None:
                self.cut_after -= len(piece)
            yield piece
