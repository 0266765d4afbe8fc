"""What holds for every route of the real application, whichever it is (house rules 9 and 10, and HTTP)."""

import asyncio
import functools
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import pytest
from msgspec import inspect as mi
from starlette.types import ASGIApp

from protocol.errors import ERRORS, DialdeskError, Language
from protocol.messages import new_message_id
from server.app import web_node
from server.config import Config
from server.http import ANYONE, NUMBERED, PHONE, SIGNED_IN, AppBody, Endpoint
from server.openapi import describe_endpoints
from storage.database import Database
from tests.server.companies import AUDIO, HARDWARE, NOBODY, NOBODYS_URL, Company, Person, Town
from tests.server.test_forms import encoded, part

DOCUMENTS: Final = {
    "/api/openapi.json": "is public",
    "/api/asyncapi.json": "is public",
    "/api/docs": "is public",
}
OPEN: Final = {
    "/healthz": "tells nothing but that it lives",
    "/readyz": "is asked by load balancers",
    "/metrics": "asks for METRICS_TOKEN itself",
    "/api/v1/auth/login": "is how one gets a credential",
    "/api/v1/auth/refresh": "is how one gets another; the refresh token is one itself",
    "/api/v1/auth/ws-ticket": "asks for the credential of a user, an API key or a phone itself",
    "/api/v1/calls/device/bind": "is how a phone gets a credential; the code that it scanned is one itself",
    "/api/v1/calls/webhook/{provider}": "takes hints from anybody, whose only effect is that a provider is asked",
    "/api/v1/calls/webhook/{provider}/{token}": "is called by providers; its token is a credential itself",
    "/api/v1/calls/webhook/{provider}/{kind}/{token}": "is called by providers; its token is a credential itself",
    "/api/v1/recordings/{token}": "is a link to one recording; its token is a credential itself",
    **DOCUMENTS,
}
"""The routes that ask for no credential, and why each may."""

ALSO_NEEDS: Final = {"Devices.make_qr": "devices.bind"}
"""Permissions that a function asks for itself, since what it needs depends on the request."""

NOT_ONCE: Final = {
    "Auth.login": "its answer is secret",
    "Auth.refresh": "its answer is secret",
    "Auth.exchange": "its answer is secret",
    "Auth.ws_ticket": "its answer is secret",
    "Auth.logout": "makes nothing",
    "Auth.change_password": "makes nothing",
    "Admin.create_tenant": "its answer may hold a password; the code is unique",
    "Admin.suspend_tenant": "makes nothing",
    "Admin.resume_tenant": "makes nothing",
    "Users.create": "its answer may hold a password; the user name is unique",
    "Users.import_users": "its answer may hold passwords; user names are unique",
    "Users.disable": "makes nothing",
    "Users.enable": "makes nothing",
    "Users.reset_password": "its answer is secret",
    "Users.unlock": "makes nothing",
    "Devices.make_qr": "its answer is secret; the newest code counts",
    "Devices.bind": "its answer is secret; the code serves once",
    "Hooks.rotate_secret": "its answer is secret; asked again, the last secrets go on as well",
    "Hooks.ping": "one test more does no harm",
    "Hooks.resend": "makes nothing",
    "Hooks.resend_failed": "makes nothing",
    "Calls.hang_up": "makes nothing",
    "Controls.mute": "makes nothing",
    "Controls.transfer": "makes nothing; a call that was handed on is not there to be handed on again",
    "LineHealth.unfreeze": "makes nothing",
    "Calls.report_status": "a report has an id of its own",
    "Calls.report_end": "a report has an id of its own",
    "InfinityChannels.reveal": "its answer is secret",
    "InfinityChannels.track": "is logged, and nothing else",
    "InfinityConfigs.test": "makes nothing",
    "InfinityConfigs.test_connection": "makes nothing",
    "InfinityConfigs.toggle": "makes nothing",
    "Lines.test": "makes nothing",
    "Explain.explain": "makes nothing",
    "Lately.tell": "makes nothing",
    "DoNotCall.check": "makes nothing",
    "DoNotCall.lift": "makes nothing",
    "Lines.test_config": "makes nothing",
    "Extensions.batch_delete": "makes nothing",
    "Extensions.release": "makes nothing",
    "Extensions.release_agent": "makes nothing",
    "Records.complete_follow_up": "makes nothing",
    "Uploads.upload": "a call has one recording, and the same file again is the same answer",
    "Uploads.attach": "a call has one recording, and the same file again is the same answer",
    "Uploads.begin": "goes on with the upload of the same file",
    "Uploads.complete": "asked again, it answers the same",
    "Recordings.link": "makes nothing",
    "Webhooks.hint": "makes nothing",
    "Webhooks.take": "a message is kept once, by what its provider says of it",
    "Webhooks.take_kind": "a message is kept once, by what its provider says of it",
}
"""POST without Idempotency-Key, and why each may."""

UNLESS: Final = {"customerId": {"customerPhone", "phone"}, "callId": {"customerPhone", "phone"}}
"""What names something only where others are left out: beside a number it is the CRM's word for whom it calls."""

NAMES_NOTHING: Final = {
    "orderId",
    "orderIds",
    "externalId",
    "messageId",
    "accountId",
    "appId",
    "seatId",
    "number",
    "provider",
    "kind",
}
"""What a CRM, a phone or a provider calls its own things: text that is kept as it comes, or the number of a part."""

