"""By which phone is this call made? Pure: the phones of the agent in, one of them or a refusal out."""

from collections.abc import Sequence

from protocol.errors import DialdeskError
from storage.calls import Phone


def choose(phones: Sequence[Phone], *, asked: str | None, default: str | None) -> Phone:
    """Return the phone to dial with: the one asked for, else the agent's default, else the first that is free.

    A phone that was named, by the dial or as default, is never exchanged for another: the agent holds that one in hand.
    Raises NOT_FOUND for a phone that is not the agent's, NO_DEVICE, DEVICE_OFFLINE, DEVICE_BUSY.
    """
    if asked is not None:
        named = next((phone for phone in phones if asked in {phone.id, phone.hardware_id}), None)
        if named is None:
            raise DialdeskError("NOT_FOUND", what="device")
        return _ready(named)
    if not phones:
        raise DialdeskError("NO_DEVICE")
    usual = next((phone for phone in phones if phone.id == default), None)
    if usual is not None:
        return _ready(usual)
    free = next((phone for phone in phones if phone.online and not phone.busy), None)
    if free is not None:
        return free
    return _ready(next((phone for phone in phones if phone.online), phones[0]))


def _ready(phone: Phone) -> Phone:
    if not phone.online:
        raise DialdeskError("DEVICE_OFFLINE")
    if phone.busy:
        raise DialdeskError("DEVICE_BUSY")
    return phone
