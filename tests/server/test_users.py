"""Users, as their admins change them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from protocol.identifiers import new_call_id
from server.config import Config
from storage.database import Database
from tests.server.front_desk import PASSWORD, Asker, FrontDesk, front_desk


@pytest.fixture
async def desk(database: Database, redis: Redis, config: Config) -> AsyncIterator[FrontDesk]:
    """A node's endpoints."""
    async with front_desk(database, redis, config) as desk:
        yield desk


@pytest.fixture
async def acme(desk: FrontDesk) -> str:
    """A tenant with an admin."""
    return await desk.tenant("acme")


@pytest.fixture
async def admin(desk: FrontDesk, acme: str) -> Asker:
    """The tenant's admin, signed in."""
    return await desk.signed_in("acme.admin")


async def admin_id(desk: FrontDesk) -> str:
    """The id of acme's admin."""
    found: str = await desk.value("SELECT id FROM app_user WHERE username = 'acme.admin'")
    return found


async def log_in(desk: FrontDesk, username: str, password: str) -> dict[str, Any]:
    """Try to sign in."""
    return await desk.caller().post("/auth/login", {"username": username, "password": password})


def ann(**more: Any) -> dict[str, Any]:
    """A request to make an agent named ann."""
    return {"username": "ann", "name": "Ann", "role": "agent", **more}


# --- making users -----------------------------------------------------------------------------------------------------


async def test_user_is_made_with_a_password_of_its_own(desk: FrontDesk, admin: Asker) -> None:
    """Without a password one is made, told once, and must be changed at first use."""
    made = await admin.post("/admin/users", ann())
    told = await admin.get(f"/admin/users/{made['user']['id']}")
    session = await desk.sign_in("ann", made["password"])

    assert ("ann", "agent", "active", True) == (
        made["user"]["username"],
        made["user"]["role"],
        made["user"]["status"],
        made["user"]["mustChangePassword"],
    )
    assert made["user"] == told["user"]
    assert "password" not in told
    assert session["user"]["mustChangePassword"]


async def test_given_password_is_not_told_again(desk: FrontDesk, admin: Asker) -> None:
    """A password that the admin gives is not in the answer, and need not be changed where the admin says so."""
    made = await admin.post("/admin/users", ann(password=PASSWORD, mustChangePassword=False))
    session = await desk.sign_in("ann")

    assert made["password"] is None
    assert not session["user"]["mustChangePassword"]


async def test_user_can_be_told_events(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """Every user of a tenant has a stream of events from the start."""
    made = await admin.post("/admin/users", ann())

    assert acme == await desk.value("SELECT tenant_id FROM agent_stream WHERE user_id = $1", made["user"]["id"])


async def test_user_name_is_unique_everywhere(desk: FrontDesk, admin: Asker) -> None:
    """A user name that anybody has, in any spelling, is ALREADY_EXISTS."""
    await desk.user(await desk.tenant("bolt"), "ann")

    assert "ALREADY_EXISTS" == (await admin.post("/admin/users", ann(username="Ann")))["code"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"username": "a b"}, "INVALID_FIELD"),
        ({"username": "ann\n"}, "INVALID_FIELD"),
        ({"username": ""}, "INVALID_FIELD"),
        ({"name": ""}, "INVALID_FIELD"),
        ({"name": "\x00"}, "INVALID_FIELD"),
        ({"role": "king"}, "INVALID_FIELD"),
        ({"password": "short"}, "WEAK_PASSWORD"),
        ({"teamId": "team_none"}, "NOT_FOUND"),
        ({"role": "supervisor", "supervisedTeams": ["team_none"]}, "NOT_FOUND"),
        ({"tenantId": "tenant_none"}, "NOT_FOUND"),
        ({"nickname": "Annie"}, "INVALID_FIELD"),
    ],
)
async def test_bad_request_makes_nobody(desk: FrontDesk, admin: Asker, change: dict[str, Any], code: str) -> None:
    """A request with any field wrong is refused by name, and makes nobody."""
    answer = await admin.post("/admin/users", ann() | change)

    assert code == answer["code"]
    assert 1 == await desk.value("SELECT count(*) FROM app_user")