SETTLES: Final = {
    ("Calls.dial", "body", "lineId"): "a call from a phone goes over no line; only a cloud call reads which",
    ("Explain.explain", "body", "lineId"): "a call from a phone goes over no line; only a cloud call reads which",
    ("Devices.bind", "body", "deviceId"): "a handset that another tenant has bound is bound anew, in a row of its own",
    ("Calls.report_status", "body", "callId"): "reports are answered one by one: the result says NOT_FOUND",
    ("Calls.report_end", "body", "callId"): "reports are answered one by one: the result says NOT_FOUND",
    ("Recordings.play", "path", "token"): "whoever has the link may listen",
}
"""Where naming another tenant's thing succeeds without touching it, and why."""

SPEAKS_FOR_ITS_TENANT: Final = {
    ("Webhooks.take", "path", "token"): "whoever knows the URL of a line may tell of its calls",
    ("Webhooks.take_query", "path", "token"): "whoever knows the URL of a line may tell of its calls",
    ("Webhooks.take_kind_query", "path", "token"): "whoever knows the URL of a line may tell of its calls",
    ("Webhooks.take_kind", "path", "token"): "whoever knows the URL of a line may tell of its calls",
}
"""What is no id but a credential, and so tells whose request it is."""

REFUSES_OTHERWISE: Final = {
    ("Admin.get_tenant", "path", "tenant_id"): "FORBIDDEN",
    ("Admin.rename_tenant", "path", "tenant_id"): "FORBIDDEN",
    ("Admin.suspend_tenant", "path", "tenant_id"): "FORBIDDEN",
    ("Admin.resume_tenant", "path", "tenant_id"): "FORBIDDEN",
}
"""Where another code than NOT_FOUND tells that there is no such thing, or that one may not ask."""


LINE: Final = {
    "providerType": "infinity",
    "providerConfig": {"appId": "new", "accessKey": "a new access key", "baseUrl": NOBODYS_URL},
}
"""What is configured of a line."""

CHANNEL: Final = {"account_id": "channel", "channel_name": "Channel"}
"""What is configured of a channel."""


def sample(own: Company) -> dict[str, Any]:
    """The body of a request that its endpoint takes, by the endpoint's name: JSON, a file, or the fields of a form."""
    return {
        "Auth.login": {"username": "nobody", "password": "no password"},
        "Auth.refresh": {"refreshToken": "ddr_none"},
        "Auth.change_password": {"oldPassword": "no password", "newPassword": "another one"},
        "Auth.exchange": {"userId": own.agent_id},
        "Auth.ws_ticket": {},
        "Admin.create_tenant": {"code": "new", "name": "New", "admin": {"username": "new", "name": "New"}},
        "Admin.rename_tenant": {"name": "New"},
        "Admin.put_config": {"name": "New"},
        "Admin.create_team": {"name": "West"},
        "Admin.rename_team": {"name": "East"},
        "Users.create": {"username": "new", "name": "New", "role": "supervisor"},
        "Users.update": {"name": "New", "role": "supervisor"},
        "Users.import_users": b"username,name\nnew,New\n",
        "Hooks.create": {"url": "https://crm.example/", "events": ["call.ended"], "description": "new"},
        "Hooks.update": {"events": ["call.created"]},
        "Hooks.resend_failed": {"since": "2026-11-22T00:00:00Z"},
        "ApiKeys.create": {"name": "new", "scopes": ["calls.read"]},
        "Devices.make_qr": {},
        "Devices.bind": {
            "token": own.bind_token,
            "deviceId": HARDWARE,
            "deviceName": "phone",
            "deviceModel": "model",
            "osType": "ios",
            "osVersion": "19",
            "appVersion": "1",
        },
        "Devices.put_config": {"callMethod": "mobile"},
        "Calls.dial": {"customerPhone": "13800138000"},
        "Calls.hang_up": {"callId": own.live_call_id},
        "Controls.mute": {"callId": own.live_call_id},
        "Controls.transfer": {"callId": own.live_call_id, "number": "13800138000"},
        "LineHealth.unfreeze": {},
        "Explain.explain": {"customerPhone": "13800138000"},
        "Lately.tell": {"customerPhone": "13800138000"},
        "DoNotCall.add": {"phone": "13800138001"},
        "DoNotCall.check": {"phones": ["13800138001"]},
        "DoNotCall.lift": {"reason": "asked for"},
        "DoNotCall.import_file": b"phone\n13800138001\n",
        "TrialNumbers.put": {"numbers": [{"phone": "13800138000"}]},
        "Calls.report_status": {"callId": own.live_call_id, "status": "ringing"},
        "Calls.report_end": {"callId": own.live_call_id, "status": "connected"},
        "InfinityChannels.create": {**CHANNEL, "api_key": "a new key", "api_secret": "a new secret"},
        "InfinityChannels.update": CHANNEL,
        "InfinityChannels.set_status": {"status": 2},
        "InfinityChannels.reveal": {"reason": "asked for"},
        "InfinityChannels.track": {"event": "infinity_config_page_view"},
        "InfinityConfigs.create": {"name": "Configured", "appId": "configured", "accessKey": "a new access key"},
        "InfinityConfigs.update": {"name": "New"},
        "InfinityConfigs.toggle": {"isActive": False},
        "InfinityConfigs.test_connection": {"appId": "new", "accessKey": "a key", "baseUrl": NOBODYS_URL},
        "Lines.create": {"name": "New", **LINE},
        "Lines.update": {"name": "New"},
        "Lines.test_config": LINE,
        "Lines.put_seat": {"seatId": "new"},
        "InfinityCalls.make_call": {"configId": own.line_id, "customerPhone": "13800138000"},
        "Extensions.batch_import": {"lineId": own.line_id, "extensions": ["8002"]},
        "Extensions.import_file": b"8003\n",
        "Extensions.update": {"status": "offline"},
        "Extensions.release": {"reason": "stuck"},
        "Extensions.release_agent": {"reason": "stuck"},
        "Extensions.batch_delete": {"extensionIds": [own.extension_id]},
        "Records.follow_up": {"note": "new"},
        "Uploads.upload": {"callId": own.live_call_id},
        "Uploads.attach": {},
        "Uploads.begin": {
            "callId": own.live_call_id,
            "size": len(AUDIO),
            "sha256": hashlib.sha256(AUDIO).hexdigest(),
            "mediaType": "audio/mpeg",
        },
        "Uploads.put_part": AUDIO,
        "Webhooks.hint": b"a message",
        "Webhooks.take": b"a message",
        "Webhooks.take_kind": b"a message",
        "Recordings.hold": {"hold": True, "reason": "asked for"},
        "Customers.create": {"name": "New", "phone": "13800138000"},
        "Customers.save": {"name": "New", "phone": "13800138000"},
        "Customers.import_file": b"external_id,name,phone,tags,order_ids\nnew,New,13800138000,,\n",
    }


