"""A node that lies: the client's answer is right as long as another node is honest, nothing is learnt, the liar is named."""

import dataclasses
import hashlib
import time

import numpy as np
import pytest
from client_rig import edited, nothing, person
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anwen.client.finding import MISSES
from anwen.client.session import Timing
from anwen.client.writing import MOST_CANDIDATES
from anwen.crypto import blind_index
from anwen.errors import (
    AnwenError,
    ConflictError,
    GrantError,
    MalformedError,
    NotFoundError,
    ProofError,
    TooLargeError,
    UnavailableError,
)
from anwen.formats import wire

NODES = "abc"
READS = ("node_find", "node_get", "node_list")


def liar(op, lie, node="a"):
    return {(f"node/{node}", op): lie}


def everywhere(op, lie):
    return {(f"node/{n}", op): lie for n in NODES}


def first(client, node="a"):
    """Have a node asked before the others, as the one of the own zone is."""
    client.session.zone = node
    return client


def suspects(client):
    return {s for r in client.session.reports for s in r.suspects}


# --- withholding -------------------------------------------------------------------------------------------------------


def test_a_find_that_one_node_answers_with_nothing_finds_all_the_same_and_names_it(rig, people):
    clerk = first(rig.connect("case_worker", "casework", lies=liar("node_find", edited("rows", nothing))))
    assert [len(clerk.find("person", phone=p["phone"])) for p in people] == [1] * 10
    assert [len(found) for found in clerk.find_many("person", "id_number", [p["id_number"] for p in people])] == [
        1
    ] * 10
    assert suspects(clerk) == {"node/a"}


def test_a_posting_without_its_row_hides_nobody(rig, people):
    def no_rows(scalars, tables, blobs):
        hits = tables["hits"]
        nothing(scalars, tables, blobs)
        tables["hits"] = hits

    clerk = first(rig.connect("case_worker", "casework", lies=liar("node_find", edited("rows", no_rows))))
    assert len(clerk.find("person", phone=people[0]["phone"])) == 1
    assert suspects(clerk) == {"node/a"}


@pytest.mark.parametrize("op", ["node_get", "node_list"])
def test_a_record_that_one_node_hides_is_there_and_the_contradiction_is_kept(rig, people, op):
    (known,) = rig.connect("case_worker", "casework").find("person", phone=people[0]["phone"])
    clerk = first(rig.connect("case_worker", "casework", lies=liar(op, edited("rows", nothing))))
    found = clerk.get([known.id]) if op == "node_get" else clerk.list_subject(known.subject, "person")
    assert [r.id for r in found] == [known.id]
    assert any("node/a does not show" in r.reason for r in clerk.session.reports)
    assert suspects(clerk) == set()  # a row proves itself only when it opens: the other node may have made it up


def test_a_persons_records_go_in_though_one_node_knows_no_such_person(rig, people):
    (known,) = rig.connect("case_worker", "casework").find("person", phone=people[0]["phone"])
    incident = {"kind": "theft", "occurred": "2024-05-01T10:00:00Z"}
    lies = {**liar("node_list", edited("rows", nothing)), **liar("node_find", edited("rows", nothing))}
    registrar = first(rig.connect("importer", "registration", lies=lies))
    rows = [{**incident, "subject": known.subject}, {**incident, "person.id_number": people[0]["id_number"]}]
    assert [r.error for r in registrar.put_many("incident", rows)] == [None, None]


def test_who_is_written_between_two_looks_makes_nobody_a_liar(rig, people):
    looks = []

    def nothing_at_first(answer, body):
        looks.append(body)
        return edited("rows", nothing)(answer, body) if len(looks) == 1 else answer

    clerk = first(rig.connect("case_worker", "casework", lies=liar("node_find", nothing_at_first)))
    assert len(clerk.find("person", phone=people[0]["phone"])) == 1
    assert len(looks) == 2  # asked again before it would be accused
    assert clerk.session.reports == []


