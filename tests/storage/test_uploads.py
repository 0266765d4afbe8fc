"""Uploads as rows: whose they are, how long they go on, and who drops those that nobody goes on with."""

import asyncio

import pytest

from storage import uploads
from storage.database import Database
from storage.uploads import Upload
from tests.conftest import Office
from tests.storage.gate import PLACE, SHA256, SIZE, Gate, gate_of


@pytest.fixture
async def gate(database: Database, office: Office) -> Gate:
    """An agent with a phone."""
    return await gate_of(database, office)


async def found(gate: Gate, upload: Upload, *, tenant_id: str | None = None, actor_id: str | None = None) -> bool:
    """Whether an upload is there for such an asker, as it was begun."""
    async with gate.database.connection() as connection:
        row = await uploads.get(connection, tenant_id or gate.tenant_id, upload.id, actor_id or gate.phone)
    assert row is None or row[0] == upload
    return row is not None


async def goes_on(gate: Gate, call_id: str, *, size: int = SIZE, sha256: bytes = SHA256, by: str | None = None) -> str:
    """The id of the upload that goes on when this file is begun again, or `none`."""
    async with gate.database.connection() as connection:
        row = await uploads.begun_by(connection, gate.tenant_id, call_id, by or gate.phone, size, sha256, [PLACE])
    return "none" if row is None else row[0].id


async def expired(gate: Gate, *places: str, limit: int = 100) -> set[str]:
    """What a worker claims now."""
    async with gate.database.connection() as connection:
        return {upload.id for upload in await uploads.expired(connection, places or (PLACE,), 60, limit)}


async def test_an_upload_is_there_for_who_began_it(gate: Gate) -> None:
    """Not for another phone, nor for another tenant, nor when its time is over."""
    upload = await gate.upload(await gate.call())
    late = await gate.upload(await gate.call(), expires_after=0)

    assert await found(gate, upload)
    assert not await found(gate, upload, actor_id="another")
    assert not await found(gate, upload, tenant_id="another")
    assert not await found(gate, late)


async def test_the_same_file_of_the_same_call_goes_on_with_its_upload(gate: Gate) -> None:
    """The newest, of the same phone, size and digest, while more than a minute is left."""
    call_id, later = await gate.call(), await gate.call()
    await gate.upload(call_id, size=SIZE, sha256=SHA256, expires_after=100)
    await gate.upload(call_id)
    newest = await gate.upload(call_id, size=SIZE, sha256=SHA256, expires_after=100)
    await gate.upload(later, size=SIZE, sha256=SHA256, expires_after=50)

    assert newest.id == await goes_on(gate, call_id)
    assert ["none"] * 4 == [
        await goes_on(gate, call_id, size=SIZE + 1),
        await goes_on(gate, call_id, sha256=bytes(32)),
        await goes_on(gate, call_id, by="another"),
        await goes_on(gate, later),
    ]


async def test_an_upload_that_is_over_is_forgotten(gate: Gate) -> None:
    """It alone."""
    over, other = await gate.upload(await gate.call()), await gate.upload(await gate.call())
    async with gate.database.connection() as connection:
        await uploads.forget(connection, over)

    assert not await found(gate, over)
    assert await found(gate, other)


async def test_what_nobody_goes_on_with_is_claimed_once(gate: Gate) -> None:
    """For as long as a claim lasts, and only what this worker can reach."""
    here = await gate.upload(await gate.call(), expires_after=0)
    there = await gate.upload(await gate.call(), place="folder:there", expires_after=0)
    await gate.upload(await gate.call())

    claims = [await expired(gate), await expired(gate), await expired(gate, "s3", "folder:there")]
    await gate.execute("UPDATE recording_upload SET expires_at = now() WHERE id = $1", here.id)

    assert [{here.id}, set(), {there.id}] == claims
    assert {here.id} == await expired(gate)


async def test_workers_at_once_share_what_is_expired(gate: Gate) -> None:
    """Nothing is claimed by two of them."""
    ids = {(await gate.upload(await gate.call(), expires_after=0)).id for _ in range(20)}

    claims = await asyncio.gather(*(expired(gate, limit=5) for _ in range(4)))
    rest = await expired(gate)

    assert ids == set().union(rest, *claims)
    assert len(ids) == len(rest) + sum(map(len, claims))


async def test_what_is_being_stored_is_settled_and_not_dropped(gate: Gate) -> None:
    """An expired upload in the gate is no business of who drops uploads; another of the same call is."""
    call_id = await gate.call()
    storing = await gate.upload(call_id, expires_after=0)
    beside = await gate.upload(call_id, expires_after=0)
    await gate.pass_gate(storing)

    assert {beside.id} == await expired(gate)


async def test_the_uploads_of_a_store_that_are_known_are_told(gate: Gate) -> None:
    """While they are under way, and while they stand in the gate; what was stored or withdrawn is not."""
    under_way, storing = await gate.upload(await gate.call()), await gate.storing()
    await gate.execute("DELETE FROM recording_upload WHERE id = $1", storing.id)
    stored, withdrawn = await gate.storing(), await gate.storing()
    await gate.finish(stored)
    await gate.withdraw(withdrawn)
    asked = [one.store_upload_id for one in (under_way, storing, stored, withdrawn)]
    async with gate.database.connection() as connection:
        known = await uploads.known(connection, [*asked, "never"])

    assert {under_way.store_upload_id, storing.store_upload_id} == known
