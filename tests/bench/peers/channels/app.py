"""Django Channels with channels_redis: what /agent-7 says reaches /phone-7, and back, on whichever server it is.

REDIS_URL=… uvicorn app:app, or daphne app:app.
"""

import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.conf import settings

settings.configure(
    SECRET_KEY="not-a-secret",
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    },
)
django.setup()


class Talk(AsyncWebsocketConsumer):
    """One socket, in a group that is named for it."""

    async def connect(self) -> None:
        """Join the group."""
        self.me = self.scope["path"].strip("/")
        agent = self.me.startswith("agent")
        self.other = self.me.replace("agent", "phone") if agent else self.me.replace("phone", "agent")
        await self.channel_layer.group_add(self.me, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leave it."""
        await self.channel_layer.group_discard(self.me, self.channel_name)

    async def receive(self, text_data: str = "", bytes_data: bytes = b"") -> None:
        """Hand on what is said."""
        await self.channel_layer.group_send(self.other, {"type": "said", "text": text_data})

    async def said(self, event: dict[str, Any]) -> None:
        """Send what was handed on."""
        await self.send(event["text"])


app = ProtocolTypeRouter({"websocket": Talk.as_asgi()})