QUERY: Final = {"Recordings.remove": {"reason": "asked for"}, "Export.calls": {"from": "2026-01-01T00:00:00Z"}}
"""The query of a request to an endpoint that must have one."""


def known_as(company: Company) -> dict[str, list[str]]:
    """What a company has for each name that asks for an id."""
    return {
        "tenantId": [company.tenant_id],
        "teamId": [company.team_id],
        "supervisedTeams": [company.team_id],
        "userId": [company.agent_id],
        "actorId": [company.device_id],
        "resourceId": [company.device_id],
        "deviceId": [company.busy_device_id, company.device_id],
        "handset": [HARDWARE],
        "lineId": [company.line_id],
        "channelId": [company.line_id],
        "configId": [company.line_id],
        "accountId": ["another account"],
        "appId": ["another account"],
        "seatId": ["another seat"],
        "callId": [company.live_call_id, company.ended_call_id],
        "customerId": [company.customer_id],
        "entryId": [company.entry_id],
        "extensionId": [company.extension_id],
        "extensionIds": [company.extension_id],
        "externalId": [company.reference],
        "orderId": [company.order_id],
        "orderIds": [company.order_id],
        "keyId": [company.key_id],
        "hookId": [company.hook_id],
        "deliveryId": [company.delivery_id],
        "messageId": [new_message_id()],
        "uploadId": [company.upload_id],
        "number": ["1"],
        "token": [company.play_token],
        "lineToken": [company.line_token],
        "provider": ["infinity"],
        "kind": ["status"],
    }


# --- asking -----------------------------------------------------------------------------------------------------------


