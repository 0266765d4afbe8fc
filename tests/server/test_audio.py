"""Which sound a file is, and what is in it: real recordings of each kind, and what is none."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from server import audio, audio_reader
from server.audio import AudioType, Unreadable, audio_type, by_media_type, read_audio
from tests.audio_files import FORMATS, LOUD, QUIET, amr_wideband, make_audio, make_video
from tests.waiting import until

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60.0
"""Seconds that a slow machine may take to read two."""

KINDS = {
    "mp3": audio.MP3,
    "m4a": audio.M4A,
    "mp4": audio.M4A,
    "3gp": audio.THREE_GP,
    "aac": audio.AAC,
    "amr": audio.AMR,
    "wav": audio.WAV,
    "ogg": audio.OGG,
}
CODECS = {
    "mp3": "mp3",
    "m4a": "aac",
    "mp4": "aac",
    "3gp": "amr_nb",
    "aac": "aac",
    "amr": "amr_nb",
    "wav": "pcm_s16le",
    "ogg": "opus",
}
NO_AUDIO = {
    "nothing": b"",
    "zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(30),
    "exe": b"MZ\x90\x00\x03\x00\x00\x00" + bytes(30),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(30),
    "html": b"<!DOCTYPE html><html><script>",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01",
    "text in UTF-16": "﻿ID3 is what it says".encode("utf-16-le"),
    "words about ID3": b"ID3 tags are at the beginning",
    "sync and no header": b"\xff\xfb\xff\xff" + bytes(30),
    "no such rate": b"\xff\xfb\x9c\x00" + bytes(30),
    "MPEG layer II": b"\xff\xfd\x90\x64" + bytes(30),
    "avi": b"RIFF\x24\x00\x00\x00AVI LIST" + bytes(30),
    "webm": b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2",
    "QuickTime": b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ",
    "HEIC": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
    "MP4 that begins with its pictures": b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42"
    b"\x00\x00\x00\x2dhdlr\x00\x00\x00\x00\x00\x00\x00\x00vide" + bytes(30),
    "Theora": b"OggS\x00\x02" + bytes(22) + b"\x80theora" + bytes(30),
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
    "list of files": b"ffconcat version 1.0\nfile /etc/passwd\n",
}


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A recording of a day and a half that takes no room: silence after a second of tone."""
    path = tmp_path / "endless.wav"
    path.write_bytes(make_audio("wav", 1)[:40] + b"\xff\xff\xff\xff")
    os.truncate(path, 1 << 31)
    return path


@pytest.mark.parametrize("made", FORMATS)
def test_kinds_are_told_by_content(made: str) -> None:
    """The first 16 bytes of what recorders write tell its kind, and more of them tell the same."""
    content = make_audio(made, 0.5)

    assert [KINDS[made]] * 2 == [audio_type(content[:16]), audio_type(content[: audio.HEAD])]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"ID3\x04\x00\x00\x00\x00\x02\x01TIT2\x00\x00", audio.MP3),
        (b"\xff\xfb\x90\x64", audio.MP3),
        (b"\xff\xf3\x84\xc4", audio.MP3),
        (b"\xff\xe3\x18\xc4", audio.MP3),
        (b"\xff\xf9\x50\x80", audio.AAC),
        (b"#!AMR-WB\n", audio.AMR_WB),
        (b"\x00\x00\x00\x18ftyp3gp4\x00\x00\x00\x00isom3gp4", audio.THREE_GP),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42", audio.M4A),
    ],
)
def test_known_beginnings(head: bytes, kind: AudioType) -> None:
    """MP3 with ID3, and bare of MPEG 1, 2 and 2.5; AAC of MPEG 2; wide-band AMR; the brands of Android's recorder."""
    assert kind == audio_type(head)


@pytest.mark.parametrize("name", NO_AUDIO)
def test_anything_else_is_no_audio(name: str) -> None:
    """Archives, programs, pages, pictures, videos and playlists are not taken for recordings."""
    assert audio_type(NO_AUDIO[name]) is None


