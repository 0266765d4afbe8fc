"""REDIS_URL, in the forms of the field: one server, one that Sentinel watches, or a Cluster.

    redis://[[user]:password@]host[:6379][/db][?options]                   rediss:// with TLS
    unix://[[user]:password@]/path[?options]
    redis+sentinel://[[user]:password@]host[:26379][,host…]/service[/db]   rediss+sentinel:// with TLS, to both
    redis+cluster://[[user]:password@]host[:6379][,host…]                  rediss+cluster:// with TLS

Options are those of redis-py's URLs (`ssl_ca_certs=…`); `sentinel_username` and `sentinel_password` are for the
Sentinels, user and password for the servers they watch.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url

_FORM: Final = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>sentinel|cluster)://(?:(?P<login>[^@/?#]*)@)?(?P<hosts>[^@/?#]+)"
    r"(?:/(?P<path>[^?#]*))?(?:\?(?P<query>[^#]*))?"
)
_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?")
_USUAL_PORT: Final = {"sentinel": 26379, "cluster": 6379}


class RedisUrlError(ValueError):
    """The URL is none, or what is there is of another kind; the text says what to write and shows no password."""


class RedisUrl(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says. `settings` are for each connection to a server that holds data."""

    kind: Literal["one", "sentinel", "cluster"]
    settings: Mapping[str, Any]
    tls: bool
    hosts: list[tuple[str, int]] = []
    """The Sentinels, or servers of the cluster to begin with."""
    service: str = ""
    sentinel_settings: Mapping[str, Any] = {}


def read_redis_url(url: str) -> RedisUrl:
    """Read a URL. Raises `RedisUrlError`."""
    several = _FORM.fullmatch(url)
    if several is None:
        settings = _settings(url)
        return RedisUrl(kind="one", settings=settings, tls=settings.get("connection_class") is SSLConnection)
    kind: Literal["sentinel", "cluster"] = "sentinel" if several["kind"] == "sentinel" else "cluster"
    service, _, db = (several["path"] or "").partition("/") if kind == "sentinel" else ("", "", several["path"] or "")
    if kind == "sentinel" and not service:
        raise RedisUrlError("must name the service that the Sentinels watch: redis+sentinel://host:26379,…/service")
    login = f"{several['login']}@" if several["login"] else ""
    settings = _settings(f"{several['scheme']}://{login}localhost/{db}?{several['query'] or ''}", sentinel=True)
    sentinel_settings = {key: settings.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    if kind == "cluster" and settings.get("db"):
        raise RedisUrlError(f"must not name database {settings['db']}: a cluster has database 0 only")
    tls = settings.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        settings.pop(name, None)
    return RedisUrl(
        kind=kind,
        settings=settings,
        tls=tls,
        hosts=[_host(host, _USUAL_PORT[kind]) for host in several["hosts"].split(",")],
        service=service,
        sentinel_settings={
            **{key: value for key, value in sentinel_settings.items() if value is not None},
            **{key: value for key, value in settings.items() if key.startswith("ssl_")},
        },
    )


def _settings(url: str, *, sentinel: bool = False) -> dict[str, Any]:
    """What redis-py makes of the URL of one server, if it is one and redis-py knows its options."""
    scheme, _, rest = url.partition("://")
    if scheme not in {"redis", "rediss", "unix"} or not rest:
        raise RedisUrlError("must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
    try:
        settings: dict[str, Any] = dict(parse_url(url))
        known = {key: value for key, value in settings.items() if not (sentinel and key.startswith("sentinel_"))}
        kind = known.pop("connection_class", Connection)
        if kind is UnixDomainSocketConnection and "path" not in known:
            raise RedisUrlError("must name the path of the socket: unix:///run/redis.sock")
        kind(**known)  # opens nothing
    except TypeError as error:
        raise RedisUrlError(f"has an option that is not known: {error}") from error
    except RedisUrlError:
        raise
    except ValueError as error:
        raise RedisUrlError(f"has a port or an option that is none: {error}") from error
    return settings


def _host(text: str, usual_port: int) -> tuple[str, int]:
    told = _HOST.fullmatch(text.strip())
    if told is None or not 0 < (port := int(told["port"] or usual_port)) < 65536:
        raise RedisUrlError(f"must name servers as host:port, separated by commas, not {text!r}")
    return told["host"].strip("[]"), port
