"""Which fields must not be indexed, because the index itself would tell their values.

Labels in the store stay random whatever the field is. But keepers see equal tokens of what is written and
searched, nodes see how many rows a search returns, and a login with the right to search beside one keeper tries
every value: with few values each of these says which one it is (Naveed, Kamara, Wright, CCS 2015).

Pure: no I/O.
"""

from __future__ import annotations

from anwen.model import Field

# fmt: off
FEW_VALUES = frozenset(
    {
        "age", "blood", "category", "citizenship", "city", "class", "colour", "color",
        "country", "county", "currency", "day", "district", "education", "employed", "ethnic",
        "ethnicity", "flag", "gender", "grade", "kind", "language", "level", "marital",
        "married", "month", "nationality", "occupation", "orientation", "party", "postcode", "profession",
        "province", "race", "rank", "region", "religion", "salutation", "sex", "state",
        "status", "title", "type", "weekday", "year", "zip",
    }
)
# fmt: on
"""Words in a field's name that say it has few values."""

_BY_KIND = {
    "bool": (2, "values"),
    "date": (40_000, "days in a century, and birth dates of a known person are public"),
    "datetime": (31_536_000, "seconds in a year, few of them plausible"),
    "json": (0, "forms of one value: equal contents may differ in bytes"),
}


def index_leak(field: Field) -> str | None:
    """Return what an index on `field` would leak, None when an index may stand."""
    if field.index is None:
        return None
    if field.values is not None:
        return _leak(f"has {len(field.values)} values")
    if field.kind in _BY_KIND:
        count, what = _BY_KIND[field.kind]
        if field.kind == "json":
            return f"a json field has many {what}; searches would miss records in silence. Index a field of its own"
        return _leak(f"a {field.kind} has at most {count:,} {what}")
    if field.kind in ("int", "decimal") and field.index == "exact":
        return _leak(f"numbers of kind {field.kind} that may repeat are mostly small ones")
    words = FEW_VALUES.intersection(field.name.split("_"))
    if words and field.index == "exact" and field.kind in ("text", "address"):
        return _leak(f'"{field.name}" has few values by its name ("{min(words)}")')
    return None


def _leak(why: str) -> str:
    return (
        f"{why}. The store would show random labels only, but each keeper sees equal tokens of what is written and "
        "searched and matches their counts with a census; each node sees by the size of an answer which value was "
        "searched; and a login that may search, beside one keeper, tries all values. Leave the index out and "
        "filter what a search on another field returns"
    )


def mask_problem(field: Field) -> str | None:
    """Return why a mask on `field` cannot stand, or None."""
    if field.mask is None:
        return None
    if field.values is not None:
        return "the last four characters of one of a few values are the value. Leave the mask out"
    if field.kind in ("bool", "date", "datetime", "int", "decimal", "json"):
        return f"a {field.kind} has no last four characters that hide the rest. Leave the mask out"
    return None
