"""Signing in and staying so: passwords, sessions, refresh, tickets, exchange, and what ends them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Literal

import jwt
import pytest
from redis.asyncio import Redis

from protocol.errors import DialdeskError
from server.auth import Auth
from server.config import Config
from server.passwords import Passwords
from server.tokens import AccessTokens, Claims, new_api_key, new_token
from storage.database import Database
from storage.live import open_redis
from tests.server.front_desk import HASHER, PASSWORD, Asker, FrontDesk, front_desk

Kind = Literal["phone", "agent"]


@pytest.fixture
async def desk(database: Database, redis: Redis, config: Config) -> AsyncIterator[FrontDesk]:
    """A node's endpoints."""
    async with front_desk(database, redis, config) as desk:
        yield desk


@pytest.fixture
async def acme(desk: FrontDesk) -> str:
    """A tenant with an agent named ann."""
    tenant_id = await desk.tenant("acme")
    await desk.user(tenant_id, "ann")
    return tenant_id


async def ann_id(desk: FrontDesk) -> str:
    """The id of ann."""
    found: str = await desk.value("SELECT id FROM app_user WHERE username = 'ann'")
    return found


async def log_in(desk: FrontDesk, username: str, password: str, ip: str = "192.0.2.1") -> dict[str, Any]:
    """Try to sign in."""
    return await desk.caller(ip=ip).post("/auth/login", {"username": username, "password": password})


async def refresh(desk: FrontDesk, token: str) -> dict[str, Any]:
    """Try to refresh."""
    return await desk.caller().post("/auth/refresh", {"refreshToken": token})


async def open_socket(auth: Auth, kind: Kind, ticket: str | None = None, **headers: str) -> str:
    """Try to open a socket: who it is for, or the code by which it is refused."""
    try:
        identity = await auth.authenticate_socket(headers, {} if ticket is None else {"ticket": ticket}, kind)
    except DialdeskError as error:
        return error.code
    return identity.id


async def api_key(desk: FrontDesk, code: str, *scopes: str, **more: Any) -> str:
    """Have the admin of a tenant make an API key."""
    admin = await desk.signed_in(f"{code}.admin")
    made = await admin.post("/admin/api-keys", {"name": "crm", "scopes": list(scopes), **more})
    key: str = made["key"]
    return key


# --- signing in -------------------------------------------------------------------------------------------------------


async def test_sign_in_tells_session(desk: FrontDesk, acme: str) -> None:
    """Signing in answers with both tokens, how long the access token lasts, and who signed in."""
    session = await log_in(desk, "ann", PASSWORD)
    user = session["user"]

    assert 7200 == session["expiresIn"]
    assert session["refreshToken"].startswith("ddr_")
    assert ("ann", "agent", acme, False) == (
        user["username"],
        user["role"],
        user["tenantId"],
        user["mustChangePassword"],
    )
    assert "calls.dial" in user["permissions"]


async def test_sign_in_ignores_case_of_user_name(desk: FrontDesk, acme: str) -> None:
    """User names are the same in capitals."""
    session = await log_in(desk, "ANN", PASSWORD)

    assert "ann" == session["user"]["username"]


async def test_sign_in_is_audited_without_secrets(desk: FrontDesk, acme: str) -> None:
    """A sign-in leaves a line in the audit log that names the login and the address, and no token."""
    session = await desk.sign_in("ann")
    line = await desk.value(
        "SELECT row_to_json(audit_log)::text FROM audit_log WHERE resource_id = $1 AND action = 'login'",
        await ann_id(desk),
    )

    assert "192.0.2.1" in line
    assert session["accessToken"] not in line
    assert session["refreshToken"] not in line


async def test_no_token_is_kept_in_clear(desk: FrontDesk, acme: str) -> None:
    """What is kept of a session does not let anybody in: the refresh token is a digest."""
    session = await desk.sign_in("ann")
    kept = await desk.value("SELECT string_agg(r::text, ' ') FROM refresh_token r")

    assert session["refreshToken"] not in kept


@pytest.mark.parametrize(("username", "password"), [("ann", "wrong horse"), ("nobody", PASSWORD)])
async def test_wrong_password_and_unknown_user_look_alike(
    desk: FrontDesk, acme: str, username: str, password: str
) -> None:
    """A wrong password and an unknown user get the same answer."""
    answer = await log_in(desk, username, password)

    assert ("BAD_CREDENTIALS", {}) == (answer["code"], answer["details"])


