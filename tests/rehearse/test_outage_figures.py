"""What a rehearsal reads from its clients' logs, on logs made by hand; and which bounds that breaks."""

import itertools
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.rehearse.outage import figures, load, report
from anwen.rehearse.outage.figures import Figures, Moments, Operation
from anwen.rehearse.outage.rehearsal import Outcome, Run, Settings, broken
from anwen.rehearse.outage.speed import Sample, Speed, slowest

AT = Moments(begin=0, fault=10, restore=20, whole=22, end=30)


def op(kind, ended, *, number=1, key="x", client=0, took=0.01, outcome="ok"):
    return Operation(client, kind, key, number, ended - took, ended - took, ended, outcome)


def steady(kind, start, end, every=0.05, **more):
    return [op(kind, start + i * every, **more) for i in range(int((end - start) / every))]


def test_the_longest_gap_lies_between_two_successes_and_failures_do_not_shorten_it():
    log = [*steady("read", 0, 12), op("read", 12.6, outcome="deadline"), *steady("read", 13.2, 30)]
    assert figures.longest_gap(log, 9, 30) == pytest.approx(13.2 - 11.95)


@given(
    st.lists(st.floats(0, 1e6), min_size=load.CLIENTS, max_size=load.CLIENTS),
    st.sampled_from([0.05, 0.4, 0.8]),
    st.sampled_from([1, 2, 3]),
)
def test_operations_are_spread_evenly_over_a_step_whenever_clients_begin(nows, every, kinds):
    begun = [list(itertools.islice(load.moments(n, c, every, kinds), kinds + 1)) for c, n in enumerate(nows)]
    apart = every / (load.CLIENTS * kinds)
    for (client, moments), now in zip(enumerate(begun), nows, strict=True):
        assert 0 <= moments[0] - now <= every / kinds + 1e-6  # of a second, which floats lose
        assert moments[kinds] - moments[0] == pytest.approx(every)  # the next of the same kind
        place = moments[0] / apart - client
        assert place == pytest.approx(load.CLIENTS * round(place / load.CLIENTS), abs=1e-3)


def test_a_gap_reaches_to_the_end_when_nothing_succeeds_any_more():
    assert figures.longest_gap(steady("read", 0, 12), 9, 30) == pytest.approx(30 - 11.95)
    assert figures.longest_gap([], 9, 30) == 21


def test_the_gap_of_the_worst_client_counts_though_others_went_on():
    log = [*steady("write", 0, 30), *steady("write", 0, 15, client=1), *steady("write", 17, 30, client=1)]
    assert figures.summarise(log, AT, {}, 0.05).gap_s["write"] == pytest.approx(2.05)


def test_kinds_that_are_not_in_the_load_have_no_gap_and_are_not_missed_in_its_pace():
    found = figures.summarise(steady("write", 0, 40), AT, {}, 0.05, kinds=("write",))
    assert found.gap_s == {"write": pytest.approx(0.05)}
    assert found.pace == pytest.approx(40 / (AT.end - AT.begin))


def test_what_the_return_costs_is_told_apart_from_what_the_fault_does():
    log = [
        op for kind in figures.KINDS for op in [*steady(kind, 0, 12), *steady(kind, 12.5, 21), *steady(kind, 23, 30)]
    ]
    found = figures.summarise(log, AT, {}, 0.05)
    assert found.gap_fault_s["find"] == pytest.approx(0.55)
    assert found.gap_s["find"] == pytest.approx(2.05)


def test_p99_counts_from_the_planned_start_and_takes_failures_in():
    log = [*steady("read", 10, 20, took=0.01), *(op("read", 12, took=2.0, outcome="deadline") for _ in range(5))]
    assert figures.p99(log, 9.9, 20) == pytest.approx(2.0)
    assert figures.p99([], 0, 1) == 0
    assert figures.p99([op("read", 5 + i, took=i) for i in range(1, 201)], 4, 6) == pytest.approx(198)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=300))
def test_p99_is_exceeded_by_at_most_one_in_a_hundred(delays):
    log = [Operation(0, "read", "x", 0, 5.0, 5.0, 5.0 + d, "ok") for d in delays]
    found = figures.p99(log, 0, 10)
    assert sum(o.ended - o.planned > found for o in log) <= len(log) / 100
    assert sum(o.ended - o.planned >= found for o in log) > (len(log) - 1) / 100


