"""The rule that passwords obey, and how they are hashed."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters

from protocol.errors import DialdeskError
from server.passwords import AT_ONCE, Passwords, _hash_of_no_password
from tests.server.front_desk import HASHER, PASSWORD, PASSWORD_HASH


class SlowHasher(PasswordHasher):
    """Argon2 that takes until it is told to go on, and knows how many it holds."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=16, parallelism=1)
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.most = self._held = 0
        self._lock = threading.Lock()

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        """Hash, later."""
        with self._lock:
            self._held += 1
            self.most = max(self.most, self._held)
        self.begun.release()
        assert self.go_on.wait(30)
        with self._lock:
            self._held -= 1
        return super().hash(password, salt=salt)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """Hashing at no cost."""
    with Passwords(HASHER) as passwords:
        yield passwords


@pytest.mark.parametrize("password", ["12345678", "x" * 128, "密码密码密码密码"])
def test_rule_lets_pass(password: str) -> None:
    """Eight to 128 characters of any script are a password."""
    Passwords.demand_strength(password, "ann")


@pytest.mark.parametrize("password", ["", "1234567", "x" * 129, "ann.smith", "ANN.SMITH", "ａｎｎ.smith"])
def test_rule_refuses(password: str) -> None:
    """What is too short, too long, or the user name in any spelling is WEAK_PASSWORD."""
    with pytest.raises(DialdeskError) as refusal:
        Passwords.demand_strength(password, "ann.smith")

    assert "WEAK_PASSWORD" == refusal.value.code


async def test_password_is_argon2id_by_the_book() -> None:
    """Hashes are argon2id with the library's parameters of RFC 9106, a new salt each."""
    with Passwords() as passwords:
        one, two = await passwords.hash(PASSWORD), await passwords.hash(PASSWORD)

        assert one.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
        assert one != two
        assert await passwords.check(one, PASSWORD)


async def test_wrong_password_is_no(passwords: Passwords) -> None:
    """The right password is yes, any other no."""
    assert await passwords.check(PASSWORD_HASH, PASSWORD)
    assert not await passwords.check(PASSWORD_HASH, PASSWORD + " ")


async def test_same_password_from_another_keyboard(passwords: Passwords) -> None:
    """Full-width letters, as input methods write them, are the letters."""
    assert await passwords.check(await passwords.hash("ｐａｓｓｗｏｒｄ１"), "password1")


async def test_nobody_has_no_password(passwords: Passwords) -> None:
    """Without a hash every password is wrong."""
    assert not await passwords.check(None, PASSWORD)


@pytest.mark.parametrize("hasher", [PasswordHasher(), HASHER])
def test_check_for_nobody_costs_what_a_real_one_costs(hasher: PasswordHasher) -> None:
    """What an unknown user's password is compared with has the parameters, and so the cost, of a real hash."""
    nobody, real = _hash_of_no_password(hasher), hasher.hash(PASSWORD)

    assert extract_parameters(real) == extract_parameters(nobody)
    assert len(real) == len(nobody)


async def test_light_hash_costs_what_a_real_one_costs() -> None:
    """The check of a light hash includes a full one: nobody learns by waiting that an account was never used."""
    checked: list[str | bytes] = []

    class Watched(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:  # noqa: A002
            checked.append(hash)
            return super().verify(hash, password)

    generated, light = Passwords.generate()
    with Passwords(Watched(time_cost=1, memory_cost=16, parallelism=1)) as passwords:
        right = await passwords.check(light, generated)

    assert right
    assert [16, 8] == [extract_parameters(str(each)).memory_cost for each in checked]


def test_generated_passwords_are_strong_and_readable() -> None:
    """A generated password obeys the rule, differs each time, and has nothing that is read as something else."""
    passwords = {Passwords.generate()[0] for _ in range(50)}

    assert 50 == len(passwords)
    assert not set("01ilo") & set("".join(passwords))
    for password in passwords:
        Passwords.demand_strength(password, "ann")


async def test_hash_is_improved_where_it_is_behind(passwords: Passwords) -> None:
    """A hash with other parameters is made anew; one with today's is kept."""
    password, light = Passwords.generate()
    improved = await passwords.improve(light, password)

    assert improved is not None
    assert not HASHER.check_needs_rehash(improved)
    assert await passwords.improve(improved, password) is None


async def test_few_are_hashed_at_a_time_and_few_wait() -> None:
    """However many come, two are hashed at once; beyond the room there is, the next is told UNAVAILABLE."""
    hasher = SlowHasher()
    with Passwords(hasher, room=5) as passwords:
        asked = [asyncio.create_task(passwords.hash(f"{PASSWORD} {number}")) for number in range(5)]
        for _ in range(AT_ONCE):
            await asyncio.to_thread(hasher.begun.acquire)
        with pytest.raises(DialdeskError) as refusal:
            await passwords.hash(PASSWORD)
        hasher.go_on.set()
        await asyncio.gather(*asked)

        assert "UNAVAILABLE" == refusal.value.code
        assert AT_ONCE == hasher.most
        assert await passwords.hash(PASSWORD)


async def test_who_gives_up_leaves_room() -> None:
    """A request that is gone while it waits takes no turn and no room."""
    hasher = SlowHasher()
    with Passwords(hasher, room=3) as passwords:
        asked = [asyncio.create_task(passwords.hash(f"{PASSWORD} {number}")) for number in range(3)]
        for _ in range(AT_ONCE):
            await asyncio.to_thread(hasher.begun.acquire)
        asked[2].cancel()
        await asyncio.wait([asked[2]])
        another = asyncio.create_task(passwords.hash(PASSWORD))
        hasher.go_on.set()

        assert (await another).startswith("$argon2id$")
        await asyncio.gather(*asked[:2])