async def test_account_locks_after_failures(desk: FrontDesk, acme: str) -> None:
    """The fifth failure in a row locks the account: then even the right password is refused, with until when."""
    failures = [(await log_in(desk, "ann", "wrong horse"))["code"] for _ in range(5)]
    locked = await log_in(desk, "ann", PASSWORD)

    assert ["BAD_CREDENTIALS"] * 5 == failures
    assert "ACCOUNT_LOCKED" == locked["code"]
    assert locked["details"]["until"].endswith("Z")
    assert ("system", "auth", "lock") in await desk.told(await ann_id(desk))


async def test_lock_ends_with_time(desk: FrontDesk, acme: str) -> None:
    """Once the lock-out is over the right password lets in, and failures count from one again."""
    for _ in range(5):
        await log_in(desk, "ann", "wrong horse")
    await desk.execute("UPDATE app_user SET locked_until = now() - interval '1 second' WHERE username = 'ann'")
    after = [(await log_in(desk, "ann", "wrong horse"))["code"] for _ in range(4)]

    assert ["BAD_CREDENTIALS"] * 4 == after
    assert (await log_in(desk, "ann", PASSWORD))["success"]


async def test_success_counts_anew(desk: FrontDesk, acme: str) -> None:
    """A right password wipes out the failures before it."""
    for _ in range(4):
        await log_in(desk, "ann", "wrong horse")
    await desk.sign_in("ann")
    for _ in range(4):
        await log_in(desk, "ann", "wrong horse")

    assert (await log_in(desk, "ann", PASSWORD))["success"]


async def test_guesses_at_once_are_counted_like_guesses_in_turn(desk: FrontDesk, acme: str) -> None:
    """Of many guesses sent at the same time no more are looked at than would be one after another."""
    guesses = [log_in(desk, "ann", f"wrong horse {number}") for number in range(12)]
    codes = Counter(answer["code"] for answer in await asyncio.gather(*guesses))

    assert {"BAD_CREDENTIALS": 5, "ACCOUNT_LOCKED": 7} == codes


async def test_disabled_user_is_told_after_the_right_password_only(desk: FrontDesk, acme: str) -> None:
    """That an account is disabled is told to who knows its password, and to nobody else."""
    await desk.execute("UPDATE app_user SET disabled_at = now() WHERE username = 'ann'")
    wrong, right = await log_in(desk, "ann", "wrong horse"), await log_in(desk, "ann", PASSWORD)

    assert ("BAD_CREDENTIALS", "ACCOUNT_DISABLED") == (wrong["code"], right["code"])


async def test_hash_is_brought_up_to_date_at_sign_in(desk: FrontDesk, acme: str) -> None:
    """A password kept with other parameters is kept with today's once it was typed."""
    password, light = Passwords.generate()
    await desk.execute("UPDATE app_user SET password_hash = $1 WHERE username = 'ann'", light)
    await desk.sign_in("ann", password)
    kept = await desk.value("SELECT password_hash FROM app_user WHERE username = 'ann'")

    assert light != kept
    assert not HASHER.check_needs_rehash(kept)


async def test_sign_ins_of_an_address_are_limited(
    database: Database, redis: Redis, configure: Callable[..., Config]
) -> None:
    """More sign-ins from one address than the rate allows are refused with when to come again; others pass."""
    async with front_desk(database, redis, configure(login_rate=3)) as desk:
        await desk.user(await desk.tenant("acme"), "ann")
        codes = [(await log_in(desk, "ann", PASSWORD))["success"] for _ in range(3)]
        refused = await log_in(desk, "ann", PASSWORD)
        elsewhere = await log_in(desk, "ann", PASSWORD, ip="192.0.2.2")

    assert [True] * 3 == codes
    assert "RATE_LIMITED" == refused["code"]
    assert 1 <= refused["details"]["retryAfter"] <= 60
    assert elsewhere["success"]


async def test_addresses_of_one_ipv6_network_are_limited_together(
    database: Database, redis: Redis, configure: Callable[..., Config]
) -> None:
    """A machine with a whole /64 is one address to the limiter."""
    async with front_desk(database, redis, configure(login_rate=1)) as desk:
        await desk.user(await desk.tenant("acme"), "ann")
        answers = [
            await log_in(desk, "ann", PASSWORD, ip=ip) for ip in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
        ]

    assert [None, "RATE_LIMITED", None] == [answer.get("code") for answer in answers]


async def test_sign_in_works_without_redis_but_tickets_do_not(database: Database, config: Config) -> None:
    """Without Redis signing in is not limited and goes on; a ticket, which lives there, is UNAVAILABLE."""
    away = open_redis("redis://127.0.0.1:1/0")
    async with front_desk(database, away, config) as desk:
        await desk.user(await desk.tenant("acme"), "ann")
        ann = await desk.signed_in("ann")
        ticket = await ann.post("/auth/ws-ticket")

        assert "UNAVAILABLE" == ticket["code"]
        assert "UNAVAILABLE" == await open_socket(desk.auth, "agent", "ddt_x")


