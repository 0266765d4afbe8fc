"""Alibaba Cloud's official client for CCC 2020-07-01, sending through a connection of ours.

The SDK knows the actions and their parameters, and signs (ACS3-HMAC-SHA256). How it sends does not suit a server that
others tell where to send: it follows redirects, so that an order is posted twice; it opens a session for each request,
with TLS settings read from disk in the event loop; it goes through HTTP_PROXY; it knows neither our guard nor a bound
on answers; and its exceptions carry the signed request. Its methods all send by `call_api_async`, so that is replaced.

Importing this module costs some 0.4 s and 28 MB, which is why `aliyun.py` imports it when a line is first used.
"""

import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec
from alibabacloud_ccc20200701 import models  # type: ignore[import-untyped]
from alibabacloud_ccc20200701.client import Client  # type: ignore[import-untyped]
from alibabacloud_tea_openapi.utils import Utils  # type: ignore[import-untyped]
from alibabacloud_tea_openapi.utils_models import Config  # type: ignore[import-untyped]
from darabonba.request import DaraRequest  # type: ignore[import-untyped]
from yarl import URL

from server.providers.provider import LEFT_OPEN, PlacementRefused, Refusal, Uncertain
from server.ssrf import Refused

REFUSALS: tuple[tuple[str, Refusal], ...] = (
    ("UserBusy", Refusal.SEAT_BUSY),
    ("Throttling", Refusal.THROTTLED),
    ("Parameter.Callee", Refusal.CALLEE),
    ("InvalidParameter.Callee", Refusal.CALLEE),
    ("InvalidPhoneNumber", Refusal.CALLEE),
    ("DoNotCall", Refusal.CALLEE),
    ("NotExists.UserId", Refusal.SEAT),
    ("NotExists.InstanceId", Refusal.LINE),
    ("InvalidAccessKeyId", Refusal.LINE),
    ("SignatureDoesNotMatch", Refusal.LINE),
    ("IncompleteSignature", Refusal.LINE),
    ("Forbidden", Refusal.LINE),
    ("NoPermission", Refusal.LINE),
)
"""What a code means that begins so; the rest lies with the line too, but may have failed after a telephone rang, so no
other line is asked.

The vendor publishes no full table: those about the callee are guesses, the line's breaker sees all.
"""

USER_STATE = "InvalidOperation.UserState"
"""The agent's state does not allow it; the first of `Params` is the state."""

SEAT_OFFLINE = {"OFFLINE"}

CONNECT = 5.0
"""Seconds in which a connection must stand; until then nothing was asked for."""

ANSWER_BOUND = 1024 * 1024
"""Bytes of an answer; a page of 100 call records is some 150 KiB."""

SIGNATURE = "ACS3-HMAC-SHA256"

_NOTHING = sha256(b"").hexdigest()
_LONG_NUMBER = re.compile(r"\+?[0-9]{7,}")
_T = TypeVar("_T")

