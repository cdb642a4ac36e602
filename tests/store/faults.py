"""What any engine on servers must bear. An engine's own test file subclasses `FaultContract` and brings the fixtures:

- `server`: `await start()`, `kill()` (SIGKILL, all of it or the member that is to fail; again: nothing), `signal(number)`;
- `connect`: `await connect()` gives a fresh store on it, whose calls end within CALL_S; the fixture closes them all;
- `cut`: `cut()` ends every connection of these stores at once, wherever it is; new ones go through.
"""

import asyncio
import contextlib
import os
import random
import signal
import time

import pytest
from contract import ALL, CONTACT_CLASSES, EPOCH, exact, labels, row, unique

from anwen.errors import UnavailableError
from anwen.formats.envelope import split_cells, split_wraps
from anwen.model import INDEX_CLASS
from anwen.store.base import NOWHERE, Outcome

WRITERS = 6


class Told:
    """What a record's writer was told: versions that were stored, and at most one call that got no answer."""

    def __init__(self):
        self.rows, self.slots, self.deleted, self.open = [], [], False, None

    def states(self):
        """Versions (empty: none) that may be there: one state, or two while a call is open."""
        now = [] if self.deleted else self.rows
        return [now] if self.open is None else [now, [] if self.open == "delete" else [*now, self.open]]

    def mentioned(self):
        rows = [*self.rows, *([] if self.open in (None, "delete") else [self.open])]
        return list({la for r in rows for p in r.postings for la in p.labels})


def shown(rows):
    """Version, cell and wrap of each class, as a get must show it."""
    return {
        c: (r.version, split_cells(r.sealed)[c], split_wraps(r.wraps)[c])
        for r in rows for c in split_cells(r.sealed) if c != INDEX_CLASS
    }  # fmt: skip


def live_postings(rows):
    held = {}
    for r in rows:
        held |= dict.fromkeys(r.classes, ())
        for p in r.postings:
            held[p.class_id] = (*held[p.class_id], p)
    return [p for postings in held.values() for p in postings]