def test_a_hit_costs_one_call_and_a_miss_two(rig, people, base):
    clerk = rig.connect("case_worker", "casework")
    (found,) = clerk.find("person", phone=people[0]["phone"])
    clerk.get([found.id])
    assert len(clerk.list_subject(found.subject, "person")) == 1
    assert sum(clerk.session.transport.asked(*READS).values()) == 3
    keepers = sum(clerk.session.transport.asked("index").values())
    assert clerk.find("person", phone=person(base + 100)["phone"]) == []
    assert clerk.get(["00" * 16]) == [None]
    assert clerk.list_subject("00" * 16, "person") == []
    assert sum(clerk.session.transport.asked(*READS).values()) == 3 + 6
    assert all(count <= 6 for count in clerk.session.transport.asked(*READS).values())
    assert sum(clerk.session.transport.asked("index").values()) == keepers + 3


def test_the_second_look_is_taken_in_another_zone_and_a_zone_away_stops_no_miss(rig, base):
    clerk = first(rig.connect("case_worker", "casework"))
    assert clerk.find("person", phone=person(base)["phone"]) == []
    assert clerk.session.transport.asked("node_find")["node/a"] == 1
    clerk.session.transport.lies = {(f"node/{n}", "node_find"): UnavailableError("away") for n in "bc"}
    assert clerk.find("person", phone=person(base + 1)["phone"]) == []


# --- without end -------------------------------------------------------------------------------------------------------


def all_taken(answer, body):
    """Every label that was asked for holds something, which is nowhere."""
    count = len(wire.decode(body, "node_find").tables["labels"]["label"])

    def edit(scalars, tables, blobs):
        nothing(scalars, tables, blobs)
        record, mac = (np.frombuffer(hashlib.shake_128(b"%d" % k).digest(16 * count), np.uint8) for k in range(2))
        tables["hits"] = {
            "label_row": np.arange(count), "record": record.reshape(-1, 16), "mac": mac.reshape(-1, 16),
        }  # fmt: skip

    return edited("rows", edit)(answer, body)


def test_a_node_that_calls_every_label_taken_ends_no_search_and_hides_nobody(rig, people, base):
    clerk = first(rig.connect("case_worker", "casework", lies=liar("node_find", all_taken)))
    for i in range(3):  # more than are in flight at a time
        assert len(clerk.find("person", phone=people[i]["phone"])) == 1
        assert clerk.find("person", phone=person(base + 200 + i)["phone"]) == []
    assert clerk.session.transport.asked("node_find").total() < 60


def test_a_search_that_does_not_end_ends_and_holds_nobody_up(rig, people):
    lies = everywhere("node_find", all_taken)
    clerk = first(rig.connect("case_worker", "casework", lies=lies, timing=Timing(deadline_s=0.5)))
    for i in range(3):
        with pytest.raises(UnavailableError):
            clerk.find("person", phone=people[i]["phone"])
    clerk.session.transport.lies = {}
    assert len(clerk.find("person", phone=people[4]["phone"])) == 1


def test_a_second_node_that_answers_amiss_makes_no_put_fail_that_is_stored(rig, base):
    def cut(answer, _body):
        return answer[:10]

    lies = {(f"node/{n}", "node_find"): cut for n in "bc"}
    importer = first(rig.connect("importer", "intake", lies=lies))
    same = [{**person(base + 300 + i), "name": "One Name"} for i in range(12)]  # all of one value's slots
    assert [r.error for r in importer.put_many("person", same)] == [None] * 12


# --- what was not asked for --------------------------------------------------------------------------------------------


def spoilt(column, change):
    """A lie that changes one column of the rows of an answer that has any."""

    def edit(scalars, tables, blobs):
        for table in tables.values():
            if column in table and len(table[column]):
                table[column] = change(table[column])

    return edited("rows", edit)


def doubled(scalars, tables, blobs):
    for name, table in tables.items():
        tables[name] = {c: np.concatenate([v, v]) for c, v in table.items()}
    for name in blobs:
        blobs[name] = blobs[name] * 2


