"""Work phones over HTTP: pairing, moving, unbinding, reading, and how an agent calls out."""

import asyncio
import base64
import hashlib
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import segno
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.datastructures import Headers

from protocol.errors import CloseCode, DialdeskError
from protocol.messages import DeviceUnbind, to_agent, to_phone
from protocol.messages import ToPhone as ToPhoneMessage
from protocol.pairing import read_payload
from server.calls import Calls
from server.config import Config, master_keys
from server.devices import Devices
from server.http import ANYONE, SIGNED_IN, Endpoint, Http
from server.identity import Identity
from server.relay import CloseAgent, ClosePhone, Relay, ToAgent, ToPhone
from server.telemetry import Metrics
from storage import devices as phones
from storage.audit import Actor
from storage.database import Connection, Database
from storage.events import Emitted
from storage.live import Live
from storage.vault import Vault

AGENT = frozenset({"devices.read", "devices.bind", "calls.dial"})
CHIEF = AGENT | {"devices.manage"}


def user(user_id: str, reach: Any = "own", permissions: frozenset[str] = AGENT, **more: Any) -> Identity:
    """A signed-in user of the first tenant."""
    known = {"kind": "user", "id": user_id, "user_id": user_id, "tenant_id": "t1", "reach": reach, **more}
    return Identity(permissions=permissions, **known)


WHO = {
    "ann": user("ann"),
    "ben": user("ben"),
    "eve": user("eve", tenant_id="t2"),
    "boss of north": user("boss", "teams", CHIEF, teams=("north",)),
    "admin": user("admin", "tenant", CHIEF),
    "viewer": user("viewer", "tenant", frozenset({"devices.read"})),
    "newcomer": user("ann", must_change_password=True),
    "crm": Identity(
        kind="api_key", id="key_1", tenant_id="t1", reach="tenant", permissions=frozenset({"devices.bind_for"})
    ),
    "weak key": Identity(kind="api_key", id="key_2", tenant_id="t1", reach="tenant", permissions=AGENT),
}


async def authenticate(headers: Headers) -> Identity:
    """Take the bearer token for the name of who asks."""
    name = headers.get("authorization", "").removeprefix("Bearer ")
    if name not in WHO:
        raise DialdeskError("UNAUTHENTICATED")
    return WHO[name]


class Sessions:
    """Stands where this node's sessions are: keeps what they would be told."""

    def __init__(self) -> None:
        self.said: list[ToAgent | ClosePhone] = []

    def receive(self, carried: ToPhone | ToAgent | ClosePhone | CloseAgent) -> None:
        """Take what the relay brings."""
        assert isinstance(carried, ToAgent | ClosePhone)
        self.said.append(carried)

    def told(self) -> list[tuple[str, str]]:
        """Which agents were told what, in the order of it."""
        return [
            (carried.user_id, to_agent.decode(bytes(carried.frame)).message.type)
            for carried in self.said
            if isinstance(carried, ToAgent)
        ]

    def closed(self) -> list[tuple[str, int, str, int | None, ToPhoneMessage]]:
        """Which phones' sessions were closed: code, reason, the epoch they are older than, the last frame."""
        return [
            (
                carried.device_id,
                carried.code,
                carried.reason,
                carried.epoch,
                to_phone.decode(bytes(carried.last)).message,
            )
            for carried in self.said
            if isinstance(carried, ClosePhone)
        ]

    def forget(self) -> None:
        """Begin anew."""
        self.said.clear()


class DialledMeanwhile(Calls):
    """Calls among which, as soon as the living one of a phone is closed, somebody dials the next."""

    async def close_lost(
        self, connection: Connection, tenant_id: str, device_ids: Sequence[str], reason: str
    ) -> list[Emitted]:
        """Close, and dial."""
        emitted = await super().close_lost(connection, tenant_id, device_ids, reason)
        await connection.execute(DIAL, "call_2", "ann", device_ids[0])
        return emitted


DIAL = """
    INSERT INTO call
        (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, custom_data, reap_at)
    VALUES ($1, 't1', $2, $2, $3, 'mobile', '+8613900139000', '{"leadId": 7}', now())
"""