@given(st.one_of(st.binary(max_size=64), st.sampled_from([*NO_AUDIO.values()]).flatmap(st.permutations).map(bytes)))
def test_any_bytes_have_a_kind_or_none(head: bytes) -> None:
    """Whatever the bytes, the answer is a kind or none."""
    assert audio_type(head) in {*KINDS.values(), audio.AMR_WB, None}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("audio/mpeg", audio.MP3),
        ("audio/x-m4a", audio.M4A),
        ("Audio/MP4; codecs=mp4a.40.2", audio.M4A),
        ("audio/aac", audio.AAC),
        ("audio/3gpp", audio.THREE_GP),
        ("audio/amr", audio.AMR),
        ("audio/amr-wb", audio.AMR_WB),
        ("audio/x-wav", audio.WAV),
        ("audio/ogg", audio.OGG),
        ("video/mp4", None),
        ("application/octet-stream", None),
        ("", None),
    ],
)
def test_media_types_name_kinds(told: str, kind: AudioType | None) -> None:
    """A media type names a kind under any of its names, in any case, with or without parameters."""
    assert kind == by_media_type(told)


def test_every_kind_is_named_by_its_own_media_type() -> None:
    """What a recording is served as is understood when it comes in."""
    kinds = {*KINDS.values(), audio.AMR_WB}

    assert kinds == {by_media_type(kind.media_type) for kind in kinds}


@pytest.mark.parametrize("made", FORMATS)
async def test_a_recording_is_heard(made: str, tmp_path: Path) -> None:
    """Duration, codec and peaks are those of the sound in the file: quiet in the first half, loud in the second."""
    facts = await read_audio(_written(tmp_path, make_audio(made, 2)), timeout=PATIENCE)

    assert (CODECS[made], 1) == (facts.codec, facts.channels)
    assert 2.0 == pytest.approx(facts.duration, abs=0.1)
    assert 800 == len(facts.peaks)
    assert 255 * QUIET == pytest.approx(median(facts.peaks[:400]), abs=15)
    assert 255 * LOUD == pytest.approx(median(facts.peaks[400:]), abs=50)


async def test_wide_band_amr_is_heard(tmp_path: Path) -> None:
    """AMR-WB is decoded as well."""
    facts = await read_audio(_written(tmp_path, amr_wideband(1)), timeout=PATIENCE)

    assert ("amr_wb", 16000, 1.0) == (facts.codec, facts.sample_rate, facts.duration)


@pytest.mark.parametrize("made", ["wav", "mp3"])
async def test_one_loud_channel_is_enough(made: str, tmp_path: Path) -> None:
    """The peaks are over all channels, be they interleaved or apart: a tone on one of two is as loud as on one."""
    facts = await read_audio(_written(tmp_path, make_audio(made, 1, channels=2, loud_from=0)), timeout=PATIENCE)

    assert 2 == facts.channels
    assert 255 * LOUD == pytest.approx(max(facts.peaks), rel=0.1)


async def test_the_header_is_not_believed(tmp_path: Path) -> None:
    """The length is that of the samples that are there, not the gigabytes that a header promises."""
    content = make_audio("wav", 1)

    facts = await read_audio(_written(tmp_path, content[:40] + b"\xff\xff\xff\x7f" + content[44:]), timeout=PATIENCE)

    assert 1.0 == facts.duration