def surplus(scalars, tables, blobs):
    """One row more, of a record that nobody asked for."""
    rows = tables["rows"]
    if len(rows["record"]):
        tables["rows"] = {c: np.concatenate([v, v[:1]]) for c, v in rows.items()}
        tables["rows"]["record"][-1] = 0xEE
        for name in blobs:
            blobs[name].append(blobs[name][0])


def other(values):
    changed = values.copy()
    changed[-1] ^= 1
    return changed


JUNK = {
    "label beyond": spoilt("label_row", lambda v: v + 10**6),
    "label twice": edited("rows", doubled),
    "surplus": edited("rows", surplus),
    "foreign record": spoilt("record", other),
    "foreign collection": spoilt("collection", lambda v: v * 0 + 999),
    "version 0": spoilt("version", lambda v: v * 0),
    "date beyond": spoilt("collected_s", lambda v: v | 2**63),
    "sealed junk": edited("rows", lambda s, t, b: b.update(sealed=[b"\0" * 7] * len(b["sealed"]))),
    "wraps junk": edited("rows", lambda s, t, b: b.update(wraps=[b""] * len(b["wraps"]))),
    "blobs missing": edited("rows", lambda s, t, b: b.update(sealed=[])),
    "outcomes": lambda answer, body: wire.encode("outcomes", bytes(16)),
    "empty": lambda answer, body: b"",
    "cut": lambda answer, body: answer[:-1],
    "huge": lambda answer, body: bytes(wire.MAX_BODY_BYTES + 1),
}


@pytest.mark.parametrize("name", JUNK)
def test_junk_of_one_node_is_passed_over_and_of_all_is_a_broken_promise(rig, people, name):
    lie = JUNK[name]
    clerk = first(rig.connect("case_worker", "casework", lies=liar("node_find", lie)))
    (found,) = clerk.find("person", phone=people[0]["phone"])
    assert clerk.open([found], ["identity"])[0]["id_number"] == people[0]["id_number"]
    assert suspects(clerk) == {"node/a"}
    if name != "foreign record":  # that could be a writer's doing
        clerk = rig.connect("case_worker", "casework", lies=everywhere("node_find", lie))
        with pytest.raises(ProofError):
            clerk.find("person", phone=people[0]["phone"])
        assert len(suspects(clerk)) >= 2


@pytest.mark.parametrize("name", [n for n in JUNK if "label" not in n])
@pytest.mark.parametrize("op", ["node_get", "node_list"])
def test_junk_in_other_reads_is_passed_over(rig, people, op, name):
    if op == "node_list" and name in ("surplus", "foreign record"):
        pytest.skip("a list does not say which ids there are: what is made up does not open")
    lie = JUNK[name]
    (known,) = rig.connect("case_worker", "casework").find("person", phone=people[0]["phone"])
    clerk = first(rig.connect("case_worker", "casework", lies=liar(op, lie)))
    found = clerk.get([known.id]) if op == "node_get" else clerk.list_subject(known.subject, "person")
    assert [r.id for r in found] == [known.id]
    assert suspects(clerk) == {"node/a"}


def test_a_foreign_record_under_a_posting_is_not_opened_and_is_said(rig, people):
    """Two people's answers exchanged: the posting's check value fits neither."""
    clerk = first(rig.connect("case_worker", "casework"))
    told = {}

    def keep(answer, body):
        told.setdefault("other", answer)
        return answer

    clerk.session.transport.lies = liar("node_find", keep)
    clerk.find("person", id_number=people[1]["id_number"])
    clerk.session.transport.lies = liar("node_find", lambda answer, body: told["other"])
    (found,) = clerk.find("person", id_number=people[0]["id_number"])
    assert clerk.open([found], ["identity"])[0]["id_number"] == people[0]["id_number"]
    assert any("under a value that its writer did not give it" in r.reason for r in clerk.session.reports)


