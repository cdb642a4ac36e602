"""Copies of a store on Cassandra: each record whole, also while it is written; a load that was cut off is not served."""

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cassandra_members import emptied
from contract import CONTACT_CLASSES, EPOCH, exact, labels, outcomes, owners, put, row, unique
from copies import CopyContract, dumped, filled
from faults import Load

from anwen.errors import StorageError
from anwen.store import cassandra_session, copying, engines
from anwen.store.base import Outcome
from anwen.store.cassandra_copy import CassandraCopy
from anwen.store.cassandra_session import _Hedge
from anwen.store.placing import entries

MADE = set()


@pytest.fixture
async def fresh(members):
    for keyspace in MADE:
        copy = await copying.connect("cassandra", members.settings("a") | {"keyspace": keyspace}, Path("/"))
        await emptied(copy._session)
        await copy.close()
    names = (f"copy{i}" for i in itertools.count())

    def settings():
        MADE.add(keyspace := next(names))
        return members.settings("a") | {"keyspace": keyspace}

    return settings


class TestCassandraCopy(CopyContract):
    ENGINE = "cassandra"

    async def is_empty_or_refused(self, settings, folder):
        with pytest.raises(StorageError, match="restore is under way"):
            await engines.connect("cassandra", settings, folder)


@pytest.mark.parametrize("junk", [b"", b"?", bytes(200), b"\xff" * 200])
async def test_a_junk_cell_costs_its_own_record_alone_and_is_copied_beside_the_others(fresh, tmp_path, junk):
    store = await engines.connect("cassandra", fresh(), tmp_path)
    good, bad = row(postings=[exact(*labels(2))]), row(postings=[exact(*labels(2))])
    await put(store, good, bad)
    await store._session.run("UPDATE {ks}.row SET body = ? WHERE record = ? AND version = 1", [(junk, bad.record)])
    found = await store.get(EPOCH, [bad.record, good.record], ())
    assert [(r.record, r.sealed) for r in found if r.sealed] == [(good.record, good.sealed)]
    assert len((await dumped(CassandraCopy(store._session, tmp_path)))["row"]) == 2
    await store.close()


