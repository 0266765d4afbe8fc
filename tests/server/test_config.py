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


def test_secrets_do_not_print() -> None:
    """Neither the configuration nor a secret of it shows what it is when it is printed."""
    assert "not-a-secret" not in repr(read_config(GIVEN))


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
