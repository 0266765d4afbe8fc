"""Every message there and back, the seed's own examples, and frames of every kind of malice."""

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol import messages
from protocol.call import Evidence, Outcome, Status
from protocol.errors import DialdeskError
from protocol.messages import (
    MAX_FRAME,
    NO_DATA,
    Ack,
    CallEnd,
    CallRinging,
    CallStatus,
    Decoder,
    Dial,
    DialCommand,
    Envelope,
    Error,
    HangUp,
    Heartbeat,
    HeartbeatAck,
    LiveCall,
    Message,
    encode,
    encode_data,
    encode_raw,
    from_agent,
    from_phone,
    new_message_id,
    to_agent,
    to_phone,
)

SPEAKERS: dict[str, tuple[Decoder[Any], tuple[type[Message], ...]]] = {
    "from phone": (from_phone, get_args(messages.FromPhone)),
    "to phone": (to_phone, get_args(messages.ToPhone)),
    "from agent": (from_agent, get_args(messages.FromAgent)),
    "to agent": (to_agent, get_args(messages.ToAgent)),
}
EVERY_MESSAGE = [
    pytest.param(decoder, kind, id=f"{speaker}: {kind.type}")
    for speaker, (decoder, kinds) in SPEAKERS.items()
    for kind in kinds
]