class Installation:
    """A web node with its endpoints, asked from one address. Every refusal is looked at here, whoever is refused."""

    def __init__(self, app: ASGIApp, endpoints: Sequence[Endpoint], town: Town, root: Person, ip: str) -> None:
        self._app = app
        self._documented = _codes(endpoints)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(ip, 1)), base_url="http://desk")
        self._asked = 0
        self.endpoints = endpoints
        self.town = town
        self.root = root

    def seen_from(self, ip: str) -> "Installation":
        """The same, asked from another address."""
        return Installation(self._app, self.endpoints, self.town, self.root, ip)

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of that name."""
        return next(endpoint for endpoint in self.endpoints if name == endpoint.name)

    async def ask(
        self,
        person: Person,
        endpoint: Endpoint,
        path: Mapping[str, str] = {},
        body: Any = None,
        *,
        query: Mapping[str, Any] = {},
        headers: Mapping[str, str] = {},
    ) -> httpx.Response:
        """Send a request. What the path asks for is `none` unless given. A body that is not bytes is sent as JSON, or
        as the fields of a form with AUDIO."""
        filled = re.sub(r"{(\w+)}", lambda part: quote(path.get(part[1], "none"), safe=""), endpoint.path)
        content = body
        if body is not None and not isinstance(body, bytes | AsyncIterator):
            content = json.dumps(body).encode() if endpoint.form is None else form(body, AUDIO)
        told = {"content-type": kind_of(endpoint), **person.headers, **headers}
        response = await self.send(endpoint.method, filled, content=content, params=query, headers=told)
        assert outcome(response) in self._documented[endpoint.name], f"{endpoint.name} answers {outcome(response)}"
        return response

    async def send(self, method: str, path: str, *, headers: Mapping[str, Any] = {}, **more: Any) -> httpx.Response:
        """Send a request as it is: every other one asks for English, and every third brings an id of its own."""
        self._asked += 1
        asked = {"accept-language": "en-GB,en;q=0.9,zh;q=0.5"} if self._asked % 2 else {}
        own_id = {"x-request-id": f"asked-{self._asked}"} if self._asked % 3 == 0 else {}
        headers = {**asked, **own_id, **headers}
        response = await self._client.request(method, path, headers=headers, **more)
        assert headers.get("x-request-id", response.headers["x-request-id"]) == response.headers["x-request-id"]
        if not response.is_success:
            _demand_shape(response, "en" if "accept-language" in headers else "zh-CN")
        return response


def kind_of(endpoint: Endpoint) -> str:
    """The Content-Type of what an endpoint takes."""
    return f"{endpoint.media_type or 'text/csv'}{'' if endpoint.form is None else '; boundary=edge'}"


def form(fields: Mapping[str, str], file: bytes) -> bytes:
    """A form with a file behind its fields."""
    return encoded([*(part(name, value) for name, value in fields.items()), part("file", file, filename="a.mp3")])


def _codes(endpoints: Sequence[Endpoint]) -> dict[str, set[str]]:
    """What the document says that each endpoint answers: `ok`, and codes. Any tells a phone that it is unbound."""
    document = msgspec.json.decode(describe_endpoints(endpoints, version="1", server_url="http://desk"))
    return {
        operation["operationId"]: {"ok", "DEVICE_UNBOUND", *re.findall("`(\\w+)`", " ".join(_descriptions(operation)))}
        for methods in document["paths"].values()
        for operation in methods.values()
    }


def _descriptions(operation: dict[str, Any]) -> list[str]:
    return [response["description"] for response in operation["responses"].values()]


def _demand_shape(response: httpx.Response, language: Language) -> None:
    """Every refusal has one shape (house.md, HTTP), in the language that was asked for, and is nobody's fault here."""
    told = response.json()
    if response.request.url.path.startswith(NUMBERED):
        assert response.status_code == told["code"]
        told["code"] = told.pop("error")
    assert {"success", "code", "message", "details", "timestamp", "requestId"} == told.keys()
    assert told["success"] is False
    assert ERRORS[told["code"]].status == response.status_code
    assert DialdeskError(told["code"], **told["details"]).message(language) == told["message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["timestamp"])
    assert response.headers["x-request-id"] == told["requestId"]
    assert "application/json" == response.headers["content-type"]
    assert (response.status_code == 401) == ("www-authenticate" in response.headers)
    assert response.status_code < 500, f"{response.request.method} {response.request.url}: {response.request.content!r}"


@pytest.fixture
def configure(configure: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """Make a configuration with which recordings are kept, and lines may be at this machine."""
    return functools.partial(
        configure,
        recordings="local",
        recordings_folder=tmp_path / "recordings",
        provider_networks="127.0.0.0/8",
    )


@asynccontextmanager
async def installation(config: Config, database: Database) -> AsyncIterator[Installation]:
    """Open a web node."""
    town = Town(database, config)
    _, root = await town.user(None, "system_admin")
    async with web_node(config) as node:
        yield Installation(node.app, node.endpoints, town, root, "192.0.2.1")


def outcome(response: httpx.Response) -> str:
    """Its error code, or `ok`."""
    if response.is_success:
        return "ok"
    told = response.json()
    return str(told.get("error", told["code"]))


# --- who gets in ------------------------------------------------------------------------------------------------------


async def test_what_asks_for_no_credential_is_written_down(config: Config, database: Database) -> None:
    """The routes without a credential are these, and each has its reason."""
    async with installation(config, database) as site:
        without = {endpoint.path for endpoint in site.endpoints if endpoint.needs == ANYONE}

    assert OPEN.keys() == without


async def test_routes_are_those_of_the_document(config: Config, database: Database) -> None:
    """Each route stands in /api/openapi.json, and no other does; only the documents leave themselves out."""
    async with installation(config, database) as site:
        document = (await site.send("GET", "/api/openapi.json")).json()
        served = {(one.method.lower(), one.path) for one in site.endpoints if one.path not in DOCUMENTS}

    assert served == {(method, path) for path, methods in document["paths"].items() for method in methods}


async def test_what_is_not_served_is_refused_like_anything_else(config: Config, database: Database) -> None:
    """A path that is not there is NOT_FOUND; a method that a path does not take is told which ones it does."""
    async with installation(config, database) as site:
        absent = [
            outcome(await site.send("GET", path))
            for path in ("/nowhere", "/api/v1/", "/api/v1/calls/", "/%00", "/x" * 999)
        ]
        allowed = {one.path: (await site.send("PATCH", one.path)).headers["allow"] for one in site.endpoints}

    assert {"NOT_FOUND"} == set(absent)
    for path, told in allowed.items():
        methods = {one.method for one in site.endpoints if path == one.path}
        assert methods | ({"HEAD"} if "GET" in methods else set()) == set(told.split(", "))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": b"Bearer"},
        {"authorization": b"Basic bm9ib2R5Om5vIHBhc3N3b3Jk"},
        {"authorization": b"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1In0."},
        {"authorization": b"Bearer ddk_00000000000000000000000000000000000000"},
        {"authorization": b"Bearer ddp_none", "x-device-id": HARDWARE},
        {"authorization": b"Bearer \xff\xfe", "x-device-id": b"\xff"},
    ],
    ids=["none", "empty", "password", "forged", "key", "phone", "bytes"],
)
async def test_nobody_gets_in_without_a_credential(config: Config, database: Database, headers: dict[str, Any]) -> None:
    """Every route that asks for a credential answers 401 to who has none that is good."""
    async with installation(config, database) as site:
        stranger = Person("stranger", headers)
        answers = {
            endpoint.name: (await site.ask(stranger, endpoint)).status_code
            for endpoint in site.endpoints
            if endpoint.needs != ANYONE or endpoint.path in {"/api/v1/auth/ws-ticket", "/metrics"}
        }

    assert {} == {name: status for name, status in answers.items() if status != 401}


