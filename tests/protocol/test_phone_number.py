"""Phone numbers as people write them, as they are kept, dialled and shown."""

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DialdeskError
from protocol.phone_number import dialable, mask, normalize


@pytest.mark.parametrize(
    "written",
    [
        "13912345678",
        "139 1234 5678",
        "139-1234-5678",
        "139.1234.5678",
        "139‐1234‐5678",
        "139–1234—5678",
        "139−1234−5678",
        " 13912345678\n",
        "139\u00a01234\u30005678",
        "+8613912345678",
        "+86 139 1234 5678",
        "+86-139-1234-5678",
        "(+86) 139 1234 5678",
        "0086 139 1234 5678",
        "008613912345678",
        "8613912345678",
        "013912345678",
        "１３９１２３４５６７８",
        "＋８６　１３９－１２３４－５６７８",
        "（１３９）12345678",
        "\u202d13912345678\u202c",
        "\ufeff139\u200b12345678",
    ],
)
def test_a_mobile_is_one_number_however_it_is_written(written: str) -> None:
    """Spaces, dashes, brackets, prefixes, full-width digits and invisible marks make no other number."""
    assert "+8613912345678" == normalize(written)


@pytest.mark.parametrize(
    ("written", "kept", "dialled"),
    [
        ("021-12345678", "+862112345678", "02112345678"),
        ("02112345678", "+862112345678", "02112345678"),
        ("(021) 1234 5678", "+862112345678", "02112345678"),
        ("+86 21 1234 5678", "+862112345678", "02112345678"),
        ("+86 021 1234 5678", "+862112345678", "02112345678"),
        ("0755-83765566", "+8675583765566", "075583765566"),
        ("010-62345678", "+861062345678", "01062345678"),
        ("0991-1234567", "+869911234567", "09911234567"),
    ],
)
def test_a_landline_is_dialled_with_its_area_code(written: str, kept: str, dialled: str) -> None:
    """A handset in China needs the 0 before the area code, wherever it is registered."""
    assert (kept, dialled) == (normalize(written), dialable(normalize(written)))


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("4001234567", "4001234567"),
        ("400-123-4567", "4001234567"),
        ("800 810 1234", "8008101234"),
        ("+86 400 123 4567", "4001234567"),
        ("0086-800-810-1234", "8008101234"),
        ("10086", "10086"),
        ("+86 10086", "10086"),
        ("95588", "95588"),
        ("955-88", "95588"),
        ("95013123", "95013123"),
        ("12345", "12345"),
        ("118114", "118114"),
        ("１００８６", "10086"),
        ("400１２３４５６７", "4001234567"),
    ],
)
def test_a_service_number_is_kept_and_dialled_as_its_digits(written: str, kept: str) -> None:
    """400, 800, 95 and operators' numbers have no international form: their digits, in ASCII, are all there is."""
    assert (kept, kept) == (normalize(written), dialable(normalize(written)))


@pytest.mark.parametrize("number", ["110", "119", "120", "122", "+86110", "112", "911", "999"])
def test_no_emergency_number_can_be_called(number: str) -> None:
    """A sales desk has no business with the police and the fire brigade, least of all in a batch."""
    with pytest.raises(DialdeskError, match="not valid"):
        normalize(number)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("+852 9123 4567", "+85291234567"),
        ("00852 9123 4567", "+85291234567"),
        ("+1 (415) 555-2671", "+14155552671"),
        ("+44 (0)20 7946 0018", "+442079460018"),
        ("+39 06 698 12345", "+390669812345"),
        ("+52 55 1234 5678", "+525512345678"),
        ("+52 33 1234 5678", "+523312345678"),
    ],
)
def test_a_number_abroad_is_kept_and_dialled_in_full(written: str, kept: str) -> None:
    """Any country's number is known by its +, and a Chinese handset dials it so."""
    assert (kept, kept) == (normalize(written), dialable(normalize(written)))


@pytest.mark.parametrize(
    ("written", "region", "kept", "dialled"),
    [
        ("(415) 555-2671", "US", "+14155552671", "4155552671"),
        ("55 1234 5678", "MX", "+525512345678", "5512345678"),
        ("9123 4567", "HK", "+85291234567", "91234567"),
        ("+86 139 1234 5678", "HK", "+8613912345678", "+8613912345678"),
    ],
)
def test_home_is_where_the_handset_is(written: str, region: str, kept: str, dialled: str) -> None:
    """A desk elsewhere writes and dials its own country's numbers short, and China's in full."""
    assert (kept, dialled) == (normalize(written, region), dialable(kept, region))


def test_chinese_service_numbers_exist_in_china_only() -> None:
    """10086 dialled in Hong Kong is no operator."""
    with pytest.raises(DialdeskError, match="not valid"):
        normalize("10086", "HK")


