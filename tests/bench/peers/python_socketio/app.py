"""python-socketio: what agent-7 says reaches phone-7, and back, on whichever server it is.

REDIS_URL=… uvicorn app:app; without REDIS_URL one server alone.
"""

import os
from typing import Any

import socketio

redis_url = os.environ.get("REDIS_URL")
sio = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(redis_url) if redis_url else None,
    transports=["websocket"],
    http_compression=False,
)
app = socketio.ASGIApp(sio)
others: dict[str, str] = {}


@sio.event
async def connect(sid: str, _: dict[str, Any], auth: dict[str, str]) -> None:
    """Join the room that is named for who comes."""
    me = auth["me"]
    others[sid] = me.replace("agent", "phone") if me.startswith("agent") else me.replace("phone", "agent")
    await sio.enter_room(sid, me)


@sio.event
async def say(sid: str, said: dict[str, Any]) -> None:
    """Hand on what is said."""
    await sio.emit("say", said, room=others[sid])


@sio.event
def disconnect(sid: str, reason: str) -> None:
    """Forget who has gone."""
    del others[sid]
