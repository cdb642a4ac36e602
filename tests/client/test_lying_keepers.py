"""A keeper that lies in anything it signs: it neither stops a session, nor moves it, nor has an honest one accused."""

import asyncio
import time

import pytest
from client_rig import late, person

from anwen.client import rounds
from anwen.client import session as session_module
from anwen.client.asking import told_by_most
from anwen.client.health import DOWN_S
from anwen.client.session import Timing
from anwen.errors import (
    BudgetError,
    ConflictError,
    GrantError,
    IntegrityError,
    MalformedError,
    OverloadedError,
    QuorumError,
    RefusedError,
    RollbackError,
    StorageError,
    UnavailableError,
)

KEEPERS = "abc"
FAR = 2**32 - 1
STATES = {
    "epoch far": {"epoch": FAR},
    "epoch + 1": {"epoch": lambda e: e + 1},
    "epoch 0": {"epoch": 0},
    "generation far": {"generation": FAR},
    "generation 0": {"generation": 0},
    "both": {"epoch": FAR, "generation": 0},
}


def all_works(rig, people, number, lies, **kw):
    """Put, find and open while somebody lies; return the sessions that did."""
    importer = rig.connect("importer", "intake", lies=lies, **kw)
    clerk = rig.connect("case_worker", "casework", lies=lies, **kw)
    assert importer.put("person", person(number)).error is None
    for row in (people[0], person(number)):
        (found,) = clerk.find("person", phone=row["phone"])
        assert clerk.open([found], ["identity"])[0]["id_number"] == row["id_number"]
    return importer.session, clerk.session


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("said", STATES.values(), ids=STATES)
def test_one_lie_about_the_epoch_neither_stops_a_session_nor_moves_it(rig, people, base, keeper, said):
    lies = {(f"keeper/{keeper}", "state"): rig.header(keeper, **said)}
    for session in all_works(rig, people, base + 50, lies):
        assert session.numbers == (1, 1)
        (report,) = session.reports
        assert report.suspects == ()  # an honest keeper may be ahead
        assert f"{keeper} " in report.reason
        assert len(report.evidence) == 3


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("said", STATES.values(), ids=STATES)
def test_one_lie_about_the_epoch_has_nothing_asked_under_another(rig, keeper, said):
    lies, tried = {(f"keeper/{keeper}", "state"): rig.header(keeper, **said)}, []

    async def attempt(epoch, generation):
        tried.append((epoch, generation))

    rig.loop.run(rounds.under_current(rig.connect("case_worker", "casework", lies=lies).session, "casework", attempt))
    assert tried == [(1, 1)]
    session = rig.connect("case_worker", "casework", lies=lies).session
    assert rig.loop.run(rounds.current(session, "casework")) == (1, 1)


@pytest.mark.parametrize("said", STATES.values(), ids=STATES)
def test_nor_does_it_with_another_keeper_down(rig, people, base, said):
    lies = {("keeper/a", op): UnavailableError("down") for op in ("state", "put", "open", "index", "prehash")}
    lies[("keeper/c", "state")] = rig.header("c", **said)
    for session in all_works(rig, people, base + 50, lies):
        assert session.numbers == (1, 1)


def test_a_lie_that_was_believed_is_forgotten_once_it_ends(rig, people):
    clerk = rig.connect("case_worker", "casework")
    clerk.session.numbers = (FAR, FAR)  # as if t keepers had said so
    (found,) = clerk.find("person", phone=people[0]["phone"])
    assert clerk.open([found], ["identity"])
    assert clerk.session.numbers == (1, 1)


@pytest.mark.parametrize("liar", [None, *STATES.values()], ids=["nobody", *STATES])
def test_a_true_rotation_is_followed_keeper_by_keeper(rig, liar):
    """Keepers go over to epoch 2 one by one; a request is answered when two are at the epoch that it names."""
    clerk, at, rounds_asked = rig.connect("case_worker", "casework"), dict.fromkeys(KEEPERS, 1), 0
    lies = clerk.session.transport.lies

    async def attempt(epoch, generation):
        nonlocal rounds_asked
        rounds_asked += 1
        if list(at.values()).count(epoch) < 2:
            raise ConflictError("epoch")
        return epoch

    for gone_over in ("", "a", "ab"):
        at |= dict.fromkeys(gone_over, 2)
        lies |= {(f"keeper/{k}", "state"): rig.header(k, epoch=epoch) for k, epoch in at.items()}
        if liar:
            lies["keeper/c", "state"] = rig.header("c", **liar)
        expected = 2 if gone_over == "ab" else 1
        assert rig.loop.run(rounds.under_current(clerk.session, "casework", attempt)) == expected
    assert rounds_asked == 4  # one for each, and one that was told that the epoch is another


def test_keepers_that_do_not_agree_on_an_epoch_are_asked_until_the_deadline(rig):
    clerk = rig.connect("case_worker", "casework", timing=Timing(deadline_s=0.5))

    async def attempt(epoch, generation):
        raise ConflictError("epoch")

    with pytest.raises(QuorumError, match="epoch and generation"):
        rig.loop.run(rounds.under_current(clerk.session, "casework", attempt))
    assert clerk.session.transport.asked("state")["keeper/a"] > 2


