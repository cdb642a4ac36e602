"""The PostgreSQL engine on a real server: the contract, settings that are refused, several nodes at once."""

import asyncio
import os
import socket

import pytest
from contract import (
    CONTACT_CLASSES,
    EPOCH,
    TOMBSTONE,
    StoreContract,
    exact,
    labels,
    outcomes,
    owners,
    put,
    row,
    unique,
    updated,
)
from postgresql_server import (
    execute,
    fresh_settings,
    needs_server,
    one_value,
    other_address,
    running_server,
    server_setting,
)  # fmt: skip
from psycopg.conninfo import conninfo_to_dict

from anwen.errors import OverloadedError, PolicyError, StorageError, UnavailableError
from anwen.net.ports import free_port
from anwen.net.tls import make_certificate
from anwen.store import base, copying, engines, postgresql_read
from anwen.store.base import Outcome
from anwen.store.postgresql import LANES
from anwen.store.postgresql_link import target
from anwen.store.postgresql_write import COPY_ROWS

pytestmark = needs_server


@pytest.fixture(scope="module")
def server():
    with running_server() as one:
        yield one


@pytest.fixture
async def store(server, tmp_path):
    engine = await engines.connect("postgresql", fresh_settings(server), tmp_path)
    yield engine
    await engine.close()


class TestPostgresql(StoreContract):
    pass


@pytest.mark.parametrize("nodes", [3])
async def test_nodes_that_start_at_once_make_the_tables_once(server, tmp_path, nodes):
    settings = fresh_settings(server)
    stores = await asyncio.gather(*(engines.connect("postgresql", settings, tmp_path) for _ in range(nodes)))
    one = row()
    results = await asyncio.gather(*(put(s, one, epoch=7) for s in stores))
    assert {r.outcome for (r,) in results} == {Outcome.STORED}
    assert [await s.epochs() for s in stores] == [[7]] * nodes
    for engine in stores:
        await engine.close()


async def test_writers_on_several_nodes_share_slots_and_unique_values(server, tmp_path):
    """Their keys meet all the time: none waits in a circle, none takes what another has, nothing is half done."""
    settings = fresh_settings(server)
    stores = [await engines.connect("postgresql", settings, tmp_path) for _ in range(3)]
    slots, (label,) = labels(64), labels(1)
    rows = [row(postings=[exact(*slots)]) for _ in range(48)]
    rivals = [row(postings=[unique(label), exact(*slots)]) for _ in range(12)]
    results = await asyncio.gather(
        *(put(stores[i % 3], *rows[i : i + 4]) for i in range(0, 48, 4)),
        *(put(stores[i % 3], r) for i, r in enumerate(rivals)),
    )
    found = [r.outcome for part in results for r in part]
    assert sorted(found[48:]) == [Outcome.STORED] + [Outcome.UNIQUE_TAKEN] * 11
    assert set(found[:48]) == {Outcome.STORED}
    taken = [slots[s] for part in results[:12] for r in part for s in r.slots]
    assert sorted(set(taken)) == sorted(taken)
    assert await owners(stores[0], taken) == [r.record for r in rows]
    for engine in stores:
        await engine.close()


async def test_of_updates_on_several_nodes_one_wins(server, tmp_path):
    settings = fresh_settings(server)
    stores = [await engines.connect("postgresql", settings, tmp_path) for _ in range(4)]
    one = row()
    await put(stores[0], one)
    for version in range(2, 7):
        updates = [row(one.record, version, subject=one.subject, postings=[exact(*labels(2))]) for _ in stores]
        results = await asyncio.gather(*(put(s, u) for s, u in zip(stores, updates, strict=True)))
        found = [r.outcome for (r,) in results]
        assert sorted(found) == [Outcome.STORED] + [Outcome.VERSION_TAKEN] * 3
        winner = updates[found.index(Outcome.STORED)]
        assert [g.tag for g in await stores[0].get(EPOCH, [one.record], ())] == [winner.tag]
        for u in updates:
            held = await owners(stores[0], list(u.postings[0].labels))
            assert held == ([one.record, None] if u is winner else [None, None])
    for engine in stores:
        await engine.close()