class Branch:
    """The endpoints on one node, and who uses them."""

    def __init__(self, database: Database, redis: Redis, config: Config, calls: type[Calls] = Calls) -> None:
        self.database = database
        self.sessions = Sessions()
        self.vault = Vault(master_keys(config))
        metrics = Metrics()
        relay = Relay(redis, config.redis_prefix, lambda: "boot_1", metrics, canary_every=1, deaf_after=5)
        relay.connect(self.sessions)
        self.devices = devices = Devices(
            database,
            relay,
            self.vault,
            Live(redis, config.redis_prefix),
            config,
            calls(database, relay, metrics, config),
        )
        http = Http(database, authenticate, metrics, body_limit=64 * 1024, timeout=20)
        base = "/api/v1/calls"
        app = Starlette(
            routes=http.routes(
                [
                    Endpoint("POST", f"{base}/device/bindQRCode", devices.make_qr, needs=SIGNED_IN),
                    Endpoint("POST", f"{base}/device/bind", devices.bind, needs=ANYONE),
                    Endpoint("GET", f"{base}/device/list", devices.list_devices, needs="devices.read"),
                    Endpoint("GET", f"{base}/device/bind-log", devices.bind_log, needs="devices.manage"),
                    Endpoint("DELETE", f"{base}/device/{{device_id}}", devices.unbind, needs=SIGNED_IN),
                    Endpoint("GET", f"{base}/device/{{device_id}}/status", devices.status, needs="devices.read"),
                    Endpoint("GET", f"{base}/config", devices.get_config, needs="calls.dial"),
                    Endpoint("PUT", f"{base}/config", devices.put_config, needs="calls.dial"),
                ]
            )
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://desk{base}")

    async def ask(self, who: str, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """Send a request and return its answer, which says `success` or a `code`."""
        headers = {"authorization": f"Bearer {who}", "accept-language": "en"}
        response = await self.client.request(method, path, json=body, params=query, headers=headers)
        answer: dict[str, Any] = response.json()
        assert answer["success"] == (response.status_code == 200)
        return answer

    async def qr(self, who: str = "ann", user_id: str | None = None) -> dict[str, Any]:
        """Have a QR code made."""
        return await self.ask(who, "POST", "/device/bindQRCode", {"userId": user_id} if user_id else {})

    async def bind(self, token: str, **fields: Any) -> dict[str, Any]:
        """Bind a phone by a token, as its app would."""
        return await self.ask("", "POST", "/device/bind", handset(token=token, **fields))

    async def pair(self, who: str = "ann", **fields: Any) -> dict[str, Any]:
        """Make a QR code and scan it; returns what the app is told."""
        return await self.bind(token_of(await self.qr(who)), **fields)

    async def connect(self, device_id: str) -> None:
        """Pretend that the phone has a session on this node."""
        await self.execute(
            "UPDATE device SET node = 'boot_1', online_status = 'online', last_heartbeat = now() WHERE id = $1",
            device_id,
        )

    async def dial(self, user_id: str, device_id: str) -> None:
        """Put a living call on a phone."""
        await self.execute(DIAL, f"call_of_{device_id}", user_id, device_id)

    async def execute(self, statement: str, *values: Any) -> None:
        """Change rows behind the endpoints' back."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def fetch(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """Look at rows."""
        async with self.database.connection() as connection:
            return await connection.fetch(statement, *values)

    async def value(self, statement: str, *values: Any) -> Any:
        """Look at one value."""
        async with self.database.connection() as connection:
            return await connection.fetchval(statement, *values)

    async def events(self, user_id: str) -> list[dict[str, Any]]:
        """An agent's stream as rows keep it: type and data, oldest first."""
        rows = await self.fetch("SELECT type, data FROM agent_event WHERE user_id = $1 ORDER BY seq", user_id)
        return [{"type": row["type"], **msgspec.json.decode(row["data"])} for row in rows]

    async def owners(self) -> dict[str, str]:
        """Each agent's handset, of agents who have one."""
        return {row[0]: row[1] for row in await self.fetch("SELECT user_id, hardware_id FROM device")}

    async def audit(self) -> list[tuple[Any, ...]]:
        """The audit log: who did what to which device, with what changed."""
        rows = await self.fetch(
            "SELECT actor_kind, actor_id, action, resource, resource_id, before, after FROM audit_log ORDER BY id"
        )
        return [
            (*tuple(row)[:5], *(None if row[n] is None else msgspec.json.decode(row[n]) for n in ("before", "after")))
            for row in rows
        ]


@pytest.fixture
async def branch(database: Database, redis: Redis, config: Config) -> AsyncIterator[Branch]:
    """The endpoints over two tenants, every page open; ann is of team north, ben of south, eve of another tenant."""
    async with database.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO tenant (id, code, name) VALUES ('t1', 'one', 'One'), ('t2', 'two', 'Two');
            INSERT INTO team (id, tenant_id, name) VALUES ('north', 't1', 'North'), ('south', 't1', 'South');
            INSERT INTO app_user (id, tenant_id, team_id, role, username, name, password_hash) VALUES
                ('ann', 't1', 'north', 'agent', 'ann', 'Ann', '-'),
                ('ben', 't1', 'south', 'agent', 'ben', 'Ben', '-'),
                ('boss', 't1', NULL, 'supervisor', 'boss', 'Boss', '-'),
                ('admin', 't1', NULL, 'tenant_admin', 'admin', 'Admin', '-'),
                ('eve', 't2', NULL, 'agent', 'eve', 'Eve', '-');
            INSERT INTO agent_stream (user_id, tenant_id) SELECT id, tenant_id FROM app_user ON CONFLICT DO NOTHING;
            INSERT INTO node (boot_id, name, kind, leased_until) VALUES ('boot_1', 'n', 'web', now());
            INSERT INTO agent_node (user_id, node) SELECT id, 'boot_1' FROM app_user;
            """
        )
    branch = Branch(database, redis, config)
    async with branch.client:
        yield branch


def handset(**fields: Any) -> dict[str, Any]:
    """What the app of an Android phone tells."""
    return {
        "deviceId": "hw-1",
        "phoneNumber": "13800138000",
        "deviceName": "Work phone",
        "deviceModel": "Pixel 9",
        "osType": "android",
        "osVersion": "16",
        "appVersion": "1.0",
        **fields,
    }


def token_of(qr: dict[str, Any]) -> str:
    """The token that a camera reads from a QR code."""
    return read_payload(qr["qrCodeData"]).token


def modules(data_url: str) -> list[list[bool]]:
    """Read the dark modules, without the quiet zone, from the PNG of a data URL: one bit a pixel."""
    kind, _, encoded = data_url.partition(",")
    png = base64.b64decode(encoded)
    assert (kind, png[:8]) == ("data:image/png;base64", b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        chunks[png[at + 4 : at + 8]] = png[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, depth, color = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert (1, 0) == (depth, color)
    raw, stride = zlib.decompress(chunks[b"IDAT"]), 1 + (width + 7) // 8
    line, dark = bytes(stride - 1), []
    for row in range(height):
        filtered, this = raw[row * stride], raw[row * stride + 1 : (row + 1) * stride]
        assert filtered in {0, 2}  # none, or the difference to the line above
        line = this if filtered == 0 else bytes((one + above) % 256 for one, above in zip(this, line, strict=True))
        dark.append([not line[x // 8] >> (7 - x % 8) & 1 for x in range(width)])
    top = next(y for y, line in enumerate(dark) if any(line))
    left = dark[top].index(True)
    scale = dark[top][left:].index(False) // 7  # the finder pattern begins with seven dark modules
    return [line[left : width - left : scale] for line in dark[top : height - top : scale]]


# --- POST /api/v1/calls/device/bindQRCode -----------------------------------------------------------------------------


async def test_the_qr_code_holds_what_the_seed_says(branch: Branch) -> None:
    """Its JSON has exactly the seed's fields, in its order, and lasts five minutes."""
    answer = await branch.qr()
    data = msgspec.json.decode(answer["qrCodeData"])

    assert ["success", "qrCodeUrl", "qrCodeData", "typedCode", "expiresAt"] == list(answer)
    assert ["action", "serverUrl", "token", "userId", "timestamp"] == list(data)
    assert ("bind_device", "ws://127.0.0.1:8000/ws", "ann") == (data["action"], data["serverUrl"], data["userId"])
    assert data["token"].startswith("ddb_")
    assert 300_000 == round(datetime.fromisoformat(answer["expiresAt"]).timestamp() * 1000) - data["timestamp"]


@pytest.mark.parametrize(
    ("public_url", "websocket"),
    [("https://api.example.com", "wss://api.example.com/ws"), ("http://10.0.0.1:80/", "ws://10.0.0.1:80/ws")],
)
@pytest.mark.usefixtures("branch")
async def test_the_server_url_is_the_public_one(
    database: Database,
    redis: Redis,
    configure: Callable[..., Config],
    public_url: str,
    websocket: str,
) -> None:
    """TLS or not follows PUBLIC_URL; the path is the seed's."""
    elsewhere = Branch(database, redis, configure(public_url=public_url))
    async with elsewhere.client:
        answer = await elsewhere.qr()
        bound = await elsewhere.bind(token_of(answer))

    assert websocket == read_payload(answer["qrCodeData"]).server_url
    assert f"{websocket}/phone" == bound["websocketUrl"]


async def test_the_picture_is_the_qr_code_of_the_data(branch: Branch) -> None:
    """The PNG shows module by module what the library draws for the same text."""
    answer = await branch.qr()
    matrix = segno.make_qr(answer["qrCodeData"], error="m").matrix

    assert [[bool(module) for module in line] for line in matrix] == modules(answer["qrCodeUrl"])


async def test_only_digests_of_a_token_are_kept(branch: Branch) -> None:
    """Whoever reads the table can bind nothing."""
    answer = await branch.qr()
    row = (await branch.fetch("SELECT hash, typed_hash, user_id, created_by FROM bind_token"))[0]

    assert (hashlib.sha256(token_of(answer).encode()).digest(), "ann", "ann") == (
        row["hash"],
        row["user_id"],
        row["created_by"],
    )
    assert hashlib.sha256(answer["typedCode"].encode()).digest() == row["typed_hash"]


async def test_who_may_have_a_code_made_for_whom(branch: Branch) -> None:
    """For oneself with devices.bind; for others within reach with devices.manage, or by a key with the scope."""
    expected = {
        ("ann", None): None,
        ("ann", "ann"): None,
        ("ann", "ben"): "FORBIDDEN",
        ("boss of north", None): None,
        ("boss of north", "ann"): None,
        ("boss of north", "ben"): "NOT_FOUND",
        ("admin", "ben"): None,
        ("admin", "eve"): "NOT_FOUND",
        ("admin", "nobody"): "NOT_FOUND",
        ("viewer", None): "FORBIDDEN",
        ("viewer", "ann"): "FORBIDDEN",
        ("newcomer", None): "PASSWORD_CHANGE_REQUIRED",
        ("crm", "ann"): None,
        ("crm", "eve"): "NOT_FOUND",
        ("crm", None): "INVALID_FIELD",
        ("weak key", "ann"): "FORBIDDEN",
        ("nobody", None): "UNAUTHENTICATED",
    }

    assert expected == {(who, user_id): (await branch.qr(who, user_id)).get("code") for who, user_id in expected}


async def test_a_disabled_agent_gets_no_code(branch: Branch) -> None:
    """Nobody binds a phone to an account that is disabled."""
    await branch.execute("UPDATE app_user SET disabled_at = now() WHERE id = 'ann'")

    assert "NOT_FOUND" == (await branch.qr("admin", "ann"))["code"]


async def test_unknown_fields_are_refused(branch: Branch) -> None:
    """A field that is not known is a mistake of the caller."""
    answer = await branch.ask("ann", "POST", "/device/bindQRCode", {"user": "ben"})

    assert "INVALID_FIELD" == answer["code"]


async def test_a_new_code_voids_the_one_before(branch: Branch) -> None:
    """At most one code of an agent can be used."""
    first, second = await branch.qr(), await branch.qr()

    assert "BIND_TOKEN_INVALID" == (await branch.bind(token_of(first)))["code"]
    assert (await branch.bind(token_of(second)))["success"]


async def test_of_codes_made_at_once_one_lives(branch: Branch) -> None:
    """Making them side by side makes no difference."""
    made = await asyncio.gather(*(branch.qr() for _ in range(4)))
    bound = [await branch.bind(token_of(qr)) for qr in made]

    assert [True] == [answer["success"] for answer in bound if answer["success"]]


# --- POST /api/v1/calls/device/bind -----------------------------------------------------------------------------------


async def test_a_scan_binds_the_phone_and_tells_the_page(branch: Branch) -> None:
    """The app gets what it needs to connect; the agent's page learns it live, and again from its stream."""
    answer = await branch.pair(deviceToken="push-token-of-hw-1")
    row = dict((await branch.fetch("SELECT * FROM device"))[0])

    assert ["success", "id", "websocketUrl", "userId", "authToken"] == list(answer)
    assert (row["id"], "ws://127.0.0.1:8000/ws/phone", "ann") == (
        answer["id"],
        answer["websocketUrl"],
        answer["userId"],
    )
    assert answer["authToken"].startswith("ddp_")
    assert hashlib.sha256(answer["authToken"].encode()).digest() == row["token_hash"]
    assert {
        "tenant_id": "t1",
        "hardware_id": "hw-1",
        "user_id": "ann",
        "phone_number": "+8613800138000",
        "name": "Work phone",
        "model": "Pixel 9",
        "os_type": "android",
        "os_version": "16",
        "app_version": "1.0",
        "online_status": "offline",
    }.items() <= row.items()
    event = {
        "type": "DEVICE_BOUND",
        "device": {
            "id": answer["id"],
            "deviceId": "hw-1",
            "phoneNumber": "+8613800138000",
            "deviceName": "Work phone",
            "deviceModel": "Pixel 9",
            "osType": "android",
            "onlineStatus": "offline",
            "bindTime": event_time(row["bound_at"]),
            "lastActiveAt": None,
            "capabilities": {"autoDial": False, "hangUp": False, "answerSignal": False, "recording": False},
            "isDefault": True,
        },
    }
    assert [event] == await branch.events("ann")
    assert [("ann", "DEVICE_BOUND")] == branch.sessions.told()
    assert [] == branch.sessions.closed()


async def test_the_push_token_rests_encrypted(branch: Branch) -> None:
    """It is sealed for this very row."""
    answer = await branch.pair(deviceToken="push-token-of-hw-1")
    sealed = await branch.value("SELECT push_token FROM device")

    assert b"push-token" not in sealed
    assert b"push-token-of-hw-1" == branch.vault.open(sealed, phones.push_token_place(answer["id"]))


async def test_a_typed_code_binds_too_and_is_logged_as_manual(branch: Branch) -> None:
    """It may be typed in small letters, with dashes and spaces."""
    code = (await branch.qr())["typedCode"]
    answer = await branch.bind(f" {code[:4].lower()}-{code[4:].lower()} ")

    assert answer["success"]
    assert "manual" == await branch.value("SELECT bind_type FROM device_bind_log")


async def test_the_binding_is_logged_and_audited(branch: Branch) -> None:
    """The log tells the phone and from where it came; the audit also who made the QR code."""
    answer = await branch.bind(token_of(await branch.qr("admin", "ann")))
    log = (await branch.ask("admin", "GET", "/device/bind-log"))["records"]

    assert [
        {
            "id": log[0]["id"],
            "userId": "ann",
            "userName": "Ann",
            "phoneId": answer["id"],
            "deviceId": "hw-1",
            "phoneNumber": "+8613800138000",
            "deviceName": "Work phone",
            "deviceModel": "Pixel 9",
            "osType": "android",
            "bindType": "qrcode",
            "action": "bind",
            "reason": None,
            "ipAddress": "127.0.0.1",
            "createdAt": log[0]["createdAt"],
        }
    ] == log
    after = {"userId": "ann", "qrMadeBy": "admin"}
    assert [("phone", answer["id"], "bind", "device", answer["id"], None, after)] == await branch.audit()


async def test_fields_of_a_newer_app_are_ignored(branch: Branch) -> None:
    """An older server serves a newer app."""
    assert (await branch.pair(batteryBrand="new"))["success"]


async def test_wrong_fields_are_refused_and_the_code_stays_good(branch: Branch) -> None:
    """Every text is bounded; a refused request uses nothing up."""
    token = token_of(await branch.qr())
    wrong: list[dict[str, Any]] = [
        {"deviceId": ""},
        {"deviceId": "x" * 101},
        {"deviceId": None},
        {"osType": "symbian"},
        {"deviceName": "x" * 101},
        {"deviceModel": "x" * 101},
        {"osVersion": "x" * 513},
        {"appVersion": "x" * 513},
        {"phoneNumber": "1" * 41},
        {"deviceToken": "x" * 4097},
        {"deviceName": "a\0b"},
        {"force": "yes"},
    ]
    accepted = [fields for fields in wrong if (await branch.bind(token, **fields)).get("code") != "INVALID_FIELD"]

    assert [] == accepted
    assert (await branch.bind(token))["success"]


async def test_a_phone_that_does_not_know_its_number_is_bound(branch: Branch) -> None:
    """An iPhone tells none."""
    answer = await branch.ask(
        "",
        "POST",
        "/device/bind",
        {
            name: value
            for name, value in handset(token=token_of(await branch.qr()), osType="ios").items()
            if name != "phoneNumber"
        },
    )

    assert answer["success"]
    assert "" == await branch.value("SELECT phone_number FROM device")


async def test_a_number_that_is_none_is_refused_and_the_code_stays_good(branch: Branch) -> None:
    """The person corrects it and binds by the same code."""
    token = token_of(await branch.qr())

    assert "INVALID_PHONE" == (await branch.bind(token, phoneNumber="12345678"))["code"]
    assert (await branch.bind(token, phoneNumber="+86 138-0013-8000"))["success"]


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE bind_token SET expires_at = now()",
        "UPDATE app_user SET disabled_at = now() WHERE id = 'ann'",
        "UPDATE tenant SET status = 'suspended' WHERE id = 't1'",
    ],
)
async def test_a_code_that_is_good_no_more_is_refused(branch: Branch, spoil: str) -> None:
    """Expired, its agent disabled, its tenant suspended: the answer tells not which."""
    token = token_of(await branch.qr())
    await branch.execute(spoil)

    assert "BIND_TOKEN_INVALID" == (await branch.bind(token))["code"]
    assert 0 == await branch.value("SELECT count(*) FROM device")


