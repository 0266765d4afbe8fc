"""The catalogue: what each provider asks for, and where its requests go."""

from typing import Any, get_args

import pytest

from protocol.errors import DialdeskError
from server.providers.catalogue import VENDORS, Field, addresses, demand_fit, describe, secret_names
from storage.lines import ProviderName
from tests.clouds.custom import described


def fields_of(provider: str) -> dict[str, Field]:
    """The form of a provider, by its fields' names."""
    return {field.name: field for form in describe("en") if form.provider_type == provider for field in form.fields}


def test_every_provider_is_there() -> None:
    """Whatever a line may be of can be set up."""

    assert set(get_args(ProviderName)) == VENDORS.keys()


@pytest.mark.parametrize("provider", VENDORS)
def test_settings_and_credentials_do_not_mix(provider: ProviderName) -> None:
    """No setting is called like a credential, so that one form holds both."""
    known = VENDORS[provider]
    settings = {field.encode_name for fields in known.platforms.values() for field in fields}

    assert secret_names(known)
    assert set() == settings & secret_names(known)
    assert set(known.account) <= settings


def test_platforms_share_a_form() -> None:
    """Tianrun's two: which there are, the fields of both once, and the others with their platform."""
    fields = fields_of("tianrun")

    assert ["clink2", "cticloud"] == fields["platform"].choices
    assert ("clink2", "cticloud", None) == tuple(
        fields[name].platform for name in ("accessKeyId", "departmentId", "enterpriseId")
    )
    assert fields["secret"].secret


def test_a_described_providers_requests_are_all_judged() -> None:
    """Not the base URL alone: any of its requests may name another host."""
    settings, secrets = described("bellbird")
    settings["place"] = {**settings["place"], "url": "https://elsewhere.example/calls"}
    demand_fit(VENDORS["custom"], settings, secrets)

    assert "https://elsewhere.example/" in addresses(VENDORS["custom"], settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"appId": "a"}, set()), ({"appId": "a", "baseUrl": "https://x.example"}, {"https://x.example"})],
)
def test_a_vendors_own_address_is_nobodys_choice(settings: dict[str, Any], expected: set[str]) -> None:
    """Only one that overrides it is judged."""

    assert expected == addresses(VENDORS["infinity"], settings)


def test_a_refusal_quotes_no_credential() -> None:
    """Neither its text nor its causes, which may be logged."""
    with pytest.raises(DialdeskError) as caught:
        demand_fit(VENDORS["custom"], described("bellbird")[0], {"values": {"key": "abc"}})

    assert "abc" not in repr(caught.value)
    assert "$.providerConfig.values" in str(caught.value)
    assert caught.value.__cause__ is None
