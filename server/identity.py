"""Who asks, and what they may: the result of authentication, on which every authorisation is judged."""

from typing import Literal

import msgspec

from protocol.errors import DialdeskError
from storage.calls import Reach


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A user, a bound phone or an API key. There is no such object for somebody not authenticated.

    `tenant_id` is empty for a system_admin, who belongs to the installation and reaches no tenant's calls.
    `id` is the user's, the device's or the key's; `user_id` the agent for whom it acts, if any.
    """

    kind: Literal["user", "phone", "api_key"]
    id: str
    tenant_id: str
    user_id: str | None = None
    role: str = ""
    reach: Literal["own", "teams", "tenant", "installation"] = "own"
    teams: tuple[str, ...] = ()
    permissions: frozenset[str] = frozenset()
    login_id: str | None = None
    token_hash: bytes = b""
    """Of a phone: the token it came with, so that a session cannot outlive the binding it began under."""
    must_change_password: bool = False

    def require(self, needs: str) -> None:
        """Pass if `needs` is satisfied: a permission, "signed in" or "phone". Raises FORBIDDEN,
        UNAUTHENTICATED for a credential of the wrong kind, or PASSWORD_CHANGE_REQUIRED."""
        if needs == "phone" or self.kind == "phone":
            if needs != "phone" or self.kind != "phone":
                raise DialdeskError("UNAUTHENTICATED")
            return
        if self.must_change_password and needs != "signed in":
            raise DialdeskError("PASSWORD_CHANGE_REQUIRED")
        if needs != "signed in" and needs not in self.permissions:
            raise DialdeskError("FORBIDDEN", permission=needs)

    def may(self, permission: str) -> bool:
        """Whether the permission is held."""
        return permission in self.permissions

    @property
    def calls(self) -> Reach:
        """Whose calls this identity reaches."""
        return Reach(
            tenant_id=self.tenant_id, user_id=self.user_id, only_user=self.only_user, only_teams=self.only_teams
        )

    @property
    def only_user(self) -> str | None:
        """The one user whose rows this identity reaches, or None where it reaches more. For SQL:
        `($n::text IS NULL OR user_id = $n)`."""
        return (self.user_id or "") if self.reach == "own" else None

    @property
    def only_teams(self) -> list[str] | None:
        """The teams whose rows this identity reaches, or None where it reaches all of its tenant. For SQL:
        `($n::text[] IS NULL OR team_id = ANY ($n))`."""
        return list(self.teams) if self.reach == "teams" else None
