import base64
import dataclasses
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import example, given
from hypothesis import strategies as st

from anwen.crypto import grants
from anwen.errors import GrantError, MalformedError
from vectors import golden, nist, wycheproof

KEY = ec.derive_private_key(1234567, ec.SECP256R1())
PUBLIC = KEY.public_key()
VAULT = bytes(range(16))
NOW_S = 1_700_000_000
BODY_HASH = hashlib.sha256(b"body").digest()
GRANT = grants.Grant(
    issuer="officer-7",
    audience=grants.keeper_audience(VAULT, "a"),
    expires_s=NOW_S + 60,
    jti=b"j" * 16,
    purpose="missing-persons",
    request=BODY_HASH,
)
CLAIMS = {
    "iss": GRANT.issuer,
    "aud": GRANT.audience,
    "exp": GRANT.expires_s,
    "jti": base64.urlsafe_b64encode(GRANT.jti).rstrip(b"=").decode(),
    "purpose": GRANT.purpose,
    "req": base64.urlsafe_b64encode(GRANT.request).rstrip(b"=").decode(),
}
name_text = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"\\'), min_size=1, max_size=64
)


def encode64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign_raw(header, payload, key=KEY):
    """A token over any header and payload, correctly signed."""
    signing_input = f"{encode64(header)}.{encode64(payload)}".encode()
    r, s = grants.decode_dss_signature(key.sign(signing_input, ec.ECDSA(grants.hashes.SHA256())))
    return f"{signing_input.decode()}.{encode64(r.to_bytes(32) + s.to_bytes(32))}"


def refused(token, key=PUBLIC, audience=GRANT.audience, now_s=NOW_S, request=BODY_HASH):
    with pytest.raises(GrantError) as info:
        accept(token, key, audience, now_s, request)
    assert str(info.value) == grants.WORDING
    return info.value.__notes__[0]


def unparsed(token):
    """The note of a token that is refused for its form alone."""
    with pytest.raises(GrantError) as info:
        grants.parse(token)
    assert str(info.value) == grants.WORDING
    return info.value.__notes__[0]


def accept(token, key=PUBLIC, audience=GRANT.audience, now_s=NOW_S, request=BODY_HASH):
    parts = grants.parse(token)
    grants.check(parts[0], audience, now_s)
    grants.verify(parts, key)
    grants.check_request(parts[0], request)
    return parts[0]


@given(
    name_text,
    name_text,
    st.integers(1, 2**40 - 1),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
)
def test_what_was_signed_comes_back(issuer, purpose, expires_s, jti, request):
    grant = grants.Grant(issuer, grants.node_audience(VAULT), expires_s, jti, purpose, request)
    token = grants.sign(KEY, grant)
    parts = grants.parse(token)
    assert parts[0] == grant
    grants.verify(parts, PUBLIC)
    assert token.startswith(f"{encode64(grants.HEADER)}.")
    assert len(token) < grants.MAX_CHARS


@given(
    name_text,
    st.one_of(st.integers(-1, 2**41), st.sampled_from([0, 10**12 - 1, 10**12, 2**40 - 1, 2**40])),
    st.binary(min_size=15, max_size=17),
    name_text | st.just("a" * 65) | st.just("\\u0041"),
    st.sampled_from([BODY_HASH, BODY_HASH[1:]]),
)
@example("a", 0, bytes(16), "p", BODY_HASH)
@example("a", 10**12, bytes(16), "p", BODY_HASH)
@example("a", 2**40, bytes(16), "p", BODY_HASH)
def test_the_usual_spelling_means_what_json_says(issuer, expires_s, jti, purpose, request):
    """The pattern that spares a JSON parser takes no grant that the parser would not, and reads the same claims."""
    claims = f'{{"iss":"{issuer}","aud":"{GRANT.audience}","exp":{expires_s},"jti":"{encode64(jti)}"'
    claims += f',"purpose":"{purpose}","req":"{encode64(request)}"}}'
    outcomes = []
    for read in (grants._claims, grants._claims_in_json):
        try:
            outcomes.append(read(claims.encode()))
        except GrantError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]
    usual = 0 < expires_s < 2**40 and len(jti) == 16 and len(request) == 32 and len(purpose) < 65
    assert (outcomes[0] is not None) == usual