Millis = int | str | None
"""A time in milliseconds since 1970; empty where there is none."""


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A call detail record. The vendor fills in what it knows; `contact_id` is the JobId of the call."""

    contact_id: str
    contact_type: str = ""
    contact_disposition: str = ""
    calling_number: str = ""
    called_number: str = ""
    agent_ids: str = ""
    start_time: Millis = None
    established_time: Millis = None
    release_time: Millis = None
    call_duration: Millis = None
    early_media_state: str = ""
    release_initiator: str = ""
    release_reason: str = ""
    recording_ready: bool = False


class Page(msgspec.Struct, frozen=True, rename="pascal"):
    """A page of call detail records; `total_count` counts those of all pages."""

    records: list[Record] = msgspec.field(name="List", default_factory=list)
    total_count: int = 0


class Instance(msgspec.Struct, frozen=True, rename="pascal"):
    """The call centre, as it describes itself."""

    name: str = ""
    status: str = ""
    number_list: list[dict[str, object]] = []


class _CallContext(msgspec.Struct, frozen=True, rename="pascal"):
    job_id: str


class _Called(msgspec.Struct, frozen=True, rename="pascal"):
    call_context: _CallContext


class _File(msgspec.Struct, frozen=True, rename="pascal"):
    file_url: str = ""


class _Envelope(msgspec.Struct, frozen=True, rename="pascal"):
    """What every answer has, a refusal included."""

    code: str
    message: str | None = None
    http_status_code: int | None = None
    params: list[object] | None = None


class Ccc:
    """One call centre instance: what Dialdesk asks of it, in Dialdesk's types.

    Every method raises PlacementRefused with the vendor's code where the vendor definitely said no, or was not reached,
    and Uncertain where no readable answer came. None has a deadline for the whole: the caller sets it.
    """

    def __init__(
        self,
        *,
        instance_id: str,
        region: str,
        base_url: str | None,
        access_key: tuple[str, str],
        http: aiohttp.ClientSession,
    ) -> None:
        self._instance_id = instance_id
        self._client = _OverOurConnection(region, base_url, access_key, http)

    async def make_call(self, *, user_id: str, caller: str | None, callee: str, tag: str, timeout: int) -> str:
        """Have a signed-in agent call a number. Return the JobId."""
        request = models.MakeCallRequest(
            instance_id=self._instance_id,
            user_id=user_id,
            device_id="dialdesk",  # without a meaning, says the vendor; once it was required
            caller=caller,
            callee=callee,
            timeout_seconds=timeout,
            tags=tag,
        )
        return (await self._data(self._client.make_call_async, request, _Called)).call_context.job_id

    async def start_back2back_call(
        self, *, broker: str, additional_broker: str | None, caller: str, callee: str, tag: str, timeout: int
    ) -> str:
        """Have two telephones called and joined: `caller` first, from `broker`. Return the JobId."""
        request = models.StartBack2BackCallRequest(
            instance_id=self._instance_id,
            broker=broker,
            additional_broker=additional_broker,
            caller=caller,
            callee=callee,
            timeout_seconds=timeout,
            tags=tag,
        )
        return (await self._data(self._client.start_back_2back_call_async, request, _Called)).call_context.job_id

    async def release_call(self, *, job_id: str, user_id: str) -> None:
        """End the call that the agent is in."""
        request = models.ReleaseCallRequest(instance_id=self._instance_id, job_id=job_id, user_id=user_id)
        await self._client.release_call_async(request)

    async def mute_call(self, *, job_id: str, user_id: str, on: bool) -> None:
        """Mute the agent's channel, or let it be heard again."""
        if on:
            request = models.MuteCallRequest(instance_id=self._instance_id, job_id=job_id, user_id=user_id)
            await self._client.mute_call_async(request)
        else:
            request = models.UnmuteCallRequest(instance_id=self._instance_id, job_id=job_id, user_id=user_id)
            await self._client.unmute_call_async(request)

    async def blind_transfer(self, *, job_id: str, user_id: str, to: str, to_agent: bool, caller: str | None) -> None:
        """Hand the agent's customer to another agent, or to an outside number, which sees `caller`."""
        request = models.BlindTransferRequest(
            instance_id=self._instance_id,
            job_id=job_id,
            user_id=user_id,
            transferee=to,
            transferee_type="AGENT" if to_agent else "EXTERNAL_NUMBER",
            transferor=None if to_agent else caller,
        )
        await self._client.blind_transfer_async(request)

    async def record(self, job_id: str) -> Record | None:
        """Return a call's record; None where the answer holds none."""
        request = models.GetCallDetailRecordRequest(instance_id=self._instance_id, contact_id=job_id)
        return await self._perhaps(self._client.get_call_detail_record_async, request, Record)

    async def records(self, *, contact_type: str, called: str, begun: tuple[datetime, datetime], page: int) -> Page:
        """Return a page (from 1) of the records of calls to a number that began between two times."""
        earliest, latest = begun
        request = models.ListCallDetailRecordsV2Request(
            instance_id=self._instance_id,
            contact_type_list=msgspec.json.encode([contact_type]).decode(),
            called_number=called,
            start_time=int(earliest.timestamp() * 1000),
            end_time=int(latest.timestamp() * 1000),
            page_number=page,
            page_size=100,
        )
        return await self._data(self._client.list_call_detail_records_v2_async, request, Page)

    async def recording(self, job_id: str) -> str | None:
        """Return a URL, valid for a day, of both voices in one channel; None where the answer holds none."""
        request = models.GetMonoRecordingRequest(instance_id=self._instance_id, contact_id=job_id)
        file = await self._perhaps(self._client.get_mono_recording_async, request, _File)
        return file.file_url or None if file is not None else None

    async def instance(self) -> Instance:
        """Return what the instance says of itself."""
        request = models.GetInstanceRequest(instance_id=self._instance_id)
        return await self._data(self._client.get_instance_async, request, Instance)

    async def _data(self, action: Callable[[Any], Awaitable[Any]], request: object, kind: type[_T]) -> _T:
        answer = await self._perhaps(action, request, kind)
        if answer is None:
            raise Uncertain("Aliyun CCC answered OK, and nothing else")
        return answer

    async def _perhaps(self, action: Callable[[Any], Awaitable[Any]], request: object, kind: type[_T]) -> _T | None:
        """Ask, and read `Data`; None where there is none. The SDK's models take any type for any other: ours decide."""
        body = (await action(request)).to_map().get("body")
        data = body.get("Data") if isinstance(body, dict) else None
        if not data:
            return None
        try:
            return msgspec.convert(data, kind, strict=False)
        except msgspec.ValidationError as error:
            raise Uncertain(f"Aliyun CCC answered what cannot be read: {error}") from None


