"""Something to hear where nobody talks: the audio of simulated calls."""

import io
import math
import struct
import wave

RATE = 8000
"""Samples a second, as on a telephone line."""


def tone(seconds: float = 1.0, hertz: float = 440.0) -> bytes:
    """Return a WAV file of so many seconds, mono and 16 bit, that swells and fades once a second."""
    count = round(seconds * RATE)
    samples = (
        round(20_000 * abs(math.sin(math.pi * at / RATE)) * math.sin(math.tau * hertz * at / RATE))
        for at in range(count)
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(struct.pack(f"<{count}h", *samples))
    return file.getvalue()
