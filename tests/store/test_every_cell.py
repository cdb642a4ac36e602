"""Every cell of every table of a store that a vault has filled is an envelope, a label, a wrap, an id or a date.

What is in no list below fails: a column that somebody adds, a table, a value of another form.
"""

import asyncio
import collections
import re
import sqlite3

import pytest
from cassandra_members import connected
from postgresql_server import execute, fresh_settings, needs_server, running_server
from stdnum.cn import ric

import anwen
from anwen import vault_folder
from anwen.errors import MalformedError
from anwen.formats.envelope import check_form, commitment, row_tag, split_cells, split_wraps
from anwen.store import cassandra_read
from anwen.store.history import unpack
from anwen.store.placing import entries

TABLES = re.compile(r"row|posting|subject|deleted|listing|loading|wrap_[0-9]+")
DAY_S = 86_400


def check(*, holds):
    assert holds


def one_id(value):
    check(holds=type(value) is bytes and len(value) == 16)


def id_or_none(value):
    """Of a tombstone, or of a posting of the other kind."""
    if value:
        one_id(value)


def run(value):
    check(holds=value is None or len(value) in {0, 8})


def number_below(limit):
    return lambda value: check(holds=value is None or (type(value) in {int, bool} and 0 <= value < limit))


def day(value):
    check(holds=value % DAY_S == 0 and value < 2**40)


def labels(value):
    check(holds=len(value) % 18 == 0)
    check(holds={class_id for class_id, _ in entries(value)} <= {1, 2})


def numbers(value):
    check(holds=len(value) % 4 == 0 and all(0 < number < 100 for number in unpack(value)))


def sealed(value):
    cells = split_cells(value)
    check(holds=set(cells) <= {1, 2, 0x7FFF, 0x8001, 0x8002} and len(cells) >= 3)
    for envelope in cells.values():
        check_form(envelope)


def wraps(value):
    check(holds=len(split_wraps(value)) >= 3)


def body(value):
    """A version's one cell in Cassandra; of a deleted one nothing."""
    if value is None:
        return
    version = cassandra_read._version(bytes(16), 1, value, True)
    row = version.row
    for value_of, kind in ((row.tag, one_id), (row.subject, one_id), (row.collected_s, day), (row.expires_s, day)):
        kind(value_of)
    labels(version.row.labels)
    check(holds=version.unique <= version.held())
    sealed(row.sealed)


COLUMNS = {
    "record": id_or_none, "subject": one_id, "label": one_id, "mac": id_or_none, "owner": id_or_none,
    "owner_mac": id_or_none, "tag": one_id, "run": run, "version": number_below(100), "owner_version": number_below(100),
    "deleted": number_below(100), "collection": number_below(3), "bucket": number_below(1024), "key": number_below(1),
    "verified": number_below(2), "collected_s": day, "expires_s": day, "labels": labels, "beside": numbers, "sealed": sealed, "wraps": wraps,
    "body": body,
}  # fmt: skip
RANDOM = ("record", "subject", "label", "mac", "owner", "owner_mac", "tag", "run", "labels", "wraps")


def check_store(tables):
    """`tables`: by name, the columns' names and the rows."""
    times = collections.Counter()
    values_of = {name: set() for name in RANDOM}  # each once: the same handle ten times is no more random than once
    for table, (columns, rows) in tables.items():
        assert TABLES.fullmatch(table), table
        for row in rows:
            for name, value in zip(columns, row, strict=True):
                assert name in COLUMNS, f"{table}.{name}"
                COLUMNS[name](value)
                if name in RANDOM:
                    values_of[name].add(value or b"")
                    times[name] += bool(value)
            cells = dict(zip(columns, row, strict=True))
            if "sealed" in cells:
                content = split_cells(cells["sealed"])
                assert row_tag(list(content), list(map(commitment, content.values()))) == cells["tag"]
    for name, values in values_of.items():  # 37 % of random bytes are printable, all of a text's
        assert times[name] < 4 or len(values - {b""}) > 1, f"{name}: one value everywhere"
        data = b"".join({v[:6] for v in values} | {v[6:] for v in values})  # ids of one put begin alike
        printable = sum(32 <= b < 127 for b in data)
        assert printable < 0.5 * len(data) + 8, name


def person(i, **changes):
    first17 = f"1101051949123100{i}"
    row = {
        "id_number": first17 + ric.calc_check_digit(first17 + "0"),
        "name": f"Li Na {chr(65 + i)}",
        "phone": f"+861380013800{i}",
        "email": f"p{i}@example.org",
    }
    return row | changes


