"""What a keeper answers, charges and remembers."""

import itertools
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from keeper_rig import DAY_S, NAME_CLASS, NAME_MASK, PERSON, PHONE, START_S, VAULT, People, Rig, budgets, plain, rand

from anwen.crypto import grants, merkle
from anwen.errors import BudgetError, GrantError, PolicyError, RefusedError, UnavailableError
from anwen.formats import answer, checkpoint, policy_chain, wire
from anwen.formats.answer import decode_answer
from anwen.formats.checkpoint import log_origin as origin
from anwen.model import Budget, Counter
from anwen.policy.budgets import JOIN_S


async def test_a_stored_rows_value_is_the_one_given_when_it_was_written(rig):
    people = People(5)
    written = await rig.ask("put", people.put())
    base = written["a"].nonce_base
    assert {a.nonce_base for a in written.values()} == {base}
    opened = await rig.ask("open", people.open(base))
    assert np.array_equal(rig.value(opened), rig.value(written)[:10])
    found = await rig.ask("index", people.index())
    assert np.array_equal(rig.value(found), rig.value(written)[10:])


async def test_changing_any_field_of_an_opening_gives_another_value(rig):
    people = People(1, classes=(NAME_CLASS,))
    written = await rig.ask("put", people.put(with_tokens=False))
    right = rig.value(written)[0].tobytes()
    base = written["a"].nonce_base
    values = {right}
    for changes in (
        {"version": people.full(2)},
        {"collected_s": people.full(people.collected_s - DAY_S)},
        {"expires_s": people.full(people.collected_s + 5 * DAY_S)},
        {"nonce": rand(1, 24)},
        {"class": people.full(2)},
    ):
        values.add(rig.value(await rig.ask("open", people.open(base, **changes)))[0].tobytes())
    for name in ("subject", "record"):
        other = People(1, classes=(NAME_CLASS,))
        other.subject, other.record = people.subject, people.record
        setattr(other, name, rand(1, 16))
        values.add(rig.value(await rig.ask("open", other.open(base)))[0].tobytes())
    assert len(values) == 8


@pytest.mark.parametrize(("count", "threshold"), [(3, 2), (5, 3), (2, 2), (4, 3), (7, 4)])
async def test_any_t_keepers_agree(tmp_path, count, threshold):
    rig = await Rig(tmp_path, count, threshold).start(ceremonies=("record", "index", "mask"))
    people = People(2)
    written = await rig.ask("put", people.put())
    opened = await rig.ask("open", people.open(written["a"].nonce_base))
    values = {rig.value({k: opened[k] for k in some}).tobytes() for some in itertools.combinations(rig.ids, threshold)}
    assert values == {rig.value(written)[:4].tobytes()}
    await rig.close()


async def test_receipts_name_what_was_asked_and_cover_the_rows(rig):
    people = People(2)
    body = people.put()
    for keeper, got in (await rig.ask("put", body)).items():
        header = answer.verify_receipt(got.receipt, rig.policy.keepers[keeper].identity)
        assert header.root == wire.put_root(people.records, people.cells)
        assert (header.op, header.keeper, header.epoch, header.generation) == ("put", keeper, 1, 1)
        assert (header.policy_version, header.time_ms) == (1, START_S * 1000)
        entry = json.loads(rig.keepers[keeper].log.read(header.entry, 1)[0])
        assert entry["root"] == header.root.hex()
        assert entry["classes"] == {f"{PERSON}.{NAME_CLASS}": 2, f"{PERSON}.{NAME_MASK}": 2}
        assert (entry["subjects"], entry["rows"], entry["tokens"]) == (2, 2, 2)


async def test_a_receipt_names_the_epoch_whose_keys_answered_though_the_next_opens_meanwhile(rig, monkeypatch):
    """Else an honest keeper would sign that it answered wrongly."""
    keeper = rig.keepers["a"]
    commit = keeper.log.commit

    async def opens_the_next(index):
        await commit(index)
        monkeypatch.setitem(keeper._state._numbers, "record", 2)
        monkeypatch.setitem(keeper._state._numbers, "index", 2)

    monkeypatch.setattr(keeper.log, "commit", opens_the_next)
    got = (await rig.ask("put", People(2).put(), ["a"]))["a"]
    header = answer.verify_receipt(got.receipt, rig.policy.keepers["a"].identity)
    assert (header.epoch, header.generation, keeper.number("record")) == (1, 1, 2)


