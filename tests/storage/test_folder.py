"""A folder as a store: what is on the disk, and what disks do that have a bad day."""

import asyncio
import hashlib
import os
import secrets
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from storage.folder import open_folder
from storage.objects import NoSuchObject, NoSuchUpload, StoreError
from tests.conftest import repository
from tests.storage.stores import fetch, keep, keys, send, uploads

KEY = "ten_x/recordings/2026/11/21/call_20261121_k3v9.mp3"


def left(root: Path) -> list[str]:
    """All that is in a folder, but for its identity."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name != ".dialdesk-folder")


def modes(root: Path) -> set[tuple[bool, int]]:
    """Whether it is a folder, and who may do what, of a folder and all in it."""
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (root, *root.rglob("*"))}


# --- what is on the disk ----------------------------------------------------------------------------------------------


async def test_everything_is_for_the_server_alone(tmp_path: Path) -> None:
    """Files and folders are readable by nobody else, those of uploads too."""
    folder = await open_folder(tmp_path / "recordings")
    await keep(folder, KEY, b"ringing")
    await keep(folder, f"{KEY}.other", b"ringing", b"answered")
    await send(folder, KEY, await folder.begin(KEY, "audio/mpeg"), b"ringing")

    assert {(True, 0o700), (False, 0o600)} == modes(tmp_path / "recordings")


async def test_a_finished_upload_leaves_nothing_but_the_object(tmp_path: Path) -> None:
    """The file is where its key says, with its bytes and nothing else."""
    folder = await open_folder(tmp_path)
    await keep(folder, KEY, b"ringing", b"answered")

    assert b"ringinganswered" == (tmp_path / KEY).read_bytes()
    assert [KEY] == [path for path in left(tmp_path) if (tmp_path / path).is_file()]
    assert not (tmp_path / ".uploads").exists()


async def test_what_is_dropped_leaves_no_empty_folders(tmp_path: Path) -> None:
    """Days go by and leave no trace; what is not empty stays."""
    folder = await open_folder(tmp_path)
    await keep(folder, KEY, b"ringing")
    await keep(folder, "ten_x/recordings/other.mp3", b"answered")
    await folder.delete(KEY)
    between = left(tmp_path)
    await folder.delete("ten_x/recordings/other.mp3")
    upload_id = await folder.begin(KEY, "audio/mpeg")
    await send(folder, KEY, upload_id, b"ringing")
    await folder.abort(KEY, upload_id)

    assert ["ten_x", "ten_x/recordings", "ten_x/recordings/other.mp3"] == between
    assert [] == left(tmp_path)


async def test_folders_are_pruned_under_nobodys_feet(tmp_path: Path) -> None:
    """Many come and go in the same folder at once, each leaving it empty: none of them finds its folder gone."""
    folder = await open_folder(tmp_path)

    async def come_and_go(number: int) -> bytes:
        key = f"ten_x/recordings/2026/11/21/{number}.mp3"
        await keep(folder, key, b"ringing", b"answered"[: number % 2])
        content = await fetch(folder, key)
        await folder.delete(key)
        return content

    async with asyncio.timeout(60):
        came_back = [content for _ in range(5) for content in await asyncio.gather(*map(come_and_go, range(40)))]

    assert {b"ringing", b"ringinga"} == set(came_back)
    assert [] == left(tmp_path)


async def test_a_part_that_comes_while_its_upload_is_dropped(tmp_path: Path) -> None:
    """Arrives or does not, but leaves nothing behind."""
    folder = await open_folder(tmp_path)
    for _ in range(20):
        upload_id = await folder.begin(KEY, "audio/mpeg")
        sending = [folder.put_part(KEY, upload_id, number, 0, b"x" * 1000) for number in range(1, 9)]
        *sent, aborted = await asyncio.gather(*sending, folder.abort(KEY, upload_id), return_exceptions=True)

        assert aborted is None
        assert [] == [one for one in sent if isinstance(one, BaseException) and not isinstance(one, NoSuchUpload)]
        with pytest.raises(NoSuchUpload):
            await folder.parts(KEY, upload_id)

    assert [] == left(tmp_path)


async def test_only_objects_are_listed(tmp_path: Path) -> None:
    """Not the identity, not uploads, not what others left there under a name with a dot."""
    folder = await open_folder(tmp_path)
    await keep(folder, "a.mp3", b"ringing")
    await folder.begin("b.mp3", "audio/mpeg")
    for name in (".nfs0001", "a.d/.snapshot"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / ".uploads/.nfs0002").write_bytes(b"?")

    assert ["a.mp3"] == await keys(folder, "")
    assert ["b.mp3"] == [key for key, _ in await uploads(folder, "")]


async def test_a_folder_is_no_object(tmp_path: Path) -> None:
    """What other keys begin with is no object, nor is what an object's key is the beginning of."""
    folder = await open_folder(tmp_path)
    await keep(folder, "a/b.mp3", b"ringing")
    for key in ("a", "a/b.mp3/c"):
        with pytest.raises(NoSuchObject):
            await folder.stat(key)
    with pytest.raises(StoreError):
        await keep(folder, "a", b"answered")
    with pytest.raises(StoreError):
        await keep(folder, "a/b.mp3/c", b"answered")

    assert b"ringing" == await fetch(folder, "a/b.mp3")