async def test_a_credential_of_the_wrong_kind_is_none(config: Config, database: Database) -> None:
    """What phones may ask is not for people and programs, and the other way round."""
    async with installation(config, database) as site:
        acme = await site.town.company("acme")
        answers = {
            (person.name, endpoint.name): outcome(await site.ask(person, endpoint))
            for endpoint in site.endpoints
            for person in (acme.admin, acme.key, acme.phone)
            if endpoint.needs != ANYONE and (endpoint.needs == PHONE) != (person is acme.phone)
        }

    assert {} == {asked: answer for asked, answer in answers.items() if answer != "UNAUTHENTICATED"}


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_roles_may_what_their_permissions_say(config: Config, database: Database) -> None:
    """A user is FORBIDDEN exactly the routes whose permission its role has not."""
    async with installation(config, database) as site:
        acme = await site.town.company("acme")
        wrong = {}
        for role, permissions in (await site.town.permissions()).items():
            _, person = await site.town.user(None if role == "system_admin" else acme.tenant_id, role)
            for endpoint in sorted(site.endpoints, key=lambda one: one.name == "Auth.logout"):  # which comes last
                needed = ALSO_NEEDS.get(endpoint.name, endpoint.needs)
                if needed not in {ANYONE, PHONE}:
                    answer = outcome(await site.ask(person, endpoint))
                    if (answer == "FORBIDDEN") != (needed not in {*permissions, SIGNED_IN}):
                        wrong[role, endpoint.name] = answer

    assert {} == wrong


async def test_keys_may_what_their_scopes_say(config: Config, database: Database) -> None:
    """A key is let in by the one scope that a route needs, and FORBIDDEN with all others together."""
    async with installation(config, database) as site:
        acme = await site.town.company("acme")
        scopes = {endpoint.needs for endpoint in site.endpoints} - {ANYONE, PHONE, SIGNED_IN}
        wrong = {}
        for needed in scopes:
            _, right = await site.town.key(acme.tenant_id, acme.admin_id, {needed})
            _, other = await site.town.key(acme.tenant_id, acme.admin_id, scopes - {needed})
            for endpoint in site.endpoints:
                if needed == endpoint.needs:
                    answers = [outcome(await site.ask(key, endpoint)) for key in (right, other)]
                    if ["FORBIDDEN"] != [answer for answer in answers if answer == "FORBIDDEN"] or answers[
                        1
                    ] != "FORBIDDEN":
                        wrong[endpoint.name] = answers

    assert {} == wrong


# --- whose rows -------------------------------------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True):
    """Where a request can name something by its id; `many` takes a list of them."""

    endpoint: str
    where: str
    name: str
    many: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """How the tables above name it."""
        return self.endpoint, self.where, self.name

    @property
    def asks_for(self) -> str:
        """What kind of id: the name as JSON says it, but that an app knows its phone by another id than we do."""
        if self.key == ("Devices.bind", "body", "deviceId"):
            return "handset"
        if self.key == ("Extensions.list_extensions", "path", "extension_id"):
            return "tenantId"
        if self.key in SPEAKS_FOR_ITS_TENANT:
            return "lineToken"
        head, *tail = self.name.split("_")
        return head + "".join(part.title() for part in tail)


def places(endpoint: Endpoint) -> Iterator[Place]:
    """Every place where a request to an endpoint can name something, as its types say."""
    for name in endpoint.in_path:
        yield Place(endpoint.name, "path", name)
    for where, kind in (("query", endpoint.query), ("body", told_in(endpoint))):
        for field in _fields(kind):
            if re.search(r"(^id|Ids?|Teams?)$", field.encode_name):
                many = isinstance(_bare(field.type), mi.CollectionType)
                yield Place(endpoint.name, where, field.encode_name, many)


def told_in(endpoint: Endpoint) -> Any:
    """The type of what is told in a body, as JSON or as the fields of a form; None where it is nothing but a file."""
    return endpoint.body if endpoint.decoder else endpoint.form


def _fields(kind: Any) -> tuple[mi.Field, ...]:
    """The fields of a Struct. Where it may come alone or in a list, that is the same Struct."""
    match _bare(mi.type_info(kind)):
        case mi.StructType(fields=fields):
            return fields
        case mi.UnionType(types=types):
            return next(one.fields for one in types if isinstance(one, mi.StructType))
        case mi.NoneType():
            return ()
        case other:
            raise TypeError(f"{other} has no fields")


def _bare(kind: mi.Type) -> mi.Type:
    """A type without what is said about it, and without null."""
    match kind:
        case mi.Metadata(type=inside):
            return _bare(inside)
        case mi.UnionType(types=types):
            some = [one for one in types if not isinstance(one, mi.NoneType) and "Unset" not in type(one).__name__]
            return _bare(some[0]) if len(some) == 1 else mi.UnionType(tuple(some))
    return kind


def own_path(endpoint: Endpoint, company: Company) -> dict[str, str]:
    """What an endpoint's path asks for, of a company's own."""
    return {part: known_as(company)[Place(endpoint.name, "path", part).asks_for][0] for part in endpoint.in_path}


async def name(
    site: Installation, person: Person, own: Company, endpoint: Endpoint, place: Place, thing: str, **more: Any
) -> httpx.Response:
    """Send a request of somebody to its own company that is good in all but what it names in one place."""
    path = own_path(endpoint, own)
    query, body = QUERY.get(endpoint.name, {}), sample(own)[endpoint.name] if endpoint.body is not None else None
    match place.where:
        case "path":
            return await site.ask(person, endpoint, {**path, place.name: thing}, body, query=query, **more)
        case "query":
            return await site.ask(person, endpoint, path, body, query={**query, place.name: thing}, **more)
    assert isinstance(body, dict)
    rest = {field: value for field, value in body.items() if field not in UNLESS.get(place.name, ())}
    return await site.ask(person, endpoint, path, {**rest, place.name: [thing] if place.many else thing}, **more)