async def test_answers_combine_where_their_grants_expire_in_the_same_second(rig):
    people = People(2)
    written = await rig.ask("put", people.put(with_tokens=False))
    value, body = rig.value(written), people.open(written["a"].nonce_base)
    first, second = await rig.ask("open", body), await rig.ask("open", people.open(written["a"].nonce_base), life_s=61)
    assert np.array_equal(rig.value(first), value)
    assert np.array_equal(rig.value(second), value)
    for keeper, got in first.items():
        assert got.header.expires_s + 1 == second[keeper].header.expires_s == START_S + 61
        assert not (got.components == second[keeper].components).all(axis=2).any()
    await rig.restart("b")  # and the pads are those of the others still
    late = {"b": (await rig.ask("open", people.open(written["a"].nonce_base), ["b"]))["b"], "c": first["c"]}
    assert np.array_equal(rig.value(late), value)


async def test_without_the_key_of_the_pads_nothing_is_answered(tmp_path):
    rig = await Rig(tmp_path).start(ceremonies=("record", "index", "prehash"))
    with pytest.raises(UnavailableError, match="series mask"):
        await rig.ask("put", People(1).put())
    await rig.close()


async def test_verify_gives_only_hashes_which_are_the_same_at_any_time(rig, monkeypatch):
    import hashlib

    from anwen.crypto import dprf

    people = People(2)
    base = (await rig.ask("put", people.put()))["a"].nonce_base
    first = await rig.ask("verify", people.open(base, op="verify"), life_s=20)
    with monkeypatch.context() as patch:
        patch.setattr(dprf, "pads", lambda *about: dict.fromkeys(about[3], np.uint8(0)))
        opened = await rig.ask("open", people.open(base))
    for keeper, got in (await rig.ask("verify", people.open(base, op="verify"))).items():
        assert np.array_equal(got.components, first[keeper].components)
    verified = await rig.ask("verify", people.open(base, op="verify"))
    for keeper, got in verified.items():
        hashed = [hashlib.sha256(row.tobytes()).digest() for c in opened[keeper].components for row in c]
        assert got.components.tobytes() == b"".join(hashed)


async def test_state_and_prehash(rig):
    body = plain("state")
    states = await rig.ask("state", body)
    assert {(a.header.rows, a.header.columns, a.header.epoch) for a in states.values()} == {(0, 0, 1)}
    fields = {"collection": np.array([PERSON]), "field": np.array([PHONE])}
    keys = [
        rig.value(await rig.ask("prehash", wire.encode("prehash", bytes(16), {}, {"fields": fields}))) for _ in "ab"
    ]
    assert np.array_equal(*keys)
    with pytest.raises(GrantError):
        await rig.ask("prehash", wire.encode("prehash", bytes(16), {}, {"fields": fields}), who="bob", purpose="look")


async def test_before_the_ceremony_there_is_nothing_to_ask(tmp_path):
    rig = await Rig(tmp_path).start(ceremonies=())
    fields = {"collection": np.array([PERSON]), "field": np.array([PHONE])}
    with pytest.raises(UnavailableError):
        await rig.ask("prehash", wire.encode("prehash", bytes(16), {}, {"fields": fields}))
    await rig.close()


# --- write is not read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_recorded_put_cannot_be_asked_again_for_its_values(rig, restarted):
    """A thief with a writer's key, its recorded bodies, and grants that were never spent."""
    people = People(2)
    body, jti = people.put(), bytes(16)
    first = await rig.ask("put", body, ["a", "b"], jti=jti)
    nonces = {first["a"].nonce_base}
    if restarted:
        await rig.restart("a")
    with pytest.raises(GrantError):
        await rig.ask("put", body, ["a"], jti=jti)
    with pytest.raises(GrantError):
        await rig.ask("put", body, ["a"], jti=jti, life_s=90)
    for keepers, claims in ((["c"], {"jti": jti, "life_s": 90}), (["a"], {}), (["a"], {"life_s": 90})):
        again = await rig.ask("put", body, keepers, **claims)
        base = next(iter(again.values())).nonce_base
        assert base not in nonces
        nonces.add(base)
    rig.clock.now_s += 61  # the grant has expired; its jti is forgotten with the next one that is spent
    await rig.ask("index", people.index(), ["a"])
    again = await rig.ask("put", body, ["a"], jti=jti)
    assert again["a"].nonce_base not in nonces


