"""Hooks as admins manage them: what is judged when they are saved, what is told once, and the log of what was told."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.app import web_node
from server.config import Config
from storage import hooks
from storage.database import Database
from tests.server.companies import Company, Person, Town

NEW = {"url": "https://crm.example/hooks?key=f0e1d2c3", "events": ["call.ended", "call.ended", "call.created"]}
HOOKS = "/api/v1/admin/hooks"


class Office:
    """A company's hooks, asked for over HTTP."""

    def __init__(self, client: httpx.AsyncClient, town: Town, company: Company) -> None:
        self._client = client
        self.town = town
        self.company = company
        self.database = town.database

    async def ask(self, method: str, path: str = "", body: Any = None, by: Person | None = None, **query: Any) -> Any:
        """Send a request: the answer."""
        answer = await self._client.request(
            method,
            f"{HOOKS}{path}",
            json=body,
            params=query,
            headers={"accept-language": "en", **(by or self.company.admin).headers},
        )
        return answer.json()

    async def made(self, **more: Any) -> dict[str, Any]:
        """Make a hook: the answer."""
        answer: dict[str, Any] = await self.ask("POST", "", {**NEW, **more})
        assert answer["success"], answer
        return answer

    async def key(self, *scopes: str) -> Person:
        """An API key with these scopes."""
        _, key = await self.town.key(self.company.tenant_id, self.company.admin_id, {"hooks.manage", *scopes})
        return key

    async def execute(self, statement: str, *values: Any) -> None:
        """Change rows."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def audit(self) -> list[tuple[str, Any, Any]]:
        """Lines of the audit log about hooks, oldest first."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT action, before, after FROM audit_log WHERE resource = 'hook' ORDER BY id"
            )
        return [tuple(row) for row in rows]


Open = Callable[..., Any]


@pytest.fixture
def office(configure: Callable[..., Config], database: Database, tmp_path: Path) -> Open:
    """Open a company's hooks."""

    @asynccontextmanager
    async def open_office(**settings: Any) -> AsyncIterator[Office]:
        config = configure(recordings="local", recordings_folder=tmp_path / "recordings", **settings)
        town = Town(database, config)
        company = await town.company("acme")
        async with (
            web_node(config) as node,
            httpx.AsyncClient(transport=httpx.ASGITransport(node.app), base_url="http://desk") as client,
        ):
            yield Office(client, town, company)

    return open_office


async def test_a_secret_is_told_once(office: Open) -> None:
    """When the hook is made, and when the secret is replaced; no later answer has it."""
    async with office() as an_office:
        made = await an_office.made()
        hook = made["hook"]
        rotated = await an_office.ask("POST", f"/{hook['id']}/rotate-secret")
        told = str([await an_office.ask("GET"), await an_office.ask("GET", f"/{hook['id']}"), await an_office.audit()])

    secrets = [answer["secret"].removeprefix("whsec_") for answer in (made, rotated)]
    assert len(set(secrets)) == 2
    assert [44, 44] == [len(secret) for secret in secrets]
    assert not [secret for secret in secrets if secret in told]
    assert hook["oldSecretUntil"] is None
    assert rotated["hook"]["oldSecretUntil"] is not None


async def test_a_hook_is_as_it_was_made(office: Open) -> None:
    """Each event once, and nothing found out of it yet."""
    async with office() as an_office:
        made = (await an_office.made(description="CRM"))["hook"]
        (listed,) = [one for one in (await an_office.ask("GET"))["hooks"] if one["id"] == made["id"]]

    assert made == listed
    assert (NEW["url"], ["call.created", "call.ended"], "CRM", True, False, None, None) == tuple(
        made[name] for name in ("url", "events", "description", "enabled", "reveal", "disabledReason", "failingSince")
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://2130706433/",
        "https://user:word@crm.example/",
        "https://crm.example:22/",
        "ftp://crm.example/",
        "crm.example",
    ],
)
async def test_a_url_that_leads_where_we_do_not_go_is_not_saved(office: Open, url: str) -> None:
    """Neither for a new hook nor for one that is there."""
    async with office() as an_office:
        new = await an_office.ask("POST", "", {**NEW, "url": url})
        changed = await an_office.ask("PUT", f"/{an_office.company.hook_id}", {"url": url})

    assert ["INVALID_FIELD"] * 2 == [new["code"], changed["code"]]


async def test_a_network_of_ones_own_may_be_told(office: Open) -> None:
    """By HOOK_NETWORKS, and by https still."""
    async with office(hook_networks="10.1.0.0/16") as an_office:
        inside = await an_office.ask("POST", "", {**NEW, "url": "https://10.1.2.3/"})
        beside = await an_office.ask("POST", "", {**NEW, "url": "https://10.2.2.3/"})
        plain = await an_office.ask("POST", "", {**NEW, "url": "http://10.1.2.3/"})

    assert (True, "INVALID_FIELD", "INVALID_FIELD") == (inside["success"], beside["code"], plain["code"])


