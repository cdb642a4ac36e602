"""Signed policies and their chain: each version names the one before and carries the quorum of its officers.

Shaped after TUF's root metadata: a version counts only when it follows the present one by one and enough
distinct persons among the *present* officers signed it (docs/spec/policy.md).

Pure: no I/O and no clock; whether a policy has expired is its reader's business.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from anwen.errors import PolicyError
from anwen.formats.policy_file import canonical, canonical_json, from_json, to_json
from anwen.model import Officer, Policy

DOMAIN = b"anwen-policy-1\0"
MAX_BYTES = 2**21
GROWTH, SMALL_BYTES = 4, 2**16
"""How many times as long as its predecessor's canonical JSON a document may be, and how long in any case."""
_SIGNATURE_BYTES = 64
_HALF = 32


@dataclass(frozen=True, slots=True)
class SignedPolicy:
    """A policy and its officers' signatures, raw r ‖ s, by officer id."""

    policy: Policy
    signatures: Mapping[str, bytes]


def digest(policy: Policy) -> bytes:
    """Return the SHA-256 of the policy's canonical JSON."""
    return hashlib.sha256(canonical(policy)).digest()


def encode_signed(signed: SignedPolicy) -> bytes:
    """Return `{"policy": ..., "signatures": [{"officer", "signature"}]}`, ascending by officer."""
    signatures = [
        {"officer": officer, "signature": base64.b64encode(signed.signatures[officer]).decode()}
        for officer in sorted(signed.signatures)
    ]
    document = {"policy": to_json(signed.policy), "signatures": signatures}
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PolicyError("signed policy: expected each key once, got one twice")
    return found


def _no_number(text: str) -> object:
    raise PolicyError(f"signed policy: expected whole numbers, got {text[:20]}")


def _signatures(value: object) -> dict[str, bytes]:
    if not isinstance(value, list):
        raise PolicyError("signed policy: expected a list of signatures")
    found: dict[str, bytes] = {}
    for item in value:
        ours = isinstance(item, dict) and set(item) == {"officer", "signature"}
        if not ours or not all(isinstance(part, str) for part in item.values()):
            raise PolicyError("signed policy: expected signatures of officer and signature alone, as text")
        officer = item["officer"]
        if officer in found:
            raise PolicyError(f"signed policy: expected one signature of {officer[:63]!a}, got two")
        if not re.fullmatch(r"[A-Za-z0-9+/]{85}[AQgw]==", item["signature"]):  # 64 bytes have one spelling
            raise PolicyError(f"signed policy: expected {_SIGNATURE_BYTES} bytes in base64 of {officer[:63]!a}")
        found[officer] = base64.b64decode(item["signature"])
    return found


def decode_signed(data: bytes) -> SignedPolicy:
    """Return the signed policy in `data`. No signature is checked here.

    Raises:
        PolicyError: not such a document; duplicate keys, fractions and unknown keys included.
    """
    if len(data) > MAX_BYTES:
        raise PolicyError(f"signed policy: expected at most {MAX_BYTES} bytes, got {len(data)}")
    try:
        document: Any = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (UnicodeDecodeError, ValueError, RecursionError):  # JSONDecodeError and overlong numbers are ValueErrors
        raise PolicyError("signed policy: expected JSON in UTF-8") from None
    if not isinstance(document, dict) or set(document) != {"policy", "signatures"}:
        raise PolicyError("signed policy: expected policy and signatures alone")
    if not isinstance(document["policy"], dict):
        raise PolicyError("signed policy: expected a table as policy")
    return SignedPolicy(from_json(document["policy"]), _signatures(document["signatures"]))


def _message(policy: Policy) -> bytes:
    return DOMAIN + canonical(policy)


