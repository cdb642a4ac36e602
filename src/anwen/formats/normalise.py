"""One form for every value: what is sealed, what is indexed and what a masked rendition shows.

Two clients that read the same person must seal and look up the same bytes, so all rules are here, pinned by
`NORMALISER_VERSION`: it is part of every index key, and keepers refuse index requests of another version. The
rules are in docs/spec/normalise.md; a change to any result is a new version.

Pure. A resident of seven fields takes 10 to 25 us. Errors name the field and the reason, never the value.
"""

from __future__ import annotations

import re

from anwen.errors import MalformedError
from anwen.formats import characters, identifiers, kinds
from anwen.formats.characters import RefusalError
from anwen.model import Field

NORMALISER_VERSION = 1
"""Two bytes in the input of every index key."""

KINDS = frozenset(kinds.BY_KIND)
"""What `model.Field.kind` may be."""

INDEXABLE_KINDS = KINDS - {"json", "bool"}
"""Kinds that may carry an index: JSON has no one meaning, a truth value no entropy."""

MASK_CHARACTERS = 4
MASK = "••••"
"""Stands for what is hidden, in one width for all: a rendition does not tell the value's length."""

_LAST4 = re.compile(MASK + "(?: .{4})?", re.DOTALL)
_FOLDED_KINDS = frozenset({"text", "name", "email", "address"})
_NAME_MARKS = str.maketrans(dict.fromkeys("‐‑‒–—", "-") | dict.fromkeys("‘’ʼ", "'") | dict.fromkeys("‧•・∙⋅", "·"))

scheme_exists = identifiers.scheme_exists


def normalise(field: Field, value: object) -> object:
    """Return the canonical value of `field`: str, int, bool, JSON container, or None where there is none.

    Takes strings (from CSV files and people) and native values (from JSON, Arrow and programs). None, and a string
    of nothing but white space, are no value. Applying it again changes nothing.

    Raises:
        MalformedError: the value does not fit the field's kind, or is missing and required.
    """
    if field.kind not in KINDS:
        raise MalformedError(f"{field.name}: unknown kind {field.kind}")
    if value is None or (isinstance(value, str) and (not value or value.isspace())):
        if field.required:
            raise MalformedError(f"{field.name}: a value is required")
        return None
    try:
        return kinds.canonical(field, value)
    except RefusalError as refusal:
        reason = str(refusal)
    except (ValueError, ArithmeticError):  # a native value's own conversion; its text may hold the value
        reason = f"expected a value of kind {field.kind}"
    raise MalformedError(f"{field.name}: {reason}")


def index_bytes(field: Field, canonical: object) -> bytes:
    """Return what is tokenised: the same bytes for all values that count as equal.

    Text, names, e-mail and postal addresses are compared without case and runs of white space, names also with one
    kind of hyphen, apostrophe and middle dot; decimals by value.

    Args:
        canonical: a result of `normalise`, not None.

    Raises:
        MalformedError: the kind cannot be indexed, or there is no value.
    """
    if field.kind not in INDEXABLE_KINDS:
        raise MalformedError(f"{field.name}: kind {field.kind} cannot be indexed")
    if canonical is None:
        raise MalformedError(f"{field.name}: no value to index")
    plain = str(canonical)
    if field.kind in _FOLDED_KINDS:
        if field.kind == "name" and not plain.isascii():
            plain = plain.translate(_NAME_MARKS)
        plain = characters.folded(plain)
    elif field.kind == "decimal" and "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return plain.encode()


def mask(field: Field, canonical: object) -> str | None:
    """Return what the rendition shows of a value; None where it shows nothing of the field at all.

    `last4` is ``•••• 4747``: the last four characters of a value of twelve or more, so never over a third of it;
    of a shorter value it is ``••••``. A field without `mask`, or without value, is absent from the rendition.
    """
    if field.mask is None or canonical is None:
        return None
    if field.mask != "last4":
        raise MalformedError(f"{field.name}: unknown mask {field.mask}")
    plain = str(canonical)
    return f"{MASK} {plain[-MASK_CHARACTERS:]}" if len(plain) >= 3 * MASK_CHARACTERS else MASK


def expected_mask(field: Field, searched: bytes) -> str | None:
    """Return what the rendition of a value shows, by its `index_bytes`; None where these leave it open."""
    if field.kind in _FOLDED_KINDS or field.kind == "decimal":
        return None  # values that count as equal have different masks
    return mask(field, searched.decode())


def is_mask(rendition: object) -> bool:
    """Return whether a rendition's value has the shape of a mask. A reader refuses any other, whoever wrote it."""
    return isinstance(rendition, str) and _LAST4.fullmatch(rendition) is not None and kinds.is_text(rendition)


def is_canonical(field: Field, value: object) -> bool:
    """Return whether an opened value is in the one form that `normalise` gives. A reader refuses any other.

    Only its form: whether it would be taken today depends on numbering plans, schemes and lists of values, which
    change, and what was sealed under older ones stays readable. 1 to 5 us.
    """
    return kinds.is_canonical(field, value)
