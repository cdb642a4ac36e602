"""A record with and without a value of an optional field looks the same in the store, whatever happens to it."""

import itertools
import json
import sqlite3
from collections import Counter

import pytest

import anwen
from anwen import vault_folder
from anwen.client import audit
from anwen.errors import ConflictError
from anwen.model import INDEX_CLASS

from .conftest import person

OPTIONAL = ("phone", "email", "birth_date")
CASE = {"kind": "theft", "occurred": "2024-05-01T10:00:00Z", "description": "a bicycle", "case_number": "AB-7"}
CONTACT = {"phone": "+8613800138001", "email": "x@example.org", "address": "elsewhere 1"}


@pytest.fixture
def police(tmp_path):
    return anwen.create(tmp_path / "v", "police")


def looks(folder):
    """What a dump shows of each record, random bytes apart: sizes, numbers, flags, in the order of its versions."""
    with sqlite3.connect(folder.path / "store" / "anwen.sqlite") as db:
        shown = {}
        columns = (
            "record, version, collection, verified, length(tag), length(labels), length(sealed), length(wraps), labels"
        )
        select = f"SELECT {columns} FROM row JOIN wrap_1 USING (record, version) ORDER BY record, version"
        for record, *sizes, labels in db.execute(select):
            classes = [labels[at : at + 2] for at in range(0, len(labels), 18)]
            shown.setdefault(record.hex(), []).append((*sizes, tuple(classes)))
        owned = Counter(r.hex() for (r,) in db.execute("SELECT record FROM posting"))
        macs = {len(m) for (m,) in db.execute("SELECT mac FROM posting WHERE record <> x''")}
    assert macs <= {16}
    return {record: (tuple(rows), owned[record]) for record, rows in shown.items()}, owned[""]


def opened(vault, result, classes):
    (record,) = vault.get([result.record])
    return vault.open([record], classes)[0]


def test_every_set_of_optional_fields_leaves_the_same_record(police):
    without = [set(some) for n in range(4) for some in itertools.combinations(OPTIONAL, n)]
    rows = [{k: v for k, v in person(i).items() if k not in missing} for i, missing in enumerate(without)]
    cases = [
        {k: v for k, v in CASE.items() if k not in missing} for missing in ((), ("case_number",), ("description",))
    ]
    cases[2]["case_number"] = "AB-8"
    with anwen.open(police.path, key="importer", purpose="intake") as importer:
        people = importer.put_many("person", rows)
        subject = people[0].subject
        done = importer.for_purpose("registration").put_many("incident", [c | {"person.id_number": rows[0]["id_number"]} for c in cases])  # fmt: skip
        assert [r.error for r in (*people, *done)] == [None] * (len(rows) + len(cases))
        assert {r.subject for r in done} == {subject}
    seen, _ = looks(police)
    assert len({seen[r.record] for r in people}) == 1
    assert len({seen[r.record] for r in done}) == 1
    assert seen[people[0].record][1] == 3  # number, name and phone
    with anwen.open(police.path, key="case_worker", purpose="casework") as clerk:
        for row, result, missing in zip(rows, people, without, strict=True):
            assert set(opened(clerk, result, ["identity", "contact"])) == set(row), missing
            found = clerk.find("person", phone=row["phone"]) if "phone" in row else []
            assert [r.id for r in found] == ([result.record] if found else [])
            assert len(clerk.find("person", id_number=row["id_number"])) == 1
        assert [r.id for r in clerk.find("incident", case_number="AB-7")] == [done[0].record]
        assert opened(clerk, done[1], ["report"]).keys() == cases[1].keys()


def test_it_stays_so_when_classes_are_updated_and_records_deleted(police):
    """Values that come, go, change; a unique field that is empty, then taken, then empty again; and the end of it."""
    with anwen.open(police.path, key="importer", purpose="intake") as importer:
        rows = [person(0), {k: v for k, v in person(1).items() if k != "phone"}]
        people = importer.put_many("person", rows)
    with anwen.open(police.path, key="records_officer", purpose="rectification") as officer:
        changes = [(CONTACT, {}), ({}, CONTACT), (CONTACT | {"phone": "+8613800138002"}, {}), ({}, {})]
        for version, new in enumerate(changes, 2):
            for result, values in zip(people, new, strict=True):
                (record,) = officer.get([result.record])
                assert officer.update(record, "contact", values).version == version
            seen, _ = looks(police)
            assert len({seen[r.record] for r in people}) == 1
            assert seen[people[0].record][1] == 3
            shown = [opened(officer, r, ["contact"]) for r in people]
            assert [set(s) for s in shown] == [set(v) for v in new]
        deletion = officer.for_purpose("deletion")
        deletion.delete([officer.get([people[1].record])[0]])
        seen, tombstones = looks(police)
        assert set(seen) == {people[0].record}
        deletion.delete([officer.get([people[0].record])[0]])
        assert looks(police) == ({}, tombstones + 3)


