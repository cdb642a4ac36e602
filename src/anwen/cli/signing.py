"""A policy version on its way: officers' signatures collected in a file beside it, then sent to keepers and nodes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from anwen.errors import AnwenError, GrantError, MalformedError, NotFoundError, PolicyError
from anwen.formats import policy_chain
from anwen.formats.policy_chain import SignedPolicy
from anwen.model import Policy
from anwen.net.connection import Pool
from anwen.vault_folder import public_der

TIMEOUT_S = 15.0


def check_successor(current: Policy, new: Policy) -> None:
    """Raise PolicyError unless `new` follows `current` in name and number."""
    if new.version != current.version + 1 or new.previous != policy_chain.digest(current):
        raise PolicyError(
            f"the file is version {new.version}; signed is version {current.version}: "
            "`anwen policy next` makes the file its successor"
        )


def officer_of(policy: Policy, key: ec.EllipticCurvePrivateKey) -> str:
    """Return whose key it is. Raises NotFoundError."""
    public = public_der(key)
    for officer in policy.officers.values():
        if officer.public_key == public:
            return officer.id
    raise NotFoundError(
        f"not the key of an officer of version {policy.version}; those are {', '.join(policy.officers)}"
    )


@dataclass
class Draft:
    """Signatures over one version that has no quorum yet, in `FILE.signatures.json`."""

    path: Path
    policy: Policy
    signatures: dict[str, bytes] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()  # who had signed another content of the file

    @classmethod
    def read(cls, file: Path, policy: Policy) -> Draft:
        """Return the draft beside a vault file. Raises MalformedError."""
        draft = cls(file.with_name(file.name + ".signatures.json"), policy)
        if not draft.path.exists():
            return draft
        try:
            content = json.loads(draft.path.read_bytes())
            signatures = {str(o): base64.b64decode(s, validate=True) for o, s in content["signatures"].items()}
            same = content["digest"] == policy_chain.digest(policy).hex()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedError(f"{draft.path.name}: does not follow the format; remove it and sign again") from error
        if same:
            draft.signatures = signatures
        else:
            draft.dropped = tuple(signatures)
        return draft

    def add(self, current: Policy, officer: str, signature: bytes) -> SignedPolicy | None:
        """Keep a signature; return the signed version once the quorum of `current` is reached.

        Raises: PolicyError: an earlier signature is wrong, or the version may not follow `current`.
        """
        self.signatures[officer] = signature
        content = {
            "digest": policy_chain.digest(self.policy).hex(),
            "signatures": {o: base64.b64encode(s).decode() for o, s in self.signatures.items()},
        }
        replace(self.path, json.dumps(content, indent=1).encode())
        persons = {current.officers[o].person_key for o in self.signatures if o in current.officers}
        if len(persons) < current.quorum:
            return None
        signed = SignedPolicy(self.policy, self.signatures)
        policy_chain.verify_next(current, signed)
        return signed

    def remove(self) -> None:
        """Forget the draft: its signatures are in the signed version."""
        self.path.unlink(missing_ok=True)


def replace(path: Path, data: bytes) -> None:
    """Make `data` the content of a file, at once or not at all."""
    fresh = path.with_name(path.name + ".new")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


async def publish(policy: Policy, documents: list[bytes], versions: Mapping[str, int]) -> dict[str, int | AnwenError]:
    """Send each keeper and node the versions it lacks; return which it has then, or why it refused.

    Args:
        versions: by keeper ("keeper a"), which version it has, as far as known.
    """
    to = {f"keeper {k.id}": (k.address, k.tls_pin) for k in policy.keepers.values()}
    to |= {f"node {n.id}": (n.address, n.tls_pin) for n in policy.nodes.values()}
    giving = (_give(address, pin, documents, versions.get(name)) for name, (address, pin) in to.items())
    return dict(zip(to, await asyncio.gather(*giving), strict=True))


async def _give(address: str, pin: bytes, documents: list[bytes], has: int | None) -> int | AnwenError:
    """Give what is missing; where that is not known, the newest version, or the last two, or three, in order."""
    pool = Pool(address, pin, limit=1)
    refused: AnwenError | None = None
    try:
        for start in range(len(documents) - 1, 0, -1) if has is None else [has]:
            try:
                for document in documents[start:]:
                    await pool.post("/v1/policy", None, document, TIMEOUT_S)
            except (PolicyError, GrantError) as error:  # not the next one, or not one it can check
                refused = refused or error
                continue
            return len(documents)
        return refused or len(documents)
    except AnwenError as error:
        return error
    finally:
        await pool.aclose()
