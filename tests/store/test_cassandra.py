"""The Cassandra engine on three real members: the contract, settings that are refused, several nodes at once."""

import asyncio
import json
import math
from pathlib import Path

import pytest
from cassandra.cluster import NoHostAvailable
from cassandra_members import connected, emptied
from contract import CONTACT_CLASSES, EPOCH, StoreContract, exact, labels, outcomes, put, row
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import PolicyError, StorageError, UnavailableError
from anwen.store import cassandra_schema as schema
from anwen.store import cassandra_session
from anwen.store.base import Outcome
from anwen.store.cassandra_schema import check_replication
from anwen.store.cassandra_session import ATTEMPTS, HEDGES, HEDGES_AT_ONCE, Session, Settings, _Hedge, _HedgePlan
from anwen.store.cassandra_write import WRAP, warm_up

POINTS = {"contact_points": ["127.0.0.11:9042"]}
NETWORK = "org.apache.cassandra.locator.NetworkTopologyStrategy"


@pytest.fixture
async def store(members):
    engine = await connected(members)
    await emptied(engine._session)
    yield engine
    await engine.close()


class TestCassandra(StoreContract):
    LEAVES_SLOTS = True


async def test_three_nodes_make_one_keyspace_at_the_same_time(members):
    nodes = await asyncio.gather(*(connected(members, zone, keyspace="fresh") for zone in "abc"))
    try:
        rows = [row() for _ in nodes]
        told = await asyncio.gather(*(outcomes(node, r) for node, r in zip(nodes, rows, strict=True)))
        assert told == [[Outcome.STORED]] * 3
        for node in nodes:
            assert len(await node.get(EPOCH, [r.record for r in rows], ())) == 3
    finally:
        for node in nodes:
            await node.close()


def noted_refusals(monkeypatch):
    """Return an event that a refusal sets; what is refused is asked again for 20 s, as a busy machine is slow."""
    loop, refused, said = asyncio.get_running_loop(), asyncio.Event(), cassandra_session._error

    def noted(error):
        loop.call_soon_threadsafe(refused.set)
        return said(error)

    monkeypatch.setattr(cassandra_session, "_error", noted)
    monkeypatch.setattr(cassandra_session, "AGAIN_S", (0.1,) * 200)
    return refused


async def test_a_table_is_made_where_a_member_does_not_know_the_keyspace_yet(members, monkeypatch):
    """Three nodes that start at once: one has made the keyspace, another one's member has not heard of it."""
    node = await connected(members, "a", keyspace="early")
    try:
        await node._session.define("DROP KEYSPACE early")
        refused = noted_refusals(monkeypatch)
        made = asyncio.create_task(schema.make_wrap_table(node._session, 7))
        await refused.wait()
        await schema.make(node._session)
        await made
        assert "wrap_7" in await schema.tables(node._session)
    finally:
        await node.close()


@pytest.mark.parametrize("asked_before", [False, True])
async def test_what_a_member_refuses_until_it_knows_a_table_is_asked_again(members, monkeypatch, asked_before):
    """One node sees a table that another has just made, and asks a member that has not heard of it."""
    monkeypatch.setattr(cassandra_session, "AGAIN_S", (0.1,))
    maker, reader = [await connected(members, zone, keyspace="late") for zone in "ab"]
    key = [(row().record,)]
    select = "SELECT record FROM {ks}.wrap_7 WHERE record = ?"
    try:
        if asked_before:  # then it is prepared, and a member refuses to run it
            await schema.make_wrap_table(maker._session, 7)
            assert await reader._session.run(select, key) == [[]]
        await maker._session.define("DROP TABLE IF EXISTS late.wrap_7")
        with pytest.raises(UnavailableError):
            await reader._session.run(select, key)
        refused = noted_refusals(monkeypatch)
        asked = asyncio.create_task(reader._session.run(select, key))
        await refused.wait()
        await schema.make_wrap_table(maker._session, 7)
        assert await asked == [[]]
    finally:
        for node in (maker, reader):
            await node.close()


