"""`anwen policy check`: every mistake and every consequence of a policy, in words.

What no reader could take as a policy at all (unknown names, wrong types) is refused by `formats.policy_file`;
here stands what is a policy but a bad one ("error"), what officers should mean when they write it ("warning"),
and what it comes to ("note").

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from anwen.model import INDEX_CLASS, RENDITION, Collection, Policy
from anwen.policy.check_roles import role_findings, too_small
from anwen.policy.entropy import index_leak, mask_problem
from anwen.policy.finding import Finding, error, note, warning

__all__ = ["Finding", "explain"]

DAY_S = 86_400
MAX_DAYS = 90
"""How far ahead a policy should expire: a frozen client trusts a removed keeper no longer."""
LONG_RETENTION_DAYS = 3_653
_LEVELS = {"error": 0, "warning": 1, "note": 2}


def explain(policy: Policy, now_s: int | None = None) -> list[Finding]:
    """Return all findings, errors first. `now_s` is needed to judge when the policy expires."""
    found = [
        *_vault(policy, now_s),
        *_officers(policy),
        *_zones(policy),
        *(f for c in policy.collections.values() for f in _collection(policy, c)),
        *_purposes(policy),
        *role_findings(policy),
    ]
    return sorted(found, key=lambda f: _LEVELS[f.level])


def _vault(policy: Policy, now_s: int | None) -> Iterator[Finding]:
    n, t = len(policy.keepers), policy.threshold
    yield note(
        "vault.threshold",
        f"{t} of {n} keepers must answer: {n - t} may be down; {t - 1} stolen within one epoch open nothing, "
        f"{t} stolen within one epoch, together with the store, open everything",
    )
    if n == t:
        yield warning("vault.threshold", f"all {n} keepers must answer: any one that is down stops everything")
    if policy.single_machine:
        yield warning(
            "vault.single_machine",
            "all keepers run on one machine: whoever takes that machine takes the vault, and when it stops, all "
            "stops. The zone promises hold only on machines of their own; this is for trying out and development",
        )
    if now_s is not None and policy.expires_s <= now_s:
        yield error("vault.expires", "lies in the past: keepers and clients refuse this policy")
    elif now_s is not None and policy.expires_s > now_s + MAX_DAYS * DAY_S:
        days = (policy.expires_s - now_s) // DAY_S
        yield warning(
            "vault.expires",
            f"{days} days ahead: a client that is cut off from news trusts keepers and principals that long after "
            f"officers removed them. At most {MAX_DAYS} days are usual",
        )


def _officers(policy: Policy) -> Iterator[Finding]:
    keys = Tally(officer.person_key for officer in policy.officers.values())
    for officer in policy.officers.values():
        if keys[officer.person_key] > 1:
            count = f"{keys[officer.person_key]} keys; in the quorum they count once"
            yield warning(f"officers.{officer.id}.person", f"this person has {count}")
        if any(p.public_key == officer.public_key for p in policy.principals.values()):
            yield error(f"officers.{officer.id}.key", "is also a principal's key: who asks must not decide who may")
    persons, path = len(keys), "vault.quorum"
    if policy.quorum < 2 and persons > 1:
        why = f"one of {persons} persons alone can change who may see what, and give a keeper away. At least 2"
        yield error(path, why)
    elif policy.quorum < 2:
        why = "who takes that person's key decides who may see what. Name a second officer"
        yield warning(path, f"a vault of one person: {why}")
    elif policy.quorum == persons:
        why = "one lost key freezes this policy for good. Name one officer more"
        yield warning(path, f"all {persons} persons must sign: {why}")


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _zones(policy: Policy) -> Iterator[Finding]:
    zones, pins = Tally(k.zone for k in policy.keepers.values()), Tally[bytes]()
    hosts = Tally(_host(k.address) for k in policy.keepers.values())
    for keeper in policy.keepers.values():
        path, host = f"zones.{keeper.zone}.keeper", _host(keeper.address)
        pins[keeper.tls_pin] += 1
        if zones[keeper.zone] > 1:
            yield error(path, f"{zones[keeper.zone]} keepers in one zone fall together: one for each zone")
        if policy.single_machine:
            continue
        if hosts[host] > 1:
            yield error(
                f"{path}.address",
                f"{hosts[host]} keepers at {host}: who takes that machine has {hosts[host]} of the {policy.threshold} "
                "keepers needed. Put each on a machine of its own, or set single_machine = true to try out",
            )
        elif host in ("localhost", "[::1]") or host.startswith("127."):
            yield error(f"{path}.address", "a loopback address reaches no other machine; set single_machine = true")
    pins.update(node.tls_pin for node in policy.nodes.values())
    if any(count > 1 for count in pins.values()):
        yield error("zones", "two servers with one TLS key: one of them can pass as the other. A key for each")
    if not policy.nodes:
        yield error("zones", "no zone has a node: nothing can be stored")
    elif len(policy.nodes) == 1 and not policy.single_machine:
        yield warning("zones", "one node alone: when its zone fails, nothing can be read or written")


def _collection(policy: Policy, collection: Collection) -> Iterator[Finding]:
    path = f"collections.{collection.name}"
    if collection.retention_days > LONG_RETENTION_DAYS:
        years = collection.retention_days // 365
        yield note(f"{path}.retention_days", f"kept for {years} years: be ready to say why (GDPR art. 5(1)(e))")
    days, subject = collection.retention_days, policy.collections.get(collection.subject)
    if subject is not None and days > subject.retention_days:
        ends = f"{subject.name} ends after {subject.retention_days} days, this after {days}"
        yield warning(f"{path}.retention_days", f"outlasts the person it is about: {ends}")
    if collection.dates == "second":
        yield note(f"{path}.dates", "the store and keepers see to the second when each record was collected")
    for counter, budget in collection.limits.items():
        yield from too_small(policy, f"{path}.limits.{counter}", budget)
    for data_class in collection.classes:
        if not collection.fields_of(data_class.name):
            yield warning(f"{path}.classes.{data_class.name}", "has no field")
    if collection.subject == "own" and not any(f.index == "unique" for f in collection.fields):
        yield warning(path, "no field is unique: a person imported twice is two people, and nothing can refer to one")
    yield from _fields(collection)


def _fields(collection: Collection) -> Iterator[Finding]:
    for field in collection.fields:
        path = f"collections.{collection.name}.fields.{field.name}"
        for option, problem in (("index", index_leak(field)), ("mask", mask_problem(field))):
            if problem is not None:
                yield error(f"{path}.{option}", problem)
        if field.mask is not None and field.kind in ("name", "email"):
            yield note(f"{path}.mask", f"the last four characters of a {field.kind} say little to who sees the list")


def _purposes(policy: Policy) -> Iterator[Finding]:
    used = {name for role in policy.roles.values() for name in role.purposes}
    for purpose in policy.purposes.values():
        path = f"purposes.{purpose.name}"
        if not purpose.legal_basis:
            yield error(f"{path}.legal_basis", "missing: data about people needs a reason in law")
        if purpose.name not in used:
            yield warning(path, "no role has this purpose")
        if not (purpose.open or purpose.search or purpose.write or purpose.delete or purpose.audit):
            yield warning(path, "allows nothing")
        for collection_id, class_id in sorted(purpose.open):
            yield from _opened(policy, path, collection_id, class_id)
    if not any(p.audit for p in policy.purposes.values() if p.name in used):
        yield warning("purposes", "no role may audit: nobody can answer who has seen a person (GDPR art. 15)")


def _opened(policy: Policy, path: str, collection_id: int, class_id: int) -> Iterator[Finding]:
    collection = policy.collection_by_id[collection_id]
    name = f"{collection.name}.{collection.class_name_of(class_id)}"
    if class_id == INDEX_CLASS:
        yield warning(f"{path}.open", f"{name} holds the search tokens of records: for the re-index job alone")
    elif class_id & RENDITION:
        base = (collection.class_name_of(class_id & ~RENDITION)) or ""
        if not any(f.mask for f in collection.fields_of(base)):
            yield warning(f"{path}.open", f"{name} is empty: no field of that class has a mask")