def test_an_empty_unique_field_takes_no_value_and_a_value_of_it_is_still_unique(police):
    cases = [{k: v for k, v in CASE.items() if k != "case_number"} for _ in range(3)]
    with anwen.open(police.path, key="importer", purpose="intake") as importer:
        importer.put("person", person(0))
        registrar = importer.for_purpose("registration")
        about = {"person.id_number": person(0)["id_number"]}
        empty = registrar.put_many("incident", [c | about for c in cases])
        assert [r.error for r in empty] == [None] * 3
        registrar.put("incident", CASE | about)
        with pytest.raises(ConflictError, match="case_number"):
            registrar.put("incident", CASE | about)
    with anwen.open(police.path, key="records_officer", purpose="rectification") as officer:
        record = officer.get([empty[0].record])[0]
        with pytest.raises(ConflictError, match="case_number"):
            officer.update(record, "report", CASE)
        assert officer.update(record, "report", CASE | {"case_number": "AB-9"}).version == 2
        assert len(officer.find("incident", case_number="AB-9")) == 1
        (record,) = officer.get([empty[0].record])
        officer.update(record, "report", cases[0])
        assert officer.find("incident", case_number="AB-9") == []
        (record,) = officer.get([empty[1].record])
        officer.update(record, "report", CASE | {"case_number": "AB-9"})  # free again
    assert len({look for record, look in looks(police)[0].items() if record in {r.record for r in empty[2:]}}) == 1


def test_keepers_get_no_token_for_a_value_that_is_not_there(police):
    """They are not asked, charged nothing, and log how many tokens there were."""
    row = {k: v for k, v in person(0).items() if k != "phone"}
    with anwen.open(police.path, key="importer", purpose="intake") as importer:
        importer.put("person", row)
        importer.put("person", person(1))

    async def logged(vault):
        pages = audit.pages(vault.session, "oversight", "a")
        return [json.loads(entry) async for page in pages for entry in page.entries]

    with anwen.open(police.path, key="dpo", purpose="oversight") as auditor:
        entries = auditor._loop.run(logged(auditor))
    assert [e["tokens"] for e in entries if e["op"] == "put"] == [2, 3]


def test_the_index_of_a_row_has_one_size_and_gives_the_tokens_that_are_there(tmp_path):
    text = vault_folder.template("police")
    for was, becomes in (
        ('open = ["person.contact.masked", "person.identity.masked"]\n\n[purposes.rect', 'open = ["person._index"]\n\n[purposes.rect'),
        ("budgets.list = { per_hour = 20_000", "budgets.open = { per_hour = 20_000"),
        ('type = "email"', 'type = "email", index = "exact"'),
        ('type = "address" }\nhouse', 'type = "address", index = "exact" }\nhouse'),
    ):  # fmt: skip
        assert was in text
        text = text.replace(was, becomes)
    folder = vault_folder.create(tmp_path / "v", text)
    with anwen.open(folder.path, key="importer", purpose="intake") as importer:
        rows = [person(0), {k: v for k, v in person(1).items() if k not in {"phone", "email", "address"}}]
        people = importer.put_many("person", rows)
    with anwen.open(folder.path, key="analyst", purpose="statistics") as worker:
        records = worker.get([r.record for r in people])
        assert len({len(r.cells[INDEX_CLASS].envelope) for r in records}) == 1
        tokens = [v["_index"] for v in worker.open(records, ["_index"])]
    assert [[field for field, normaliser, token in found] for found in tokens] == [[1, 2, 5, 6, 7], [1, 2]]
    assert all(normaliser == 1 and any(token) for found in tokens for _, normaliser, token in found)