async def test_a_member_that_came_up_is_asked_last_until_it_is_warm_and_then_first(store, monkeypatch):
    """Tells the session of it as the driver does; that members come and go in truth is `test_cassandra_faults.py`."""
    session = store._session
    plan = session._zone_first.make_query_plan

    def asked():
        return [host.rack for host in list(plan())[:3]]

    monkeypatch.setattr(cassandra_session, "WARM_AGE_S", -1.0)
    await store.warm()
    assert asked()[0] == "a"
    (own,) = [host for host in plan() if host.rack == "a"][:1]
    (other,) = [host for host in plan() if host.rack == "b"][:1]
    await asyncio.to_thread(session._zone_first.on_up, own)
    await asyncio.gather(*session._zone_first.cold.values())
    assert asked()[0] == "a", "one that has run for long is warm: it hung or was cut off"
    monkeypatch.setattr(cassandra_session, "WARM_AGE_S", math.inf)
    monkeypatch.setattr(cassandra_session, "WARM_S", 60.0)
    monkeypatch.setattr(cassandra_session, "WARM_ROUNDS", math.inf)
    for host in (own, own, other):  # the driver tells it of each of our two profiles
        await asyncio.to_thread(session._zone_first.on_up, host)
    (warming,) = session._zone_first.cold.values()
    assert asked()[2] == "a"
    assert await outcomes(store, row()) == [Outcome.STORED]
    assert asked()[2] == "a"
    assert set(session._zone_first.cold) == {own}, "others are their own zones' to warm"
    monkeypatch.setattr(cassandra_session, "WARM_ROUNDS", 0)
    await warming
    assert asked()[0] == "a"
    ((_, rounds),) = session._rounds.items()
    monkeypatch.setattr(cassandra_session, "WARM_ROUNDS", rounds)
    await asyncio.to_thread(session._zone_first.on_up, own)
    await asyncio.gather(*session._zone_first.cold.values())
    assert session._rounds.total() == rounds + 1, "once a start: this time it was but cut off"
    counts = await store.statistics()
    assert (counts.records, counts.postings) == (1, 0), "what it was asked left nothing"


async def test_wraps_of_puts_that_were_cut_off_hide_none_of_the_row_that_is_stored(store):
    one = row(tag=b"\xff" * 16)
    cut = [(one.record, one.version, bytes([n]) * 16, b"of another run", 2) for n in range(4)]
    await put(store, one)
    await store._session.run(WRAP.format(EPOCH), cut)
    (got,) = await store.get(EPOCH, [one.record], ())
    assert (got.tag, got.wraps) == (one.tag, one.wraps)


async def test_an_own_member_that_was_cut_off_with_its_node_is_asked_last_until_it_reaches_the_others(
    store, monkeypatch
):
    session = store._session
    monkeypatch.setattr(cassandra_session, "WARM_AGE_S", -1.0)
    await store.warm()
    own, first, second = (
        next(h for h in session.cluster.metadata.all_hosts() if h.rack == rack) for rack in ("a", "b", "c")
    )
    answers, real = asyncio.Event(), session._session.execute

    def execute(statement, *arguments, **more):
        if not answers.is_set():
            raise cassandra_session.OperationTimedOut
        return real(statement, *arguments, **more)

    monkeypatch.setattr(session._session, "execute", execute)
    await asyncio.to_thread(session._zone_first.on_up, first)
    assert session._zone_first.cold == {}, "of three two were there: this node was not cut off"
    monkeypatch.setattr(second, "is_up", False)
    await asyncio.to_thread(session._zone_first.on_up, first)
    assert set(session._zone_first.cold) == {own}
    (waiting,) = session._zone_first.cold.values()
    assert [h.rack for h in session._zone_first.make_query_plan()][-1] == "a"
    answers.set()
    await waiting
    assert next(session._zone_first.make_query_plan()).rack == "a"


async def test_members_of_a_node_without_a_zone_are_warmed_each_under_a_key_of_its_own(members, monkeypatch):
    monkeypatch.setattr(cassandra_session, "WARM_AGE_S", math.inf)
    monkeypatch.setattr(cassandra_session, "WARM_S", 600.0)
    monkeypatch.setattr(cassandra_session, "WARM_ROUNDS", 3)
    store = await connected(members, "")
    keys = set()

    def steps():
        made = warm_up()
        keys.update(key for _, (*_, key, _, _) in made[-1:])
        return made

    try:
        await store._session.warm(steps)
        assert len(keys) == 3
        assert store._session._zone_first.cold == {}
    finally:
        await store.close()


