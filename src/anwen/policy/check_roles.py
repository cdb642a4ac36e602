"""The part of `anwen policy check` that weighs roles: what a stolen login of each comes to.

Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator

from anwen.model import INDEX_CLASS, RENDITION, Budget, Counter, Policy, Purpose, Role
from anwen.policy.budgets import BY_SUBJECT
from anwen.policy.effect import ALL_ASKED, effect
from anwen.policy.finding import Finding, error, note, warning

IMPORT_SIZED = 10_000
"""Index evaluations a day: more than people need at a desk, so a stolen key could try whole ranges of values."""
MANY_RECORDS = 100
_UNITS = {
    Counter.OPEN: "people opened",
    Counter.LIST: "people listed, masked",
    Counter.RECORDS: "cells opened, rows written or deleted",
    Counter.SEARCH: "index look-ups, those of writes included",
    Counter.WRITE: "people written",
    Counter.DELETE: "people of whom records are deleted",
}


def role_findings(policy: Policy) -> Iterator[Finding]:
    """Yield what is wrong with roles and what they come to."""
    for role in policy.roles.values():
        path = f"roles.{role.name}"
        purposes = [policy.purposes[name] for name in sorted(role.purposes)]
        holders = sum(p.role == role.name for p in policy.principals.values())
        if not purposes:
            yield warning(f"{path}.purposes", "no purpose: who has this role can do nothing")
        if not holders:
            yield warning(path, "no principal has this role")
        if role.binding == "session":
            yield _session(policy, role, purposes)
        yield from _needed(policy, role, purposes)
        yield from _existence(policy, role, purposes)
        changes = any(p.write or p.delete for p in purposes)
        for counter, budget in role.budgets.items():
            where = f"{path}.budgets.{counter}"
            # rows go to every keeper, as the people whose they are
            asked = Counter.WRITE if counter is Counter.RECORDS and changes else counter
            yield from list(too_small(policy, where, budget)) or [_budget(policy, where, counter, asked, budget)]
            if holders > 1:
                together = f"together {holders * budget.per_day:,} a day"
                yield note(where, f"{holders} principals have this role: {together}")
        yield from _records_of_one(path, role)


def too_small(policy: Policy, path: str, budget: Budget) -> Iterator[Finding]:
    """Yield an error when no keeper's part of a limit allows anything."""
    least, parts = min(budget.per_hour, budget.per_day), policy.answers_to_defeat
    if least < parts:
        why = f"each keeper enforces {least} / {parts} (n - t + 1), rounded down: a limit below {parts} allows nothing"
        yield error(path, why)


def _budget(policy: Policy, path: str, counter: Counter, asked: Counter, budget: Budget) -> Finding:
    n, t = len(policy.keepers), policy.threshold
    hour, day = effect(policy, asked, budget.per_hour), effect(policy, asked, budget.per_day)

    def both(what: str) -> str:
        return f"{getattr(hour, what):,} ({getattr(day, what):,})"

    down = f"{both('zone_down')} with one zone down" if n > t else "nothing with one zone down"
    return note(
        path,
        f"{_UNITS[counter]} an hour (a day): promised {both('promised')}; each keeper lets {both('keeper')} through. "
        f"A thief of the login reaches {both('thief')}, with {t - 1} of {n} keepers on his side "
        f"{both('thief_with_keepers')}. Honest use reaches {both('honest')} with all keepers up, {down}"
        + (" (every keeper is asked)" if asked in ALL_ASKED else ""),
    )


def _session(policy: Policy, role: Role, purposes: list[Purpose]) -> Finding:
    opened = role.budgets.get(Counter.OPEN)
    reach = effect(policy, Counter.OPEN, opened.per_hour).thief_with_keepers if opened else 0
    classes = sorted(
        f"{c.name}.{c.class_name_of(class_id)}"
        for collection_id, class_id in {pair for p in purposes for pair in p.open}
        for c in [policy.collection_by_id[collection_id]]
    )
    return error(
        f"roles.{role.name}.binding",
        '"session" is not offered yet; use "request". What it would mean at worst: one signature covers ten minutes '
        f"of requests, so whoever copies a session opens up to {reach:,} people in {', '.join(classes) or 'no class'} "
        "without the principal's key, and the log shows them as the principal's own",
    )


