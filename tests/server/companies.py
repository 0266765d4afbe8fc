"""Companies side by side in one installation: tenants with rows of every kind, and whoever asks for them."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from protocol.identifiers import new_call_id, new_id
from protocol.messages import RecordingReady
from protocol.timestamps import epoch_ms
from server.api_keys import FOR_AGENTS
from server.config import Config, master_keys
from server.http import ANYONE, PHONE, Endpoint
from server.passwords import Passwords
from server.tokens import AccessTokens, Claims, Listener, PlayTokens, digest, new_api_key, new_token
from storage import accounts, audit, credentials, devices, do_not_call, extensions, hooks, lines, recordings, uploads
from storage.accounts import Page
from storage.audit import Actor
from storage.database import Connection, Database
from storage.devices import Handset
from storage.do_not_call import NewEntry
from storage.extensions import ExtensionSearch
from storage.folder import open_folder
from storage.lines import SeatAt, Setup
from storage.tenant_keys import TenantKeys
from storage.uploads import Upload
from storage.vault import Vault
from tests.storage.stores import keep

BUILDER: Final = Actor(kind="system", id="builder", tenant_id=None)
PASSWORD, PASSWORD_HASH = Passwords.generate()
HARDWARE: Final = "handset-1"
"""The handset's own id of each company's free phone, the admin's: the same, as if one had been bound to both."""
AUDIO: Final = b"ID3\x04\0\0\0\0\0\0" + bytes(1000)
"""A recording, as far as its first bytes tell."""

NOBODYS_URL: Final = "http://127.0.0.1:65535/"
"""Where the provider of each company's line would be."""


class Person(msgspec.Struct, frozen=True):
    """Somebody who asks, by what goes with each request."""

    name: str
    headers: Mapping[str, str]


NOBODY: Final = Person("nobody", {})