async def test_a_member_that_cannot_be_asked_is_not_waited_for_longer_than_it_takes_to_become_warm(store, monkeypatch):
    monkeypatch.setattr(cassandra_session, "WARM_S", 0.5)
    monkeypatch.setattr(cassandra_session, "WARM_AGE_S", math.inf)
    session = store._session
    await store.warm()
    (own,) = [host for host in session._zone_first.make_query_plan() if host.rack == "a"][:1]
    monkeypatch.setattr(session._session, "execute", _refusing)
    await asyncio.to_thread(session._zone_first.on_up, own)
    assert set(session._zone_first.cold) == {own}
    await asyncio.gather(*session._zone_first.cold.values())
    assert session._zone_first.cold == {}


def _refusing(*_, **__):
    raise NoHostAvailable("no connection yet", {})


class _Statement:
    """What the driver knows of a prepared statement."""

    query_id, query_string = b"q", "SELECT"

    @property
    def prepared_statement(self):
        return self


@given(st.lists(st.sampled_from(["send", "late", "answer"]), min_size=100, max_size=400))
def test_further_attempts_are_at_most_a_tenth_of_answers_and_a_reserve(steps):
    hedge, waiting, most, attempts, answers = _Hedge(), [], 0, 0, 0
    for step in steps:
        if step == "answer":
            hedge.answered(_Statement(), 0.001)
            answers += 1
        elif step == "send":
            plan = hedge.new_plan("", _Statement())
            waiting += [(plan, 1)] if plan.next_execution(None) >= 0 else []
        elif waiting:
            plan, sent = waiting.pop(0)
            attempts += 1
            if plan.next_execution(None) >= 0:
                assert sent + 1 < ATTEMPTS
                waiting.append((plan, sent + 1))
        most = max(most, len(waiting))  # who waits already is not called back
        assert attempts <= HEDGES_AT_ONCE + HEDGES * answers + most


async def test_members_that_are_all_late_are_not_asked_everything_twice(store, monkeypatch):
    """A quorum's answer takes longer than nothing at all: every statement is late."""
    monkeypatch.setattr(cassandra_session, "HEDGE_S", 0)
    monkeypatch.setattr(_Hedge, "answered", lambda *_: None)  # what is usual stays at nothing, the reserve as it is
    kept = [row() for _ in range(100)]
    await put(store, *kept)
    store._session._hedge.left = HEDGES_AT_ONCE
    asked, next_execution = [], _HedgePlan.next_execution

    def counted(plan, host):
        asked.append(plan)
        return next_execution(plan, host)

    monkeypatch.setattr(_HedgePlan, "next_execution", counted)
    for one in kept:
        assert len(await store.get(EPOCH, [one.record], ())) == 1
    assert 0 < len(asked) - len(set(asked)) <= HEDGES_AT_ONCE + ATTEMPTS


async def test_statistics_say_what_the_promise_rests_on(store):
    settings = (await store.statistics()).settings
    assert "zones 3" in settings["replication"]
    assert [v for k, v in settings.items() if k.startswith("commitlog_sync ")] == ["batch"] * 3


async def test_a_closed_store_says_so(members):
    store = await connected(members)
    await store.close()
    with pytest.raises(UnavailableError):
        await store.find([bytes(16)])


async def test_a_cluster_that_nobody_answers_for_is_a_storage_error(members):
    with pytest.raises(UnavailableError):
        await connected(members, contact_points=["127.255.255.254:9"])


async def _connected_again_and_again(members):
    for _ in range(20):  # a member that cannot be asked yet is not refused
        await (await connected(members)).close()
        await asyncio.sleep(1)


@pytest.mark.deep
async def test_a_member_that_acknowledges_before_it_writes_is_refused(members):
    path = members.folder / "c" / "cassandra.yaml"
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {"commitlog_sync": "periodic", "commitlog_sync_period": "10s"}))
    try:
        members.kill("c")
        await members.start_member("c")
        with pytest.raises(PolicyError, match="commitlog_sync: expected batch or group, got periodic"):
            await _connected_again_and_again(members)
    finally:
        path.write_text(good)
        members.kill("c")
        await members.start_member("c")


