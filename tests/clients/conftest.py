"""A server whose every word the test says, and phones and desks in a hurry."""

from collections.abc import AsyncIterator

import pytest

from tests.clients.fake_server import FakeServer


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """A server of this test alone."""
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()
