"""Tencent Cloud's SDK with our connections: it signs and it reads, and the session that we are given sends.

The SDK's own client would take any address, the environment's proxies and an answer of any size, and would load every
root certificate for each line. What goes through our session is guarded (server/ssrf.py), bounded, and asked once.

Import this when a line needs it: it costs some 85 ms and 12 MB.
"""

import logging
from collections.abc import Mapping

import httpx
from aiohttp import ClientConnectorError, ClientError, ClientPayloadError, ClientSession, ClientTimeout
from aiohttp import ConnectionTimeoutError as NoConnection
from tencentcloud.ccc.v20200210.ccc_client_async import CccClient  # type: ignore[import-untyped]
from tencentcloud.common.abstract_client_async import LOGGER_NAME  # type: ignore[import-untyped]
from tencentcloud.common.credential import Credential  # type: ignore[import-untyped]
from tencentcloud.common.exception.tencent_cloud_sdk_exception import (  # type: ignore[import-untyped]
    TencentCloudSDKException,
)
from tencentcloud.common.profile.client_profile import ClientProfile  # type: ignore[import-untyped]
from tencentcloud.common.profile.http_profile import HttpProfile  # type: ignore[import-untyped]
from tencentcloud.common.retry_async import NoopRetryer  # type: ignore[import-untyped]
from yarl import URL

from server.providers.provider import PlacementRefused, Refusal, Uncertain
from server.ssrf import Refused

CONNECT = 5.0
"""Seconds until there must be a connection; until the whole answer is there, the caller has a deadline."""

LARGEST_ANSWER = 4 * 1024 * 1024
"""Bytes of an answer. A hundred records of calls, the most that one answer holds, are some hundred kilobytes."""

logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)  # at DEBUG it logs whole requests: numbers and signatures


class VendorError(Exception):
    """The vendor answered that it did not do it: `code` is its word, `text` is for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code)
        self.code = code
        self.text = text


class Sdk:
    """The vendor's API for one account; nothing is open between questions, so nothing is to be closed."""

    def __init__(self, *, secret_id: str, secret_key: str, region: str, base_url: URL, http: ClientSession) -> None:
        profile = HttpProfile(
            protocol=base_url.scheme,
            endpoint=base_url.authority,
            certification=False,  # of the client that is replaced below, unused: spares it 40 ms for certificates
        )
        self._client = CccClient(
            Credential(secret_id, secret_key), region, ClientProfile(httpProfile=profile, retryer=NoopRetryer())
        )
        self._client.http_client = httpx.AsyncClient(transport=_Through(http), trust_env=False)

    async def ask(self, action: str, parameters: Mapping[str, object]) -> object:
        """Ask once, and return what the vendor answers as `Response`.

        The caller sets the deadline. Raises VendorError; PlacementRefused if nothing was asked, for there was no
        connection; Uncertain where no readable answer came."""
        try:
            answer: dict[str, object] = await self._client.call_and_deserialize(action, parameters, dict)
            return answer["Response"]
        except TencentCloudSDKException as error:
            if error.code == "ServerNetworkError":  # the SDK's word for any HTTP status but 200; the message is a body
                raise Uncertain(f"{action} was answered with an error of HTTP") from None
            raise VendorError(str(error.code), str(error.message)) from None
        except (ClientConnectorError, NoConnection) as error:
            raise PlacementRefused(
                Refusal.LINE, type(error).__name__, "the provider cannot be reached", known=True
            ) from None
        except Refused as refused:
            raise PlacementRefused(Refusal.LINE, "EndpointRefused", str(refused), known=True) from None
        except (ClientError, TimeoutError, OSError) as error:
            raise Uncertain(f"{action} was not answered: {type(error).__name__}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            # the SDK reads answers without looking at what they are, and fails on garbage in one of these ways
            raise Uncertain(f"the answer to {action} cannot be read") from None


class _Through(httpx.AsyncBaseTransport):
    """Sends httpx's requests through an aiohttp session: one connection a request, no redirects, no second try."""

    def __init__(self, http: ClientSession) -> None:
        self._http = http

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and return the whole answer. What goes wrong is told in aiohttp's exceptions."""
        async with self._http.request(
            request.method,
            URL(str(request.url), encoded=True),
            headers={**request.headers, "Accept-Encoding": "identity"},
            data=request.content,
            allow_redirects=False,
            timeout=ClientTimeout(total=None, connect=CONNECT),
        ) as response:
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > LARGEST_ANSWER:
                    raise ClientPayloadError(f"more than {LARGEST_ANSWER} bytes")
            # without its parameters: the SDK sees an error only where the type is written exactly `application/json`
            headers = {"Content-Type": response.content_type}
            return httpx.Response(response.status, headers=headers, content=bytes(body))