async def test_large_puts_that_meet_are_both_answered(server, tmp_path):
    """From COPY_ROWS on, rows go by COPY: whoever comes second finds them there."""
    settings = fresh_settings(server)
    stores = [await engines.connect("postgresql", settings, tmp_path) for _ in range(2)]
    rows = [row(postings=[unique(la)]) for la in labels(COPY_ROWS + 1)]
    results = await asyncio.gather(*(put(s, *rows) for s in stores))
    assert results[0] == results[1]
    assert {r.outcome for r in results[0]} == {Outcome.STORED}
    for engine in stores:
        await engine.close()


async def test_a_deletion_and_a_put_at_the_same_time_leave_no_deleted_version(server, tmp_path):
    settings = fresh_settings(server)
    stores = [await engines.connect("postgresql", settings, tmp_path) for _ in range(2)]
    for _ in range(20):
        one = row(postings=[unique(labels(1)[0])])
        (result,), _ = await asyncio.gather(put(stores[0], one), stores[1].delete([(one.record, 1)]))
        assert result.outcome in {Outcome.STORED, Outcome.DELETED}
        assert await stores[0].get(EPOCH, [one.record], ()) == []
        assert await owners(stores[0], [one.postings[0].labels[0]]) in ([None], [TOMBSTONE])
    for engine in stores:
        await engine.close()


@pytest.mark.parametrize("whose", ["ROLE", "DATABASE"])
async def test_commits_that_do_not_wait_for_the_disk_are_refused(server, tmp_path, whose):
    settings = fresh_settings(server)
    name = str(settings["conninfo"]).rpartition("=")[2]
    execute(server, f"ALTER {whose} {name} SET synchronous_commit = off")
    with pytest.raises(PolicyError, match="synchronous_commit is off"):
        await engines.connect("postgresql", settings, tmp_path)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_a_server_that_can_lose_acknowledged_writes_is_refused(server, tmp_path, setting):
    settings = fresh_settings(server)
    engine = await engines.connect("postgresql", settings, tmp_path)
    with server_setting(server, setting, "off"):
        with pytest.raises(PolicyError, match=f"{setting} is off"):
            await engines.connect("postgresql", settings, tmp_path)
        with pytest.raises(PolicyError, match=f"{setting} is off"):  # a change while it runs: doctor's line fails
            await engine.statistics()
    assert (await engine.statistics()).settings[setting] == "on"
    await engine.close()


def with_a_second_host(settings):
    """Settings that name one that is down, too."""
    down = free_port()
    conninfo = str(settings["conninfo"]).replace("host=127.0.0.1", "host=127.0.0.1,127.0.0.1")
    return settings | {"conninfo": conninfo.replace("port=", f"port={down},")}


async def test_commits_that_do_not_wait_for_a_standby_are_refused_where_one_may_take_over(server, tmp_path):
    settings = fresh_settings(server)
    name = str(settings["conninfo"]).rpartition("=")[2]
    execute(server, f"ALTER ROLE {name} SET synchronous_commit = local")
    await (await engines.connect("postgresql", settings, tmp_path)).close()
    for connect in (engines.connect, copying.connect):
        with pytest.raises(PolicyError, match="synchronous_commit is local"):
            await connect("postgresql", with_a_second_host(settings), tmp_path)


async def test_several_hosts_without_a_standby_that_confirms_are_told_of(server, tmp_path, caplog):
    settings = fresh_settings(server)
    await (await engines.connect("postgresql", settings, tmp_path)).close()
    with server_setting(server, "synchronous_standby_names", "standby", usual=""):
        engine = await engines.connect("postgresql", with_a_second_host(settings), tmp_path)
    assert "switch-over" not in caplog.text, "one server has none to switch to, and with a standby nothing is lost"
    await engine.close()
    engine = await engines.connect("postgresql", with_a_second_host(settings), tmp_path)
    said = "none: a switch-over now loses what was acknowledged last"
    assert said in caplog.text
    assert (await engine.statistics()).settings["synchronous_standby_names"] == said
    await engine.close()


