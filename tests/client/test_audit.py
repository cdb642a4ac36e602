"""Reading keepers' logs when a keeper lies: nobody is named on its word alone, nothing it says ends the audit."""

import dataclasses
import json
import re
import time

import pytest
from client_rig import edited, person

from anwen.client import audit
from anwen.crypto.merkle import Frontier, leaf_hash
from anwen.errors import DeniedError, GrantError, QuorumError, UnavailableError
from anwen.formats import wire
from anwen.formats.checkpoint import Checkpoint, cosign, encode_checkpoint, log_origin, sign_note


def entries_as(change):
    """A keeper that answers with other entries: `change` gets each as a dict, and returns what stands in its place."""

    def edit(scalars, tables, blobs):
        changed = [change(json.loads(e)) for e in blobs["entries"]]
        blobs["entries"] = [c if isinstance(c, bytes) else json.dumps(c).encode() for c in changed if c is not None]

    return edited("entries", edit)


@pytest.fixture
def opened(rig, people):
    """A subject whom the case worker has opened; that request is in two logs at least."""
    clerk = rig.connect("case_worker", "casework")
    (found,) = clerk.find("person", phone=people[0]["phone"])
    clerk.open([found], ["identity"])
    return found.subject


def seen(rig, subject, lies, **kw):
    auditor = rig.connect("dpo", "oversight", lies=lies, **kw)
    return auditor.audit_subject(subject), auditor.session


def openings(found):
    return [s for s in found if s.operation == "open"]


@pytest.mark.parametrize("keeper", "abc")
def test_a_keeper_that_gives_an_opening_another_name_convicts_nobody(rig, opened, keeper):
    lies = {(f"keeper/{keeper}", "audit"): entries_as(lambda e: {**e, "iss": "analyst", "purpose": "statistics"})}
    found, session = seen(rig, opened, lies)
    assert session.reports == []
    for entry in found:
        assert (keeper in entry.keepers) == (entry.principal == "analyst")
        assert entry.principal != "analyst" or "1 of 3 logs" in entry.doubt
    contradicted = {s.principal for s in found if "contradict" in s.doubt}
    assert contradicted >= {"analyst", "importer"}  # the put was in all logs, the opening perhaps not in the liar's
    assert [s for s in found if s.principal == "importer" and len(s.keepers) == 2]


def test_an_entry_of_one_keeper_alone_is_marked_and_those_of_two_are_not(rig, opened):
    honest, _ = seen(rig, opened, {})
    assert [(s.principal, s.operation, s.doubt) for s in honest] == [
        ("importer", "put", ""),
        ("case_worker", "open", ""),
    ]

    def invent(scalars, tables, blobs):
        made_up = {**json.loads(blobs["entries"][0]), "iss": "analyst", "op": "open", "jti": "ab" * 16}
        blobs["entries"].append(json.dumps(made_up).encode())

    found, _ = seen(rig, opened, {("keeper/c", "audit"): edited("entries", invent)})
    assert [s.doubt for s in found if s.principal == "analyst"] == ["in 1 of 3 logs; what is opened is in 2"]
    assert [s for s in found if s.principal != "analyst"] == honest


def test_a_keeper_that_moves_a_request_in_time_or_adds_classes_is_seen(rig, opened):
    honest, _ = seen(rig, opened, {})
    later = {("keeper/a", "audit"): entries_as(lambda e: {**e, "t": e["t"] + 10**7})}
    found, _ = seen(rig, opened, later)
    put = next(s for s in found if s.operation == "put")
    assert "contradict" in put.doubt
    assert abs(put.time_ms - honest[0].time_ms) < 1000  # the middle one
    more = {("keeper/a", "audit"): entries_as(lambda e: {**e, "classes": {**e["classes"], "2.2": 1}})}
    found, _ = seen(rig, opened, more)
    assert "different classes" in next(s for s in found if s.operation == "put").doubt


def test_a_jti_that_is_used_again_once_its_grant_has_expired_is_another_request(rig, opened):
    """Else a thief's five openings of one person were one line, at the middle one's time."""

    def again(scalars, tables, blobs):
        entries = [json.loads(e) for e in blobs["entries"]]
        later = [{**e, "exp": e["exp"] + 200, "t": e["t"] + 200_000} for e in entries if e["op"] == "open"]
        blobs["entries"] += [json.dumps(e).encode() for e in later]

    honest = openings(seen(rig, opened, {})[0])
    found = openings(seen(rig, opened, {(f"keeper/{k}", "audit"): edited("entries", again) for k in "abc"})[0])
    assert [(s.time_ms - honest[0].time_ms, s.keepers, s.doubt) for s in found] == [
        (0, honest[0].keepers, ""), (200_000, honest[0].keepers, ""),
    ]  # fmt: skip


