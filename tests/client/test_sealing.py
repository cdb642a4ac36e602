"""No key and IV come twice, whatever the source of random bytes does; nothing that seals or searches outlives its call."""

import contextlib
import gc
import hashlib
import multiprocessing
import os
import random
from types import FrameType, FunctionType, ModuleType

import pytest
from client_rig import person

from anwen.client import finding, writing
from anwen.client.rows import Plain, bodies_of, canonical_values, seal_row
from anwen.crypto import envelope
from anwen.errors import ConflictError, IntegrityError, UnavailableError
from anwen.formats import wire
from anwen.formats.envelope import commitment

SCHEMA_NAMES = ("identity", "contact")


def sealed_in(calls):
    """Every (IV, commitment) in the puts to nodes; the commitment stands for DEK, place and so for the key."""
    bodies = [wire.decode(body, "node_put") for recipient, op, body in calls if op == "node_put"]
    return [(e[1 : 1 + envelope.IV_BYTES], commitment(e)) for m in bodies for e in m.blobs["envelopes"]]


def plain(rig, row, draw):
    schema = rig.policy.collections["person"]
    values = canonical_values(schema, row, SCHEMA_NAMES)
    return Plain(schema, draw(16), draw(16), 1, 0, 0, bodies_of(schema, values, SCHEMA_NAMES, ()), ())


class Repeating:
    """A generator that starts anew at every `period`-th call."""

    def __init__(self, period):
        self.period, self.calls = period, 0

    def __call__(self, size):
        if self.calls % self.period == 0:
            self.source = random.Random(5)
        self.calls += 1
        return self.source.randbytes(size)


def for_seals(source):
    """Random bytes as they should be, but for seals, which draw most at a time."""
    return lambda size: source(size) if size >= 2 * (envelope.DEK_BYTES + envelope.IV_BYTES) else os.urandom(size)


@pytest.mark.parametrize("source", [bytes, lambda n: b"\xaa" * n, Repeating(1)], ids=["zeros", "constant", "anew"])
def test_a_source_that_repeats_itself_seals_nothing_twice(rig, people, source):
    """Two updates of one version: one place, and so one context. With one DEK it would be one key as well."""
    officer = rig.connect("records_officer", "rectification", random=for_seals(source))
    (found,) = officer.find("person", id_number=people[0]["id_number"])
    refused = 0
    for i in range(3):
        with contextlib.suppress(ConflictError):
            try:
                officer.update(found, "contact", {"phone": people[i]["phone"]})
            except IntegrityError:
                refused += 1
    assert refused >= 2
    sealed = sealed_in(officer.session.transport.calls)
    assert len(set(sealed)) == len(sealed)


def test_one_key_never_meets_two_bodies(rig):
    """What the check prevents: with it left out, two bodies of one place lie under one key and IV."""
    draw = Repeating(1)
    vault = rig.policy.vault
    twice = [seal_row(vault, plain(rig, person(i), bytes), draw) for i in (1, 2)]
    assert twice[0].deks == twice[1].deks
    assert twice[0].envelopes[0][:45] == twice[1].envelopes[0][:45]  # IV and commitment
    assert twice[0].envelopes != twice[1].envelopes
    writer = writing.Writer(rig.session("importer"))
    batch = writing._Batch(rig.session("importer", random=draw), [plain(rig, person(1), bytes)])
    writer._check_fresh(batch.deks)
    with pytest.raises(IntegrityError, match="random"):
        writer._check_fresh(batch.deks)


def test_a_put_that_is_carried_out_again_sends_the_same_bytes_or_seals_anew(rig, base):
    importer = rig.connect("importer", "intake")
    transport, tries = importer.session.transport, []
    real = transport.call

    async def failing(recipient, op, grant, body, timeout_s):
        answer = await real(recipient, op, grant, body, timeout_s)
        if op in ("node_put", "put") and len(tries) < 4:
            tries.append(op)
            raise UnavailableError("after it was carried out")
        return answer

    transport.call = failing
    name = f"Again {chr(65 + base // 200 % 26)}{chr(65 + base // 5200 % 26)}"
    for i in range(0, 60, 20):
        fresh = rig.connect("importer", "intake")  # knows no slots: its rows come again, sealed anew
        fresh.session.transport.call = failing
        assert all(
            r.error is None for r in fresh.put_many("person", [person(base + i + j, name=name) for j in range(20)])
        )
    by_place = {}
    for client in rig.clients:
        for message in (wire.decode(b, "node_put") for _, op, b in client.session.transport.calls if op == "node_put"):
            for at, e in zip(message.tables["cells"]["commitment"].tolist(), message.blobs["envelopes"], strict=True):
                by_place.setdefault((e[1:13], bytes(at)), set()).add(e)
    assert tries
    assert by_place
    assert all(len(bodies) == 1 for bodies in by_place.values())


def _seal(queue, vault, row):
    queue.put(seal_row(vault, row, os.urandom).envelopes)


def test_forked_workers_seal_under_keys_of_their_own(rig):
    row, context = plain(rig, person(1), bytes), multiprocessing.get_context("forkserver")
    queue = context.SimpleQueue()
    workers = [context.Process(target=_seal, args=(queue, rig.policy.vault, row)) for _ in range(2)]
    for worker in workers:
        worker.start()
    envelopes = [e for _ in workers for e in queue.get()]
    for worker in workers:
        worker.join()
    assert len({e[:45] for e in envelopes}) == len(envelopes) == 2 * len(row.bodies)


# --- what stays in memory ------------------------------------------------------------------------------------------------


def reachable(*roots):
    """Everything that these objects lead to, by any way that Python's collector knows."""
    seen, todo = {}, list(roots)
    skip = (type, ModuleType, FunctionType, FrameType)
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, skip):
            continue
        seen[id(found)] = found
        todo += gc.get_referents(found)
    return seen.values()


def test_no_search_key_and_no_token_stays_with_a_client_after_its_call(rig, people, base, monkeypatch):
    keys, tokens = [], []
    labels, table = finding.blind_index.labels, finding.token_table

    def spy_labels(key, start, count):
        keys.append(bytes(bytearray(key)))
        return labels(key, start, count)

    def spy_table(queries):
        tokens.extend(bytes(bytearray(q.token)) for q in queries)
        return table(queries)

    monkeypatch.setattr(finding.blind_index, "labels", spy_labels)
    monkeypatch.setattr(finding, "token_table", spy_table)
    monkeypatch.setattr(writing, "token_table", spy_table)
    clerk, importer = rig.connect("case_worker", "casework"), rig.connect("importer", "intake")
    found = clerk.find("person", phone=people[0]["phone"]) + clerk.find("person", phone=person(base + 100)["phone"])
    clerk.open(found, ["identity"])
    for i in range(12):  # a value that is common enough to be remembered
        importer.put("person", person(base + 50 + i, name="Remembered Name"))
    for client in (clerk, importer):
        client.session.transport.calls.clear()  # the test's own memory
    gc.collect()
    secrets = {part for secret in [*keys, *tokens] for part in (secret, secret[:16], secret.hex())}
    assert len(keys) > 3
    assert len(tokens) > 3
    assert importer.asynchronous._writer._next_slot
    held = [o for o in reachable(clerk, importer) if isinstance(o, (bytes, str)) and o in secrets]
    assert not held


def test_the_search_of_memory_finds_what_is_kept(rig):
    clerk = rig.connect("case_worker", "casework")
    key = hashlib.sha256(b"kept").digest()
    clerk.asynchronous._finds[(1,)] = [key]
    assert any(o == key for o in reachable(clerk) if isinstance(o, bytes))