async def test_a_repeated_put_waits_for_the_standby_like_the_first(server, tmp_path):
    """What the first attempt committed may be here alone: its wait may have been cut off."""
    store = await engines.connect("postgresql", fresh_settings(server, statement_timeout_s=0.5), tmp_path)
    one = row(postings=[unique(labels(1)[0])])
    before = await put(store, one)
    with server_setting(server, "synchronous_standby_names", "nobody", usual=""), pytest.raises(UnavailableError):
        await put(store, one)
    assert await put(store, one) == before
    await store.close()


async def test_a_server_that_became_weak_is_refused_at_every_new_connection(server, store):
    name = await store._pool.run(lambda db: one_value(db, "SELECT current_database()"))
    await put(store, row())
    execute(
        server, f"ALTER ROLE {name} SET synchronous_commit = off",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )  # fmt: skip
    for _ in range(3):
        with pytest.raises(PolicyError, match="synchronous_commit is off"):
            await put(store, row())


async def test_statistics_state_what_durability_depends_on(store):
    settings = (await store.statistics()).settings
    assert settings.pop("server_version")[:2].isdigit()
    assert settings == {
        "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "synchronous_standby_names": "",
        "data_checksums": "on",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count_s", "at_once", "least", "most"), [(4, 10_000, 20, 20), (0.5, 4, 4, 12), (0.5, 99, 0, 0)]
)
async def test_what_takes_long_to_count_is_counted_as_far_as_it_goes(
    server, tmp_path, monkeypatch, count_s, at_once, least, most
):
    monkeypatch.setattr(base, "COUNT_S", count_s)
    monkeypatch.setattr(postgresql_read, "COUNTED_AT_ONCE", at_once)
    settings = fresh_settings(server, statement_timeout_s=0.3)
    store = await engines.connect("postgresql", settings, tmp_path)
    await put(store, *(row() for _ in range(20)))
    name = str(settings["conninfo"]).rpartition("=")[2]
    slow = "CREATE VIEW subject AS SELECT * FROM fast WHERE pg_sleep(0.05) IS NOT NULL"
    execute(
        server, "ALTER TABLE subject RENAME TO fast", slow, f"ALTER VIEW subject OWNER TO {name}", dbname=name
    )  # fmt: skip
    counts = await store.statistics()
    assert least <= counts.records <= most
    assert (counts.complete, counts.rows) == (most == 20, 20)
    assert counts.settings["fsync"] == "on"
    await store.close()


async def test_tables_of_another_format_are_refused(server, tmp_path):
    settings = fresh_settings(server)
    await (await engines.connect("postgresql", settings, tmp_path)).close()
    execute(server, "COMMENT ON TABLE row IS 'anwen store 1'", dbname=str(settings["conninfo"]).rpartition("=")[2])
    with pytest.raises(StorageError, match="got anwen store 1; of an earlier build: restore a backup"):
        await engines.connect("postgresql", settings, tmp_path)


async def test_a_record_is_read_and_updated_without_the_versions_that_were_replaced(store, server):
    last, name = await updated(store, 300), await store._pool.run(lambda db: one_value(db, "SELECT current_database()"))
    where = f"WHERE record = '\\x{last.record.hex()}' AND version"
    execute(server, f"UPDATE row SET sealed = '\\x01' {where} BETWEEN 2 AND 300", dbname=name)
    assert [r.version for r in await store.get(EPOCH, [last.record], ())] == [1, 301]
    more = row(last.record, 302, subject=last.subject, classes=CONTACT_CLASSES)
    assert await outcomes(store, more) == [Outcome.STORED]
    assert [r.version for r in await store.get(EPOCH, [last.record], ())] == [1, 302]
    for junk in ("ff", "ffffffff", "00000001" * 2, "0000012e" + "00"):  # of what is current beside it
        execute(server, f"UPDATE row SET beside = '\\x{junk}' {where} = 302", dbname=name)
        assert [r.version for r in await store.get(EPOCH, [last.record, os.urandom(16)], ())][-1] == 302