@pytest.mark.parametrize(
    "written",
    [
        pytest.param("", id="nothing"),
        pytest.param("   ", id="spaces"),
        pytest.param("+", id="a plus"),
        pytest.param("-", id="a dash"),
        pytest.param("0", id="a zero"),
        pytest.param("+86", id="a country"),
        pytest.param("+999 1234567", id="no country"),
        pytest.param("1391234567", id="a digit too few"),
        pytest.param("139123456789", id="a digit too many"),
        pytest.param("12345678901", id="no operator's number"),
        pytest.param("62345678", id="no area code"),
        pytest.param("139" * 13, id="many digits"),
        pytest.param(" " * 30 + "13912345678", id="too long"),
        pytest.param("1" * 100_000, id="far too long"),
        pytest.param("abc", id="letters"),
        pytest.param("1-800-FLOWERS", id="a number in letters"),
        pytest.param("1391234567O", id="the letter O"),
        pytest.param("张三 13912345678", id="a name"),
        pytest.param("13912345678(家)", id="a remark"),
        pytest.param("Tel: 13912345678", id="a label"),
        pytest.param("021-62345678-801", id="an extension after a dash"),
        pytest.param("021-62345678转801", id="an extension in Chinese"),
        pytest.param("021-62345678 ext 801", id="an extension in English"),
        pytest.param("021-62345678,801", id="an extension after a pause"),
        pytest.param("021-62345678#801", id="an extension after a hash"),
        pytest.param("+862162345678;ext=801", id="an extension by RFC 3966"),
        pytest.param("13912345678/13987654321", id="two numbers"),
        pytest.param("13912345678;13987654321", id="two numbers, another way"),
        pytest.param("*21*13912345678#", id="call forwarding"),
        pytest.param("*#06#", id="a code for the handset"),
        pytest.param("139+12345678", id="a plus inside"),
        pytest.param("139\x0012345678", id="NUL"),
        pytest.param("\ud800", id="a surrogate"),
        pytest.param("🙂", id="a smile"),
        pytest.param("١٣٩١٢٣٤٥٦٧٨", id="Arabic digits"),
        pytest.param("139****5678", id="a masked number"),
    ],
)
def test_what_no_exchange_can_route_is_refused(written: str) -> None:
    """INVALID_PHONE, and no guess: a digit that is dropped or turned from a letter calls somebody else."""
    with pytest.raises(DialdeskError) as caught:
        normalize(written)

    assert "INVALID_PHONE" == caught.value.code


# --- whatever number -------------------------------------------------------------------------------------------------

mobiles = st.builds(
    lambda prefix, rest: f"{prefix}{rest:08d}",
    st.sampled_from([*range(130, 140), *range(150, 154), *range(155, 160), *range(180, 190)]),
    st.integers(0, 10**8 - 1),
)
separators = st.lists(st.sampled_from(["", "", "", " ", "-", "  ", "\u3000", "\u200b"]), min_size=11, max_size=11)

EXAMPLES = [
    pytest.param(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164), region, id=f"{region}-{name}")
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    for name, kind in [
        ("mobile", phonenumbers.PhoneNumberType.MOBILE),
        ("landline", phonenumbers.PhoneNumberType.FIXED_LINE),
    ]
    if (number := phonenumbers.example_number_for_type(region, kind)) is not None
]


@given(mobiles, separators, st.sampled_from(["", "+86", "0086", "+86 ", "(+86)", "0"]))
def test_any_mobile_is_read_however_it_is_grouped(number: str, separators: list[str], prefix: str) -> None:
    """Wherever separators stand and whatever prefix is written, the number is the same."""
    written = "".join(f"{separator}{digit}" for separator, digit in zip(separators, number, strict=True))

    assert f"+86{number}" == normalize(f"{prefix}{written}")


@given(mobiles | st.builds("0{}".format, st.sampled_from(["2161234567", "2162345678", "75583765566", "9911234567"])))
def test_what_is_dialled_is_the_number_that_is_kept(written: str) -> None:
    """The digits given to a handset, read as a person would write them, name the same number."""
    kept = "invalid"
    try:
        kept = normalize(written)
    except DialdeskError:
        return

    assert kept == normalize(dialable(kept))


@pytest.mark.parametrize(("number", "region"), EXAMPLES)
def test_every_country_s_numbers_come_back_from_being_dialled(number: str, region: str) -> None:
    """E.164 is kept as it is, and is what a Chinese handset's digits mean again."""
    assert number == normalize(number)
    assert number == normalize(dialable(number))


@given(st.text("0123456789+-() 　０１２３４５６７８９", max_size=24) | st.text(max_size=50))
def test_what_is_kept_is_digits_and_is_kept_the_same_again(written: str) -> None:
    """Any text is refused or becomes ASCII digits, perhaps after a plus, that neither reading nor dialling alters."""
    try:
        kept = normalize(written)
    except DialdeskError as error:
        kept = error.code

    assert kept == "INVALID_PHONE" or (
        kept.removeprefix("+").isdecimal() and kept.isascii() and kept == normalize(kept) == normalize(dialable(kept))
    )


# --- shown -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("+8613912345678", "139****5678"),
        ("13912345678", "139****5678"),
        ("4001234567", "400***4567"),
        ("10086", "*****"),
        ("95013123", "********"),
        ("123456789", "*********"),
        ("", ""),
    ],
)
def test_a_number_shows_its_first_three_and_last_four(number: str, shown: str) -> None:
    """A Chinese number is shown 3+4 without its country; one too short for that shows only its length."""
    assert shown == mask(number)


@given(st.text(max_size=40) | mobiles.map("+86{}".format))
def test_a_mask_hides_three_digits_at_least(number: str) -> None:
    """Whatever stands in the field, at most seven characters of it are seen, and three at least are not."""
    shown = mask(number)
    plain = number.removeprefix("+86")
    hidden = shown.count("*") - plain.count("*") if len(plain) >= 10 else len(plain)

    assert len(plain) == len(shown)
    assert hidden >= min(3, len(plain)) or "*" in plain
    assert len(shown.replace("*", "")) <= 7


def test_a_masked_number_stays_as_it_is() -> None:
    """Masking twice hides nothing more, so nobody need remember whether it was done."""
    assert mask("13912345678") == mask(mask("13912345678"))
