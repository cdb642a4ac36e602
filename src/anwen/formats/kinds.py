"""Each kind's way from what a file or a program hands in to the one form that is sealed.

`canonical` is the way in: strings are cleaned by the rules of `characters`, then the kind's own function takes the
field and the value, which is not None, and returns the canonical value: a string, integer, boolean or JSON container.
It raises `RefusalError` with a reason that never repeats the value. `normalise` is the door to all this. Pure.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from anwen.formats import characters, identifiers
from anwen.formats.characters import RefusalError
from anwen.model import Field

EMAIL_CHARACTERS = 254  # RFC 5321, 4.5.3.1.3 (a path of 256 with its brackets)
JSON_CHARACTERS = 65_536
JSON_DEPTH = 32
DECIMAL_DIGITS = 38

_FROM_STRINGS = frozenset({"text", "name", "address", "email", "phone", "national_id"})
_INT64 = range(-(2**63), 2**63)
_EXACT_FLOAT = 2**53
_INT = re.compile(r"[+-]?[0-9]{1,32}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,64}(?:\.[0-9]{0,64})?|\.[0-9]{1,64})")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}")
_DATETIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_BOOL = {"true": True, "false": False, "1": True, "0": False}


def canonical(field: Field, value: object) -> object:
    """Return the canonical value of a known kind. Raises RefusalError."""
    convert, limit = BY_KIND[field.kind]
    if limit and isinstance(value, str):
        if len(value) > 2 * limit:  # composing may still shorten it
            raise RefusalError(f"expected at most {limit} characters, got {len(value)}")
        value = characters.lines(value) if field.kind == "text" else characters.one_line(value)
        if field.kind in ("text", "name", "address") and len(value) > limit:
            raise RefusalError(f"expected at most {limit} characters, got {len(value)}")
    elif field.kind in _FROM_STRINGS:
        raise RefusalError(f"expected a string, got {type(value).__name__}")
    return convert(field, value)


def text(field: Field, value: str) -> str:
    """Return text in NFKC with its line breaks; one of `field.values` where the field lists them."""
    if field.values is not None and value not in field.values:
        raise RefusalError(f"expected one of {', '.join(field.values)}")
    return value


def name(_field: Field, value: str) -> str:
    """Return a person's name on one line: at least one letter, no word of mixed scripts."""
    if not any(map(str.isalpha, value)):
        raise RefusalError("expected at least one letter")
    characters.check_scripts(value)
    return value


def email(_field: Field, value: str) -> str:
    """Return an address of the plain kind (RFC 5321 dot-string at a host name), the domain in lower case.

    Quoted local parts, comments, address literals and characters outside ASCII are refused; write an
    internationalised domain as ``xn--``.
    """
    if len(value) > EMAIL_CHARACTERS or _EMAIL.fullmatch(value) is None:
        raise RefusalError("expected an e-mail address such as a@b.example, in ASCII")
    local, _, domain = value.rpartition("@")
    if len(local) > 64:
        raise RefusalError("expected at most 64 characters before the @")
    return f"{local}@{domain.lower()}"


def calendar_date(_field: Field, value: object) -> str:
    """Return YYYY-MM-DD. Takes that, YYYYMMDD, dates, and datetimes at midnight."""
    if isinstance(value, datetime):
        if value.time().isoformat() != "00:00:00":
            raise RefusalError("expected a date, got a date with a time of day")
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, str) or _DATE.fullmatch(value) is None:
        raise RefusalError("expected a date as YYYY-MM-DD")
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise RefusalError("expected a date that exists, as YYYY-MM-DD") from None


def instant(_field: Field, value: object) -> str:
    """Return an RFC 3339 instant in UTC, such as 2026-01-31T08:00:00Z; the fraction only where there is one.

    A time without an offset is refused: guessing a zone would move it by hours.
    """
    if not isinstance(value, datetime):
        if not isinstance(value, str) or _DATETIME.fullmatch(value) is None:
            raise RefusalError("expected date and time with an offset, as 2026-01-31T08:00:00Z")
        try:
            value = datetime.fromisoformat(value.upper())
        except ValueError:
            raise RefusalError("expected a time that exists, as 2026-01-31T08:00:00Z") from None
    if value.tzinfo is None:
        raise RefusalError("expected an offset from UTC, as 2026-01-31T08:00:00Z")
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        raise RefusalError("expected a time within the years 1 to 9999 in UTC") from None
    return utc.replace(tzinfo=None, fold=0).isoformat() + "Z"


def integer(_field: Field, value: Any) -> int:
    """Return an integer of 64 bits. Takes integers, whole floats below 2**53 and decimal digits."""
    if isinstance(value, bool):
        raise RefusalError("expected an integer, got bool")
    if isinstance(value, float | Decimal):
        if not _is_finite(value) or not -_EXACT_FLOAT <= value <= _EXACT_FLOAT or value != int(value):
            raise RefusalError("expected a whole number")
        result = int(value)
    elif isinstance(value, str):
        if _INT.fullmatch(value) is None:
            raise RefusalError("expected an integer in decimal digits")
        result = int(value)
    else:
        try:
            result = operator.index(value)  # numpy's integers among others
        except TypeError:
            raise RefusalError(f"expected an integer, got {type(value).__name__}") from None
    if result not in _INT64:
        raise RefusalError("expected an integer of at most 64 bits")
    return result