async def test_a_record_that_is_deleted_while_it_is_read_comes_whole_or_not_at_all(store, monkeypatch):
    one, real = await updated(store, 3), postgresql_read.ask_current

    async def late(db, records, *more):
        await store.delete([(one.record, one.version)])
        return await real(db, records, *more)

    other = row()
    await put(store, other)
    assert [r.version for r in await store.get(EPOCH, [one.record], ())] == [1, 4]
    monkeypatch.setattr(postgresql_read, "ask_current", late)
    assert [r.record for r in await store.get(EPOCH, [one.record, other.record], ())] == [other.record]


async def test_junk_among_the_versions_that_a_record_names_costs_others_nothing(store, server):
    last, name = await updated(store, 3), await store._pool.run(lambda db: one_value(db, "SELECT current_database()"))
    execute(
        server, f"UPDATE row SET beside = decode(repeat('00', 8000000), 'hex') WHERE record = '\\x{last.record.hex()}'",
        dbname=name,
    )  # fmt: skip
    other, more = row(), row(last.record, 5, subject=last.subject, classes=CONTACT_CLASSES)
    assert await outcomes(store, other, more) == [Outcome.STORED] * 2
    assert [r.record for r in await store.get(EPOCH, [other.record], ())] == [other.record]


async def test_no_table_keeps_a_time_or_a_number_in_sequence(store, server):
    await put(store, row(postings=[unique(labels(1)[0])]))
    name = await store._pool.run(lambda db: one_value(db, "SELECT current_database()"))
    columns = execute(
        server, "SELECT table_name, data_type, column_default FROM information_schema.columns "
        "WHERE table_schema = 'public'", dbname=name,
    )  # fmt: skip
    assert {table for table, *_ in columns} == {"row", "posting", "subject", "deleted", "wrap_1"}
    assert {(kind, default) for _, kind, default in columns} == {
        ("bytea", None), ("bigint", None), ("boolean", None),
    }  # fmt: skip
    assert execute(server, "SELECT relname FROM pg_class WHERE relkind = 'S'", dbname=name) == []


# --- settings of node.json -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected conninfo"),
        ({"conninfo": "host=127.0.0.1", "pool": 3}, "got .*pool"),
        ({"conninfo": "host=127.0.0.1 nonsense=1"}, "not a connection string"),
        ({"conninfo": "dbname=anwen"}, "expected host"),
        ({"conninfo": "host=127.0.0.1,::1 port=1,2,3"}, "expected host"),
        ({"conninfo": "host=db.example hostaddr=127.0.0.1"}, "no hostaddr"),
        ({"conninfo": "host=10.0.0.1"}, "verify-full"),
        ({"conninfo": "host=127.0.0.1,db.example sslmode=require"}, "verify-full"),
        ({"conninfo": "host=127.0.0.1 target_session_attrs=any"}, "read-write"),
        ({"conninfo": "host=127.0.0.1", "statement_timeout_s": 0}, "statement_timeout_s"),
        ({"conninfo": "host=127.0.0.1", "statement_timeout_s": "5"}, "statement_timeout_s"),
        ({"conninfo": "host=127.0.0.1", "password_file": "absent"}, "absent: FileNotFoundError"),
        ({"conninfo": "host=127.0.0.1", "password_file": "open"}, "mode 0644"),
    ],
)
def test_settings_are_checked_before_anything_is_sent(tmp_path, settings, message):
    (tmp_path / "open").touch(mode=0o644)
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(PolicyError, match=message):
        target(settings, tmp_path)


