"""What a new policy version changes, in plain words, for the officers who sign it.

Lines that let somebody see, reach or decide more begin with `LOOSENS`. Names, keys and addresses that officers
must compare with what they were told are printed.

Pure: no I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from anwen.model import Budget, Collection, Counter, Field, Policy, Purpose, Role

LOOSENS = "LOOSENS: "
T = TypeVar("T")
Line = tuple[bool, str]


def describe(old: Policy, new: Policy) -> list[str]:
    """Return the differences, those that loosen first; empty when nothing but version and hash changed."""
    lines = [
        *_vault(old, new),
        *_officers(old, new),
        *_servers(old, new),
        *_collections(old, new),
        *_purposes(old, new),
        *_roles(old, new),
        *_principals(old, new),
    ]
    return [(LOOSENS if looser else "") + text for looser, text in sorted(lines, key=lambda line: not line[0])]


def loosens(old: Policy, new: Policy) -> bool:
    """Return whether any difference lets somebody see, reach or decide more."""
    return any(line.startswith(LOOSENS) for line in describe(old, new))


def _both(old: Mapping[str, T], new: Mapping[str, T]) -> Iterator[tuple[str, T, T]]:
    return ((name, old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name])


def _added(old: Mapping[str, T], new: Mapping[str, T]) -> Iterator[tuple[str, T]]:
    return ((name, new[name]) for name in sorted(new.keys() - old.keys()))


def _names(names: object) -> str:
    return ", ".join(sorted(map(str, names))) if isinstance(names, set | frozenset) else str(names)


def _key(der: bytes) -> str:
    return "key " + hashlib.sha256(der).hexdigest()[:16]


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _vault(old: Policy, new: Policy) -> Iterator[Line]:
    if new.name != old.name:
        yield False, f"the vault is renamed from {old.name} to {new.name}"
    if new.expires_s != old.expires_s:
        yield False, f"this policy expires on {_date(new.expires_s)} instead of {_date(old.expires_s)}"
    if new.threshold != old.threshold:
        yield new.threshold < old.threshold, f"{new.threshold} instead of {old.threshold} keepers must answer"
    if new.quorum != old.quorum:
        yield new.quorum < old.quorum, f"{new.quorum} instead of {old.quorum} persons must sign the next policy"
    if new.single_machine != old.single_machine:
        yield new.single_machine, f"all keepers {'may' if new.single_machine else 'may no longer'} run on one machine"
    if new.engine != old.engine:
        yield False, f"the store is {new.engine} instead of {old.engine}"


def _officers(old: Policy, new: Policy) -> Iterator[Line]:
    for name, officer in _added(old.officers, new.officers):
        yield True, f"officer {name} ({officer.person}, {_key(officer.public_key)}) may sign policies"
    for name, officer in _added(new.officers, old.officers):
        yield False, f"officer {name} ({officer.person}) may no longer sign policies"
    for name, before, after in _both(old.officers, new.officers):
        was = f"was {before.person}, {_key(before.public_key)}"
        yield True, f"officer {name} {was}, and is {after.person}, {_key(after.public_key)}"


def _servers(old: Policy, new: Policy) -> Iterator[Line]:
    for name, keeper in _added(old.keepers, new.keepers):
        yield True, f"keeper {name} in zone {keeper.zone} at {keeper.address} joins (identity {keeper.identity.hex()})"
    for name, _ in _added(new.keepers, old.keepers):
        yield False, f"keeper {name} leaves"
    for name, before, after in _both(old.keepers, new.keepers):
        for what in ("identity", "tls_pin"):
            if getattr(before, what) != getattr(after, what):
                yield True, f"keeper {name} has another {what}: {getattr(after, what).hex()}"
        for what in ("zone", "address", "peer_address"):
            if getattr(before, what) != getattr(after, what):
                yield True, f"keeper {name}: {what} {getattr(after, what)} instead of {getattr(before, what)}"
    for name, node in _added(old.nodes, new.nodes):
        yield True, f"node {name} in zone {node.zone} at {node.address} joins (TLS key {node.tls_pin.hex()})"
    for name, _ in _added(new.nodes, old.nodes):
        yield False, f"node {name} leaves"
    for name, node_before, node in _both(old.nodes, new.nodes):
        pin = "the same TLS key" if node.tls_pin == node_before.tls_pin else f"TLS key {node.tls_pin.hex()}"
        yield True, f"node {name} is in zone {node.zone} at {node.address}, {pin}"


def _collections(old: Policy, new: Policy) -> Iterator[Line]:
    for name, collection in _added(old.collections, new.collections):
        yield False, f"collection {name} is added: {_names(set(collection.field_named))}"
    for name, _ in _added(new.collections, old.collections):
        yield False, f"collection {name} is removed (keepers refuse that)"
    for name, before, after in _both(old.collections, new.collections):
        if before.retention_days != after.retention_days:
            longer = after.retention_days > before.retention_days
            yield (
                longer,
                f"collection {name} is kept {after.retention_days} instead of {before.retention_days} days"
                + (", records that are already past their end included" if longer else ""),
            )
        yield from _budgets(f"collection {name}, all principals together:", before.limits, after.limits, ceiling=True)
        for data_class in sorted(set(after.class_named) - set(before.class_named)):
            yield False, f"class {name}.{data_class} is added"
        yield from _fields(before, after)


def _fields(before: Collection, after: Collection) -> Iterator[Line]:
    for name, field in _added(before.field_named, after.field_named):
        yield False, f"field {after.name}.{name} ({field.kind}) is added to class {field.class_name}"
    for name, was, becomes in _both(before.field_named, after.field_named):
        for what, old_value, new_value in _attributes(was, becomes):
            looser = what == "mask" and new_value is not None
            yield looser, f"field {after.name}.{name}: {what} is {_shown(new_value)} instead of {_shown(old_value)}"


def _attributes(was: Field, becomes: Field) -> Iterator[tuple[str, object, object]]:
    for what in ("id", "kind", "class_name", "index", "mask", "required", "scheme", "region", "values"):
        if getattr(was, what) != getattr(becomes, what):
            yield what, getattr(was, what), getattr(becomes, what)


def _shown(value: object) -> str:
    return "none" if value is None else ", ".join(value) if isinstance(value, tuple) else str(value)


def _covered(policy: Policy, purpose: Purpose) -> dict[str, frozenset[str]]:
    """Return in names what a purpose covers, by verb."""
    by_id = policy.collection_by_id
    fields = {(c.id, f.id): f"{c.name}.{f.name}" for c in by_id.values() for f in c.fields}
    return {
        "open": frozenset(f"{by_id[c].name}.{by_id[c].class_name_of(k)}" for c, k in purpose.open),
        "search by": frozenset(fields[pair] for pair in purpose.search),
        "write": frozenset(by_id[c].name for c in purpose.write),
        "delete": frozenset(by_id[c].name for c in purpose.delete),
        "audit": frozenset({"the log"} if purpose.audit else ()),
    }


def _purposes(old: Policy, new: Policy) -> Iterator[Line]:
    for name, purpose in _added(old.purposes, new.purposes):
        allowed = "; ".join(f"{verb} {_names(what)}" for verb, what in _covered(new, purpose).items() if what)
        yield False, f"purpose {name} is added ({purpose.legal_basis or 'no legal basis'}): {allowed or 'nothing'}"
    for name, _ in _added(new.purposes, old.purposes):
        yield False, f"purpose {name} is removed"
    for name in sorted(old.purposes.keys() & new.purposes.keys()):
        before, after = old.purposes[name], new.purposes[name]
        if before.legal_basis != after.legal_basis:
            yield False, f"purpose {name} rests on {after.legal_basis!r} instead of {before.legal_basis!r}"
        covered, covers = _covered(old, before), _covered(new, after)
        for verb, what in covers.items():
            if what - covered[verb]:
                yield True, f"purpose {name} may also {verb} {_names(what - covered[verb])}"
            if covered[verb] - what:
                yield False, f"purpose {name} may no longer {verb} {_names(covered[verb] - what)}"


def _roles(old: Policy, new: Policy) -> Iterator[Line]:
    for name, role in _added(old.roles, new.roles):
        yield False, f"role {name} is added: {_names(role.purposes)}"
        yield from ((False, text) for _, text in _budgets(f"role {name}:", {}, role.budgets))
    for name, _ in _added(new.roles, old.roles):
        yield False, f"role {name} is removed"
    for name, before, after in _both(old.roles, new.roles):
        yield from _role(name, before, after)


def _role(name: str, before: Role, after: Role) -> Iterator[Line]:
    if after.purposes - before.purposes:
        yield True, f"role {name} may also ask for {_names(after.purposes - before.purposes)}"
    if before.purposes - after.purposes:
        yield False, f"role {name} may no longer ask for {_names(before.purposes - after.purposes)}"
    if before.binding != after.binding:
        text = f"role {name} signs once for each {after.binding}, not for each {before.binding}"
        yield after.binding == "session", text
    yield from _budgets(f"role {name}:", before.budgets, after.budgets)


def _budgets(
    whose: str, old: Mapping[Counter, Budget], new: Mapping[Counter, Budget], *, ceiling: bool = False
) -> Iterator[Line]:
    """Yield changed limits. Without a budget nothing is allowed, without a ceiling everything is."""
    for counter in sorted(old.keys() | new.keys()):
        was, becomes = old.get(counter), new.get(counter)
        if was == becomes:
            continue
        if becomes is None:
            yield ceiling, f"{whose} {counter} {'has no ceiling any more' if ceiling else 'is no longer allowed'}"
        elif was is None:
            yield not ceiling, f"{whose} {counter} {_amount(becomes)} where there was none"
        else:
            looser = becomes.per_hour > was.per_hour or becomes.per_day > was.per_day
            yield looser, f"{whose} {counter} {_amount(becomes)} instead of {_amount(was)}"


def _amount(budget: Budget) -> str:
    return f"{budget.per_hour:,} an hour and {budget.per_day:,} a day"


def _principals(old: Policy, new: Policy) -> Iterator[Line]:
    for name, principal in _added(old.principals, new.principals):
        yield True, f"principal {name} ({_key(principal.public_key)}) is added as {principal.role}"
    for name, principal in _added(new.principals, old.principals):
        yield False, f"principal {name}, {principal.role}, is removed"
    for name, before, after in _both(old.principals, new.principals):
        if before.role != after.role:
            yield True, f"principal {name} is {after.role} instead of {before.role}"
        if before.public_key != after.public_key:
            yield True, f"principal {name} has {_key(after.public_key)} instead of {_key(before.public_key)}"