async def test_attempt_that_cannot_be_looked_at_is_not_counted(
    database: Database, redis: Redis, config: Config
) -> None:
    """Where too many passwords wait, sign-in is UNAVAILABLE and costs nobody an attempt."""
    async with front_desk(database, redis, config, Passwords(HASHER, room=0)) as desk:
        await desk.user(await desk.tenant("acme"), "ann")
        answer = await log_in(desk, "ann", "wrong horse")

        assert "UNAVAILABLE" == answer["code"]
        assert 0 == await desk.value("SELECT failed_logins FROM app_user WHERE username = 'ann'")


# --- access tokens ----------------------------------------------------------------------------------------------------


async def claims_of(desk: FrontDesk, token: str) -> Claims:
    """The claims of an access token."""
    return AccessTokens(desk.config.secret_key, 60).read(token)


async def test_access_token_lets_in(desk: FrontDesk, acme: str) -> None:
    """An access token tells who asks, and the tenant whose choices the desk offers."""
    me = await (await desk.signed_in("ann")).get("/me")

    assert ("user", "ann", "acme") == (me["kind"], me["user"]["username"], me["tenant"]["code"])
    assert "已接通" in me["tenant"]["callResults"]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer x.y.z", "Bearer é", "Bearer " + "a" * 5000]
)
async def test_what_is_no_token_is_unauthenticated(desk: FrontDesk, header: str) -> None:
    """Anything else in the header is UNAUTHENTICATED."""
    with pytest.raises(DialdeskError) as refusal:
        await desk.auth.authenticate({"authorization": header})

    assert "UNAUTHENTICATED" == refusal.value.code


async def test_expired_access_token_is_told_apart(desk: FrontDesk, acme: str) -> None:
    """An expired token gets TOKEN_EXPIRED, so that its client refreshes rather than asks for a password."""
    session = await desk.sign_in("ann")
    claims = await claims_of(desk, session["accessToken"])
    expired = AccessTokens(desk.config.secret_key, -60).mint(claims)

    assert "TOKEN_EXPIRED" == (await desk.caller(expired).get("/me"))["code"]


async def test_token_of_another_key_is_refused(desk: FrontDesk, acme: str) -> None:
    """A token signed with anything but this installation's key is refused, and so is one under SECRET_KEY itself."""
    claims = await claims_of(desk, (await desk.sign_in("ann"))["accessToken"])
    foreign = AccessTokens("another secret key, also of 32 characters", 60).mint(claims)
    own = jwt.decode(foreign, options={"verify_signature": False})
    underived = jwt.encode(own, desk.config.secret_key, algorithm="HS256")

    assert "UNAUTHENTICATED" == (await desk.caller(foreign).get("/me"))["code"]
    assert "UNAUTHENTICATED" == (await desk.caller(underived).get("/me"))["code"]


async def test_login_of_another_user_does_not_fit(desk: FrontDesk, acme: str) -> None:
    """A login serves the user who signed in, whatever else a token says."""
    claims = await claims_of(desk, (await desk.sign_in("ann"))["accessToken"])
    ben = await desk.user(acme, "ben")
    mixed = AccessTokens(desk.config.secret_key, 60).mint(Claims(ben, claims.login_id))

    assert "UNAUTHENTICATED" == (await desk.caller(mixed).get("/me"))["code"]


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE login SET revoked_at = now()", "UNAUTHENTICATED"),
        ("UPDATE login SET expires_at = now()", "UNAUTHENTICATED"),
        ("UPDATE app_user SET disabled_at = now()", "ACCOUNT_DISABLED"),
        ("UPDATE tenant SET status = 'suspended'", "TENANT_SUSPENDED"),
    ],
)
async def test_what_ends_a_login_holds_from_the_next_request_on(
    desk: FrontDesk, acme: str, statement: str, code: str
) -> None:
    """A login that ended, a disabled user and a suspended tenant are refused at once, at every door."""
    session = await desk.sign_in("ann")
    ann = desk.caller(session["accessToken"])
    ticket = (await ann.post("/auth/ws-ticket"))["ticket"]
    await desk.execute(statement)

    assert code == (await ann.get("/me"))["code"]
    assert code == await open_socket(desk.auth, "agent", ticket)
    assert code == (await refresh(desk, session["refreshToken"]))["code"]


