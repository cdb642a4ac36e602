"""What a new policy version changes, in plain words, for the officers who sign it.

Lines that let somebody see, reach or decide more begin with `LOOSENS`. Names, keys and addresses that officers
must compare with what they were told are printed.

Pure: no I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from anwen.model import Budget, Collection, Counter, Policy, Role

LOOSENS = "LOOSENS: "
Line = tuple[bool, str]
"""Whether it lets somebody see, reach or decide more; what changes."""

_TOLD = {  # what is said of a part that is added, whether that loosens, and of one that is removed
    "officer": ("{who} ({person}, {public_key}) may sign policies", True, "{who} ({person}) may no longer sign"),
    "keeper": ("{who} in zone {zone} at {address} joins (identity {identity})", True, "{who} leaves"),
    "node": ("{who} in zone {zone} at {address} joins (TLS key {tls_pin})", True, "{who} leaves"),
    "collection": ("{who} is added: {fields}", False, "{who} is removed (keepers refuse that)"),
    "class": ("{who} is added", False, "{who} is removed (keepers refuse that)"),
    "field": ("{who} ({kind}) is added to class {class_name}", False, "{who} is removed (keepers refuse that)"),
    "purpose": ("{who} is added ({legal_basis}): {allowed}", False, "{who} is removed"),
    "role": ("{who} is added: {purposes}; {budgets}", False, "{who} is removed"),
    "principal": ("{who} ({public_key}) is added as {role}", True, "{who}, {role}, is removed"),
}
_VERBS = {"open": "open", "search": "search by", "write": "write", "delete": "delete", "audit": "audit"}


def describe(old: Policy, new: Policy) -> list[str]:
    """Return the differences, those that loosen first; empty when nothing but version and hash changed."""
    lines = [
        *_vault(old, new),
        *_parts("officer", old.officers, new.officers),
        *_parts("keeper", old.keepers, new.keepers),
        *_parts("node", old.nodes, new.nodes),
        *_parts("collection", old.collections, new.collections),
        *_parts("purpose", _covered(old), _covered(new)),
        *_parts("role", old.roles, new.roles),
        *_parts("principal", old.principals, new.principals),
    ]
    return [(LOOSENS if looser else "") + text for looser, text in sorted(lines, key=lambda line: not line[0])]


def loosens(old: Policy, new: Policy) -> bool:
    """Return whether any difference lets somebody see, reach or decide more."""
    return any(line.startswith(LOOSENS) for line in describe(old, new))


def _parts(noun: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Line]:
    added, looser, removed = _TOLD[noun]
    for name in sorted(old.keys() | new.keys()):
        before, after, who = old.get(name), new.get(name), f"{noun} {name}"
        if before is None:
            yield looser, added.format(who=who, **_facts(after))
        elif after is None:
            yield False, removed.format(who=who, **_facts(before))
        elif before != after:
            yield from _CHANGED.get(noun, _attributes)(who, before, after)


def _facts(part: Any) -> dict[str, str]:
    return part if isinstance(part, dict) else {f.name: _shown(getattr(part, f.name)) for f in fields(part)}


def _shown(value: Any) -> str:
    if isinstance(value, Budget):
        return f"{value.per_hour:,} an hour and {value.per_day:,} a day"
    if isinstance(value, bytes):
        return value.hex() if len(value) == 32 else "key " + hashlib.sha256(value).hexdigest()[:16]
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(value[name])}" for name in sorted(value)) or "nothing"
    if isinstance(value, tuple | AbstractSet):
        names = [str(getattr(part, "name", part)) for part in value]
        return ", ".join(names if isinstance(value, tuple) else sorted(names)) or "nothing"
    return "none" if value is None else str(value)


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _vault(old: Policy, new: Policy) -> list[Line]:
    may = "may" if new.single_machine else "may no longer"
    fewer, quorum_falls = new.threshold < old.threshold, new.quorum < old.quorum
    lines = {
        "name": (False, f"the vault is renamed from {old.name} to {new.name}"),
        "expires_s": (False, f"this policy expires on {_date(new.expires_s)} instead of {_date(old.expires_s)}"),
        "threshold": (fewer, f"{new.threshold} instead of {old.threshold} keepers must answer"),
        "quorum": (quorum_falls, f"{new.quorum} instead of {old.quorum} persons must sign the next policy"),
        "single_machine": (new.single_machine, f"all keepers {may} run on one machine"),
        "engine": (False, f"the store is {new.engine} instead of {old.engine}"),
    }
    return [line for what, line in lines.items() if getattr(old, what) != getattr(new, what)]


def _attributes(who: str, before: Any, after: Any) -> Iterator[Line]:
    """Yield every attribute that changed: of a field only a mask loosens, else each may bring in somebody else."""
    facts, became = _facts(before), _facts(after)
    for what in facts:
        if getattr(before, what) == getattr(after, what):
            continue
        if who.startswith("field "):
            looser = what == "mask" and after.mask is not None
            yield looser, f"{who}: {what} is {became[what]} instead of {facts[what]}"
        elif what in ("identity", "tls_pin"):
            yield True, f"{who} has another {what}: {became[what]}"
        elif what in ("role", "public_key"):
            yield True, f"{who} {'is' if what == 'role' else 'has'} {became[what]} instead of {facts[what]}"
        else:
            yield True, f"{who}: {what} {became[what]} instead of {facts[what]}"


def _officer(who: str, before: Any, after: Any) -> Iterator[Line]:
    was, now = _facts(before), _facts(after)
    yield True, f"{who} was {was['person']}, {was['public_key']}, and is {now['person']}, {now['public_key']}"


def _node(who: str, before: Any, after: Any) -> Iterator[Line]:
    pin = "the same TLS key" if after.tls_pin == before.tls_pin else f"TLS key {after.tls_pin.hex()}"
    yield True, f"{who} is in zone {after.zone} at {after.address}, {pin}"


def _collection(who: str, before: Collection, after: Collection) -> Iterator[Line]:
    if before.retention_days != after.retention_days:
        longer = after.retention_days > before.retention_days
        too = ", records that are already past their end included" if longer else ""
        yield longer, f"{who} is kept {after.retention_days} instead of {before.retention_days} days{too}"
    yield from _budgets(f"{who}, all principals together:", before.limits, after.limits, ceiling=True)
    for noun, what in (("class", "classes"), ("field", "fields")):
        old, new = ({f"{c.name}.{part.name}": part for part in getattr(c, what)} for c in (before, after))
        yield from _parts(noun, old, new)


def _covered(policy: Policy) -> dict[str, dict[str, Any]]:
    """Return by purpose its legal basis, and in names what it covers, by verb."""
    by_id = policy.collection_by_id
    names = {(c.id, f.id): f"{c.name}.{f.name}" for c in by_id.values() for f in c.fields}
    purposes = {}
    for purpose in policy.purposes.values():
        covers = {
            "open": {f"{by_id[c].name}.{by_id[c].class_name_of(k)}" for c, k in purpose.open},
            "search": {names[pair] for pair in purpose.search},
            "write": {by_id[c].name for c in purpose.write},
            "delete": {by_id[c].name for c in purpose.delete},
            "audit": {"the log"} if purpose.audit else set(),
        }
        allowed = "; ".join(f"{_VERBS[verb]} {_shown(what)}" for verb, what in covers.items() if what)
        stated = {"legal_basis": purpose.legal_basis or "no legal basis", "allowed": allowed or "nothing"}
        purposes[purpose.name] = {**covers, **stated}
    return purposes


def _purpose(who: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Line]:
    if before["legal_basis"] != after["legal_basis"]:
        yield False, f"{who} rests on {after['legal_basis']!r} instead of {before['legal_basis']!r}"
    for key, verb in _VERBS.items():
        yield from _rights(who, verb, before[key], after[key])


def _rights(who: str, verb: str, before: AbstractSet[str], after: AbstractSet[str]) -> Iterator[Line]:
    if after - before:
        yield True, f"{who} may also {verb} {_shown(after - before)}"
    if before - after:
        yield False, f"{who} may no longer {verb} {_shown(before - after)}"


def _role(who: str, before: Role, after: Role) -> Iterator[Line]:
    yield from _rights(who, "ask for", before.purposes, after.purposes)
    if before.binding != after.binding:
        yield after.binding == "session", f"{who} signs once for each {after.binding}, not for each {before.binding}"
    yield from _budgets(f"{who}:", before.budgets, after.budgets)


Limits = Mapping[Counter, Budget]


def _budgets(whose: str, old: Limits, new: Limits, *, ceiling: bool = False) -> Iterator[Line]:
    """Yield changed limits. Without a budget nothing is allowed, without a ceiling everything is."""
    for counter in sorted(old.keys() | new.keys()):
        was, becomes = old.get(counter), new.get(counter)
        if becomes is None:
            yield ceiling, f"{whose} {counter} {'has no ceiling any more' if ceiling else 'is no longer allowed'}"
        elif was is None:
            yield not ceiling, f"{whose} {counter} {_shown(becomes)} where there was none"
        elif was != becomes:
            looser = becomes.per_hour > was.per_hour or becomes.per_day > was.per_day
            yield looser, f"{whose} {counter} {_shown(becomes)} instead of {_shown(was)}"


_CHANGED: dict[str, Any] = {
    "officer": _officer,
    "node": _node,
    "collection": _collection,
    "purpose": _purpose,
    "role": _role,
}