JUNK = {
    "no JSON": b"{",
    "deep": b"[" * 10**5,
    "no utf-8": b"\xff\xfe",
    "a list": b"[]",
    "no jti": lambda e: {k: v for k, v in e.items() if k != "jti"},
    "no classes": lambda e: {k: v for k, v in e.items() if k != "classes"},
    "jti of a list": lambda e: {**e, "jti": []},
    "no exp": lambda e: {k: v for k, v in e.items() if k != "exp"},
    "exp of text": lambda e: {**e, "exp": "later"},
    "exp true": lambda e: {**e, "exp": True},
    "time of text": lambda e: {**e, "t": "now"},
    "time too late": lambda e: {**e, "t": 10**18},
    "time true": lambda e: {**e, "t": True},
    "time NaN": lambda e: {**e, "t": float("nan")},
    "class of text": lambda e: {**e, "classes": {"x.y": 1}},
    "class too long": lambda e: {**e, "classes": {"1" * 4000 + ".1": 1}},
    "no class": lambda e: {**e, "classes": {"1": 1}},
    "control characters": lambda e: {**e, "iss": "\x1b[2Jadmin"},
    "long name": lambda e: {**e, "purpose": "x" * 100_000},
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("keeper", "ac")
def test_a_keeper_whose_answer_does_not_parse_is_left_out_and_named(rig, opened, keeper, junk):
    lie = entries_as(junk if callable(junk) else lambda _: junk)
    found, session = seen(rig, opened, {(f"keeper/{keeper}", "audit"): lie})
    assert [(s.principal, s.operation) for s in found] == [("importer", "put"), ("case_worker", "open")]
    assert all(keeper not in s.keepers for s in found)
    (report,) = session.reports
    assert report.suspects == (keeper,)


@pytest.mark.parametrize("error", [GrantError("x"), UnavailableError("x")], ids=lambda e: e.code)
def test_one_keeper_may_refuse_and_two_may_not(rig, opened, error):
    lies = {("keeper/a", "audit"): error}
    assert len(openings(seen(rig, opened, lies)[0])) == 1
    lies["keeper/b", "audit"] = error
    with pytest.raises(DeniedError if isinstance(error, GrantError) else QuorumError):
        seen(rig, opened, lies)


def test_classes_of_a_newer_policy_are_shown_by_number(rig, opened):
    lies = {(f"keeper/{k}", "audit"): entries_as(lambda e: {**e, "classes": {"9.7": 1, "1.99": 1}}) for k in "abc"}
    assert {s.classes for s in seen(rig, opened, lies)[0]} == {("1.99", "9.7")}


# --- whether a log is whole --------------------------------------------------------------------------------------------


def verdicts(rig, lies, **kw):
    auditor = rig.connect("dpo", "oversight", lies=lies, **kw)
    return {v.keeper: v for v in auditor.audit_verify()}, auditor


def test_a_keeper_that_took_another_policy_of_the_same_number_is_named(rig):
    """Officers signed two first policies: all keepers here have one, this auditor was given the other."""
    assert {v.problem for v in verdicts(rig, {})[0].values()} == {""}
    other = dataclasses.replace(rig.policy, expires_s=rig.policy.expires_s + 86_400)
    found, _ = verdicts(rig, {}, policy=other)
    assert all("took another policy 1 than ours" in v.problem for v in found.values()), found

    def forget(scalars, tables, blobs):
        blobs["entries"] = [re.sub(rb',"digest":"[0-9a-f]+"', b"", e) for e in blobs["entries"]]

    found, _ = verdicts(rig, {("keeper/b", "log"): edited("entries", forget)})
    assert [k for k, v in found.items() if v.problem] == ["b"]


def signed_again(rig, keeper, **cosigned_ago_s):
    """A `log` answer under a checkpoint of its own entries that the keeper signs anew, cosigned so long ago by peers."""

    def edit(scalars, tables, blobs):
        name, frontier = log_origin(rig.policy.vault, keeper), Frontier()
        for entry in blobs["entries"]:
            frontier.append(leaf_hash(entry))
        note = sign_note(encode_checkpoint(Checkpoint(name, frontier.size, frontier.root())), name, rig.keys[keeper])
        for peer, ago_s in cosigned_ago_s.items():
            note = cosign(note, log_origin(rig.policy.vault, peer), rig.keys[peer], int(time.time()) - ago_s)
        blobs["checkpoint"] = [note.encode()]

    return edited("entries", edit)


def test_logs_of_honest_keepers_are_whole(rig, people):
    found, _ = verdicts(rig, {})
    assert [v.problem for v in found.values()] == [""] * 3
    assert all(v.entries > 10 for v in found.values())
    assert all(len(v.cosigned_by) == 2 for v in found.values())


def rewritten(scalars, tables, blobs):
    blobs["entries"][0] = blobs["entries"][0].replace(b'"t":', b'"t" :')


def cut(scalars, tables, blobs):
    blobs["entries"] = blobs["entries"][:-3]
    scalars["size"] -= 3


def left_out(scalars, tables, blobs):
    del blobs["entries"][2:3]


LIES = {
    "rewritten": (edited("entries", rewritten), "do not hash"),
    "cut": (edited("entries", cut), "were cosigned"),
    "left out": (edited("entries", left_out), "entries from 0 on"),
    "no checkpoint": (edited("entries", lambda s, t, b: b.update(checkpoint=[])), "no cosigned checkpoint"),
    "junk checkpoint": (
        edited("entries", lambda s, t, b: b.update(checkpoint=[b"\xff\xfe\n\n" * 9])),
        "note|checkpoint",
    ),
    "no entries": (edited("entries", lambda s, t, b: b.update(entries=[])), "entries"),
    "no message": (lambda answer, body: b"junk", "not an Anwen message"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("keeper", "ac")
def test_a_log_that_is_not_whole_is_named_and_no_other(rig, people, keeper, lie):
    found, _ = verdicts(rig, {(f"keeper/{keeper}", "log"): lie[0]})
    assert {k for k, v in found.items() if v.problem} == {keeper}
    assert re.search(lie[1], found[keeper].problem), found[keeper].problem


def test_a_checkpoint_without_a_peers_signature_is_not_enough(rig, people):
    found, _ = verdicts(rig, {("keeper/b", "log"): signed_again(rig, "b")})
    assert "no peer has cosigned" in found["b"].problem


def test_an_old_prefix_with_its_old_cosigned_checkpoint_is_not_whole(rig, people, base):
    """A keeper that hides its newest entries: it has an honest checkpoint of some time ago, and the entries below it."""
    kept = []

    def keep(answer, body):
        kept.append(answer)
        return answer

    verdicts(rig, {("keeper/a", "log"): keep})
    rig.connect("importer", "intake").put("person", person(base + 60))
    found, _ = verdicts(rig, {("keeper/a", "log"): lambda answer, body: kept[0]})
    assert "its own receipt" in found["a"].problem
    assert [found[k].problem for k in "bc"] == ["", ""]


@pytest.mark.parametrize("ago_s", [{"b": 100}, {"b": 1000, "c": 100}, {"b": 1000, "c": 2000}, {}])
def test_how_old_the_newest_cosignature_is_counts(rig, people, ago_s):
    """A keeper whose own answers name no entry that shows how much it hides: but its peers have seen nothing since."""
    found, _ = verdicts(rig, {("keeper/a", "log"): signed_again(rig, "a", **ago_s)})
    problem = found["a"].problem
    assert (problem == "") == (min(ago_s.values(), default=999) < audit.FRESH_S)
    assert "ago" in problem or not ago_s or not problem


def test_a_receipt_of_this_session_is_held_against_the_log(rig, people, base):
    """The keeper states a small log to the auditor, consistently; a receipt that it gave before shows more."""
    kept = []
    verdicts(rig, {("keeper/a", "log"): lambda answer, body: kept.append(answer) or answer})
    size = wire.decode(kept[0], "entries").number("size")
    dpo = rig.connect("dpo", "subject_access")
    dpo.find("person", id_number=people[0]["id_number"])
    auditor = dpo.for_purpose("oversight")
    dpo.session.transport.lies = {
        ("keeper/a", "log"): lambda answer, body: kept[0],
        ("keeper/a", "state"): rig.header("a", entry=size),
    }
    found = {v.keeper: v.problem for v in auditor.audit_verify()}
    assert "its own receipt" in found["a"]
    dpo.session.logged["a"] = 10**12, b"\0" * 280  # what it did not sign is no receipt
    assert rig.loop.run(audit._verify_one(dpo.session, "oversight", "a")).problem.startswith(("malformed", "proof"))


def test_a_keeper_that_drips_entries_is_asked_no_further(rig, people):
    def one(scalars, tables, blobs):
        blobs["entries"] = blobs["entries"][:1]

    found, auditor = verdicts(rig, {("keeper/a", "log"): edited("entries", one)})
    assert auditor.session.transport.asked("log")["keeper/a"] == 1
    assert "1 entries from 0 on" in found["a"].problem
    assert [found[k].problem for k in "bc"] == ["", ""]


def test_a_log_without_end_is_read_as_far_as_it_is_cosigned(rig, people):
    def endless(scalars, tables, blobs):
        scalars["size"] = 2**60
        blobs["entries"] += [b"{}"] * 4096

    found, auditor = verdicts(rig, {("keeper/a", "log"): edited("entries", endless)})
    assert found["a"].problem == ""  # what is cosigned is whole; the rest nobody signed
    assert auditor.session.transport.asked("log")["keeper/a"] == 1