async def test_an_upload_has_no_other_place(tmp_path: Path) -> None:
    """An id that leads elsewhere is no id."""
    folder = await open_folder(tmp_path / "recordings")
    (tmp_path / "part-1-7-x").write_bytes(b"outside")
    for upload_id in ("", "../../..", "x/../../../..", "\0"):
        with pytest.raises(NoSuchUpload):
            await folder.parts("a", upload_id)
        with pytest.raises(NoSuchUpload):
            await folder.abort("a", upload_id)

    assert (tmp_path / "part-1-7-x").exists()


# --- which folder it is -----------------------------------------------------------------------------------------------


async def test_a_folder_keeps_its_identity(tmp_path: Path) -> None:
    """However many nodes open it at once, and wherever it is moved: it is the same; another is another."""
    ids = {folder.id for folder in await asyncio.gather(*(open_folder(tmp_path / "a") for _ in range(20)))}
    (tmp_path / "a").rename(tmp_path / "b")
    moved, other = await open_folder(tmp_path / "b"), await open_folder(tmp_path / "c")

    assert ids == {moved.id}
    assert moved.id != other.id
    assert [] == left(tmp_path / "b")


@pytest.mark.parametrize("instead", ["nothing", "an empty folder", "another folder"])
async def test_a_disk_that_is_not_mounted_makes_nothing_missing(tmp_path: Path, instead: str) -> None:
    """Where the folder was there is none, or another: nothing is said of what is in it, and nothing is begun."""
    root = tmp_path / "recordings"
    folder = await open_folder(root)
    await keep(folder, KEY, b"ringing")
    upload_id = await folder.begin("b", "audio/mpeg")
    root.rename(tmp_path / "unmounted")
    if instead == "an empty folder":
        root.mkdir()
    elif instead == "another folder":
        await open_folder(root)
    for asked in (
        folder.stat(KEY),
        fetch(folder, KEY),
        folder.delete(KEY),
        keys(folder, ""),
        uploads(folder, ""),
        folder.begin("b", "audio/mpeg"),
        folder.put_part("b", upload_id, 1, 0, b"ringing"),
        folder.parts("b", upload_id),
        folder.abort("b", upload_id),
        folder.check(),
    ):
        with pytest.raises(StoreError, match=r"than it was|not the folder it was"):
            await asked


# --- disks that have a bad day ----------------------------------------------------------------------------------------


async def test_a_file_that_shrinks_is_cut_short(tmp_path: Path) -> None:
    """Whoever changes a file while it is read is noticed."""
    folder = await open_folder(tmp_path)
    await keep(folder, KEY, secrets.token_bytes(600_000))
    pieces = folder.read(KEY)
    await anext(pieces)
    os.truncate(tmp_path / KEY, 300_000)
    with pytest.raises(StoreError, match="replaced"):
        await anext(pieces)


async def test_a_file_that_is_deleted_while_it_is_read(tmp_path: Path) -> None:
    """Is cut short: the listener has heard its beginning, so it was not missing."""
    folder = await open_folder(tmp_path)
    await keep(folder, KEY, secrets.token_bytes(600_000))
    pieces = folder.read(KEY)
    await anext(pieces)
    await folder.delete(KEY)
    with pytest.raises(StoreError):
        await anext(pieces)


