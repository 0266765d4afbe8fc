"""What holds for every route of the real application, whichever it is (house rules 9 and 10, and HTTP)."""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import msgspec
import pytest
from msgspec import inspect as mi

from protocol.errors import ERRORS, DialdeskError
from protocol.messages import new_message_id
from server.app import web_node
from server.config import Config
from server.http import ANYONE, PHONE, SIGNED_IN, AppBody, Endpoint
from storage.database import Database
from tests.server.companies import HARDWARE, NOBODY, Company, Person, Town

OPEN: Final = {
    "Health.alive": "tells nothing but that it lives",
    "Health.ready": "is asked by load balancers",
    "Health.metrics": "asks for METRICS_TOKEN itself",
    "Auth.login": "is how one gets a credential",
    "Auth.refresh": "is how one gets another; the refresh token is one itself",
    "Auth.ws_ticket": "asks for the credential of a user, an API key or a phone itself",
    "Devices.bind": "is how a phone gets a credential; the code that it scanned is one itself",
    "show_openapi": "is public",
    "show_asyncapi": "is public",
    "show_page": "is public",
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
    "Calls.hang_up": "makes nothing",
    "Calls.report_status": "a report has an id of its own",
    "Calls.report_end": "a report has an id of its own",
    "Records.complete_follow_up": "makes nothing",
}
"""POST without Idempotency-Key, and why each may."""

NAMES_NOTHING: Final = {"orderId", "orderIds", "externalId", "messageId", "lineId"}
"""What a CRM or a phone calls its own things: text that is kept as it comes. Lines are named once there are any."""

SETTLES: Final = {
    ("Calls.dial", "body", "customerId"): "beside a number it is the CRM's word for whom it is dialling",
    ("Devices.bind", "body", "deviceId"): "a handset that another tenant has bound is bound anew, in a row of its own",
    ("Calls.report_status", "body", "callId"): "reports are answered one by one: the result says NOT_FOUND",
    ("Calls.report_end", "body", "callId"): "reports are answered one by one: the result says NOT_FOUND",
}
"""Where naming another tenant's thing succeeds without touching it, and why."""

REFUSES_OTHERWISE: Final = {
    ("Admin.get_tenant", "path", "tenant_id"): "FORBIDDEN",
    ("Admin.rename_tenant", "path", "tenant_id"): "FORBIDDEN",
    ("Admin.suspend_tenant", "path", "tenant_id"): "FORBIDDEN",
    ("Admin.resume_tenant", "path", "tenant_id"): "FORBIDDEN",
}
"""Where nobody of a tenant gets as far as NOT_FOUND."""


def sample(own: Company) -> dict[str, Any]:
    """The body of a request that its endpoint takes, by the endpoint's name: JSON, or a file."""
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
        "Calls.report_status": {"callId": own.live_call_id, "status": "ringing"},
        "Calls.report_end": {"callId": own.live_call_id, "status": "connected"},
        "Records.follow_up": {"note": "new"},
        "Customers.create": {"name": "New", "phone": "13800138000"},
        "Customers.save": {"name": "New", "phone": "13800138000"},
        "Customers.import_file": b"external_id,name,phone,tags,order_ids\nnew,New,13800138000,,\n",
    }


def known_as(company: Company) -> dict[str, list[str]]:
    """What a company has for each name that asks for an id."""
    return {
        "tenantId": [company.tenant_id],
        "teamId": [company.team_id],
        "supervisedTeams": [company.team_id],
        "userId": [company.agent_id, company.admin_id],
        "actorId": [company.admin_id],
        "resourceId": [company.device_id, company.agent_id],
        "deviceId": [company.device_id],
        "lineId": ["line_none"],
        "callId": [company.live_call_id, company.ended_call_id],
        "customerId": [company.customer_id],
        "externalId": [company.reference, company.customer_reference],
        "orderId": [company.order_id],
        "orderIds": [company.order_id],
        "keyId": [company.key_id],
        "messageId": [new_message_id()],
    }


# --- asking -----------------------------------------------------------------------------------------------------------