def test_a_read_is_stale_when_it_began_after_the_acknowledgement_of_more_than_it_returned():
    writes = [op("write", 1.0, number=5), op("write", 2.0, number=6)]
    fine = [
        op("read", 1.9, number=5),
        op("read", 2.005, number=5),
        op("read", 2.5, number=6),
        op("read", 2.6, number=7),
    ]
    assert figures.stale_reads(writes + fine, {}) == []  # the second one was under way when 6 was acknowledged
    stale = op("read", 2.5, number=5, client=2)
    assert figures.stale_reads([*writes, *fine, stale], {}) == [stale]
    gone = op("read", 3, number=-1)
    assert figures.stale_reads([gone], {"x": 0}) == [gone]


def test_a_person_who_is_not_found_after_his_put_is_stale_and_a_failed_read_is_not():
    put, lost = op("write", 1, key="id"), op("find", 2, number=0, key="id")
    assert figures.stale_reads([put, lost], {}) == [lost]
    assert figures.stale_reads([put, op("find", 2, number=0, key="id", outcome="quorum")], {}) == []


def test_writes_that_failed_are_in_doubt_and_not_acknowledged():
    log = [op("write", 1, number=4), op("write", 2, number=5, outcome="deadline"), op("write", 3, key="y")]
    assert figures.acknowledged(log, {"x": 3, "z": 1}) == {"x": 4, "y": 1, "z": 1}
    found = figures.summarise(log, AT, {}, 0.05)
    assert (found.in_doubt, found.errors, found.errors_before) == (1, {"deadline": 1}, 1)
    assert figures.summarise([op("read", 11, outcome="quorum")], AT, {}, 0.05).errors_before == 0


def test_duplicates_are_numbers_in_more_than_one_record():
    assert figures.duplicates(["a", "b", "a", "c"]) == ["a"]


GOOD = Figures(
    gap_s=dict.fromkeys(figures.KINDS, 0.2), gap_fault_s={"write": 0.1, "read": 0.2}, p99_s=dict.fromkeys(figures.KINDS, 0.1),
    p99_before_s=dict.fromkeys(figures.KINDS, 0.05), pace=1.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "changes", "said"),
    [
        ("cassandra", {}, []),
        ("cassandra", {"gap_s": {"write": 0.1, "read": 0.31}}, ["longest gap 0.31 s, until the return began 0.20 s"]),
        ("sqlite", {"gap_s": {"write": 0.1, "read": 0.31}}, []),
        ("cassandra", {"p99_s": {"write": 0.3}, "p99_before_s": {"write": 0.05}}, ["p99 6.0 times that before"]),
        ("cassandra", {"errors": {"quorum": 2}}, ["2 errors (quorum)"]),
        (
            "sqlite",
            {"errors": {"quorum": 2}, "errors_before": 1},
            ["2 errors (quorum), 1 of them before the fault: this machine is too busy"],
        ),
        ("postgresql", {"errors": {"quorum": 2}}, []),
        ("postgresql", {"stale": 1}, ["1 stale reads"]),
    ],
)
def test_bounds_are_those_that_the_engine_promises(engine, changes, said):
    run = Run("kill", "a", 0, figures=Figures(**{**vars(GOOD), **changes}))
    assert broken(run, engine, 0.05) == said


def test_a_slower_loads_own_step_is_no_gap_of_the_vaults():
    run = Run("kill", "a", 0, figures=Figures(**{**vars(GOOD), "gap_s": {"write": 0.44}}))
    assert broken(run, "cassandra", 0.2) == []
    assert broken(run, "cassandra", 0.15) == ["longest gap 0.44 s, until the return began 0.20 s"]


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "cassandra"])
def test_a_lost_write_and_a_broken_log_count_with_every_engine(engine):
    run = Run("kill", "a", 0, figures=GOOD, lost={"all zones": [], "without b": ["x"]}, logs=["proof: no"])
    assert broken(run, engine, 0.05) == ["1 acknowledged writes lost (without b)", "proof: no"]


STOPS = [
    *(op("write", 9 + i) for i in range(4)),  # the last was acknowledged 2 s after the fault, and was under way
    *(op("read", 12 + i, outcome="quorum") for i in range(8)),
    op("find", 13, took=2, outcome="deadline"), op("read", 14, outcome="unavailable"), op("write", 20.5),
]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "engine", "said"),
    [
        ([], "sqlite", []),
        ([op("write", 12.1)], "sqlite", ["1 operations succeeded without a quorum"]),
        ([op("read", 19.9)], "postgresql", ["1 operations succeeded without a quorum"]),
        ([op("read", 13, outcome="proof")], "sqlite", ["errors that do not tell of lost zones (proof)"]),
        ([op("read", 23, outcome="open")], "sqlite", ["errors that do not tell of lost zones (open)"]),
        ([op("write", 13, outcome="conflict")], "sqlite", ["errors that do not tell of lost zones (conflict)"]),
        ([op("write", 21, outcome="conflict")], "sqlite", []),  # with one that was in doubt
        ([op("read", 13, outcome="storage")], "sqlite", ["errors that do not tell of lost zones (storage)"]),
        ([op("read", 13, outcome="storage")], "cassandra", ["errors that do not tell of lost zones (storage)"]),
    ],
)
def test_without_two_zones_a_vault_has_to_stop_and_to_say_so(more, engine, said):
    log = [*STOPS, *more]
    run = Run("two", "a", 0, at=AT, operations=log, figures=figures.summarise(log, AT, {"x": 0}, 0.05))
    assert broken(run, engine, 0.05) == said