async def test_siblings_of_one_request_have_one_nonce_base_and_rows_follow(rig):
    people = People(3)
    bodies = [people.put(with_tokens=False) for _ in range(2)]
    bases = {
        (await rig.ask("put", body, jti=bytes(16), life_s=60 + i))["a"].nonce_base for i, body in enumerate(bodies[:1])
    }
    assert len(bases) == 1
    assert len({row.tobytes() for row in rig.value(await rig.ask("put", bodies[1]))}) == 6


# --- budgets -------------------------------------------------------------------------------------------------------


async def limited(tmp_path, **limits):
    """Each keeper of three enforces half of what is promised."""
    full = {c: Budget(10**6, 10**6) for c in Counter} | {Counter(n): Budget(2 * v, 2 * v) for n, v in limits.items()}
    rig = await Rig(tmp_path, limits=full).start()
    people = [People(1, classes=(NAME_CLASS, NAME_MASK)) for _ in range(5)]
    bases = [bytes(20)] * 5
    return rig, people, bases


@pytest.mark.parametrize(
    ("counter", "classes"), [("open", (NAME_CLASS,)), ("list", (NAME_MASK,)), ("records", (NAME_CLASS,))]
)
async def test_openings_stop_at_the_keepers_share_of_the_budget(tmp_path, counter, classes):
    rig, people, bases = await limited(tmp_path, **{counter: 3})
    for i in range(3):
        await rig.ask("open", people[i].open(bases[i], classes=classes), ["a"])
    with pytest.raises(BudgetError) as refused:
        await rig.ask("open", people[3].open(bases[3], classes=classes), ["a"])
    assert refused.value.retry_after_s == DAY_S + JOIN_S
    assert counter in str(refused.value)
    if counter != "records":  # the same people again cost nothing
        await rig.ask("open", people[0].open(bases[0], classes=classes), ["a"])
        other = {NAME_CLASS: (NAME_MASK,), NAME_MASK: (NAME_CLASS,)}[classes[0]]
        await rig.ask("open", people[4].open(bases[4], classes=other), ["a"])
    await rig.restart("a")
    with pytest.raises(BudgetError):
        await rig.ask("open", people[3].open(bases[3], classes=classes), ["a"])
    await rig.ask("open", people[3].open(bases[3], classes=classes), ["b"])
    rig.clock.now_s += 3601
    with pytest.raises(BudgetError):  # the day's window holds them still
        await rig.ask("open", people[3].open(bases[3], classes=classes), ["a"])
    rig.clock.now_s += DAY_S
    await rig.ask("open", people[3].open(bases[3], classes=classes), ["a"])
    await rig.close()


async def test_a_batch_is_charged_whole_or_not_at_all(tmp_path):
    rig, _, _ = await limited(tmp_path, open=3)
    with pytest.raises(BudgetError):
        await rig.ask("open", People(4).open(bytes(20)), ["a"])
    await rig.ask("open", People(3).open(bytes(20)), ["a"])
    await rig.close()


@pytest.mark.parametrize(
    ("counter", "op"), [("search", "index"), ("search", "put"), ("write", "put"), ("delete", "delete")]
)
async def test_other_counters(tmp_path, counter, op):
    rig, _, _ = await limited(tmp_path, **{counter: 3})
    await rig.ask(op, getattr(People(3), op)(), ["a"])
    for _ in range(2):
        with pytest.raises(BudgetError):
            await rig.ask(op, getattr(People(1), op)(), ["a"])
        await rig.restart("a")
    await rig.close()


