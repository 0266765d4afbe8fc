"""Fuzzing by coverage, with atheris (libFuzzer), for as long as somebody has:

    pip install atheris            (into an environment of its own: it is in no lock)
    python -m tests.abuse.by_coverage decoder -max_total_time=600
    python -m tests.abuse.by_coverage custom-yunhu -max_total_time=600 corpus/

The name is `decoder` or one of `readers()`; what follows it are options and folders of libFuzzer.
"""

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]
import msgspec

with atheris.instrument_imports(include=["protocol", "server.providers"]):
    from tests.abuse.fuzzing import decode, read, readers


FRAMES = [
    b'{"type":"DEVICE_ONLINE","messageId":"m1","data":{"connection":1,"capabilities":{"autoDial":true}}}',
    b'{"type":"CALL_END","messageId":"m2","data":{"callId":"c","status":"missed","endTime":"2026-01-01T00:00:00Z"}}',
    b'{"type":"DIAL","messageId":"m3","data":{"customerPhone":"13912345678","customData":{"a":[1e3,"\\u00e9"]}}}',
]
"""Where fuzzing of the decoder begins."""


def main(name: str, *options: str) -> None:
    """Fuzz until the options say that it is enough, or something was raised that may not be."""

    reader = None if name == "decoder" else readers()[name]

    def attack(data: bytes) -> None:
        if reader is None:
            decode(data)
            return
        for like in reader.said[:3]:
            read(reader.provider, msgspec.structs.replace(like, body=data))

    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate([each.body for each in reader.said] if reader else FRAMES):
            (Path(seeds) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, seeds], attack)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