async def test_another_tenants_things_do_not_exist(config: Config, database: Database) -> None:
    """Whatever place of whatever route names a thing of another tenant, the answer tells nothing of it, nothing of that
    tenant changes, and what names one thing is NOT_FOUND. A route that the tables above do not cover fails here."""
    async with installation(config, database) as site:
        acme, bolt = await site.town.company("acme"), await site.town.company("bolt")
        before = await rows_of(database, bolt.tenant_id)
        wrong = []
        for endpoint in site.endpoints:
            for place in (one for one in places(endpoint) if one.key not in SPEAKS_FOR_ITS_TENANT):
                for thing in known_as(bolt)[place.asks_for]:
                    asked = [
                        await name(site, person, acme, endpoint, place, thing)
                        for person in (acme.admin, acme.key, acme.phone)
                    ]
                    read = {word for word in bolt.words - {thing} for answer in asked if word in answer.text}
                    answers = set(map(outcome, asked))
                    if read or not _may_be(place, answers):
                        wrong.append((place.key, thing, answers, read))
        after = await rows_of(database, bolt.tenant_id)

    assert [] == wrong
    assert before == after


def _may_be(place: Place, answers: set[str]) -> bool:
    """Whether an admin, a key and a phone that name another tenant's thing may be answered so."""
    if place.where == "query" or place.name in NAMES_NOTHING or place.key in SETTLES:
        return True
    return "ok" not in answers and REFUSES_OTHERWISE.get(place.key, "NOT_FOUND") in answers


async def test_lists_tell_of_another_tenants_things_as_of_none(config: Config, database: Database) -> None:
    """A list that is narrowed to something of another tenant is the list for what nobody has; for its own tenant it is
    not, so that this test means something."""
    async with installation(config, database) as site:
        acme, bolt = await site.town.company("acme"), await site.town.company("bolt")
        wrong = []
        for endpoint in site.endpoints:
            for place in places(endpoint):
                if place.where == "query":
                    thing = known_as(bolt)[place.asks_for][0]
                    foreign, nobodys, own = [
                        told(await name(site, company.admin, company, endpoint, place, one, headers=ENGLISH))
                        for company, one in ((acme, thing), (acme, "none"), (bolt, thing))
                    ]
                    if foreign != nobodys or own == nobodys:
                        wrong.append((place.key, foreign, nobodys, own))

    assert [] == wrong


def told(response: httpx.Response) -> dict[str, Any]:
    """What an answer says, but for what each says anew."""
    answer: dict[str, Any] = {"file": response.content} if is_file(response) else response.json()
    return {name: value for name, value in answer.items() if name not in {"timestamp", "requestId", "message"}}


def is_file(response: httpx.Response) -> bool:
    """Whether it is no JSON."""
    return response.headers["content-type"] != "application/json"


async def test_what_a_tenant_is_told_does_not_depend_on_others(config: Config, database: Database) -> None:
    """Every list, count and total is the same before and after another tenant comes to the installation."""
    async with installation(config, database) as site:
        acme = await site.town.company("acme")
        alone = await _all_told(site, acme)
        await site.town.company("bolt")
        together = await _all_told(site, acme)

    assert alone == together


async def _all_told(site: Installation, company: Company) -> dict[str, dict[str, Any]]:
    """What every GET of the API tells a company's admin."""
    return {
        endpoint.name: told(await site.ask(company.admin, endpoint, own_path(endpoint, company), headers=ENGLISH))
        for endpoint in site.endpoints
        if endpoint.method == "GET" and endpoint.path.startswith("/api/v1/") and endpoint.name not in TAKES
    }


async def test_ones_own_things_exist(config: Config, database: Database) -> None:
    """What is NOT_FOUND to others is told to its own tenant's admin, and to the phone what is the phone's."""
    async with installation(config, database) as site:
        acme = await site.town.company("acme")
        answers = {
            place.key: outcome(
                await name(site, acme.phone if endpoint.needs == PHONE else acme.admin, acme, endpoint, place, thing)
            )
            for endpoint in site.endpoints
            for place in places(endpoint)
            for thing in known_as(acme)[place.asks_for]
            if endpoint.method == "GET" and place.where == "path"
            if place.key not in REFUSES_OTHERWISE and endpoint.name not in TAKES
        }

    assert answers
    assert {"ok"} == set(answers.values())


TAKES: Final = {"Webhooks.take_query", "Webhooks.take_kind_query"}
"""What tells nothing, though it is a GET: a provider tells something by it."""

ENGLISH: Final = {"accept-language": "en"}
HAS_NO_TENANT: Final = {"role", "role_permission", "node", "schema_migrations"}


async def rows_of(database: Database, tenant_id: str) -> dict[str, list[str]]:
    """Every row of a tenant in every table."""
    members = "SELECT id FROM app_user WHERE tenant_id = $1"
    found = {}
    async with database.transaction(snapshot=True) as connection:
        columns = await connection.fetch(
            "SELECT table_name, array_agg(column_name::text) AS names FROM information_schema.columns"
            " WHERE table_schema = current_schema() GROUP BY table_name"
        )
        for table, names in columns:
            match names:
                case _ if table in HAS_NO_TENANT:
                    continue
                case _ if table == "tenant":
                    which = "id = $1"
                case _ if table == "refresh_token":
                    which = f"login_id IN (SELECT id FROM login WHERE user_id IN ({members}))"
                case _ if table == "recording_part":
                    which = "upload_id IN (SELECT id FROM recording_upload WHERE tenant_id = $1)"
                case _ if "tenant_id" in names:
                    which = "tenant_id = $1"
                case _:
                    which = f"user_id IN ({members})"
            rows = await connection.fetch(
                f"SELECT to_jsonb(t)::text AS row FROM {table} t WHERE {which} ORDER BY 1", tenant_id
            )
            found[table] = [row["row"] for row in rows]
    return found