@pytest.mark.parametrize(("tries", "number"), [(1, 60), (0, 70)])
def test_a_call_whose_time_ends_in_a_new_try_says_what_failed_before(rig, base, tries, number):
    importer = rig.connect("importer", "intake", timing=Timing(deadline_s=1.0))
    importer.put("person", person(base + number))
    tried = []

    async def fail_then_hang(*_):
        if len(tried) == 2 * tries:
            await asyncio.sleep(60)
        tried.append(1)
        raise OverloadedError("busy")

    importer.session.transport.lies = {("keeper/a", "put"): fail_then_hang, ("keeper/b", "put"): fail_then_hang}
    with pytest.raises(UnavailableError, match=r"not done within 1 s.*; a write may have been carried out") as raised:
        importer.put("person", person(base + number + 1))
    assert raised.type is UnavailableError  # and not one that says that nothing was carried out
    assert ("keepers answered (a: overloaded, b: overloaded)" in str(raised.value)) == bool(tries)


def test_a_keeper_that_is_asked_too_late_for_a_round_is_asked_in_the_next(rig, people, monkeypatch):
    """Its answer would not combine with the others', and its refusal would not be about the caller's rights."""
    clerk = rig.connect("case_worker", "casework", timing=Timing(deadline_s=20.0, least_s=2.0, most_s=2.0))
    (found,) = clerk.find("person", phone=people[0]["phone"])
    monkeypatch.setattr(clerk.session.health, "may_hedge", lambda _op: False)
    failed, life_s = [], session_module.GRANT_LIFE_S

    async def fail_late(answer, _):
        if len(failed) < 2:
            failed.append(1)
            await asyncio.sleep(1.5)
            raise UnavailableError("down")
        monkeypatch.setattr(session_module, "GRANT_LIFE_S", life_s)
        return answer

    monkeypatch.setattr(session_module, "GRANT_LIFE_S", 2)
    clerk.session.transport.lies = {(f"keeper/{k}", "open"): fail_late for k in "abc"}
    assert clerk.open([found], ["identity"])[0]["id_number"] == people[0]["id_number"]
    assert len(failed) == 2


# --- every operation, every member of what a keeper signs -----------------------------------------------------------

HEADER = {
    "vault": bytes(16), "keeper": "zzz", "op": "delete", "issuer": bytes(32), "request": bytes(32), "root": b"\1" * 32,
    "components": bytes(32), "policy_version": FAR, "epoch": 7, "generation": 7, "expires_s": 7, "time_ms": 2**63, "entry": 2**63,
    "rows": 0, "columns": 0,
}  # fmt: skip