class Load:
    """Writers who put, update and delete, each waiting for the answer; and what they were told."""

    def __init__(self, stores, seed):
        self.stores, self.random = stores, random.Random(seed)
        self.told, self.refused = {}, []
        self.numbers, self.names = labels(200), [labels(64) for _ in range(20)]
        self.acknowledged, self._more = 0, asyncio.Condition()

    @contextlib.asynccontextmanager
    async def running(self):
        """Load while inside; at the end every call has ended. A writer whose call failed writes no more."""
        self._stop, self._writing = False, WRITERS
        tasks = [asyncio.create_task(self._write(self.stores[i % len(self.stores)])) for i in range(WRITERS)]
        try:
            yield
        finally:
            self._stop = True
            await asyncio.gather(*tasks)

    async def wait(self, count):
        """Return when `count` more calls were acknowledged, or every writer had a call that failed."""
        async with asyncio.timeout(60), self._more:
            until = self.acknowledged + count
            await self._more.wait_for(lambda: self.acknowledged >= until or not self._writing)

    async def _write(self, store):
        mine = []
        while not self._stop:
            told = self.random.choice(mine) if mine and self.random.random() < 0.5 else None
            try:
                if told is None:
                    mine += await self._create(store)
                elif self.random.random() < 0.7:
                    await self._call(store, told, self._update(told.rows[-1]))
                else:
                    await self._call(store, told, "delete")
            except UnavailableError:
                break  # what was open stays open, and is not built upon
            mine = [t for t in mine if not t.deleted]
            async with self._more:
                self.acknowledged += 1
                self._more.notify_all()
        async with self._more:
            self._writing -= 1
            self._more.notify_all()

    async def _create(self, store):
        """Put a few records at once, with a value that others want too."""
        rows = []
        for _ in range(self.random.randint(1, 4)):
            wanted = [unique(self.random.choice(self.numbers)), exact(*self.random.choice(self.names))]
            rows.append(row(postings=wanted))
        for r in rows:
            told = self.told[r.record] = Told()
            told.open = r
        results = await store.put(EPOCH, rows)
        return [self.told[r.record] for r, result in zip(rows, results, strict=True) if self._learn(r, result)]

    def _update(self, last):
        if self.random.random() < 0.5:
            wanted = [exact(*self.random.choice(self.names))]
            return row(last.record, last.version + 1, subject=last.subject, classes=CONTACT_CLASSES, postings=wanted)
        wanted = [unique(os.urandom(16)), exact(*self.random.choice(self.names))]
        return row(last.record, last.version + 1, subject=last.subject, classes=ALL, postings=wanted)

    async def _call(self, store, told, what):
        told.open = what
        if what == "delete":
            await store.delete([(told.rows[-1].record, told.rows[-1].version)])
            told.deleted, told.open = True, None
        else:
            (result,) = await store.put(EPOCH, [what])
            assert self._learn(what, result)

    def _learn(self, new, result):
        """Keep what was answered; a value that another holds, or without a free slot, is the one refusal there is."""
        told = self.told[new.record]
        if result.outcome in (Outcome.UNIQUE_TAKEN, Outcome.NO_SLOT):
            assert new.version == 1
            self.refused.append(self.told.pop(new.record).open)
            return False
        assert result.outcome is Outcome.STORED
        told.rows, told.open = [*told.rows, new], None
        told.slots = [*told.slots, result.slots]
        return True

    # --- what must hold ------------------------------------------------------------------------------------------

    async def repeat(self, store):
        """Repeat every call that got no answer: each now gets the one that an uncut call gets."""
        for told in [t for t in self.told.values() if t.open is not None]:
            first = await patiently(self._call_again, store, told)
            if first is not None and first.outcome is Outcome.STORED:  # and once more: the same
                again = (await store.put(EPOCH, [told.rows[-1]]))[0]
                assert again == first

    async def _call_again(self, store, told):
        what = told.open
        if what == "delete":
            await store.delete([(told.rows[-1].record, told.rows[-1].version)])
            told.deleted, told.open = True, None
            return None
        (result,) = await store.put(EPOCH, [what])
        self._learn(what, result)
        return result

    async def check(self, store, *, stepwise=False):
        """Every record is in the state that its writer was told of, or in one of two where no answer came."""
        rows, owned, listed = await self._seen(store)
        got, owner = {}, {}
        for g in rows:
            got.setdefault(g.record, []).append(g)
        assert listed == sorted(got)
        for record, told in self.told.items():
            found = shown(got.get(record, []))
            states = [rows for rows in told.states() if shown(rows) == found]
            assert states, f"acknowledged {told.states()}, found {found}"
            mine = {la for la in told.mentioned() if owned.get(la) == record}
            live = live_postings(states[0])
            for posting in live:
                held = len(mine & set(posting.labels))
                assert held == 1 or (stepwise and told.open is not None and held), (
                    f"posting of {record.hex()}: {held} labels"
                )
                if posting.unique and told.open is None:
                    assert owner.setdefault(posting.labels[0], record) == record, "two records hold a unique value"
            assert len(mine) == len(live) or (stepwise and told.open is not None)
            if states[0] and states[0][-1] is not told.open:  # where it was told to be
                last, slots = told.rows[-1], told.slots[-1]
                assert {p.labels[s] for p, s in zip(last.postings, slots, strict=True) if s != NOWHERE} <= mine
        assert await store.get(EPOCH, [r.record for r in self.refused], ()) == []

    async def _seen(self, store):
        """Rows, owners of labels and listed ids, of one state: a call without answer may take effect while we look."""
        records = list(self.told)
        wanted = [la for told in self.told.values() for la in told.mentioned()]
        subjects = [(told.rows or [told.open])[0].subject for told in self.told.values()]
        while True:
            rows = await store.get(EPOCH, records, ())
            owned = {wanted[h.label_row]: h.record for h in await store.find(wanted)}
            listed = await store.list_subjects(1, subjects, bytes(16), len(records))
            if rows == await store.get(EPOCH, records, ()):  # each open call changes it once
                return rows, owned, listed


async def patiently(call, *arguments, within_s=30.0):
    """What a caller does who repeats: until an answer comes."""
    until = time.monotonic() + within_s
    while True:
        try:
            return await call(*arguments)
        except UnavailableError:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(0.05)  # as a client waits between attempts