async def test_an_unknown_code_is_refused(branch: Branch) -> None:
    """Without a token of ours nothing is bound."""
    assert "BIND_TOKEN_INVALID" == (await branch.bind("ddb_guessed"))["code"]


async def test_a_code_binds_once(branch: Branch) -> None:
    """Even the same phone may not repeat it: who lost the answer makes a new code."""
    token = token_of(await branch.qr())
    answers = [await branch.bind(token), await branch.bind(token)]

    assert [None, "BIND_TOKEN_INVALID"] == [answer.get("code") for answer in answers]


async def test_two_phones_with_one_code_at_once(branch: Branch) -> None:
    """Exactly one of them is bound."""
    qr = await branch.qr()
    answers = await asyncio.gather(
        branch.bind(token_of(qr), deviceId="hw-1"),
        branch.bind(qr["typedCode"], deviceId="hw-2"),
        branch.bind(token_of(qr), deviceId="hw-3"),
    )

    assert Counter([None, "BIND_TOKEN_INVALID", "BIND_TOKEN_INVALID"]) == Counter(
        answer.get("code") for answer in answers
    )
    assert 1 == await branch.value("SELECT count(*) FROM device")


async def test_an_agent_may_bind_several_phones(branch: Branch) -> None:
    """The first is the default, until the agent chooses another."""
    first = await branch.pair(deviceId="hw-1")
    second = await branch.pair(deviceId="hw-2")
    listed = (await branch.ask("ann", "GET", "/device/list"))["devices"]

    assert [(second["id"], False), (first["id"], True)] == [(d["id"], d["isDefault"]) for d in listed]


