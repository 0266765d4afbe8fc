"""Whatever comes, what reads it says no in its own words, in bounded time, and hands on nothing that cannot be kept."""

import asyncio
import itertools
import json
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.messages import MAX_FRAME
from tests.abuse.fuzzing import decode, read, readers, spoilt
from tests.clouds.cloud import WebhookRequestSpec
from tests.journeys.desk import VENDORS

QUICKLY = timedelta(seconds=10)
"""More than anything of the largest size takes on the slowest machine, and less than what is not linear in its size."""

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "\0", "a\0b", "\ufffe", "0", "-1", "1e400", "9" * 400, "9999999999999", "2026-02-30 25:61:61", "é" * 3000]
    )
    | st.sampled_from([1e308, -1e308, 10**18, 253402300800, -62135596801, 2**63, "http://[", "http://a?sign=b", "%s%n"])
    | st.text(max_size=20)
)
values = st.recursive(
    leaves, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=5), of, max_size=3)
)


NASTY: tuple[Any, ...] = (
    "http://[",
    "https://a]b/c",
    "\0",
    "9" * 400,
    "2026-02-30 25:61:61",
    1e308,
    -1,
    {"a": []},
    [[]],
    None,
    True,
)
"""What stands in place of every value in turn: it came from somewhere that a reader looks at."""

MORE = (
    rb'"\u0000"',
    rb'"a\u0000\u0000b\\\u0000"',
    rb'"\\u0000"',
    rb'"\ud800"',
    b"1e400",
    b"1e-999999",
    b"1e999999",
    b"9" * 5000,
    b"9" * 50_000,
    b"-1e99999999999999999999",
    b"[" * 900 + b"]" * 900,
    b"[" * 3000 + b"]" * 3000,
    b'{"a":1,"a":2}',
    b'"\xff"',
    b'"\xed\xa0\x80"',
    '"\uffff\u202e\U0010ffff"'.encode(),
)
"""What nobody reads of a message, and is kept with it."""


@settings(deadline=QUICKLY, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400) | st.text(max_size=400) | values.map(json.dumps))
@example("[" * MAX_FRAME)
@example('{"type":' * 8000)
@example('{"data":' + "[" * 60_000)
@example('{"type":"ACK","data":' + "[" * 60_000 + "]" * 5)
@example('{"type":"ACK","messageId":"' + "\\\\" * 30_000 + '\\u0000"}')
@example('{"type":"ACK","data":{"messageId":"' + "\\" * 60_001 + 'u0000"}}')
@example('{"type":"HELLO","data":{"lastSeq":' + "9" * 65_000 + "}}")
@example('{"type":"HELLO","data":{"lastSeq":1e' + "9" * 65_000 + "}}")
@example('{"type":"HELLO","timestamp":-' + "9" * 65_000 + "}")
@example("{" + ",".join(f'"{number}":0' for number in range(8000)) + "}")
@example('{"' + "k" * 65_000 + '":0}')
@example('{"type":"' + "k" * 65_000 + '"}')
@example('{"type":"ACK","data":{"messageId":"\ud800"}}')
@example(b'\xef\xbb\xbf{"type":"HEARTBEAT"}')
@example('{"type":"HEARTBEAT"}'.encode("utf-16"))
def test_a_frame_of_any_content_is_read_or_refused(frame: str | bytes) -> None:
    """BAD_MESSAGE or UNKNOWN_TYPE, in an ERROR that fits into a frame, and nothing else."""
    decode(frame)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_message_of_any_content_is_read_or_refused(vendor: str, database_url: str) -> None:
    """As it came, cut, with bytes changed, or with any value in place of one of its own: what a reader makes of it can
    be kept, or it says why not."""
    reader = await asyncio.to_thread(lambda: readers()[vendor])
    raws: set[bytes] = set()

    def keep(message: WebhookRequestSpec) -> None:
        raws.update(told.raw for told in read(reader.provider, message))

    messages = st.sampled_from(reader.said)

    @settings(deadline=QUICKLY, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(messages, st.integers(0, 200), values)
    def one_value_is_another(message: WebhookRequestSpec, name: int, value: Any) -> None:
        keep(spoilt(message, name, value))

    @settings(deadline=QUICKLY, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(messages, st.integers(0, 2000), st.integers(0, 2000), st.binary(max_size=4))
    def bytes_are_others(message: WebhookRequestSpec, place: int, length: int, instead: bytes) -> None:
        body = message.body
        at = place % (len(body) + 1)
        keep(msgspec.structs.replace(message, body=body[:at] + instead + body[at + length % 8 :]))
        keep(msgspec.structs.replace(message, body=body[:at]))

    @settings(deadline=QUICKLY, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(messages, st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4), st.binary(max_size=200))
    def nothing_of_it_is_left(message: WebhookRequestSpec, query: dict[str, str], body: bytes) -> None:
        keep(msgspec.structs.replace(message, query=query, body=body))
        keep(msgspec.structs.replace(message, query={**message.query, **query}))
        keep(msgspec.structs.replace(message, body=json.dumps(query).encode()))

    def large() -> None:
        for message in reader.said[:1]:
            for body in (
                b"[" * 200_000,
                b'{"a":' * 40_000,
                b"<a>" * 60_000,
                b"a=&" * 60_000,
                b"9" * 200_000,
                b"&" * 200_000,
            ):
                keep(msgspec.structs.replace(message, body=body))
            keep(msgspec.structs.replace(message, body=message.body + b" " * 1_000_000))
            keep(msgspec.structs.replace(message, body=message.body.replace(b'"', b'\\"')))

    def more_is_said() -> None:
        for message in reader.said:
            if message.body.startswith(b"{"):
                for more in MORE:
                    keep(msgspec.structs.replace(message, body=b'{"more":' + more + b"," + message.body[1:]))

    def each_value_is_nasty() -> None:
        for message in reader.said:
            for name, value in itertools.product(range(60), NASTY):
                keep(spoilt(message, name, value))

    for attack in (
        each_value_is_nasty,
        one_value_is_another,
        bytes_are_others,
        nothing_of_it_is_left,
        large,
        more_is_said,
    ):
        await asyncio.to_thread(attack)

    assert raws
    connection = await asyncpg.connect(database_url, timeout=30)
    try:
        assert len(raws) == await connection.fetchval(
            "SELECT count(said::jsonb) FROM unnest($1::text[]) said", [raw.decode() for raw in raws]
        )
    finally:
        await connection.close()
