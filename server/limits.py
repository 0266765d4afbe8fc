"""May calls be made now? Pure: what the tenant has set in, nothing or a refusal out.

It is asked of every dial, from a phone or over a line, before anything is routed. Over lines their own hours count too.
"""

from protocol.errors import DialdeskError
from storage.calls import DialContext

USUAL_HOURS = ("08:00", "21:00")
"""Between which calls are made (seed 000 §5). A tenant may narrow them; only the installation may widen them."""


def decide(agent: DialContext) -> None:
    """Return if calls may be made now. Whether this customer may be called is asked where the call is committed.

    Raises CALLS_OFF, LIMIT_HOURS.
    """
    if not agent.calls_enabled:
        raise DialdeskError("CALLS_OFF")
    if not agent.calling_from <= agent.local < agent.calling_to:
        raise DialdeskError("LIMIT_HOURS")