@pytest.mark.parametrize("made", ["mp3", "aac", "amr", "wav", "ogg"])
async def test_half_a_stream_is_heard_as_far_as_it_goes(made: str, tmp_path: Path) -> None:
    """Of what was cut off in the middle the first half is told."""
    content = make_audio(made, 2)

    facts = await read_audio(_written(tmp_path, content[: len(content) // 2]), timeout=PATIENCE)

    assert 1.0 == pytest.approx(facts.duration, abs=0.1)


async def test_damage_in_the_middle_is_left_out(tmp_path: Path) -> None:
    """What follows damaged bytes is heard."""
    content = make_audio("mp3", 2)
    third = len(content) // 3

    facts = await read_audio(
        _written(tmp_path, content[:third] + b"\xff" * 2000 + content[third + 2000 :]), timeout=PATIENCE
    )

    assert 1.5 < facts.duration < 2.1


async def test_the_sound_of_a_video_is_heard(tmp_path: Path) -> None:
    """A file that turns out to have pictures beside its sound is told by its sound."""
    facts = await read_audio(_written(tmp_path, make_video(sound=True)), timeout=PATIENCE)

    assert "aac" == facts.codec
    assert 1.0 == pytest.approx(facts.duration, abs=0.1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not begin like"),
        (NO_AUDIO["playlist"], "does not begin like"),
        (make_audio("m4a", 1)[:-200], "Invalid data"),
        (b"ID3\x03\x00\x00\x00\x00\x00\x00" + b"\x55" * 50_000, "Invalid data"),
        (b"OggS\x00" + bytes(range(256)) * 100, "End of file"),
        (make_audio("wav", 1)[:44], "no sound"),
        (make_video(sound=False), "no sound"),
    ],
    ids=["empty", "playlist", "MP4 without its index", "garbage as MP3", "garbage as Ogg", "header alone", "no voice"],
)
async def test_what_has_no_sound_is_unreadable(content: bytes, reason: str, tmp_path: Path) -> None:
    """What is no audio, or has none in it that can be decoded, is unreadable, and the reason says so."""
    with pytest.raises(Unreadable, match=reason):
        await read_audio(_written(tmp_path, content), timeout=PATIENCE)


async def test_other_decoders_do_not_run(tmp_path: Path) -> None:
    """A codec that no recorder writes is not decoded, though FFmpeg could: here one for a game of 1990."""
    content = bytearray(make_audio("wav", 1))
    content[20:22] = b"\x00\x02"  # the tag of Creative's ADPCM

    with pytest.raises(Unreadable):
        await read_audio(_written(tmp_path, bytes(content)), timeout=PATIENCE)


async def test_a_missing_file_is_no_unreadable_one(tmp_path: Path) -> None:
    """A file that is not there says nothing about a recording: the error of the system is raised."""
    with pytest.raises(FileNotFoundError):
        await read_audio(tmp_path / "nothing", timeout=PATIENCE)


@pytest.mark.parametrize("demuxer", ["hls", "concat"])
def test_a_playlist_opens_nothing(demuxer: str, tmp_path: Path) -> None:
    """Even FFmpeg's own readers of playlists, which no kind of ours names, reach neither a file nor the network."""
    pipe = tmp_path / "named.wav"
    os.mkfifo(pipe)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.wav"
        playlist = {
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXTINF:1,\n{pipe}\n#EXT-X-ENDLIST\n",
            "concat": f"ffconcat version 1.0\nfile {pipe}\nfile {url}\n",
        }
        read = subprocess.run(
            _reader(_written(tmp_path, playlist[demuxer].encode()), demuxer),
            env={},  # as it is run: what measures coverage finds no file it may open in there
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        server.setblocking(False)

        assert (os.EX_DATAERR, b"") == (read.returncode, read.stderr)
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_too_long_to_read_in_time(endless: Path) -> None:
    """After its time the reader is ended, and the file unreadable."""
    with pytest.raises(Unreadable, match=r"within 0\.5 s"):
        await read_audio(endless, timeout=0.5)

    assert [] == _readers()


async def test_too_much_memory(tmp_path: Path) -> None:
    """A file that takes more memory to read than it may is unreadable; it is not our memory that it takes."""
    with pytest.raises(Unreadable):
        await read_audio(_written(tmp_path, make_audio("mp3")), timeout=PATIENCE, memory=1 << 20)


def test_the_processor_is_limited_too(endless: Path) -> None:
    """Should nobody watch the time, the reader ends by its own limit."""
    read = subprocess.run(_reader(endless, "wav", seconds=1), capture_output=True, check=False, timeout=PATIENCE)

    assert read.returncode in {-signal.SIGXCPU, -signal.SIGKILL}


async def test_a_crash_is_the_readers_own(endless: Path) -> None:
    """A reader that crashes leaves an unreadable file, and says how it ended."""
    reading = asyncio.create_task(read_audio(endless, timeout=PATIENCE))
    await until(lambda: len(_readers()) == 1)
    os.kill(_readers()[0], signal.SIGSEGV)

    with pytest.raises(Unreadable, match="Segmentation fault"):
        await reading


async def test_the_reader_inherits_nothing(endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of ours is in its environment, it may open no file, and writes none."""
    monkeypatch.setenv("SECRET_KEY", "not a real one")
    reading = asyncio.create_task(read_audio(endless, timeout=PATIENCE))
    await until(lambda: len(_readers()) == 1 and _limits(_readers()[0]).get("Max open files") == "0")
    pid = _readers()[0]
    environment, limits = _environment(pid), _limits(pid)
    reading.cancel()
    await asyncio.wait([reading])

    assert b"LC_ALL=C\0" == environment
    assert "0" == limits["Max file size"]


async def test_two_at_a_time(endless: Path) -> None:
    """The third waits until one of the two before it has been read."""
    readings = [asyncio.create_task(read_audio(endless, timeout=PATIENCE)) for _ in range(3)]
    await until(lambda: len(_readers()) == 2)
    first = _readers()
    os.kill(first[0], signal.SIGKILL)
    await until(lambda: len(_readers()) == 2 and _readers() != first)
    for reading in readings:
        reading.cancel()
    await asyncio.wait(readings)

    assert [] == _readers()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_cancellation_at_the_beginning(run: Callable[[Coroutine[None, None, None]], None], endless: Path) -> None:
    """Whenever it comes, also while the process is being started, the process ends, and the loop can be closed."""

    async def cancelled(turns: int) -> None:
        reading = asyncio.create_task(read_audio(endless, timeout=PATIENCE))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        await until(lambda: not _readers())

        assert reading.cancelled()

    for turns in range(0, 60, 3):
        run(cancelled(turns))


async def test_cancellation_ends_the_reader_in_the_middle(endless: Path) -> None:
    """The process has ended, and has been waited for, when the cancelled call has."""
    reading = asyncio.create_task(read_audio(endless, timeout=PATIENCE))
    await until(lambda: len(_readers()) == 1 and _limits(_readers()[0]).get("Max open files") == "0")
    pid = _readers()[0]
    reading.cancel()
    await asyncio.wait([reading])

    assert reading.cancelled()
    assert pid not in _processes()


async def test_the_reader_dies_with_us(endless: Path) -> None:
    """A server that is killed leaves no reader behind."""
    script = (
        "import asyncio, pathlib, sys; from server.audio import read_audio; "
        "asyncio.run(read_audio(pathlib.Path(sys.argv[1]), timeout=60))"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", script, endless, cwd=ROOT)
    await until(lambda: [_limits(pid).get("Max open files") for pid in _readers(server.pid)] == ["0"])
    reader = _readers(server.pid)[0]
    server.kill()
    await server.wait()

    await until(lambda: not _is_reader(reader))


@given(
    sound=st.lists(st.floats(0, 1), min_size=1, max_size=1000),
    cuts=st.lists(st.integers(0, 1000), max_size=20),
    wanted=st.integers(1, 50),
)
def test_peaks_do_not_depend_on_how_the_sound_comes(sound: list[float], cuts: list[int], wanted: int) -> None:
    """Frames of any length make the same peaks: as many as wanted where there are so many samples, and the loudest."""
    at_once, in_frames = audio_reader.Peaks(wanted), audio_reader.Peaks(wanted)
    at_once.add(len(sound), _loudest(sound))
    for begin, end in pairwise([0, *sorted(min(cut, len(sound)) for cut in cuts), len(sound)]):
        in_frames.add(end - begin, _loudest(sound[begin:end]))

    assert at_once.levels() == in_frames.levels()
    assert min(wanted, len(sound)) == len(at_once.levels())
    assert int(255 * max(sound)) == max(at_once.levels())


def _loudest(sound: list[float]) -> Callable[[int, int], float]:
    return lambda start, end: max(sound[start:end])


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "recording"
    path.write_bytes(content)
    return path


def _reader(path: Path, demuxer: str, *, seconds: int = 60) -> list[str]:
    return [sys.executable, "-I", audio_reader.__file__, str(path), demuxer, str(audio.MEMORY), str(seconds)]


def _readers(parent: int | None = None) -> list[int]:
    """The processes that read a file for us, or for that parent."""
    return sorted(pid for pid in _processes() if _parent(pid) == (parent or os.getpid()) and _is_reader(pid))


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # it ended meanwhile


def _is_reader(pid: int) -> bool:
    """A process that has ended has no command line any more, be there somebody who waited for it or not."""
    try:
        return b"audio_reader.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def _limits(pid: int) -> dict[str, str]:
    """The soft limits of a process by name."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line[:26].strip(): line[26:].split()[0] for line in lines}