@pytest.mark.usefixtures("branch")
async def test_too_many_binds_from_one_address_are_refused(
    database: Database, redis: Redis, configure: Callable[..., Config]
) -> None:
    """Codes cannot be guessed at leisure; the answer says when to come again."""
    strict = Branch(database, redis, configure(login_rate=2))
    async with strict.client:
        said = [(await strict.bind("ddb_guessed")) for _ in range(3)]

    assert ["BIND_TOKEN_INVALID", "BIND_TOKEN_INVALID", "RATE_LIMITED"] == [answer["code"] for answer in said]
    assert 0 < said[-1]["details"]["retryAfter"] <= 60


# --- A phone that is bound again --------------------------------------------------------------------------------------


async def test_a_phone_moves_to_its_new_agent(branch: Branch) -> None:
    """Its row goes over with a new token; both agents are told; the old session is closed; all is on record."""
    old = await branch.pair("ann")
    await branch.connect(old["id"])
    branch.sessions.forget()
    new = await branch.pair("ben")
    row = (await branch.fetch("SELECT user_id, token_hash, conn_epoch, node, online_status FROM device"))[0]

    assert (old["id"], "ben") == (new["id"], new["userId"])
    assert ("ben", hashlib.sha256(new["authToken"].encode()).digest(), 1, None, "offline") == tuple(row)
    assert {"type": "DEVICE_UNBOUND", "deviceId": old["id"], "reason": "moved"} == (await branch.events("ann"))[-1]
    assert "DEVICE_BOUND" == (await branch.events("ben"))[-1]["type"]
    assert [("ann", "DEVICE_UNBOUND"), ("ben", "DEVICE_BOUND")] == branch.sessions.told()
    assert [(old["id"], CloseCode.UNBOUND, "moved", 1, DeviceUnbind(reason="moved"))] == branch.sessions.closed()
    assert (
        "phone",
        old["id"],
        "move",
        "device",
        old["id"],
        {"userId": "ann"},
        {"userId": "ben", "qrMadeBy": "ben"},
    ) == (await branch.audit())[-1]
    assert [("bind", "ann", None), ("move", "ben", "from ann")] == [
        tuple(line) for line in await branch.fetch("SELECT action, user_id, reason FROM device_bind_log ORDER BY id")
    ]


