"""What any engine must do. An engine's own test file subclasses this and brings the `store` fixture."""

import asyncio
import os
import random

from anwen.formats.envelope import join_cells, join_wraps, split_cells, split_wraps
from anwen.model import INDEX_CLASS, RENDITION
from anwen.store import base, placing
from anwen.store.base import Outcome, Posting, PutRow
from anwen.store.trim import NO_WRAPS

EPOCH = 1
IDENTITY, CONTACT = 1, 2
ALL = (IDENTITY, CONTACT, INDEX_CLASS, IDENTITY | RENDITION, CONTACT | RENDITION)
CONTACT_CLASSES = (CONTACT, INDEX_CLASS, CONTACT | RENDITION)
IDENTITY_CLASSES = (IDENTITY, INDEX_CLASS, IDENTITY | RENDITION)


def cell(tag, class_id):
    return b"cell" + tag + class_id.to_bytes(2) + bytes(40)


COLLECTED_S = 1_700_000_000


def row(record=None, version=1, *, subject=None, classes=ALL, postings=(), collection=1, tag=None, verified=True,
        collected_s=COLLECTED_S):  # fmt: skip
    record, tag = record or os.urandom(16), tag or os.urandom(16)
    return PutRow(
        collection, subject or record[::-1], record, version, tag, collected_s, 1_900_000_000, tuple(classes),
        join_cells(classes, [cell(tag, c) for c in classes]),
        join_wraps(tag + bytes(4), classes, range(len(classes)), [tag * 2 for _ in classes]),
        verified, tuple(postings),
    )  # fmt: skip


def unique(label, class_id=IDENTITY):
    return Posting(class_id, True, (label,), b"m" * 16)


def exact(*labels, class_id=CONTACT):
    return Posting(class_id, False, labels, b"m" * 16)


def labels(count):
    return [os.urandom(16) for _ in range(count)]


async def put(store, *rows, epoch=EPOCH):
    return await store.put(epoch, rows)


async def outcomes(store, *rows):
    return [r.outcome for r in await put(store, *rows)]


async def owners(store, wanted):
    """Record of each label: None where it is free, zero bytes for a tombstone."""
    found = {h.label_row: h.record for h in await store.find(wanted)}
    return [found.get(i) for i in range(len(wanted))]


TOMBSTONE = bytes(16)


async def updated(store, times):
    """A record of whose versions the first and the last are current, and the last."""
    one = row(postings=[exact(*labels(2))])
    rows = [
        row(one.record, version, subject=one.subject, classes=CONTACT_CLASSES, postings=[exact(*labels(2))])
        for version in range(2, times + 2)
    ]
    await put(store, one)
    for each in rows:
        assert await outcomes(store, each) == [Outcome.STORED]
    return rows[-1]


