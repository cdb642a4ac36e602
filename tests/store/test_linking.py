"""Two snapshots of a store, and a thief who saw in which order people came: which new record is whose?

What he has is the order in which a place in the snapshot shows the records that are new in the second one. Where a
place keeps the order of writing he is right about everybody; where it does not, about one in all by chance. The rates are
printed (`pytest -s tests/store/test_linking.py`); docs/threat-model.md states which places tell.
"""

import contextlib
import shutil
import sqlite3

import pytest
from contract import exact, labels, put, row, unique
from postgresql_server import execute, fresh_settings, needs_server, one_value, running_server

from anwen.store import engines
from anwen.store.sqlite import SqliteStore

BEFORE, PEOPLE = 40, 120
CHANCE = 10 / PEOPLE
"""Ten right by chance in 120 guesses, where one is usual: one run in ten million."""


def hit_rate(arrived, shown):
    """Share of people to whom a thief gives their own record when he takes the order shown for that of arrival."""
    new = [record for record in shown if record in set(arrived)]
    assert sorted(new) == sorted(arrived)
    return sum(a == b for a, b in zip(arrived, new, strict=True)) / len(arrived)


async def arrive(store):
    """Some people who are there before the first snapshot, then one put for each person, in the order returned."""
    await put(store, *(row(postings=[unique(labels(1)[0])]) for _ in range(BEFORE)))
    arrived = [row(postings=[unique(labels(1)[0]), exact(*labels(2))]) for _ in range(PEOPLE)]
    for one in arrived:
        await put(store, one)
    return [one.record for one in arrived]


def records(path):
    """Records as a scan of the file's table gives them."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [r for (r,) in db.execute("SELECT record FROM row")]


def pages_of(path):
    """Records by the page that holds them, and by their place in it: where the file has kept some order."""
    content, places = path.read_bytes(), {}
    for record in records(path):
        places[content.find(record)] = record
    return [places[at] for at in sorted(places)]


def log_order(store, scratch):
    """Records in the order in which the commits of the write-ahead log bring them."""
    log, seen = (store.parent / f"{store.name}-wal").read_bytes(), []
    frame = 24 + int.from_bytes(log[8:12])
    for end in range(32 + frame, len(log) + 1, frame):
        if int.from_bytes(log[end - frame + 4 : end - frame + 8]):  # a commit
            copy = scratch / "copy.sqlite"
            for part in scratch.glob("copy.sqlite*"):
                part.unlink()
            shutil.copy(store, copy)
            (scratch / "copy.sqlite-wal").write_bytes(log[:end])
            with contextlib.suppress(sqlite3.OperationalError):  # the tables come with the first commits
                seen += sorted(set(records(copy)) - set(seen))
    return seen


async def test_a_file_of_sqlite_shows_no_order_once_its_log_is_written_back(tmp_path, say):
    path = tmp_path / "store" / "anwen.sqlite"
    store = SqliteStore(path)
    arrived = await arrive(store)
    rates = {"write-ahead log": hit_rate(arrived, log_order(path, tmp_path))}
    await store.close()  # writes the log back, as a backup's snapshot and every 128 MiB do
    rates |= {"scan": hit_rate(arrived, records(path)), "place in the file": hit_rate(arrived, pages_of(path))}
    say("SQLite: " + ", ".join(f"{place} {rate:.1%}" for place, rate in rates.items()))
    assert rates["write-ahead log"] == 1, "the thief has to be able to win where the order stands"
    assert max(rates["scan"], rates["place in the file"]) < CHANCE


@pytest.fixture(scope="module")
def server():
    with running_server() as one:
        yield one


@needs_server
async def test_a_table_of_postgresql_shows_the_order_of_single_puts_and_none_within_a_batch(server, tmp_path, say):
    store = await engines.connect("postgresql", fresh_settings(server), tmp_path)
    arrived = await arrive(store)
    batch = [row(postings=[unique(labels(1)[0])]) for _ in range(PEOPLE)]
    await put(store, *batch)
    name = await store._pool.run(lambda db: one_value(db, "SELECT current_database()"))
    await store.close()
    orders = {"dump": "", "ctid": "ORDER BY ctid", "xmin": "ORDER BY xmin::text::bigint", "key": "ORDER BY record"}
    shown = {
        place: [bytes(r) for (r,) in execute(server, f"SELECT record FROM row {order}", dbname=name)]
        for place, order in orders.items()
    }
    singles = {place: hit_rate(arrived, order) for place, order in shown.items()}
    batched = {place: hit_rate([b.record for b in batch], order) for place, order in shown.items()}
    for what, rates in (("single puts", singles), ("one batch", batched)):
        say(f"PostgreSQL, {what}: " + ", ".join(f"{place} {rate:.1%}" for place, rate in rates.items()))
    assert singles["ctid"] > 0.9, "the thief has to be able to win where the order stands"
    assert singles["key"] < CHANCE
    assert max(batched.values()) < CHANCE