@pytest.mark.parametrize("how", ["page again", "descending", "too many", "foreign subject"])
def test_a_list_goes_forward_or_ends(rig, people, base, how):
    subjects = [
        r.subject
        for r in rig.connect("importer", "intake").put_many("person", [person(base + 50 + i) for i in range(4)])
    ]
    assert len(set(subjects)) == 4
    pages = []

    def lie(answer, body):
        pages.append(answer)
        if how == "page again":
            return pages[0]
        if how == "too many":
            return edited("rows", doubled_with_new_ids)(answer, body)
        if how == "foreign subject":
            return spoilt("subject", other)(answer, body)
        return edited("rows", lambda s, t, b: None)(pages[0], body)

    def doubled_with_new_ids(scalars, tables, blobs):
        doubled(scalars, tables, blobs)
        half = len(tables["rows"]["record"]) // 2
        tables["rows"]["record"][half:, -1] ^= 1

    clerk = first(rig.connect("case_worker", "casework", lies=everywhere("node_list", lie)))
    with pytest.raises(ProofError):
        clerk.list_subject(subjects[0], "person") if how == "foreign subject" else list(clerk.scan("person", page=3))
    assert len(pages) < 10


def test_a_scan_goes_on_from_a_record_and_no_node_may_begin_before_it(rig, base):
    rig.connect("importer", "intake").put_many("person", [person(base + 50 + i) for i in range(6)])
    clerk = first(rig.connect("case_worker", "casework"))
    everything = [r.id for r in clerk.scan("person")]
    assert [r.id for r in clerk.scan("person", after=everything[2], page=2)] == everything[3:]
    for last in (everything[-1], "ff" * 16):
        assert list(clerk.scan("person", after=last)) == []
    with pytest.raises(MalformedError, match="32 hexadecimal digits"):
        next(clerk.scan("person", after="7"))
    pages = []

    def from_the_beginning(answer, _body):
        pages.append(answer)
        return pages[0]

    clerk = first(rig.connect("case_worker", "casework", lies=everywhere("node_list", from_the_beginning)))
    assert next(clerk.scan("person")).id == everything[0]
    with pytest.raises(ProofError):
        next(clerk.scan("person", after=everything[2]))


def test_the_last_version_that_there_can_be_costs_no_memory(rig, people):
    (known,) = rig.connect("records_officer", "deletion").find("person", id_number=people[0]["id_number"])
    far = dataclasses.replace(known, version=2**32 - 1)
    officer = rig.connect("records_officer", "deletion")
    with pytest.raises(AnwenError):
        rig.connect("records_officer", "rectification").update(far, "contact", {"phone": people[0]["phone"]})
    officer.delete([far])
    assert rig.connect("case_worker", "casework").get([known.id]) == [None]


# --- slots -------------------------------------------------------------------------------------------------------------


def slots_of(rig, field, value, most=200):
    """Return which slots of a value are taken in the store."""
    clerk = rig.connect("case_worker", "casework")
    k_w = {}
    original = blind_index.labels

    def spy(key, start, count):
        k_w["key"] = key
        return original(key, start, count)

    blind_index.labels = spy
    try:
        clerk.find("person", **{field: value})
    finally:
        blind_index.labels = original
    labels = original(k_w["key"], 0, most)
    store = rig.inner._stores[0]
    return [hit.label_row for hit in rig.loop.run(store.find(labels))]


SLOTS = {
    "far beyond": lambda v: v * 0 + 4 * 10**9,
    "just beyond": lambda v: v * 0 + MOST_CANDIDATES,
    "the last": lambda v: v * 0 + 7,
}


