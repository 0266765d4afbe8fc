"""The pool over HTTP, and a lease's way through a call: lent by the dial, back when the provider is done with it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from server.calls import Calls
from server.config import Config, master_keys
from server.extension_leases import ExtensionLeases
from server.line_config import open_accounts
from server.relay import Relay
from server.telemetry import Metrics
from storage.database import Database
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.clouds.custom import bellbird_cloud
from tests.clouds.infinity import InfinityCloud, in_state, infinity_cloud
from tests.conftest import Office
from tests.server.line_front import CUSTOMER, Front, Line, line_front
from tests.waiting import until

BASE = "/api/v1/infinity/extensions"
LOOPBACK = "127.0.0.0/8"


class Pool:
    """A line at Infinity that lends extensions; its agent has no seat there."""

    def __init__(self, front: Front, cloud: InfinityCloud, line: Line, leases: ExtensionLeases, calls: Calls) -> None:
        self.front = front
        self.cloud = cloud
        self.line = line
        self.leases = leases
        self.own = front.office.tenant_id
        self._calls = calls

    async def ask(self, method: str, path: str, json: Any = None, *, expect: str = "ok", **more: Any) -> Any:
        """Send a request below the extensions, as the admin; the answer must be this: `ok`, or an error code."""
        headers = {**self.front.admin, "accept-language": "en", **more.pop("headers", {})}
        response = await self.front.client.request(method, f"{BASE}{path}", json=json, headers=headers, **more)
        answer = response.json()
        assert expect == ("ok" if response.is_success else answer["code"]), answer
        return answer

    async def fill(self, *numbers: str) -> Any:
        """Import extensions."""
        return await self.ask("POST", "/batch-import", {"lineId": self.line.id, "extensions": numbers})

    async def seen(self, **query: str) -> list[dict[str, Any]]:
        """The extensions that are listed."""
        found: list[dict[str, Any]] = (await self.ask("GET", f"/{self.own}", params=query))["extensions"]
        return found

    async def standing(self) -> dict[str, str]:
        """How each extension stands."""
        return {one["extension"]: one["status"] for one in await self.seen()}

    async def dial(self, **fields: Any) -> httpx.Response:
        """Dial over the line, whatever comes of it."""
        body = {"customerPhone": CUSTOMER, "callMethod": "cloud", "lineId": self.line.id, **fields}
        return await self.front.ask("POST", "/dial", body, who=self.front.agent)

    async def placed(self, state: str = "placed") -> str:
        """Make a call, and wait until the provider's answer to its order is kept."""
        call_id = await self.front.dial(self.line)
        await self.front.until_order(call_id, state)
        return call_id

    async def ended(self, call_id: str) -> None:
        """Wait until a call is over."""

        async def over() -> bool:
            return (await self.front.call(call_id))["ended_at"] is not None

        await until(over)

    async def close(self, call_id: str) -> None:
        """End a call of which nothing is known."""
        await self.front.execute("UPDATE call SET reap_at = now() WHERE id = $1", call_id)
        await self._calls.reap(self.own, call_id)

    async def time_is_up(self) -> None:
        """Let the time of all leases run out, and a worker look what became of them."""
        await self.front.execute("UPDATE extension SET lease_until = now() WHERE status = 'in_use'")
        await self.leases.check()


@pytest.fixture
async def pool(
    database: Database, office: Office, redis: Redis, configure: Callable[..., Config]
) -> AsyncIterator[Pool]:
    """A line with a pool, which is empty yet."""
    config = configure(provider_networks=LOOPBACK)
    keys = TenantKeys(Vault(master_keys(config)))
    async with (
        infinity_cloud() as cloud,
        line_front(database, office, redis, config) as front,
        open_accounts(config, keys) as accounts,
    ):
        line = await front.line("infinity", cloud)
        await front.ask("DELETE", f"/lines/{line.id}/seats/{front.agent_id}", who=front.admin)
        metrics = Metrics()
        relay = Relay(redis, config.redis_prefix, lambda: "worker", metrics, canary_every=1, deaf_after=5)
        calls = Calls(database, relay, metrics, config)
        yield Pool(front, cloud, line, ExtensionLeases(database, accounts, longest=3600), calls)


# --- the pool over HTTP -----------------------------------------------------------------------------------------------


async def test_extensions_are_imported_from_a_list(pool: Pool) -> None:
    """Numbers and ranges; what is there already is skipped, what is none is named, and what came out is listed."""
    await pool.fill("8001")
    told = await pool.fill("8001", "desk-2", "0098~0101", "8010~8001", "no number", "desk-2")

    assert (5, 2, 2) == (told["imported"], told["skipped"], told["invalid"])
    assert [(1, "EXISTS"), (4, "INVALID"), (5, "INVALID"), (6, "REPEATED")] == [
        (one["line"], one["reason"]) for one in told["problems"]
    ]
    assert ["0098", "0099", "0100", "0101", "8001", "desk-2"] == [one["extension"] for one in await pool.seen()]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
