"""Grants: a principal's short-lived statement, for one recipient, that covers one request (docs/spec/grant.md).

A compact JWS with one header, one algorithm and six claims. The header's bytes are compared, never interpreted, so
there is no algorithm to choose (RFC 8725 section 3.1). ECDSA signatures are malleable: a grant is known by its
`jti`, never by its bytes.

Pure: the caller brings the time. Every refusal has one wording; its cause is a note on the error, for the log.
"""

from __future__ import annotations

import binascii
import json
import re
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from anwen.errors import GrantError, MalformedError

HEADER = b'{"alg":"ES256","typ":"anwen-grant-1"}'
MAX_CHARS = 2048
MAX_AGE_S = 120
JTI_BYTES = 16
REQUEST_BYTES = 32
WORDING = "the grant does not cover this request"

_HEADER64 = binascii.b2a_base64(HEADER, newline=False).rstrip(b"=").decode()  # has neither + nor /
_NAME = re.compile(r"[!#-\[\]-~]{1,64}", re.ASCII)  # printable, no space, quote or backslash: one spelling in JSON
_AUDIENCE = re.compile(r"[0-9a-f]{32}/(node|keeper/[!#-.0-\[\]-~]{1,16})", re.ASCII)  # and no slash
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_USUAL = re.compile(
    rb'\{"iss":"([!#-\[\]-~]{1,64})","aud":"([0-9a-f]{32}/(?:node|keeper/[!#-.0-\[\]-~]{1,16}))",'
    rb'"exp":([1-9][0-9]{0,11}),"jti":"([A-Za-z0-9_-]{21}[AQgw])",'
    rb'"purpose":"([!#-\[\]-~]{1,64})","req":"([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])"\}'
)
"""What `sign` writes, whose strings need no escapes and whose base64url has no stray bits: one look instead of a JSON
parser's 10 us."""
_ECDSA = ECDSA(hashes.SHA256())
_NOBODYS_KEY = derive_private_key(1, SECP256R1()).public_key()
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


@dataclass(frozen=True, slots=True)
class Grant:
    """The claims of a grant."""

    issuer: str  # principal id
    audience: str  # `keeper_audience` or `node_audience`
    expires_s: int
    jti: bytes  # 16 random bytes, the same for all keepers of one request
    purpose: str
    request: bytes  # SHA-256 of the request's body


Parts = tuple[Grant, bytes, bytes]
"""A parsed grant, what was signed, and the 64-byte signature."""


def keeper_audience(vault: bytes, keeper: str) -> str:
    """Return the audience of a grant for one keeper."""
    return f"{vault.hex()}/keeper/{keeper}"


def node_audience(vault: bytes) -> str:
    """Return the audience of a grant for the nodes, which keep no state that a second use could harm."""
    return f"{vault.hex()}/node"


def _refuse(cause: str) -> NoReturn:
    error = GrantError(WORDING)
    error.add_note(cause)
    raise error


def _encode64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode()


def _decode64(text: object) -> bytes:
    """Return the bytes behind the one spelling that `_encode64` gives them: no padding, stray bits or other letters."""
    if not isinstance(text, str):
        _refuse("not base64url without padding")
    try:
        data = binascii.a2b_base64(
            text.replace("-", "+").replace("_", "/") + "=="
        )  # ignores what the comparison below refuses
    except ValueError:  # a length that cannot be, or a letter beyond ASCII
        _refuse("not base64url without padding")
    if _encode64(data) != text:
        _refuse("not base64url without padding, or with stray bits")
    return data


def _has_form(grant: Grant) -> bool:
    return (
        _NAME.fullmatch(grant.issuer) is not None
        and _NAME.fullmatch(grant.purpose) is not None
        and _AUDIENCE.fullmatch(grant.audience) is not None
        and 0 < grant.expires_s < 2**40
        and len(grant.jti) == JTI_BYTES
        and len(grant.request) == REQUEST_BYTES
    )