async def test_token_keys_are_charged_as_searches_since_each_request_is_logged(tmp_path):
    """Uncharged, one login filled every keeper's disk."""
    rig, _, _ = await limited(tmp_path, search=3)
    fields = {"collection": np.array([PERSON]), "field": np.array([PHONE])}
    for _ in range(3):
        await rig.ask("prehash", wire.encode("prehash", os.urandom(16), {}, {"fields": fields}), ["a"])
    size = rig.keepers["a"].log.next
    with pytest.raises(BudgetError):
        await rig.ask("prehash", wire.encode("prehash", os.urandom(16), {}, {"fields": fields}), ["a"])
    assert rig.keepers["a"].log.next == size + 1  # a refusal, of which there are few a second
    await rig.close()


async def test_a_collections_ceiling_counts_all_principals(tmp_path):
    from dataclasses import replace

    rig = Rig(tmp_path)
    person = replace(rig.policy.collections["person"], limits=budgets(list=4))
    rig.begin_with(replace(rig.policy, collections={"person": person}))
    await rig.start(ceremonies=("record", "mask"))
    body = lambda: People(1, classes=(NAME_MASK,)).open(bytes(20))  # noqa: E731
    await rig.ask("open", body(), ["a"])
    await rig.ask("open", body(), ["a"], who="bob", purpose="look")
    for _ in range(2):
        with pytest.raises(BudgetError, match="all principals"):
            await rig.ask("open", body(), ["a"], who="bob", purpose="look")
        await rig.restart("a")
    await rig.close()


async def test_refused_and_invalid_requests_charge_nobody(tmp_path):
    rig, people, bases = await limited(tmp_path, open=1)
    for _ in range(3):
        with pytest.raises(RefusedError):
            await rig.ask("open", people[0].open(bases[0], expires_s=people[0].full(DAY_S, 2)), ["a"])
        with pytest.raises(GrantError):
            await rig.ask("open", people[1].open(bases[1]), ["a"], who="bob", purpose="look")
    await rig.ask("open", people[2].open(bases[2]), ["a"])
    await rig.close()


# --- denials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [0, 1, 2])
async def test_a_deleted_row_never_opens_again_and_others_do(rig, restarts):
    gone, stays = People(1), People(1)
    await rig.ask("open", gone.open(bytes(20)))
    receipts = await rig.ask("delete", gone.delete())
    assert {a.header.root for a in receipts.values()} != {bytes(32)}
    for _ in range(restarts):
        rig.clock.now_s += 5 * DAY_S
        for i in rig.ids:
            await rig.restart(i)
    with pytest.raises(RefusedError):
        await rig.ask("open", gone.open(bytes(20)))
    with pytest.raises(RefusedError):
        await rig.ask("verify", gone.open(bytes(20), op="verify"))
    with pytest.raises(RefusedError):
        await rig.ask("put", gone.put())
    await rig.ask("open", stays.open(bytes(20)))
    gone.version = 2
    await rig.ask("open", gone.open(bytes(20)))


async def test_a_deletion_under_another_subject_denies_nothing(rig):
    """Else one person's budget would delete everybody's records: the subject is part of what is denied."""
    victim = People(1)
    thief = People(1)
    thief.record = victim.record
    await rig.ask("delete", thief.delete())
    await rig.ask("open", victim.open(bytes(20)))


async def test_restricted_and_erased_people_do_not_open(rig):
    one, two, free = People(1, classes=(NAME_MASK,)), People(1, classes=(NAME_MASK,)), People(1, classes=(NAME_MASK,))
    rig.append_about("restrict", one, purpose="work")
    rig.append_about("erase", two)
    await rig.settle()
    for _ in range(2):
        for people in (one, two):
            with pytest.raises(RefusedError):
                await rig.ask("open", people.open(bytes(20)))
        await rig.ask("open", one.open(bytes(20)), who="bob", purpose="look")
        await rig.ask("open", free.open(bytes(20)))
        for i in rig.ids:
            await rig.restart(i)
    rig.append_about("lift", one, purpose="work")
    await rig.settle()
    await rig.ask("open", one.open(bytes(20)))


