"""Hear one file of sound and say what is in it, in a process that can do nothing else.

`audio.py` starts this file as a script: `python -I audio_reader.py PATH DEMUXER MEMORY SECONDS`. Exit code 0 comes with
one line of JSON, the fields of `audio.AudioFacts`; EX_DATAERR with one line that says why there are none. Whatever else
happens is for `audio.py` to judge.
"""

import base64
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Literal

import av
import av.container
import av.error
import av.subtitles.stream

PEAKS: Final = 800

CODECS: Final = (
    "aac", "adpcm_ima_wav", "adpcm_ms", "alac", "amrnb", "amrwb", "flac", "g723_1", "g726", "g729", "gsm_ms", "mp3",
    "mp3float", "opus", "pcm_alaw", "pcm_f32le", "pcm_mulaw", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_u8", "speex",
    "vorbis",
)  # fmt: skip
"""The decoders that may run: what recorders and telephone systems write, and no pictures."""

_SAMPLES: Final[dict[str, tuple[Literal["B", "h", "i", "f", "d"], int, float]]] = {
    "u8": ("B", 128, 128.0),
    "s16": ("h", 0, 2.0**15),
    "s32": ("i", 0, 2.0**31),
    "flt": ("f", 0, 1.0),
    "dbl": ("d", 0, 1.0),
}
"""How samples lie in memory: their code in `memoryview`, the value of silence, and full scale."""

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class NothingHeard(Exception):  # noqa: N818 - a fact of the file
    """No stream of sound, or not one sample in it."""


class Peaks:
    """The loudest of each stretch of a sound of unknown length, in one pass and bounded memory.

    Stretches begin one sample long; whenever there are twice as many as wanted, each two neighbours become one.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._width = 1
        self._stretches: list[float] = []
        self._last = 0.0
        self._filled = 0  # samples in the last stretch, which is not among the others yet

    def add(self, samples: int, loudest: Callable[[int, int], float]) -> None:
        """Take so many samples more; `loudest(start, end)` tells the amplitude among them, 1 being full scale."""
        start = 0
        while start < samples:
            end = min(start + self._width - self._filled, samples)
            self._last = max(self._last, loudest(start, end))
            self._filled += end - start
            start = end
            if self._filled == self._width:
                self._close()

    def levels(self) -> bytes:
        """Return the stretches, as many as wanted if there were samples enough; 255 is full scale."""
        stretches = [*self._stretches, self._last] if self._filled else self._stretches
        have = len(stretches)
        count = min(have, self._wanted)
        loudest = (max(stretches[i * have // count : (i + 1) * have // count]) for i in range(count))
        return bytes(int(255 * min(1.0, level)) for level in loudest)

    def _close(self) -> None:
        self._stretches.append(self._last)
        self._last, self._filled = 0.0, 0
        if len(self._stretches) == 2 * self._wanted:
            self._stretches = [max(pair) for pair in zip(self._stretches[::2], self._stretches[1::2], strict=True)]
            self._width *= 2


def main(path: str, demuxer: str, memory: str, seconds: str) -> int:
    """Open the file, give up what else a process may do, and read."""
    with Path(path).open("rb") as file:
        confine(int(memory), int(seconds))
        try:
            told, code = json.dumps(facts(file, demuxer)), os.EX_OK
        except NothingHeard:
            told, code = "there is no sound in the file", os.EX_DATAERR
        except av.error.FFmpegError as error:
            told, code = error.strerror or type(error).__name__, os.EX_DATAERR
        except MemoryError:
            told, code = "it takes too much memory", os.EX_DATAERR
    sys.stdout.write(f"{told}\n")
    return code


def confine(memory: int, seconds: int) -> None:
    """Keep to this much memory and time of the processor; open nothing, write nothing, outlive nobody.

    No new descriptor means neither file nor socket, whatever a playlist or a decoder asks for. Should the parent have
    died before this, the limit of time does it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(10)  # calls come first
    with suppress(OSError):  # and where sessions share the cores before their processes do: sched(7), autogroup
        Path("/proc/self/autogroup").write_text("10")
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),  # a dump would hold what was said
    ):
        resource.setrlimit(limit, (value, value))


def facts(file: BinaryIO, demuxer: str) -> dict[str, object]:
    """Decode the first stream of sound; the fields of `audio.AudioFacts`. Raises NothingHeard where there is none."""
    # From a file object FFmpeg reads by our functions, with a named demuxer it tries no other: no playlist is followed.
    options = {"codec_whitelist": ",".join(CODECS)}
    with av.open(file, "r", format=demuxer, container_options=options, metadata_errors="replace") as container:
        peaks, duration, first = Peaks(PEAKS), 0.0, None
        for frame in _frames(container):
            first = first or frame
            duration += frame.samples / frame.sample_rate
            peaks.add(frame.samples, _loudness(frame))
        if first is None:
            raise NothingHeard
        return {
            "duration": round(duration, 3),
            "codec": container.streams.audio[0].codec_context.codec.canonical_name,
            "sample_rate": first.sample_rate,
            "channels": first.layout.nb_channels,
            "peaks": base64.b64encode(peaks.levels()).decode(),
        }


def _frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """All that can be decoded: a damaged packet is left out, and damage that hides the next packet is the end."""
    if not container.streams.audio:
        return
    stream = container.streams.audio[0]
    stream.codec_context.options = {"codec_whitelist": ",".join(CODECS)}
    stream.codec_context.thread_count = 1
    with suppress(av.error.InvalidDataError):
        for packet in container.demux(stream):
            with suppress(av.error.InvalidDataError):
                yield from stream.decode(packet)


def _loudness(frame: av.AudioFrame) -> Callable[[int, int], float]:
    """What tells the amplitude of a part of this frame, over all channels."""
    code, silence, full = _SAMPLES[frame.format.packed.name]
    step = 1 if frame.format.is_planar else frame.layout.nb_channels
    length = frame.samples * step * frame.format.bytes
    rows = [memoryview(plane)[:length].cast("B").cast(code) for plane in frame.planes]

    def loudest(start: int, end: int) -> float:
        parts = [row[start * step : end * step] for row in rows]
        return max(max(max(part) - silence, silence - min(part)) for part in parts) / full

    return loudest


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