def test_each_host_has_its_port_and_no_message_quotes_the_password(tmp_path):
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_text("hunter2\n")
    conninfo = "host=127.0.0.1,::1,/run/postgresql port=5001,5002,5003 options='-c search_path=vault'"
    hosts = [conninfo_to_dict(h) for h in target({"conninfo": conninfo, "password_file": "secret"}, tmp_path).hosts]
    assert [(h["host"], h["port"]) for h in hosts] == [
        ("127.0.0.1", "5001"), ("::1", "5002"), ("/run/postgresql", "5003"),
    ]  # fmt: skip
    assert {h["password"] for h in hosts} == {"hunter2"}
    assert all("-c search_path=vault -c statement_timeout=5000" in h["options"] for h in hosts)


@pytest.fixture(scope="module")
def distant():
    with running_server(other_address()) as one:
        yield one


async def test_an_address_that_is_not_this_machines_goes_by_tls_and_another_certificate_is_refused(distant, tmp_path):
    engine = await engines.connect("postgresql", distant.settings(), tmp_path)
    version = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert await engine._pool.run(lambda db: one_value(db, version)) == "TLSv1.3"
    await engine.close()
    (tmp_path / "other.crt").write_bytes(make_certificate("other", distant.address)[1])
    wrong = str(distant.settings()["conninfo"]).replace(str(distant.folder / "server.crt"), f"{tmp_path}/other.crt")
    with pytest.raises(UnavailableError):
        await engines.connect("postgresql", distant.settings() | {"conninfo": wrong}, tmp_path)


async def test_dead_hosts_before_the_live_one_cost_nothing(server, tmp_path):
    """One refuses, one hangs: it accepts and says nothing."""
    hanging = socket.create_server(("127.0.0.1", 0))
    ports = f"{free_port()},{hanging.getsockname()[1]},{server.port}"
    settings = fresh_settings(server)
    conninfo = str(settings["conninfo"]).replace("host=127.0.0.1", "host=127.0.0.1,127.0.0.1,127.0.0.1")
    conninfo = conninfo.replace(f"port={server.port}", f"port={ports}")
    async with asyncio.timeout(1.5):  # a connection attempt to the hanging one alone would take 2 s
        engine = await engines.connect("postgresql", settings | {"conninfo": conninfo}, tmp_path)
    assert await outcomes(engine, row()) == [Outcome.STORED]
    await engine.close()
    hanging.close()


async def test_a_closed_store_says_so(store):
    await store.close()
    for call in (put(store, row()), store.find([bytes(16)]), store.delete([(bytes(16), 1)])):
        with pytest.raises(StorageError, match="closed"):
            await call


async def test_a_put_that_comes_as_all_lanes_end_starts_one(store, monkeypatch):
    gate, begun = asyncio.get_running_loop().create_future(), []

    async def group(jobs):
        begun.append(jobs)
        if not gate.done():
            await gate
        for job in jobs:
            job.done.set_result([])

    async def late():
        await gate  # woken behind the lanes, in the same iteration
        await put(store, row())

    monkeypatch.setattr(store, "_group", group)
    calls = [asyncio.create_task(put(store, row(), epoch=lane)) for lane in range(LANES)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == len(store._lanes) == LANES
    calls.append(asyncio.create_task(late()))
    await asyncio.sleep(0)
    gate.set_result(None)
    async with asyncio.timeout(1):
        await asyncio.gather(*calls)
    assert not store._lanes


async def test_more_than_may_wait_is_refused_and_what_waited_is_stored(store, monkeypatch):
    monkeypatch.setattr("anwen.store.postgresql.WAITING_ROWS", 10)
    await put(store, row())
    calls = [asyncio.ensure_future(put(store, row())) for _ in range(40)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [r for r in results if isinstance(r, OverloadedError)]
    assert len(refused) > 10
    assert {r.retry_after_s for r in refused} == {1.0}
    assert all(r[0].outcome is Outcome.STORED for r in results if r not in refused)
    assert (await store.statistics()).records == 1 + 40 - len(refused)