async def test_all_reasons_why_something_does_not_open_have_one_wording(rig):
    deleted, erased, expired, restricted = (People(1) for _ in range(4))
    await rig.ask("delete", deleted.delete())
    rig.append_about("erase", erased)
    rig.append_about("restrict", restricted, purpose="work")
    expired.collected_s -= 366 * DAY_S
    said = set()
    for people in (deleted, erased, expired, restricted):
        with pytest.raises(RefusedError) as refused:
            await rig.ask("open", people.open(bytes(20)), ["a"])
        said.add((str(refused.value), refused.value.code, refused.value.retry_after_s))
    assert len(said) == 1


# --- log -----------------------------------------------------------------------------------------------------------


async def test_who_has_seen_a_person(rig):
    seen, other = People(1), People(3)
    await rig.ask("put", seen.put())
    await rig.ask("put", other.put())
    rig.clock.now_s += 40 * DAY_S
    await rig.ask("open", seen.open(bytes(20), classes=(NAME_MASK,)), who="bob", purpose="look")
    await rig.ask("delete", seen.delete())
    for since, ops in ((0, ["put", "open", "delete"]), (START_S + 1, ["open", "delete"])):
        body = plain("audit", subject=seen.subject[0].tobytes(), since_s=since, start=0)
        got = wire.decode(await rig.keepers["a"].handle("audit", rig.grant(body, "a"), body), "entries")
        entries = [json.loads(e) for e in got.blobs["entries"]]
        assert [e["op"] for e in entries] == ops
        assert [e["iss"] for e in entries][-2:] == ["bob", "alice"]
        assert entries[-1]["index"] < got.number("start") == got.number("size")
    body = plain("audit", subject=seen.subject[0].tobytes(), since_s=0, start=0)
    with pytest.raises(GrantError):
        await rig.keepers["a"].handle("audit", rig.grant(body, "a", who="bob", purpose="look"), body)


async def test_the_log_that_is_read_hashes_to_the_cosigned_checkpoint(rig):
    await rig.ask("put", People(3).put())
    body = plain("log", start=0, count=4096)
    got = wire.decode(await rig.keepers["a"].handle("log", rig.grant(body, "a"), body), "entries")
    note = got.blobs["checkpoint"][0].decode()
    head = checkpoint.verify_note(note, origin(VAULT, "a"), rig.policy.keepers["a"].identity)
    assert merkle.root([merkle.leaf_hash(e) for e in got.blobs["entries"][: head.size]]) == head.root
    witnesses = {origin(VAULT, k): i.identity for k, i in rig.policy.keepers.items() if k != "a"}
    assert checkpoint.cosignatures(note, witnesses) == dict.fromkeys(witnesses, START_S)
    assert [json.loads(e)["op"] for e in got.blobs["entries"]][-2:] == ["put", "log"]
    part = plain("log", start=2, count=2)
    some = wire.decode(await rig.keepers["a"].handle("log", rig.grant(part, "a"), part), "entries")
    assert some.blobs["entries"] == got.blobs["entries"][2:4]
    beyond = plain("log", start=10**6, count=2)
    none = wire.decode(await rig.keepers["a"].handle("log", rig.grant(beyond, "a"), beyond), "entries")
    assert none.blobs["entries"] == []


async def test_refusals_are_logged_and_a_flood_of_them_is_not(rig):
    for _ in range(40):
        with pytest.raises(GrantError):
            await rig.ask("open", People(1).open(bytes(20)), ["a"], who="bob", purpose="look")
    await rig.settle()
    entries = [json.loads(f.entry) for f in rig.keepers["a"].log.frames(0)]
    refused = [e for e in entries if e["op"] == "refused"]
    assert len(refused) == 16
    assert (refused[0]["of"], refused[0]["code"], refused[0]["iss"]) == ("open", "grant", "bob")