async def test_extensions_are_imported_from_a_file(pool: Pool, encoding: str) -> None:
    """The first cell of each line counts, below a heading if there is one; blank lines say nothing."""
    content = "Extension,姓名\n8001,张三\n\n8003~8004,\n坏,李四\n".encode(encoding)
    told = await pool.ask("POST", f"/import/{pool.line.id}", content=content, headers={"content-type": "text/csv"})

    assert (3, 0, [{"line": 5, "extension": "坏", "reason": "INVALID"}]) == (
        told["imported"],
        told["skipped"],
        told["problems"],
    )


async def test_an_import_that_is_repeated_is_done_once(pool: Pool) -> None:
    """With the same Idempotency-Key the answer is the same, though by now the extensions are there."""
    body = {"lineId": pool.line.id, "extensions": ["8001"]}
    told = [await pool.ask("POST", "/batch-import", body, headers={"idempotency-key": "once"}) for _ in range(2)]

    assert [1, 1] == [one["imported"] for one in told]


async def test_imports_that_are_refused(pool: Pool) -> None:
    """More than 10,000, a line that is not there, one that dials from no pool, and what is no text."""
    await pool.ask(
        "POST", "/batch-import", {"lineId": pool.line.id, "extensions": ["00000~99999"]}, expect="INVALID_FIELD"
    )
    await pool.ask("POST", "/batch-import", {"lineId": "line_none", "extensions": ["1"]}, expect="NOT_FOUND")
    csv = {"content-type": "text/csv"}
    await pool.ask("POST", f"/import/{pool.line.id}", content=b"\xff\xff\xff", headers=csv, expect="BAD_REQUEST")
    await pool.front.execute("UPDATE call_line SET provider = 'tencent'")
    await pool.ask("POST", "/batch-import", {"lineId": pool.line.id, "extensions": ["1"]}, expect="INVALID_FIELD")

    assert [] == await pool.seen()


async def test_the_use_of_a_pool_is_told(pool: Pool) -> None:
    """Offline extensions are no part of the rate; who has which, and since which call, stands in the list."""
    await pool.fill("8001", "8002", "8003")
    call_id = await pool.placed()
    offline = (await pool.seen(search="8003"))[0]["id"]
    await pool.ask("PUT", f"/{offline}", {"status": "offline"})
    (told,) = (await pool.ask("GET", f"/statistics/{pool.own}"))["pools"]
    (lent,) = await pool.seen(status="in_use")

    assert (3, 1, 1, 0, 1, 0.5, 1) == tuple(
        told[name] for name in ("total", "available", "inUse", "cooling", "offline", "usageRate", "uses")
    )
    assert ("8001", call_id, pool.front.agent_id) == (lent["extension"], lent["callId"], lent["userId"])
    assert lent == (await pool.ask("GET", f"/id/{lent['id']}"))["extension"]
    await pool.ask("GET", "/tenant_other", expect="NOT_FOUND")
    await pool.ask("GET", "/statistics/tenant_other", expect="NOT_FOUND")


async def test_extensions_are_deleted_unless_they_are_lent(pool: Pool) -> None:
    """A batch deletes the others, and names those that it left."""
    await pool.fill("8001", "8002", "8003")
    await pool.placed()
    ids = [one["id"] for one in await pool.seen()]
    await pool.ask("DELETE", f"/{ids[0]}", expect="IN_USE")
    await pool.ask("DELETE", f"/{ids[1]}")
    told = await pool.ask("POST", "/batch-delete", {"extensionIds": [ids[0], ids[2]]})

    assert (1, [ids[0]]) == (told["deleted"], told["inUse"])
    assert {"8001": "in_use"} == await pool.standing()


@pytest.mark.parametrize("role", ["agent", "supervisor", "auditor"])
async def test_only_who_may_manages_the_pool(pool: Pool, role: str) -> None:
    """Agents and others neither see nor free extensions."""
    _, headers = await pool.front.person(role)

    await pool.ask("GET", f"/{pool.own}", headers=headers, expect="FORBIDDEN")
    await pool.ask("POST", f"/force-release-collector/{pool.front.agent_id}", {}, headers=headers, expect="FORBIDDEN")


# --- a lease and its call ---------------------------------------------------------------------------------------------