@pytest.mark.parametrize("claimed", SLOTS.values(), ids=SLOTS)
def test_a_node_that_lies_about_slots_makes_no_later_posting_unfindable(rig, base, claimed):
    name = f"Slot {chr(65 + base // 200 % 26)}{chr(65 + base // 5200 % 26)}"
    lies = {
        **liar(
            "node_put", edited("outcomes", lambda s, t, b: t.update(postings={"slot": claimed(t["postings"]["slot"])}))
        )
    }
    importer = first(rig.connect("importer", "intake", lies=lies))
    for i in range(5):
        assert importer.put("person", person(base + i, name=name)).error is None
    importer.session.zone = "b"  # honest from here on
    for i in range(5, 15):
        assert importer.put("person", person(base + i, name=name)).error is None
    assert len(rig.connect("case_worker", "casework").find("person", name=name)) == 15
    slots = slots_of(rig, "name", name)
    assert max(b - a for a, b in zip([-1, *slots], slots, strict=False)) < MISSES


def test_a_node_that_stores_nothing_and_claims_the_last_slot_moves_nobody_away(rig, base):
    """Acknowledged and not stored is lost with that node; what honest nodes store after it must be found."""
    name = f"Gone {chr(65 + base // 200 % 26)}{chr(65 + base // 5200 % 26)}"

    def forget(answer, body):
        message = wire.decode(body, "node_put")
        rows, postings = wire.rows_in(message.tables["records"]), message.tables["postings"]
        slots = postings["labels"].astype(np.uint32) - 1
        return wire.encode("outcomes", bytes(16), tables={"records": {"outcome": np.zeros(rows, np.uint8)},
                                                          "postings": {"slot": slots}})  # fmt: skip

    importer = first(rig.connect("importer", "intake"))
    transport, honest = importer.session.transport, importer.session.transport.call

    async def call(recipient, op, grant, body, timeout_s):
        if (recipient, op) == ("node/a", "node_put"):
            return forget(b"", body)
        return await honest(recipient, op, grant, body, timeout_s)

    transport.call = call
    for i in range(0, 60, 20):
        importer.put_many("person", [person(base + i + j, name=name) for j in range(20)])
    transport.call = honest
    for i in range(60, 63):
        assert importer.put("person", person(base + i, name=name)).error is None
    assert len(rig.connect("case_worker", "casework").find("person", name=name)) == 3


def test_a_node_that_calls_every_slot_taken_moves_nobody_away(rig, base):
    name = f"Full {chr(65 + base // 200 % 26)}{chr(65 + base // 5200 % 26)}"

    def full(answer, body):
        outcomes = np.full(
            wire.rows_in(wire.decode(answer, "outcomes").tables["records"]), wire.Outcome.NO_SLOT, np.uint8
        )
        slots = np.full(wire.rows_in(wire.decode(answer, "outcomes").tables["postings"]), wire.NOWHERE)
        return wire.encode(
            "outcomes", bytes(16), tables={"records": {"outcome": outcomes}, "postings": {"slot": slots}}
        )

    def all_taken(answer, body):
        count = wire.rows_in(wire.decode(body, "node_find").tables["labels"])
        hits = {
            "label_row": np.arange(count),
            "record": np.zeros((count, 16), np.uint8),
            "mac": np.zeros((count, 16), np.uint8),
        }
        return wire.encode("rows", bytes(16), tables={"hits": hits})

    importer = first(rig.connect("importer", "intake", lies={**liar("node_put", full), **liar("node_find", all_taken)}))
    with pytest.raises(UnavailableError, match="no free slot"):
        importer.put("person", person(base, name=name))  # told: nothing of it is stored, as far as this client knows
    importer.session.zone = "b"
    for i in range(1, 4):
        assert importer.put("person", person(base + i, name=name)).error is None
    assert len(rig.connect("case_worker", "casework").find("person", name=name)) >= 3
    assert max(slots_of(rig, "name", name)) < 2 * MISSES


def test_an_honest_crowd_is_learnt_of_with_few_calls(rig, base):
    name = f"Crowd {chr(65 + base // 200 % 26)}{chr(65 + base // 5200 % 26)}"
    importer = rig.connect("importer", "intake")
    for i in range(0, 120, 10):
        assert all(
            r.error is None for r in importer.put_many("person", [person(base + i + j, name=name) for j in range(10)])
        )
    assert importer.session.transport.asked("node_put").total() == 12  # no put came again
    assert importer.session.transport.asked("node_find").total() <= 12
    assert slots_of(rig, "name", name) == list(range(120))
    assert all(
        not isinstance(key, (bytes, tuple)) for key in importer.asynchronous._writer._next_slot
    )  # no part of a token