async def test_rights_follow_the_role_at_once(desk: FrontDesk, acme: str) -> None:
    """A session has the permissions, the reach and the teams of this moment, not those of its beginning."""
    north = await desk.team(acme, "North")
    session = await desk.sign_in("ann")
    before = await desk.auth.authenticate({"authorization": f"Bearer {session['accessToken']}"})
    await desk.execute("UPDATE app_user SET role = 'supervisor' WHERE username = 'ann'")
    await desk.execute(
        "INSERT INTO team_supervisor (tenant_id, team_id, user_id) VALUES ($1, $2, $3)", acme, north, before.id
    )
    after = await desk.auth.refreshed(before)

    assert ("agent", "own", ()) == (before.role, before.reach, before.teams)
    assert ("supervisor", "teams", (north,)) == (after.role, after.reach, after.teams)
    assert after.may("devices.manage")


# --- refreshing -------------------------------------------------------------------------------------------------------


async def test_refresh_gives_new_tokens(desk: FrontDesk, acme: str) -> None:
    """A refresh answers like a sign-in, with another refresh token, in the same login."""
    session = await desk.sign_in("ann")
    renewed = await refresh(desk, session["refreshToken"])
    old, new = await claims_of(desk, session["accessToken"]), await claims_of(desk, renewed["accessToken"])

    assert old == new
    assert session["refreshToken"] != renewed["refreshToken"]
    assert "ann" == (await desk.caller(renewed["accessToken"]).get("/me"))["user"]["username"]
    assert (await refresh(desk, renewed["refreshToken"]))["success"]


async def test_refresh_keeps_a_login_alive(desk: FrontDesk, acme: str) -> None:
    """Each refresh moves the end of the login on by the refresh token's life."""
    session = await desk.sign_in("ann")
    await desk.execute("UPDATE login SET expires_at = now() + interval '1 minute'")
    await refresh(desk, session["refreshToken"])

    assert await desk.value("SELECT expires_at > now() + interval '6 days' FROM login")


async def test_reuse_of_a_refresh_token_ends_the_login(desk: FrontDesk, acme: str) -> None:
    """The second use of a refresh token revokes the family, closes its pages with 4503 and is audited."""
    session = await desk.sign_in("ann")
    other = await desk.sign_in("ann")
    claims = await claims_of(desk, session["accessToken"])
    await desk.page(claims.user_id)
    renewed = await refresh(desk, session["refreshToken"])
    reused = await refresh(desk, session["refreshToken"])

    assert "REFRESH_REUSED" == reused["code"]
    assert [(claims.user_id, 4503, claims.login_id)] == desk.sockets.closed_pages()
    assert "UNAUTHENTICATED" == (await desk.caller(renewed["accessToken"]).get("/me"))["code"]
    assert "UNAUTHENTICATED" == (await refresh(desk, renewed["refreshToken"]))["code"]
    assert [("system", "auth", "revoke")] == await desk.told(claims.login_id)
    assert "refresh_reused" == await desk.value("SELECT revoke_reason FROM login WHERE id = $1", claims.login_id)
    assert (await desk.caller(other["accessToken"]).get("/me"))["success"]


async def test_of_two_refreshes_at_once_one_wins(desk: FrontDesk, acme: str) -> None:
    """Of many who use a refresh token at the same time one gets new tokens; others are reuse, and end the login."""
    session = await desk.sign_in("ann")
    answers = await asyncio.gather(*(refresh(desk, session["refreshToken"]) for _ in range(6)))
    codes = [answer.get("code", "won") for answer in answers]

    assert 1 == codes.count("won")
    assert 5 == codes.count("REFRESH_REUSED")
    assert "UNAUTHENTICATED" == (await desk.caller(session["accessToken"]).get("/me"))["code"]


async def test_unknown_refresh_token_ends_nothing(desk: FrontDesk, acme: str) -> None:
    """A refresh token that never was is UNAUTHENTICATED."""
    assert "UNAUTHENTICATED" == (await refresh(desk, new_token("ddr")))["code"]


async def test_access_token_does_not_refresh(desk: FrontDesk, acme: str) -> None:
    """An access token is no refresh token, and a refresh token no access token."""
    session = await desk.sign_in("ann")

    assert (await refresh(desk, session["accessToken"]))["code"] in {"UNAUTHENTICATED", "INVALID_FIELD"}
    assert "UNAUTHENTICATED" == (await desk.caller(session["refreshToken"]).get("/me"))["code"]


# --- signing out, and the password ------------------------------------------------------------------------------------


