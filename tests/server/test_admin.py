"""Tenants, teams and the audit log, as admins see and change them."""

import asyncio
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
async def root(desk: FrontDesk) -> Asker:
    """A system_admin, signed in."""
    await desk.user(None, "root", "system_admin")
    return await desk.signed_in("root")


@pytest.fixture
async def acme(desk: FrontDesk) -> str:
    """A tenant with an admin."""
    return await desk.tenant("acme")


@pytest.fixture
async def admin(desk: FrontDesk, acme: str) -> Asker:
    """The tenant's admin, signed in."""
    return await desk.signed_in("acme.admin")


def new_tenant(**more: Any) -> dict[str, Any]:
    """A request to make a tenant with an admin named boss."""
    return {"code": "bolt", "name": "Bolt", "admin": {"username": "boss", "name": "Boss"}, **more}


# --- tenants ----------------------------------------------------------------------------------------------------------


async def test_tenant_is_made_with_its_admin(desk: FrontDesk, root: Asker) -> None:
    """A tenant comes with an admin, whose password is told once and must be changed first, and has its audit log."""
    made = await root.post("/admin/tenants", new_tenant(timezone="America/Mexico_City", region="MX"))
    tenant_id = made["tenant"]["id"]
    session = await desk.sign_in("boss", made["password"])

    assert ("bolt", "America/Mexico_City", "MX", "active") == tuple(
        made["tenant"][field] for field in ("code", "timezone", "region", "status")
    )
    assert ("tenant_admin", tenant_id) == (made["admin"]["role"], made["admin"]["tenantId"])
    assert session["user"]["mustChangePassword"]
    assert made["tenant"] == (await root.get(f"/admin/tenants/{tenant_id}"))["tenant"]
    assert 1 == await desk.value(
        "SELECT count(*) FROM audit_log WHERE tenant_id = $1 AND resource = 'tenant'", tenant_id
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"code": "Bolt"}, "INVALID_FIELD"),
        ({"code": "bolt\n"}, "INVALID_FIELD"),
        ({"timezone": "Mars/Olympus"}, "INVALID_FIELD"),
        ({"timezone": "Asia"}, "INVALID_FIELD"),
        ({"timezone": "../../etc/passwd"}, "INVALID_FIELD"),
        ({"timezone": "posixrules"}, "INVALID_FIELD"),
        ({"timezone": "asia/shanghai"}, "INVALID_FIELD"),
        ({"timezone": "Asia/Shanghai\0"}, "INVALID_FIELD"),
        ({"region": "cn"}, "INVALID_FIELD"),
        ({"admin": {"username": "boss", "name": "Boss", "password": "short"}}, "WEAK_PASSWORD"),
        ({"code": "acme"}, "ALREADY_EXISTS"),
        ({"admin": {"username": "ACME.admin", "name": "Boss"}}, "ALREADY_EXISTS"),
    ],
)
async def test_bad_request_makes_no_tenant(
    desk: FrontDesk, root: Asker, acme: str, change: dict[str, Any], code: str
) -> None:
    """A request with anything wrong makes neither the tenant nor its admin."""
    assert code == (await root.post("/admin/tenants", new_tenant(**change)))["code"]
    assert 1 == await desk.value("SELECT count(*) FROM tenant")
    assert 2 == await desk.value("SELECT count(*) FROM app_user")


async def test_tenants_are_listed_and_searched(desk: FrontDesk, root: Asker, acme: str) -> None:
    """Tenants are listed by code, and found by what occurs in code or name."""
    await desk.tenant("bolt")
    listed, found = await root.get("/admin/tenants"), await root.get("/admin/tenants", search="OLT")

    assert (["acme", "bolt"], 2) == ([tenant["code"] for tenant in listed["tenants"]], listed["total"])
    assert ["bolt"] == [tenant["code"] for tenant in found["tenants"]]


async def test_tenant_is_renamed(desk: FrontDesk, root: Asker, acme: str) -> None:
    """A new name shows at once and leaves a line with both."""
    renamed = await root.put(f"/admin/tenants/{acme}", {"name": "Acme & Co"})

    assert "Acme & Co" == renamed["tenant"]["name"]
    assert '{"name": "Acme"}' == await desk.value(
        "SELECT before::text FROM audit_log WHERE resource_id = $1 AND action = 'update'", acme
    )