async def test_a_record_is_read_and_updated_without_the_versions_that_were_replaced(store, monkeypatch):
    one, real, read = row(postings=[exact(*labels(2))]), Session.run, []

    async def run(self, statement, *more):
        parts = await real(self, statement, *more)
        read.extend(r for part in parts for r in part if "ks}.row" in statement or "ks}.wrap" in statement)
        return parts

    await put(store, one)
    monkeypatch.setattr(Session, "run", run)
    amounts = []
    for version in range(2, 40):
        read.clear()
        update = row(one.record, version, subject=one.subject, classes=CONTACT_CLASSES, postings=[exact(*labels(2))])
        assert await outcomes(store, update) == [Outcome.STORED]
        written = len(read)
        assert [r.version for r in await store.get(EPOCH, [one.record], ())] == [1, version]
        amounts.append((written, len(read)))
    assert len(set(amounts[3:])) == 1, amounts
    assert amounts[-1][1] < 20, "rows of two tables"


async def test_tables_of_an_earlier_build_are_refused(members):
    node = await connected(members, keyspace="earlier")
    try:
        await node._session.define("DROP TABLE earlier.row")
        await node._session.define(
            "CREATE TABLE earlier.row (record blob, version bigint, PRIMARY KEY (record, version))"
        )
        with pytest.raises(StorageError, match="tables of an earlier build"):
            await connected(members, keyspace="earlier")
        await node._session.define("DROP TABLE earlier.row")
    finally:
        await node.close()


async def test_a_keyspace_whose_writes_go_past_the_commit_log_is_refused(members):
    node = await connected(members, keyspace="forgetful")
    try:
        assert (await node.statistics()).settings["durable_writes"] == "true"
        await node._session.define("ALTER KEYSPACE forgetful WITH durable_writes = false")
        with pytest.raises(PolicyError, match="durable_writes of keyspace forgetful: expected true, got false"):
            await node.statistics()
        with pytest.raises(PolicyError, match="durable_writes"):
            await connected(members, keyspace="forgetful")
        await node._session.define("ALTER KEYSPACE forgetful WITH durable_writes = true")
        await (await connected(members, keyspace="forgetful")).close()
    finally:
        await node.close()


@pytest.mark.parametrize(
    ("replication", "zones", "reason"),
    [
        ({"class": "org.apache.cassandra.locator.SimpleStrategy", "replication_factor": "3"}, {}, "SimpleStrategy"),
        ({"class": NETWORK, "one": "2"}, {"one": "abc"}, "got 2"),
        ({"class": NETWORK, "one": "3"}, {"one": "aab"}, "3 replicas in 2 zones of one"),
        ({"class": NETWORK, "one": "3"}, {}, "3 replicas in 0 zones"),
    ],
)
def test_fewer_than_one_copy_in_each_of_three_zones_is_refused(replication, zones, reason):
    with pytest.raises(PolicyError, match=reason):
        check_replication(replication, zones)


@pytest.mark.parametrize("zones", [{"one": "abc"}, {"a": "r", "b": "r", "c": "r"}])
def test_three_racks_or_three_data_centres_will_do(zones):
    check_replication({"class": NETWORK} | {dc: str(3 // len(zones)) for dc in zones}, zones)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "contact_points"),
        (POINTS | {"consistency": "ONE"}, "unknown consistency"),
        ({"contact_points": ["127.0.0.11"]}, "address:port"),
        (POINTS | {"keyspace": "a; DROP"}, "keyspace"),
        (POINTS | {"username": "u"}, "both or none"),
        (POINTS | {"username": "u", "password_file": "open"}, "ca_file: expected with a password"),
        (POINTS | {"username": "u", "password_file": "none", "ca_file": "ca.pem"}, "FileNotFoundError"),
        (POINTS | {"username": "u", "password_file": "open", "ca_file": "ca.pem"}, "0644"),
    ],
)
def test_settings_that_are_not_known_or_not_safe_are_refused(settings, reason, tmp_path):
    (tmp_path / "open").write_text("secret")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(PolicyError, match=reason):
        Settings.parse(settings, tmp_path)


def test_settings_are_read(tmp_path):
    (tmp_path / "pw").write_text("secret\n")
    (tmp_path / "pw").chmod(0o600)
    settings = {"contact_points": ["[::1]:9042", "db:1"], "zone": "b", "username": "u", "password_file": "pw"}
    parsed = Settings.parse(settings | {"ca_file": "ca.pem"}, tmp_path)
    assert parsed.contact_points == (("::1", 9042), ("db", 1))
    assert (parsed.keyspace, parsed.zone, parsed.login) == ("anwen", "b", ("u", "secret"))
    assert parsed.ca_file == Path(tmp_path / "ca.pem")