@pytest.mark.parametrize(("claim", "last"), [("jti", "B"), ("req", "B")])
def test_stray_bits_in_the_usual_spelling_are_refused(claim, last):
    """Two spellings of one `jti` must not be two grants."""
    changed = CLAIMS | {claim: CLAIMS[claim][:-1] + last}
    unparsed(sign_raw(grants.HEADER, json.dumps(changed, separators=(",", ":")).encode()))


@given(st.integers(0, 600), st.sampled_from("ABCabc019-_.= \n{é"))
def test_any_changed_character_is_refused(at, character):
    token = grants.sign(KEY, GRANT)
    changed = token[: at % len(token)] + character + token[at % len(token) + 1 :]
    if changed != token:
        refused(changed)


@given(st.text(max_size=60))
def test_junk_is_refused(text):
    for token in (text, f"{encode64(grants.HEADER)}.{text}", f"{encode64(grants.HEADER)}.{text}.{text}"):
        refused(token)
    refused(f"{encode64(grants.HEADER)}.{encode64(text.encode())}.{encode64(bytes(64))}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3),
        max_leaves=5,
    )
)
def test_other_json_is_refused(value):
    refused(sign_raw(grants.HEADER, json.dumps(value).encode()))


HEADERS = [
    b'{"alg":"none","typ":"anwen-grant-1"}',
    b'{"alg":"HS256","typ":"anwen-grant-1"}',
    b'{"alg":"ES384","typ":"anwen-grant-1"}',
    b'{"alg":"ES256"}',
    b'{"alg":"ES256","typ":"JWT"}',
    b'{"typ":"anwen-grant-1","alg":"ES256"}',
    b'{"alg":"ES256","typ":"anwen-grant-1" }',
    b'{"alg":"ES256","typ":"anwen-grant-1","kid":"officer-7"}',
    b'{"alg":"ES256","typ":"anwen-grant-1","jwk":{"kty":"EC"}}',
    b'{"alg":"ES256","typ":"anwen-grant-1","jku":"https://example.com"}',
    b'{"alg":"ES256","typ":"anwen-grant-1","x5u":"https://example.com"}',
    b'{"alg":"ES256","typ":"anwen-grant-1","crit":["exp"]}',
    b'{"alg":"ES256","alg":"none","typ":"anwen-grant-1"}',
    b"",
]


@pytest.mark.parametrize("header", HEADERS)
def test_there_is_one_header(header):
    payload = json.dumps(CLAIMS).encode()
    assert accept(sign_raw(grants.HEADER, payload)) == GRANT  # spaces in claims are not what decides below
    assert refused(sign_raw(header, payload)) == "not three parts with the one header"


def test_algorithm_tricks():
    good = grants.sign(KEY, GRANT)
    header, payload, _ = good.split(".")
    refused(f"{header}.{payload}.")
    refused(f"{encode64(HEADERS[0])}.{payload}.")
    pem = PUBLIC.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for first in (encode64(HEADERS[1]), header):  # HS256 keyed with the public key
        mac = hmac.digest(pem, f"{first}.{payload}".encode(), "sha256")
        refused(f"{first}.{payload}.{encode64(mac)}")
        refused(f"{first}.{payload}.{encode64(mac + mac)}")


CLAIM_CHANGES = [
    {"iss": ""},
    {"iss": "a b"},
    {"iss": "a\n"},
    {"iss": "x" * 65},
    {"iss": "é"},
    {"iss": 7},
    {"iss": None},
    {"aud": [GRANT.audience]},
    {"aud": "node"},
    {"aud": GRANT.audience.upper()},
    {"aud": GRANT.audience + "/"},
    {"aud": GRANT.audience + "\n"},
    {"exp": str(GRANT.expires_s)},
    {"exp": float(GRANT.expires_s)},
    {"exp": True},
    {"exp": 0},
    {"exp": -1},
    {"exp": 2**40},
    {"jti": encode64(b"j" * 15)},
    {"jti": encode64(b"j" * 17)},
    {"jti": base64.urlsafe_b64encode(b"j" * 16).decode()},
    {"jti": ""},
    {"jti": CLAIMS["jti"][:-1] + "h"},  # the same 16 bytes, stray bits set
    {"jti": 5},
    {"purpose": ""},
    {"purpose": "two words"},
    {"purpose": {}},
    {"req": encode64(b"r" * 31)},
    {"req": BODY_HASH.hex()},
    {"nbf": 1},
    {"act": "x"},
]