async def test_a_disk_that_hangs_is_given_up(tmp_path: Path) -> None:
    """After the deadline; the loop has gone on meanwhile."""
    pipe = tmp_path / ".dialdesk-folder"
    os.mkfifo(pipe)  # to read it is to wait until somebody writes
    with pytest.raises(StoreError, match=r"within 0\.1 s"):
        await open_folder(tmp_path, deadline=0.1)

    os.close(os.open(pipe, os.O_WRONLY))


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """StoreFull for the part and for the object that does not fit; what has arrived stays, for when there is room."""
    code = """
        import resource
        folder = await open_folder(root)
        upload_id = await folder.begin("a", "audio/mpeg")
        parts = await send(folder, "a", upload_id, b"x" * 700_000, b"y" * 700_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        for asked in (folder.put_part("a", upload_id, 3, 0, b"z" * 1_000_001), folder.complete("a", upload_id, parts)):
            try:
                await asked
            except StoreFull as error:
                print(type(error).__name__)
        print(parts == await folder.parts("a", upload_id), await keys(folder, ""))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await folder.complete("a", upload_id, parts)
        print((await folder.stat("a")).size)
    """
    child = _child(tmp_path, code)
    told, _ = child.communicate(timeout=60)

    assert ["StoreFull", "StoreFull", "True []", "1400000"] == told.splitlines()
    assert ["a"] == left(tmp_path)


async def test_a_killed_process_leaves_an_upload_to_resume(tmp_path: Path) -> None:
    """No object is to be seen; what had arrived is there, and the rest may follow, from another process."""
    code = """
        folder = await open_folder(root)
        upload_id = await folder.begin("a", "audio/mpeg")
        await send(folder, "a", upload_id, b"x" * 100_000, b"y" * 100_000)
        print(upload_id, flush=True)
        await folder.put_part("a", upload_id, 3, 0, b"z" * 100_000_000)
    """
    child = _child(tmp_path, code)
    assert child.stdout is not None
    upload_id = child.stdout.readline().strip()
    child.kill()
    child.communicate(timeout=60)
    folder = await open_folder(tmp_path)
    there, arrived = await keys(folder, ""), await folder.parts("a", upload_id)
    await folder.complete("a", upload_id, arrived[:2])

    assert [] == there
    assert [(1, 100_000), (2, 100_000)] == [(part.number, part.size) for part in arrived][:2]
    assert b"x" * 100_000 + b"y" * 100_000 == await fetch(folder, "a")
    assert ["a"] == left(tmp_path)


@pytest.mark.parametrize("_", range(3))
async def test_a_process_killed_while_it_completes(tmp_path: Path, _: int) -> None:
    """The object is there whole, or it is not there at all, and can be completed."""
    code = """
        folder = await open_folder(root)
        upload_id = await folder.begin("a", "audio/mpeg")
        parts = await send(folder, "a", upload_id, *(bytes([number]) * 6_000_000 for number in range(4)))
        print(upload_id, flush=True)
        await folder.complete("a", upload_id, parts)
        print("done", flush=True)
    """
    child = _child(tmp_path, code)
    assert child.stdout is not None
    upload_id = child.stdout.readline().strip()
    child.kill()
    child.communicate(timeout=60)
    folder = await open_folder(tmp_path)
    if await keys(folder, "") == []:
        await folder.complete("a", upload_id, await folder.parts("a", upload_id))
    await folder.abort("a", upload_id)
    whole = b"".join(bytes([number]) * 6_000_000 for number in range(4))

    assert hashlib.sha256(whole).digest() == hashlib.sha256(await fetch(folder, "a")).digest()
    assert ["a"] == left(tmp_path)


def _child(root: Path, code: str) -> subprocess.Popen[str]:
    """A process of its own that does this with the folder `root`."""
    body = "\n".join(f"    {line.removeprefix(' ' * 8)}" for line in code.strip("\n").splitlines())
    script = (
        "import asyncio\n"
        "from storage.folder import open_folder\n"
        "from storage.objects import StoreFull\n"
        "from tests.storage.stores import keys, send\n"
        f"root = {str(root)!r}\n"
        f"async def main() -> None:\n{body}\n"
        "asyncio.run(main())\n"
    )
    return subprocess.Popen([sys.executable, "-c", script], cwd=repository(), stdout=subprocess.PIPE, text=True)