def seeded(folder):
    """People with and without a phone, cases about them, an update, a deletion."""
    with anwen.open(folder.path, key="importer", purpose="intake") as importer:
        rows = [person(0), person(1, phone=None), person(2), person(3)]
        people = importer.put_many("person", rows)
        case = {"kind": "theft", "occurred": "2024-05-01T10:00:00Z", "person.id_number": rows[0]["id_number"]}
        done = importer.for_purpose("registration").put_many("incident", [case, case | {"case_number": "AB-7"}])
        assert [r.error for r in (*people, *done)] == [None] * 6
    with anwen.open(folder.path, key="records_officer", purpose="rectification") as officer:
        records = officer.get([r.record for r in people])
        officer.update(records[0], "contact", {"phone": "+8613900139000"})
        officer.update(records[2], "contact", {})
        officer.for_purpose("deletion").delete([records[3]])
    return {r.record for r in (*people, *done)}


def of_sqlite(path):
    with sqlite3.connect(path) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')").fetchall():
            cursor = db.execute(f"SELECT * FROM {table}")
            yield table, ([c[0] for c in cursor.description], cursor.fetchall())


def of_postgresql(server, dbname):
    found = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY ordinal_position"
    columns = {}
    for table, column in execute(server, found, dbname=dbname):
        columns.setdefault(table, []).append(column)
    for table, names in columns.items():
        yield table, (names, execute(server, f'SELECT {", ".join(names)} FROM "{table}"', dbname=dbname))


async def of_cassandra(session):
    (found,) = await session.run(
        "SELECT table_name, column_name FROM system_schema.columns WHERE keyspace_name = ?", [(session.keyspace,)]
    )
    columns = {}
    for table, column in found:
        columns.setdefault(table, []).append(column)
    return {
        t: (names, (await session.run(f"SELECT {', '.join(names)} FROM {{ks}}.{t}", [()]))[0])
        for t, names in columns.items()
    }


@pytest.fixture
def on_sqlite(tmp_path):
    folder = anwen.create(tmp_path / "v", "police")
    assert len(seeded(folder)) == 6
    return folder.path / "store" / "anwen.sqlite"


def test_of_sqlite(on_sqlite):
    tables = dict(of_sqlite(on_sqlite))
    assert {t: len(rows) for t, (_, rows) in tables.items()} == {
        "row": 7, "posting": 3 * 4 + 2 + 2, "subject": 5, "deleted": 1, "wrap_1": 7,
    }  # fmt: skip
    check_store(tables)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE row ADD COLUMN note TEXT DEFAULT 'x'",
        "CREATE TABLE cache (name TEXT)",
        "UPDATE posting SET label = x'2b38363133383030313338303030202020' WHERE rowid_free = 0",
        'UPDATE row SET sealed = CAST(\'{"5":"+8613800138000"}\' AS BLOB)',
        "UPDATE subject SET subject = CAST('11010519491231002X' AS BLOB) WHERE record = (SELECT min(record) FROM subject)",
        "UPDATE posting SET mac = CAST(substr('Li Na, Li Na, Li Na', 1, 16) AS BLOB)",
        "UPDATE row SET collected_s = collected_s + 3601",
        "UPDATE row SET tag = x'00112233445566778899aabbccddeeff'",
    ],
)
def test_the_scan_sees_what_is_none_of_these(on_sqlite, change):
    change = change.replace("WHERE rowid_free = 0", "WHERE label = (SELECT min(label) FROM posting)")
    with sqlite3.connect(on_sqlite) as db:
        db.execute(change)
    with pytest.raises((AssertionError, MalformedError)):
        check_store(dict(of_sqlite(on_sqlite)))


@needs_server
def test_of_postgresql(tmp_path):
    with running_server() as server:
        settings = fresh_settings(server)
        shape = vault_folder.Shape(engine="postgresql", store=settings)
        seeded(anwen.create(tmp_path / "v", "police", shape=shape))
        tables = dict(of_postgresql(server, re.search(r"dbname=(\w+)$", settings["conninfo"])[1]))
    assert {"row", "posting", "subject", "deleted", "wrap_1"} == set(tables)
    assert len(tables["row"][1]) == 7
    check_store(tables)


def test_of_cassandra(members, tmp_path):
    keyspace = {"keyspace": "every_cell"}
    shape = vault_folder.Shape(engine="cassandra", store=members.settings("a") | keyspace)
    seeded(anwen.create(tmp_path / "v", "police", shape=shape))

    async def read():
        store = await connected(members, **keyspace)
        try:
            return await of_cassandra(store._session)
        finally:
            await store.close()

    tables = asyncio.run(read())
    assert {"row", "posting", "subject", "listing", "loading", "wrap_1"} == set(tables)
    assert sum(row[tables["row"][0].index("body")] is not None for row in tables["row"][1]) == 7
    check_store(tables)