class _OverOurConnection(Client):  # type: ignore[misc]
    """The official client, but for how it sends. It is not given the key: it keeps what it is given."""

    def __init__(
        self, region: str, base_url: str | None, access_key: tuple[str, str], http: aiohttp.ClientSession
    ) -> None:
        url = urlsplit(base_url) if base_url is not None else None
        super().__init__(Config(region_id=region, endpoint=None if url is None else url.netloc))
        self._base_url = f"https://{self._endpoint}" if url is None else f"{url.scheme}://{url.netloc}"
        self._access_key = access_key
        self._http = http

    async def call_api_async(self, params: Any, request: Any, runtime: object) -> dict[str, object]:  # noqa: ARG002
        """Send one request, once, and return the answer in the form that the SDK's methods read."""
        url = f"{self._base_url}{params.pathname}?{urlencode(request.query, quote_via=quote)}"
        try:
            async with self._http.post(
                URL(url, encoded=True),
                headers=self._signed(params, request),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT),
                allow_redirects=False,
            ) as response:
                body = await _bounded(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, Refused) as error:
            text = f"{self._endpoint} was not reached: {type(error).__name__}"
            raise PlacementRefused(Refusal.LINE, "Unreachable", text, known=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Uncertain(f"{self._endpoint} did not answer: {type(error).__name__}") from None
        return {"headers": {}, "statusCode": response.status, "body": self._accepted(params.action, response, body)}

    def _signed(self, params: Any, request: Any) -> dict[str, str]:
        signed = DaraRequest()
        signed.method, signed.pathname, signed.query = params.method, params.pathname, request.query
        signed.headers = {
            "host": self._endpoint,
            "accept": "application/json",
            "x-acs-action": params.action,
            "x-acs-version": params.version,
            "x-acs-date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "x-acs-signature-nonce": secrets.token_hex(16),
            "x-acs-content-sha256": _NOTHING,
        }
        authorization = Utils.get_authorization(signed, SIGNATURE, _NOTHING, *self._access_key)
        return {**signed.headers, "accept-encoding": "identity", "authorization": authorization}

    def _accepted(self, action: str, response: aiohttp.ClientResponse, body: bytes) -> object:
        """Return the answer as JSON, where its code is OK."""
        try:
            envelope = msgspec.json.decode(body, type=_Envelope)
            told = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Uncertain(f"{action}: {response.status}, and a body that cannot be read") from None
        status = max(response.status, envelope.http_status_code or 0)
        if envelope.code == "OK" and response.status == 200:
            return told
        listed = _refusal(envelope)
        if listed is not Refusal.THROTTLED and (envelope.code == "OK" or status in LEFT_OPEN):
            raise Uncertain(f"{action}: {status} {envelope.code[:64]}")
        text = self._for_people(envelope.message)
        raise PlacementRefused(listed or Refusal.LINE, envelope.code[:64], text, known=listed is not None)

    def _for_people(self, message: str | None) -> str:
        """The vendor's words without what they may quote: the customer's number, or the key."""
        text = message or "Aliyun CCC refused"
        for secret in self._access_key:
            text = text.replace(secret, "***")
        return _LONG_NUMBER.sub("***", text)[:300]


def _refusal(envelope: _Envelope) -> Refusal | None:
    """Return what the code is known to mean; None for one that is not listed."""
    if envelope.code == USER_STATE:
        state = envelope.params[0] if envelope.params else None
        return Refusal.SEAT_OFFLINE if state in SEAT_OFFLINE else Refusal.SEAT_BUSY
    return next((refusal for prefix, refusal in REFUSALS if envelope.code.startswith(prefix)), None)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > ANSWER_BOUND:
            raise Uncertain(f"an answer of more than {ANSWER_BOUND} bytes")
    return bytes(body)