def sign(key: EllipticCurvePrivateKey, grant: Grant) -> str:
    """Return the signed grant, as it follows `Authorization: Anwen`.

    Raises:
        MalformedError: the key is not on P-256, or a claim has another form.
    """
    if not isinstance(key.curve, SECP256R1) or not _has_form(grant):
        raise MalformedError("grant: expected a P-256 key, ids of 1 to 64 printable characters and claims in form")
    claims = {
        "iss": grant.issuer,
        "aud": grant.audience,
        "exp": grant.expires_s,
        "jti": _encode64(grant.jti),
        "purpose": grant.purpose,
        "req": _encode64(grant.request),
    }
    signing_input = f"{_HEADER64}.{_encode64(json.dumps(claims, separators=(',', ':')).encode())}"
    r, s = decode_dss_signature(key.sign(signing_input.encode(), _ECDSA))
    return f"{signing_input}.{_encode64(r.to_bytes(32) + s.to_bytes(32))}"


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _claims(payload: bytes) -> Grant:
    usual = _USUAL.fullmatch(payload)
    if usual is None:
        return _claims_in_json(payload)
    issuer, audience, expires_s, jti, purpose, request = usual.groups()
    # the pattern is `_has_form`: 12 digits stay below 2^40
    opaque = [binascii.a2b_base64(part.translate(_FROM_URL) + b"==") for part in (jti, request)]
    return Grant(issuer.decode(), audience.decode(), int(expires_s), opaque[0], purpose.decode(), opaque[1])


def _claims_in_json(payload: bytes) -> Grant:
    try:
        claims = json.loads(payload.decode("ascii"), object_pairs_hook=_members, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # bad UTF-8 and JSON errors are ValueErrors
        _refuse("claims are not strict JSON")
    if not isinstance(claims, dict) or set(claims) != {"iss", "aud", "exp", "jti", "purpose", "req"}:
        _refuse("claims are not exactly iss, aud, exp, jti, purpose, req")
    issuer, audience, purpose, expires_s = claims["iss"], claims["aud"], claims["purpose"], claims["exp"]
    if not (isinstance(issuer, str) and isinstance(audience, str) and isinstance(purpose, str)):
        _refuse("iss, aud and purpose are not strings")
    if type(expires_s) is not int:  # a bool is an int to isinstance
        _refuse("exp is not an integer")
    grant = Grant(issuer, audience, expires_s, _decode64(claims["jti"]), purpose, _decode64(claims["req"]))
    if not _has_form(grant):
        _refuse("a claim has another form")
    return grant


def parse(token: str) -> Parts:
    """Return the claims of a grant, the bytes that were signed and the signature, which is *not* verified here.

    Raises:
        GrantError: anything but the one accepted form. Costs no signature check.
    """
    if len(token) > MAX_CHARS:
        _refuse(f"more than {MAX_CHARS} characters")
    parts = token.split(".")
    if len(parts) != 3 or parts[0] != _HEADER64:
        _refuse("not three parts with the one header")
    grant, signature = _claims(_decode64(parts[1])), _decode64(parts[2])
    if len(signature) != 64:
        _refuse("signature is not 64 bytes")
    return grant, f"{parts[0]}.{parts[1]}".encode(), signature


def claimed_issuer(authorization: str) -> str:
    """Return whom a header's "Anwen GRANT" says it is by, *not* verified; "" where it says nothing. About 8 us."""
    try:
        return parse(authorization.removeprefix("Anwen "))[0].issuer
    except GrantError:
        return ""


def load_public_key(der: bytes) -> EllipticCurvePublicKey:
    """Return a P-256 public key from its DER SubjectPublicKeyInfo.

    Raises:
        MalformedError: not a key, or on another curve.
    """
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("public key: expected DER SubjectPublicKeyInfo") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise MalformedError("public key: expected one on P-256")
    return key


def verify(parts: Parts, public_key: EllipticCurvePublicKey | None) -> None:
    """Check the signature of a parsed grant. About 60 us, also without a key, so that time does not tell who is known.

    Args:
        public_key: the issuer's; None, where nobody knows him, is refused whatever the signature.

    Raises:
        GrantError: it is not by this key, or r or s is out of range.
    """
    _, signing_input, signature = parts
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        _refuse("r or s is out of range")
    try:
        (public_key or _NOBODYS_KEY).verify(encode_dss_signature(r, s), signing_input, _ECDSA)
    except InvalidSignature:
        _refuse("signature is not by the issuer's key" if public_key else "unknown principal")
    if public_key is None:  # nobody's key is everybody's
        _refuse("unknown principal")


def check(grant: Grant, audience: str, now_s: float) -> None:
    """Check that a grant is for this recipient and this moment; cheap, so before `verify`.

    Raises:
        GrantError: another audience, expired, or valid for longer than `MAX_AGE_S`.
    """
    if grant.audience != audience:
        _refuse("for another recipient")
    if not now_s < grant.expires_s <= now_s + MAX_AGE_S:
        _refuse("expired, or valid for too long")


def check_request(grant: Grant, request_hash: bytes) -> None:
    """Check that a grant is for this request. Raises GrantError."""
    if grant.request != request_hash:
        _refuse("for another request")
