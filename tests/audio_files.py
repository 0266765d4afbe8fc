"""Real recordings, made by FFmpeg as recorders make them: a tone of 400 Hz that is quiet first and loud then."""

import io
import math
from array import array
from typing import Final

import av
import av.container

QUIET: Final = 0.1
LOUD: Final = 0.8
"""Amplitudes of the tone, 1 being full scale."""

_TONE: Final = 400
_MADE_OF: Final = {
    # muxer, encoder, samples a second
    "mp3": ("mp3", "libmp3lame", 44100),
    "m4a": ("ipod", "aac", 44100),
    "mp4": ("mp4", "aac", 44100),
    "3gp": ("3gp", "libopencore_amrnb", 8000),
    "aac": ("adts", "aac", 44100),
    "amr": ("amr", "libopencore_amrnb", 8000),
    "wav": ("wav", "pcm_s16le", 8000),
    "ogg": ("ogg", "libopus", 48000),
}

FORMATS: Final = tuple(_MADE_OF)
"""What `make_audio` can make. `mp4` is an `m4a` under the brand that Android writes; `3gp` has AMR in it."""


def make_audio(extension: str, seconds: float = 2.0, *, channels: int = 1, loud_from: float = 0.5) -> bytes:
    """Return a file of one of FORMATS, the same bytes every time: `loud_from` of the time QUIET, then LOUD.

    Of several channels only the last has the tone. AMR has but one.
    """
    muxer, encoder, rate = _MADE_OF[extension]
    layout = {1: "mono", 2: "stereo"}[channels]
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(encoder, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.thread_count = 1
        container.mux(stream.encode(_tone(rate, round(seconds * rate), layout, loud_from)))
        container.mux(stream.encode(None))
    return file.getvalue()


def make_video(seconds: int = 1, *, sound: bool) -> bytes:
    """Return an MP4 with moving pictures, with or without the tone; it does not begin with its index."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        pictures = container.add_stream("mpeg4", rate=5, width=64, height=64, pix_fmt="yuv420p")
        assert isinstance(pictures, av.VideoStream)
        pictures.codec_context.thread_count = 1
        voice = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        for _ in range(5 * seconds):
            container.mux(pictures.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(pictures.encode(None))
        if isinstance(voice, av.AudioStream):
            container.mux(voice.encode(_tone(44100, 44100 * seconds, "mono", 0.5)))
            container.mux(voice.encode(None))
    return file.getvalue()


def amr_wideband(seconds: float) -> bytes:
    """Return AMR-WB, for which there is no encoder: frames of 20 ms at 6.6 kbit/s, all bits zero (RFC 4867 §5)."""
    return b"#!AMR-WB\n" + (b"\x04" + bytes(17)) * round(seconds * 50)


def _tone(rate: int, samples: int, layout: str, loud_from: float) -> av.AudioFrame:
    channels = {"mono": 1, "stereo": 2}[layout]
    quiet, loud = (_period(rate, channels, amplitude) for amplitude in (QUIET, LOUD))
    width = 2 * channels  # bytes for each moment
    switch = round(samples * loud_from)
    sound = (quiet * (switch * width // len(quiet) + 1))[: switch * width]
    sound += (loud * (samples * width // len(loud) + 1))[: (samples - switch) * width]
    frame = av.AudioFrame("s16", layout, samples, align=1)
    frame.sample_rate = rate
    frame.pts = 0
    frame.planes[0].update(sound)
    return frame


def _period(rate: int, channels: int, amplitude: float) -> bytes:
    """A twentieth of a second, in which the tone has come round at every rate; samples of 16 bits, interleaved."""
    wave = array("h")
    for moment in range(rate // 20):
        wave.extend([0] * (channels - 1))
        wave.append(round(32767 * amplitude * math.sin(math.tau * _TONE * moment / rate)))
    return wave.tobytes()
