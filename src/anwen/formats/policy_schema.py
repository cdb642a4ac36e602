"""Everything a policy may say, stated once: `vault.toml` and JSON are read, and JSON is written, by this schema.

Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from anwen import model
from anwen.formats import policy_table as form
from anwen.formats.policy_table import Key, Mistake, References, Schema, Single, Table, Tables, show
from anwen.formats.toml_lines import Path, dotted
from anwen.model import INDEX_CLASS, RENDITION, Collection, Counter, Policy, Purpose

KINDS = (
    *("text", "name", "date", "datetime", "int", "decimal"),
    *("bool", "phone", "email", "address", "json", "national_id"),
)
ENGINES = {
    "sqlite": "sqlite, one file: no zone promise; when its machine is lost, writes since the last backup are",
    "cassandra": "cassandra, three replicas, one in each zone, writes and reads by quorum: any one zone may be lost",
    "postgresql": "postgresql: as available as its own servers; a switch-over stops writes for as long as it takes, "
    "and loses what was acknowledged last unless commits wait for a standby (synchronous_standby_names)",
}
"""What a store may be, and what that promises: every report names it beside the engine."""
MAX_KEEPERS = 7
"""Key sets number C(n, t-1): 35 for 4 of 7."""
SERVER_ID_CHARACTERS = 16
"""The header of a keeper's answer has room for so many (docs/spec/answer.md)."""

_ONE_OR_MORE, _ID, _DIGEST = form.whole(1), form.whole(1, 0xFFFF), form.hexadecimal(32)
_SERVER_ID = form.matching(
    f"a name of a-z, 0-9 and _, a letter first, at most {SERVER_ID_CHARACTERS} characters (the zone's if left out)",
    f"[a-z][a-z0-9_]{{0,{SERVER_ID_CHARACTERS - 1}}}",
)
_SCHEME = form.matching('a module of python-stdnum, such as "cn.ric"', r"[a-z][a-z_]{0,15}(\.[a-z][a-z0-9_]{0,31})?")
_COUNTER = form.Kind(f"one of {', '.join(Counter)}", lambda name: name in list(Counter))


def _budgets(attribute: str) -> Tables:
    def gather(found: dict[str, model.Budget]) -> dict[Counter, model.Budget]:
        return {Counter(name): budget for name, budget in found.items() if _COUNTER.fits(name)}

    limits = {"per_hour": Key(_ONE_OR_MORE), "per_day": Key(_ONE_OR_MORE)}
    return Tables(limits, model.Budget, None, _COUNTER, required=False, gather=gather, attribute=attribute)


def _by_id(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(found.values(), key=lambda part: part.id))


VAULT: Schema = {
    "id": Key(form.hexadecimal(16), "vault"),
    "name": Key(form.TEXT),
    "version": Key(_ONE_OR_MORE),
    "previous": Key(_DIGEST, default=None),
    "expires_s": Key(_ONE_OR_MORE),
    "threshold": Key(form.whole(2, MAX_KEEPERS)),
    "quorum": Key(_ONE_OR_MORE),
    "single_machine": Key(form.FLAG, default=False),
    "engine": Key(form.choice(*ENGINES)),
}
NODE: Schema = {"id": Key(_SERVER_ID, default=None), "address": Key(form.ADDRESS), "tls_pin": Key(_DIGEST)}
KEEPER: Schema = {**NODE, "peer_address": Key(form.ADDRESS), "identity": Key(_DIGEST)}
FIELD: Schema = {
    "id": Key(_ID),
    "type": Key(form.choice(*KINDS), "kind"),
    "class": Key(form.NAMED, "class_name"),
    "index": Key(form.choice("unique", "exact"), default=None),
    "mask": Key(form.choice("last4"), default=None),
    "required": Key(form.FLAG, default=False),
    "scheme": Key(_SCHEME, default=None),
    "region": Key(form.matching("two capital letters", "[A-Z]{2}"), default=None),
    "values": Key(form.TEXTS, default=None),
}
COLLECTION: Schema = {
    "id": Key(_ID),
    "subject": Key(form.TEXT),
    "retention_days": Key(form.whole(1, 36_525)),
    "dates": Key(form.choice("day", "second"), default="day"),
    "limits": _budgets("limits"),
    "classes": Tables({"id": Key(form.whole(1, INDEX_CLASS - 1))}, model.DataClass, gather=_by_id),
    "fields": Tables(FIELD, model.Field, gather=_by_id),
}
PURPOSE: Schema = {
    "legal_basis": Key(form.OPTIONAL_TEXT, default=""),
    "open": References(),
    "search": References(),
    "write": References(),
    "delete": References(),
    "audit": Key(form.FLAG, default=False),
}
ROLE: Schema = {
    "purposes": References(),
    "binding": Key(form.choice("request", "session"), default="request"),
    "budgets": _budgets("budgets"),
}
_ZONE: Schema = {"keeper": Single(KEEPER), "node": Single(NODE, required=False)}
_PARTS: Schema = {
    "officers": Tables({"person": Key(form.TEXT), "key": Key(form.P256_KEY, "public_key")}, model.Officer, "id"),
    "collections": Tables(COLLECTION, Collection),
    "purposes": Tables(PURPOSE, Purpose),
    "roles": Tables(ROLE, model.Role),
    "principals": Tables({"role": Key(form.NAMED), "key": Key(form.P256_KEY, "public_key")}, model.Principal, "id"),
}
_JSON: Schema = {"vault": Single(VAULT), "zones": Tables(_ZONE, dict, None), **_PARTS}
_DATED = {key: part for key, part in VAULT.items() if key != "expires_s"}
_TOML: Schema = {**_JSON, "vault": Single({**_DATED, "expires": Key(form.MIDNIGHT, "expires_s")})}