async def test_the_default_phone_goes_with_it(branch: Branch) -> None:
    """The old agent has none then; the new one, who had none, has it."""
    phone = await branch.pair("ann")
    await branch.pair("ben")
    defaults = [(await branch.ask(who, "GET", "/config"))["deviceId"] for who in ("ann", "ben")]

    assert [None, phone["id"]] == defaults


async def test_binding_again_for_the_same_agent_is_no_move(branch: Branch) -> None:
    """The agent is told again, nobody is told of an unbinding, and the old session is closed."""
    old = await branch.pair("ann")
    await branch.connect(old["id"])
    branch.sessions.forget()
    new = await branch.pair("ann", deviceName="Renamed")

    assert old["id"] == new["id"]
    assert old["authToken"] != new["authToken"]
    assert [("ann", "DEVICE_BOUND")] == branch.sessions.told()
    assert "Renamed" == (await branch.events("ann"))[-1]["device"]["deviceName"]
    assert [(old["id"], CloseCode.UNBOUND, "rebound", 1, DeviceUnbind(reason="rebound"))] == branch.sessions.closed()
    assert ["bind", "bind"] == [entry[2] for entry in await branch.audit()]


async def test_a_phone_that_was_unbound_is_bound_without_a_move(branch: Branch) -> None:
    """Its last agent is not told again."""
    phone = await branch.pair("ann")
    await branch.ask("ann", "DELETE", f"/device/{phone['id']}")
    branch.sessions.forget()
    await branch.pair("ben")

    assert [("ben", "DEVICE_BOUND")] == branch.sessions.told()
    assert "bind" == (await branch.audit())[-1][2]


async def test_the_same_handset_in_another_tenant_is_another_phone(branch: Branch) -> None:
    """The row of the first tenant stays as it is."""
    ours = await branch.pair("ann")
    before = await branch.fetch("SELECT * FROM device")
    theirs = await branch.pair("eve")

    assert ours["id"] != theirs["id"]
    assert before == await branch.fetch("SELECT * FROM device WHERE tenant_id = 't1'")
    assert ["DEVICE_BOUND"] == [event["type"] for event in await branch.events("ann")]


async def test_a_phone_on_a_call_is_not_moved_unless_forced(branch: Branch) -> None:
    """Refused, the code stays good; forced, the call is closed and told before the move."""
    phone = await branch.pair("ann")
    await branch.dial("ann", phone["id"])
    token = token_of(await branch.qr("ben"))
    branch.sessions.forget()
    refused = await branch.bind(token)

    assert "DEVICE_ON_CALL" == refused["code"]
    assert "ann" == await branch.value("SELECT user_id FROM device")
    assert [] == branch.sessions.told()

    assert (await branch.bind(token, force=True))["success"]
    assert ("unknown", "server") == tuple((await branch.fetch("SELECT outcome, closed_by FROM call"))[0])
    assert [("ann", "CALL_ENDED"), ("ann", "DEVICE_UNBOUND"), ("ben", "DEVICE_BOUND")] == branch.sessions.told()


