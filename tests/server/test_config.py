"""Configuration: read once, typed, and wrong in clear words."""

import base64

import pytest

from server.config import ConfigError, master_keys, read_config

KEY = base64.b64encode(b"not a secret, 32 bytes of ascii.").decode()
GIVEN = {
    "DATABASE_URL": "postgres://nobody@127.0.0.1/none",
    "REDIS_URL": "redis://127.0.0.1/0",
    "SECRET_KEY": "not-a-secret-not-a-secret-not-a-secret",
    "MASTER_KEYS": f"new:{KEY},old:{KEY}",
}


def test_four_variables_suffice() -> None:
    """Where things are and two secrets are all that must be said; the rest has the house's values."""
    config = read_config(GIVEN)

    assert (15.0, 20.0, 8000) == (config.lease, config.dial_expiry, config.port)
    assert ["new", "old"] == list(master_keys(config))


def test_variables_are_typed() -> None:
    """Numbers, flags and lists are read as such."""
    config = read_config(
        {**GIVEN, "PORT": "0", "LEASE": "3.5", "LEASE_RENEW": "1", "DATABASE_STATEMENT_CACHE": "false",
         "TRUSTED_PROXIES": "10.0.0.0/8, 127.0.0.1"}
    )  # fmt: skip

    assert (0, 3.5, False) == (config.port, config.lease, config.database_statement_cache)
    assert ("10.0.0.0/8", "127.0.0.1") == config.trusted_proxies


BUCKET = {
    "RECORDINGS": "s3",
    "S3_BUCKET": "recordings",
    "S3_ACCESS_KEY": "not-a-secret-key-id",
    "S3_SECRET_KEY": "not-a-secret-key",
}


def test_a_wrong_redis_url_is_told_with_its_cure() -> None:
    """The forms for Sentinel and a Cluster are judged as the others are, before anything is opened."""
    with pytest.raises(ConfigError, match="REDIS_URL must name the service that the Sentinels watch"):
        read_config({**GIVEN, "REDIS_URL": "redis+sentinel://:not-a-secret@h"})


def test_secrets_do_not_print() -> None:
    """Neither the configuration nor a secret of it shows what it is when it is printed."""
    assert "not-a-secret" not in repr(read_config({**GIVEN, **BUCKET}))


def test_recordings_are_off_unless_told() -> None:
    """Nothing is kept, encrypted or fetched from inside before somebody says so."""
    config = read_config(GIVEN)

    assert ("off", False, ()) == (config.recordings, config.recording_encryption, config.fetch_networks)


@pytest.mark.parametrize(
    "given",
    [
        BUCKET,
        {"RECORDINGS": "s3", "S3_BUCKET": "recordings"},
        {"RECORDINGS": "local", "RECORDINGS_FOLDER": "/var/lib/recordings"},
        {**BUCKET, "RECORDINGS": "hybrid", "RECORDINGS_FOLDER": "/var/lib/recordings"},
        {**BUCKET, "S3_ENDPOINT_URL": "https://s3.example:9000", "S3_PUBLIC_URL": "https://files.example"},
        {**BUCKET, "S3_ENCRYPTION": "aws:kms", "S3_KMS_KEY": "a-key", "S3_SIGNATURE": "s3", "S3_RETRIES": "0"},
        {"UPLOAD_MEMORY": "15728640", "RECORDING_LIMIT": "1024", "FETCH_NETWORKS": "10.0.0.0/8, fd00::/8"},
    ],
)
def test_recordings_are_kept_in_each_of_these_ways(given: dict[str, str]) -> None:
    """A folder, a bucket with keys or with those of the machine, or both."""
    assert given.get("RECORDINGS", "off") == read_config({**GIVEN, **given}).recordings


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "DATABASE_URL is not set"),
        ({**GIVEN, "PORT": "http"}, "PORT"),
        ({**GIVEN, "SECRET_KEY": "short"}, "SECRET_KEY has fewer than 32"),
        ({**GIVEN, "MASTER_KEYS": "k1:tooshort"}, "MASTER_KEYS must be"),
        ({**GIVEN, "MASTER_KEYS": "k1:not base64!"}, "MASTER_KEYS must be"),
        ({**GIVEN, "PUBLIC_URL": "ftp://desk"}, "PUBLIC_URL"),
        ({**GIVEN, "PUBLIC_URL": "https://desk/path"}, "PUBLIC_URL"),
        ({**GIVEN, "TRUSTED_PROXIES": "everyone"}, "TRUSTED_PROXIES: everyone"),
        ({**GIVEN, "LEASE": "6"}, "LEASE must be at least twice"),
        ({**GIVEN, "PROBE_AFTER": "70"}, "PROBE_AFTER < OFFLINE_AFTER"),
        ({**GIVEN, "TLS_CERT": "cert.pem"}, "TLS_CERT and TLS_KEY go together"),
        ({**GIVEN, "RECORDINGS": "tape"}, "RECORDINGS: Invalid enum value"),
        ({**GIVEN, "RECORDINGS": "local"}, "RECORDINGS_FOLDER must be set"),
        ({**GIVEN, "RECORDINGS": "s3"}, "S3_BUCKET must be set"),
        ({**GIVEN, **BUCKET, "RECORDINGS": "hybrid"}, "RECORDINGS_FOLDER must be set"),
        ({**GIVEN, **BUCKET, "S3_BUCKET": ""}, "S3_BUCKET must be set"),
        ({**GIVEN, **BUCKET, "S3_SECRET_KEY": ""}, "S3_ACCESS_KEY and S3_SECRET_KEY go together"),
        ({**GIVEN, "S3_ADDRESSING": "host"}, "S3_ADDRESSING"),
        ({**GIVEN, "S3_SIGNATURE": "s3v2"}, "S3_SIGNATURE"),
        ({**GIVEN, "S3_CHECKSUMS": "never"}, "S3_CHECKSUMS"),
        ({**GIVEN, "S3_ENCRYPTION": "rot13"}, "S3_ENCRYPTION"),
        ({**GIVEN, "S3_RETRIES": "-1"}, "S3_RETRIES"),
        ({**GIVEN, "RECORDING_LIMIT": "1023"}, "RECORDING_LIMIT"),
        ({**GIVEN, "RECORDING_LIMIT": str(1024**4)}, "RECORDING_LIMIT"),
        ({**GIVEN, "RECORDING_ENCRYPTION": "perhaps"}, "RECORDING_ENCRYPTION"),
        ({**GIVEN, "RECORDING_LINK_TTL": "0"}, "RECORDING_LINK_TTL"),
        ({**GIVEN, "UPLOAD_MEMORY": "15728639"}, "UPLOAD_MEMORY"),
        ({**GIVEN, "UPLOAD_IDLE": "0"}, "UPLOAD_IDLE"),
        ({**GIVEN, "SETTLE_AFTER": "-1"}, "SETTLE_AFTER"),
        ({**GIVEN, "FETCH_NETWORKS": "10.0.0.0/8,inside"}, "FETCH_NETWORKS: inside is not a network"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, str], named: str) -> None:
    """Each wrong variable is named, with its cure."""
    with pytest.raises(ConfigError) as told:
        read_config(given)

    assert named in str(told.value)


def test_all_that_is_wrong_is_named_at_once() -> None:
    """Nobody mends a configuration one error a time."""
    with pytest.raises(ConfigError) as told:
        read_config({"PORT": "x"})

    assert 5 == str(told.value).count(";") + 1
