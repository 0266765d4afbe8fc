"""Configuration: the environment, read once at boot, typed and frozen; docs/configuration.md is held to this file."""

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from storage.redis_url import RedisUrlError, read_redis_url

Seconds = Annotated[float, msgspec.Meta(gt=0, le=7 * 86400)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


class Secret(str):
    """A string that does not print."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('**********')"


class ConfigError(Exception):
    """The environment is not usable; the text names each variable and its cure."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every variable Dialdesk reads: a field `lease` is the variable LEASE. Times are seconds."""

    # where things are
    database_url: Secret
    redis_url: Secret
    secret_key: Secret
    """At least 32 characters; signs access tokens. A change voids them; refreshing gives others."""
    master_keys: Secret
    """`id:base64` of 32 bytes, comma-separated, the first encrypts: the keys that wrap secrets at rest."""
    public_url: str = "http://127.0.0.1:8000"

    # where recordings rest
    recordings: Literal["off", "local", "s3", "hybrid"] = "off"
    """`local` is a folder, `s3` a bucket; `hybrid` takes into the folder and moves to the bucket."""
    recordings_folder: str | None = None
    s3_endpoint_url: str | None = None
    s3_public_url: str | None = None
    """The endpoint as phones and browsers reach it; where it is not set all bytes go through the server."""
    s3_bucket: str | None = None
    s3_access_key: Secret | None = None
    s3_secret_key: Secret | None = None
    s3_region: str = "us-east-1"
    s3_addressing: Literal["auto", "path", "virtual"] = "auto"
    s3_signature: Literal["s3v4", "s3"] = "s3v4"
    s3_checksums: Literal["when_supported", "when_required"] = "when_supported"
    s3_encryption: Literal["AES256", "aws:kms"] | None = None
    s3_kms_key: str | None = None
    s3_connect_timeout: Seconds = 5.0
    s3_read_timeout: Seconds = 30.0
    s3_retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 3
    recording_limit: Annotated[int, msgspec.Meta(ge=1024, le=10 * 1024**3)] = 512 * 1024 * 1024
    """Bytes of the largest recording that is taken."""
    recording_encryption: bool = False
    """New recordings are encrypted under a key of their tenant before they leave the server."""
    recording_link_ttl: Seconds = 300.0
    upload_timeout: Seconds = 3600.0
    """How long one request that brings a recording may take."""
    upload_idle: Seconds = 20.0
    """How long such a request may be silent."""
    upload_expiry: Seconds = 86400.0
    """How long an upload in parts stays open."""
    upload_memory: Annotated[int, msgspec.Meta(ge=15 * 1024**2, le=64 * 1024**3)] = 256 * 1024 * 1024
    """Bytes that the uploads of one node may hold in memory, 15 MiB at most each; more uploads wait their turn."""
    settle_after: Seconds = 60.0
    """How long storing, moving or dropping a recording may take before a worker looks what became of it."""
    fetch_networks: tuple[str, ...] = ()
    """Networks, beside the public internet, that recordings of providers may be fetched from."""
    fetch_timeout: Seconds = 600.0
    hook_networks: tuple[str, ...] = ()
    """Networks, beside the public internet, that outgoing webhooks may be sent to."""
    provider_networks: tuple[str, ...] = ()
    """Networks, beside the public internet, where providers' APIs may be (private installations)."""

    # serving
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    tls_cert: str | None = None
    tls_key: str | None = None
    metrics_token: Secret | None = None
    """`/metrics` answers to this bearer token, and to nobody where it is not set."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose X-Forwarded-For is believed; without them the login limiter counts the proxy as one client."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of pages, beside PUBLIC_URL, that may open the agent's WebSocket and call the API (CORS)."""
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    node_name: str = "node"
    redis_prefix: str = "dialdesk:"
    database_pool: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 16
    database_statement_cache: bool = True
    database_timeout: Seconds = 5.0
    body_limit: Count = 1024 * 1024
    request_timeout: Seconds = 30.0

    # leases of nodes
    lease: Seconds = 15.0
    lease_renew: Seconds = 5.0

    # sessions (seed 003 §8.4)
    first_message: Seconds = 10.0
    heartbeat_interval: Seconds = 30.0
    probe_after: Seconds = 25.0
    offline_after: Seconds = 60.0
    close_after: Seconds = 90.0
    presence_grace: Seconds = 15.0
    messages_per_second: Annotated[float, msgspec.Meta(gt=0)] = 50.0
    message_burst: Annotated[float, msgspec.Meta(ge=1)] = 500.0
    outbox_bytes: Count = 1024 * 1024
    """Bytes that may wait for one peer; more closes it with 4410."""
    max_sessions: Count = 100_000
    """Sockets of one node; more are refused with 503."""
    drain: Seconds = 20.0
    """How long a node takes to send its sessions elsewhere on SIGTERM."""

    # commands and calls
    dial_expiry: Seconds = 20.0
    dial_expiry_tapped: Seconds = 60.0
    """For a phone where a person must tap the call button (iOS, the web phone)."""
    resend_after: Seconds = 3.0
    reap_unreported: Seconds = 10.0
    reap_ringing: Seconds = 120.0
    reap_away: Seconds = 90.0
    reap_talk: Seconds = 4 * 3600.0
    sweep: Seconds = 1.0
    """How often the worker looks for what is due."""
    tidy: Seconds = 60.0
    """How often it drops what has had its time: old events, uploads that nobody goes on with, old recordings."""
    refill: Seconds = 5.0
    """How often a node compares its agents' streams with what it sent them."""
    event_retention: Seconds = 24 * 3600.0

    # relay
    canary: Seconds = 1.0
    deaf_after: Seconds = 5.0

    # credentials
    access_token_ttl: Seconds = 2 * 3600.0
    refresh_token_ttl: Seconds = 7 * 86400.0
    ticket_ttl: Seconds = 30.0
    bind_token_ttl: Seconds = 300.0
    login_attempts: Count = 5
    """Bad passwords in a row that lock an account."""
    login_lockout: Seconds = 900.0
    login_rate: Count = 30
    """Sign-ins and binds a minute from one address."""


def read_config(environ: Mapping[str, str]) -> Config:
    """Read the configuration from an environment. Raises ConfigError that names every variable that is wrong."""
    given: dict[str, Any] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(Config):
        name = field.name.upper()
        text = environ.get(name)
        if text is None or text == "":
            if field.required:
                problems.append(f"{name} is not set")
            continue
        value: Any = [part.strip() for part in text.split(",") if part.strip()] if "tuple" in str(field.type) else text
        try:
            given[field.name] = msgspec.convert(value, field.type, strict=False, dec_hook=_secret)
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {error}")
    problems += _inconsistencies(given)
    if problems:
        raise ConfigError("; ".join(problems))
    return Config(**given)


def master_keys(config: Config) -> dict[str, bytes]:
    """Return the key-encryption keys by id, the one that encrypts first."""
    return dict(_parsed_master_keys(config.master_keys))


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret:
        return Secret(value)
    raise TypeError(kind)


def _parsed_master_keys(text: str) -> list[tuple[str, bytes]]:
    keys = []
    for part in text.split(","):
        key_id, _, encoded = part.strip().partition(":")
        key = base64.b64decode(encoded, validate=True)
        if not key_id or len(key) != 32:
            raise ValueError(part)
        keys.append((key_id, key))
    return keys


def _inconsistencies(given: dict[str, Any]) -> list[str]:
    def setting(name: str) -> Any:
        return given[name] if name in given else _DEFAULTS[name]

    problems = []
    if "database_url" in given and urlsplit(given["database_url"]).scheme not in {"postgres", "postgresql"}:
        problems.append("DATABASE_URL must begin with postgres:// or postgresql://")
    try:
        if "redis_url" in given:
            read_redis_url(given["redis_url"])
    except RedisUrlError as error:
        problems.append(f"REDIS_URL {error}")
    if "secret_key" in given and len(given["secret_key"]) < 32:
        problems.append("SECRET_KEY has fewer than 32 characters")
    try:
        if "master_keys" in given and not _parsed_master_keys(given["master_keys"]):
            problems.append("MASTER_KEYS is empty")
    except (ValueError, binascii.Error):
        problems.append(
            "MASTER_KEYS must be id:base64-of-32-bytes, comma-separated (make one with `dialdesk token key`)"
        )
    public_url = urlsplit(setting("public_url"))
    if public_url.scheme not in {"http", "https"} or not public_url.hostname or public_url.path not in {"", "/"}:
        problems.append("PUBLIC_URL must be http(s)://host[:port]")
    for network in setting("trusted_proxies"):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            problems.append(f"TRUSTED_PROXIES: {network} is not a network")
    if setting("lease_renew") * 2 > setting("lease"):
        problems.append("LEASE must be at least twice LEASE_RENEW, or one slow renewal ends every session")
    if not setting("probe_after") < setting("offline_after") < setting("close_after"):
        problems.append("PROBE_AFTER < OFFLINE_AFTER < CLOSE_AFTER must hold")
    if setting("first_message") > setting("probe_after"):
        problems.append("FIRST_MESSAGE must not exceed PROBE_AFTER")
    for name in ("fetch_networks", "hook_networks", "provider_networks"):
        for network in setting(name):
            try:
                ipaddress.ip_network(network)
            except ValueError:
                problems.append(f"{name.upper()}: {network} is not a network")
    if setting("recordings") in {"local", "hybrid"} and setting("recordings_folder") is None:
        problems.append("RECORDINGS_FOLDER must be set where RECORDINGS is local or hybrid")
    if setting("recordings") in {"s3", "hybrid"} and setting("s3_bucket") is None:
        problems.append("S3_BUCKET must be set where RECORDINGS is s3 or hybrid")
    if setting("s3_kms_key") is not None and setting("s3_encryption") != "aws:kms":
        problems.append("S3_KMS_KEY is of use only where S3_ENCRYPTION is aws:kms")
    if (given.get("s3_access_key") is None) != (given.get("s3_secret_key") is None):
        problems.append("S3_ACCESS_KEY and S3_SECRET_KEY go together")
    if (given.get("tls_cert") is None) != (given.get("tls_key") is None):
        problems.append("TLS_CERT and TLS_KEY go together")
    return problems


_DEFAULTS = {
    field.name: field.default for field in msgspec.structs.fields(Config) if field.default is not msgspec.NODEFAULT
}