# --- what is sent -----------------------------------------------------------------------------------------------------


def is_apps(endpoint: Endpoint) -> bool:
    """Whether it is phone apps that send its body."""
    match _bare(mi.type_info(told_in(endpoint))):
        case mi.StructType(cls=cls):
            return issubclass(cls, AppBody)
        case mi.UnionType(types=types):
            return any(isinstance(one, mi.StructType) and issubclass(one.cls, AppBody) for one in types)
    return False


async def chunks(endpoint: Endpoint, own: Company, size: int) -> AsyncIterator[bytes]:
    """A body of more bytes than that, which does not tell its size."""
    yield b"" if endpoint.form is None else form(sample(own)[endpoint.name], AUDIO).partition(bytes(1000))[0]
    for at in range(0, size, 65536):
        yield b" " * min(65536, size - at)


async def test_bodies_that_cannot_be_read_are_refused(configure: Callable[..., Config], database: Database) -> None:
    """Too large a body is 413, told or not, another type 415, and what is no JSON 400, on all routes that take one."""
    async with installation(configure(body_limit=4096, recording_limit=4096), database) as site:
        acme = await site.town.company("acme")
        answers: dict[str, list[str]] = {}
        for endpoint in site.endpoints:
            if endpoint.body is None:
                continue
            person, path = acme.who_may(endpoint, site.root), own_path(endpoint, acme)
            limit = endpoint.body_limit or 4096
            bad: list[tuple[Any, dict[str, str], str]] = [
                (chunks(endpoint, acme, limit + 1), {}, "BODY_TOO_LARGE"),
                (b"", {"content-length": str(limit + 1)}, "BODY_TOO_LARGE"),
            ]
            if endpoint.media_type is not None:
                bad.append((b"{}", {"content-type": "text/plain"}, "UNSUPPORTED_MEDIA_TYPE"))
            if endpoint.decoder is not None:
                bad += [(content, {}, "BAD_REQUEST") for content in (b'{"', "{}".encode("utf-16"))]
            answers[endpoint.name] = [
                f"{expected}, not {answer}"
                for content, more, expected in bad
                if expected != (answer := outcome(await site.ask(person, endpoint, path, content, headers=more)))
            ]

    assert {} == {name: wrong for name, wrong in answers.items() if wrong}


async def test_unknown_fields_are_refused_but_from_apps(configure: Callable[..., Config], database: Database) -> None:
    """A field that no type knows is a mistake, in bodies, in objects within them and in queries; an older server
    ignores what a newer app says."""
    async with installation(configure(login_rate=1000), database) as site:
        acme = await site.town.company("acme")
        wrong = {}
        for endpoint in site.endpoints:
            person = acme.who_may(endpoint, site.root)
            if told_in(endpoint) is not None:
                for body in _surprising(sample(acme)[endpoint.name]):
                    answer = outcome(await site.ask(person, endpoint, body=body))
                    if (answer == "INVALID_FIELD") == is_apps(endpoint):
                        wrong[endpoint.name] = answer
            if endpoint.query is not None:
                answer = outcome(await site.ask(person, endpoint, query={"surprise": "1"}))
                if answer != "INVALID_FIELD":
                    wrong[endpoint.name] = answer

    assert {} == wrong


