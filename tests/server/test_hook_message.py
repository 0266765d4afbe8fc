"""What hooks are told, and that anybody who knows the specification can verify it."""

import base64
from collections.abc import Callable

import pytest

from server.hook_message import sign, spell
from tests.server.hook_receiver import Forged, verify

ID, TIMESTAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
"""The example that the libraries of Standard Webhooks are tested by."""


def key(secret: str) -> bytes:
    """The bytes of a secret."""
    return base64.b64decode(secret.removeprefix("whsec_"))


def test_the_published_example_is_signed_as_published() -> None:
    """The secret, the id, the time and the body give the very signature."""
    assert SIGNATURE == sign([key(SECRET)], ID, TIMESTAMP, BODY)
    assert SECRET == spell(key(SECRET))


def test_the_receiver_of_these_tests_takes_the_published_example() -> None:
    """So that what it takes is what any receiver takes."""
    verify(SECRET, ID, str(TIMESTAMP), f"v1a,AAAA v1,!! {SIGNATURE}", BODY, now=TIMESTAMP + 299)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: {**told, "secret": spell(bytes(32))},
        lambda told: {**told, "message_id": "msg_other"},
        lambda told: {**told, "timestamp": str(TIMESTAMP + 1)},
        lambda told: {**told, "body": BODY + b" "},
        lambda told: {**told, "now": TIMESTAMP + 301},
        lambda told: {**told, "signatures": SIGNATURE.replace("v1,", "v1a,")},
    ],
    ids=["secret", "id", "time", "body", "late", "version"],
)
def test_it_takes_nothing_else(change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    """Another secret, id, time or body, an old message, a signature of another kind."""
    told = {
        "secret": SECRET,
        "message_id": ID,
        "timestamp": str(TIMESTAMP),
        "signatures": SIGNATURE,
        "body": BODY,
        "now": TIMESTAMP,
    }
    with pytest.raises(Forged):
        verify(**change(told))  # type: ignore[arg-type]


def test_two_secrets_make_two_signatures_each_of_which_serves() -> None:
    """While a secret is being replaced, who knows either can verify."""
    old, new = bytes(32), bytes(range(32))
    signatures = sign([new, old], ID, TIMESTAMP, BODY)

    assert 2 == len(signatures.split(" "))
    for secret in (old, new):
        verify(spell(secret), ID, str(TIMESTAMP), signatures, BODY, now=TIMESTAMP)
