"""What is configured of a line: judged before it is kept, and opened when its provider is to be spoken to.

A request brings one form for settings and credentials together. A credential that is left out, or comes back masked as
it was shown, stays; but none goes to an address that was not there when it was given, for whoever may set the address
may not read the credential.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import time
from typing import Any

import msgspec
from aiohttp import ClientSession, ClientTimeout
from yarl import URL

from protocol.errors import DialdeskError
from server.config import Config
from server.providers.catalogue import VENDORS, Vendor, addresses, demand_fit, open_provider, secret_names
from server.providers.provider import Provider
from server.ssrf import Network, Refused, check_url, guarded_session
from storage import lines
from storage.database import Connection, Duplicate
from storage.lines import LineAccount, ProviderName, Setup
from storage.tenant_keys import TenantKeys

CALL_HOURS = (time(8), time(21))
"""Between which calls may be allowed at all (seed 000 §5)."""

OPEN = 1000
"""Providers that are held open; beyond, the one that was not asked for the longest is opened anew when it is."""

LONGEST_ACCOUNT = 128
"""Characters of what names an account."""

TIMEOUT = ClientTimeout(total=15.0, sock_connect=5.0)
"""Seconds, for what a provider does not bound itself."""

_TAKEN = {"call_line_name": "line name", "call_line_account": "line account"}


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a form came to, which fits the provider: settings, credentials, and what names the account."""

    settings: dict[str, Any]
    credentials: dict[str, Any]
    account_id: str

    def __repr__(self) -> str:
        return f"Judged({self.account_id!r}, '**********')"


class Accounts:
    """Opens the providers of lines, and judges what is to be one; made by `open_accounts`."""

    def __init__(self, keys: TenantKeys, http: ClientSession, networks: Sequence[Network], public_url: str) -> None:
        self.keys = keys
        self._http = http
        self._networks = networks
        self._base = f"{public_url.rstrip('/')}/api/v1/calls/webhook"
        self._open: OrderedDict[str, tuple[int, Provider]] = OrderedDict()

    def judge(self, provider: ProviderName, form: Mapping[str, Any], kept: LineAccount | None = None) -> Judged:
        """Take a form apart, and fill in the credentials of the line that is being changed.

        Raises INVALID_FIELD, which names the field.
        """
        known = VENDORS[provider]
        secret = secret_names(known)
        settings = {name: value for name, value in form.items() if name not in secret}
        given = {name: value for name, value in form.items() if name in secret}
        before = {} if kept is None else msgspec.json.decode(kept.secrets, type=dict[str, Any])
        own, stays = _filled(given, {name: value for name, value in before.items() if name in secret})
        demand_fit(known, settings, own)
        origins = self._origins(known, settings)
        if stays and kept is not None:
            was = self._origins(known, msgspec.json.decode(kept.settings, type=dict[str, Any]))
            if origins - was:
                reason = "the address is another one: give the credentials again - at `$.providerConfig`"
                raise DialdeskError("INVALID_FIELD", reason=reason)
        account_id = str(next((settings[name] for name in known.account if settings.get(name)), ""))
        if len(account_id) > LONGEST_ACCOUNT:
            reason = f"the account has more than {LONGEST_ACCOUNT} characters - at `$.providerConfig`"
            raise DialdeskError("INVALID_FIELD", reason=reason)
        beside = {name: value for name, value in before.items() if name not in secret}
        return Judged(settings=settings, credentials={**beside, **own}, account_id=account_id)

    async def open(self, connection: Connection, tenant_id: str, line_id: str) -> Provider:
        """Return the provider of a line; the same one until the line is changed. Raises NOT_FOUND and SealError."""
        account = await lines.open_secrets(connection, self.keys, tenant_id, line_id)
        version, provider = self._open.get(line_id, (0, None))
        if provider is None or version != account.version:
            provider = self.provider(
                account.provider,
                msgspec.json.decode(account.settings),
                msgspec.json.decode(account.secrets),
                account.token,
            )
            self._open[line_id] = account.version, provider
        self._open.move_to_end(line_id)
        if len(self._open) > OPEN:
            self._open.popitem(last=False)
        return provider

    def provider(
        self, name: ProviderName, settings: Mapping[str, Any], credentials: Mapping[str, Any], token: str
    ) -> Provider:
        """Open a provider from what `judge` found to fit."""
        known = VENDORS[name]
        wanted = secret_names(known)
        secrets = {field: value for field, value in credentials.items() if field in wanted}
        if known.given is not None:
            secrets[known.given] = self._url(name, known.kinds[0], token)
        return open_provider(name, msgspec.json.encode(settings), msgspec.json.encode(secrets), self._http)

    def callback_urls(self, name: ProviderName, token: str) -> dict[str, str]:
        """Return the URLs that the provider is to call, by their kinds; whoever knows one may speak for it."""
        return {kind or "all": self._url(name, kind, token) for kind in VENDORS[name].kinds}

    def _url(self, name: ProviderName, kind: str, token: str) -> str:
        return "/".join(part for part in (self._base, name, kind, token) if part)

    def _origins(self, known: Vendor, settings: Mapping[str, Any]) -> set[URL]:
        """Where settings lead. Raises INVALID_FIELD for what leads where we do not go."""
        try:
            return {check_url(url, networks=self._networks).origin() for url in addresses(known, settings)}
        except Refused as refused:
            raise DialdeskError("INVALID_FIELD", reason=f"{refused} - at `$.providerConfig.baseUrl`") from None