async def test_a_call_is_lent_an_extension_until_its_record(pool: Pool) -> None:
    """The provider rings the one that was lent; with the end that it tells the extension is free."""
    await pool.fill("8001", "8002")
    call_id = await pool.placed()
    attempt = await pool.front.attempt(call_id)
    while_it_lives = await pool.standing()
    await pool.front.play(pool.line, pool.cloud, call_id, "answered")

    assert [("8001", call_id)] == [(one.seat, one.tag) for one in pool.cloud.placed]
    assert ("8001", 1) == (attempt["extension"], attempt["extension_fence"])
    assert {"8001": "in_use", "8002": "available"} == while_it_lives
    assert {"8001": "available", "8002": "available"} == await pool.standing()


async def test_a_call_is_made_by_the_words_of_the_seed(pool: Pool) -> None:
    """A dial over the line that is named, once under one key, with what the CRM hangs on it."""
    await pool.fill("8001", "8002")
    body = {"configId": pool.line.id, "customerPhone": CUSTOMER, "customParams": {"case": 7}}
    headers = {**pool.front.agent, "idempotency-key": "once"}
    made = [
        (await pool.front.client.post("/api/v1/infinity/make-call", json=body, headers=headers)).json()
        for _ in range(2)
    ]
    await pool.front.until_order(made[0]["callId"], "placed")
    call = await pool.front.call(made[0]["callId"])

    assert made[0] == made[1]
    assert ["8001"] == [one.seat for one in pool.cloud.placed]
    assert (pool.line.id, '{"case":7}') == (call["line_id"], call["custom_data"])


async def test_without_an_extension_there_is_no_call(pool: Pool) -> None:
    """The dial is refused with the seconds to wait, and leaves nothing: no call, no attempt counted."""
    await pool.fill("8001")
    await pool.placed()
    refused = await pool.dial()

    assert (409, "NO_EXTENSION", 5) == (
        refused.status_code,
        refused.json()["code"],
        refused.json()["details"]["retryAfter"],
    )
    assert 1 == (await pool.front.row("SELECT count(*) FROM call"))["count"]
    assert 1 == (await pool.front.row("SELECT attempts FROM line_day"))["attempts"]


async def test_an_agent_with_an_extension_of_its_own_needs_none(pool: Pool) -> None:
    """A seat at Infinity is an extension: the call is made from there, and the pool is left alone."""
    await pool.fill("8001")
    seat = f"/lines/{pool.line.id}/seats/{pool.front.agent_id}"
    await pool.front.ask("PUT", seat, {"seatId": "7001"}, who=pool.front.admin)
    await pool.placed()

    assert ["7001"] == [one.seat for one in pool.cloud.placed]
    assert {"8001": "available"} == await pool.standing()


@pytest.mark.parametrize(("code", "cools"), [("1014", True), ("1204", True), ("1032", False)])
async def test_a_definite_refusal_frees_the_extension(pool: Pool, code: str, cools: bool) -> None:
    """At once where the customer was refused; after a while where the extension was."""
    await pool.fill("8001")
    pool.cloud.next_place("refuse", code)
    call_id = await pool.front.dial(pool.line)
    await pool.ended(call_id)
    (told,) = await pool.seen()

    assert ("available", cools) == (told["status"], told["coolUntil"] is not None)
    assert (409 if cools else 200) == (await pool.dial()).status_code


@pytest.mark.parametrize("how", ["drop", "garbage"])
async def test_an_order_that_nobody_answered_keeps_its_extension(pool: Pool, how: Any) -> None:
    """Nor does it go with a call that is closed for want of knowledge: the customer may be on the telephone."""
    await pool.fill("8001")
    pool.cloud.next_place(how)
    call_id = await pool.placed("uncertain")
    after_the_order = await pool.standing()
    await pool.close(call_id)
    after_the_close = await pool.standing()
    await pool.front.play(pool.line, pool.cloud, call_id, "answered")

    assert {"8001": "in_use"} == after_the_order == after_the_close
    assert {"8001": "available"} == await pool.standing()


async def test_an_order_that_was_never_written_frees_its_extension(pool: Pool) -> None:
    """The node died between the commit and the order: with the call that expires the extension is free."""
    await pool.fill("8001")
    call_id = await pool.placed()
    await pool.front.execute("UPDATE attempt SET state = 'committed', expires_at = now(), next_look_at = NULL")
    await pool.front.execute("UPDATE call SET status = 'pending', dialing_at = NULL")
    await pool.front.reconciling.look_up()

    assert "EXPIRED" == (await pool.front.call(call_id))["hangup_cause"]
    assert {"8001": "available"} == await pool.standing()


async def test_an_extension_whose_lease_ends_is_asked_for(pool: Pool) -> None:
    """While it is at work the lease goes on, whatever its call is believed to be; once it is idle it is free."""
    await pool.fill("8001")
    call_id = await pool.placed()
    await pool.close(call_id)
    pool.cloud.states["8001"] = in_state("8001", 1204)
    await pool.time_is_up()
    at_work = await pool.standing()
    del pool.cloud.states["8001"]
    await pool.time_is_up()

    assert {"8001": "in_use"} == at_work
    assert {"8001": "available"} == await pool.standing()


