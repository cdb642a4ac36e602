"""Only the next version, signed by enough different persons of the present one, follows; ids keep their meaning."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

import vault_texts
from anwen.errors import PolicyError
from anwen.formats import policy_chain, policy_table
from anwen.formats.policy_chain import (
    SMALL_BYTES,
    Screen,
    SignedPolicy,
    decode_signed,
    digest,
    encode_signed,
    sign,
    verify_chain,
    verify_first,
    verify_next,
)
from anwen.formats.policy_file import canonical, to_json
from anwen.model import Collection, DataClass, Field, Officer, Policy

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def key_of(officer: str) -> ec.EllipticCurvePrivateKey:
    return vault_texts.private_key(f"officer {officer}")


def signed(policy: Policy, officers: Iterable[str] = ("ada", "ben")) -> SignedPolicy:
    return SignedPolicy(policy, {o: sign(policy, o, key_of(o)) for o in officers})


def after(policy: Policy, **changes) -> Policy:
    return replace(policy, version=policy.version + 1, previous=digest(policy), **changes)


FIRST = vault_texts.policy()
ROOT = digest(FIRST)


def test_a_chain_of_versions_is_followed_to_its_end():
    second = after(FIRST, name="renamed")
    third = after(second, expires_s=second.expires_s + 86_400)
    documents = [encode_signed(signed(p)) for p in (FIRST, second, third)]
    assert verify_chain(documents, ROOT) == third
    assert decode_signed(documents[1]) == signed_like(documents[1])
    with pytest.raises(PolicyError, match="got none"):
        verify_chain([], ROOT)
    with pytest.raises(PolicyError, match="expected version 2, got 3"):
        verify_chain([documents[0], documents[2]], ROOT)
    with pytest.raises(PolicyError, match="expected version 1 as the first, got 2"):
        verify_chain(documents[1:], ROOT)


def signed_like(document: bytes) -> SignedPolicy:
    return decode_signed(encode_signed(decode_signed(document)))


def test_the_first_version_is_the_pinned_one():
    assert verify_first(signed(FIRST), ROOT) == FIRST
    with pytest.raises(PolicyError, match="pinned as root"):
        verify_first(signed(replace(FIRST, name="other")), ROOT)
    with pytest.raises(PolicyError, match="of 2 different persons among version 1's officers, got 1"):
        verify_first(signed(FIRST, ["ada"]), ROOT)


@pytest.mark.parametrize("officers", [(), ("ada",), ("cyd",)])
def test_fewer_persons_than_the_quorum_are_refused(officers):
    with pytest.raises(PolicyError, match="different persons"):
        verify_next(FIRST, signed(after(FIRST), officers))


@pytest.mark.parametrize("spelling", ["Officer ADA", "officer ada", "Ｏfficer  ADA"])
def test_one_person_with_two_keys_counts_once(spelling):
    officers = dict(FIRST.officers) | {"ben": replace(FIRST.officers["ben"], person=spelling)}
    first = replace(FIRST, officers=officers)
    with pytest.raises(PolicyError, match="got 1"):
        verify_first(signed(first, ["ada", "ben"]), digest(first))
    assert verify_first(signed(first, ["ada", "cyd"]), digest(first)) == first


def test_officers_of_the_present_version_decide_not_those_of_the_next():
    taken = {o: Officer(o, f"Thief {o}", vault_texts.der(f"thief {o}")) for o in ("eve", "eva")}
    takeover = after(FIRST, officers=taken)
    own = {o: sign(takeover, o, vault_texts.private_key(f"thief {o}")) for o in taken}
    with pytest.raises(PolicyError, match="expected signatures of version 1's officers, got one of 'eve'"):
        verify_next(FIRST, SignedPolicy(takeover, own))
    handed_over = verify_next(FIRST, signed(takeover))
    with pytest.raises(PolicyError, match="version 2's officers, got one of 'ada'"):
        verify_next(handed_over, signed(after(handed_over)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "expected version 2, got 1"),
        ({"version": 3}, "expected version 2, got 3"),
        ({"previous": bytes(32)}, "successor of this version 1"),
        ({"vault": bytes(16)}, "expected vault 0001"),
    ],
)
def test_rollback_skipped_version_fork_and_other_vault_are_refused(changes, message):
    with pytest.raises(PolicyError, match=message):
        verify_next(FIRST, signed(replace(after(FIRST), **changes)))


def test_the_second_of_two_successors_does_not_follow_the_first():
    one, two = after(FIRST, name="one"), after(FIRST, name="two")
    current = verify_next(FIRST, signed(one))
    with pytest.raises(PolicyError, match="expected version 3, got 2"):
        verify_next(current, signed(two))
    with pytest.raises(PolicyError, match="successor of this version 2"):
        verify_next(current, signed(after(two)))


@given(st.integers(0, 63), st.integers(1, 255))
def test_any_changed_byte_of_a_signature_is_refused(at, change):
    good = signed(FIRST)
    raw = bytearray(good.signatures["ben"])
    raw[at] ^= change
    with pytest.raises(PolicyError, match="signature of officer ben does not fit"):
        verify_first(SignedPolicy(FIRST, {**good.signatures, "ben": bytes(raw)}), ROOT)


def test_signatures_for_another_domain_or_with_other_numbers_are_refused():
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    r, s = decode_dss_signature(key_of("ben").sign(canonical(FIRST), ec.ECDSA(SHA256())))
    bare = r.to_bytes(32) + s.to_bytes(32)
    good = signed(FIRST).signatures
    r, s = good["ben"][:32], good["ben"][32:]
    for bad in (bare, bytes(64), r + bytes(32), bytes(32) + s, r + P256_ORDER.to_bytes(32), b"\xff" * 64, s + r):
        with pytest.raises(PolicyError, match="does not fit"):
            verify_first(SignedPolicy(FIRST, {**good, "ben": bad}), ROOT)


def test_sign_takes_the_listed_key_of_the_right_curve():
    with pytest.raises(PolicyError, match="the key that the policy lists"):
        sign(FIRST, "ada", key_of("ben"))
    with pytest.raises(PolicyError, match="P-256"):
        sign(FIRST, "ada", ec.generate_private_key(ec.SECP384R1()))
    assert len(sign(after(FIRST), "gone", key_of("gone"))) == 64  # an officer of the version before may sign


# --- append-only ids ------------------------------------------------------------------------------------------------

PERSON = FIRST.collections["person"]


def with_person(**changes) -> dict[str, Collection]:
    return {**FIRST.collections, "person": replace(PERSON, **changes)}


def fields(name: str, **changes) -> tuple[Field, ...]:
    return tuple(replace(f, **changes) if f.name == name else f for f in PERSON.fields)


def test_what_may_change_may_change():
    more = (*PERSON.fields, Field(9, "nickname", "text", "contact", index="exact"))
    for collections in (
        with_person(retention_days=30),
        with_person(retention_days=9000),
        with_person(limits={}),
        with_person(fields=more),
        with_person(classes=(*PERSON.classes, DataClass(3, "health"))),
        with_person(fields=fields("name", index=None)),
        with_person(fields=fields("phone", mask=None, region=None, required=True)),
        with_person(fields=fields("sex", values=("F", "M", "X"))),
    ):
        verify_next(FIRST, signed(after(FIRST, collections=collections)))


@pytest.mark.parametrize(
    ("collections", "message"),
    [
        ({"person": PERSON}, "collections.incident: expected to stay, got removed"),
        (with_person(id=7), "collections.person.id: expected to stay 1, got 7"),
        (with_person(dates="second"), "collections.person.dates"),
        (with_person(classes=(DataClass(1, "identity"),)), "classes.contact: expected to stay 2, got None"),
        (with_person(classes=(DataClass(2, "identity"), DataClass(1, "contact"))), "classes.identity: expected to st"),
        (with_person(classes=(DataClass(1, "identity"), DataClass(3, "contact"))), "classes.contact: expected to stay"),
        (with_person(fields=PERSON.fields[:-1]), "fields.household_region: expected to stay, got removed"),
        (with_person(fields=fields("email", id=9)), "fields.email.id: expected to stay 6, got 9"),
        (with_person(fields=fields("email", kind="text")), "fields.email.kind: expected to stay email, got text"),
        (with_person(fields=fields("email", class_name="identity")), "fields.email.class_name"),
        (with_person(fields=fields("id_number", scheme="cn.uscc")), "fields.id_number.scheme"),
        (with_person(fields=fields("email", index="exact")), "fields.email.index: expected to stay None, got exact"),
        (with_person(fields=fields("name", index="unique")), "fields.name.index: expected to stay exact"),
    ],
)
def test_ids_and_what_they_mean_stay(collections, message):
    successor = after(FIRST, collections=collections)
    purposes = {n: replace(p, open=frozenset(), search=frozenset(), write=frozenset(), delete=frozenset())
                for n, p in FIRST.purposes.items()}  # fmt: skip
    with pytest.raises(PolicyError, match=message):
        verify_next(FIRST, signed(replace(successor, purposes=purposes)))


A, *OTHERS = FIRST.keepers.values()
FOURTH = replace(A, id="zone_d", zone="zone_d", identity=b"d" * 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 3}, "stay 2 of zone_a, zone_b, zone_c, whose keys .*, got 3 of zone_a, zone_b, zone_c"),
        ({"keepers": {k.id: k for k in (A, *OTHERS, FOURTH)}}, "got 2 of zone_a, zone_b, zone_c, zone_d"),
        ({"keepers": {k.id: k for k in OTHERS}}, "got 2 of zone_b, zone_c"),
        ({"keepers": {k.id: k for k in (*OTHERS, FOURTH)}}, "a new vault and import what this one exports"),
    ],
)
def test_keepers_and_threshold_stay_those_whose_keys_were_made(changes, message):
    with pytest.raises(PolicyError, match=message):
        verify_next(FIRST, signed(after(FIRST, **changes)))


def test_keepers_may_move():
    moved = replace(A, zone="cellar", address="192.0.2.1:1", peer_address="192.0.2.1:2", tls_pin=b"t" * 32)
    verify_next(FIRST, signed(after(FIRST, keepers={**FIRST.keepers, A.id: moved})))


def test_an_index_once_left_out_does_not_come_back():
    without = verify_next(FIRST, signed(after(FIRST, collections=with_person(fields=fields("name", index=None)))))
    with pytest.raises(PolicyError, match=r"fields\.name\.index"):
        verify_next(without, signed(after(without, collections=dict(FIRST.collections))))


# --- the document ---------------------------------------------------------------------------------------------------


def documents() -> list[tuple[bytes, str]]:
    good = json.loads(encode_signed(signed(FIRST)))
    policy, signatures = good["policy"], good["signatures"]
    name = json.dumps(FIRST.name).encode()

    def made(**changes) -> bytes:
        return json.dumps({**good, **changes}).encode()

    return [
        (b"", "JSON in UTF-8"),
        (b"\xff{}", "JSON in UTF-8"),
        (b"\xef\xbb\xbf" + made(), "JSON in UTF-8"),
        (b"[]", "policy and signatures alone"),
        (b"{}", "policy and signatures alone"),
        (b"[" * 100_000, "JSON in UTF-8"),
        (b"1" * 5000, "JSON in UTF-8"),
        (made(extra=1), "policy and signatures alone"),
        (made(policy=[]), "a table as policy"),
        (made(signatures={}), "a list of signatures"),
        (made(signatures=[*signatures, signatures[0]]), "one signature of 'ada', got two"),
        (made(signatures=[{**signatures[0], "x": 1}]), "officer and signature alone"),
        (made(signatures=[{"officer": 1, "signature": "AA=="}]), "as text"),
        (made(signatures=[{"officer": "ada", "signature": "AA=="}]), "64 bytes in base64"),
        (made(signatures=[{"officer": "ada", "signature": "!" * 88}]), "64 bytes in base64"),
        (made(signatures=[{"officer": "ada", "signature": base64.b64encode(bytes(65)).decode()}]), "64 bytes"),
        (made().replace(b'"name": ' + name, b'"name": "x", "name": ' + name, 1), "each key once"),
        (made().replace(b'"threshold": 2', b'"threshold": 2.0', 1), "whole numbers, got 2.0"),
        (made().replace(b'"threshold": 2', b'"threshold": NaN', 1), "whole numbers, got NaN"),
        (made().replace(b'"threshold": 2', b'"threshold": 2e0', 1), "whole numbers, got 2e0"),
        (made(policy={**policy, "extra": {}}), "unknown key"),
        (b" " * (2**21 + 1), "at most 2097152 bytes"),
    ]


@pytest.mark.parametrize(("data", "message"), documents(), ids=[str(i) for i in range(len(documents()))])
def test_malformed_documents_are_refused(data, message):
    with pytest.raises(PolicyError, match=message):
        decode_signed(data)


@given(st.integers(0, len(encode_signed(signed(FIRST))) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(at, change):
    data = bytearray(encode_signed(signed(FIRST)))
    data[at] ^= change
    try:
        assert verify_chain([bytes(data)], ROOT) == FIRST
    except PolicyError as error:
        assert error.code == "policy"


def test_the_document_holds_the_canonical_values():
    document = json.loads(encode_signed(signed(FIRST)))
    assert document["policy"] == to_json(FIRST)
    assert [s["officer"] for s in document["signatures"]] == ["ada", "ben"]


# --- what anybody may send ------------------------------------------------------------------------------------------


def test_the_next_version_passes_the_screen_and_so_does_nothing_else():
    screen, second = Screen.after(FIRST), after(FIRST, name="renamed")
    screen.check(encode_signed(signed(second)))
    screen.check(encode_signed(signed(second, ["cyd"])))  # how many are needed is seen later
    thief = key_of("thief")
    for refused in (
        signed(FIRST), signed(second, []), signed(after(second)), signed(replace(second, previous=bytes(32))),
        signed(replace(second, version=3)), signed(replace(second, version=1, previous=bytes(32))),
        SignedPolicy(second, {"eve": sign(second, "eve", thief)}), SignedPolicy(second, {"ada": bytes(64)}),
        SignedPolicy(second, signed(after(FIRST, name="other")).signatures),
        SignedPolicy(second, {"ada": signed(second).signatures["ada"], "eve": bytes(64)}),
    ):  # fmt: skip
        with pytest.raises(PolicyError):
            screen.check(encode_signed(refused))
    for data, _ in documents():
        with pytest.raises(PolicyError):
            screen.check(data)


def junk_of(size: int, *, previous: bytes) -> list[bytes]:
    """Documents of up to `size` bytes that are dear to read: keys, unknown names, nothing but brackets."""
    good = json.loads(encode_signed(signed(after(FIRST))))
    good["policy"]["vault"]["previous"] = previous.hex()
    principal = next(iter(good["policy"]["principals"].values()))

    def made(**policy: object) -> bytes:
        return json.dumps(good | {"policy": good["policy"] | policy}, separators=(",", ":")).encode()

    room = size - 9_000
    return [
        made(principals={f"p{i}": principal for i in range(room // 180)}),
        made(**{f"\x1b[31m{i:07}": 0 for i in range(room // 22)}),
        made(x=[{}] * (room // 3)),
    ]


@pytest.mark.parametrize("previous", [bytes(32), ROOT], ids=["not knowing", "knowing"])
@pytest.mark.parametrize("size", [SMALL_BYTES, 2**21])
def test_of_strangers_junk_nothing_is_read_in_depth(monkeypatch, size, previous):
    """Not the policy, and no key of it; of who does not know the present version's hash, not even JSON."""
    screen, documents = Screen.after(FIRST), junk_of(size, previous=previous)
    dear = []
    monkeypatch.setattr(policy_chain, "from_json", dear.append)
    monkeypatch.setattr(policy_table, "load_der_public_key", dear.append)
    if previous != ROOT:
        monkeypatch.setattr(policy_chain.json, "loads", dear.append)
    for junk in documents:
        assert 0.7 * size < len(junk) <= size
        with pytest.raises(PolicyError) as refused:
            screen.check(junk)
        assert len(str(refused.value)) < 200
    assert not dear