@pytest.mark.parametrize("change", CLAIM_CHANGES)
def test_claims_have_one_form(change):
    unparsed(sign_raw(grants.HEADER, json.dumps(CLAIMS | change).encode()))


@pytest.mark.parametrize("missing", CLAIMS)
def test_no_claim_may_be_missing(missing):
    unparsed(sign_raw(grants.HEADER, json.dumps({k: v for k, v in CLAIMS.items() if k != missing}).encode()))


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(CLAIMS).replace('"exp"', '"iss": "other", "exp"'),
        json.dumps(CLAIMS).replace('"exp"', '"\\u0069ss": "other", "exp"'),
        json.dumps(CLAIMS).replace(str(GRANT.expires_s), "NaN"),
        json.dumps(CLAIMS).replace(str(GRANT.expires_s), "1e9"),
        json.dumps(CLAIMS).replace(str(GRANT.expires_s), "01"),
        json.dumps(CLAIMS) + "{}",
        "[" * 900,
        "",
        "\ufeff" + json.dumps(CLAIMS),
    ],
)
def test_json_is_strict(payload):
    unparsed(sign_raw(grants.HEADER, payload.encode()))


def test_constants_are_not_json():
    payload = json.dumps(CLAIMS | {"exp": float("nan")}).encode()
    assert unparsed(sign_raw(grants.HEADER, payload)) == "claims are not strict JSON"


def test_a_long_grant_is_refused_unread():
    for spaces, accepted in ((900, True), (1300, False)):
        token = sign_raw(grants.HEADER, json.dumps(CLAIMS).encode() + b" " * spaces)
        assert (len(token) <= grants.MAX_CHARS) == accepted
        if accepted:
            assert accept(token) == GRANT
        else:
            assert unparsed(token) == "more than 2048 characters"


def test_other_shapes_are_refused():
    good = grants.sign(KEY, GRANT)
    header, payload, signature = good.split(".")
    for token in (
        f"{good}.",
        f"{good}.x",
        f".{good}",
        f"{good} ",
        f" {good}",
        f"{good}\n",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature}=",
        f"{header}.{payload}=.{signature}",
        f"{header}.{payload}.{signature[:-1]}",
        f"{header}.{payload}.{signature}AA",
        f"{header}.{payload}.{signature[:-1]}{chr(ord(signature[-1]) + 1)}",
        good + "A" * grants.MAX_CHARS,
    ):
        refused(token)


def with_signature(token, r, s):
    return f"{token.rpartition('.')[0]}.{encode64(r.to_bytes(32) + s.to_bytes(32))}"


def test_signatures_out_of_range_are_refused():
    good = grants.sign(KEY, GRANT)
    order = grants._ORDER
    signature = grants.parse(good)[2]
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    for wrong_r, wrong_s in ((0, s), (r, 0), (0, 0), (order, s), (r, order), (r, 2**256 - 1), (s, r)):
        note = refused(with_signature(good, wrong_r, wrong_s))
        assert (note == "r or s is out of range") == (not (0 < wrong_r < order and 0 < wrong_s < order))
    for wrong in ((r + order, s), (r, s + order)):
        if max(wrong) < 2**256:
            refused(with_signature(good, *wrong))


def test_the_malleable_twin_is_the_same_grant():
    """(r, n - s) verifies too, by the nature of ECDSA: what is spent is the `jti`, which both share."""
    good = grants.sign(KEY, GRANT)
    signature = grants.parse(good)[2]
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    twin = with_signature(good, r, grants._ORDER - s)
    assert twin != good
    assert accept(twin) == accept(good)