async def test_no_lease_outlasts_any_call(pool: Pool) -> None:
    """Not even where the provider tells of work without an end, once the call has ended here."""
    await pool.fill("8001")
    call_id = await pool.placed()
    pool.cloud.states["8001"] = in_state("8001", 1204)
    await pool.front.execute("UPDATE extension SET last_used_at = now() - interval '61 min'")
    await pool.time_is_up()
    while_it_lives = await pool.standing()
    await pool.close(call_id)
    await pool.time_is_up()

    assert {"8001": "in_use"} == while_it_lives
    assert {"8001": "available"} == await pool.standing()


async def test_a_provider_that_cannot_be_asked_keeps_the_extension_until_no_call_lasts(pool: Pool) -> None:
    """One of your own whose description has no look-up."""
    async with bellbird_cloud() as cloud:
        pool.line = await pool.front.line("custom", cloud, settings={"lookUp": None, "lookUpByTag": None})
        await pool.fill("8001")
        call_id = await pool.placed()
        await pool.close(call_id)
        await pool.time_is_up()
        young = await pool.standing()
        await pool.front.execute("UPDATE extension SET last_used_at = now() - interval '61 min'")
        await pool.time_is_up()

        assert {"8001": "in_use"} == young
        assert {"8001": "available"} == await pool.standing()


async def test_a_provider_that_does_not_say_keeps_the_extension(pool: Pool) -> None:
    """Until no call could last so long, if the call is over as far as is known."""
    await pool.fill("8001")
    call_id = await pool.placed()
    pool.cloud.fail("state", "1002", "1002", "1002")
    await pool.time_is_up()
    while_it_lives = await pool.standing()
    await pool.close(call_id)
    await pool.time_is_up()
    when_it_ended = await pool.standing()
    await pool.front.execute("UPDATE extension SET last_used_at = now() - interval '61 min'")
    await pool.time_is_up()

    assert {"8001": "in_use"} == while_it_lives == when_it_ended
    assert {"8001": "available"} == await pool.standing()


async def test_the_extensions_of_a_line_that_was_deleted_are_free(pool: Pool) -> None:
    """Nobody can be asked, and nobody dials over it any more."""
    await pool.fill("8001")
    await pool.close(await pool.placed())
    deleted = await pool.front.ask("DELETE", f"/lines/{pool.line.id}", who=pool.front.admin)
    await pool.time_is_up()

    assert deleted.is_success
    assert "available" == (await pool.front.row("SELECT status FROM extension"))["status"]
    assert [] == await pool.seen()


async def test_force_frees_an_extension(pool: Pool) -> None:
    """Of one, or all of an agent; the end of the call that had it says nothing about who has it then."""
    await pool.fill("8001")
    first = await pool.placed()
    (lent,) = await pool.seen()
    told = [await pool.ask("POST", f"/{lent['id']}/release", {"reason": "stuck"}) for _ in range(2)]
    second = await pool.placed()
    await pool.front.play(pool.line, pool.cloud, first, "answered")
    (now,) = await pool.seen()
    by_agent = await pool.ask("POST", f"/force-release-collector/{pool.front.agent_id}", {})

    assert [1, 0] == [one["released"] for one in told]
    assert ("in_use", second) == (now["status"], now["callId"])
    assert 1 == by_agent["released"]
    assert {"8001": "available"} == await pool.standing()
    await pool.ask("POST", "/ext_none/release", {}, expect="NOT_FOUND")
    await pool.ask("POST", "/force-release-collector/user_none", {}, expect="NOT_FOUND")


async def test_a_provider_without_extension_states_is_asked_for_the_call(pool: Pool) -> None:
    """A line of one's own that lends extensions: what it knows nothing of, or calls ended, is over."""
    async with bellbird_cloud() as cloud:
        line = await pool.front.line("custom", cloud)
        await pool.ask("POST", "/batch-import", {"lineId": line.id, "extensions": ["9001"]})
        call_id = await pool.front.dial(line)
        await pool.front.until_order(call_id, "placed")
        await pool.time_is_up()
        while_it_lives = await pool.standing()
        await pool.close(call_id)
        await pool.time_is_up()
        still = await pool.standing()
        await cloud.play(call_id, "answered", send=lambda _: _nothing())
        await pool.time_is_up()

    assert {"9001": "in_use"} == while_it_lives == still
    assert {"9001": "available"} == await pool.standing()


async def _nothing() -> None:
    """The message is lost."""
