"""Server-side request forgery, prevented: URLs that others give us lead to the public internet and nowhere else.

`check_url` judges what can be judged when a URL is saved. What a name leads to is judged when it is connected to, by
the session that `guarded_session` opens, and the connection is made to the very address that was judged: a name is
resolved once for a connection, so it cannot turn inwards in between (DNS rebinding).
"""

import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from aiohttp import AddrInfoType, ClientSession, ClientTimeout, DefaultResolver, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

WEB_PORTS = {80, 443}
"""The ports below 1024 that may be asked; the others speak to mail servers, shells and the like."""

NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
        "2001::/23",  # IETF protocol assignments, Teredo among them: an IPv4 address inside
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation (RFC 9637)
        "fec0::/10",  # site-local (RFC 3879)
    )
)
"""What `ipaddress` takes for global in some version of Python, and IANA's special-purpose registries do not."""

NAT64 = IPv6Network("64:ff9b::/96")
"""IPv4 as a network that has only IPv6 reaches it: the last 32 bits are the address (RFC 6052)."""


class Refused(Exception):  # noqa: N818 - a judgement
    """The URL leads where we do not go. The text names its host at most, never its path or query."""


def is_allowed(address: Address, networks: Sequence[Network] = ()) -> bool:
    """Tell whether an address belongs to the public internet, or to one of these networks beside it."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address in NAT64:
            address = IPv4Address(address.packed[-4:])
    if any(address in network for network in networks):
        return True
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in NOT_PUBLIC)
    )


def check_url(url: str, *, networks: Sequence[Network] = ()) -> URL:
    """Judge a URL by what it says, without resolving its name, and return it as it is to be asked for.

    It is asked for byte by byte as it was given, for a signature may be over its spelling. Raises Refused."""
    text = url.strip().replace(" ", "%20")
    try:
        # what is not ASCII cannot be sent as it is: the name becomes IDNA, the rest UTF-8 with percent signs
        parsed = URL(text, encoded=text.isascii())
        host, port = parsed.raw_host or "", parsed.port or 0  # read here: they are parsed when they are read
    except ValueError:
        raise Refused("this is not a URL") from None  # the cause quotes it
    if not text.isprintable():  # line breaks among others, which parsers drop
        raise Refused("the URL holds control characters")
    if parsed.scheme not in {"https", "http"}:
        raise Refused("the URL must begin with https:// or http://")
    if "@" in parsed.raw_authority:
        raise Refused("the URL must not hold a user name or a password")
    if port not in WEB_PORTS and port < 1024:
        raise Refused(f"port {port} is not one of the web")
    literal = _literal(host)
    if literal is not None and not is_allowed(literal, networks):
        raise Refused(f"{literal} is not an address of the public internet")
    return parsed


@asynccontextmanager
async def guarded_session(
    networks: Sequence[Network] = (),
    *,
    timeout: ClientTimeout,
    resolver: AbstractResolver | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[ClientSession]:
    """Open a client every connection of which leads to the public internet or to `networks`; others raise Refused.

    It keeps no cookies, asks no proxy and for nothing packed, uses a connection once, and sends a request once. The
    caller says `allow_redirects`.
    """
    found_by = DefaultResolver() if resolver is None else resolver
    connector = TCPConnector(
        resolver=_Guard(found_by, networks),
        socket_factory=_sockets_to(networks),
        use_dns_cache=False,
        force_close=True,
        ssl=True if tls is None else tls,
    )
    try:
        async with ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": "Dialdesk", "Accept-Encoding": "identity"},
        ) as session:
            # aiohttp repeats GET, PUT, DELETE after a disconnect, on new connections too, and has no setting for it
            session._retry_connection = False  # noqa: SLF001
            yield session
    finally:
        if resolver is None:
            await found_by.close()


class _Guard(AbstractResolver):
    """Resolves names of which every address is allowed.

    A name with some allowed addresses is refused too: a public name that also leads inside is an attack or a mistake,
    and what became of a fetch would depend on which of its addresses happened to answer.
    """

    def __init__(self, resolver: AbstractResolver, networks: Sequence[Network]) -> None:
        self._resolver = resolver
        self._networks = networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(is_allowed(ipaddress.ip_address(result["host"]), self._networks) for result in found):
            raise Refused(f"{host} leads to an address that is not of the public internet")
        return found

    async def close(self) -> None:
        """Leave the resolver open: whoever opened it closes it."""


def _sockets_to(networks: Sequence[Network]) -> Callable[[AddrInfoType], socket.socket]:
    """Make sockets to allowed addresses only, however they were found: a literal goes round the resolver."""

    def open_socket(found: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, (host, *_) = found
        if not is_allowed(ipaddress.ip_address(host), networks):
            raise Refused(f"{host} is not an address of the public internet")
        return socket.socket(family, kind, protocol)

    return open_socket


def _literal(host: str) -> Address | None:
    """Return the address that a host spells out, None for a name. Raises Refused for odd spellings of addresses.

    A host whose last label is a number is an address (WHATWG URL, "ends in a number"), and resolvers read 2130706433,
    0x7f.1 and 127.0.0.1. as one; only the plain spelling is taken.
    """
    try:
        if ":" in host:
            return IPv6Address(host)
        if re.search(r"(^|\.)(\d+|0x[\da-f]*)\.?$", host, re.IGNORECASE):
            return IPv4Address(host)
    except ValueError:
        raise Refused("the URL spells an address in an odd way") from None
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", host):
        raise Refused("the URL names no host")
    return None