async def test_numbers_are_revealed_by_who_may_see_them(office: Open) -> None:
    """To where that person said: who may not see them can neither reveal them nor send them elsewhere, but stop it."""
    async with office() as an_office:
        blind, seeing = await an_office.key(), await an_office.key("customers.reveal")
        new = [await an_office.ask("POST", "", {**NEW, "reveal": True}, by=key) for key in (blind, seeing)]
        path = f"/{new[1]['hook']['id']}"
        moved = await an_office.ask("PUT", path, {"url": "https://elsewhere.example/"}, by=blind)
        harmless = await an_office.ask("PUT", path, {"description": "x"}, by=blind)
        masked = await an_office.ask("PUT", path, {"reveal": False, "url": "https://elsewhere.example/"}, by=blind)
        again = await an_office.ask("PUT", path, {"reveal": True}, by=blind)

    assert ("FORBIDDEN", True) == (new[0]["code"], new[1]["success"])
    assert ("FORBIDDEN", True, True, "FORBIDDEN") == (
        moved["code"],
        harmless["success"],
        masked["success"],
        again["code"],
    )


async def test_there_may_be_so_many_hooks(office: Open) -> None:
    """And one more when one is deleted."""
    async with office() as an_office:
        made = [(await an_office.made())["hook"]["id"] for _ in range(hooks.HOOKS - 1)]
        refused = await an_office.ask("POST", "", NEW)
        await an_office.ask("DELETE", f"/{made[-1]}")
        again = await an_office.ask("POST", "", NEW)

    assert ("TOO_MANY_HOOKS", True) == (refused["code"], again["success"])


async def test_enabled_again_a_hook_is_as_good_as_new(office: Open) -> None:
    """What was found out of it is forgotten."""
    async with office() as an_office:
        path = f"/{an_office.company.hook_id}"
        await an_office.execute(
            "UPDATE hook SET enabled = false, disabled_reason = 'failing', disabled_at = now(),"
            " failing_since = now() - interval '9 days', not_before = now() + interval '1 hour'"
        )
        before = (await an_office.ask("GET", path))["hook"]
        after = (await an_office.ask("PUT", path, {"enabled": True}))["hook"]
        by_hand = (await an_office.ask("PUT", path, {"enabled": False}))["hook"]

    assert ("failing", False) == (before["disabledReason"], before["enabled"])
    assert (None, None, None, True) == tuple(
        after[name] for name in ("disabledReason", "disabledAt", "failingSince", "enabled")
    )
    assert (None, True) == (by_hand["disabledReason"], by_hand["disabledAt"] is not None)


async def test_a_disabled_hook_is_sent_nothing_by_hand(office: Open) -> None:
    """No test, and nothing again, until it is enabled."""
    async with office() as an_office:
        hook, delivery = f"/{an_office.company.hook_id}", an_office.company.delivery_id
        asked = [
            ("ping", None),
            ("resend", {"since": "2026-01-01T00:00:00Z"}),
            (f"deliveries/{delivery}/resend", None),
        ]
        await an_office.ask("PUT", hook, {"enabled": False})
        refused = [(await an_office.ask("POST", f"{hook}/{path}", body))["code"] for path, body in asked]
        await an_office.ask("PUT", hook, {"enabled": True})
        done = [(await an_office.ask("POST", f"{hook}/{path}", body))["success"] for path, body in asked]

    assert ["HOOK_DISABLED"] * 3 == refused
    assert [True] * 3 == done


# --- the log ----------------------------------------------------------------------------------------------------------


async def _log(an_office: Office, how_many: int) -> list[str]:
    """Fill the log of the company's hook with events an hour apart, every third given up: their ids, newest first."""
    await an_office.execute("DELETE FROM hook_delivery")
    async with an_office.database.connection() as connection:
        rows = await connection.fetch(
            "INSERT INTO hook_delivery (id, tenant_id, hook_id, event, subject_id, at, content, give_up_at, state,"
            " attempts, tries, status, answer, failure)"
            " SELECT 'msg_' || n, $1, $2, CASE WHEN n % 2 = 0 THEN 'call.ended' ELSE 'call.created' END, 'call_' || n,"
            " timestamptz '2026-11-01 00:00Z' - n * interval '1 hour', '{}', now(),"
            " CASE WHEN n % 3 = 0 THEN 'failed' ELSE 'delivered' END, 9, 9, 500, 'no', 'answered 500'"
            " FROM generate_series(1, $3) n ORDER BY n RETURNING id",
            an_office.company.tenant_id,
            an_office.company.hook_id,
            how_many,
        )
    return [row["id"] for row in rows]


