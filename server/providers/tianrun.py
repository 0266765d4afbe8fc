"""Tianrun (天润融通, ti-net), which is two platforms that have nothing in common but how they tell of calls.

The setting `platform` says which one an account is on: `clink2` (clink2.py) or `cticloud` (cticloud.py).
"""

from typing import assert_never

import aiohttp
import msgspec

from server.providers.clink2 import Clink2, Clink2Settings
from server.providers.cticloud import Cticloud, CticloudSettings
from server.providers.provider import Provider
from server.providers.tianrun_http import DEADLINE

TianrunSettings = Clink2Settings | CticloudSettings
"""What may be shown; `platform` tells which."""


class TianrunSecrets(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What must not be shown: the AccessKeySecret of Clink2, or the token of CtiCloud."""

    secret: str

    def __post_init__(self) -> None:
        """Raise ValueError for a secret with which nothing can be signed."""
        if not self.secret:
            raise ValueError("secret is required")

    def __repr__(self) -> str:
        return "TianrunSecrets(secret='**********')"


def tianrun(
    settings: TianrunSettings, secrets: TianrunSecrets, http: aiohttp.ClientSession, *, deadline: float = DEADLINE
) -> Provider:
    """Return the account on its platform; `deadline` is in seconds, for a method as a whole."""
    match settings:
        case Clink2Settings():
            return Clink2(settings, secrets.secret, http, deadline=deadline)
        case CticloudSettings():
            return Cticloud(settings, secrets.secret, http, deadline=deadline)
        case _:
            assert_never(settings)