@asynccontextmanager
async def open_accounts(config: Config, keys: TenantKeys) -> AsyncIterator[Accounts]:
    """Open what speaks to providers, and to nobody who is neither public nor in PROVIDER_NETWORKS."""
    networks = tuple(ipaddress.ip_network(network) for network in config.provider_networks)
    async with guarded_session(networks, timeout=TIMEOUT) as http:
        yield Accounts(keys, http, networks, config.public_url)


def named_in(body: msgspec.Struct) -> dict[str, Any]:
    """Return what a request names of a setup, its times read."""
    named = {
        name: value
        for name, value in msgspec.structs.asdict(body).items()
        if name in Setup.__struct_fields__ and value is not msgspec.UNSET
    }
    for edge in {"window_start", "window_end"} & named.keys():
        named[edge] = time.fromisoformat(named[edge])
    return named


def demand_sound(setup: Setup) -> None:
    """Raise INVALID_FIELD for a setup whose fields do not go together. Of each by itself its type judges."""
    first, last = setup.window_start, setup.window_end
    if not CALL_HOURS[0] <= first < last <= CALL_HOURS[1]:
        begin, end = (f"{hour:%H:%M}" for hour in CALL_HOURS)
        reason = f"calls are made from {begin} to {end}, within which {first} to {last} is no time"
        raise DialdeskError("INVALID_FIELD", reason=reason)
    for network in setup.allowed_networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise DialdeskError("INVALID_FIELD", reason=f"{network} is not a network, such as 203.0.113.0/24") from None


def shown(setup: Setup, hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form as it is shown: as it was filled in, but for the credentials. One that the provider does not ask
    for, as seed 000 has one, is no part of the form."""
    secret = secret_names(VENDORS[setup.provider])
    return {**setup.settings, **{name: hint for name, hint in hints.items() if name in secret}}


@asynccontextmanager
async def one_of_a_kind() -> AsyncIterator[None]:
    """Say what is taken, where a line would be another's double. Raises ALREADY_EXISTS."""
    try:
        yield
    except Duplicate as duplicate:
        if duplicate.constraint not in _TAKEN:
            raise
        raise DialdeskError("ALREADY_EXISTS", what=_TAKEN[duplicate.constraint]) from duplicate


def demand_version(wanted: str | None, version: int) -> None:
    """Raise VERSION_CONFLICT where `If-Match` names another version; the quotes of an entity tag are optional."""
    if wanted is None or wanted.strip() == "*":
        return
    if wanted.strip().strip('"') != str(version):
        raise DialdeskError("VERSION_CONFLICT", current=version)


def _filled(given: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Credentials as they are to be, and whether any stays: what is left out or masked. Null takes one away."""
    filled, anew, inside_stays = dict(before), set(), False
    for name, value in given.items():
        if isinstance(value, str) and lines.is_masked(value):
            if name not in before:
                raise DialdeskError("INVALID_FIELD", reason=f"this is masked - at `$.providerConfig.{name}`")
            continue
        anew.add(name)
        if value is None:
            filled.pop(name, None)
        elif isinstance(value, Mapping):
            inside = before.get(name)
            filled[name], some = _filled(value, inside if isinstance(inside, Mapping) else {})
            inside_stays = inside_stays or some
        else:
            filled[name] = value
    return filled, inside_stays or bool(before.keys() - anew)
