"""Passwords: the rule they obey, new ones for people who need one, and argon2id, a few at a time."""

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerificationError

from protocol.errors import DialdeskError

AT_ONCE: Final = 2
"""Hashes computed at the same time: each takes 64 MiB and, with argon2's four lanes, about a core."""
ROOM: Final = 100
"""Hashes that may be asked for at a time, some seconds' work; whoever comes then is told UNAVAILABLE."""

_READABLE = "23456789abcdefghjkmnpqrstuvwxyz"  # nothing that is read as something else: no 0 o 1 i l
_LIGHT = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

R = TypeVar("R")


class Passwords:
    """Hashes passwords and checks them, in threads of its own, with the parameters of RFC 9106 that argon2-cffi chose.

    A context manager: leaving it ends the threads.
    """

    def __init__(self, hasher: PasswordHasher | None = None, *, room: int = ROOM) -> None:
        self._hasher = hasher or PasswordHasher()
        self._room = room
        self._nobody = _hash_of_no_password(self._hasher)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._inside = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def demand_strength(password: str, username: str) -> None:
        """Raise WEAK_PASSWORD unless the password has 8 to 128 characters and is not the user name."""
        password = _normal(password)
        if not 8 <= len(password) <= 128 or password.casefold() == username.casefold():
            raise DialdeskError("WEAK_PASSWORD")

    @staticmethod
    def generate() -> tuple[str, str]:
        """Return a new password for somebody to type once, and its hash.

        It has 79 random bits, which nobody guesses however cheap a guess is, so its hash is a light one: an import
        makes a thousand. The first right use of it asks for a proper hash all the same (`improve`).
        """
        password = "-".join("".join(secrets.choice(_READABLE) for _ in range(4)) for _ in range(4))
        return password, _LIGHT.hash(password)

    def demand_room(self) -> None:
        """Raise UNAVAILABLE where too many wait: ask before an attempt is counted that would not be looked at."""
        if self._inside >= self._room:
            raise DialdeskError("UNAVAILABLE")

    async def hash(self, password: str) -> str:
        """Return the hash to keep. Raises UNAVAILABLE where too many wait."""
        return await self._in_turn(lambda: self._hasher.hash(_normal(password)))

    async def given_or_new(self, given: str | None, username: str) -> tuple[str | None, str]:
        """Return (what to tell, hash) for a password that somebody gave a user, which is not told again, or a new one.

        Raises WEAK_PASSWORD.
        """
        if given is None:
            return self.generate()
        self.demand_strength(given, username)
        return None, await self.hash(given)

    async def check(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password. Without a hash, for a user that is not there, "no" takes as long as any other.

        Raises UNAVAILABLE where too many wait.
        """
        return await self._in_turn(lambda: self._matches(password_hash, _normal(password)))

    async def improve(self, password_hash: str, password: str) -> str | None:
        """Return a hash with today's parameters for a password that was right, None where it has them already."""
        return await self.hash(password) if self._hasher.check_needs_rehash(password_hash) else None

    def _matches(self, password_hash: str | None, password: str) -> bool:
        if password_hash is None or extract_parameters(password_hash).memory_cost < self._hasher.memory_cost:
            self._verify(self._nobody, password)  # else a quick "no" would tell who has never signed in, or is nobody
        return password_hash is not None and self._verify(password_hash, password)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except VerificationError:
            return False

    async def _in_turn(self, compute: Callable[[], R]) -> R:
        self.demand_room()
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, compute)
        finally:
            self._inside -= 1


def _normal(password: str) -> str:
    """The same password from every keyboard: NFKC, as NIST SP 800-63B §3.1.1.2 asks."""
    return unicodedata.normalize("NFKC", password)


def _hash_of_no_password(hasher: PasswordHasher) -> str:
    """A hash that costs as much to check as a real one and that nothing matches, without the cost of making it."""
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (hasher.salt_len, hasher.hash_len)
    )
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${digest}"
