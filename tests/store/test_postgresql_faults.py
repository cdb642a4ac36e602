"""The PostgreSQL engine under faults: kills, cuts, hangs, duplicates, and clocks that it does not look at."""

import asyncio
import os
import re
import select
import signal
import subprocess
import sys

import pytest
from contract import EPOCH, exact, labels, put, row, unique
from faults import FaultContract, Load, patiently
from postgresql_server import execute, fresh_settings, needs_server, running_server
from relay import Relay

from anwen.store import engines, postgresql_schema
from anwen.store.base import Outcome
from anwen.store.postgresql_schema import LOCKS

pytestmark = needs_server
CALL_S = 2.0


@pytest.fixture(scope="module")
def server():
    with running_server() as one:
        yield one


@pytest.fixture
def settings(server):
    return fresh_settings(server, statement_timeout_s=CALL_S)


@pytest.fixture
async def relay(server):
    async with Relay(server.port) as one:
        yield one


@pytest.fixture
async def connect(server, settings, relay, tmp_path):
    stores = []
    through = settings | {"conninfo": settings["conninfo"].replace(f"port={server.port}", f"port={relay.port}")}

    async def one():
        stores.append(await engines.connect("postgresql", through, tmp_path))
        return stores[-1]

    yield one
    for store in stores:
        await store.close()


@pytest.fixture
def cut(relay):
    return relay.cut


class TestPostgresqlFaults(FaultContract):
    CALL_S = CALL_S


async def test_sessions_that_the_server_ends_lose_nothing(server, settings, tmp_path):
    """As an administrator or a switch-over does."""
    store = await engines.connect("postgresql", settings, tmp_path)
    load = Load([store], 5)
    async with load.running():
        for _ in range(10):
            await load.wait(5)
            execute(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'anwen'")
    await load.check(store)
    await load.repeat(store)
    await load.check(store)
    await store.close()


async def test_a_session_that_hangs_on_to_locks_stops_others_no_longer_than_the_deadline(settings, tmp_path):
    """A node that froze in mid-put: the server ends its transaction, and whoever waited goes on."""
    one, other = [await engines.connect("postgresql", settings, tmp_path) for _ in range(2)]
    rows = [row(postings=[unique(labels(1)[0])])]
    await put(one, row())  # so that the tables are there

    async def freeze(db):
        await db.execute("BEGIN")
        await db.execute("SELECT pg_advisory_xact_lock(%s, bucket) FROM generate_series(0, 15) AS bucket", (LOCKS,))
        frozen.set()
        await thawed.wait()

    frozen, thawed = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(one._pool.run(freeze, 60))
    await frozen.wait()
    (result,) = await patiently(other.put, EPOCH, rows, within_s=3 * CALL_S)
    assert result.outcome is Outcome.STORED
    thawed.set()
    await asyncio.gather(task, return_exceptions=True)
    for store in (one, other):
        await store.close()


async def test_servers_that_do_not_answer_are_a_member_that_is_down_until_they_do_again(connect, relay):
    store = await connect()

    async def until(members):
        async with asyncio.timeout(20):
            while store.members() != members:  # each look has the next one begin  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    await until((1, 1))
    port, relay._to = relay._to, 1
    relay.cut()
    await until((0, 1))
    relay._to = port
    await until((1, 1))


CLOCKS = re.compile(
    rb"\b(now|current_(date|time)\w*|local(time)\w*|\w*timestamp\w*|timeofday|interval|age)\b", re.IGNORECASE
)


async def test_no_statement_looks_at_a_clock_and_none_brings_one(server, settings, tmp_path, monkeypatch):
    """So a clock that is wrong, at a server or at a node, changes nothing: what is stored is what was given."""
    name = settings["conninfo"].rpartition("=")[2]
    execute(server, f"ALTER ROLE {name} SET log_statement = 'all'", f"ALTER ROLE {name} SET log_min_messages = log")
    log = server.folder / "log"
    begun = log.stat().st_size
    monkeypatch.setattr("time.time", lambda: 0.0)
    store = await engines.connect("postgresql", settings, tmp_path)
    first = row(postings=[unique(labels(1)[0]), exact(*labels(3))])
    await put(store, first, row(first.record, 2, subject=first.subject))
    await store.get(EPOCH, [first.record], ())
    await store.find(labels(2))
    await store.list_subjects(1, [], bytes(16), 9)
    await store.delete([(first.record, 2)])
    await store.statistics()
    await store.close()
    said = [line for line in log.read_bytes()[begun:].splitlines() if b"execute" in line or b"statement:" in line]
    assert len(said) > 20
    assert [line for line in said if CLOCKS.search(line.partition(b"LOG:")[2])] == []


def test_a_server_ends_with_whoever_started_it(server):
    folder = server.folder.parent / "orphan"
    code = (
        "import asyncio, pathlib, sys; from anwen.rehearse.postgresql import Server; "
        "one = Server(pathlib.Path(sys.argv[1])); asyncio.run(one.start()); print(one.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        end = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
    assert select.select([end], [], [], 30)[0]
    os.close(end)


async def test_the_suite_sees_a_loss(server, connect, settings, monkeypatch):
    """Commits that do not wait for the disk, if the engine let them: the same check finds what is gone."""
    monkeypatch.setattr(postgresql_schema, "_WEAK", {})
    name = str(settings["conninfo"]).rpartition("=")[2]
    ((writer,),) = execute(server, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
    os.kill(writer, signal.SIGSTOP)  # else it wakes in time to save all
    execute(server, f"ALTER ROLE {name} SET synchronous_commit = off")
    load = Load([await connect()], 1)
    async with load.running():
        await load.wait(40)
        server.kill()
    await server.start()
    with pytest.raises(AssertionError, match="acknowledged"):
        await load.check(await connect())