async def test_no_handle_token_or_grant_lies_in_the_folder(rig):
    people = People(2)
    body = people.put()
    grant = rig.grant(body, "a")
    await rig.keepers["a"].handle("put", grant, body)
    await rig.ask("open", people.open(bytes(20)))
    await rig.ask("index", people.index())
    deletion = people.delete()
    denial = rig.grant(deletion, "a")
    await rig.keepers["a"].handle("delete", denial, deletion)
    await rig.keepers["a"].cosign_now()
    data = b"\n".join(p.read_bytes() for p in rig.path("a").rglob("*") if p.is_file() and "policy" not in p.parts)
    log = b"\n".join(p.read_bytes() for p in (rig.path("a") / "log").glob("*.log"))
    assert people.record[0].tobytes() in log  # in side data; entries name none
    secrets = [*map(bytes, people.subject), *map(bytes, people.tokens), grant.encode(), grant.split(".")[2].encode()]
    for secret in secrets:
        assert secret not in data
        assert secret.hex().encode() not in data
    for frame in rig.keepers["a"].log.frames(0):
        assert (denial.encode() in frame.side) == (b'"op":"delete"' in frame.entry), "a denial carries its grant"
        assert denial.encode() not in frame.entry
        assert people.record[0].tobytes().hex().encode() not in frame.entry
        assert people.record[0].tobytes() not in frame.entry


# --- policy --------------------------------------------------------------------------------------------------------


async def test_the_next_policy_is_taken_once_a_quorum_signed_it(rig):
    from dataclasses import replace

    worker = replace(rig.policy.roles["worker"], budgets=budgets(open=2))
    signed = rig.sign(rig.next_policy(roles=rig.policy.roles | {"worker": worker}))
    got = decode_answer(await rig.keepers["a"].handle("policy", "", signed))
    assert (got.header.op, got.header.policy_version) == ("policy", 2)
    for _ in range(2):
        with pytest.raises(BudgetError):
            await rig.ask("open", People(2, classes=(NAME_CLASS,)).open(bytes(20)), ["a"])
        await rig.restart("a")
        assert rig.keepers["a"].policy.version == 2
    entries = [json.loads(f.entry) for f in rig.keepers["a"].log.frames(0)]
    taken = [(e["policy"], e["digest"]) for e in entries if e["op"] == "policy"]
    assert taken == [(p.version, policy_chain.digest(p).hex()) for p in (rig.policy, rig.keepers["a"].policy)]


async def test_a_policy_that_is_not_the_next_is_refused(rig):
    from dataclasses import replace

    good = rig.next_policy()
    bad = [
        rig.signed,
        rig.sign(replace(good, version=3)),
        rig.sign(replace(good, previous=bytes(32))),
        rig.sign(replace(good, keepers=good.keepers | {"a": good.keepers["b"]})),
        rig.sign(replace(good, threshold=3)),
        rig.sign(replace(good, keepers=good.keepers | {"d": replace(good.keepers["c"], id="d", zone="zd")})),
        b"",
        b"{}",
    ]
    for body in bad:
        with pytest.raises(GrantError):
            await rig.keepers["a"].handle("policy", "", body)
        with pytest.raises(PolicyError):
            await rig.keepers["a"].handle("policy", rig.grant(body, "a"), body)
    assert rig.keepers["a"].policy.version == 1
    assert grants.WORDING


async def test_of_a_strangers_policy_nothing_is_read_in_depth(rig, monkeypatch):
    """Not even where it is told why it is refused, which is to principals alone."""
    keeper, dear = rig.keepers["a"], []
    monkeypatch.setattr(policy_chain, "decode_signed", dear.append)
    unsigned = policy_chain.encode_signed(policy_chain.SignedPolicy(rig.next_policy(), {"officer": bytes(64)}))
    for body in (rig.signed, unsigned, unsigned[:-1], b"[" * 100_000):
        with pytest.raises(GrantError):
            await keeper.handle("policy", "", body)
        with pytest.raises(PolicyError):
            await keeper.handle("policy", rig.grant(body, "a"), body)
    assert not dear


def test_a_grant_may_be_looked_at_before_the_body_it_is_for(rig):
    keeper, body = rig.keepers["a"], b"that is still to come"
    good = rig.grant(body, "a")
    claims = grants.parse(good)[0]
    assert keeper.admit(good) == claims
    for bad in (
        "", "a.b.c", rig.grant(body, "b"), good[:-8] + "AAAAAAAA",
        grants.sign(rig.keys["officer"], claims), grants.sign(rig.keys[claims.issuer], replace(claims, issuer="nobody")),
    ):  # fmt: skip
        with pytest.raises(GrantError, match=grants.WORDING):
            keeper.admit(bad)