def decimal(_field: Field, value: object) -> str:
    """Return a decimal number without exponent, such as -12.50: its scale stays, its sign of zero does not.

    Floats are taken by their shortest form that reads back equal. At most 38 digits.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise RefusalError(f"expected a decimal number, got {type(value).__name__}")
    if isinstance(value, str) and _DECIMAL.fullmatch(value) is None:
        raise RefusalError("expected a decimal number in plain digits, such as -12.50")
    if isinstance(value, int) and value not in _INT64:
        raise RefusalError("expected an integer of at most 64 bits")
    number = Decimal(float.__repr__(value) if isinstance(value, float) else value)
    if not number.is_finite():
        raise RefusalError("expected a finite number")
    _sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # finite
    if max(len(digits) + max(exponent, 0), -exponent) > DECIMAL_DIGITS:
        raise RefusalError(f"expected at most {DECIMAL_DIGITS} digits")
    return format(abs(number) if number.is_zero() else number, "f")


def _is_finite(value: float | Decimal) -> bool:
    return value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)


def boolean(_field: Field, value: object) -> bool:
    """Return a truth value. Takes booleans, and true, false, 1, 0 in any case."""
    if isinstance(value, bool):
        return value
    result = _BOOL.get(value.lower()) if isinstance(value, str) else None
    if result is None:
        raise RefusalError("expected true or false")
    return result


def json_value(_field: Field, value: object) -> object:
    """Return a JSON object or array: keys sorted, whole floats as integers, strings as they came.

    Strings are read as JSON text, so that a column of a CSV file can hold it; a bare string, number or
    null is refused, because it could not be told from such text.
    """
    if isinstance(value, str):
        if len(value) > JSON_CHARACTERS:
            raise RefusalError(f"expected at most {JSON_CHARACTERS} characters of JSON")
        try:
            value = json.loads(value, object_pairs_hook=_object)
        except RefusalError:
            raise
        except (ValueError, RecursionError):
            raise RefusalError("expected JSON") from None
    if not isinstance(value, dict | list):
        raise RefusalError("expected a JSON object or array")
    result = _json(value, JSON_DEPTH)
    if len(json.dumps(result, ensure_ascii=False, separators=(",", ":"))) > JSON_CHARACTERS:
        raise RefusalError(f"expected at most {JSON_CHARACTERS} characters of JSON")
    return result


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise RefusalError("holds a JSON key twice")
    return result


def _json(value: object, depth: int) -> object:
    if isinstance(value, str):
        characters.check(value.replace("\n", " ").replace("\t", " ").replace("\r", " "))
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float | Decimal):
        return _json_number(value)
    if depth == 0:
        raise RefusalError(f"expected at most {JSON_DEPTH} levels of JSON")
    if isinstance(value, list | tuple):
        return [_json(item, depth - 1) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_json(key, 0): _json(value[key], depth - 1) for key in sorted(value)}
    raise RefusalError(f"expected JSON, got {type(value).__name__}")


def _json_number(value: float | Decimal) -> int | float:
    if isinstance(value, int):
        if value not in _INT64:
            raise RefusalError("expected integers of at most 64 bits")
        return value
    if not _is_finite(value) or not math.isfinite(number := float(value)):
        raise RefusalError("expected finite numbers")
    return int(number) if number.is_integer() and abs(number) <= _EXACT_FLOAT else number


BY_KIND: dict[str, tuple[Callable[[Field, Any], object], int | None]] = {
    "text": (text, 4096),
    "name": (name, 256),
    "date": (calendar_date, 32),
    "datetime": (instant, 64),
    "int": (integer, 32),
    "decimal": (decimal, 64),
    "bool": (boolean, 8),
    "phone": (lambda field, value: identifiers.e164(value, field.region), 40),
    "email": (email, EMAIL_CHARACTERS),
    "address": (lambda _field, value: value, 512),
    "json": (json_value, None),
    "national_id": (lambda field, value: identifiers.national_id(value, field.scheme), 64),
}
"""What makes a value of each kind canonical, and how many characters a string of it may have."""


def is_text(value: str) -> bool:
    """Return whether each character of a string, tabs and line breaks aside, may stand in a value."""
    try:
        characters.check(value.replace("\n", " ").replace("\t", " "))
    except RefusalError:
        return False
    return True


def is_canonical(field: Field, value: object) -> bool:
    """Return whether a value has the form of `canonical`'s results, whatever lists and schemes say of it today."""
    limit = BY_KIND[field.kind][1]
    try:
        if field.kind == "phone":
            return isinstance(value, str) and identifiers.E164.fullmatch(value) is not None
        if field.kind in ("text", "national_id"):
            clean = characters.lines if field.kind == "text" else characters.one_line
            return isinstance(value, str) and 0 < len(value) <= (limit or 0) and clean(value) == value
        form = canonical(field, value)
    except (ValueError, ArithmeticError):
        return False
    if field.kind == "json":
        return json.dumps(form) == json.dumps(value)
    return type(form) is type(value) and form == value and form != ""