async def test_two_agents_bind_one_handset_at_once(branch: Branch) -> None:
    """Both succeed, one after the other: the phone is the second one's, and the first one's page is told."""
    tokens = [token_of(await branch.qr(who)) for who in ("ann", "ben")]
    answers = await asyncio.gather(*(branch.bind(token) for token in tokens))
    owner = await branch.value("SELECT user_id FROM device")
    other = {"ann": "ben", "ben": "ann"}[owner]

    assert [None, None] == [answer.get("code") for answer in answers]
    assert 1 == len({answer["id"] for answer in answers})
    assert ["DEVICE_BOUND"] == [event["type"] for event in await branch.events(owner)]
    assert ["DEVICE_BOUND", "DEVICE_UNBOUND"] == [event["type"] for event in await branch.events(other)]
    assert [owner] == [row[0] for row in await branch.fetch("SELECT id FROM app_user WHERE default_device_id <> ''")]


async def test_two_agents_swap_phones_at_once(branch: Branch) -> None:
    """They do not wait for each other for ever: each has the other's phone in the end."""
    await branch.pair("ann", deviceId="hw-1")
    await branch.pair("ben", deviceId="hw-2")
    for _ in range(5):
        tokens = {who: token_of(await branch.qr(who)) for who in ("ann", "ben")}
        owners = await branch.owners()
        answers = await asyncio.gather(
            branch.bind(tokens["ann"], deviceId=owners["ben"]), branch.bind(tokens["ben"], deviceId=owners["ann"])
        )

        assert [None, None] == [answer.get("code") for answer in answers]
        assert {"ann": owners["ben"], "ben": owners["ann"]} == await branch.owners()


# --- DELETE /api/v1/calls/device/:id ----------------------------------------------------------------------------------


async def test_an_agent_unbinds_a_phone(branch: Branch) -> None:
    """Its token is void, its session closed, its push token gone; the page, the log and the audit say so."""
    phone = await branch.pair("ann", deviceToken="push")
    await branch.connect(phone["id"])
    branch.sessions.forget()
    answer = await branch.ask("ann", "DELETE", f"/device/{phone['id']}")
    row = (await branch.fetch("SELECT unbound_at IS NULL, push_token, node, online_status, conn_epoch FROM device"))[0]

    assert {"success": True} == answer
    assert (False, None, None, "offline", 1) == tuple(row)
    assert {"type": "DEVICE_UNBOUND", "deviceId": phone["id"], "reason": "unbound"} == (await branch.events("ann"))[-1]
    assert [("ann", "DEVICE_UNBOUND")] == branch.sessions.told()
    assert [(phone["id"], CloseCode.UNBOUND, "unbound", 1, DeviceUnbind(reason="unbound"))] == branch.sessions.closed()
    assert ("user", "ann", "unbind", "device", phone["id"], {"userId": "ann"}, None) == (await branch.audit())[-1]
    assert ["bind", "unbind"] == [
        row[0] for row in await branch.fetch("SELECT action FROM device_bind_log ORDER BY id")
    ]
    assert [] == (await branch.ask("ann", "GET", "/device/list"))["devices"]
    assert (await branch.ask("ann", "GET", "/config"))["deviceId"] is None


async def test_who_may_unbind(branch: Branch) -> None:
    """The agent, and who manages phones within reach; to others out of reach it does not exist."""
    expected = {
        "ann": None,
        "boss of north": None,
        "admin": None,
        "ben": "NOT_FOUND",
        "eve": "NOT_FOUND",
        "viewer": "FORBIDDEN",
        "newcomer": "PASSWORD_CHANGE_REQUIRED",
        "crm": "FORBIDDEN",
    }
    phones_of_ann = {who: (await branch.pair("ann", deviceId=who))["id"] for who in expected}

    assert expected == {
        who: (await branch.ask(who, "DELETE", f"/device/{id_}")).get("code") for who, id_ in phones_of_ann.items()
    }


async def test_a_phone_is_unbound_once(branch: Branch) -> None:
    """Afterwards it does not exist; of two at once one is told so."""
    phone = await branch.pair("ann")
    answers = await asyncio.gather(*(branch.ask("ann", "DELETE", f"/device/{phone['id']}") for _ in range(3)))

    assert Counter([None, "NOT_FOUND", "NOT_FOUND"]) == Counter(answer.get("code") for answer in answers)
    assert ["DEVICE_BOUND", "DEVICE_UNBOUND"] == [event["type"] for event in await branch.events("ann")]


async def test_a_phone_on_a_call_is_not_unbound_unless_forced(branch: Branch) -> None:
    """Forced, its call ends as unknown, which is told before the unbinding."""
    phone = await branch.pair("ann")
    await branch.dial("ann", phone["id"])
    branch.sessions.forget()
    refused = await branch.ask("ann", "DELETE", f"/device/{phone['id']}")

    assert "DEVICE_ON_CALL" == refused["code"]
    assert [] == branch.sessions.told()

    assert (await branch.ask("ann", "DELETE", f"/device/{phone['id']}", force="true"))["success"]
    assert "unknown" == await branch.value("SELECT outcome FROM call")
    assert [("ann", "CALL_ENDED"), ("ann", "DEVICE_UNBOUND")] == branch.sessions.told()


@pytest.mark.usefixtures("branch")
async def test_a_call_dialled_just_then_keeps_the_phone(database: Database, redis: Redis, config: Config) -> None:
    """Even forced, nothing is unbound or moved under a living call: the asker tries again."""
    busy = Branch(database, redis, config, DialledMeanwhile)
    async with busy.client:
        phone = await busy.pair("ann")
        unbound = await busy.ask("ann", "DELETE", f"/device/{phone['id']}", force="true")
        moved = await busy.pair("ben", force=True)

    assert ["CALL_CHANGED", "CALL_CHANGED"] == [unbound["code"], moved["code"]]
    assert {"ann": "hw-1"} == await busy.owners()
    assert 0 == await busy.value("SELECT count(*) FROM call")


