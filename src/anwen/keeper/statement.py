"""Signed statements between keepers: one line of JSON, a newline, an Ed25519 signature in hex.

The signature covers a prefix of its own and the exact line, so that no answer, checkpoint or cosignature can pass as a
statement. `kind`, `vault` and `keeper` are in every one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from anwen.crypto import grants
from anwen.errors import GrantError, MalformedError, PolicyError, ProofError
from anwen.keeper.folder import Identity
from anwen.model import Policy

_PREFIX = b"anwen-statement-1\n"
RELEASE = 1
"""Of this software, one more with each version 0.x: keepers answer their own release, the one before and the next."""


def sign(identity: Identity, kind: str, **members: Any) -> str:
    """Return a statement of this keeper."""
    content = {"kind": kind, "vault": identity.vault.hex(), "keeper": identity.keeper, **members}
    line = json.dumps(content, separators=(",", ":"))
    return f"{line}\n{identity.key.sign(_PREFIX + line.encode()).hex()}"


def verify(policy: Policy, text: object, kind: str, keeper: str, **expected: object) -> dict[str, Any]:
    """Return what `keeper` states, whose members must be as expected.

    Raises:
        ProofError: naming the keeper: another kind, vault, keeper or member, or not signed by the pinned key.
    """
    try:
        line, signature = str(text).split("\n")
        key, raw = Ed25519PublicKey.from_public_bytes(policy.keepers[keeper].identity), bytes.fromhex(signature)
        key.verify(raw, _PREFIX + line.encode())
        content = json.loads(line)
    except (InvalidSignature, ValueError, KeyError, RecursionError):
        raise ProofError(f"keeper {keeper}: its {kind} statement is not signed by its pinned key") from None
    expected |= {"kind": kind, "vault": policy.vault.hex(), "keeper": keeper}
    one_form = raw.hex() == signature  # statements are compared as text
    if not (one_form and isinstance(content, dict)) or any(content.get(n) != value for n, value in expected.items()):
        raise ProofError(f"keeper {keeper}: its {kind} statement is about something else")
    return content


def sign_request(identity: Identity, recipient: str, op: str, body: bytes) -> str:
    """Return what shows a peer that this keeper asks: a statement over the recipient, operation and body, in base64."""
    text = sign(identity, "request", release=RELEASE, to=recipient, op=op, body=hashlib.sha256(body).hexdigest())
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def verify_request(policy: Policy, recipient: str, op: str, token: str, body: bytes) -> None:
    """Raise GrantError, in its one wording, unless a keeper of the policy signed this very request to `recipient`.

    Raises PolicyError where its software is more than one release away: what one writes the next one reads, no other.
    """
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        keeper = str(json.loads(text.split("\n")[0])["keeper"])
        said = verify(policy, text, "request", keeper, to=recipient, op=op, body=hashlib.sha256(body).hexdigest())
    except (ProofError, ValueError, KeyError, TypeError, RecursionError):
        raise GrantError(grants.WORDING) from None
    if (release := said.get("release")) not in (RELEASE - 1, RELEASE, RELEASE + 1):
        raise PolicyError(f"keeper {keeper} is of release {str(release)[:9]}, its peer of {RELEASE}: go step by step")


def verify_all(policy: Policy, texts: list[object], kind: str, **expected: object) -> dict[str, dict[str, Any]]:
    """Return what all keepers state, one statement of each in their order. Raises ProofError as `verify` does."""
    if len(texts) != len(policy.keepers):
        raise ProofError(f"expected {len(policy.keepers)} {kind} statements, got {len(texts)}")
    return {k: verify(policy, text, kind, k, **expected) for k, text in zip(policy.keepers, texts, strict=True)}


def read_object(body: bytes, *members: str) -> dict[str, Any]:
    """Return what a peer sent: a JSON object of exactly these members. Raises MalformedError."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or set(said) != set(members):
        raise MalformedError(f"expected a JSON object of {sorted(members)}")
    return said
