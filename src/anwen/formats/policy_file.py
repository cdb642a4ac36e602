"""The policy as text and as bytes: `vault.toml` that officers edit, and the canonical JSON that they sign.

Both are read by one strict reader. Every number is a whole number below 2^40 and every key is ASCII, so
canonical JSON (RFC 8785) is JSON with sorted keys and no spaces (docs/spec/policy.md).

Pure: no I/O.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Mapping

from anwen.errors import PolicyError
from anwen.formats.policy_reader import read_policy
from anwen.formats.policy_table import Mistake
from anwen.formats.policy_template import fill_template, write_version
from anwen.formats.toml_lines import Path, line_of, locate
from anwen.model import Budget, Collection, Counter, Field, Policy, Purpose

__all__ = ["canonical", "fill_template", "from_json", "parse_toml", "to_json", "write_version"]

MAX_CHARACTERS = 2**20


def _dotted(path: Path) -> str:
    """Return `purposes.import.open[2]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def parse_toml(text: str, name: str = "vault.toml") -> Policy:
    """Return the policy that a vault file states.

    Raises:
        PolicyError: one line for each mistake, `vault.toml:LINE: key.path: expected ..., got ...`, all of them.
    """
    if len(text) > MAX_CHARACTERS:
        raise PolicyError(f"{name}:1: expected at most {MAX_CHARACTERS} characters, got {len(text)}")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(at.group(1)) if at else text.count("\n") + 1
        raise PolicyError(f"{name}:{line}: expected TOML, got: {str(error).partition(' (at ')[0]}") from None
    except (RecursionError, ValueError):
        raise PolicyError(f"{name}:1: expected TOML of modest depth and numbers") from None
    policy, mistakes = read_policy(data, dates=True)
    if policy is None:
        places = locate(text.replace("\r\n", "\n"))
        lines = sorted((line_of(places, m.path), _dotted(m.path), m.text) for m in mistakes)
        raise PolicyError("\n".join(f"{name}:{line}: {path}: {text}" for line, path, text in dict.fromkeys(lines)))
    return policy


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _budgets(budgets: Mapping[Counter, Budget]) -> dict[str, object]:
    return {str(counter): {"per_hour": b.per_hour, "per_day": b.per_day} for counter, b in budgets.items()}


def _present(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _field(field: Field) -> dict[str, object]:
    return _present(
        {
            "id": field.id,
            "type": field.kind,
            "class": field.class_name,
            "index": field.index,
            "mask": field.mask,
            "required": field.required,
            "scheme": field.scheme,
            "region": field.region,
            "values": None if field.values is None else list(field.values),
        }
    )


def _collection(collection: Collection) -> dict[str, object]:
    return {
        "id": collection.id,
        "subject": collection.subject,
        "retention_days": collection.retention_days,
        "dates": collection.dates,
        "limits": _budgets(collection.limits),
        "classes": {c.name: {"id": c.id} for c in collection.classes},
        "fields": {f.name: _field(f) for f in collection.fields},
    }


def _purpose(policy: Policy, purpose: Purpose) -> dict[str, object]:
    by_id = policy.collection_by_id
    fields = {(c.id, f.id): f"{c.name}.{f.name}" for c in policy.collections.values() for f in c.fields}
    return _present(
        {
            "legal_basis": purpose.legal_basis or None,
            "open": sorted(f"{by_id[c].name}.{by_id[c].class_name_of(k)}" for c, k in purpose.open),
            "search": sorted(fields[pair] for pair in purpose.search),
            "write": sorted(by_id[c].name for c in purpose.write),
            "delete": sorted(by_id[c].name for c in purpose.delete),
            "audit": purpose.audit,
        }
    )


def _zones(policy: Policy) -> dict[str, object]:
    zones: dict[str, dict[str, object]] = {}
    for keeper in policy.keepers.values():
        zones.setdefault(keeper.zone, {})["keeper"] = {
            "id": keeper.id,
            "address": keeper.address,
            "peer_address": keeper.peer_address,
            "tls_pin": keeper.tls_pin.hex(),
            "identity": keeper.identity.hex(),
        }
    for node in policy.nodes.values():
        pinned = {"id": node.id, "address": node.address, "tls_pin": node.tls_pin.hex()}
        zones.setdefault(node.zone, {})["node"] = pinned
    return dict(zones)


def to_json(policy: Policy) -> dict[str, object]:
    """Return the policy as JSON values; every default is written out, absent options are left out."""
    vault = {
        "id": policy.vault.hex(),
        "name": policy.name,
        "version": policy.version,
        "previous": policy.previous.hex() if policy.version > 1 else None,
        "expires_s": policy.expires_s,
        "threshold": policy.threshold,
        "quorum": policy.quorum,
        "single_machine": policy.single_machine,
        "engine": policy.engine,
    }
    return {
        "vault": _present(vault),
        "officers": {o.id: {"person": o.person, "key": _base64(o.public_key)} for o in policy.officers.values()},
        "zones": _zones(policy),
        "collections": {c.name: _collection(c) for c in policy.collections.values()},
        "purposes": {p.name: _purpose(policy, p) for p in policy.purposes.values()},
        "roles": {
            r.name: {"purposes": sorted(r.purposes), "binding": r.binding, "budgets": _budgets(r.budgets)}
            for r in policy.roles.values()
        },
        "principals": {p.id: {"role": p.role, "key": _base64(p.public_key)} for p in policy.principals.values()},
    }


def _report(mistakes: list[Mistake]) -> str:
    return "\n".join(dict.fromkeys(f"policy: {_dotted(m.path)}: {m.text}" for m in mistakes))


def from_json(data: Mapping[str, object]) -> Policy:
    """Return the policy that `to_json` wrote; any other writing of it is refused.

    Raises:
        PolicyError: one line for each mistake.
    """
    policy, mistakes = read_policy(data, dates=False)
    if policy is None:
        raise PolicyError(_report(mistakes))
    if to_json(policy) != data:
        raise PolicyError("policy: expected every default written out and every list ascending, got another form")
    return policy


def canonical(policy: Policy) -> bytes:
    """Return the policy's canonical JSON (RFC 8785): what officers sign and what the next version names."""
    return json.dumps(to_json(policy), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