def _surprising(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The body with a field too many, and so with each object within it."""
    yield {**body, "surprise": "1"}
    for field, value in body.items():
        if isinstance(value, dict):
            yield from ({**body, field: inside} for inside in _surprising(value))


TEXTS: Final = (
    "",
    " ",
    "\0",
    "\n",
    "x" * 5000,
    "\u202e\u2028\U0001f4de",
    "'; DROP TABLE call; --",
    "%",
    "\\",
    "null",
    "../..",
)
TIMES: Final = (
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31",
    "0001-01-01",
    "2026-02-30T00:00:00Z",
)
NUMBERS: Final = (0, -1, 2**31, 2**63, 10**400, -0.5, 1e308)


def strange(kind: mi.Type, usual: Any) -> Iterator[Any]:
    """Values that nobody means, of a type that a request may bring; `usual` is one that somebody does."""
    match _bare(kind):
        case mi.StrType():
            yield from TEXTS
        case mi.DateTimeType() | mi.DateType():
            yield from TIMES
        case mi.IntType() | mi.FloatType():
            yield from NUMBERS
        case mi.CollectionType(item_type=item):
            yield []
            yield from ([value] for value in strange(item, None))
        case mi.DictType(value_type=value_type):
            yield from ({text: text} for text in TEXTS)
            yield from ({"name": value} for value in strange(value_type, None))
        case mi.AnyType() | mi.RawType():
            yield from (*TEXTS, *NUMBERS)
        case mi.UnionType(types=types):
            for one in types:
                yield from strange(one, usual)
        case mi.StructType(fields=fields):
            for field in fields:
                given = usual or {}
                yield from ({**given, field.encode_name: v} for v in strange(field.type, given.get(field.encode_name)))


async def test_no_value_is_our_fault(configure: Callable[..., Config], database: Database) -> None:
    """Whatever stands in a path, a query or a field of a body, the request is carried out or refused with a reason."""
    async with installation(configure(login_rate=100_000), database) as site:
        acme = await site.town.company("acme")
        asked = 0
        for endpoint in site.endpoints:
            person = acme.who_may(endpoint, site.root)
            body = sample(acme)[endpoint.name] if endpoint.body is not None else None
            path = own_path(endpoint, acme)
            for part in endpoint.in_path:
                for text in filter(None, TEXTS):
                    await site.ask(person, endpoint, {**path, part: text}, body, query=QUERY.get(endpoint.name, {}))
                    asked += 1
            for field in _fields(endpoint.query):
                for value in strange(field.type, None):
                    await site.ask(person, endpoint, path, body, query={field.encode_name: value})
                    asked += 1
            if (kind := told_in(endpoint)) is not None:
                for value in strange(mi.type_info(kind), body):
                    await site.ask(person, endpoint, path, value)
                    asked += 1

    assert asked > 1000


# --- where it comes from ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::7%eth0", "fe80::7"),
        ("192.0.2.7:80", None),
        ("unknown", None),
        ("", None),
    ],
)
async def test_an_address_that_is_none_is_not_kept(
    config: Config, database: Database, address: str, kept: str | None
) -> None:
    """What a proxy passes on may be anything: what is asked is done all the same, and logs keep what is an address."""
    async with installation(config, database) as site:
        acme = await site.town.company("acme")
        odd = site.seen_from(address)
        await odd.ask(acme.admin, odd.endpoint("Admin.create_team"), body={"name": "West"})
        await odd.ask(NOBODY, odd.endpoint("Devices.bind"), body=sample(acme)["Devices.bind"])
        audit = (await site.ask(acme.admin, site.endpoint("Admin.list_audit"))).json()
        log = (await site.ask(acme.admin, site.endpoint("Devices.bind_log"))).json()

    assert [("bind", kept), ("create", kept)] == [(line["action"], line["ip"]) for line in audit["lines"][:2]]
    assert kept == log["records"][0]["ipAddress"]


async def test_binds_of_one_network_are_limited_together(configure: Callable[..., Config], database: Database) -> None:
    """A machine with a whole IPv6 /64 is one address to the limiter."""
    async with installation(configure(login_rate=1), database) as site:
        acme = await site.town.company("acme")
        body = {**sample(acme)["Devices.bind"], "token": "ddb_guessed"}
        answers = [
            outcome(await site.seen_from(ip).ask(NOBODY, site.endpoint("Devices.bind"), body=body))
            for ip in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
        ]

    assert ["BIND_TOKEN_INVALID", "RATE_LIMITED", "BIND_TOKEN_INVALID"] == answers


# --- once -------------------------------------------------------------------------------------------------------------


async def test_what_may_happen_twice_is_written_down(config: Config, database: Database) -> None:
    """Every POST takes an Idempotency-Key, but for these, and each has its reason."""
    async with installation(config, database) as site:
        posts = [endpoint for endpoint in site.endpoints if endpoint.method == "POST"]

    assert NOT_ONCE.keys() == {endpoint.name for endpoint in posts if "once" not in endpoint.parameters}


async def test_a_request_under_one_key_happens_once(config: Config, database: Database) -> None:
    """The same key and body give the same answer and one row, also at the same time; with another body the key is
    IDEMPOTENCY_MISMATCH, and with another tenant it is another key."""
    async with installation(config, database) as site:
        acme, bolt = await site.town.company("acme"), await site.town.company("bolt")
        for endpoint in (one for one in site.endpoints if "once" in one.parameters and one.name not in AS_A_DIAL):
            body = sample(acme)[endpoint.name]
            another = body + b"\n" if isinstance(body, bytes) else _changed(body)

            async def ask(person: Person, body: Any, endpoint: Endpoint = endpoint) -> httpx.Response:
                path = own_path(endpoint, bolt if person is bolt.admin else acme)
                return await site.ask(person, endpoint, path, body, headers={"idempotency-key": "the-key"})

            twins = await asyncio.gather(ask(acme.admin, body), ask(acme.admin, body))
            rows, bolts_rows = [await rows_of(database, company.tenant_id) for company in (acme, bolt)]
            later, other = await ask(acme.admin, body), await ask(acme.admin, another)
            elsewhere = await ask(bolt.admin, sample(bolt)[endpoint.name])

            assert ["ok"] * 4 == [outcome(answer) for answer in (*twins, later, elsewhere)], endpoint.name
            assert _kept(twins[0]) == _kept(twins[1]) == _kept(later), endpoint.name
            assert "IDEMPOTENCY_MISMATCH" == outcome(other), endpoint.name
            assert rows == await rows_of(database, acme.tenant_id), endpoint.name
            assert bolts_rows != await rows_of(database, bolt.tenant_id), endpoint.name


AS_A_DIAL: Final = {"InfinityCalls.make_call"}
"""What hands its key on to a dial, over a line that works: tests/server/test_extensions.py."""


def _changed(body: dict[str, Any]) -> dict[str, Any]:
    """The same body, with a character more in the first of its texts."""
    name = min(name for name, value in body.items() if isinstance(value, str))
    return {**body, name: f"{body[name]}1"}


def _kept(response: httpx.Response) -> dict[str, Any]:
    """An answer but for the API key or the secret itself, which is told once and kept nowhere."""
    answer: dict[str, Any] = response.json()
    return {name: value for name, value in answer.items() if name not in {"key", "secret"}}