class Installation:
    """A web node with its endpoints, and whoever asks. Every refusal that is told is looked at here."""

    def __init__(self, client: httpx.AsyncClient, endpoints: list[Endpoint], town: Town, root: Person) -> None:
        self._client = client
        self._asked = 0
        self.endpoints = endpoints
        self.town = town
        self.root = root

    async def ask(
        self,
        person: Person,
        endpoint: Endpoint,
        path: Mapping[str, str] = {},
        body: Any = None,
        *,
        headers: Mapping[str, str] = {},
        **query: str,
    ) -> httpx.Response:
        """Send a request; what the path asks for and is not given is `none`, and bytes are a CSV file unless told."""
        filled = re.sub(r"{(\w+)}", lambda part: path.get(part[1], "none"), endpoint.path)
        as_json = not isinstance(body, bytes | None)
        content = json.dumps(body).encode() if as_json else body
        told = {"content-type": "application/json" if as_json else "text/csv", **person.headers, **headers}
        return await self.send(endpoint.method, filled, content=content, params=query, headers=told)

    async def send(self, method: str, path: str, *, headers: Mapping[str, str], **more: Any) -> httpx.Response:
        """Send a request as it is: every other one asks for English, and every third brings an id of its own."""
        self._asked += 1
        language, asked = (("zh-CN", {}), ("en", {"accept-language": "en-GB,en;q=0.9,zh;q=0.5"}))[self._asked % 2]
        own_id = {"x-request-id": f"asked-{self._asked}"} if self._asked % 3 == 0 else {}
        response = await self._client.request(method, path, headers={**headers, **asked, **own_id}, **more)
        assert own_id.get("x-request-id", response.headers["x-request-id"]) == response.headers["x-request-id"]
        if not response.is_success:
            _demand_shape(response, language)
        return response