def test_a_version_may_be_four_times_as_long_and_a_small_one_grow():
    def grown(policy: Policy, count: int) -> Policy:
        some = next(iter(policy.principals.values()))
        return after(policy, principals={f"p{i}": replace(some, id=f"p{i}") for i in range(count)})

    second = grown(FIRST, 200)  # from 7 kB to 40
    Screen.after(FIRST).check(encode_signed(signed(second)))
    with pytest.raises(PolicyError, match=f"at most {SMALL_BYTES} bytes after version 1"):
        Screen.after(FIRST).check(encode_signed(signed(grown(FIRST, 400))))
    Screen.after(second).check(encode_signed(signed(grown(second, 600))))
    assert Screen.after(grown(second, 9_000)).most_bytes == policy_chain.MAX_BYTES


def test_whether_a_document_holds_the_present_policy():
    screen = Screen.after(FIRST)
    assert screen.is_present(encode_signed(signed(FIRST)))
    assert screen.is_present(json.dumps(json.loads(encode_signed(signed(FIRST, []))), separators=(",", ":")).encode())
    assert not screen.is_present(encode_signed(signed(replace(FIRST, name="other"))))
    assert not screen.is_present(encode_signed(signed(after(FIRST))))
    for data in (
        b"",
        b"[]",
        b'{"policy": 1, "signatures": []}',
        b'{"policy": {"a": "\\ud800"}, "signatures": []}',
        b" " * 2**20,
    ):
        with pytest.raises(PolicyError):
            screen.is_present(data)


def test_of_many_mistakes_a_few_are_listed():
    good = json.loads(encode_signed(signed(FIRST)))
    good["policy"].update({"x" * 5000 + str(i): 0 for i in range(100)})
    with pytest.raises(PolicyError) as refused:
        decode_signed(json.dumps(good).encode())
    lines = str(refused.value).split("\n")
    assert lines[-1] == "policy: and 80 other mistakes"
    assert len(lines) == 21
    assert max(map(len, lines)) <= 200