async def test_sign_out_ends_this_session_only(desk: FrontDesk, acme: str) -> None:
    """Signing out voids both tokens, closes this session's pages with 4503, and leaves other sessions alone."""
    session, other = await desk.sign_in("ann"), await desk.sign_in("ann")
    claims = await claims_of(desk, session["accessToken"])
    await desk.page(claims.user_id)
    done = await desk.caller(session["accessToken"]).post("/auth/logout")

    assert done["success"]
    assert [(claims.user_id, 4503, claims.login_id)] == desk.sockets.closed_pages()
    assert "UNAUTHENTICATED" == (await desk.caller(session["accessToken"]).get("/me"))["code"]
    assert "UNAUTHENTICATED" == (await refresh(desk, session["refreshToken"]))["code"]
    assert (await desk.caller(other["accessToken"]).get("/me"))["success"]


async def change_password(asker: Asker, old: str, new: str) -> dict[str, Any]:
    """Try to change the password."""
    return await asker.post("/auth/password", {"oldPassword": old, "newPassword": new})


async def test_change_of_password_ends_other_sessions(desk: FrontDesk, acme: str) -> None:
    """A new password signs out all other sessions and closes their pages; the one that changed it goes on."""
    session, other = await desk.sign_in("ann"), await desk.sign_in("ann")
    claims = await claims_of(desk, other["accessToken"])
    await desk.page(claims.user_id)
    ann = desk.caller(session["accessToken"])
    done = await change_password(ann, PASSWORD, "battery staple")

    assert done["success"]
    assert [(claims.user_id, 4503, claims.login_id)] == desk.sockets.closed_pages()
    assert "UNAUTHENTICATED" == (await desk.caller(other["accessToken"]).get("/me"))["code"]
    assert (await ann.get("/me"))["success"]
    assert "BAD_CREDENTIALS" == (await log_in(desk, "ann", PASSWORD))["code"]
    assert (await log_in(desk, "ann", "battery staple"))["success"]
    assert ("user", claims.user_id, "change_password") in await desk.told(claims.user_id)


@pytest.mark.parametrize(
    ("new", "code"), [("short", "WEAK_PASSWORD"), ("x" * 129, "WEAK_PASSWORD"), (PASSWORD, "INVALID_FIELD")]
)
async def test_bad_new_password_is_refused(desk: FrontDesk, acme: str, new: str, code: str) -> None:
    """A new password obeys the rule and is new; a refusal changes nothing."""
    ann = await desk.signed_in("ann")

    assert code == (await change_password(ann, PASSWORD, new))["code"]
    assert (await log_in(desk, "ann", PASSWORD))["success"]


async def test_guessing_the_old_password_locks_too(desk: FrontDesk, acme: str) -> None:
    """Whoever holds a stolen access token has no more guesses at the password than anybody else."""
    ann = await desk.signed_in("ann")
    codes = [(await change_password(ann, "wrong horse", "battery staple"))["code"] for _ in range(6)]

    assert ["BAD_CREDENTIALS"] * 5 + ["ACCOUNT_LOCKED"] == codes


async def test_reset_password_must_be_changed_first(desk: FrontDesk, acme: str) -> None:
    """Until a reset password is changed, nothing works but to see who one is, to change it, and to sign out."""
    await desk.execute("UPDATE app_user SET must_change_password = true WHERE username = 'acme.admin'")
    admin = await desk.signed_in("acme.admin")
    ticket = await admin.post("/auth/ws-ticket")

    assert "PASSWORD_CHANGE_REQUIRED" == (await admin.get("/admin/users"))["code"]
    assert "PASSWORD_CHANGE_REQUIRED" == await open_socket(desk.auth, "agent", ticket["ticket"])
    assert (await admin.get("/me"))["user"]["mustChangePassword"]
    assert (await change_password(admin, PASSWORD, "battery staple"))["success"]
    assert (await admin.get("/admin/users"))["success"]


# --- API keys ---------------------------------------------------------------------------------------------------------


async def test_api_key_has_its_scopes_and_the_tenant(desk: FrontDesk, acme: str) -> None:
    """A key reaches its tenant with its scopes as permissions; it is nobody, so it has no session to end."""
    key = await api_key(desk, "acme", "users.read", "calls.dial_for")
    crm = desk.caller(key)
    identity = await desk.auth.authenticate({"authorization": f"Bearer {key}"})
    me = await crm.get("/me")

    assert ("api_key", acme, "tenant", None) == (identity.kind, identity.tenant_id, identity.reach, identity.user_id)
    assert ["calls.dial_for", "users.read"] == me["permissions"]
    assert me["user"] is None
    assert (await crm.get("/admin/users"))["success"]
    assert "FORBIDDEN" == (await crm.get("/admin/audit"))["code"]
    assert "UNAUTHENTICATED" == (await crm.post("/auth/logout"))["code"]
    assert "UNAUTHENTICATED" == await open_socket(desk.auth, "agent", authorization=f"Bearer {key}")


