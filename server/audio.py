"""Which sound a file is, by its first bytes; and what is in it, as a child process tells us.

FFmpeg reads recordings, and a recording may come from anybody: a decoder that goes wrong takes only its own process
with it, in which `audio_reader.py` has first given away nearly all that a process may do.
"""

import asyncio
import math
import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Final
from weakref import WeakKeyDictionary

import msgspec

HEAD: Final = 4096
"""Bytes that `audio_type` can make use of."""

MEMORY: Final = 512 * 1024 * 1024
"""Bytes of address space for the reader of one file; the libraries alone map a quarter of it."""

AT_ONCE: Final = 2
"""Files that one process has read at a time; further callers wait for a place."""

_ANSWER: Final = 8192
"""Bytes that the reader may say; 800 peaks are some 1100 of them."""


class Unreadable(Exception):  # noqa: N818 - a fact of the file, told to whoever asked what is in it
    """Nothing in the file can be heard, or not within the limits of time and memory. The text says why."""


class AudioType(msgspec.Struct, frozen=True):
    """A kind of file: what its name ends with, no dot; its media type; FFmpeg's name for what takes it apart."""

    extension: str
    media_type: str
    demuxer: str


class AudioFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was heard in a file.

    `duration` is in seconds, counted in decoded samples, whatever the header says. `codec` is FFmpeg's name, such as
    `aac` or `amr_nb`. `peaks` has up to 800 bytes for as many equal stretches of the time: the loudest sample of any
    channel, 255 being full scale.
    """

    duration: Annotated[float, msgspec.Meta(ge=0)]
    codec: Annotated[str, msgspec.Meta(max_length=40)]
    sample_rate: Annotated[int, msgspec.Meta(gt=0)]
    channels: Annotated[int, msgspec.Meta(gt=0)]
    peaks: Annotated[bytes, msgspec.Meta(min_length=1, max_length=800)]


MP3: Final = AudioType("mp3", "audio/mpeg", "mp3")
M4A: Final = AudioType("m4a", "audio/mp4", "mov")
THREE_GP: Final = AudioType("3gp", "audio/3gpp", "mov")
AAC: Final = AudioType("aac", "audio/aac", "aac")
AMR: Final = AudioType("amr", "audio/amr", "amr")
AMR_WB: Final = AudioType("awb", "audio/amr-wb", "amr")
WAV: Final = AudioType("wav", "audio/wav", "wav")
OGG: Final = AudioType("ogg", "audio/ogg", "ogg")

_BEGINNINGS: Final = [
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (rb"ID3[\x02-\x04].{2}[\x00-\x7f]{4}", MP3),
        (rb"....ftyp(M4[AB] |mp4[12]|iso[2-9m])", M4A),
        (rb"....ftyp3gp[4-9p]", THREE_GP),
        (rb"#!AMR\n", AMR),
        (rb"#!AMR-WB\n", AMR_WB),
        (rb"RIFF....WAVE", WAV),
        (rb"OggS\x00", OGG),
    )
]
_MOVING_PICTURES: Final = re.compile(rb"hdlr.{8}vide|\x80theora|\x01video", re.DOTALL)

_TOLD: Final = {
    **dict.fromkeys(("audio/mpeg", "audio/mp3", "audio/x-mp3", "audio/x-mpeg"), MP3),
    **dict.fromkeys(("audio/mp4", "audio/m4a", "audio/x-m4a"), M4A),
    **dict.fromkeys(("audio/3gpp", "audio/3gp"), THREE_GP),
    **dict.fromkeys(("audio/aac", "audio/aacp", "audio/x-aac"), AAC),
    **dict.fromkeys(("audio/amr", "audio/amr-nb"), AMR),
    **dict.fromkeys(("audio/amr-wb",), AMR_WB),
    **dict.fromkeys(("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"), WAV),
    **dict.fromkeys(("audio/ogg", "audio/opus", "application/ogg"), OGG),
}

_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def audio_type(head: bytes) -> AudioType | None:
    """Tell a recording from anything else by its first bytes: 16 will do, up to HEAD are looked at.

    Our own table, because filetype and puremagic take any FF FB for MP3, do not know MPEG 2.5, and call what Android's
    recorder writes a video. Whether an MP4 has pictures may stand at its end only: such a file passes here,
    and `read_audio` hears its sound.
    """
    head = head[:HEAD]
    for beginning, kind in _BEGINNINGS:
        if beginning.match(head):
            return None if _MOVING_PICTURES.search(head) else kind
    return _frame_type(int.from_bytes(head[:4])) if len(head) >= 4 else None


def by_media_type(told: str) -> AudioType | None:
    """Return the kind that a Content-Type names, under any of the names in use; parameters are left aside."""
    return _TOLD.get(told.partition(";")[0].strip().lower())


async def read_audio(path: Path, *, timeout: float, memory: int = MEMORY) -> AudioFacts:
    """Hear a file from end to end, in a process of its own with at most `memory` bytes and `timeout` seconds.

    The time runs from when the file has one of the AT_ONCE places. What is damaged or cut short is heard as far as it
    goes. Raises Unreadable where there is no sound in it, or it takes more time or memory, or breaks the reader;
    OSError where the file cannot be opened.
    """
    async with _places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)):
        kind = audio_type(await asyncio.to_thread(_head, path))
        if kind is None:
            raise Unreadable("the file does not begin like any kind of audio")
        limits = str(memory), str(math.ceil(timeout) + 1)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", Path(__file__).with_name("audio_reader.py"), path, kind.demuxer, *limits),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_ANSWER,
            env={"LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C at a terminal is for us: we drain
        )
        return await _answer(process, timeout)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


async def _answer(process: asyncio.subprocess.Process, timeout: float) -> AudioFacts:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout):
            told = await process.stdout.readline()
            code = await process.wait()
        match code:
            case os.EX_OK:
                return msgspec.json.decode(told, type=AudioFacts)
            case os.EX_DATAERR:
                raise Unreadable(told.decode(errors="replace").strip())
            case _:
                raise Unreadable(f"the reader broke: {signal.strsignal(-code) if code < 0 else f'exit code {code}'}")
    except TimeoutError as error:
        raise Unreadable(f"the file was not read within {timeout:g} s") from error
    except ValueError as error:  # too long a line, or no facts
        raise Unreadable("the reader did not answer as agreed") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _frame_type(header: int) -> AudioType | None:
    """The kind of a bare stream, by the first 32 bits of its first frame (ISO/IEC 11172-3 §2.4.1.3, 13818-7 §6.2)."""
    match header >> 21, header >> 17 & 3:
        case 0x7FF, 0b01 if header >> 19 & 3 != 1 and 0 < header >> 12 & 15 < 15 and header >> 10 & 3 != 3:
            return MP3
        case 0x7FF, 0b00 if header >> 20 & 1 and header >> 10 & 15 < 13:
            return AAC
        case _:
            return None