# --- values of any type that a message is made of --------------------------------------------------------------------

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, max_size=20)
exact_integers = st.integers(-(2**53), 2**53)
json_values = st.recursive(
    st.none() | st.booleans() | exact_integers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def any_of(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Return the values that msgspec would take for a type."""
    match kind:
        case msgspec.inspect.StructType(cls=cls):
            return any_message(cls)
        case msgspec.inspect.Metadata(type=inner):
            return any_of(inner)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([any_of(member) for member in types])
        case msgspec.inspect.StrType(pattern=str() as pattern):
            return st.from_regex(pattern, fullmatch=True)
        case msgspec.inspect.StrType(min_length=shortest):
            return st.text(characters, min_size=shortest or 0, max_size=20)
        case msgspec.inspect.IntType(ge=least, le=most):
            return st.integers(-(2**53) if least is None else least, 2**53 if most is None else most)
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.EnumType(cls=cls):
            return st.sampled_from(cls)
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case msgspec.inspect.DateTimeType():
            return st.datetimes(timezones=st.none() | offsets)
        case msgspec.inspect.RawType():
            return json_values.map(lambda value: msgspec.Raw(msgspec.json.encode(value)))
        case msgspec.inspect.ListType(item_type=item):
            return st.lists(any_of(item), max_size=3)
        case msgspec.inspect.DictType():
            return st.dictionaries(texts, json_values, max_size=3)
        case _:
            raise AssertionError(f"no values for {kind}")


@cache
def any_message(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Return the values of a Struct type; each optional field is sometimes left at its default."""
    kind = msgspec.inspect.type_info(cls)
    assert isinstance(kind, msgspec.inspect.StructType)
    required = {field.name: any_of(field.type) for field in kind.fields if field.required}
    optional = {field.name: any_of(field.type) for field in kind.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda told: cls(**told))


@pytest.mark.parametrize(("decoder", "kind"), EVERY_MESSAGE)
@settings(max_examples=30)
@given(st.data())
def test_a_message_is_read_as_it_was_said(decoder: Decoder[Any], kind: type[Message], data: st.DataObject) -> None:
    """Decoding an encoded message gives that message, its id and its time, whatever stands in its fields."""
    message = data.draw(any_message(kind))
    message_id = data.draw(st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True))
    timestamp = data.draw(st.integers(0, 2**53))

    assert Envelope(message, message_id, timestamp) == decoder.decode(encode(message, message_id, timestamp=timestamp))


# --- names on the wire -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [pytest.param(kinds, id=speaker) for speaker, (_, kinds) in SPEAKERS.items()])
def test_a_speaker_has_one_meaning_for_each_type(kinds: tuple[type[Message], ...]) -> None:
    """No two messages of one speaker bear the same name."""
    assert len(kinds) == len({kind.type for kind in kinds})


def test_only_welcome_means_something_else_to_another_listener() -> None:
    """A name that several speakers use names the same message, but for the two WELCOMEs."""
    meanings: dict[str, set[type[Message]]] = {}
    for _, kinds in SPEAKERS.values():
        for kind in kinds:
            meanings.setdefault(kind.type, set()).add(kind)

    assert ["WELCOME"] == [name for name, kinds in meanings.items() if len(kinds) > 1]


@pytest.mark.parametrize(
    ("speaker", "names"),
    [
        ("from phone", "DEVICE_ONLINE DEVICE_OFFLINE HEARTBEAT ACK CALL_STATUS CALL_END RECORDING_UPLOAD"),
        ("to phone", "WELCOME HEARTBEAT_ACK HEARTBEAT ACK ERROR DIAL_COMMAND CANCEL_DIAL DEVICE_UNBIND RECONNECT"),
        ("from agent", "HELLO HEARTBEAT DIAL HANGUP"),
        (
            "to agent",
            (
                "WELCOME HEARTBEAT HEARTBEAT_ACK ERROR RECONNECT RESYNC DIAL_ACCEPTED DEVICE_BOUND DEVICE_UNBOUND "
                "DEVICE_STATUS CALL_DIALING CALL_RINGING CALL_CONNECTED CALL_ENDED RECORDING_READY"
            ),
        ),
    ],
)
def test_no_name_that_was_ever_said_is_lost(speaker: str, names: str) -> None:
    """Apps in the field go on saying these; a name may be added but neither renamed nor taken away."""
    assert set() == set(names.split()) - {kind.type for kind in SPEAKERS[speaker][1]}


def test_what_agents_must_not_miss_is_numbered() -> None:
    """All events on devices, calls and recordings carry `seq`, and nothing else does."""
    about = ("DEVICE_", "CALL_", "RECORDING_")
    events = {kind.type for kind in get_args(messages.ToAgent) if kind.type.startswith(about)}

    assert messages.SEQUENCED == events


# --- the seed's examples, as they stand ------------------------------------------------------------------------------


def test_the_seed_call_status_is_read() -> None:
    """Seed 003 §2.2.3, which leaves out the envelope's id and time."""
    frame = """
{
  "type": "CALL_STATUS",
  "data": {
    "callId": "call_20251225_abc123",
    "status": "connected",
    "timestamp": 1703491200000
  }
}"""
    message = CallStatus(call_id="call_20251225_abc123", status="connected", timestamp=1703491200000)

    assert Envelope(message, None, 0) == from_phone.decode(frame)


def test_the_seed_call_end_is_read() -> None:
    """Seed 003 §2.2.3: the end of an answered call with its recording."""
    frame = """
{
  "type": "CALL_END",
  "data": {
    "callId": "call_20251225_abc123",
    "status": "connected",
    "startTime": "2025-12-25T10:30:00.000Z",
    "endTime": "2025-12-25T10:33:00.000Z",
    "duration": 180,
    "hasRecording": true,
    "recordingSize": 1024000
  }
}"""
    message = CallEnd(
        call_id="call_20251225_abc123",
        status=Outcome.CONNECTED,
        start_time=datetime(2025, 12, 25, 10, 30, tzinfo=UTC),
        end_time=datetime(2025, 12, 25, 10, 33, tzinfo=UTC),
        duration=180,
        has_recording=True,
        recording_size=1024000,
    )

    assert Envelope(message, None, 0) == from_phone.decode(frame)


@pytest.mark.parametrize("decoder", [from_phone, from_agent], ids=["from phone", "from agent"])
def test_the_seed_heartbeat_is_read(decoder: Decoder[Any]) -> None:
    """Seed 003 §8.4: a heartbeat without id and data, from either side."""
    frame = """
{
  "type": "HEARTBEAT",
  "timestamp": 1703491200000
}"""

    assert Envelope(Heartbeat(), None, 1703491200000) == decoder.decode(frame)


@pytest.mark.parametrize("decoder", [to_phone, to_agent], ids=["to phone", "to agent"])
def test_the_seed_heartbeat_answer_is_read(decoder: Decoder[Any]) -> None:
    """Seed 003 §8.4: the answer to a heartbeat without id and data."""
    frame = """
{
  "type": "HEARTBEAT_ACK",
  "timestamp": 1703491200100
}"""

    assert Envelope(HeartbeatAck(), None, 1703491200100) == decoder.decode(frame)


SEED_DIAL_COMMAND = """
{
  "type": "DIAL_COMMAND",
  "messageId": "msg_001",
  "timestamp": 1703491200000,
  "data": {
    "callId": "call_20251225_abc123",
    "customerPhone": "13912345678",
    "customerName": "张三",
    "customerId": "cust_001",
    "orderId": "order_001"
  }
}"""


def test_the_seed_dial_command_is_what_we_say_but_for_the_expiry() -> None:
    """Seed 003 §2.2.2: all its fields under the same names, and beside them only `expiresAt`."""
    message = DialCommand(
        call_id="call_20251225_abc123",
        customer_phone="13912345678",
        customer_name="张三",
        customer_id="cust_001",
        order_id="order_001",
        expires_at=1703491220000,
    )
    said = json.loads(encode(message, "msg_001", timestamp=1703491200000))

    assert 1703491220000 == said["data"].pop("expiresAt")
    assert json.loads(SEED_DIAL_COMMAND) == said


def test_a_dial_command_that_never_expires_is_refused() -> None:
    """A phone cannot tell whether it is still wanted, so it must not dial it; the refusal names the command."""
    assert ("BAD_MESSAGE", "msg_001") == refusal(to_phone, SEED_DIAL_COMMAND)


# --- what is refused, and how ----------------------------------------------------------------------------------------


def refusal(decoder: Decoder[Any], frame: str | bytes) -> tuple[str, str | None]:
    """The code by which a frame is refused, and the `messageId` that it names."""
    with pytest.raises(DialdeskError) as caught:
        decoder.decode(frame)
    return caught.value.code, caught.value.details["messageId"]


@pytest.mark.parametrize(("decoder", "kind"), EVERY_MESSAGE)
@settings(max_examples=30)
@given(st.data())
def test_unknown_fields_are_ignored(decoder: Decoder[Any], kind: type[Message], data: st.DataObject) -> None:
    """A newer peer may say more, in the message and beside it, and is understood as far as we know the words."""
    message = data.draw(any_message(kind))
    known = msgspec.json.decode(encode(message, "m", timestamp=1))
    known["data"] |= {"fromTheFuture": data.draw(json_values)}
    known |= {"alsoFromTheFuture": data.draw(json_values)}

    assert message == decoder.decode(msgspec.json.encode(known)).message


@pytest.mark.parametrize("decoder", [pytest.param(decoder, id=speaker) for speaker, (decoder, _) in SPEAKERS.items()])
def test_an_unknown_type_is_told_from_a_malformed_frame(decoder: Decoder[Any]) -> None:
    """A word we do not know is no fault of form; the error says which frame it was."""
    assert ("UNKNOWN_TYPE", "m1") == refusal(decoder, '{"type":"TELEPORT","messageId":"m1","data":{"to":"Mars"}}')
    assert ("UNKNOWN_TYPE", None) == refusal(decoder, '{"type":"TELEPORT","data":[1]}')


def test_nobody_may_say_what_is_not_his_to_say() -> None:
    """A phone that dials and an agent that reports speak words that are unknown from them."""
    dial = encode(Dial(customer_phone="13912345678"), "m1")
    report = encode(CallStatus(call_id="call_1", status="ringing"), "m2")

    assert ("UNKNOWN_TYPE", "m1") == refusal(from_phone, dial)
    assert ("UNKNOWN_TYPE", "m2") == refusal(from_agent, report)


DEEP = 20_000

MALFORMED: dict[str, str | bytes] = {
    "nothing": "",
    "spaces": "   ",
    "no JSON": "hello",
    "a number": "1",
    "a list": "[]",
    "null": "null",
    "half a frame": '{"type":"HEARTBEAT"',
    "two frames": '{"type":"HEARTBEAT"}{"type":"HEARTBEAT"}',
    "a comma too many": '{"type":"HEARTBEAT",}',
    "single quotes": "{'type':'HEARTBEAT'}",
    "a byte order mark": '\ufeff{"type":"HEARTBEAT"}',
    "UTF-16": '{"type":"HEARTBEAT"}'.encode("utf-16"),
    "no type": '{"messageId":"m"}',
    "type null": '{"type":null}',
    "type a number": '{"type":1}',
    "type empty": '{"type":""}',
    "type without end": '{"type":"' + "A" * 65 + '"}',
    "data null": '{"type":"HEARTBEAT","data":null}',
    "data a list": '{"type":"HEARTBEAT","data":[]}',
    "data a string": '{"type":"HEARTBEAT","data":"{}"}',
    "id empty": '{"type":"HEARTBEAT","messageId":""}',
    "id a number": '{"type":"HEARTBEAT","messageId":1}',
    "id too long": '{"type":"HEARTBEAT","messageId":"' + "m" * 129 + '"}',
    "time null": '{"type":"HEARTBEAT","timestamp":null}',
    "time a word": '{"type":"HEARTBEAT","timestamp":"now"}',
    "time infinite": '{"type":"HEARTBEAT","timestamp":1e400}',
    "time not a number": '{"type":"HEARTBEAT","timestamp":NaN}',
    "time of many digits": '{"type":"HEARTBEAT","timestamp":' + "9" * 5000 + "}",
    "lists without end": "[" * DEEP,
    "an envelope without bottom": '{"type":"HEARTBEAT","x":' + "[" * DEEP + "]" * DEEP + "}",
    "data without bottom": '{"type":"HEARTBEAT","data":{"x":' + "[" * DEEP + "]" * DEEP + "}}",
    "objects without bottom": '{"type":"HEARTBEAT","data":' + '{"x":' * DEEP + "1" + "}" * DEEP + "}",
    "no UTF-8 at all": b"\xff\xfe\xfd",
    "no UTF-8 in the type": b'{"type":"\xff"}',
    "no UTF-8 in the id": b'{"type":"HEARTBEAT","messageId":"\xff"}',
    "no UTF-8 in the data": b'{"type":"HEARTBEAT","data":{"network":"\xff"}}',
    "a surrogate as text": '{"type":"HEARTBEAT","messageId":"\ud800"}',
    "a surrogate as text in the data": '{"type":"HEARTBEAT","data":{"network":"\udfff"}}',
    "half a surrogate pair": r'{"type":"HEARTBEAT","messageId":"\ud83d"}',
    "the wrong half in the data": r'{"type":"HEARTBEAT","data":{"network":"\udc00"}}',
    "a raw NUL": '{"type":"HEARTBEAT","messageId":"a\0b"}',
    "an escaped NUL": r'{"type":"HEARTBEAT","messageId":"a\u0000b"}',
    "an escaped NUL in the data": r'{"type":"HEARTBEAT","data":{"network":"\u0000"}}',
    "a NUL after an escaped backslash": r'{"type":"HEARTBEAT","data":{"network":"\\\u0000"}}',
    "a line end in a string": '{"type":"HEARTBEAT","messageId":"a\nb"}',
    "no callId": '{"type":"CALL_STATUS","data":{"status":"ringing"}}',
    "callId null": '{"type":"CALL_STATUS","data":{"callId":null,"status":"ringing"}}',
    "callId empty": '{"type":"CALL_STATUS","data":{"callId":"","status":"ringing"}}',
    "callId too long": '{"type":"CALL_STATUS","data":{"callId":"' + "c" * 129 + '","status":"ringing"}}',
    "a status that is none": '{"type":"CALL_STATUS","data":{"callId":"c","status":"thinking"}}',
    "a status that is an end": '{"type":"CALL_STATUS","data":{"callId":"c","status":"ended"}}',
    "a connection below the first": '{"type":"DEVICE_ONLINE","data":{"connection":-1}}',
    "a connection beyond count": '{"type":"DEVICE_ONLINE","data":{"connection":' + "9" * 30 + "}}",
    "an app version like a book": '{"type":"DEVICE_ONLINE","data":{"appVersion":"' + "v" * 513 + '"}}',
    "capabilities that are not": '{"type":"DEVICE_ONLINE","data":{"capabilities":{"autoDial":"yes"}}}',
}


@pytest.mark.parametrize("frame", [pytest.param(frame, id=name) for name, frame in MALFORMED.items()])
def test_a_malformed_frame_is_refused_as_such(frame: str | bytes) -> None:
    """Whatever is wrong with a frame, the one answer is BAD_MESSAGE."""
    with pytest.raises(DialdeskError) as caught:
        from_phone.decode(frame)

    assert "BAD_MESSAGE" == caught.value.code


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"CALL_END","messageId":"m1","data":{"callId":"c"}}',
        '{"type":"CALL_END","messageId":"m1","data":null}',
        '{"type":"CALL_END","messageId":"m1","timestamp":"noon"}',
        '{"type":"CALL_END","timestamp":1e400,"messageId":"m1"}',
        '{"type":1,"messageId":"m1"}',
        '{"messageId":"m1"}',
        r'{"type":"CALL_END","messageId":"m1","data":{"callId":"\u0000"}}',
    ],
)
def test_a_refusal_names_the_frame_it_refuses(frame: str) -> None:
    """The ERROR must end the report it is about, or the phone would send that for ever."""
    assert ("BAD_MESSAGE", "m1") == refusal(from_phone, frame)