@pytest.mark.parametrize("seen", [[], [op("read", 15, took=2, outcome="deadline")], [op("read", 9, outcome="quorum")]])
def test_without_two_zones_silence_is_no_clear_error(seen):
    run = Run("two", "a", 0, at=AT, operations=seen, figures=figures.summarise(seen, AT, {}, 0.05))
    assert broken(run, "cassandra", 0.05) == ["no clear error was seen"]


def test_a_rehearsal_without_a_run_or_with_duplicates_has_failed():
    assert Outcome(Settings(), "here").broken == ["no run whose fault took hold"]
    outcome = Outcome(Settings(), "here", [Run("kill", "a", 0, figures=GOOD)], duplicates=["1"], lost=["2"])
    assert len(outcome.broken) == 2


def test_a_fault_that_did_not_take_hold_twice_has_failed_though_others_did():
    outcome = Outcome(Settings(), "here", [Run("kill", "a", 0, figures=GOOD)], untested=["hang b"])
    assert outcome.broken == ["hang b: did not take hold twice"]


def test_of_a_run_whose_fault_did_not_take_hold_only_what_it_lost_counts():
    slow = Figures(**{**vars(GOOD), "errors": {"quorum": 2}, "stale": 1})
    run = Run("kill", "a", 0, void="it runs", figures=slow, lost={"all zones": ["x"]}, logs=["proof: no"])
    run.broken = broken(run, "cassandra", 0.05)
    assert run.broken == ["1 acknowledged writes lost (all zones)", "1 stale reads", "proof: no"]
    assert "no run whose fault took hold" in Outcome(Settings(), "here", [run]).broken


def test_the_page_draws_what_happened_and_escapes_what_was_said():
    taken = {"keeper": 1.5, "node": 8.0, "database": 12.25}
    run = Run("kill", "a", 0, proof="<seen>", at=AT, figures=GOOD, speed=0.514, processor_ms=taken, broken=["1 & 2"])
    run.operations = [*steady("read", 0, 12), op("read", 13, outcome="deadline"), *steady("read", 14, 30)]
    page = report.page(Outcome(Settings(), "here", [run], skipped={"slow": "no <link>"}))
    assert "its promise: sqlite, one file: no zone promise" in page.lower()
    assert "speed %" in page
    assert ">51<" in page
    assert ">1.5 + 8 + 12.25<" in page
    assert "&lt;seen&gt;" in page
    assert "1 &amp; 2" in page
    assert "no &lt;link&gt;" in page
    assert "<script" not in page
    assert "http" not in page
    assert 'class=fault x="320.0" width="320.0"' in page
    assert page.count("class=error d=") == 1
    assert 'class=error d=""' not in page


def test_the_slowest_second_of_a_run_is_told_as_a_share_of_the_best_second_of_the_rehearsal():
    rates = {0: 4.0, 1: 2.0, 2: 1.0, 3: 3.0, 4: 0.5}
    samples = [
        Sample(second + i / 10, rate * (1.5 if i % 2 else 0.5)) for second, rate in rates.items() for i in range(10)
    ]
    assert slowest(samples, 0, 4) == pytest.approx(1 / 4)
    assert slowest(samples, 3, 4) == pytest.approx(3 / 4)
    assert slowest(samples, 0, 5) == pytest.approx(0.5 / 4)
    assert slowest(samples, 5, 9) == 0


def test_the_speed_of_this_machine_is_between_nothing_and_its_best_and_is_measured_no_longer_than_asked():
    begun, threads, allowed = time.monotonic(), threading.active_count(), os.sched_getaffinity(0)
    with Speed() as speed:
        while not speed.slowest(begun - 1, begun + 9):
            time.sleep(0.01)
            assert time.monotonic() < begun + 9
    assert 0 < speed.slowest(begun - 1, begun + 9) <= 1
    assert threading.active_count() == threads
    assert os.sched_getaffinity(0) == allowed  # only the measuring thread moves