class StoreContract:
    LEAVES_SLOTS = False
    """Whether puts that meet in a slot may both leave it."""

    async def test_a_put_of_nothing_stores_nothing(self, store):
        assert await put(store) == []

    async def test_what_was_put_is_got_byte_for_byte(self, store):
        one = row(verified=False)
        assert await outcomes(store, one) == [Outcome.STORED]
        (got,) = await store.get(EPOCH, [one.record], ())
        for name in set(got.__slots__) - {"labels"}:
            assert getattr(got, name) == getattr(one, name), name

    async def test_what_is_got_names_the_labels_of_what_is_current(self, store):
        old, new, kept = labels(2), labels(2), os.urandom(16)
        one = row(postings=[unique(kept), exact(*old)])
        two = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES, postings=[exact(*new)])
        junk = row(postings=[exact(*labels(1))])._replace(sealed=b"\1")

        async def held(of):
            return placing.held_by(await store.get(EPOCH, [of.record], ()))[of.record]

        await put(store, one, junk)
        assert await held(one) == (set(ALL), {kept, old[0]})
        await put(store, two)
        assert await held(one) == (set(ALL), {kept, new[0]})
        assert await held(junk) == (set(), set())

    async def test_rows_come_record_by_record_and_unknown_ids_give_none(self, store):
        rows = [row() for _ in range(5)]
        await put(store, *rows)
        wanted = [rows[3].record, os.urandom(16), rows[0].record, rows[3].record]
        assert [r.record for r in await store.get(EPOCH, wanted, ())] == [rows[3].record, rows[0].record]
        assert await store.get(EPOCH, [], ()) == []

    async def test_a_repeated_put_changes_nothing_and_answers_the_same(self, store):
        taken = labels(3)
        first = row(postings=[exact(*taken)])
        second = row(postings=[exact(*taken), unique(os.urandom(16))])
        before = await put(store, first, second)
        assert [r.slots for r in before] == [(0,), (1, 0)]
        state = await store.get(EPOCH, [first.record, second.record], ())
        assert await put(store, first, second) == before
        assert await put(store, second) == before[1:]
        assert await store.get(EPOCH, [first.record, second.record], ()) == state
        assert await owners(store, taken) == [first.record, second.record, None]

    async def test_a_repeat_keeps_its_slot_though_an_earlier_one_became_free(self, store):
        taken = labels(3)
        first, second = row(postings=[exact(*taken)]), row(postings=[exact(*taken)])
        before = await put(store, first, second)
        await store.delete([(first.record, 1)])
        assert await put(store, second) == before[1:]
        assert await owners(store, taken) == [TOMBSTONE, second.record, None]

    async def test_the_same_row_twice_in_one_put_is_stored_once(self, store):
        one = row(postings=[exact(*labels(2))])
        results = await put(store, one, one)
        assert results[0] == results[1]
        assert results[0].outcome is Outcome.STORED
        assert len(await store.get(EPOCH, [one.record], ())) == 1

    async def test_two_writers_halves_of_one_version_never_mix(self, store):
        one = row()
        other = row(one.record, subject=one.subject)
        assert await outcomes(store, one, other) == [Outcome.STORED, Outcome.VERSION_TAKEN]
        assert [r.tag for r in await store.get(EPOCH, [one.record], ())] == [one.tag]

    async def test_a_version_needs_the_one_before(self, store):
        one = row()
        assert await outcomes(store, row(one.record, 2)) == [Outcome.VERSION_TAKEN]
        assert await outcomes(store, one) == [Outcome.STORED]
        for version in (0, 3, 2**32 - 1):
            assert await outcomes(store, row(one.record, version, subject=one.subject)) == [Outcome.VERSION_TAKEN]
        update = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES)
        assert await outcomes(store, update, one) == [Outcome.STORED, Outcome.STORED]

    async def test_both_versions_may_come_in_one_put(self, store):
        one = row()
        update = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES)
        assert await outcomes(store, one, update) == [Outcome.STORED, Outcome.STORED]

    async def test_an_update_keeps_collection_and_subject(self, store):
        one = row()
        await put(store, one)
        assert await outcomes(store, row(one.record, 2, subject=os.urandom(16))) == [Outcome.VERSION_TAKEN]
        assert await outcomes(store, row(one.record, 2, subject=one.subject, collection=2)) == [Outcome.VERSION_TAKEN]

    async def test_an_update_keeps_the_day_of_collection_so_retention_does_not_begin_again(self, store):
        one = row()
        await put(store, one)
        for days in (-1, 1, 365):
            later = row(one.record, 2, subject=one.subject, collected_s=COLLECTED_S + days * 86_400)
            assert await outcomes(store, later) == [Outcome.VERSION_TAKEN]
        same = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES)
        third = row(one.record, 3, subject=one.subject, collected_s=COLLECTED_S + 1)
        assert await outcomes(store, same, third) == [Outcome.STORED, Outcome.VERSION_TAKEN]
        got = await store.get(EPOCH, [one.record], ())
        assert {r.collected_s for r in got} == {COLLECTED_S}

    async def test_of_two_updates_at_the_same_time_one_wins(self, store):
        one = row()
        await put(store, one)
        updates = [row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES) for _ in range(8)]
        results = await asyncio.gather(*(put(store, u) for u in updates))
        assert sorted(r.outcome for (r,) in results) == [Outcome.STORED] + [Outcome.VERSION_TAKEN] * 7

    async def test_each_class_comes_from_the_highest_version_that_holds_it(self, store):
        one = row()
        two = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES)
        await put(store, one, two)
        got = await store.get(EPOCH, [one.record], ())
        assert [(r.version, set(split_cells(r.sealed))) for r in got] == [
            (1, {*IDENTITY_CLASSES}),  # `_index` holds the tokens of the row's own fields: both are current
            (2, {*CONTACT_CLASSES}),
        ]
        assert all(set(split_wraps(r.wraps)) == set(split_cells(r.sealed)) for r in got)
        assert split_cells(got[1].sealed)[CONTACT] == cell(two.tag, CONTACT)
        three = row(one.record, 3, subject=one.subject, classes=IDENTITY_CLASSES)
        await put(store, three)
        assert [r.version for r in await store.get(EPOCH, [one.record], ())] == [2, 3]

    async def test_classes_narrow_what_is_got(self, store):
        one = row()
        two = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES)
        await put(store, one, two)
        (got,) = await store.get(EPOCH, [one.record], [CONTACT | RENDITION, CONTACT])
        assert got.version == 2
        assert list(split_cells(got.sealed)) == list(split_wraps(got.wraps)) == [CONTACT, CONTACT | RENDITION]
        assert await store.get(EPOCH, [one.record], [77]) == []

    async def test_a_version_superseded_in_every_class_is_not_current_and_its_repeat_still_answers(self, store):
        one = row(postings=[unique(os.urandom(16))])
        two = row(one.record, 2, subject=one.subject)
        assert await outcomes(store, one, two) == [Outcome.STORED, Outcome.STORED]
        assert [r.version for r in await store.get(EPOCH, [one.record], ())] == [2]
        (again,) = await put(store, one)
        assert again.outcome is Outcome.STORED
        assert again.slots == (0,)
        assert [r.version for r in await store.get(EPOCH, [one.record], ())] == [2]

    async def test_wraps_belong_to_their_epoch(self, store):
        one = row()
        await put(store, one)
        (got,) = await store.get(9, [one.record], ())
        assert got.sealed == one.sealed
        assert got.wraps == NO_WRAPS
        await put(store, one, epoch=9)
        (got,) = await store.get(9, [one.record], ())
        assert got.wraps == one.wraps
        assert await store.epochs() == [EPOCH, 9]

    # --- postings --------------------------------------------------------------------------------------------------

    async def test_a_posting_takes_its_first_free_label(self, store):
        slots = labels(4)
        results = [await put(store, row(postings=[exact(*slots)])) for _ in range(3)]
        assert [r.slots for (r,) in results] == [(0,), (1,), (2,)]
        results = await put(store, *(row(postings=[exact(*slots)]) for _ in range(2)))
        assert [(r.outcome, r.slots) for r in results] == [(Outcome.STORED, (3,)), (Outcome.NO_SLOT, ())]

    async def test_a_unique_value_belongs_to_one_live_record(self, store):
        (label,) = labels(1)
        one, other = row(postings=[unique(label)]), row(postings=[unique(label), exact(*(rest := labels(2)))])
        assert await outcomes(store, one, other) == [Outcome.STORED, Outcome.UNIQUE_TAKEN]
        assert await owners(store, [label, *rest]) == [one.record, None, None]  # nothing of the loser
        assert await store.get(EPOCH, [other.record], ()) == []
        assert await store.list_subjects(1, [other.subject], bytes(16), 9) == []
        await store.delete([(one.record, 1)])
        assert await outcomes(store, other) == [Outcome.STORED]
        assert await owners(store, [label]) == [other.record]

    async def test_a_unique_posting_takes_its_first_label_or_none(self, store):
        first, second = labels(2)
        await put(store, row(postings=[unique(first)]))
        greedy = row(postings=[Posting(IDENTITY, True, (first, second), b"m" * 16)])
        assert await outcomes(store, greedy) == [Outcome.UNIQUE_TAKEN]
        assert await owners(store, [second]) == [None]

    async def test_a_value_given_up_may_be_taken_in_the_same_put(self, store):
        old, new = labels(2)
        one = row(postings=[unique(old)])
        await put(store, one)
        update = row(one.record, 2, subject=one.subject, postings=[unique(new)])
        other = row(postings=[unique(old)])
        assert await outcomes(store, update, other) == [Outcome.STORED, Outcome.STORED]
        assert await owners(store, [old, new]) == [other.record, one.record]

    async def test_of_many_writers_of_one_unique_value_one_wins(self, store):
        (label,) = labels(1)
        results = await asyncio.gather(*(put(store, row(postings=[unique(label)])) for _ in range(16)))
        assert sorted(r.outcome for (r,) in results) == [Outcome.STORED] + [Outcome.UNIQUE_TAKEN] * 15

    async def test_a_refused_row_leaves_its_labels_to_the_next(self, store):
        (label,), slots = labels(1), labels(2)
        await put(store, row(postings=[unique(label)]))
        refused, good = row(postings=[exact(*slots), unique(label)]), row(postings=[exact(*slots)])
        results = await put(store, refused, good)
        assert [(r.outcome, r.slots) for r in results] == [(Outcome.UNIQUE_TAKEN, ()), (Outcome.STORED, (0,))]

    async def test_two_postings_of_one_row_never_share_a_label(self, store):
        slots = labels(2)
        (result,) = await put(store, row(postings=[exact(*slots), exact(*slots)]))
        assert result.slots == (0, 1)

    async def test_an_unchanged_value_keeps_its_label_and_a_changed_one_leaves_a_tombstone(self, store):
        number, old, new = labels(1)[0], labels(3), labels(3)
        other = row(postings=[exact(*old)])
        one = row(postings=[unique(number), exact(*old)])
        await put(store, other, one)
        await store.delete([(other.record, 1)])
        same = row(one.record, 2, subject=one.subject, postings=[unique(number), exact(*old)])
        (result,) = await put(store, same)
        assert result.slots == (0, 1)  # not slot 0, which has become free
        assert await owners(store, [number, *old]) == [one.record, TOMBSTONE, one.record, None]
        changed = row(one.record, 3, subject=one.subject, classes=CONTACT_CLASSES, postings=[exact(*new)])
        await put(store, changed)
        assert await owners(store, [number, *old, *new]) == [
            one.record, TOMBSTONE, TOMBSTONE, None, one.record, None, None,
        ]  # fmt: skip

    async def test_a_tombstone_keeps_no_pointer_and_is_taken_again(self, store):
        slots = labels(2)
        one, two = row(postings=[exact(*slots)]), row(postings=[exact(*slots)])
        await put(store, one)
        await store.delete([(one.record, 1)])
        (hit,) = await store.find(slots)
        assert (hit.label_row, hit.record, hit.mac) == (0, bytes(16), bytes(16))
        (result,) = await put(store, two)
        assert result.slots == (0,)

    async def test_find_answers_in_the_order_asked_and_repeats(self, store):
        a, b, c = labels(3)
        one = row(postings=[unique(a)])
        two = row(postings=[unique(b)])
        await put(store, one, two)
        hits = await store.find([c, b, a, b])
        assert [(h.label_row, h.record) for h in hits] == [(1, two.record), (2, one.record), (3, two.record)]
        assert await store.find([]) == []

    # --- subjects --------------------------------------------------------------------------------------------------

    async def test_records_of_subjects_are_listed_in_pages(self, store):
        subject = os.urandom(16)
        rows = [row(subject=subject) for _ in range(10)] + [row(subject=subject, collection=2), row()]
        await put(store, *rows)
        mine = sorted(r.record for r in rows[:10])
        assert await store.list_subjects(1, [subject], bytes(16), 100) == mine
        assert await store.list_subjects(1, [subject, subject], mine[2], 3) == mine[3:6]
        assert await store.list_subjects(2, [subject], bytes(16), 100) == [rows[10].record]
        assert await store.list_subjects(3, [subject], bytes(16), 100) == []
        everything = sorted([*mine, rows[11].record])
        assert await store.list_subjects(1, [], bytes(16), 100) == everything
        assert await store.list_subjects(1, [], everything[4], 4) == everything[5:9]

    async def test_of_many_versions_each_class_comes_from_its_newest_and_repeats_are_known(self, store):
        draw = random.Random(5)
        one = row()
        versions, current = [one], dict.fromkeys(set(one.classes) - {INDEX_CLASS}, 1)
        await put(store, one)
        for number in range(2, 14):
            classes = draw.choice([CONTACT_CLASSES, CONTACT_CLASSES, IDENTITY_CLASSES, CONTACT_CLASSES[:2]])
            versions.append(row(one.record, number, subject=one.subject, classes=classes))
            assert await outcomes(store, versions[-1]) == [Outcome.STORED]
            current |= dict.fromkeys(set(classes) - {INDEX_CLASS}, number)
            found = await store.get(EPOCH, [one.record], ())
            assert [r.version for r in found] == sorted(set(current.values()))
            held = {(c, r.version) for r in found for c in split_cells(r.sealed) if c != INDEX_CLASS}
            assert held == set(current.items())
            assert all(split_wraps(r.wraps).keys() == split_cells(r.sealed).keys() for r in found)
        assert await outcomes(store, *versions) == [Outcome.STORED] * 13
        assert await outcomes(store, row(one.record, 7, subject=one.subject)) == [Outcome.VERSION_TAKEN]
        assert await store.get(EPOCH, [one.record], ()) == found
        at_once = [v._replace(record=one.record[:15] + b"x") for v in versions]
        assert await outcomes(store, *at_once) == [Outcome.STORED] * 13
        assert [r.version for r in await store.get(EPOCH, [at_once[0].record], ())] == [r.version for r in found]
        await put(store, *versions, epoch=EPOCH + 1)  # wraps of a later epoch
        assert [r.wraps for r in await store.get(EPOCH + 1, [one.record], ())] == [r.wraps for r in found]

    # --- deletion --------------------------------------------------------------------------------------------------

    async def test_a_deleted_record_is_gone_and_its_id_is_spent(self, store):
        number, slots = labels(1), labels(2)
        one = row(postings=[unique(number[0]), exact(*slots)])
        two = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES)
        await put(store, one, two)
        for _ in range(2):
            await store.delete([(one.record, 2)])
            assert await store.get(EPOCH, [one.record], ()) == []
            assert await owners(store, [*number, *slots]) == [TOMBSTONE, TOMBSTONE, None]
            assert await store.list_subjects(1, [one.subject], bytes(16), 9) == []
            assert await store.list_subjects(1, [], bytes(16), 9) == []
        three = row(one.record, 3, subject=one.subject)
        assert await outcomes(store, one, two, three) == [Outcome.DELETED] * 3

    async def test_an_unknown_record_is_deleted_all_the_same(self, store):
        one = row()
        await store.delete([(one.record, 1)])
        assert await outcomes(store, one) == [Outcome.DELETED]

    async def test_a_deletion_leaves_versions_that_came_after_it(self, store):
        one = row()
        two = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES)
        await put(store, one, two)
        await store.delete([(one.record, 1)])
        assert [r.version for r in await store.get(EPOCH, [one.record], ())] == [2]
        assert await store.list_subjects(1, [one.subject], bytes(16), 9) == [one.record]
        assert await outcomes(store, one) == [Outcome.DELETED]
        assert await outcomes(store, row(one.record, 3, subject=one.subject)) == [Outcome.STORED]

    async def test_a_deletion_leaves_the_labels_that_later_versions_use(self, store):
        (number, alone), slots, old, new = labels(2), labels(2), labels(2), labels(2)
        one = row(postings=[unique(number), unique(alone, CONTACT), exact(*slots), exact(*old)])
        two = row(one.record, 2, subject=one.subject, postings=[unique(number), exact(*slots), exact(*new)])
        await put(store, one)
        await put(store, two)
        for _ in range(2):
            await store.delete([(one.record, 1)])
            assert await owners(store, [number, slots[0], new[0]]) == [one.record] * 3
            assert await owners(store, [alone, old[0]]) == [TOMBSTONE] * 2
            assert await outcomes(store, row(postings=[unique(number)])) == [Outcome.UNIQUE_TAKEN]
        assert await outcomes(store, row(postings=[unique(alone), exact(*old)])) == [Outcome.STORED]
        await store.delete([(one.record, 2)])
        assert await owners(store, [number, slots[0], new[0]]) == [TOMBSTONE] * 3

    async def test_a_deletion_frees_what_no_later_version_uses(self, store):
        (number,), slots = labels(1), labels(2)
        one = row(postings=[unique(number), exact(*slots)])
        two = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES, postings=[exact(*slots)])
        await put(store, one, two)
        assert await owners(store, [number, slots[0]]) == [one.record] * 2
        await store.delete([(one.record, 1)])
        assert await owners(store, [number, slots[0]]) == [TOMBSTONE, one.record]
        assert await outcomes(store, row(postings=[unique(number)])) == [Outcome.STORED]

    # --- many at once ----------------------------------------------------------------------------------------------

    async def test_concurrent_puts_are_each_whole(self, store):
        slots = labels(40)
        batches = [[row(postings=[exact(*slots), unique(os.urandom(16))]) for _ in range(3)] for _ in range(12)]
        results = await asyncio.gather(*(put(store, *b) for b in batches))
        assert all(r.outcome is Outcome.STORED for part in results for r in part)
        records = {r.record for b in batches for r in b}
        found = await owners(store, slots)
        assert set(found) - {None, TOMBSTONE} == records
        assert self.LEAVES_SLOTS or TOMBSTONE not in found
        assert None not in found[: len([owner for owner in found if owner])]  # a search ends where too many are free
        assert {r.record for r in await store.get(EPOCH, list(records), ())} == records

    async def test_warming_leaves_nothing_that_anybody_finds(self, store):
        one = row(postings=[exact(*labels(2))])
        await put(store, one)
        before = await store.statistics()
        await store.warm()
        after = await store.statistics()
        assert (
            (after.records, after.rows, after.postings) == (before.records, before.rows, before.postings) == (1, 1, 1)
        )
        assert await store.list_subjects(one.collection, (), bytes(16), 10) == [one.record]

    async def test_statistics_count_and_name_nobody(self, store):
        one = row(postings=[exact(*labels(1))])
        await put(store, one, row(verified=False), row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES))
        counts = await store.statistics()
        assert (counts.records, counts.rows, counts.postings, counts.unverified) == (2, 3, 1, 1)
        assert counts.size_bytes > 0
        assert counts.complete
        assert one.record.hex() not in str(counts.settings)

    async def test_a_store_that_is_too_large_to_be_counted_says_at_least_so_many_and_its_settings(
        self, store, monkeypatch
    ):
        await put(store, *(row(postings=[exact(*labels(1))]) for _ in range(5)))
        whole = await store.statistics()
        monkeypatch.setattr(base, "COUNT_MOST", 3)
        monkeypatch.setattr(base, "COUNT_S", 0.0)
        counts = await store.statistics()
        assert not counts.complete
        assert max(counts.records, counts.rows, counts.postings) <= 3
        assert counts.settings.keys() == whole.settings.keys()

    async def test_all_members_are_up(self, store):
        up, members = store.members()
        assert up == members >= 1