def sign(policy: Policy, officer_id: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return an officer's ES256 signature, raw r ‖ s. The officer may be one of the version before.

    Raises:
        PolicyError: the policy lists the officer with another key, or the key is not P-256.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise PolicyError(f"officer {officer_id}: expected a P-256 key")
    listed = policy.officers.get(officer_id)
    if listed is not None and load_der_public_key(listed.public_key) != key.public_key():
        raise PolicyError(f"officer {officer_id}: expected the key that the policy lists, got another")
    r, s = decode_dss_signature(key.sign(_message(policy), ec.ECDSA(SHA256())))
    return r.to_bytes(_HALF) + s.to_bytes(_HALF)


def _check_known(version: int, officers: Mapping[str, Officer], signatures: Iterable[str]) -> None:
    for officer_id in signatures:
        if officer_id not in officers:
            raise PolicyError(f"expected signatures of version {version}'s officers, got one of {officer_id[:63]!a}")


def _check_signature(officer: Officer, signature: bytes, message: bytes) -> None:
    key = load_der_public_key(officer.public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = int.from_bytes(signature[:_HALF]), int.from_bytes(signature[_HALF:])
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise PolicyError(f"the signature of officer {officer.id} does not fit this policy") from None


def _check_quorum(officers_of: Policy, signed: SignedPolicy) -> None:
    """Raise unless the quorum of `officers_of` signed: distinct persons, every signature given is right."""
    _check_known(officers_of.version, officers_of.officers, signed.signatures)
    message, persons = _message(signed.policy), set()
    for officer_id, signature in signed.signatures.items():
        officer = officers_of.officers[officer_id]
        _check_signature(officer, signature, message)
        persons.add(officer.person_key)
    if len(persons) < officers_of.quorum:
        raise PolicyError(
            f"expected signatures of {officers_of.quorum} different persons among version {officers_of.version}'s "
            f"officers, got {len(persons)}"
        )


@dataclass(frozen=True, slots=True)
class Screen:
    """What costs little to see of a document that anybody may have sent: whether it may follow a policy.

    Of whoever is no officer nothing is read but JSON, no longer than a next version may be; no key of his is loaded,
    none of his mistakes listed. What passes is still to be read and verified: `decode_signed`, `verify_next`.
    """

    version: int  # of the policy that the document has to follow
    digest: str
    most_bytes: int
    officers: Mapping[str, Officer]

    @classmethod
    def after(cls, policy: Policy) -> Screen:
        """Return what may follow a policy. As dear as its canonical JSON (a millisecond, 80 for 5,000 principals)."""
        message = canonical(policy)
        most = min(MAX_BYTES, max(SMALL_BYTES, GROWTH * len(message)))
        return cls(policy.version, hashlib.sha256(message).hexdigest(), most, policy.officers)

    def check(self, data: bytes) -> None:
        """Raise PolicyError: too long, another version or predecessor, a signature of nobody known, or a wrong one."""
        self._bound(data)
        if self.digest.encode() not in data:  # before anything is parsed: who has not seen the policy cannot know it
            raise PolicyError(f"expected a successor of version {self.version}, got one of another, or none")
        policy, signatures, message = self._read(data)
        vault = policy["vault"] if isinstance(policy.get("vault"), dict) else {}
        if (vault.get("version"), vault.get("previous")) != (self.version + 1, self.digest):
            raise PolicyError(f"expected version {self.version + 1}, which names version {self.version}")
        if not signatures:
            raise PolicyError("signed policy: expected signatures, got none")
        _check_known(self.version, self.officers, signatures)
        officer_id, signature = next(iter(signatures.items()))  # all others are checked with the quorum
        _check_signature(self.officers[officer_id], signature, DOMAIN + message)

    def is_present(self, data: bytes) -> bool:
        """Return whether a document holds this very policy. Raises PolicyError: it is none."""
        self._bound(data)
        return hashlib.sha256(self._read(data)[2]).hexdigest() == self.digest

    def _bound(self, data: bytes) -> None:
        if len(data) > self.most_bytes:
            after = f"after version {self.version}"
            raise PolicyError(f"signed policy: expected at most {self.most_bytes} bytes {after}, got {len(data)}")

    def _read(self, data: bytes) -> tuple[dict[str, Any], dict[str, bytes], bytes]:
        """Return policy, signatures, and what the policy's canonical JSON is, if it is one. Raises PolicyError."""
        try:
            document = json.loads(data)
            policy, signatures = dict(document["policy"]), _signatures(document["signatures"])
            return policy, signatures, canonical_json(policy)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise PolicyError("signed policy: expected JSON with policy and signatures") from None


def verify_first(signed: SignedPolicy, root: bytes) -> Policy:
    """Return version 1, whose digest is pinned as `root` and which its own quorum signed. Raises PolicyError."""
    policy = signed.policy
    if policy.version != 1:
        raise PolicyError(f"expected version 1 as the first, got {policy.version}")
    if not hmac.compare_digest(digest(policy), root):
        raise PolicyError("expected the policy that is pinned as root, got another")
    _check_quorum(policy, signed)
    return policy


def verify_next(current: Policy, signed: SignedPolicy) -> Policy:
    """Return the version after `current`.

    Raises:
        PolicyError: another vault; not version + 1; does not name `current`; the quorum of `current` did not
            sign; what must stay does not (`check_kept`).
    """
    policy = signed.policy
    if policy.vault != current.vault:
        raise PolicyError(f"expected vault {current.vault.hex()}, got {policy.vault.hex()}")
    if policy.version != current.version + 1:
        raise PolicyError(f"expected version {current.version + 1}, got {policy.version}")
    if not hmac.compare_digest(policy.previous, digest(current)):
        raise PolicyError(f"expected a successor of this version {current.version}, got one of another")
    check_kept(current, policy)
    _check_quorum(current, signed)
    return policy


def check_kept(current: Policy, policy: Policy) -> None:
    """Raise PolicyError, with all reasons, unless keys and stored rows are under `policy` what they are now.

    Other keepers or another threshold; an id that was renumbered, removed or means something else.
    """
    reasons = [*_changed_keepers(current, policy), *_changed_meanings(current, policy)]
    if reasons:
        raise PolicyError("\n".join(reasons))


def verify_chain(documents: Sequence[bytes], root: bytes) -> Policy:
    """Return the last version of a chain that begins with version 1. Raises PolicyError, also when it is empty."""
    if not documents:
        raise PolicyError("expected a chain of signed policies, got none")
    policy = verify_first(decode_signed(documents[0]), root)
    for document in documents[1:]:
        policy = verify_next(policy, decode_signed(document))
    return policy


def _changed_keepers(old: Policy, new: Policy) -> Iterator[str]:
    """Yield why the keys that were made would not fit `new`: they are of these keepers and of this threshold."""
    was, becomes = (f"{p.threshold} of {', '.join(p.keepers)}" for p in (old, new))
    if was != becomes:
        yield (
            f"zones, vault.threshold: expected keepers to stay {was}, whose keys the ceremony made, got {becomes}. "
            "They may move to other addresses; for others make a new vault and import what this one exports"
        )


def _changed_meanings(old: Policy, new: Policy) -> Iterator[str]:
    """Yield why stored rows would mean something else under `new`: ids are append-only."""
    yield from _kept("collections", old.collections, new.collections, ("id", "subject", "dates"))
    for name in sorted(old.collections.keys() & new.collections.keys()):
        before, after, path = old.collections[name], new.collections[name], f"collections.{name}"
        ids = {part.name: part.id for part in after.classes}
        for part in before.classes:
            if ids.get(part.name) != part.id:
                yield f"{path}.classes.{part.name}: expected to stay {part.id}, got {ids.get(part.name)}"
        # values sealed and indexed before would mean something else
        fixed = ("id", "kind", "class_name", "scheme")
        yield from _kept(f"{path}.fields", before.field_named, after.field_named, fixed)
        for field in before.fields:
            # rows written before have no postings: an index that came later, or again, would miss them in silence
            index = after.field_named[field.name].index if field.name in after.field_named else None
            if index not in (None, field.index):
                yield f"{path}.fields.{field.name}.index: expected to stay {field.index}, got {index}"


def _kept(path: str, old: Mapping[str, Any], new: Mapping[str, Any], fixed: tuple[str, ...]) -> Iterator[str]:
    for name, before in old.items():
        if name not in new:
            yield f"{path}.{name}: expected to stay, got removed"
            continue
        for what in fixed:
            was, becomes = getattr(before, what), getattr(new[name], what)
            if was != becomes:
                yield f"{path}.{name}.{what}: expected to stay {was}, got {becomes}"