@pytest.mark.parametrize("member", HEADER)
@pytest.mark.parametrize("op", ["state", "put", "index", "prehash", "open"])
def test_no_lie_in_a_header_stops_or_changes_anything(rig, people, base, op, member):
    keeper = KEEPERS[base // 200 % 3]
    other = "b" if keeper == "a" else "a"
    value = {"keeper": other}.get(member, HEADER[member])
    lies = {(f"keeper/{keeper}", op): rig.header(keeper, **{member: value})}
    for session in all_works(rig, people, base + 50, lies):
        assert session.numbers == (1, 1)
        assert {s for r in session.reports for s in r.suspects} <= {keeper}


@pytest.mark.parametrize("error", [GrantError("x"), RefusedError("x"), BudgetError("x"), ConflictError("x"), RollbackError("x"),
                                   MalformedError("x"), OverloadedError("x", retry_after_s=3), StorageError("x")],
                         ids=lambda e: e.code)  # fmt: skip
@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_keeper_that_refuses_everything_stops_nothing(rig, people, base, keeper, error):
    lies = {(f"keeper/{keeper}", op): error for op in ("state", "put", "open", "index", "prehash")}
    all_works(rig, people, base + 50, lies)


JUNK = {
    "nothing": b"", "short": b"ANWA", "long": bytes(10**6), "no answer": b"x" * 300, "a wire message": b"ANW1" + bytes(64),
}  # fmt: skip


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("op", ["state", "put", "index", "prehash", "open", "delete"])
def test_junk_of_one_keeper_stops_nothing_and_of_two_is_a_broken_promise(rig, people, base, op, junk):
    lies = {("keeper/b", op): lambda _answer, _body: junk}
    all_works(rig, people, base + 50, lies)
    officer = rig.connect("records_officer", "deletion", lies=lies)
    officer.delete(officer.find("person", id_number=person(base + 50)["id_number"]))
    lies["keeper/c", op] = lies["keeper/b", op]
    found = rig.connect("records_officer", "deletion").find("person", id_number=people[0]["id_number"])

    def everything():
        all_works(rig, people, base + 51, lies)
        officer.delete(found)

    with pytest.raises(IntegrityError):
        everything()


def test_what_a_minority_refuses_with_does_not_hide_that_the_epoch_has_changed():
    errors = [GrantError("a liar's"), ConflictError("epoch"), ConflictError("epoch")]
    assert type(told_by_most(errors)) is ConflictError
    assert type(told_by_most([UnavailableError("x"), ConflictError("x"), BudgetError("x")])) is BudgetError
    assert told_by_most([UnavailableError("x")]) is None


# --- what nothing else proves ------------------------------------------------------------------------------------------

HASTY = Timing(deadline_s=8.0, grace_s=0.01, least_s=0.01, most_s=0.02)


@pytest.mark.parametrize("liar", KEEPERS)
@pytest.mark.parametrize("columns", [(0,), (1,), (0, 1)])
def test_a_late_keeper_does_not_leave_a_liar_believed_in_a_search(rig, people, liar, columns):
    delayed = "b" if liar == "a" else "a"
    lies = {(f"keeper/{liar}", "index"): rig.components(liar, columns), (f"keeper/{delayed}", "index"): late(0.3)}
    clerk = rig.connect("case_worker", "casework", timing=HASTY, lies=lies)
    for row in people[:3]:  # from the second on, the late one is suspect, and not asked first
        assert len(clerk.find("person", phone=row["phone"])) == 1
    assert {s for r in clerk.session.reports for s in r.suspects} >= {liar}


def writes_under_none_but_the_true_key(rig, importer, number, told_apart):
    """With 2 of 3, who lies about both his components contradicts both others: then the key is certain, else not."""
    if told_apart:
        importer.put("person", person(number))
    else:
        with pytest.raises(IntegrityError, match="token key"):
            importer.put("person", person(number))
    assert len(rig.connect("case_worker", "casework").find("person", phone=person(number)["phone"])) == told_apart


@pytest.mark.parametrize("liar", KEEPERS)
@pytest.mark.parametrize("columns", [(0,), (1,), (0, 1)])
def test_a_late_keeper_does_not_leave_a_liars_token_key_believed(rig, people, base, liar, columns):
    delayed = "b" if liar == "a" else "a"
    lies = {(f"keeper/{liar}", "prehash"): rig.components(liar, columns), (f"keeper/{delayed}", "prehash"): late(0.3)}
    clerk = rig.connect("case_worker", "casework", timing=HASTY, lies=lies)
    assert len(clerk.find("person", phone=people[0]["phone"])) == 1
    assert clerk.session.prehash == {}
    importer = rig.connect("importer", "intake", timing=HASTY, lies=lies)
    writes_under_none_but_the_true_key(rig, importer, base + 50, told_apart=len(columns) == 2)
    assert {s for r in importer.session.reports for s in r.suspects} >= {liar}


@pytest.mark.parametrize("liar", KEEPERS)
@pytest.mark.parametrize("columns", [(0,), (1,), (0, 1)])
def test_a_liar_about_token_keys_hides_nobody_and_nothing_is_written_under_his(rig, people, base, liar, columns):
    lies = {(f"keeper/{liar}", "prehash"): rig.components(liar, columns)}
    clerk = rig.connect("case_worker", "casework", lies=lies)
    assert [len(clerk.find("person", phone=row["phone"])) for row in people] == [1] * 10
    importer = rig.connect("importer", "intake", lies=lies)
    writes_under_none_but_the_true_key(rig, importer, base + 50, told_apart=len(columns) == 2)


@pytest.mark.parametrize("down", KEEPERS)
def test_with_a_keeper_down_misses_and_token_keys_count_but_are_not_kept_or_called_verified(rig, people, base, down):
    lies = {(f"keeper/{down}", op): UnavailableError("down") for op in ("state", "put", "open", "index", "prehash")}
    clerk = rig.connect("case_worker", "casework", lies=lies)
    assert clerk.find("person", phone=person(base + 100)["phone"]) == []
    assert len(clerk.find("person", phone=people[0]["phone"])) == 1
    assert clerk.session.prehash == {}
    only_keys = {(f"keeper/{down}", "prehash"): UnavailableError("down")}
    importer = rig.connect("importer", "intake", lies=only_keys)
    record = importer.put("person", person(base + 50)).record
    assert rig.is_verified(record) is False
    assert rig.is_verified(rig.connect("importer", "intake").put("person", person(base + 51)).record) is True


def test_a_miss_waits_no_longer_for_a_keeper_that_was_silent_for_long(rig, people, base):
    lies = {("keeper/a", "index"): late(30.0), ("keeper/a", "state"): late(30.0)}
    clerk = rig.connect("case_worker", "casework", timing=HASTY, lies=lies)
    assert clerk.find("person", phone=person(base + 100)["phone"]) == []  # waits: it might come
    clerk.session.health._of("keeper/a").heard_s -= DOWN_S + 1
    begun = time.monotonic()
    assert clerk.find("person", phone=person(base + 101)["phone"]) == []
    assert time.monotonic() - begun < 1.0


def test_evidence_is_kept_once_however_often_a_keeper_lies(rig, people):
    clerk = rig.connect("case_worker", "casework", lies={("keeper/a", "index"): rig.components("a")})
    for row in people:
        clerk.find("person", phone=row["phone"])
    assert len(clerk.session.reports) == 1
