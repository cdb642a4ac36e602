"""Builds a `Policy` from plain tables, from `vault.toml` and from JSON alike: one reader, so no two readings.

Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

from anwen.formats.policy_table import (
    ADDRESS,
    BLANK_NUMBER,
    FLAG,
    MIDNIGHT,
    NAMED,
    P256_KEY,
    SCHEME,
    SERVER_ID,
    SERVER_ID_CHARACTERS,
    TEXT,
    Mistake,
    Table,
    choice,
    hexadecimal,
    show,
    texts,
    whole,
)
from anwen.formats.toml_lines import Path
from anwen.model import (
    INDEX_CLASS,
    RENDITION,
    Budget,
    Collection,
    Counter,
    DataClass,
    Field,
    KeeperInfo,
    NodeInfo,
    Officer,
    Policy,
    Principal,
    Purpose,
    Role,
)

KINDS = (
    "text",
    "name",
    "date",
    "datetime",
    "int",
    "decimal",
    "bool",
    "phone",
    "email",
    "address",
    "json",
    "national_id",
)
ENGINES = ("sqlite",)
MAX_KEEPERS = 7
"""Key sets number C(n, t-1): 35 for 4 of 7."""

_VAULT_ID, _DIGEST = hexadecimal(16), hexadecimal(32)
_ONE_OR_MORE = whole(1)


def read_policy(data: Mapping[str, object], *, dates: bool) -> tuple[Policy | None, list[Mistake]]:
    """Return the policy, or None with every mistake in `data`.

    Args:
        dates: `vault.expires` is a date, as in TOML; else `vault.expires_s` is a number, as in JSON.
    """
    mistakes: list[Mistake] = []
    root = Table(data, (), mistakes)
    vault = _vault(root, dates=dates)
    officers = {name: _officer(name, table) for name, table in root.tables("officers")}
    keepers, nodes = _zones(root)
    collections = {name: _collection(name, table) for name, table in root.tables("collections")}
    purposes = {name: _purpose(name, table, collections) for name, table in root.tables("purposes")}
    roles = {name: _role(name, table, purposes) for name, table in root.tables("roles")}
    principals = {name: _principal(name, table, roles) for name, table in root.tables("principals")}
    root.finish()
    policy = Policy(
        **vault,  # type: ignore[arg-type]
        officers=officers,
        keepers=keepers,
        nodes=nodes,
        collections=collections,
        purposes=purposes,
        roles=roles,
        principals=principals,
    )
    _check_whole(policy, mistakes)
    return (None if mistakes else policy), mistakes


def _vault(root: Table, *, dates: bool) -> dict[str, object]:
    table = root.table("vault")
    if table is None:
        root.mistake(("vault",), "expected a table [vault], got none")
        table = Table({}, ("vault",), [])
    version = table.read("version", _ONE_OR_MORE)
    previous = table.optional("previous", _DIGEST)
    if version == 1 and previous is not None:
        table.mistake(("previous",), "expected nothing in version 1, got the hash of a version before")
    if version > 1 and previous is None:
        table.mistake(("previous",), f"expected the hash of version {version - 1}, got nothing")
    values: dict[str, object] = {
        "vault": table.read("id", _VAULT_ID),
        "name": table.read("name", TEXT),
        "version": version,
        "previous": previous or bytes(32),
        "expires_s": table.read("expires", MIDNIGHT) if dates else table.read("expires_s", whole(1)),
        "threshold": table.read("threshold", whole(2, MAX_KEEPERS)),
        "quorum": table.read("quorum", _ONE_OR_MORE),
        "single_machine": table.read_or("single_machine", FLAG, default=False),
        "engine": table.read("engine", choice(*ENGINES)),
    }
    table.finish()
    return values


def _officer(name: str, table: Table) -> Officer:
    officer = Officer(name, table.read("person", TEXT), table.read("key", P256_KEY))
    table.finish()
    return officer


def _zones(root: Table) -> tuple[dict[str, KeeperInfo], dict[str, NodeInfo]]:
    keepers: list[tuple[Path, KeeperInfo]] = []
    nodes: list[tuple[Path, NodeInfo]] = []
    for zone, table in root.tables("zones"):
        keeper, node = table.table("keeper"), table.table("node")
        if keeper is None:
            table.mistake(("keeper",), "expected this zone's keeper, got nothing")
        else:
            keepers.append((keeper.path, _keeper(zone, keeper)))
        if node is not None:
            nodes.append((node.path, _node(zone, node)))
        table.finish()
    _distinct(root.mistakes, "keeper id", ((path, k.id) for path, k in keepers))
    _distinct(root.mistakes, "identity", ((path, k.identity) for path, k in keepers))
    _distinct(root.mistakes, "node id", ((path, n.id) for path, n in nodes))
    in_order = sorted((k for _, k in keepers), key=lambda k: k.id)
    return {k.id: k for k in in_order}, {n.id: n for n in sorted((n for _, n in nodes), key=lambda n: n.id)}


def _server_id(zone: str, table: Table) -> str:
    server = table.optional("id", SERVER_ID)
    if server is None and len(zone) > SERVER_ID_CHARACTERS:
        table.mistake(("id",), f"expected {SERVER_ID.expected}, got the zone's {show(zone)}")
    return zone if server is None else server


def _keeper(zone: str, table: Table) -> KeeperInfo:
    keeper = KeeperInfo(
        _server_id(zone, table),
        zone,
        table.read("address", ADDRESS),
        table.read("peer_address", ADDRESS),
        table.read("tls_pin", _DIGEST),
        table.read("identity", hexadecimal(32)),
    )
    table.finish()
    return keeper


def _node(zone: str, table: Table) -> NodeInfo:
    node = NodeInfo(_server_id(zone, table), zone, table.read("address", ADDRESS), table.read("tls_pin", _DIGEST))
    table.finish()
    return node


def _distinct(mistakes: list[Mistake], what: str, values: Iterable[tuple[Path, Hashable]]) -> None:
    seen: dict[Hashable, Path] = {}
    for path, value in values:
        if value in (BLANK_NUMBER, "", b""):
            continue  # stands for a mistake that is noted already
        if value in seen:
            shown = value.hex()[:16] + "..." if isinstance(value, bytes) else show(value)
            owner = ".".join(map(str, seen[value]))
            mistakes.append(Mistake(path, f"expected its own {what}, got {shown} of {owner}"))
        seen.setdefault(value, path)


def _collection(name: str, table: Table) -> Collection:
    if name == "own":
        table.mistake((), 'expected another name, got "own", which as a subject means every record is a person')
    class_tables = list(table.tables("classes"))
    classes = [DataClass(sub.read("id", whole(1, INDEX_CLASS - 1)), n) for n, sub in class_tables]
    for _, sub in class_tables:
        sub.finish()
    field_tables = list(table.tables("fields"))
    names = {c.name for c in classes}
    fields = [_field(n, sub, names) for n, sub in field_tables]
    _distinct(table.mistakes, "id", ((sub.path, c.id) for (_, sub), c in zip(class_tables, classes, strict=True)))
    _distinct(table.mistakes, "id", ((sub.path, f.id) for (_, sub), f in zip(field_tables, fields, strict=True)))
    collection = Collection(
        table.read("id", whole(1, 0xFFFF)),
        name,
        table.read("subject", TEXT),
        tuple(sorted(classes, key=lambda c: c.id)),
        tuple(sorted(fields, key=lambda f: f.id)),
        table.read("retention_days", whole(1, 36_525)),
        table.read_or("dates", choice("day", "second"), "day"),
        _budgets(table, "limits"),
    )
    table.finish()
    return collection


def _field(name: str, table: Table, classes: set[str]) -> Field:
    kind = table.read("type", choice(*KINDS))
    class_name = table.read("class", NAMED)
    if class_name and class_name not in classes:
        table.mistake(("class",), f"expected a class of this collection, got {show(class_name)}")
    field = Field(
        table.read("id", whole(1, 0xFFFF)),
        name,
        kind,
        class_name,
        table.optional("index", choice("unique", "exact")),
        table.optional("mask", choice("last4")),
        table.read_or("required", FLAG, default=False),
        table.optional("scheme", SCHEME),
        table.optional("region", TEXT),
        table.optional("values", texts(TEXT)),
    )
    if (field.scheme is not None) != (kind == "national_id"):
        table.mistake(("scheme",), f'expected with type "national_id" alone, as in "cn.ric"; type is "{kind}"')
    if field.region is not None and (kind != "phone" or not (len(field.region) == 2 and field.region.isupper())):
        table.mistake(("region",), 'expected two capital letters, with type "phone" alone')
    if field.values is not None and kind != "text":
        table.mistake(("values",), f'expected with type "text" alone; type is "{kind}"')
    table.finish()
    return field


def _budgets(table: Table, key: str) -> dict[Counter, Budget]:
    budgets: dict[Counter, Budget] = {}
    for name, sub in table.tables(key, at_least=0):
        budget = Budget(sub.read("per_hour", _ONE_OR_MORE), sub.read("per_day", _ONE_OR_MORE))
        sub.finish()
        if name in {c.value for c in Counter}:
            budgets[Counter(name)] = budget
        else:
            sub.mistake((), f"expected one of {', '.join(Counter)}, got {show(name)}")
    return budgets


Cover = Callable[[Collection, str], int | None]


def _class_id(collection: Collection, name: str) -> int | None:
    base, _, tail = name.partition(".")
    if name == "_index":
        return INDEX_CLASS
    if base not in collection.class_named or tail not in ("", "masked"):
        return None
    return collection.class_named[base].id | (RENDITION if tail else 0)


def _indexed_field_id(collection: Collection, name: str) -> int | None:
    field = collection.field_named.get(name)
    return field.id if field is not None and field.index is not None else None


def _pairs(table: Table, key: str, collections: Mapping[str, Collection], find: Cover) -> frozenset[tuple[int, int]]:
    what = "an indexed field" if find is _indexed_field_id else "a class, a rendition (class.masked) or _index"
    pairs: set[tuple[int, int]] = set()
    for index, text in table.references(key):
        name, _, part = text.partition(".")
        found = find(collections[name], part) if name in collections else None
        if found is None:
            table.mistake((key, index), f"expected {what} as collection.name, got {show(text)}")
        else:
            pairs.add((collections[name].id, found))
    return frozenset(pairs)


def _collection_ids(table: Table, key: str, collections: Mapping[str, Collection]) -> frozenset[int]:
    ids: set[int] = set()
    for index, name in table.references(key):
        if name in collections:
            ids.add(collections[name].id)
        else:
            table.mistake((key, index), f"expected a collection, got {show(name)}")
    return frozenset(ids)


def _purpose(name: str, table: Table, collections: Mapping[str, Collection]) -> Purpose:
    purpose = Purpose(
        name,
        table.optional("legal_basis", TEXT) or "",
        _pairs(table, "open", collections, _class_id),
        _pairs(table, "search", collections, _indexed_field_id),
        _collection_ids(table, "write", collections),
        _collection_ids(table, "delete", collections),
        table.read_or("audit", FLAG, default=False),
    )
    table.finish()
    return purpose


def _role(name: str, table: Table, purposes: Mapping[str, Purpose]) -> Role:
    named: set[str] = set()
    for index, purpose in table.references("purposes"):
        if purpose in purposes:
            named.add(purpose)
        else:
            table.mistake(("purposes", index), f"expected a purpose, got {show(purpose)}")
    binding = table.read_or("binding", choice("request", "session"), "request")
    role = Role(name, frozenset(named), _budgets(table, "budgets"), binding)
    table.finish()
    return role


def _principal(name: str, table: Table, roles: Mapping[str, Role]) -> Principal:
    role = table.read("role", NAMED)
    if role and role not in roles:
        table.mistake(("role",), f"expected a role, got {show(role)}")
    principal = Principal(name, role, table.read("key", P256_KEY))
    table.finish()
    return principal


def _check_whole(policy: Policy, mistakes: list[Mistake]) -> None:
    """Note what only the whole shows."""
    for name, collection in policy.collections.items():
        subject = collection.subject
        if subject not in ("", "own") and (
            subject not in policy.collections or policy.collections[subject].subject != "own"
        ):
            text = f'expected "own" or a collection whose subject is "own", got {show(subject)}'
            mistakes.append(Mistake(("collections", name, "subject"), text))
    _distinct(mistakes, "id", ((("collections", n), c.id) for n, c in policy.collections.items()))
    _distinct(mistakes, "key", ((("officers", n), o.public_key) for n, o in policy.officers.items()))
    _distinct(mistakes, "key", ((("principals", n), p.public_key) for n, p in policy.principals.items()))
    keepers, persons = len(policy.keepers), len({o.person_key for o in policy.officers.values()})
    if policy.keepers and not policy.threshold <= keepers <= MAX_KEEPERS:
        text = f"expected at most as many as keepers, which are {keepers} (of at most {MAX_KEEPERS})"
        mistakes.append(Mistake(("vault", "threshold"), f"{text}, got {policy.threshold}"))
    if persons and policy.quorum > persons:
        # a quorum that cannot come together would freeze the policy for good
        text = f"expected at most as many as different persons among officers, which are {persons}"
        mistakes.append(Mistake(("vault", "quorum"), f"{text}, got {policy.quorum}"))
