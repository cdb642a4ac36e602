"""Which fields must not be indexed, because the index itself would tell their values.

Labels in the store stay random whatever the field is. But keepers see equal tokens of what is written and
searched, nodes see how many rows a search returns, and a login with the right to search beside one keeper tries
every value: with few values each of these says which one it is (Naveed, Kamara, Wright, CCS 2015).

Pure: no I/O.
"""

from __future__ import annotations

import re

from anwen.model import Field

FEW_VALUES = re.compile(
    "age|blood|category|citizenship|city|class|colou?r|country|county|currency|day|district|education|employed|"
    "ethnic|ethnicity|flag|gender|grade|kind|language|level|marital|married|month|nationality|occupation|"
    "orientation|party|postcode|profession|province|race|rank|region|religion|salutation|sex|state|status|title|"
    "type|weekday|year|zip"
)
"""Words in a field's name that say it has few values."""

_WHY = {
    "bool": "a bool has at most 2 values",
    "date": "a date has at most 40,000 days in a century, and birth dates of a known person are public",
    "datetime": "a datetime has at most 31,536,000 seconds in a year, few of them plausible",
}
_LEAK = (
    "{}. The store would show random labels only, but each keeper sees equal tokens of what is written and searched "
    "and matches their counts with a census; each node sees by the size of an answer which value was searched; and a "
    "login that may search, beside one keeper, tries all values. Leave the index out and filter what a search on "
    "another field returns"
)


def index_leak(field: Field) -> str | None:
    """Return what an index on `field` would leak, None when an index may stand."""
    if field.index is None:
        return None
    if field.kind == "json":
        return (
            "a json field has many forms of one value: equal contents may differ in bytes; searches would miss records "
            "in silence. Index a field of its own"
        )
    why = f"has {len(field.values)} values" if field.values is not None else _WHY.get(field.kind)
    if why is None and field.index == "exact":
        word = next(filter(FEW_VALUES.fullmatch, sorted(field.name.split("_"))), None)
        if field.kind in ("int", "decimal"):
            why = f"numbers of kind {field.kind} that may repeat are mostly small ones"
        elif word is not None and field.kind in ("text", "address"):
            why = f'"{field.name}" has few values by its name ("{word}")'
    return None if why is None else _LEAK.format(why)


def mask_problem(field: Field) -> str | None:
    """Return why a mask on `field` cannot stand, or None."""
    if field.mask is None:
        return None
    if field.values is not None:
        return "the last four characters of one of a few values are the value. Leave the mask out"
    if field.kind in ("bool", "date", "datetime", "int", "decimal", "json"):
        return f"a {field.kind} has no last four characters that hide the rest. Leave the mask out"
    return None
