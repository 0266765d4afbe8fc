"""What uvicorn costs by itself: a socket, as raw ASGI and as Starlette's, that is answered when it says that it lives;
and a route that commits one row.

uvicorn app:raw, app:starlette, or DATABASE_URL=… uvicorn app:insert.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

ALIVE = '{"type":"HEARTBEAT_ACK"}'


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """One socket, and no framework."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": ALIVE})


async def _talk(socket: WebSocket) -> None:
    await socket.accept()
    async for _ in socket.iter_text():
        await socket.send_text(ALIVE)


starlette = Starlette(routes=[WebSocketRoute("/{me}", _talk)])


async def _insert(request: Request) -> Response:
    pool: asyncpg.Pool = request.state.pool
    await pool.execute("INSERT INTO bench_row (said) VALUES ($1)", "one row")
    return Response(status_code=204)


@asynccontextmanager
async def _pool(_: Starlette) -> AsyncIterator[dict[str, asyncpg.Pool]]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=16, max_size=16) as pool:
        yield {"pool": pool}


insert = Starlette(routes=[Route("/", _insert, methods=["POST"])], lifespan=_pool)
