"""A policy version on its way: officers' signatures collected in a file beside it, then sent to keepers and nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from anwen.errors import AnwenError, GrantError, NotFoundError, PolicyError
from anwen.formats import policy_chain
from anwen.formats.policy_chain import SignedPolicy
from anwen.model import Policy
from anwen.net.connection import Pool
from anwen.vault_folder import public_der

TIMEOUT_S = 15.0


def check_successor(current: Policy, new: Policy) -> None:
    """Raise PolicyError unless `new` follows `current` in name and number, and keeps what must stay."""
    if new.version != current.version + 1 or new.previous != policy_chain.digest(current):
        raise PolicyError(
            f"the file is version {new.version}; signed is version {current.version}: "
            "`anwen policy next` makes the file its successor"
        )
    policy_chain.check_kept(current, new)


def officer_of(policy: Policy, key: ec.EllipticCurvePrivateKey) -> str:
    """Return whose key it is. Raises NotFoundError."""
    public = public_der(key)
    for officer in policy.officers.values():
        if officer.public_key == public:
            return officer.id
    known = ", ".join(policy.officers)
    raise NotFoundError(f"not the key of an officer of version {policy.version}; those are {known}")


def collected(draft: Path, new: Policy) -> tuple[dict[str, bytes], list[str]]:
    """Return the signatures over `new` that a draft holds, and who had signed another content of the file.

    Raises: PolicyError, MalformedError: the draft does not follow the format; remove it and sign again.
    """
    if not draft.exists():
        return {}, []
    earlier = policy_chain.decode_signed(draft.read_bytes())
    same = policy_chain.digest(earlier.policy) == policy_chain.digest(new)
    return (dict(earlier.signatures), []) if same else ({}, list(earlier.signatures))


def has_quorum(current: Policy, signed: SignedPolicy) -> bool:
    """Return whether enough persons of `current` signed. Raises PolicyError: they did, but it may not follow."""
    persons = {current.officers[o].person_key for o in signed.signatures if o in current.officers}
    if len(persons) < current.quorum:
        return False
    policy_chain.verify_next(current, signed)
    return True


def moved(current: Policy, new: Policy) -> list[str]:
    """Return which services `new` has at another address or with another key: it is not sent to where they are."""
    parts: list[tuple[str, Mapping[str, object], Mapping[str, object]]] = [
        ("keeper", current.keepers, new.keepers),
        ("node", current.nodes, new.nodes),
    ]
    return [f"{kind} {who}" for kind, was, now in parts for who, info in now.items() if was.get(who) != info]


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
        versions: by recipient ("keeper a", "node b"), which version it has, as far as known.
    """
    to = {f"keeper {k.id}": (k.address, k.tls_pin) for k in policy.keepers.values()}
    to |= {f"node {n.id}": (n.address, n.tls_pin) for n in policy.nodes.values()}
    giving = (_give(Pool(*where, limit=1), documents, versions.get(name)) for name, where in to.items())
    return dict(zip(to, await asyncio.gather(*giving), strict=True))


async def _give(pool: Pool, documents: list[bytes], has: int | None) -> int | AnwenError:
    """Give what is missing; where that is not known, the newest version, or the last two, or three, in order.

    The first is in every folder: it is sent where there is no other, so that whoever is down does not pass for served.
    """
    refused: AnwenError | None = None
    async with contextlib.aclosing(pool):
        for start in (range(len(documents) - 1, 0, -1) or [0]) if has is None else [has]:
            try:
                for document in documents[start:]:
                    await pool.post("/v1/policy", None, document, TIMEOUT_S)
                return max(len(documents), start)
            except (PolicyError, GrantError) as error:  # not the next one, or not one it can check
                refused = refused or error
            except AnwenError as error:
                return error
    if has is None and isinstance(refused, GrantError):
        said = f"answers; not known whether it has version {len(documents)} or refuses it"
        return GrantError(f"{said}: that it tells principals alone (--as KEYFILE)")
    assert refused is not None
    return refused