def _demand_shape(response: httpx.Response, language: Any) -> None:
    """Every refusal has one shape (house.md, HTTP), in the language that was asked for."""
    told = response.json()
    assert {"success", "code", "message", "details", "timestamp", "requestId"} == told.keys()
    assert "application/json" == response.headers["content-type"]
    assert told["success"] is False
    assert ERRORS[told["code"]].status == response.status_code
    assert DialdeskError(told["code"], **told["details"]).message(language) == told["message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["timestamp"])
    assert response.headers["x-request-id"] == told["requestId"]
    assert (response.status_code == 401) == ("www-authenticate" in response.headers)
    assert response.status_code < 500


@asynccontextmanager
async def installation(config: Config, database: Database, ip: str = "192.0.2.1") -> AsyncIterator[Installation]:
    """Open a web node, and ask it from an address."""
    town = Town(database, config)
    _, root = await town.user(None, "system_admin")
    async with web_node(config) as node:
        transport = httpx.ASGITransport(node.app, client=(ip, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
            yield Installation(client, node.endpoints, town, root)


def outcome(response: httpx.Response) -> str:
    """Its error code, or `ok`."""
    return "ok" if response.is_success else str(response.json()["code"])


# --- (a) who gets in --------------------------------------------------------------------------------------------------


async def test_what_asks_for_no_credential_is_written_down(config: Config, database: Database) -> None:
    """The routes without a credential are these, and each has its reason."""
    async with installation(config, database) as site:
        open_routes = {endpoint.name for endpoint in site.endpoints if endpoint.needs == ANYONE}

    assert OPEN.keys() == open_routes


async def test_routes_are_those_of_the_document(config: Config, database: Database) -> None:
    """Each route stands in /api/openapi.json, and no other does; only the documents leave themselves out."""
    async with installation(config, database) as site:
        document = (await site.send("GET", "/api/openapi.json", headers={})).json()
        served = {(e.method.lower(), e.path) for e in site.endpoints if not e.name.startswith("show_")}

    assert served == {(method, path) for path, methods in document["paths"].items() for method in methods}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Basic bm9ib2R5Om5vIHBhc3N3b3Jk"},
        {"authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1In0."},
        {"authorization": "Bearer ddk_" + "0" * 38},
        {"authorization": "Bearer ddp_none", "x-device-id": HARDWARE},
        {"authorization": "Bearer \xff\xfe", "x-device-id": "\xff"},
    ],
    ids=["none", "empty", "password", "forged", "key", "phone", "bytes"],
)
async def test_nobody_gets_in_without_a_credential(
    config: Config, database: Database, headers: dict[str, str]
) -> None:
    """Every route that asks for a credential answers 401 to who has none that is good, whatever else it is sent."""
    async with installation(config, database) as site:
        stranger = Person("stranger", {name: value.encode("latin-1") for name, value in headers.items()})  # type: ignore[dict-item]
        answers = {
            endpoint.name: (await site.ask(stranger, endpoint)).status_code
            for endpoint in site.endpoints
            if endpoint.needs != ANYONE or endpoint.name in {"Auth.ws_ticket", "Health.metrics"}
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

    assert {"UNAUTHENTICATED"} == set(answers.values())


# --- (b) who may ------------------------------------------------------------------------------------------------------


async def test_roles_may_what_their_permissions_say(config: Config, database: Database) -> None:
    """A user is FORBIDDEN exactly the routes whose permission its role has not."""
    async with installation(config, database) as site:
        acme = await site.town.company("acme")
        wrong = {}
        for role, permissions in (await site.town.permissions()).items():
            for endpoint in site.endpoints:
                needed = ALSO_NEEDS.get(endpoint.name, endpoint.needs)
                if needed in {ANYONE, PHONE}:
                    continue
                _, person = await site.town.user(None if role == "system_admin" else acme.tenant_id, role)
                answer = outcome(await site.ask(person, endpoint))
                if (answer == "FORBIDDEN") != (needed not in {*permissions, SIGNED_IN}):
                    wrong[role, endpoint.name] = answer

    assert {} == wrong


async def test_keys_may_what_their_scopes_say(config: Config, database: Database) -> None:
    """A key is let in by the one scope that a route needs, and FORBIDDEN with all others."""
    async with installation(config, database) as site:
        acme = await site.town.company("acme")
        needs = {endpoint.needs for endpoint in site.endpoints} - {ANYONE, PHONE, SIGNED_IN}
        answers: dict[str, tuple[str, str]] = {}
        for needed in needs:
            _, one = await site.town.key(acme.tenant_id, acme.admin_id, {needed})
            _, others = await site.town.key(acme.tenant_id, acme.admin_id, needs - {needed})
            for endpoint in site.endpoints:
                if endpoint.needs == needed:
                    answers[endpoint.name] = (
                        outcome(await site.ask(one, endpoint)),
                        outcome(await site.ask(others, endpoint)),
                    )

    assert {} == {name: told for name, told in answers.items() if told[0] == "FORBIDDEN" or told[1] != "FORBIDDEN"}


# --- (c) whose rows ---------------------------------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True):
    """Where a request names something by its id. `many` takes a list."""

    where: str
    name: str
    many: bool = False


def places(endpoint: Endpoint) -> Iterator[Place]:
    """Every place of an endpoint where an id can stand, as its types say."""
    for name in endpoint.in_path:
        yield Place("path", name)
    for where, kind in (("query", endpoint.query), ("body", endpoint.body if endpoint.decoder else None)):
        for field in _fields(kind):
            if re.search(r"(^id|Id|Ids|Teams)$", field.encode_name):
                yield Place(where, field.encode_name, many="list" in repr(field.type) or "tuple" in repr(field.type))


def _fields(kind: Any) -> list[msgspec.structs.FieldInfo]:
    """The fields of a Struct; where it may come alone or in a list, they are the same."""
    if kind is None:
        return []
    match mi.type_info(kind):
        case mi.UnionType(types=types):
            (kind,) = (one.cls for one in types if isinstance(one, mi.StructType))
        case mi.StructType(cls=cls):
            kind = cls
    return list(msgspec.structs.fields(kind))


def camel(name: str) -> str:
    """`user_id` as JSON says it: `userId`."""
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


async def named(
    site: Installation, person: Person, own: Company, endpoint: Endpoint, place: Place, one: str
) -> httpx.Response:
    """Send a request that is good in all but that it names `one` in a place."""
    body = sample(own)[endpoint.name] if endpoint.body else None
    match place.where:
        case "path":
            return await site.ask(person, endpoint, {place.name: one}, body)
        case "query":
            return await site.ask(person, endpoint, {}, body, **{place.name: one})
    mine = {camel(name): ids[0] for name, ids in zip(endpoint.in_path, [[own.agent_id]], strict=False)}
    path = {name: known_as(own)[camel(name)][0] for name in endpoint.in_path if mine}
    return await site.ask(person, endpoint, path, {**body, place.name: [one] if place.many else one})