async def test_suspending_closes_every_door(desk: FrontDesk, root: Asker, acme: str, admin: Asker) -> None:
    """A suspended tenant's people, keys and phones are refused, and their sockets close; resuming lets them
    in again with the credentials they have. Others notice nothing."""
    await desk.tenant("bolt")
    ann = await desk.user(acme, "ann")
    device_id, token = await desk.phone(acme, ann)
    key = (await admin.post("/admin/api-keys", {"name": "crm", "scopes": ["calls.read"]}))["key"]
    await desk.page(ann)
    people = [admin, desk.caller(key)]
    device = {"x-device-id": "hw-1"}
    suspended = await root.post(f"/admin/tenants/{acme}/suspend")
    refused = [(await one.get("/me"))["code"] for one in people]
    refused.append((await desk.caller(token).ask("GET", "/phone", headers=device))["code"])
    refused.append((await desk.caller().post("/auth/login", {"username": "ann", "password": PASSWORD}))["code"])
    stranger = await (await desk.signed_in("bolt.admin")).get("/me")
    await root.post(f"/admin/tenants/{acme}/resume")

    assert "suspended" == suspended["tenant"]["status"]
    assert ["TENANT_SUSPENDED"] * 4 == refused
    assert [(ann, 4503, None)] == desk.sockets.closed_pages()
    assert [(device_id, 4401)] == desk.sockets.closed_phones()
    assert stranger["success"]
    assert all([(await one.get("/me"))["success"] for one in people])
    assert (await desk.caller(token).ask("GET", "/phone", headers=device))["success"]
    assert ["create", "suspend", "resume"] == [action for _, _, action in await desk.told(acme)]


