"""Phone numbers as E.164 and national identifiers in compact form.

Source: ITU-T E.164 with the numbering plans of `phonenumbers` (Google's libphonenumber); the number formats of
`python-stdnum`. Both are imported here and nowhere else; keepers and nodes import neither. Pure.
"""

from __future__ import annotations

import datetime as dt
import importlib
import re
from functools import cache
from types import ModuleType

import phonenumbers
from stdnum import numdb
from stdnum.exceptions import InvalidChecksum, InvalidLength, ValidationError

from anwen.formats.characters import RefusalError

E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_DIALLED = re.compile(r"\+?[0-9 ().\-/]+")
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-"))
_SCHEME = re.compile(r"([a-z]{2})\.([a-z0-9_]{1,32})")
_NOT_A_NUMBER = "expected a phone number with its country code, such as +8613800138000"


def e164(dialled: str, region: str | None) -> str:
    """Return a phone number as E.164: one form however it was written.

    Args:
        dialled: digits, spaces, ``( ) . - /`` and a leading +; no letters and no extension.
        region: where a number without country code belongs, such as "CN"; None refuses such numbers.

    Numbers need the length of *possible* ones, not an allotted range: allotments change faster than libraries, and a
    number that was good when it was written must stay findable. About 1 us in E.164 already, 15 us else.
    """
    if E164.fullmatch(dialled) is None or not _settled(dialled):
        written = dialled.translate(_DASHES)
        if _DIALLED.fullmatch(written) is None:
            raise RefusalError(_NOT_A_NUMBER)
        if region is None and not written.startswith("+"):
            raise RefusalError("expected a country code: the field has no default region")
        dialled = _parsed(written, region)
        if dialled != written and not _settled(dialled) and _parsed(dialled, None) != dialled:
            raise RefusalError("expected a phone number that can be read in one way only")
    return dialled


@cache
def _plan(country: str) -> tuple[frozenset[int], re.Pattern[str] | None] | None:
    """Return the possible lengths of a country code's numbers and what a trunk prefix looks like."""
    region = phonenumbers.region_code_for_country_code(int(country))
    metadata = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code(int(country), region)
    if metadata is None or metadata.general_desc is None:
        return None
    trunk = metadata.national_prefix_for_parsing
    return frozenset(metadata.general_desc.possible_length), re.compile(trunk) if trunk else None


def _settled(number: str) -> bool:
    """Return whether `number`, in the form of E.164, is what the slow way would make of it."""
    for digits in (1, 2, 3):
        if int(number[1 : 1 + digits]) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
            plan = _plan(number[1 : 1 + digits])
            national = number[1 + digits :]
            return (
                plan is not None and len(national) in plan[0] and (plan[1] is None or plan[1].match(national) is None)
            )
    return False


def _parsed(written: str, region: str | None) -> str:
    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        raise RefusalError(_NOT_A_NUMBER) from None
    # stricter than `is_possible_number`, which also takes a local number without its area code
    possible = phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE
    if number.extension or not possible:
        raise RefusalError("expected a phone number of a possible length, without extension")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@cache
def _scheme(scheme: str) -> ModuleType | None:
    """Return the python-stdnum module of a scheme. The pattern keeps the import below `stdnum` and a country."""
    match = _SCHEME.fullmatch(scheme)
    if match is None:
        return None
    for country in (match[1], match[1] + "_"):  # stdnum.is_, stdnum.in_: words of Python
        try:
            module = importlib.import_module(f"stdnum.{country}.{match[2]}")
        except ModuleNotFoundError:
            continue
        return module if hasattr(module, "validate") and hasattr(module, "compact") else None
    return None


def scheme_exists(scheme: str) -> bool:
    """Return whether `scheme` names a national identifier of python-stdnum, such as "cn.ric"."""
    return _scheme(scheme) is not None


def national_id(written: str, scheme: str | None) -> str:
    """Return an identifier in its scheme's compact form, check digits verified.

    "cn.ric" has a rule of its own, `resident_identity`. About 4 us for it.
    """
    module = _scheme(scheme) if scheme else None
    if module is None:
        raise RefusalError("the field names no scheme of python-stdnum")
    try:
        return resident_identity(written) if scheme == "cn.ric" else str(module.validate(written))
    except InvalidChecksum:
        raise RefusalError(f"expected the right check digit of {scheme}") from None
    except InvalidLength:
        raise RefusalError(f"expected the length of {scheme}") from None
    except (ValidationError, ValueError, IndexError, KeyError):
        raise RefusalError(f"expected a number of the form of {scheme}") from None


@cache
def _provinces() -> frozenset[str]:
    known = numdb.get("cn/loc")
    return frozenset(p for p in map(str, range(10, 100)) if known.info(p + "0000")[0][1]) | {"83"}  # 83: since 2018


_RIC_WEIGHTS = tuple(pow(2, 17 - i, 11) for i in range(17))


def resident_identity(written: str) -> str:
    """Return a resident identity number of mainland China (GB 11643-1999): 18 characters, the last may be X.

    Checked: check digit, date of birth, province. Not the county, as `stdnum.cn.ric.validate` does: that refuses
    a person born before the county code existed, though numbers were given out from 1984 on, with the codes
    of that day, to people born long before.
    """
    number = written.replace(" ", "").replace("-", "").upper()
    if len(number) != 18:
        raise InvalidLength
    body = number[:17]
    if not (body.isascii() and body.isdigit() and number[17] in "0123456789X"):
        raise ValidationError
    total = sum(weight * int(digit) for weight, digit in zip(_RIC_WEIGHTS, body, strict=True))
    if "10X98765432"[total % 11] != number[17]:
        raise InvalidChecksum
    dt.date(int(body[6:10]), int(body[10:12]), int(body[12:14]))
    if body[:2] not in _provinces():
        raise RefusalError("expected a province that exists, at the head of the number")
    return number