@pytest.mark.parametrize("frame", ['{"type":1,"messageId":2}', '{"messageId":"m1","type"', "[]"])
def test_a_refusal_names_nothing_where_nothing_was_told(frame: str) -> None:
    """A frame whose id cannot be read is refused without one."""
    assert ("BAD_MESSAGE", None) == refusal(from_phone, frame)


def test_a_backslash_before_u0000_is_text() -> None:
    """Only the escape is NUL; a backslash that is escaped itself, followed by a word, is kept as written."""
    frame = r'{"type":"HEARTBEAT","data":{"network":"C:\\u0000"}}'

    assert Heartbeat(network="C:" + "\\" + "u0000") == from_phone.decode(frame).message


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    """As in every common reader of JSON, so that no two of them understand a frame differently."""
    frame = '{"type":"DIAL","type":"HANGUP","messageId":"m1","messageId":"m2","data":{"callId":"a","callId":"b"}}'

    assert Envelope(HangUp(call_id="b"), "m2", 0) == from_agent.decode(frame)


def test_a_wrong_clock_loses_no_report() -> None:
    """A phone may think that it is any time at all, before the epoch or past the sun's end."""
    frame = '{"type":"CALL_STATUS","timestamp":-1e300,"data":{"callId":"c","status":"ringing","timestamp":1e300}}'

    assert Envelope(CallStatus(call_id="c", status="ringing", timestamp=1e300), None, -1e300) == from_phone.decode(
        frame
    )


