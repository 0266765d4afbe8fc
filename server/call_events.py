"""What agents are told of their calls: the events of a change, from the call as it was read and what it came to."""

from typing import Any

from protocol.call import CallState, End, Evidence, Progress, Status
from protocol.messages import CallConnected, CallDialing, CallEnded, CallProgress, CallRinging
from protocol.phone_number import mask
from protocol.timestamps import epoch_ms
from storage.calls import Source, StoredCall

_PROGRESS: dict[Status, type[CallProgress]] = {
    Status.CALLING: CallDialing,
    Status.RINGING: CallRinging,
    Status.CONNECTED: CallConnected,
}


def telling(
    call: StoredCall, state: CallState, event: Progress | End, source: Source, *, enriched: bool
) -> CallProgress | CallEnded:
    """What the agent is told when an event moved the call to `state`."""
    if state.status is Status.ENDED:
        return ended(call, state, enriched=enriched)
    return _PROGRESS[state.status](**_about(call), evidence=event.evidence, source=source)


def ended(call: StoredCall, state: CallState, *, enriched: bool) -> CallEnded:
    """That the call ended, or where `enriched`, that more is known of how it did."""
    assert state.outcome is not None
    assert state.hangup_cause is not None
    return CallEnded(
        **_about(call),
        status=state.outcome,
        hangup_cause=state.hangup_cause,
        closed_by=str(state.closed_by),
        evidence=state.evidence or Evidence.SERVER,
        duration=state.duration,
        has_recording=state.has_recording,
        enriched=enriched,
    )


def _about(call: StoredCall) -> dict[str, Any]:
    """What every event of the call says."""
    return {
        "call_id": call.id,
        "at": epoch_ms(call.now),
        "customer_phone": mask(call.customer_phone),
        "customer_name": call.customer_name,
        "customer_id": call.customer_id,
        "order_id": call.order_id,
        "external_id": call.external_id,
        "custom_data": call.custom_data,
        "device_id": call.device_id,
    }