class FaultContract:
    ROUNDS = 5
    CALL_S = 2.0
    STEPWISE = False  # an engine without transactions: postings of a call without answer may be there before its row
    FELT = True  # whether callers feel that `server` is killed or hangs: not where others answer in its place

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half(self, server, connect, seed):
        load = Load([await connect() for _ in range(2)], seed)
        for _ in range(self.ROUNDS):
            async with load.running():
                await load.wait(load.random.randint(1, 60))
                server.kill()
            await server.start()
            await patiently(load.stores[0].epochs)
            await load.check(await connect(), stepwise=self.STEPWISE)
            await load.repeat(load.stores[1])
            await load.check(load.stores[0])
        assert load.acknowledged > self.ROUNDS

    async def test_connections_cut_in_mid_batch_lose_nothing(self, connect, cut):
        load = Load([await connect() for _ in range(2)], 3)
        for _ in range(self.ROUNDS):
            async with load.running():
                for _ in range(4):
                    await load.wait(load.random.randint(1, 8))
                    cut()
            await patiently(load.stores[0].epochs)
            await load.check(await connect(), stepwise=self.STEPWISE)
            await load.repeat(load.stores[1])
            await load.check(load.stores[0])

    @pytest.mark.parametrize("fault", ["cut", "kill"])
    async def test_a_large_put_cut_at_any_point_is_repeated_to_the_same_end(self, server, connect, cut, fault):
        """Cut at times spread over its course: each of its rows is whole or absent, then all are there."""
        store, begun = await connect(), time.monotonic()
        rows = [row(postings=[unique(os.urandom(16)), exact(*labels(3))]) for _ in range(300)]
        assert {r.outcome for r in await store.put(EPOCH, rows)} == {Outcome.STORED}
        course_s = time.monotonic() - begun
        parts = 8 if fault == "cut" else self.ROUNDS
        for part in range(parts):
            rows = [row(postings=[unique(os.urandom(16)), exact(*labels(3))]) for _ in range(300)]
            end, after_s = cut if fault == "cut" else server.kill, course_s * part / parts
            timer = asyncio.get_running_loop().call_later(after_s, end)
            with contextlib.suppress(UnavailableError):
                await store.put(EPOCH, rows)
            timer.cancel()
            if fault == "kill":
                server.kill()
                await server.start()
            results = await patiently(store.put, EPOCH, rows)
            assert {r.outcome for r in results} == {Outcome.STORED}
            assert {r.slots for r in results} == {(0, 0)}
            got = await patiently(store.get, EPOCH, [r.record for r in rows], ())
            assert [(g.sealed, g.wraps) for g in got] == [(r.sealed, r.wraps) for r in rows]
            first = [p.labels[0] for r in rows for p in r.postings]
            hits = await patiently(store.find, first)
            assert [h.record for h in hits] == [r.record for r in rows for _ in r.postings]
            listed = await patiently(store.list_subjects, 1, [r.subject for r in rows], bytes(16), 999)
            assert listed == sorted(r.record for r in rows)

    async def test_what_is_delivered_twice_happens_once(self, connect):
        """Each put comes twice, at the same time and by two ways; both are told the same."""
        one, two = await connect(), await connect()
        numbers, slots = labels(4), labels(40)
        rows = [row(postings=[unique(numbers[i % 4]), exact(*slots)]) for i in range(16)]

        async def twice(*sent):
            return await asyncio.gather(
                *(patiently(s.put, EPOCH, [r]) for r in sent for s in (one, two))
            )  # fmt: skip

        results = [result for (result,) in await twice(*rows)]
        assert results[::2] == results[1::2]
        stored = [r for r, result in zip(rows, results[::2], strict=True) if result.outcome is Outcome.STORED]
        assert len({r.postings[0].labels[0] for r in stored}) == len(stored) == 4
        updates = [row(r.record, 2, subject=r.subject, postings=[exact(*slots)]) for r in stored]
        results = [result for (result,) in await twice(*updates)]
        assert results[::2] == results[1::2]
        assert {r.outcome for r in results} == {Outcome.STORED}
        hits = await one.find(slots)
        assert sorted(h.record for h in hits if h.record != bytes(16)) == sorted(r.record for r in stored)
        await asyncio.gather(*(s.delete([(r.record, 2) for r in stored]) for s in (one, two)))
        assert await two.get(EPOCH, [r.record for r in stored], ()) == []
        assert {h.record for h in await two.find([*numbers, *slots])} == {bytes(16)}

    async def test_a_hung_server_holds_nobody_beyond_the_deadline(self, server, connect):
        store, load = await connect(), Load([await connect()], 4)
        kept, late = row(postings=[unique(os.urandom(16))]), row(postings=[unique(os.urandom(16))])
        await store.put(EPOCH, [kept])
        calls = (
            lambda: store.put(EPOCH, [late]),
            lambda: store.get(EPOCH, [kept.record], ()),
            lambda: store.find([bytes(16)]),
            lambda: store.delete([(late.record, 0)]),
        )
        async with load.running():
            await load.wait(20)
            server.signal(signal.SIGSTOP)
            try:
                async with asyncio.timeout(self.CALL_S + 1):
                    ends = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
                if self.FELT:
                    assert all(isinstance(e, UnavailableError) for e in ends), ends
            finally:
                server.signal(signal.SIGCONT)
        assert (await patiently(store.put, EPOCH, [late]))[0].outcome is Outcome.STORED
        assert [g.tag for g in await store.get(EPOCH, [kept.record], ())] == [kept.tag]
        await load.check(store, stepwise=self.STEPWISE)
        await load.repeat(store)
        await load.check(store)
