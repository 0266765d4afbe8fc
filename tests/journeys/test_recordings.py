"""The story of a recording, from the handset to the listener, in each of the three ways in which it may be kept."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clients.behaviour import Behaviour
from protocol.messages import CallEnded, RecordingReady, RecordingUpload
from tests.audio_files import make_audio
from tests.conftest import Bucket

STRATEGIES = ["s3", "s3 encrypted", "local", "local encrypted", "hybrid", "hybrid encrypted"]


def storage(strategy: str, s3: Bucket, folder: Path) -> dict[str, str]:
    """The settings by which a house keeps its recordings so."""
    kind, _, encrypted = strategy.partition(" ")
    bucket = {
        "S3_ENDPOINT_URL": s3.endpoint_url,
        "S3_PUBLIC_URL": s3.endpoint_url,
        "S3_BUCKET": s3.bucket,
        "S3_ACCESS_KEY": s3.access_key,
        "S3_SECRET_KEY": s3.secret_key,
    }
    return {
        "RECORDINGS": kind,
        "RECORDING_ENCRYPTION": str(bool(encrypted)).lower(),
        **({} if kind == "local" else bucket),
        **({} if kind == "s3" else {"RECORDINGS_FOLDER": str(folder)}),
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_recording_from_the_handset_to_the_listener(
    strategy: str, house: Any, until: Any, s3: Bucket, tmp_path: Path
) -> None:
    """A phone ends a call and uploads its recording; the agent hears that it is ready, and plays the same bytes."""
    settings = storage(strategy, s3, tmp_path / "spool")
    phones = await house.node(**settings)
    pages = await house.node(**settings)
    await house.worker(**settings)
    agent = await house.agent(pages)
    audio = make_audio("mp3", 3.0)
    phone = await house.phone(agent, Behaviour(talk=0.1, recording=audio))

    call_id = await agent.dial(customer_phone="13912345678")
    await agent.events.wait_for(CallEnded, call_id=call_id)
    ready = await agent.events.wait_for(RecordingReady, call_id=call_id)
    confirmed = await phone.uploaded.wait_for(RecordingUpload, call_id=call_id)
    played = await agent.play(call_id)
    part = await agent.play(call_id, range="bytes=100-299")
    link = await agent.recording_link(call_id)
    async with aiohttp.ClientSession() as browser, browser.get(link["url"]) as answer:
        linked = answer.status, answer.content_type, await answer.read()

    async def read() -> bool:
        return (await agent.waveform(call_id))["status"] == "read"

    await until(read)
    waveform = await agent.waveform(call_id)
    record = (await agent.get(f"/api/v1/calls/{call_id}"))["call"]

    assert phones.port != pages.port
    assert audio == played
    assert audio[100:300] == part
    assert (200, "audio/mpeg", audio) == linked
    assert (len(audio), "audio/mpeg", "phone") == (ready.size, ready.media_type, ready.source)
    assert len(audio) == confirmed.size
    assert (True, len(audio), "ready", f"/api/v1/calls/{call_id}/recording") == tuple(
        record[name] for name in ("hasRecording", "recordingSize", "recording", "recordingUrl")
    )
    assert ("mp3", 1) == (waveform["codec"], waveform["channels"])
    assert 3.0 == pytest.approx(waveform["duration"], abs=0.1)
    assert max(waveform["peaks"][:300]) < max(waveform["peaks"][500:])
    assert (0, 0) == (agent.gaps, agent.repeats)