async def test_a_record_on_two_pages_is_one(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(cassandra_session, "PAGE", 2)
    settings = fresh()
    store = await engines.connect("cassandra", settings, tmp_path)
    ones = [row(postings=[exact(*labels(2))]) for _ in range(5)]
    await put(store, *ones)
    for version in (2, 3):
        await put(store, *(row(r.record, version, subject=r.subject, classes=CONTACT_CLASSES) for r in ones))
    content = await dumped(CassandraCopy(store._session, tmp_path))
    assert [(r[0], r[1]) for r in content["row"]] == sorted((r.record, v) for r in ones for v in (1, 2, 3))
    assert {record for _, record, _ in content["posting"]} == {b""}
    await store.close()


@pytest.mark.deep
async def test_values_of_any_kind_are_taken_kept_and_given_up_after_a_restore(fresh, tmp_path):
    settings, into = fresh(), fresh()
    store, rows = await filled("cassandra", settings, tmp_path)
    await store.close()
    copy, target = [await copying.connect("cassandra", s, tmp_path) for s in (settings, into)]
    await target.load(iter((await dumped(copy)).items()))
    for each in (copy, target):
        await each.close()
    restored = await engines.connect("cassandra", into, tmp_path)
    freed, kept = rows[0], rows[1]
    number = [p for p in kept.postings if p.unique]
    assert await outcomes(restored, row(postings=number)) == [Outcome.UNIQUE_TAKEN]
    assert await outcomes(restored, row(postings=freed.postings)) == [Outcome.STORED]
    two = row(kept.record, 2, subject=kept.subject, postings=number)
    assert await outcomes(restored, kept, two) == [Outcome.STORED] * 2
    assert await owners(restored, [number[0].labels[0]]) == [kept.record]
    three = row(kept.record, 3, subject=kept.subject, postings=[unique(os.urandom(16))])
    assert await outcomes(restored, three) == [Outcome.STORED]
    assert await outcomes(restored, row(postings=number)) == [Outcome.STORED]
    await restored.delete([(kept.record, 3)])
    assert await outcomes(restored, row(postings=three.postings), kept) == [Outcome.STORED, Outcome.DELETED]
    await restored.close()


async def test_a_copy_made_while_values_change_hands_has_every_label_once_and_every_record_whole(
    fresh, tmp_path, monkeypatch
):
    monkeypatch.setattr(cassandra_session, "PAGE", 7)
    settings = fresh()
    store = await engines.connect("cassandra", settings, tmp_path)
    left_alone = [row(postings=[unique(os.urandom(16)), exact(*labels(3))]) for _ in range(30)]
    await put(store, *left_alone)
    load = Load([store], 5)
    load.numbers, load.names = labels(6), [labels(64) for _ in range(2)]  # few: what one gives up another takes
    async with load.running():
        await load.wait(60)
        before = {record for record, told in load.told.items() if told.rows}
        content = await dumped(CassandraCopy(store._session, tmp_path))
        assert load.acknowledged > 60
    await store.close()
    stored, deleted = {r[0] for r in content["row"]}, {r for r, _ in content["deleted"]}
    assert before <= stored | deleted
    held = {label: record for label, record, _ in content["posting"]}
    assert len(held) == len(content["posting"])
    current = {}
    for record, version, *_, named, _ in content["row"]:
        if version > 1 and not named:
            continue
        current[record] = {label for _, label in entries(named)}
    assert all(held[label] == record for record, mine in current.items() for label in mine)
    target = await copying.connect("sqlite", {"path": "s/anwen.sqlite"}, tmp_path)
    await target.load(iter(content.items()))
    await target.close()
    restored = await engines.connect("sqlite", {"path": "s/anwen.sqlite"}, tmp_path)
    got = await restored.get(EPOCH, [r.record for r in left_alone], ())
    assert [(g.sealed, g.wraps) for g in got] == [(r.sealed, r.wraps) for r in left_alone]
    assert await outcomes(restored, *left_alone) == [Outcome.STORED] * 30
    await restored.close()


async def test_a_copy_has_everything_once_also_where_several_members_answer_the_same_question(
    fresh, tmp_path, monkeypatch
):
    monkeypatch.setattr(cassandra_session, "PAGE", 3)
    monkeypatch.setattr(cassandra_session, "HEDGE_S", 0)
    monkeypatch.setattr(cassandra_session, "HEDGES_AT_ONCE", math.inf)
    monkeypatch.setattr(_Hedge, "answered", lambda *_: None)  # what is usual stays at nothing: all members, at once
    store = await engines.connect("cassandra", fresh(), tmp_path)
    ones = [row(postings=[exact(*labels(1))]) for _ in range(60)]
    await put(store, *ones)
    for _ in range(3):
        content = await dumped(CassandraCopy(store._session, tmp_path))
        assert sorted(r[0] for r in content["row"]) == sorted(r.record for r in ones)
        assert (await store.statistics()).records == 60
    await store.close()


BACKUP = """
import asyncio, json, sys
from pathlib import Path
from types import SimpleNamespace
from anwen.backup import archive
from anwen.store import copying

node, settings, target = Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])

class Pausing:
    def __init__(self, copy):
        self.copy = copy

    async def dump(self):
        async for batch in self.copy.dump():
            print("here", flush=True)
            sys.stdin.read()
            yield batch

async def run():
    copy = await copying.connect("cassandra", settings, node)
    policy = SimpleNamespace(vault=bytes(16), version=1, engine="cassandra")
    await archive.back_up(Pausing(copy), policy, {}, target)
    await copy.close()

asyncio.run(run())
"""


@contextlib.contextmanager
def backup_under_way(node, settings, target):
    command = [sys.executable, "-c", BACKUP, str(node), json.dumps(settings), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"here\n"
            yield process
        finally:
            process.kill()


async def test_what_a_killed_backup_left_in_the_nodes_folder_goes_with_the_next_one(fresh, tmp_path):
    settings, node = fresh(), tmp_path / "node"
    (node / "copy-of-something").mkdir(parents=True)

    def scratch():
        return {path.parent.name for path in node.glob("copy-*/copy.sqlite")}

    store, _ = await filled("cassandra", settings, tmp_path)
    await store.close()
    with backup_under_way(node, settings, tmp_path / "one"):
        pass
    killed = scratch()
    assert len(killed) == 1
    with backup_under_way(node, settings, tmp_path / "two") as living:
        its = scratch()
        assert len(its) == 1
        assert its.isdisjoint(killed)
        copy = await copying.connect("cassandra", settings, node)
        assert len((await dumped(copy))["row"]) == 30
        await copy.close()
        assert scratch() == its, "a backup that is under way keeps its own"
        living.stdin.close()
        assert living.wait(60) == 0
    assert [p.name for p in node.iterdir()] == ["copy-of-something"]
    assert (tmp_path / "two" / "bulk" / "row").exists()
