"""An origin of recordings on loopback, a real HTTP server of which each test says how it answers; and its names."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Origin:
    """Answers every path as it is told by `answer`, and remembers who asked."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[web.Request] = []
        self.connections: list[asyncio.Transport] = []
        self.port = 0
        self._answer = answer

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Remember the request and answer it."""
        assert request.transport is not None
        self.requests.append(request)
        self.connections.append(request.transport)
        return await self._answer(request)


@asynccontextmanager
async def origin(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    """Serve on a free port of 127.0.0.1 until the block ends; whoever is still being answered is cut off."""
    served = Origin(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served.respond)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        served.port = int(runner.addresses[0][1])
        yield served
    finally:
        await runner.cleanup()


class Names(AbstractResolver):
    """A name server: each name has a list of answers, one a question, the last for ever; an answer is addresses."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name: list(each) for name, each in answers.items()}
        self.asked: list[str] = []

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002
    ) -> list[ResolveResult]:
        """Answer the next answer, of whatever family."""
        self.asked.append(host)
        answers = self._answers[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""