async def test_mistyped_key_never_reaches_the_database(desk: FrontDesk, acme: str) -> None:
    """A key whose checksum is wrong is refused although its digest stands in the table."""
    key = await api_key(desk, "acme", "users.read")
    mistyped = key[:-1] + ("a" if key[-1] != "a" else "b")
    await desk.execute("UPDATE api_key SET hash = sha256(convert_to($1, 'UTF8'))", mistyped)

    assert "UNAUTHENTICATED" == (await desk.caller(mistyped).get("/me"))["code"]


async def test_unknown_key_is_refused(desk: FrontDesk) -> None:
    """A well-formed key that nobody made is UNAUTHENTICATED."""
    assert "UNAUTHENTICATED" == (await desk.caller(new_api_key()).get("/me"))["code"]


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE api_key SET revoked_at = now()", "UNAUTHENTICATED"),
        ("UPDATE api_key SET expires_at = now()", "UNAUTHENTICATED"),
        ("UPDATE tenant SET status = 'suspended'", "TENANT_SUSPENDED"),
    ],
)
async def test_key_that_is_over_is_refused(desk: FrontDesk, acme: str, statement: str, code: str) -> None:
    """A revoked key, an expired one and one of a suspended tenant are refused at once."""
    key = await api_key(desk, "acme", "users.read")
    await desk.execute(statement)

    assert code == (await desk.caller(key).get("/me"))["code"]


async def test_use_of_a_key_is_written_down_once_a_minute(desk: FrontDesk, acme: str) -> None:
    """When a key was last used is known to the minute, without a write for every request."""
    crm = desk.caller(await api_key(desk, "acme", "users.read"))
    await crm.get("/me")
    first = await desk.value("SELECT last_used_at FROM api_key")
    await crm.get("/me")
    second = await desk.value("SELECT last_used_at FROM api_key")
    await desk.execute("UPDATE api_key SET last_used_at = now() - interval '61 seconds'")
    await crm.get("/me")

    assert first == second
    assert await desk.value("SELECT last_used_at > $1 FROM api_key", first)


# --- a CRM becomes an agent's session ---------------------------------------------------------------------------------


async def test_key_is_exchanged_for_an_agents_session(desk: FrontDesk, acme: str) -> None:
    """With sessions.exchange a key becomes the session of an agent, who need never have known a password."""
    await desk.execute("UPDATE app_user SET must_change_password = true WHERE username = 'ann'")
    ann = await ann_id(desk)
    key = await api_key(desk, "acme", "sessions.exchange")
    session = await desk.caller(key).post("/auth/exchange", {"userId": ann})
    page = desk.caller(session["accessToken"])
    ticket = await page.post("/auth/ws-ticket")

    assert "ann" == session["user"]["username"]
    assert not session["user"]["mustChangePassword"]
    assert ann == await open_socket(desk.auth, "agent", ticket["ticket"])
    assert "exchange" == (await desk.told(ann))[-1][2]
    assert (await refresh(desk, session["refreshToken"]))["success"]


async def test_key_is_exchanged_for_an_agents_ticket(desk: FrontDesk, acme: str) -> None:
    """With sessions.exchange a key gets a ticket for an agent's socket directly."""
    ann = await ann_id(desk)
    crm = desk.caller(await api_key(desk, "acme", "sessions.exchange"))
    ticket = await crm.post("/auth/ws-ticket", {"userId": ann})

    assert ann == await open_socket(desk.auth, "agent", ticket["ticket"])
    assert "INVALID_FIELD" == (await crm.post("/auth/ws-ticket"))["code"]


async def test_exchange_takes_its_scope(desk: FrontDesk, acme: str) -> None:
    """Neither a key without the scope nor a user, whoever it is, becomes somebody else."""
    ann = await ann_id(desk)
    crm = desk.caller(await api_key(desk, "acme", "calls.dial_for"))
    admin = await desk.signed_in("acme.admin")

    for asker in (crm, admin):
        for path in ("/auth/exchange", "/auth/ws-ticket"):
            assert "FORBIDDEN" == (await asker.post(path, {"userId": ann}))["code"]


async def test_exchange_ends_at_the_tenant(desk: FrontDesk, acme: str) -> None:
    """A key is exchanged for agents of its own tenant only; others do not exist for it."""
    await desk.tenant("bolt")
    bolts = desk.caller(await api_key(desk, "bolt", "sessions.exchange"))

    for path in ("/auth/exchange", "/auth/ws-ticket"):
        assert "NOT_FOUND" == (await bolts.post(path, {"userId": await ann_id(desk)}))["code"]