class Company(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant, its rows by their ids, and who of it asks: an admin, a key with every scope, and the agent's phone,
    which is on `live_call_id`. The ended call has a recording, to which `play_token` is a link, and the phone has begun
    to upload another, `upload_id`. `line_token` ends the callback URLs of the line. `words` are its own: whoever reads
    one of them has read its data."""

    tenant_id: str
    team_id: str
    admin_id: str
    agent_id: str
    device_id: str
    busy_device_id: str
    live_call_id: str
    ended_call_id: str
    customer_id: str
    customer_reference: str
    order_id: str
    reference: str
    key_id: str
    bind_token: str
    upload_id: str
    line_id: str
    line_token: str
    extension_id: str
    hook_id: str
    delivery_id: str
    entry_id: str
    play_token: str
    words: frozenset[str]
    admin: Person
    key: Person
    phone: Person

    def who_may(self, endpoint: Endpoint, root: Person) -> Person:
        """The one who has what an endpoint needs; `root` is a system_admin."""
        match endpoint.needs:
            case "tenants.manage":
                return root
            case needs if needs == PHONE:
                return self.phone
            case needs if needs in FOR_AGENTS:
                return self.key
            case needs if needs == ANYONE:
                return NOBODY
        return self.admin


class Town:
    """An installation's database, and those who live in it. Their recordings rest in its folder."""

    def __init__(self, database: Database, config: Config) -> None:
        assert config.recordings_folder is not None
        self.database = database
        self._folder = config.recordings_folder
        self._config = config
        self._links = PlayTokens(config.secret_key, 3600)
        self._tokens = AccessTokens(config.secret_key, 3600)

    async def sign_in(self, connection: Connection, user_id: str, name: str) -> Person:
        """Open a login for a user."""
        login_id = await credentials.open_login(connection, user_id, 3600)
        return Person(name, {"authorization": f"Bearer {self._tokens.mint(Claims(user_id, login_id))}"})

    async def user(self, tenant_id: str | None, role: str, team_id: str | None = None) -> tuple[str, Person]:
        """Make a user who has signed in: (id, person)."""
        async with self.database.transaction() as connection:
            user_id = await accounts.create_user(
                connection,
                BUILDER,
                tenant_id,
                username=new_id("u"),
                name=new_id(role),
                role=role,
                password_hash=PASSWORD_HASH,
                team_id=team_id,
                must_change_password=False,
            )
            return user_id, await self.sign_in(connection, user_id, role)

    async def key(self, tenant_id: str, made_by: str, scopes: set[str]) -> tuple[str, Person]:
        """Make an API key: (id, person)."""
        text = new_api_key()
        async with self.database.transaction() as connection:
            key = await credentials.create_api_key(
                connection,
                tenant_id,
                name=new_id("crm"),
                prefix=text[:8],
                key_hash=digest(text),
                scopes=sorted(scopes),
                created_by=made_by,
                expires_at=None,
            )
        assert key is not None
        return key.id, Person("key", {"authorization": f"Bearer {text}"})

    async def permissions(self) -> dict[str, set[str]]:
        """What each role may."""
        async with self.database.connection() as connection:
            return {code: set(role.permissions) for code, role in (await accounts.roles(connection)).items()}

    async def company(self, code: str) -> Company:
        """Make a tenant with a team, people, phones that are online, a customer, a key, lines of each log, and calls:
        one that goes on, one with a follow-up that is due, and one that nobody has recorded."""
        async with self.database.transaction() as connection:
            tenant_id = await accounts.create_tenant(connection, BUILDER, code=code, name=f"{code} Ltd")
            team_id = (await accounts.create_team(connection, BUILDER, tenant_id, f"{code} team")).id
        admin_id, admin = await self.user(tenant_id, "tenant_admin")
        agent_id, _ = await self.user(tenant_id, "agent", team_id)
        scopes = (await self.permissions())["tenant_admin"] | FOR_AGENTS
        key_id, key = await self.key(tenant_id, admin_id, scopes)
        async with self.database.transaction() as connection:
            device_id, _ = await self.phone(connection, tenant_id, admin_id, HARDWARE)
            busy_id, phone = await self.phone(connection, tenant_id, agent_id, new_id("handset"))
            customer_id, reference = new_id("cust"), new_id("crm")
            order_id, external_id = new_id("order"), new_id("case")
            await connection.execute(
                "INSERT INTO customer (id, tenant_id, external_id, name, phone, order_ids)"
                " VALUES ($1, $2, $3, $4, '+8613800138000', ARRAY[$5])",
                customer_id,
                tenant_id,
                reference,
                f"{code} customer",
                order_id,
            )
            calls = [new_call_id() for _ in range(3)]
            concerns = customer_id, f"{code} customer", order_id, external_id
            await connection.executemany(
                """
                INSERT INTO call (id, tenant_id, user_id, team_id, created_by, device_id, call_method, customer_phone,
                    customer_id, customer_name, order_id, external_id, status, reap_at, ended_at, outcome)
                SELECT $2, $1, $3, $4, $5, $6, 'mobile', '+8613800138000', $7, $8, $9, $10, $11,
                    CASE WHEN $11 <> 'ended' THEN now() + interval '1 day' END,
                    CASE WHEN $11 = 'ended' THEN now() END, CASE WHEN $11 = 'ended' THEN 'missed' END
                """,
                [
                    (tenant_id, call_id, agent_id, team_id, admin_id, busy_id, *concerns, status)
                    for call_id, status in zip(calls, ("calling", "ended", "ended"), strict=True)
                ],
            )
            await connection.execute(
                "UPDATE call SET follow_up_note = $2, follow_up_next_at = now() - interval '1 hour',"
                " followed_up_at = now(), followed_up_by = user_id WHERE id = $1",
                calls[1],
                f"{code} note",
            )
            await connection.execute(
                "INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)"
                " SELECT unnest($1::text[]), $2, 'agent', 'DIAL', 'created', '{}'",
                calls,
                tenant_id,
            )
            listed = NewEntry(phone="+8613800138009")
            builder = msgspec.structs.replace(BUILDER, tenant_id=tenant_id)
            entry_id = (await do_not_call.add(connection, builder, tenant_id, listed, "api")).id
            bind_token = new_token("ddb")
            await devices.make_token(
                connection, tenant_id, admin_id, admin_id, digest(bind_token), digest(f"typed {bind_token}"), 3600
            )
        line_id, line_token, extension_id = await self.line(tenant_id, code, agent_id)
        hook_id, delivery_id = await self.hook(tenant_id, code, admin_id)
        await self.recording(tenant_id, busy_id, calls[1])
        upload_id = await self.upload(tenant_id, busy_id, calls[2])
        return Company(
            tenant_id=tenant_id,
            team_id=team_id,
            admin_id=admin_id,
            agent_id=agent_id,
            device_id=device_id,
            busy_device_id=busy_id,
            live_call_id=calls[0],
            ended_call_id=calls[1],
            customer_id=customer_id,
            customer_reference=reference,
            order_id=order_id,
            reference=external_id,
            key_id=key_id,
            bind_token=bind_token,
            upload_id=upload_id,
            line_id=line_id,
            line_token=line_token,
            extension_id=extension_id,
            hook_id=hook_id,
            delivery_id=delivery_id,
            entry_id=entry_id,
            play_token=self._links.mint(Listener(tenant_id, calls[1])),
            words=frozenset(
                {
                    *(
                        tenant_id,
                        team_id,
                        admin_id,
                        agent_id,
                        device_id,
                        busy_id,
                        *calls,
                        customer_id,
                        reference,
                        order_id,
                    ),
                    *(external_id, key_id, upload_id, line_id, extension_id, hook_id, delivery_id, entry_id),
                    *(f"{code} {what}" for what in ("Ltd", "team", "customer", "note", "line", "hook")),
                }
            ),
            admin=admin,
            key=key,
            phone=phone,
        )

    async def phone(self, connection: Connection, tenant_id: str, user_id: str, hardware_id: str) -> tuple[str, Person]:
        """Bind a phone that can do everything and is online: (id, person)."""
        token = new_token("ddp")
        handset = Handset(
            hardware_id=hardware_id,
            phone_number="",
            name="phone",
            model="model",
            os_type="android",
            os_version="16",
            app_version="1",
        )
        bound = await devices.bind(connection, tenant_id, user_id, handset, digest(token))
        await connection.execute(
            "UPDATE device SET online_status = 'online', capabilities = $2 WHERE id = $1",
            bound.id,
            '{"autoDial": true, "hangUp": true, "answerSignal": true}',
        )
        await devices.choose_first(connection, tenant_id, user_id, bound.id)
        await devices.log(connection, tenant_id, [bound.id], "bind", bind_type="qrcode")
        actor = Actor(kind="phone", id=bound.id, tenant_id=tenant_id)
        await audit.record(connection, actor, "bind", "device", bound.id, after={"userId": user_id})
        return bound.id, Person("phone", {"authorization": f"Bearer {token}", "x-device-id": hardware_id})

    async def line(self, tenant_id: str, code: str, agent_id: str) -> tuple[str, str, str]:
        """Set up a line at a provider that nobody serves, with a seat of the agent and two extensions, one of them
        lent to it: the ids of line and token, and of the extension that is free."""
        keys, actor = (
            TenantKeys(Vault(master_keys(self._config))),
            msgspec.structs.replace(BUILDER, tenant_id=tenant_id),
        )
        settings = {"appId": f"{code} app", "baseUrl": NOBODYS_URL}
        setup = Setup(provider="infinity", name=f"{code} line", account_id=f"{code} app", settings=settings)
        async with self.database.transaction() as connection:
            line_id = await lines.create(connection, keys, actor, tenant_id, setup, {"accessKey": f"{code} access key"})
            seat = SeatAt(seat_id=f"{code} seat", number="")
            await lines.put_seat(connection, actor, tenant_id, line_id, agent_id, seat)
            account = await lines.open_secrets(connection, keys, tenant_id, line_id)
            await extensions.add(connection, actor, tenant_id, line_id, [f"{code}-8001", f"{code}-8002"])
            await extensions.lease(connection, tenant_id, line_id, agent_id, new_call_id(), datetime.now(UTC))
            free = ExtensionSearch(line_id=line_id, status="available")
            _, (extension,) = await extensions.search(connection, tenant_id, free, Page(1, 10))
        return line_id, account.token, extension.id

    async def hook(self, tenant_id: str, code: str, admin_id: str) -> tuple[str, str]:
        """Let the company be told of calls that end, and of a test: the ids of the hook and of its one delivery."""
        hook_id, delivery_id = new_id("hook"), new_id("msg")
        async with self.database.transaction() as connection:
            await hooks.add(
                connection,
                tenant_id,
                hook_id,
                url=f"https://{code}.example/",
                events=["call.ended"],
                description=f"{code} hook",
                enabled=True,
                reveal=False,
                created_by=admin_id,
            )
            await hooks.ping(connection, tenant_id, hook_id, delivery_id)
        return hook_id, delivery_id

    async def upload(self, tenant_id: str, device_id: str, call_id: str) -> str:
        """Let a phone begin to upload AUDIO in parts; returns the id of the upload."""
        store = await open_folder(self._folder)
        key = f"{tenant_id}/recordings/{call_id}.mp3"
        begun = self._upload(tenant_id, device_id, call_id, store.id, key, await store.begin(key, "audio/mpeg"))
        async with self.database.connection() as connection:
            await uploads.add(connection, begun, 3600)
        return begun.id

    async def recording(self, tenant_id: str, device_id: str, call_id: str) -> None:
        """Let a phone have brought AUDIO."""
        store = await open_folder(self._folder)
        key = f"{tenant_id}/recordings/{call_id}.mp3"
        brought = self._upload(tenant_id, device_id, call_id, store.id, key, await keep(store, key, AUDIO))
        ready = RecordingReady(
            call_id=call_id,
            at=epoch_ms(datetime.now(UTC)),
            source="phone",
            media_type="audio/mpeg",
            size=len(AUDIO),
            recording_url=recordings.recording_url(call_id),
        )
        async with self.database.connection() as connection:
            await uploads.add(connection, brought, 3600)
            await recordings.hold_place(
                connection, tenant_id, brought.id, len(AUDIO), hashlib.sha256(AUDIO).digest(), settle_after=3600
            )
            assert await recordings.finish(connection, brought, hashlib.sha256(AUDIO).digest(), ready)

    @staticmethod
    def _upload(tenant_id: str, device_id: str, call_id: str, folder: str, key: str, store_upload_id: str) -> Upload:
        return Upload(
            id=new_id("upl"),
            tenant_id=tenant_id,
            call_id=call_id,
            source="phone",
            actor_id=device_id,
            place=f"folder:{folder}",
            object_key=key,
            store_upload_id=store_upload_id,
            media_type="audio/mpeg",
            key_id=None,
            salt=None,
            size=len(AUDIO),
            sha256=hashlib.sha256(AUDIO).digest(),
        )