def test_a_time_without_an_offset_loses_no_report() -> None:
    """An app that forgets the zone is heard; its time comes as it was said, for the server to take as UTC."""
    frame = '{"type":"CALL_END","data":{"callId":"c","status":"busy","endTime":"2025-12-25T10:33:00"}}'
    ended = CallEnd(call_id="c", status=Outcome.BUSY, end_time=datetime(2025, 12, 25, 10, 33))  # noqa: DTZ001

    assert ended == from_phone.decode(frame).message


# --- frames of any kind ----------------------------------------------------------------------------------------------

words = st.sampled_from(sorted({kind.type for _, kinds in SPEAKERS.values() for kind in kinds}))
field_names = st.sampled_from(
    sorted({name for _, kinds in SPEAKERS.values() for kind in kinds for name in kind.__struct_encode_fields__})
)
extremes = st.sampled_from(
    [-1, 0, 2**53, 2**64, 10**30, -1e308, 1e308, "", "\0", "x" * 600, "2025-12-25T10:33:00Z", "connected", [], {}]
)
envelopes = st.fixed_dictionaries(
    {"type": words},
    optional={
        "messageId": json_values | extremes,
        "timestamp": json_values | extremes,
        "seq": json_values | extremes,
        "data": st.dictionaries(field_names, json_values | extremes, max_size=6) | json_values,
    },
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good frame in which some bytes are replaced by others."""
    _, kinds = draw(st.sampled_from(list(SPEAKERS.values())))
    frame = encode(draw(any_message(draw(st.sampled_from(kinds)))), "m", timestamp=0)
    start = draw(st.integers(0, len(frame)))
    stop = draw(st.integers(start, min(len(frame), start + 8)))
    return frame[:start] + draw(st.binary(max_size=8)) + frame[stop:]


@pytest.mark.parametrize("decoder", [pytest.param(decoder, id=speaker) for speaker, (decoder, _) in SPEAKERS.items()])
@given(frame=st.binary() | st.text() | envelopes.map(json.dumps) | damaged())
@example(frame='{"type":"DIAL","data":{"customData":{"x":' + "[" * 400 + "]" * 400 + "}}}")
def test_no_frame_does_worse_than_being_refused(decoder: Decoder[Any], frame: str | bytes) -> None:
    """Any bytes and any text give a message that can be said again, or one of two errors."""
    result: Envelope[Any] | DialdeskError
    try:
        result = decoder.decode(frame)
    except DialdeskError as error:
        result = error

    match result:
        case Envelope(message=message):
            assert message == decoder.decode(encode(message)).message
        case refused:
            assert refused.code in ("BAD_MESSAGE", "UNKNOWN_TYPE")


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"CALL_END","data":{"callId":"c","status":"' + "y" * 60_000 + '"}}',
        '{"type":"CALL_STATUS","data":{"callId":"c","status":"' + "状" * 20_000 + '"}}',
        '{"type":"' + "T" * 64 + '","messageId":"' + "m" * 128 + '"}',
    ],
)
def test_the_answer_to_any_frame_fits_into_a_frame(frame: str) -> None:
    """An error quotes at most a part of what it refuses: a peer cannot make us say more than it can hear."""
    with pytest.raises(DialdeskError) as caught:
        from_phone.decode(frame)
    error = caught.value
    answer = encode(
        Error(code=error.code, message=error.message("zh-CN"), retry=error.retry, details=dict(error.details))
    )

    assert len(answer) < MAX_FRAME / 10


# --- frames that we say ----------------------------------------------------------------------------------------------


def test_a_frame_says_who_when_and_what() -> None:
    """The envelope of seed 003 §2.4.1, field by field."""
    assert b'{"type":"ACK","messageId":"msg_1","timestamp":1703491200000,"data":{"messageId":"msg_0"}}' == encode(
        Ack(message_id="msg_0"), "msg_1", timestamp=1703491200000
    )


def test_a_frame_gets_an_id_of_its_own_and_the_time() -> None:
    """Where neither is told, the id is new and the time is now."""
    earliest = time.time_ns() // 1_000_000
    first, second = (to_phone.decode(encode(HeartbeatAck())) for _ in range(2))
    latest = time.time_ns() // 1_000_000

    assert first.message_id != second.message_id
    assert earliest <= first.timestamp <= second.timestamp <= latest


def test_ids_of_messages_are_unique() -> None:
    """No two messages of a sender bear the same id."""
    assert 10_000 == len({new_message_id() for _ in range(10_000)})


def test_a_process_that_was_forked_says_other_ids() -> None:
    """Nodes that come from one process are senders of their own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, new_message_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    other = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)

    assert re.fullmatch("msg_[0-9a-f]{24}", other)
    assert other != new_message_id()


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.type) for kind in get_args(messages.ToAgent)])
@given(st.data())
def test_a_message_kept_as_data_is_framed_as_if_it_were_said_at_once(kind: type[Message], data: st.DataObject) -> None:
    """What a row keeps of an event gives, with its id and time, the frame that was first sent."""
    message = data.draw(any_message(kind))

    assert encode(message, "m1", timestamp=7) == encode_raw(kind.type, encode_data(message), "m1", timestamp=7)