@pytest.mark.parametrize("role", ["tenant_admin", "auditor", "viewer"])
async def test_exchange_never_gives_more_than_a_desk(desk: FrontDesk, acme: str, role: str) -> None:
    """A key becomes an agent or a supervisor, and nobody whose role reaches the whole tenant."""
    chief = await desk.user(acme, "chief", role)
    crm = desk.caller(await api_key(desk, "acme", "sessions.exchange"))

    assert "ROLE_NOT_GRANTABLE" == (await crm.post("/auth/exchange", {"userId": chief}))["code"]
    assert 0 == await desk.value("SELECT count(*) FROM login WHERE user_id = $1", chief)


async def test_exchange_of_a_disabled_agent_is_refused(desk: FrontDesk, acme: str) -> None:
    """A key does not bring a disabled agent back."""
    await desk.execute("UPDATE app_user SET disabled_at = now() WHERE username = 'ann'")
    crm = desk.caller(await api_key(desk, "acme", "sessions.exchange"))

    assert "ACCOUNT_DISABLED" == (await crm.post("/auth/exchange", {"userId": await ann_id(desk)}))["code"]


async def test_exchanged_session_does_not_outlive_its_key(desk: FrontDesk, acme: str) -> None:
    """The login that grew from a key ends with the key at the latest, also when it is refreshed."""
    key = await api_key(desk, "acme", "sessions.exchange", expiresAt="2100-01-01T00:00:00Z")
    await desk.execute("UPDATE api_key SET expires_at = now() + interval '1 hour'")
    session = await desk.caller(key).post("/auth/exchange", {"userId": await ann_id(desk)})
    query = "SELECT l.expires_at <= k.expires_at FROM login l JOIN api_key k ON k.id = l.api_key_id"

    assert await desk.value(query)
    assert (await refresh(desk, session["refreshToken"]))["success"]
    assert await desk.value(query)


# --- tickets and sockets ----------------------------------------------------------------------------------------------


async def test_ticket_opens_one_socket(desk: FrontDesk, acme: str) -> None:
    """A ticket opens the socket of who asked for it, once."""
    ann = await desk.signed_in("ann")
    answer = await ann.post("/auth/ws-ticket")

    assert 30 == answer["expiresIn"]
    assert await ann_id(desk) == await open_socket(desk.auth, "agent", answer["ticket"])
    assert "UNAUTHENTICATED" == await open_socket(desk.auth, "agent", answer["ticket"])


async def test_ticket_used_by_many_at_once_opens_one_socket(desk: FrontDesk, acme: str) -> None:
    """Of many who bring the same ticket at the same time one is let in."""
    ticket = (await (await desk.signed_in("ann")).post("/auth/ws-ticket"))["ticket"]
    seen = await asyncio.gather(*(open_socket(desk.auth, "agent", ticket) for _ in range(8)))

    assert [await ann_id(desk), *["UNAUTHENTICATED"] * 7] == sorted(seen, key=lambda who: who == "UNAUTHENTICATED")


async def test_ticket_of_a_page_opens_no_phone(desk: FrontDesk, acme: str) -> None:
    """A ticket serves the kind of socket that its credential serves."""
    ticket = (await (await desk.signed_in("ann")).post("/auth/ws-ticket"))["ticket"]

    assert "UNAUTHENTICATED" == await open_socket(desk.auth, "phone", ticket)


@pytest.mark.parametrize("ticket", ["", "ddt_never", "é"])
async def test_made_up_ticket_is_refused(desk: FrontDesk, ticket: str) -> None:
    """A ticket that nobody was given is UNAUTHENTICATED."""
    assert "UNAUTHENTICATED" == await open_socket(desk.auth, "agent", ticket)


async def test_ticket_needs_a_credential(desk: FrontDesk) -> None:
    """Who has no credential gets no ticket."""
    assert "UNAUTHENTICATED" == (await desk.caller().post("/auth/ws-ticket"))["code"]


async def test_header_opens_a_socket_too(desk: FrontDesk, acme: str) -> None:
    """Where headers can be set, the access token itself opens the agent's socket, and no phone's."""
    header = f"Bearer {(await desk.sign_in('ann'))['accessToken']}"

    assert await ann_id(desk) == await open_socket(desk.auth, "agent", authorization=header)
    assert "UNAUTHENTICATED" == await open_socket(desk.auth, "phone", authorization=header)


async def test_system_admin_has_no_desk(desk: FrontDesk) -> None:
    """Who belongs to no tenant signs in and opens no socket: there is nothing to hear."""
    await desk.user(None, "root", "system_admin")
    root = await desk.signed_in("root")
    me = await root.get("/me")
    ticket = await root.post("/auth/ws-ticket")

    assert (None, None) == (me["user"]["tenantId"], me["tenant"])
    assert "FORBIDDEN" == await open_socket(desk.auth, "agent", ticket["ticket"])