def test_a_grant_is_for_one_recipient_request_and_moment():
    good = grants.sign(KEY, GRANT)
    assert accept(good) == GRANT
    other = ec.derive_private_key(7654321, ec.SECP256R1()).public_key()
    assert refused(good, key=other) == "signature is not by the issuer's key"
    for audience in (
        grants.keeper_audience(VAULT, "b"),
        grants.keeper_audience(bytes(16), "a"),
        grants.node_audience(VAULT),
        "",
    ):
        assert refused(good, audience=audience) == "for another recipient"
    assert refused(good, request=hashlib.sha256(b"other body").digest()) == "for another request"
    for now_s in (GRANT.expires_s, GRANT.expires_s + 0.5, GRANT.expires_s - 121, GRANT.expires_s - 120.5, float("nan")):
        assert refused(good, now_s=now_s) == "expired, or valid for too long"
    for now_s in (GRANT.expires_s - 0.5, GRANT.expires_s - 120):
        assert accept(good, now_s=now_s) == GRANT


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(grants.Grant)])
def test_sign_refuses_what_parse_would(field):
    bad = {"issuer": "", "audience": "node", "expires_s": 0, "jti": b"", "purpose": "a b", "request": b""}[field]
    with pytest.raises(MalformedError):
        grants.sign(KEY, dataclasses.replace(GRANT, **{field: bad}))


def test_only_p_256_keys():
    other_curve = ec.derive_private_key(5, ec.SECP384R1())
    with pytest.raises(MalformedError):
        grants.sign(other_curve, GRANT)

    def der(key):
        return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    assert grants.load_public_key(der(PUBLIC)) == PUBLIC
    foreign = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    for wrong in (b"", b"junk", der(PUBLIC)[:-1], der(PUBLIC) + b"\0", der(other_curve.public_key()), der(foreign)):
        with pytest.raises(MalformedError):
            grants.load_public_key(wrong)


def test_ecdsa_of_fips_186():
    """NIST CAVP FIPS 186-3 SigVer, P-256 with SHA-256."""
    verified = failed = 0
    for case in nist("asymmetric/ECDSA/FIPS_186-3/SigVer.rsp"):
        if "P-256,SHA-256" not in case or "Result" not in case:
            continue
        public = ec.EllipticCurvePublicNumbers(int(case["Qx"], 16), int(case["Qy"], 16), ec.SECP256R1()).public_key()
        signature = int(case["R"], 16).to_bytes(32) + int(case["S"], 16).to_bytes(32)
        parts = (GRANT, bytes.fromhex(case["Msg"]), signature)
        if case["Result"].startswith("P"):
            verified += 1
            grants.verify(parts, public)
        else:
            failed += 1
            with pytest.raises(GrantError):
                grants.verify(parts, public)
    assert (verified, failed) > (0, 0)


def test_ecdsa_of_wycheproof():
    """Wycheproof ecdsa_secp256r1_sha256_p1363_test; a signature of another length does not get past `parse`."""
    seen = 0
    for group, case in wycheproof("Signature/wycheproof/ecdsa_secp256r1_sha256_p1363_test.json"):
        signature = bytes.fromhex(case["sig"])
        if len(signature) != 64:
            assert case["result"] == "invalid"
            continue
        seen += 1
        public = grants.load_public_key(bytes.fromhex(group["publicKeyDer"]))
        parts = (GRANT, bytes.fromhex(case["msg"]), signature)
        if case["result"] == "valid":
            grants.verify(parts, public)
        else:
            with pytest.raises(GrantError):
                grants.verify(parts, public)
    assert seen > 200


def test_errors_do_not_show_the_grant():
    good = grants.sign(KEY, GRANT)
    note = refused(good, audience="other")
    for secret in (good, GRANT.issuer, GRANT.audience, GRANT.purpose):
        assert secret not in note


def test_the_page_has_our_grant():
    page = golden("grant.md")
    token = page["grant"]
    assert page["signing input"] == token.rpartition(".")[0]
    public = grants.load_public_key(bytes.fromhex(page["public key"]))
    grant = accept(token, public, now_s=NOW_S)
    assert grant == GRANT
    assert grants.sign(KEY, GRANT).rpartition(".")[0] == page["signing input"]


def test_whom_nobody_knows_is_refused_at_the_cost_of_a_signature_check(monkeypatch):
    """So that time does not tell which names are a principal's."""
    anyone = ec.derive_private_key(1, ec.SECP256R1())  # for which everybody has the key
    assert refused(grants.sign(anyone, GRANT), key=None) == "unknown principal"
    assert refused(grants.sign(KEY, GRANT), key=None) == "unknown principal"
    checked = []

    class Key:
        def verify(self, *_):
            checked.append(self)

    monkeypatch.setattr(grants, "_NOBODYS_KEY", Key())
    refused(grants.sign(KEY, GRANT), key=None)
    assert len(checked) == 1
