"""What a put decides, of what is read and of that alone."""

from contract import ALL, CONTACT_CLASSES, labels, row, unique

from anwen.store import history, placing
from anwen.store.base import Outcome
from anwen.store.history import Loading
from anwen.store.placing import Known, as_stored
from anwen.store.trim import current

ONE = row()
UPDATES = [row(ONE.record, v, subject=ONE.subject, classes=CONTACT_CLASSES) for v in range(2, 6)]


def known(put, *others, **changes):
    return Known(as_stored(put._replace(**changes)), others)


def test_what_is_read_for_a_repeat_does_not_matter_for_what_is_current():
    first, junk, four = known(ONE), known(UPDATES[0], 1, sealed=b"\1"), known(UPDATES[2], 1)
    new = UPDATES[3]
    alone = placing.plan([new], {ONE.record: [first, four]}, {}, {})
    beside = placing.plan([UPDATES[0], new], {ONE.record: [first, junk, four]}, {}, {})
    assert alone.results == beside.results[1:]
    assert alone.rows == beside.rows
    assert (alone.rows[0].before, alone.rows[0].beside) == ((1, 4), (1,))


def test_of_many_versions_at_once_each_names_what_is_current_beside_it_and_two_are_looked_at(monkeypatch):
    looked = []
    monkeypatch.setattr(placing, "current", lambda rows, asked: [looked.append(len(rows)), *current(rows, asked)][1:])
    rows = [ONE, *(row(ONE.record, v, subject=ONE.subject, classes=CONTACT_CLASSES) for v in range(2, 300))]
    plan = placing.plan(rows, {}, {}, {})
    assert set(looked) == {1, 2}
    assert {r.outcome for r in plan.results} == {Outcome.STORED}
    assert [n.beside for n in plan.rows] == [(), *[(1,)] * 298]
    assert [n.before for n in plan.rows[:4]] == [(), (1,), (1, 2), (1, 3)]


def test_a_version_that_holds_all_classes_names_none():
    taken = labels(1)
    whole = row(ONE.record, 3, subject=ONE.subject, classes=ALL, postings=[unique(*taken)])
    stored = {ONE.record: [known(ONE), known(UPDATES[0], 1)]}
    assert placing.plan([whole], stored, {}, dict.fromkeys(taken, b"")).rows[0][2:] == ((1, 2), ())


def test_a_copy_is_loaded_with_what_its_rows_name():
    loading, loaded = Loading(), []
    for put in (row(), ONE, *UPDATES[:2], row()):
        about = put.record, put.version, put.tag, put.collection, put.subject, put.collected_s, put.expires_s, 1
        loaded.append(loading.take([*about, b"", put.sealed]))
    assert [(n.before, n.beside) for n in loaded] == [((), ()), ((), ()), ((1,), (1,)), ((1, 2), (1,)), ((), ())]


def test_numbers_are_packed_and_of_junk_few_are_read():
    assert history.unpack(history.pack([1, 2**32 - 1])) == [1, 2**32 - 1]
    assert history.unpack(b"\0\0\0\1\2") == [1, 2]
    assert len(history.unpack(bytes(2**20))) == history.MOST_BYTES / 4