# --- phones -----------------------------------------------------------------------------------------------------------


async def test_device_token_lets_the_phone_in(desk: FrontDesk, acme: str) -> None:
    """A phone is known by its token together with either of its ids, over HTTP and at the socket."""
    ann = await ann_id(desk)
    device_id, token = await desk.phone(acme, ann)
    headers = {"authorization": f"Bearer {token}"}
    identity = await desk.auth.authenticate({**headers, "x-device-id": "hw-1"})

    assert ("phone", device_id, acme, ann) == (identity.kind, identity.id, identity.tenant_id, identity.user_id)
    assert device_id == await open_socket(desk.auth, "phone", **{**headers, "x-device-id": device_id})


async def test_phones_that_come_at_once_are_looked_up_at_once(desk: FrontDesk, acme: str, database: Database) -> None:
    """Phones that come back when a node died share a query, rather than keep everybody else from the pool; each is told
    its own."""
    ann = await ann_id(desk)
    phones = [await desk.phone(acme, ann, f"hw-{number}") for number in range(20)]
    asked = [
        {"authorization": f"Bearer {token}", "x-device-id": f"hw-{number}"}
        for number, (_, token) in enumerate([*phones, ("", "ddp_unknown")])
    ]
    queries: list[str] = []
    async with AsyncExitStack() as pool:
        for _ in range(2):
            connection = await pool.enter_async_context(database.by_key())
            connection.add_query_logger(lambda logged: queries.append(logged.query))
    told = await asyncio.gather(*(open_socket(desk.auth, "phone", **headers) for headers in asked))

    assert [*(device_id for device_id, _ in phones), "DEVICE_UNBOUND"] == told
    assert 1 == sum("token_hash" in query for query in queries)


@pytest.mark.parametrize("device", [{}, {"x-device-id": "hw-2"}])
async def test_device_token_alone_is_not_enough(desk: FrontDesk, acme: str, device: dict[str, str]) -> None:
    """A device token without its device id, or with another's, is UNAUTHENTICATED."""
    _, token = await desk.phone(acme, await ann_id(desk))

    assert "UNAUTHENTICATED" == await open_socket(desk.auth, "phone", **{"authorization": f"Bearer {token}", **device})


async def test_phone_is_no_user(desk: FrontDesk, acme: str) -> None:
    """A device token opens phones' routes and no others; an access token opens no phones' route."""
    _, token = await desk.phone(acme, await ann_id(desk))
    device = {"x-device-id": "hw-1"}
    phone = desk.caller(token)
    ann = await desk.signed_in("ann")

    assert "UNAUTHENTICATED" == (await phone.ask("GET", "/me", headers=device))["code"]
    assert "UNAUTHENTICATED" == (await ann.get("/phone"))["code"]


async def test_phone_gets_a_ticket(desk: FrontDesk, acme: str) -> None:
    """A phone in a browser exchanges its device token for a ticket, which opens a phone's socket only."""
    device_id, token = await desk.phone(acme, await ann_id(desk))
    phone = desk.caller(token)
    first, second = [
        (await phone.ask("POST", "/auth/ws-ticket", {}, headers={"x-device-id": "hw-1"}))["ticket"] for _ in range(2)
    ]

    assert device_id == await open_socket(desk.auth, "phone", first)
    assert "UNAUTHENTICATED" == await open_socket(desk.auth, "agent", second)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE device SET unbound_at = now()", "DEVICE_UNBOUND"),
        ("UPDATE device SET token_hash = sha256('another')", "DEVICE_UNBOUND"),
        ("UPDATE app_user SET disabled_at = now()", "ACCOUNT_DISABLED"),
        ("UPDATE tenant SET status = 'suspended'", "TENANT_SUSPENDED"),
    ],
)
async def test_unbound_phone_is_told_so(desk: FrontDesk, acme: str, statement: str, code: str) -> None:
    """A phone that was unbound or bound anew, also with a ticket in hand, is refused so that its app knows why."""
    _, token = await desk.phone(acme, await ann_id(desk))
    headers = {"x-device-id": "hw-1"}
    ticket = (await desk.caller(token).ask("POST", "/auth/ws-ticket", {}, headers=headers))["ticket"]
    await desk.execute(statement)

    assert code == await open_socket(desk.auth, "phone", ticket)
    assert code == await open_socket(desk.auth, "phone", **{"authorization": f"Bearer {token}", **headers})