async def test_disabling_an_agent_frees_all_phones(branch: Branch) -> None:
    """Calls are closed, codes void, sessions closed once it is committed; the disabled agent gets no event of it."""
    first = await branch.pair("ann", deviceId="hw-1")
    second = await branch.pair("ann", deviceId="hw-2")
    of_ben = await branch.pair("ben", deviceId="hw-3")
    for phone in (first, second, of_ben):
        await branch.connect(phone["id"])
        await branch.dial(phone["userId"], phone["id"])
    qr = await branch.qr("ann")
    branch.sessions.forget()
    actor = Actor(kind="user", id="admin", tenant_id="t1", ip="192.0.2.1", request_id="req_1")
    async with branch.database.transaction() as connection:
        unbound = await branch.devices.unbind_all(connection, actor, "ann", "disabled")

        assert [] == branch.sessions.told()
        assert [] == branch.sessions.closed()

    branch.devices.announce_unbound(unbound)
    mine = {first["id"], second["id"]}

    assert [("ann", "CALL_ENDED"), ("ann", "CALL_ENDED")] == branch.sessions.told()
    assert {(id_, CloseCode.UNBOUND, "disabled", 1) for id_ in mine} == {one[:4] for one in branch.sessions.closed()}
    assert [of_ben["id"]] == [row[0] for row in await branch.fetch("SELECT id FROM device WHERE unbound_at IS NULL")]
    assert [of_ben["id"]] == [row[0] for row in await branch.fetch("SELECT device_id FROM call WHERE outcome IS NULL")]
    assert "BIND_TOKEN_INVALID" == (await branch.bind(token_of(qr)))["code"]
    assert {("admin", "unbind", id_) for id_ in mine} == {
        (entry[1], entry[2], entry[4]) for entry in (await branch.audit())[-2:]
    }
    assert {("unbind", "disabled", id_) for id_ in mine} == {
        tuple(line)
        for line in await branch.fetch("SELECT action, reason, device_id FROM device_bind_log ORDER BY id DESC LIMIT 2")
    }


async def test_a_bind_and_a_disabling_at_once_leave_no_phone(branch: Branch) -> None:
    """Whichever is first: a disabled agent has no phone in the end."""
    token = token_of(await branch.qr("ann"))
    actor = Actor(kind="user", id="admin", tenant_id="t1")

    async def disable() -> None:
        async with branch.database.transaction() as connection:
            await connection.execute("UPDATE app_user SET disabled_at = now() WHERE id = 'ann'")
            await branch.devices.unbind_all(connection, actor, "ann", "disabled")

    await asyncio.gather(branch.bind(token), disable())

    assert 0 == await branch.value("SELECT count(*) FROM device WHERE unbound_at IS NULL")


async def test_a_user_without_phones_is_disabled_too(branch: Branch) -> None:
    """An agent who has none, or an admin of the installation, who belongs to no tenant: nothing is unbound."""
    async with branch.database.transaction() as connection:
        unbound = [
            await branch.devices.unbind_all(connection, Actor(kind="user", id="admin", tenant_id=of), "ann", "disabled")
            for of in ("t1", None)
        ]

    assert [[], []] == unbound


# --- GET list, status and bind-log ------------------------------------------------------------------------------------


async def test_phones_within_reach_are_listed(branch: Branch) -> None:
    """Each with whose it is; the numbers of work phones are plain."""
    expected = {
        "ann": ["ann"],
        "ben": ["ben"],
        "eve": ["eve"],
        "boss of north": ["ann"],
        "admin": ["ann", "ben"],
        "viewer": ["ann", "ben"],
    }
    for number, agent in enumerate(("ann", "ben", "eve")):
        await branch.pair(agent, deviceId=f"hw-{number}")
    answers = {who: await branch.ask(who, "GET", "/device/list") for who in expected}

    assert expected == {
        who: sorted(device["userId"] for device in answer["devices"]) for who, answer in answers.items()
    }
    assert {who: len(owners) for who, owners in expected.items()} == {
        who: answer["total"] for who, answer in answers.items()
    }
    assert (1, 100) == (answers["admin"]["page"], answers["admin"]["pageSize"])
    assert {"+8613800138000"} == {device["phoneNumber"] for device in answers["admin"]["devices"]}


async def test_a_list_can_be_narrowed_to_one_agent(branch: Branch) -> None:
    """One out of reach has no phones that one could see."""
    for number, agent in enumerate(("ann", "ben")):
        await branch.pair(agent, deviceId=f"hw-{number}")
    found = [
        [device["userId"] for device in (await branch.ask(who, "GET", "/device/list", userId="ben"))["devices"]]
        for who in ("admin", "ben", "ann", "eve")
    ]

    assert [["ben"], ["ben"], [], []] == found


async def test_a_list_is_paged(branch: Branch) -> None:
    """The newest first; the total is of all pages."""
    made = [(await branch.pair(deviceId=f"hw-{number}"))["id"] for number in range(3)]
    pages = [await branch.ask("ann", "GET", "/device/list", page=page, pageSize=2) for page in (1, 2, 3)]

    assert made[::-1] == [device["id"] for page in pages for device in page["devices"]]
    assert [3, 3, 3] == [page["total"] for page in pages]


async def test_a_list_refuses_what_it_does_not_know(branch: Branch) -> None:
    """Bounds and names are checked."""
    queries: list[dict[str, Any]] = [{"page": 0}, {"page": 10_001}, {"pageSize": 101}, {"user": "ann"}]
    said = [(await branch.ask("ann", "GET", "/device/list", **query))["code"] for query in queries]

    assert ["INVALID_FIELD"] * 4 == said


async def test_a_phone_in_grace_is_online(branch: Branch) -> None:
    """Its socket went without a word a moment ago, and it may be back."""
    phone = await branch.pair("ann")
    before = await branch.ask("ann", "GET", f"/device/{phone['id']}/status")
    await branch.connect(phone["id"])
    await branch.execute("UPDATE device SET node = NULL, lost_at = now()")
    during = await branch.ask("ann", "GET", f"/device/{phone['id']}/status")
    beat = await branch.value("SELECT last_heartbeat FROM device")

    assert {"success": True, "online": False, "lastHeartbeat": None} == before
    assert {"success": True, "online": True, "lastHeartbeat": event_time(beat)} == during