async def test_the_log_is_told_page_by_page(office: Open) -> None:
    """Newest first, each line once, and after the last there is no cursor."""
    async with office() as an_office:
        ids = await _log(an_office, 25)
        path, told = f"/{an_office.company.hook_id}/deliveries", []
        cursor: dict[str, str] = {}
        while True:
            page = await an_office.ask("GET", path, pageSize=10, **cursor)
            told.append([line["id"] for line in page["deliveries"]])
            if page["nextCursor"] is None:
                break
            cursor = {"cursor": page["nextCursor"]}

    assert [ids[:10], ids[10:20], ids[20:]] == told


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"state": "failed"}, [3, 6, 9]),
        ({"state": "waiting"}, []),
        ({"event": "call.ended"}, [2, 4, 6, 8]),
        ({"event": "call.ended", "state": "failed"}, [6]),
        ({"since": "2026-10-31T22:00:00+00:00"}, [1, 2]),
        ({"cursor": "msg_8"}, [9]),
        ({"cursor": "msg_none"}, []),
    ],
)
async def test_the_log_is_narrowed(office: Open, query: dict[str, str], wanted: list[int]) -> None:
    """By state, by event, by time."""
    async with office() as an_office:
        await _log(an_office, 9)
        page = await an_office.ask("GET", f"/{an_office.company.hook_id}/deliveries", **query)

    assert [f"msg_{n}" for n in wanted] == [line["id"] for line in page["deliveries"]]


async def test_one_message_is_sent_again(office: Open) -> None:
    """Whatever became of it; it has all the time and tries of a new one, and its attempts go on being counted."""
    async with office() as an_office:
        await _log(an_office, 2)
        path = f"/{an_office.company.hook_id}/deliveries"
        done = await an_office.ask("POST", f"{path}/msg_2/resend")
        absent = await an_office.ask("POST", f"{path}/msg_9/resend")
        (line,) = (await an_office.ask("GET", path, state="waiting"))["deliveries"]
        async with an_office.database.connection() as connection:
            (job,) = await hooks.claim(connection, lease=60.0, most=9, of_each=9, busy={})

    assert (True, "NOT_FOUND") == (done["success"], absent["code"])
    assert ("msg_2", 9, 500) == (line["id"], line["attempts"], line["status"])
    assert ("msg_2", 1, 10, False) == (job.id, job.tries, job.attempts, job.last_try)


async def test_what_was_given_up_since_a_time_is_sent_again(office: Open) -> None:
    """Nothing that was delivered, and nothing older."""
    async with office() as an_office:
        await _log(an_office, 12)
        path = f"/{an_office.company.hook_id}"
        answer = await an_office.ask("POST", f"{path}/resend", {"since": "2026-10-31T15:00:00Z"})
        waiting = (await an_office.ask("GET", f"{path}/deliveries", state="waiting"))["deliveries"]

    assert (3, False) == (answer["resent"], answer["more"])
    assert ["msg_3", "msg_6", "msg_9"] == [line["id"] for line in waiting]


async def test_a_ping_stands_in_the_log(office: Open) -> None:
    """Its line will tell whether it was taken."""
    async with office() as an_office:
        path = f"/{an_office.company.hook_id}"
        await an_office.execute("DELETE FROM hook_delivery")
        pinged = await an_office.ask("POST", f"{path}/ping")
        (line,) = (await an_office.ask("GET", f"{path}/deliveries", event="hook.ping"))["deliveries"]

    assert (pinged["deliveryId"], "waiting", an_office.company.hook_id) == (
        line["id"],
        line["state"],
        line["subjectId"],
    )


async def test_what_is_changed_stands_in_the_audit_log(office: Open) -> None:
    """With the host and no more of a URL, for it may hold a secret of its receiver."""
    async with office() as an_office:
        hook_id = (await an_office.made())["hook"]["id"]
        await an_office.ask("PUT", f"/{hook_id}", {"url": "https://other.example/?key=f0e1d2c3", "enabled": False})
        await an_office.ask("POST", f"/{hook_id}/rotate-secret")
        await an_office.ask("DELETE", f"/{hook_id}")
        lines = await an_office.audit()

    assert ["create", "update", "rotate_secret", "delete"] == [action for action, _, _ in lines]
    assert ('{"host": "crm.example", "enabled": true}', '{"host": "other.example", "enabled": false}') == lines[1][1:]
    assert "f0e1d2c3" not in str(lines)