def read_policy(data: Mapping[str, object], *, dates: bool) -> tuple[Policy | None, list[Mistake]]:
    """Return the policy, or None with every mistake in `data`.

    Args:
        dates: `vault.expires` is a date, as in TOML; else `vault.expires_s` is a number, as in JSON.
    """
    mistakes: list[Mistake] = []
    root = Table(data, (), mistakes)
    parts = root.read(_TOML if dates else _JSON)
    vault, zones = parts.pop("vault"), parts.pop("zones")
    servers = [list(_servers(zones, part, make, mistakes)) for part, make in _SERVERS.items()]
    keepers, nodes = ({server.id: server for server in some} for some in servers)
    policy = Policy(**vault, keepers=keepers, nodes=nodes, **parts)
    mistakes += [*_vault_mistakes(policy), *_collection_mistakes(policy), *_unknown_names(policy)]
    mistakes += _doubles(policy, *servers)
    if mistakes:
        return None, mistakes
    roles = {name: replace(role, purposes=frozenset(role.purposes)) for name, role in policy.roles.items()}
    policy = replace(policy, previous=policy.previous or bytes(32), roles=roles)
    return _translated(policy, _nameable(policy)), []


_SERVERS = {"keeper": model.KeeperInfo, "node": model.NodeInfo}


def _servers(zones: Mapping[str, Any], part: str, make: Any, mistakes: list[Mistake]) -> Iterable[Any]:
    """Return the keepers, or nodes, of all zones, ascending by id."""
    found = []
    for zone, parts in zones.items():
        values = parts[part]
        if values is not None:
            if values["id"] is None and len(zone) > SERVER_ID_CHARACTERS:
                text = f"expected {_SERVER_ID.expected}, got the zone's {show(zone)}"
                mistakes.append(Mistake(("zones", zone, part, "id"), text))
            found.append(make(**{**values, "id": values["id"] or zone}, zone=zone))
    return sorted(found, key=lambda server: server.id)


def _vault_mistakes(policy: Policy) -> Iterator[Mistake]:
    before, keepers = policy.version - 1, len(policy.keepers)
    if policy.previous is not None and before == 0:
        yield Mistake(("vault", "previous"), "expected nothing in version 1, got the hash of a version before")
    if policy.previous is None and before > 0:
        yield Mistake(("vault", "previous"), f"expected the hash of version {before}, got nothing")
    if policy.keepers and not policy.threshold <= keepers <= MAX_KEEPERS:
        text = f"expected at most as many as keepers, which are {keepers} (of at most {MAX_KEEPERS})"
        yield Mistake(("vault", "threshold"), f"{text}, got {policy.threshold}")
    persons = len({officer.person_key for officer in policy.officers.values()})
    if persons and policy.quorum > persons:  # a quorum that cannot come together would freeze the policy for good
        text = f"expected at most as many as different persons among officers, which are {persons}"
        yield Mistake(("vault", "quorum"), f"{text}, got {policy.quorum}")


def _collection_mistakes(policy: Policy) -> Iterator[Mistake]:
    for name, collection in policy.collections.items():
        path, subject = ("collections", name), policy.collections.get(collection.subject)
        if name == "own":
            text = 'expected another name, got "own", which as a subject means every record is a person'
            yield Mistake(path, text)
        if collection.subject not in ("", "own") and (subject is None or subject.subject != "own"):
            text = f'expected "own" or a collection whose subject is "own", got {show(collection.subject)}'
            yield Mistake((*path, "subject"), text)
        for field in collection.fields:
            yield from _field_mistakes((*path, "fields", field.name), collection, field)


def _field_mistakes(path: Path, collection: Collection, field: model.Field) -> Iterator[Mistake]:
    if field.class_name and field.class_name not in collection.class_named:
        text = f"expected a class of this collection, got {show(field.class_name)}"
        yield Mistake((*path, "class"), text)
    for option, kind in (("scheme", "national_id"), ("region", "phone"), ("values", "text")):
        if getattr(field, option) is not None and field.kind not in ("", kind):
            yield Mistake((*path, option), f'expected with type "{kind}" alone; type is "{field.kind}"')
    if field.kind == "national_id" and field.scheme is None:
        yield Mistake((*path, "scheme"), 'expected one such as "cn.ric" with type "national_id", got nothing')