async def test_the_status_of_a_phone_out_of_reach_is_not_told(branch: Branch) -> None:
    """Neither another agent's, nor another tenant's, nor an unbound one's."""
    phone = await branch.pair("ann")
    path = f"/device/{phone['id']}/status"
    said = [(await branch.ask(who, "GET", path)).get("code") for who in ("ben", "eve", "boss of north")]
    await branch.ask("ann", "DELETE", f"/device/{phone['id']}")

    assert ["NOT_FOUND", "NOT_FOUND", None] == said
    assert "NOT_FOUND" == (await branch.ask("ann", "GET", path))["code"]


async def test_the_bind_log_is_read_by_cursor(branch: Branch) -> None:
    """Each answer tells where to go on, the last one that there is no more."""
    for number in range(5):
        await branch.pair("ann", deviceId=f"hw-{number}")
    seen: list[list[str]] = []
    cursor: dict[str, str] = {}
    while not seen or cursor:
        answer = await branch.ask("admin", "GET", "/device/bind-log", pageSize=2, **cursor)
        seen.append([line["deviceId"] for line in answer["records"]])
        cursor = {"cursor": answer["nextCursor"]} if answer["nextCursor"] else {}

    assert [["hw-4", "hw-3"], ["hw-2", "hw-1"], ["hw-0"]] == seen


async def test_the_bind_log_is_told_within_reach(branch: Branch) -> None:
    """It takes devices.manage; a supervisor sees the teams', an admin the tenant's."""
    for number, agent in enumerate(("ann", "ben", "eve")):
        await branch.pair(agent, deviceId=f"hw-{number}")
    told = {
        who: [line["userId"] for line in (await branch.ask(who, "GET", "/device/bind-log")).get("records", [])]
        for who in ("ann", "boss of north", "admin")
    }
    of_ann = await branch.ask("admin", "GET", "/device/bind-log", userId="ann")

    assert {"ann": [], "boss of north": ["ann"], "admin": ["ben", "ann"]} == told
    assert ["ann"] == [line["userId"] for line in of_ann["records"]]
    assert "INVALID_FIELD" == (await branch.ask("admin", "GET", "/device/bind-log", cursor="x"))["code"]


# --- GET and PUT /api/v1/calls/config ---------------------------------------------------------------------------------


async def test_an_agent_calls_out_by_phone_at_first(branch: Branch) -> None:
    """Nothing is chosen yet."""
    assert {
        "success": True,
        "callMethod": "mobile",
        "deviceId": None,
        "lineId": None,
        "callParameters": {},
    } == await branch.ask("ann", "GET", "/config")


async def test_what_is_set_is_kept_and_what_is_not_named_stays(branch: Branch) -> None:
    """Each PUT tells the whole, and so does GET afterwards; another agent's stays as it is."""
    await branch.pair(deviceId="hw-1")
    second = await branch.pair(deviceId="hw-2")
    parameters = {"timeout": 2**53, "retry": -2.5e-9, "record": True, "prefix": "9", "note": None}
    await branch.ask("ann", "PUT", "/config", {"deviceId": second["id"], "callParameters": parameters})
    answer = await branch.ask("ann", "PUT", "/config", {"callMethod": "cloud", "lineId": None})

    assert {
        "success": True,
        "callMethod": "cloud",
        "deviceId": second["id"],
        "lineId": None,
        "callParameters": parameters,
    } == answer
    assert answer == await branch.ask("ann", "GET", "/config")
    assert "mobile" == (await branch.ask("ben", "GET", "/config"))["callMethod"]


async def test_the_default_phone_can_be_given_up(branch: Branch) -> None:
    """Null means none."""
    await branch.pair()
    answer = await branch.ask("ann", "PUT", "/config", {"deviceId": None})

    assert answer["deviceId"] is None


async def test_the_default_phone_is_ones_own(branch: Branch) -> None:
    """Not another agent's, though one reaches it; not one that is unbound; not one that never was."""
    of_ben = await branch.pair("ben", deviceId="hw-1")
    gone = await branch.pair("boss of north", deviceId="hw-2")
    await branch.ask("boss of north", "DELETE", f"/device/{gone['id']}")
    said = [
        (await branch.ask(who, "PUT", "/config", {"deviceId": device_id}))["code"]
        for who, device_id in (("admin", of_ben["id"]), ("boss of north", gone["id"]), ("ann", "dev_none"))
    ]

    assert ["NOT_FOUND", "NOT_FOUND", "NOT_FOUND"] == said


async def test_the_default_line_is_one_that_is_there(branch: Branch) -> None:
    """Another is refused, and nothing of the request is kept."""
    answer = await branch.ask("ann", "PUT", "/config", {"callMethod": "cloud", "lineId": "line_1"})

    assert "NOT_FOUND" == answer["code"]
    assert "mobile" == (await branch.ask("ann", "GET", "/config"))["callMethod"]


async def test_what_is_not_a_configuration_is_refused(branch: Branch) -> None:
    """Unknown fields, other methods, and parameters that are not plain, few and short."""
    wrong: list[dict[str, Any]] = [
        {"callMethod": "sip"},
        {"callMethod": None},
        {"device": "dev_1"},
        {"callParameters": None},
        {"callParameters": {"nested": {"a": 1}}},
        {"callParameters": {"list": [1]}},
        {"callParameters": {"": 1}},
        {"callParameters": {"x" * 65: 1}},
        {"callParameters": {"long": "x" * 257}},
        {"callParameters": {"much": 2**53 + 1}},
        {"callParameters": {"more": 1e300}},
        {"callParameters": {"nul": "a\0b"}},
        {"callParameters": {str(n): n for n in range(33)}},
    ]
    accepted = [
        body for body in wrong if (await branch.ask("ann", "PUT", "/config", body)).get("code") != "INVALID_FIELD"
    ]

    assert [] == accepted


async def test_an_api_key_has_no_configuration(branch: Branch) -> None:
    """It is nobody who calls."""
    assert "INVALID_FIELD" == (await branch.ask("weak key", "GET", "/config"))["code"]
    assert "INVALID_FIELD" == (await branch.ask("weak key", "PUT", "/config", {}))["code"]


def event_time(at: datetime) -> str:
    """A time as answers tell it: UTC with milliseconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