async def test_tenants_are_a_system_admins(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A tenant's admin does not see, make or touch tenants, not even its own, by these routes."""
    answers = [
        await admin.get("/admin/tenants"),
        await admin.post("/admin/tenants", new_tenant()),
        await admin.get(f"/admin/tenants/{acme}"),
        await admin.put(f"/admin/tenants/{acme}", {"name": "X"}),
        await admin.post(f"/admin/tenants/{acme}/resume"),
    ]

    assert {"FORBIDDEN"} == {answer["code"] for answer in answers}


async def test_unknown_tenant_is_not_found(root: Asker) -> None:
    """What is not there is NOT_FOUND, whatever is asked of it."""
    answers = [
        await root.get("/admin/tenants/tenant_none"),
        await root.put("/admin/tenants/tenant_none", {"name": "X"}),
        await root.post("/admin/tenants/tenant_none/suspend"),
        await root.post("/admin/tenants/tenant_none/resume"),
    ]

    assert {"NOT_FOUND"} == {answer["code"] for answer in answers}


# --- a tenant's own configuration -------------------------------------------------------------------------------------


async def test_tenant_configures_itself(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """What the configuration names changes, and nothing else of it; agents are offered the new choices."""
    changed = await admin.put("/admin/tenant", {"callResults": ["reached", "not reached"], "timezone": "Asia/Tokyo"})
    told = await admin.get("/admin/tenant")
    await desk.user(acme, "ann")
    me = await (await desk.signed_in("ann")).get("/me")

    assert ("Acme", "Asia/Tokyo", ["reached", "not reached"]) == tuple(
        changed["tenant"][field] for field in ("name", "timezone", "callResults")
    )
    assert changed["tenant"] == told["tenant"] == me["tenant"]
    assert "有意向" in told["tenant"]["callIntentions"]
    assert ["create", "update"] == [action for _, _, action in await desk.told(acme)]


async def test_tenant_sets_its_recording(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """Recording is on, without a notice, and kept for 90 days, until the tenant says otherwise; its people see it, and
    the audit log what was changed, and only that."""
    names = ("recordingEnabled", "recordingNotice", "recordingDays")
    before = await admin.get("/admin/tenant")
    notice = "本次通话将被录音 " + "。" * 491
    changed = await admin.put("/admin/tenant", {"recordingNotice": notice, "recordingDays": 3650})
    off = await admin.put("/admin/tenant", {"recordingEnabled": False, "recordingNotice": "", "recordingDays": 1})
    told = await admin.get("/admin/tenant")
    await desk.user(acme, "ann")
    me = await (await desk.signed_in("ann")).get("/me")
    newest = (await admin.get("/admin/audit", resourceId=acme, pageSize=1))["lines"][0]

    assert (True, "", 90) == tuple(before["tenant"][name] for name in names)
    assert (True, notice, 3650) == tuple(changed["tenant"][name] for name in names)
    assert (False, "", 1) == tuple(off["tenant"][name] for name in names)
    assert off["tenant"] == told["tenant"] == me["tenant"]
    assert dict(zip(names, (True, notice, 3650), strict=True)) == newest["before"]
    assert dict(zip(names, (False, "", 1), strict=True)) == newest["after"]
    assert ["create", "update", "update"] == [action for _, _, action in await desk.told(acme)]


async def _usual_hours(desk: FrontDesk, tenant_id: str) -> None:
    """Give a tenant the hours that it has where nobody says otherwise; those of the tests' tenants are wider."""
    async with desk.database.connection() as connection:
        await connection.execute(
            "UPDATE tenant SET calling_from = '08:00', calling_to = '21:00' WHERE id = $1", tenant_id
        )


async def test_tenant_narrows_its_hours_and_switches_calling_off(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """Within what is usual it sets them as it likes; its people see it, and the audit log what was changed."""
    await _usual_hours(desk, acme)
    narrow = await admin.put("/admin/tenant", {"callingFrom": "09:30", "callsEnabled": False})
    again = await admin.put("/admin/tenant", {"callingFrom": "08:00", "callingTo": "21:00"})
    newest = (await admin.get("/admin/audit", resourceId=acme, pageSize=2))["lines"]

    assert ("09:30", "21:00", False) == tuple(
        narrow["tenant"][name] for name in ("callingFrom", "callingTo", "callsEnabled")
    )
    assert ("08:00", "21:00", False) == tuple(
        again["tenant"][name] for name in ("callingFrom", "callingTo", "callsEnabled")
    )
    assert again["tenant"] == (await admin.get("/admin/tenant"))["tenant"]
    assert [{"callingFrom": "08:00"}, {"callingFrom": "09:30", "callsEnabled": False}] == [
        line["after"] for line in newest
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"callingFrom": "07:59"},
        {"callingTo": "21:01"},
        {"callingTo": "24:00"},
        {"callingFrom": "21:00"},
        {"callingFrom": "12:00", "callingTo": "12:00"},
        {"callingFrom": "24:01"},
        {"callingFrom": "8:00"},
        {"callingTo": None},
        {"callsEnabled": None},
    ],
)
async def test_tenant_gives_itself_no_wider_hours(
    desk: FrontDesk, acme: str, admin: Asker, change: dict[str, Any]
) -> None:
    """Nor such as are no time: it is INVALID_FIELD, and the hours stay."""
    await _usual_hours(desk, acme)
    before = await admin.get("/admin/tenant")
    refused = await admin.put("/admin/tenant", change)

    assert "INVALID_FIELD" == refused["code"]
    assert before == await admin.get("/admin/tenant")


async def test_the_installation_gives_a_tenant_wider_hours(
    desk: FrontDesk, acme: str, admin: Asker, root: Asker
) -> None:
    """Then the tenant may have them narrower, and not wider than they were; its name stays."""
    await _usual_hours(desk, acme)
    wide = await root.put(f"/admin/tenants/{acme}", {"callingFrom": "07:00", "callingTo": "24:00"})
    nowhere = await root.put(f"/admin/tenants/{acme}", {"callingFrom": "24:00"})
    wider = await admin.put("/admin/tenant", {"callingFrom": "06:00"})
    narrower = await admin.put("/admin/tenant", {"callingFrom": "07:30", "callingTo": "23:00"})

    assert ("Acme", "07:00", "24:00") == tuple(wide["tenant"][name] for name in ("name", "callingFrom", "callingTo"))
    assert ("INVALID_FIELD", "INVALID_FIELD") == (nowhere["code"], wider["code"])
    assert ("07:30", "23:00") == (narrower["tenant"]["callingFrom"], narrower["tenant"]["callingTo"])


@pytest.mark.parametrize(
    "change",
    [
        {"timezone": "Mars"},
        {"callResults": [""]},
        {"callResults": ["x"] * 51},
        {"recordingEnabled": "yes"},
        {"recordingEnabled": None},
        {"recordingNotice": "x" * 501},
        {"recordingNotice": "\0"},
        {"recordingDays": 0},
        {"recordingDays": 3651},
        {"recordingDays": 30.5},
        {"code": "x"},
        {"status": "x"},
    ],
)
async def test_bad_configuration_changes_nothing(admin: Asker, change: dict[str, Any]) -> None:
    """A configuration with anything wrong, or that is not the tenant's to set, is refused whole."""
    before = await admin.get("/admin/tenant")

    assert "INVALID_FIELD" == (await admin.put("/admin/tenant", {"name": "New", **change}))["code"]
    assert before == await admin.get("/admin/tenant")


# --- teams ------------------------------------------------------------------------------------------------------------


async def test_team_is_made_renamed_and_deleted(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A team can be made, renamed and deleted, each with its line; the list counts enabled members."""
    made = await admin.post("/admin/teams", {"name": "North"})
    team_id = made["team"]["id"]
    ann = await desk.user(acme, "ann", team_id=team_id)
    listed = await admin.get("/admin/teams")
    await admin.put(f"/admin/teams/{team_id}", {"name": "South"})
    await desk.execute("UPDATE app_user SET team_id = NULL WHERE id = $1", ann)
    deleted = await admin.delete(f"/admin/teams/{team_id}")

    assert [("North", 1)] == [(team["name"], team["members"]) for team in listed["teams"]]
    assert deleted["success"]
    assert [] == (await admin.get("/admin/teams"))["teams"]
    assert ["create", "update", "delete"] == [action for _, _, action in await desk.told(team_id)]


async def test_team_names_are_unique_in_their_tenant(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A tenant has one team of a name; another tenant may have its own."""
    south = await desk.team(acme, "South")
    await desk.team(await desk.tenant("bolt"), "North")
    made = await admin.post("/admin/teams", {"name": "North"})

    assert made["success"]
    assert "ALREADY_EXISTS" == (await admin.post("/admin/teams", {"name": "North"}))["code"]
    assert "ALREADY_EXISTS" == (await admin.put(f"/admin/teams/{south}", {"name": "North"}))["code"]


async def test_repeated_request_makes_one_team(desk: FrontDesk, admin: Asker) -> None:
    """The same Idempotency-Key gets the same answer, also at the same time, and with another body a 409."""
    headers = {"idempotency-key": "once"}
    answers = await asyncio.gather(
        *(admin.ask("POST", "/admin/teams", {"name": "North"}, headers=headers) for _ in range(3))
    )
    other = await admin.ask("POST", "/admin/teams", {"name": "South"}, headers=headers)

    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["success"]
    assert "IDEMPOTENCY_MISMATCH" == other["code"]
    assert 1 == await desk.value("SELECT count(*) FROM team")


async def test_team_in_use_stays(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """A team with users, or with calls in its records, is IN_USE."""
    north, south = await desk.team(acme, "North"), await desk.team(acme, "South")
    ann = await desk.user(acme, "ann", team_id=north)
    await desk.execute(
        "INSERT INTO call (id, tenant_id, user_id, team_id, created_by, call_method, customer_phone, reap_at)"
        " VALUES ($1, $2, $3, $4, $3, 'mobile', '+8613800138000', now())",
        new_call_id(),
        acme,
        ann,
        south,
    )

    assert ["IN_USE", "IN_USE"] == [(await admin.delete(f"/admin/teams/{team}"))["code"] for team in (north, south)]


async def test_nobody_joins_a_team_that_is_being_deleted(desk: FrontDesk, acme: str, admin: Asker) -> None:
    """However a deletion and a new member meet, nobody is in a team that is gone, and both are answered in order."""
    for number in range(5):
        team = await desk.team(acme, f"North {number}")
        deleted, made = await asyncio.gather(
            admin.delete(f"/admin/teams/{team}"),
            admin.post("/admin/users", {"username": f"ann{number}", "name": "Ann", "role": "agent", "teamId": team}),
        )

        assert {(True, "NOT_FOUND"), ("IN_USE", True)} >= {
            (deleted.get("code", True), made.get("code", True)),
        }


async def test_other_tenants_teams_do_not_exist(desk: FrontDesk, acme: str) -> None:
    """Another tenant's admin neither sees nor touches a team."""
    north = await desk.team(acme, "North")
    await desk.tenant("bolt")
    stranger = await desk.signed_in("bolt.admin")

    assert [] == (await stranger.get("/admin/teams"))["teams"]
    assert "NOT_FOUND" == (await stranger.put(f"/admin/teams/{north}", {"name": "X"}))["code"]
    assert "NOT_FOUND" == (await stranger.delete(f"/admin/teams/{north}"))["code"]
    assert "North" == await desk.value("SELECT name FROM team")


async def test_system_admin_has_no_teams(root: Asker) -> None:
    """Who belongs to no tenant has no teams to look after, and may make none."""
    assert "NOT_FOUND" == (await root.get("/admin/teams"))["code"]
    assert "FORBIDDEN" == (await root.post("/admin/teams", {"name": "North"}))["code"]


# --- the audit log ----------------------------------------------------------------------------------------------------


async def test_audit_log_is_read_backwards(desk: FrontDesk, admin: Asker) -> None:
    """Lines come newest first, in as many as asked for, and the cursor leads through all of them once."""
    for number in range(5):
        await admin.post("/admin/teams", {"name": f"Team {number}"})
    seen, cursor = [], None
    while True:
        answer = await admin.get("/admin/audit", pageSize=2, resource="team", **({"cursor": cursor} if cursor else {}))
        seen += [line["after"]["name"] for line in answer["lines"]]
        assert len(answer["lines"]) <= 2
        if (cursor := answer["nextCursor"]) is None:
            break

    assert [f"Team {number}" for number in reversed(range(5))] == seen


async def test_audit_line_says_who_and_by_which_request(desk: FrontDesk, admin: Asker) -> None:
    """A line names the actor, the address and the request that made the change."""
    made = await admin.ask("POST", "/admin/teams", {"name": "North"}, headers={"x-request-id": "req-42"})
    answer = await admin.get("/admin/audit", resourceId=made["team"]["id"])
    me = await admin.get("/me")

    assert [("user", me["user"]["id"], "create", "192.0.2.1", "req-42")] == [
        (line["actorKind"], line["actorId"], line["action"], line["ip"], line["requestId"]) for line in answer["lines"]
    ]


async def test_audit_log_is_the_tenants(desk: FrontDesk, acme: str, admin: Asker, root: Asker) -> None:
    """A tenant reads its own lines; a system_admin those of the installation, or of a tenant that it names."""
    bolt = await desk.tenant("bolt")
    own = await admin.get("/admin/audit")
    installation = await root.get("/admin/audit")
    bolts = await root.get("/admin/audit", tenantId=bolt, resource="tenant")

    assert acme in {line["resourceId"] for line in own["lines"]}
    assert bolt not in {line["resourceId"] for line in own["lines"]}
    assert {"create", "login"} == {line["action"] for line in installation["lines"]}
    assert [bolt] == [line["resourceId"] for line in bolts["lines"]]
    assert "NOT_FOUND" == (await admin.get("/admin/audit", tenantId=bolt))["code"]


async def test_audit_log_takes_its_permission(desk: FrontDesk, acme: str) -> None:
    """An auditor reads the log, an agent does not."""
    await desk.user(acme, "aud", "auditor")
    await desk.user(acme, "ann")

    assert (await (await desk.signed_in("aud")).get("/admin/audit"))["success"]
    assert "FORBIDDEN" == (await (await desk.signed_in("ann")).get("/admin/audit"))["code"]


@pytest.mark.parametrize("cursor", ["x", "-1", "1" * 19])
async def test_made_up_cursor_is_refused(admin: Asker, cursor: str) -> None:
    """A cursor is what the answer before told."""
    assert "INVALID_FIELD" == (await admin.get("/admin/audit", cursor=cursor))["code"]