_EXPECTED = {
    "open": "a class, a rendition (class.masked) or _index as collection.name",
    "search": "an indexed field as collection.name",
    "write": "a collection",
    "delete": "a collection",
}


def _nameable(policy: Policy, *, indexed: bool = False) -> dict[str, dict[str, Any]]:
    """Return by verb what a purpose may name, and its number."""
    collections = policy.collections.values()
    fields = {
        f"{c.name}.{f.name}": (c.id, f.id) for c in collections for f in c.fields if f.index is not None or not indexed
    }
    classes = {f"{c.name}.{part.name}": (c.id, part.id) for c in collections for part in c.classes}
    classes |= {f"{name}.masked": (collection, number | RENDITION) for name, (collection, number) in classes.items()}
    classes |= {f"{c.name}._index": (c.id, INDEX_CLASS) for c in collections}
    numbers = {c.name: c.id for c in collections}
    return {"open": classes, "search": fields, "write": numbers, "delete": numbers}


def _translated(policy: Policy, known: Mapping[str, Mapping[Any, Any]]) -> Policy:
    """Return the policy with the values of `known` for its keys, by verb, in what purposes cover."""
    purposes = {}
    for name, p in policy.purposes.items():
        covers: dict[str, Any] = {verb: frozenset(map(to.__getitem__, getattr(p, verb))) for verb, to in known.items()}
        purposes[name] = replace(p, **covers)
    return replace(policy, purposes=purposes)


def _unknown_names(policy: Policy) -> Iterator[Mistake]:
    """Yield what roles, purposes and principals name and nothing is called."""
    known = _nameable(policy, indexed=True)
    lists: list[tuple[Path, Any, str, Any]] = [
        (("purposes", p.name, verb), getattr(p, verb), expected, known[verb])
        for p in policy.purposes.values()
        for verb, expected in _EXPECTED.items()
    ]
    for role in policy.roles.values():
        lists.append((("roles", role.name, "purposes"), role.purposes, "a purpose", policy.purposes))
    for path, named, expected, meant in lists:
        for name, place in named.items():
            if name not in meant:
                yield Mistake((*path, place), f"expected {expected}, got {show(name)}")
    for principal in policy.principals.values():
        if principal.role and principal.role not in policy.roles:
            yield Mistake(("principals", principal.id, "role"), f"expected a role, got {show(principal.role)}")


def _doubles(policy: Policy, keepers: Iterable[Any], nodes: Iterable[Any]) -> Iterator[Mistake]:
    """Yield every number, id and key that two parts share."""
    groups: list[tuple[str, str, Iterable[tuple[Path, Any]]]] = [
        ("keeper id", "id", [(("zones", k.zone, "keeper"), k) for k in keepers]),
        ("identity", "identity", [(("zones", k.zone, "keeper"), k) for k in keepers]),
        ("node id", "id", [(("zones", n.zone, "node"), n) for n in nodes]),
        ("id", "id", [(("collections", name), c) for name, c in policy.collections.items()]),
        ("key", "public_key", [(("officers", name), o) for name, o in policy.officers.items()]),
        ("key", "public_key", [(("principals", name), p) for name, p in policy.principals.items()]),
    ]
    for name, c in policy.collections.items():
        groups.append(("id", "id", [(("collections", name, "classes", part.name), part) for part in c.classes]))
        groups.append(("id", "id", [(("collections", name, "fields", part.name), part) for part in c.fields]))
    for what, attribute, parts in groups:
        seen: dict[Hashable, Path] = {}
        for path, part in parts:
            value = getattr(part, attribute)
            if value in seen and value not in form.BLANKS:
                shown = value.hex()[:16] + "..." if isinstance(value, bytes) else show(value)
                yield Mistake(path, f"expected its own {what}, got {shown} of {dotted(seen[value])}")
            seen.setdefault(value, path)


def write_policy(policy: Policy) -> dict[str, object]:
    """Return the policy as JSON values; every default is written out, absent options are left out."""
    known = {verb: {number: name for name, number in names.items()} for verb, names in _nameable(policy).items()}
    vault = form.write(VAULT, policy)
    if policy.version == 1:
        del vault["previous"]
    zones: dict[str, dict[str, object]] = {}
    for part, schema, servers in (("keeper", KEEPER, policy.keepers), ("node", NODE, policy.nodes)):
        for server in servers.values():
            zones.setdefault(server.zone, {})[part] = form.write(schema, server)
    return {"vault": vault, "zones": zones, **form.write(_PARTS, _translated(policy, known))}