def _needed(policy: Policy, role: Role, purposes: list[Purpose]) -> Iterator[Finding]:
    """Yield counters without which every request of a purpose is refused."""
    for purpose in purposes:
        full = any(c & RENDITION == 0 or c == INDEX_CLASS for _, c in purpose.open)
        masked = any(c & RENDITION for _, c in purpose.open)
        indexed = any(f.index for c in purpose.write for f in policy.collection_by_id[c].fields)
        wanted = {
            Counter.OPEN: (full, "opens classes"),
            Counter.LIST: (masked, "opens renditions"),
            Counter.RECORDS: (full or masked, "opens"),
            Counter.SEARCH: (bool(purpose.search) or indexed, "searches, or writes indexed fields"),
            Counter.WRITE: (bool(purpose.write), "writes"),
            Counter.DELETE: (bool(purpose.delete), "deletes"),
        }
        for counter, (needs, what) in wanted.items():
            if needs and counter not in role.budgets:
                yield warning(
                    f"roles.{role.name}.budgets",
                    f"purpose {purpose.name} {what}, but no budget {counter} is named, so that is always refused",
                )
    if any(p.write or p.delete for p in purposes) and Counter.RECORDS not in role.budgets:
        yield error(
            f"roles.{role.name}.budgets.records",
            "not named, and every row written or deleted counts: name twice the rows that it writes and deletes",
        )


def _existence(policy: Policy, role: Role, purposes: list[Purpose]) -> Iterator[Finding]:
    """Yield what a key that writes could learn of who is there: by searches, or else by the values of its own puts."""
    search, write = role.budgets.get(Counter.SEARCH), role.budgets.get(Counter.WRITE)
    written = {c for p in purposes for c in p.write}
    if not write or not search or not written:
        return
    if searched := {pair for p in purposes for pair in p.search}:
        yield _import_and_find(policy, role, purposes, searched, search)
        return
    values = max(sum(f.index is not None for f in policy.collection_by_id[c].fields) for c in written)
    rows = role.budgets.get(Counter.RECORDS, Budget(0, 0)).per_hour
    bound = min(effect(policy, Counter.SEARCH, b).thief_with_keepers for b in (search.per_hour, rows * values))
    if bound:
        yield note(
            f"roles.{role.name}",
            "writes and finds nothing, but a put looks up the values that it brings: whoever takes such a key learns "
            f"of up to {bound:,} values an hour whether somebody in the vault has them",
        )


def _import_and_find(
    policy: Policy, role: Role, purposes: list[Purpose], searched: set[tuple[int, int]], search: Budget
) -> Finding:
    path, bound = f"roles.{role.name}", effect(policy, Counter.SEARCH, search.per_day).thief_with_keepers
    fields = [policy.collection_by_id[c].name + "." + _field(policy, c, f) for c, f in sorted(searched)]
    text = (
        f"writes and finds (by {', '.join(fields)}): whoever takes such a key learns of up to {bound:,} values a day "
        "whether somebody in the vault has them"
    )
    opens = any(p.open for p in purposes)
    if search.per_day <= IMPORT_SIZED or (not opens and len(searched) == 1):
        return note(path, text + ("" if opens else "; it opens nobody"))
    return warning(path, text + ", and who they are. Give import and find to roles of their own")


def _field(policy: Policy, collection_id: int, field_id: int) -> str:
    return next(f.name for f in policy.collection_by_id[collection_id].fields if f.id == field_id)


def _records_of_one(path: str, role: Role) -> Iterator[Finding]:
    people = sum(budget.per_day for counter, budget in role.budgets.items() if counter in BY_SUBJECT)
    records = role.budgets.get(Counter.RECORDS)
    if records and people and records.per_day > MANY_RECORDS * people:
        yield warning(
            f"{path}.budgets.records",
            f"{records.per_day:,} cells or rows for {people:,} people a day: one handle with very many hides much",
        )