@given(json_values.map(msgspec.json.encode), st.integers(0, 2**53), st.integers(0, 2**53))
def test_frames_for_many_receivers_differ_only_in_what_is_told(data: bytes, one: int, other: int) -> None:
    """One encoded event goes out under each agent's own `seq` and is the same for all of them otherwise."""
    first = encode_raw("CALL_ENDED", data, "m1", seq=one, timestamp=7)
    second = encode_raw("CALL_ENDED", data, "m1", seq=other, timestamp=7)

    assert data in first
    assert second == first.removesuffix(b'"seq":%d}' % one) + b'"seq":%d}' % other


def test_seq_travels_beside_the_message() -> None:
    """An event carries its number in the envelope, also the number nought; what has none does not speak of it."""
    data = encode_data(HeartbeatAck())

    assert [
        0,
        7,
        None,
    ] == [to_agent.decode(encode_raw("HEARTBEAT_ACK", data, "m", seq=seq)).seq for seq in (0, 7, None)]
    assert b"seq" not in encode_raw("HEARTBEAT_ACK", data, "m")


def test_what_is_at_its_default_is_not_said() -> None:
    """Frames are short: blanks and defaults are left out, custom data among them, and are read as what they were."""
    event = CallRinging(
        call_id="c", at=1, evidence=Evidence.CX_CALL, source="phone", customer_phone="1", custom_data=NO_DATA
    )
    call = LiveCall(
        call_id="c",
        status=Status.PENDING,
        call_method="mobile",
        customer_phone="1",
        created_at="2026-11-21T10:00:00Z",
        custom_data=NO_DATA,
    )

    assert b'{"callId":"c","at":1,"evidence":"cx_call","customerPhone":"1","source":"phone"}' == encode_data(event)
    assert (
        b'{"callId":"c","status":"pending","callMethod":"mobile","customerPhone":"1",'
        b'"createdAt":"2026-11-21T10:00:00Z"}' == msgspec.json.encode(call)
    )
    assert call == msgspec.json.decode(msgspec.json.encode(call), type=LiveCall)


@pytest.mark.parametrize(
    "unreadable",
    [
        '"recordingSize":-1',
        '"recordingSize":1e30',
        '"endTime":""',
        '"endTime":1700000000000',
        '"startTime":"garbage"',
        '"duration":"5"',
        '"hasRecording":0',
        '"hangupCause":"' + "x" * 513 + '"',
        '"evidence":7',
    ],
)
def test_the_end_of_a_call_is_not_lost_for_what_only_informs(unreadable: str) -> None:
    """A report whose optional field cannot be read is taken without that field, and with all others."""
    frame = '{"type":"CALL_END","messageId":"m","data":{"callId":"c","status":"busy","newer":{},' + unreadable + "}}"

    assert CallEnd(call_id="c", status="busy") == from_phone.decode(frame).message


def test_what_a_report_cannot_do_without_is_not_made_up() -> None:
    """A report that does not say which call it is about stays refused."""
    with pytest.raises(DialdeskError) as refused:
        from_phone.decode('{"type":"CALL_END","messageId":"m","data":{"callId":"","status":"busy","duration":"5"}}')

    assert ("BAD_MESSAGE", "m") == (refused.value.code, refused.value.details["messageId"])