# --- one node's refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NotFoundError("x"), MalformedError("x"), ConflictError("x"), TooLargeError("x"), GrantError("x"), ProofError("x")], ids=lambda e: e.code)  # fmt: skip
def test_a_refusal_of_one_node_is_not_believed(rig, people, base, error):
    lies = {("node/a", op): error for op in ("node_put", "node_find", "node_get", "node_list", "node_delete")}
    importer, clerk = (
        first(rig.connect(*who, lies=lies)) for who in (("importer", "intake"), ("case_worker", "casework"))
    )
    assert importer.put("person", person(base + 50)).error is None
    (found,) = clerk.find("person", phone=person(base + 50)["phone"])
    assert clerk.get([found.id])[0].id == found.id
    officer = first(rig.connect("records_officer", "deletion", lies=lies))
    officer.delete(officer.find("person", id_number=person(base + 50)["id_number"]))
    assert clerk.find("person", phone=person(base + 50)["phone"]) == []


def test_what_all_say_or_the_only_one_is_believed(rig, people):
    clerk = rig.connect("case_worker", "casework", lies=everywhere("node_get", NotFoundError("x")))
    with pytest.raises(NotFoundError):
        clerk.get(["00" * 16])
    assert clerk.session.transport.asked("node_get").total() == 2
    alone = dataclasses.replace(rig.policy, nodes={"a": rig.policy.nodes["a"]})
    clerk = rig.connect("case_worker", "casework", lies=everywhere("node_get", NotFoundError("x")), policy=alone)
    with pytest.raises(NotFoundError):
        clerk.get(["00" * 16])
    clerk.session.transport.lies = {}
    assert clerk.get(["00" * 16]) == [None]  # and nobody else is there to be asked
    assert clerk.session.transport.asked("node_get").total() == 2


# --- mutations ---------------------------------------------------------------------------------------------------------


MUTATIONS = settings.default.max_examples // 10  # an example takes a second or two


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=MUTATIONS)
@given(data=st.data())
def test_mutated_nodes_raise_nothing_but_our_errors_in_bounded_time(rig, people, data):
    """Bytes flipped, cut, added or repeated in what every node answers to one operation."""
    op = data.draw(st.sampled_from(["node_find", "node_get", "node_list", "node_put"]))
    seed = data.draw(st.binary(min_size=8, max_size=8))
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "repeat", "count"]))

    def mutate(answer, _body):
        at = int.from_bytes(hashlib.sha256(seed + answer[:4]).digest()[:4]) % max(1, len(answer))
        if kind == "flip":
            return answer[:at] + bytes([answer[at] ^ (seed[0] or 1)]) + answer[at + 1 :]
        if kind == "cut":
            return answer[:at]
        if kind == "add":
            return answer[:at] + seed + answer[at:]
        return answer[:at] + answer[:at] if kind == "repeat" else answer[:21] + seed[:4] + answer[25:]

    lies = everywhere(op, mutate)
    clerk = rig.connect("case_worker", "casework", lies=lies, timing=Timing(deadline_s=2.0))
    importer = rig.connect("importer", "intake", lies=lies, timing=Timing(deadline_s=2.0))
    begun = time.monotonic()
    works = [
        lambda: clerk.open_each(clerk.find("person", phone=people[0]["phone"]), ["identity"]),
        lambda: clerk.get(["00" * 16]),
        lambda: list(clerk.scan("person", ["identity"], page=100)),
        lambda: importer.put_many("person", [person(199_000 + int.from_bytes(seed[:3]) * 100)]),
    ]
    for work in works:
        try:
            work()
        except AnwenError:
            continue
    assert time.monotonic() - begun < 20
    assert all(k[:5] == "node/" for k in suspects(clerk))
