"""Phone numbers: the one form in which they are kept (E.164) and the one in which they are shown (masked)."""

import re
import unicodedata

import phonenumbers

from protocol.errors import DialdeskError

_SHORT_OR_SERVICE = re.compile(r"(?:(?:\+|00)86)?((?:400|800)[0-9]{7}|95[0-9]{3,6}|1[0-2][0-9]{3,4})")
_NUMBER = re.compile(r"\+?[0-9]{3,20}")
# what people write between digits, and the invisible marks that come along when a number is copied from a phone
_PUNCTUATION = re.compile(r"[\s().\-/‐-―−\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


def normalize(number: str, region: str = "CN") -> str:
    """Return the E.164 form of a number as a person or a CRM writes it; `region` is where it is dialled from.

    Chinese 400/800 and short service numbers have no E.164 form and are kept as their digits.
    Raises INVALID_PHONE for anything that no exchange could route, for emergency numbers, and for letters and
    extensions: E.164 cannot hold them, and the number without them is somebody else's.
    """
    digits = _PUNCTUATION.sub("", unicodedata.normalize("NFKC", number[:41]))
    if len(number) > 40 or not _NUMBER.fullmatch(digits):
        raise DialdeskError("INVALID_PHONE")
    if region == "CN" and (service := _SHORT_OR_SERVICE.fullmatch(digits)):
        return service[1]
    try:
        parsed = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException as error:
        raise DialdeskError("INVALID_PHONE") from error
    if not phonenumbers.is_valid_number(parsed):
        raise DialdeskError("INVALID_PHONE")
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def dialable(number: str, region: str = "CN") -> str:
    """Return what a handset in `region` is told to dial: the national digits at home, E.164 abroad."""
    if number.startswith("+"):
        parsed = phonenumbers.parse(number)
        if phonenumbers.region_code_for_country_code(parsed.country_code or 0) == region:
            national = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
            return re.sub(r"\D", "", national)
    return number


def mask(number: str) -> str:
    """Return the number with all but the first 3 and last 4 national digits starred (seed 000: 3+4).

    A number too short to keep seven digits and still hide three is starred whole.
    """
    plain = number.removeprefix("+86")
    if len(plain) < 10:
        return "*" * len(plain)
    return f"{plain[:3]}{'*' * (len(plain) - 7)}{plain[-4:]}"