async def test_supervised_teams_are_a_supervisors(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A supervisor has the teams that are named, once each; another role supervises none."""
    north = await desk.team(acme, "North")
    made = await admin.post("/admin/users", ann(role="supervisor", supervisedTeams=[north, north]))
    refused = await admin.post("/admin/users", ann(username="ben", supervisedTeams=[north]))

    assert [north] == made["user"]["supervisedTeams"]
    assert "INVALID_FIELD" == refused["code"]


async def test_changes_are_audited_without_secrets(desk: FrontDesk, admin: Asker) -> None:
    """Each change leaves a line that names the admin and what changed, and no password or hash."""
    made = await admin.post("/admin/users", ann(password="a secret password"))
    user_id = made["user"]["id"]
    await admin.put(f"/admin/users/{user_id}", {"name": "Anna"})
    reset = await admin.post(f"/admin/users/{user_id}/reset-password")
    for action in ("unlock", "disable", "enable"):
        await admin.post(f"/admin/users/{user_id}/{action}")
    boss = await admin_id(desk)
    log = await desk.value("SELECT string_agg(row_to_json(a)::text, ' ') FROM audit_log a")
    lines = await desk.told(user_id)

    assert [
        ("user", boss, action) for action in ("create", "update", "reset_password", "unlock", "disable", "enable")
    ] == lines
    assert '"before":{"name": "Ann"}' in log
    assert '"after":{"name": "Anna"}' in log
    assert not any(secret in log for secret in ("a secret password", reset["password"], "$argon2"))


# --- who may give which role ------------------------------------------------------------------------------------------


async def test_roles_are_data(desk: FrontDesk, admin: Asker) -> None:
    """The roles are told with their permissions, and which of them the asker may give."""
    answer = await admin.get("/admin/roles")
    codes = [role["code"] for role in answer["roles"]]

    assert ["agent", "auditor", "operator", "supervisor", "system_admin", "tenant_admin", "viewer"] == codes
    assert sorted(set(codes) - {"system_admin"}) == sorted(answer["grantable"])


async def test_nobody_gives_more_than_it_has(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A tenant_admin makes nobody a system_admin, at birth or later."""
    user_id = await desk.user(acme, "ben")
    born = await admin.post("/admin/users", ann(role="system_admin"))
    raised = await admin.put(f"/admin/users/{user_id}", {"role": "system_admin"})

    assert ("ROLE_NOT_GRANTABLE", "ROLE_NOT_GRANTABLE") == (born["code"], raised["code"])
    assert {"role": "system_admin"} == raised["details"]


async def test_key_that_manages_users_rules_nobody_above_it(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A key gives and touches roles within its own scopes only: it cannot make, or take over, an admin."""
    of_viewers = "users.read devices.read calls.read calls.board calls.statistics customers.read lines.read"
    scopes = ["users.manage", "do_not_call.read", *of_viewers.split()]
    key = (await admin.post("/admin/api-keys", {"name": "hr", "scopes": scopes}))["key"]
    hr = desk.caller(key)
    boss = await admin_id(desk)

    assert (await hr.post("/admin/users", ann(role="viewer")))["success"]
    assert "ROLE_NOT_GRANTABLE" == (await hr.post("/admin/users", ann(username="ben", role="tenant_admin")))["code"]
    for action in ("reset-password", "disable", "enable", "unlock"):
        assert "ROLE_NOT_GRANTABLE" == (await hr.post(f"/admin/users/{boss}/{action}"))["code"]


@pytest.mark.parametrize("role", ["agent", "supervisor", "operator", "viewer", "auditor"])
async def test_others_manage_nobody(desk: FrontDesk, acme: str, role: str) -> None:
    """Only admins change users."""
    await desk.user(acme, "ann", role)
    asker = await desk.signed_in("ann")
    boss = await admin_id(desk)

    assert "FORBIDDEN" == (await asker.post("/admin/users", ann(username="ben")))["code"]
    assert "FORBIDDEN" == (await asker.put(f"/admin/users/{boss}", {"name": "X"}))["code"]
    assert "FORBIDDEN" == (await asker.post(f"/admin/users/{boss}/reset-password"))["code"]


async def test_nobody_disables_or_resets_itself(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """An admin neither disables itself nor gives itself a password without knowing the old one."""
    await desk.user(acme, "second.admin", "tenant_admin")
    boss = await admin_id(desk)

    assert "SELF_CHANGE" == (await admin.post(f"/admin/users/{boss}/disable"))["code"]
    assert "SELF_CHANGE" == (await admin.post(f"/admin/users/{boss}/reset-password"))["code"]


async def test_last_admin_stays(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """The last enabled admin of a tenant cannot be demoted, not by itself nor by a system_admin's disabling."""
    boss = await admin_id(desk)
    gone = await desk.user(acme, "gone.admin", "tenant_admin")
    await desk.execute("UPDATE app_user SET disabled_at = now() WHERE id = $1", gone)
    await desk.user(None, "root", "system_admin")
    root = await desk.signed_in("root")

    assert "LAST_ADMIN" == (await admin.put(f"/admin/users/{boss}", {"role": "agent"}))["code"]
    assert "LAST_ADMIN" == (await root.post(f"/admin/users/{boss}/disable"))["code"]


async def test_two_admins_cannot_demote_each_other(desk: FrontDesk, acme: str) -> None:
    """Of two admins who disable each other at the same time one remains."""
    first, second = await admin_id(desk), await desk.user(acme, "second.admin", "tenant_admin")
    one, two = await desk.signed_in("acme.admin"), await desk.signed_in("second.admin")
    await asyncio.gather(
        one.post(f"/admin/users/{second}/disable"),
        two.post(f"/admin/users/{first}/disable"),
        one.put(f"/admin/users/{second}", {"role": "agent"}),
        two.put(f"/admin/users/{first}", {"role": "agent"}),
    )

    assert 1 == await desk.value(
        "SELECT count(*) FROM app_user WHERE role = 'tenant_admin' AND disabled_at IS NULL AND tenant_id = $1", acme
    )


# --- whom an admin reaches --------------------------------------------------------------------------------------------


async def test_other_tenants_users_do_not_exist(desk: FrontDesk, acme: str) -> None:
    """For another tenant's admin a user does not exist, whatever is asked of it."""
    user_id = await desk.user(acme, "ann")
    await desk.tenant("bolt")
    stranger = await desk.signed_in("bolt.admin")
    before = await desk.value("SELECT row_to_json(u)::text FROM app_user u WHERE id = $1", user_id)
    answers = [
        await stranger.get(f"/admin/users/{user_id}"),
        await stranger.put(f"/admin/users/{user_id}", {"name": "X"}),
        *[
            await stranger.post(f"/admin/users/{user_id}/{action}")
            for action in ("disable", "enable", "reset-password", "unlock")
        ],
        await stranger.get("/admin/users", tenantId=acme),
        await stranger.post("/admin/users", ann(username="ben", tenantId=acme)),
    ]
    listed = await stranger.get("/admin/users")

    assert {"NOT_FOUND"} == {answer["code"] for answer in answers}
    assert ["bolt.admin"] == [user["username"] for user in listed["users"]]
    assert before == await desk.value("SELECT row_to_json(u)::text FROM app_user u WHERE id = $1", user_id)


async def test_other_tenants_teams_do_not_exist(desk: FrontDesk, admin: Asker) -> None:
    """A user cannot be put into, or over, another tenant's team."""
    foreign = await desk.team(await desk.tenant("bolt"), "North")

    assert "NOT_FOUND" == (await admin.post("/admin/users", ann(teamId=foreign)))["code"]
    made = await admin.post("/admin/users", ann(role="supervisor"))
    path = f"/admin/users/{made['user']['id']}"
    assert "NOT_FOUND" == (await admin.put(path, {"teamId": foreign}))["code"]
    assert "NOT_FOUND" == (await admin.put(path, {"supervisedTeams": [foreign]}))["code"]


@pytest.mark.parametrize("name", ["", " " * 65, "\x00", "Ann\n", "\ud800"])
async def test_name_is_one_line_of_text(desk: FrontDesk, acme: str, admin: Asker, name: str) -> None:
    """A name is one line of at most 64 characters that can be kept, at birth and later."""
    user_id = await desk.user(acme, "ben")
    body = f'{{"username": "ann", "role": "agent", "name": {json.dumps(name)}}}'.encode()
    born = await admin.ask("POST", "/admin/users", content=body)
    renamed = await admin.ask("PUT", f"/admin/users/{user_id}", content=f'{{"name": {json.dumps(name)}}}'.encode())

    assert {born["code"], renamed["code"]} <= {"INVALID_FIELD", "BAD_REQUEST"}
    assert "Ben" == await desk.value("SELECT name FROM app_user WHERE id = $1", user_id)


@pytest.mark.parametrize("team", ["", "\x00", "team_none", "t" * 129])
async def test_team_that_cannot_be_does_not_exist(desk: FrontDesk, acme: str, admin: Asker, team: str) -> None:
    """Whatever stands in the place of a team's id, who joins no team of the tenant is told so."""
    ben, sue = await desk.user(acme, "ben"), await desk.user(acme, "sue", "supervisor")
    answers = [
        await admin.post("/admin/users", ann(teamId=team)),
        await admin.post("/admin/users", ann(role="supervisor", supervisedTeams=[team])),
        await admin.put(f"/admin/users/{ben}", {"teamId": team}),
        await admin.put(f"/admin/users/{sue}", {"supervisedTeams": [team]}),
    ]

    assert {answer["code"] for answer in answers} <= {"INVALID_FIELD", "NOT_FOUND"}


async def test_supervisor_sees_its_teams(desk: FrontDesk, acme: str) -> None:
    """A supervisor sees the users of the teams it supervises and no others, and manages none."""
    north, south = await desk.team(acme, "North"), await desk.team(acme, "South")
    await desk.user(acme, "ann", team_id=north)
    ben = await desk.user(acme, "ben", team_id=south)
    await desk.user(acme, "sue", "supervisor", supervised_teams=[north])
    sue = await desk.signed_in("sue")
    users, teams = await sue.get("/admin/users"), await sue.get("/admin/teams")

    assert (["ann"], 1) == ([user["username"] for user in users["users"]], users["total"])
    assert ["North"] == [team["name"] for team in teams["teams"]]
    assert "NOT_FOUND" == (await sue.get(f"/admin/users/{ben}"))["code"]


async def test_system_admin_looks_after_tenant_admins_only(desk: FrontDesk, acme: str) -> None:
    """A system_admin sees, makes and helps a tenant's admins; its other users do not exist for it."""
    agent = await desk.user(acme, "ann")
    boss = await admin_id(desk)
    await desk.user(None, "root", "system_admin")
    root = await desk.signed_in("root")
    listed = await root.get("/admin/users", tenantId=acme, role="agent")
    made = await root.post("/admin/users", ann(username="new.admin", role="tenant_admin", tenantId=acme))

    assert ["acme.admin"] == [user["username"] for user in listed["users"]]
    assert acme == made["user"]["tenantId"]
    assert (await root.post(f"/admin/users/{boss}/reset-password"))["password"]
    assert (await root.post(f"/admin/users/{boss}/disable"))["success"]
    assert "NOT_FOUND" == (await root.get(f"/admin/users/{agent}"))["code"]
    assert "NOT_FOUND" == (await root.post(f"/admin/users/{agent}/disable"))["code"]
    assert "ROLE_NOT_GRANTABLE" == (await root.post("/admin/users", ann(username="ben", tenantId=acme)))["code"]
    assert "ROLE_NOT_GRANTABLE" == (await root.put(f"/admin/users/{boss}", {"role": "agent"}))["code"]
    assert "INVALID_FIELD" == (await root.get("/admin/users"))["code"]
    assert "NOT_FOUND" == (await root.get("/admin/users", tenantId="tenant_none"))["code"]


async def test_what_a_system_admin_does_stands_in_the_tenants_log(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A tenant reads what a system_admin did to it."""
    second = await desk.user(acme, "second.admin", "tenant_admin")
    root_id = await desk.user(None, "root", "system_admin")
    root = await desk.signed_in("root")
    await root.post(f"/admin/users/{second}/reset-password")
    lines = await admin.get("/admin/audit", resourceId=second, action="reset_password")

    assert [root_id] == [line["actorId"] for line in lines["lines"]]


# --- finding users ----------------------------------------------------------------------------------------------------


async def test_users_are_listed_in_pages(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A list has pages of the size asked for, in order of the user name, and tells how many there are in all."""
    for number in range(5):
        await desk.user(acme, f"ann{number}")
    first = await admin.get("/admin/users", pageSize=4)
    second = await admin.get("/admin/users", pageSize=4, page=2)
    beyond = await admin.get("/admin/users", pageSize=4, page=9)

    assert ["acme.admin", "ann0", "ann1", "ann2"] == [user["username"] for user in first["users"]]
    assert ["ann3", "ann4"] == [user["username"] for user in second["users"]]
    assert ([], 6, 9, 4) == (beyond["users"], beyond["total"], beyond["page"], beyond["pageSize"])


@pytest.mark.parametrize("query", [{"pageSize": 101}, {"page": 0}, {"pageSize": 0}, {"sort": "name"}])
async def test_bad_query_is_refused(admin: Asker, query: dict[str, Any]) -> None:
    """A page has 1 to 100 users; what the list does not know is refused."""
    assert "INVALID_FIELD" == (await admin.get("/admin/users", **query))["code"]


async def test_users_are_searched(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A search finds what occurs in user name or name, wildcards being letters; filters narrow it."""
    north = await desk.team(acme, "North")
    await desk.user(acme, "ann_1", team_id=north)
    await desk.user(acme, "ben", "viewer")
    await desk.execute("UPDATE app_user SET disabled_at = now() WHERE username = 'ben'")

    async def found(**query: Any) -> list[str]:
        return [user["username"] for user in (await admin.get("/admin/users", **query))["users"]]

    assert ["ann_1"] == await found(search="ANN")
    assert ["ann_1"] == await found(search="_")
    assert [] == await found(search="%")
    assert ["ben"] == await found(role="viewer")
    assert ["ben"] == await found(status="disabled")
    assert ["ann_1"] == await found(teamId=north, status="active")


# --- changing users ---------------------------------------------------------------------------------------------------


async def test_change_names_only_what_changes(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """What a change does not name stays; a teamId of null takes the user out of its team."""
    north = await desk.team(acme, "North")
    user_id = await desk.user(acme, "ann", team_id=north)
    renamed = await admin.put(f"/admin/users/{user_id}", {"name": "Anna"})
    moved = await admin.put(f"/admin/users/{user_id}", {"teamId": None})

    assert ("Anna", north, "North") == tuple(renamed["user"][field] for field in ("name", "teamId", "teamName"))
    assert ("Anna", None, None) == tuple(moved["user"][field] for field in ("name", "teamId", "teamName"))


async def test_change_of_nothing_is_no_change(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A change that changes nothing leaves no line in the log."""
    user_id = await desk.user(acme, "ann")
    answer = await admin.put(f"/admin/users/{user_id}", {"name": "Ann"})

    assert answer["success"]
    assert ["create"] == [action for _, _, action in await desk.told(user_id)]


async def test_who_supervises_no_longer_has_no_teams(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A supervisor's teams can be exchanged; with another role they are gone."""
    north, south = await desk.team(acme, "North"), await desk.team(acme, "South")
    user_id = await desk.user(acme, "sue", "supervisor", supervised_teams=[north])
    exchanged = await admin.put(f"/admin/users/{user_id}", {"supervisedTeams": [south]})
    demoted = await admin.put(f"/admin/users/{user_id}", {"role": "agent"})

    assert [south] == exchanged["user"]["supervisedTeams"]
    assert ("agent", []) == (demoted["user"]["role"], demoted["user"]["supervisedTeams"])


# --- disabling --------------------------------------------------------------------------------------------------------


async def test_disabling_ends_everything_and_keeps_the_records(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A disabled user is signed out, its pages close with 4503, its phones are unbound with their calls ended, and its
    records stay."""
    user_id = await desk.user(acme, "ann")
    session = await desk.sign_in("ann")
    device_id, token = await desk.phone(acme, user_id)
    call_id = new_call_id()
    await desk.execute(
        "INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, reap_at)"
        " VALUES ($1, $2, $3, $3, $4, 'mobile', '+8613800138000', now() + interval '1 hour')",
        call_id,
        acme,
        user_id,
        device_id,
    )
    await desk.page(user_id)
    answer = await admin.post(f"/admin/users/{user_id}/disable")
    login_id = await desk.value("SELECT id FROM login WHERE user_id = $1", user_id)
    phone = await desk.caller(token).ask("GET", "/phone", headers={"x-device-id": "hw-1"})

    assert "disabled" == answer["user"]["status"]
    assert (user_id, 4503, login_id) in desk.sockets.closed_pages()
    assert [(device_id, 4503)] == desk.sockets.closed_phones()
    assert "ACCOUNT_DISABLED" == (await desk.caller(session["accessToken"]).get("/me"))["code"]
    assert "ACCOUNT_DISABLED" == (await log_in(desk, "ann", PASSWORD))["code"]
    assert "DEVICE_UNBOUND" == phone["code"]
    assert "disabled" == await desk.value("SELECT revoke_reason FROM login WHERE id = $1", login_id)
    assert "unknown" == await desk.value("SELECT outcome FROM call WHERE id = $1", call_id)
    assert await desk.value("SELECT unbound_at IS NOT NULL FROM device WHERE id = $1", device_id)
    assert "ann" == (await admin.get(f"/admin/users/{user_id}"))["user"]["username"]


async def test_disabling_twice_is_one_change(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """Disabling who is disabled, or enabling who is enabled, is well and leaves no line."""
    user_id = await desk.user(acme, "ann")
    for action in ("enable", "disable", "disable", "enable", "enable"):
        assert (await admin.post(f"/admin/users/{user_id}/{action}"))["success"]

    assert ["create", "disable", "enable"] == [action for _, _, action in await desk.told(user_id)]


async def test_enabled_user_signs_in_anew(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """Enabling lets the user sign in; sessions of before stay ended."""
    user_id = await desk.user(acme, "ann")
    before = await desk.sign_in("ann")
    await admin.post(f"/admin/users/{user_id}/disable")
    await admin.post(f"/admin/users/{user_id}/enable")

    assert "UNAUTHENTICATED" == (await desk.caller(before["accessToken"]).get("/me"))["code"]
    assert (await log_in(desk, "ann", PASSWORD))["success"]


async def test_disabling_while_signing_in_leaves_no_session(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """Whichever comes first, a user who is disabled while it signs in has no session afterwards."""
    user_id = await desk.user(acme, "ann")
    sign_ins = [log_in(desk, "ann", PASSWORD) for _ in range(4)]
    await asyncio.gather(admin.post(f"/admin/users/{user_id}/disable"), *sign_ins)

    assert 0 == await desk.value("SELECT count(*) FROM login WHERE user_id = $1 AND revoked_at IS NULL", user_id)


# --- passwords and locks ----------------------------------------------------------------------------------------------


async def test_reset_password_replaces_everything(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A reset tells a new password once, ends sessions with 4503 and a lock-out, and asks for a change first."""
    user_id = await desk.user(acme, "ann")
    session = await desk.sign_in("ann")
    await desk.page(user_id)
    for _ in range(5):
        await log_in(desk, "ann", "wrong horse")
    reset = await admin.post(f"/admin/users/{user_id}/reset-password")
    again = await desk.sign_in("ann", reset["password"])

    assert [(user_id, 4503)] == [(who, code) for who, code, _ in desk.sockets.closed_pages()]
    assert "UNAUTHENTICATED" == (await desk.caller(session["accessToken"]).get("/me"))["code"]
    assert "BAD_CREDENTIALS" == (await log_in(desk, "ann", PASSWORD))["code"]
    assert again["user"]["mustChangePassword"]


async def test_unlock_ends_a_lock_out(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """An admin sees that a user is locked, and until when, and ends it."""
    user_id = await desk.user(acme, "ann")
    for _ in range(5):
        await log_in(desk, "ann", "wrong horse")
    locked = await admin.get(f"/admin/users/{user_id}")
    unlocked = await admin.post(f"/admin/users/{user_id}/unlock")

    assert locked["user"]["lockedUntil"].endswith("Z")
    assert unlocked["user"]["lockedUntil"] is None
    assert (await log_in(desk, "ann", PASSWORD))["success"]


# --- import -----------------------------------------------------------------------------------------------------------

CSV = {"content-type": "text/csv; charset=utf-8"}


async def send_file(asker: Asker, text: str, **query: Any) -> dict[str, Any]:
    """Send a CSV file."""
    return await asker.ask("POST", "/admin/users/import", content=text.encode(), headers=CSV, **query)


async def test_import_makes_users(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """Rows become users in their teams, agents unless told; passwords that were not given are made and told once."""
    north = await desk.team(acme, "North")
    report = await send_file(
        admin,
        "username,name,role,team,password\nann,Ann,,North,\nben,Ben,supervisor,,\ncat,Cat,agent,North,a given one\n",
    )
    one, two, three = report["rows"]
    users = {user["username"]: user for user in (await admin.get("/admin/users"))["users"]}

    assert (False, 3, 0) == (report["dryRun"], report["created"], report["refused"])
    assert ("agent", north) == (users["ann"]["role"], users["ann"]["teamId"])
    assert ("supervisor", None) == (users["ben"]["role"], users["ben"]["teamId"])
    assert [2, 3, 4] == [row["line"] for row in report["rows"]]
    assert three["password"] is None
    for username, password in (("ann", one["password"]), ("ben", two["password"]), ("cat", "a given one")):
        assert (await desk.sign_in(username, password))["user"]["mustChangePassword"]
    assert ("user", await admin_id(desk), "create") == (await desk.told(one["userId"]))[0]


async def test_import_reports_row_by_row(desk: FrontDesk, admin: Asker) -> None:
    """A row that cannot be is reported with its line and why, and stops no other."""
    await desk.user(await desk.tenant("bolt"), "taken")
    report = await send_file(
        admin,
        "username,name,role,team,password\n"
        "ann,Ann,,,\n"
        "taken,Somebody,,,\n"
        "ANN,Again,,,\n"
        "b b,Blank,,,\n"
        "ben,,,,\n"
        "cat,Cat,king,,\n"
        "dan,Dan,system_admin,,\n"
        "eve,Eve,,Nowhere,\n"
        "fay,Fay,,,short\n"
        "gus,Gus,,,\n",
    )
    codes = {row["line"]: row["code"] for row in report["rows"]}

    assert {
        2: None,
        3: "ALREADY_EXISTS",
        4: "ALREADY_EXISTS",
        5: "INVALID_FIELD",
        6: "INVALID_FIELD",
        7: "INVALID_FIELD",
        8: "ROLE_NOT_GRANTABLE",
        9: "NOT_FOUND",
        10: "WEAK_PASSWORD",
        11: None,
    } == codes
    assert (2, 8) == (report["created"], report["refused"])
    assert ["ann", "gus"] == [row["username"] for row in report["rows"] if row["userId"]]
    assert "username exists already" == report["rows"][1]["message"]


async def test_dry_run_reports_and_makes_nobody(desk: FrontDesk, admin: Asker) -> None:
    """A dry run tells what would be, of twins in the file too, and leaves nothing behind."""
    text = "username,name\nann,Ann\nann,Twin\n"
    lines = await desk.value("SELECT count(*) FROM audit_log")
    report = await send_file(admin, text, dryRun="true")

    assert (True, 1, 1) == (report["dryRun"], report["created"], report["refused"])
    assert [(None, None)] * 2 == [(row["userId"], row["password"]) for row in report["rows"]]
    assert 1 == await desk.value("SELECT count(*) FROM app_user")
    assert lines == await desk.value("SELECT count(*) FROM audit_log")


async def test_import_sent_twice_makes_everybody_once(desk: FrontDesk, admin: Asker) -> None:
    """A file sent again makes nobody again."""
    text = "username,name\n" + "".join(f"ann{number},Ann\n" for number in range(20))
    first, second = await asyncio.gather(send_file(admin, text), send_file(admin, text))

    assert 20 == first["created"] + second["created"]
    assert 21 == await desk.value("SELECT count(*) FROM app_user")


async def test_import_takes_csv_and_an_admin(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """Another type of body is refused, and so is who manages no users or has no tenant."""
    wrong = await admin.post("/admin/users/import", {"username": "ann"})
    await desk.user(acme, "ann")
    agent = await send_file(await desk.signed_in("ann"), "username,name\nben,Ben\n")
    await desk.user(None, "root", "system_admin")
    root = await send_file(await desk.signed_in("root"), "username,name\nben,Ben\n")

    assert ("UNSUPPORTED_MEDIA_TYPE", "FORBIDDEN", "NOT_FOUND") == (wrong["code"], agent["code"], root["code"])


async def test_import_of_a_full_file(desk: FrontDesk, admin: Asker) -> None:
    """A thousand rows are made in one request."""
    text = "username,name\n" + "".join(f"agent{number},Agent {number}\n" for number in range(1000))
    report = await send_file(admin, text)

    assert (1000, 0) == (report["created"], report["refused"])
