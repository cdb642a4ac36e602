"""Who plays which part in a rehearsal: taken from the policy, so that any vault can be rehearsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anwen.client.records import Record
from anwen.client.vault import AsyncVault
from anwen.errors import PolicyError
from anwen.model import RENDITION, Budget, Counter, Policy


@dataclass(frozen=True, slots=True)
class Reader:
    """A principal that opens a class of people under a budget, for a purpose that also searches them."""

    principal: str
    purpose: str
    collection: str
    class_name: str

    async def some(self, vault: AsyncVault, most: int, classes: Sequence[str] = ()) -> list[Record]:
        """Return sealed records, which nobody counts: without the keepers they are noise.

        Args:
            classes: instead of the one that is opened.
        """
        found: list[Record] = []
        async for record in vault.scan(self.collection, classes or [self.class_name]):
            found.append(record)
            if len(found) == most:
                break
        return found


def budget_of(policy: Policy, principal: str, counter: Counter) -> Budget:
    """Return what a principal's role may spend. Raises KeyError: nothing of this."""
    return policy.roles[policy.principals[principal].role].budgets[counter]


@dataclass(frozen=True, slots=True)
class Cast:
    """The reader whose key is stolen; who writes, reads logs, deletes, guesses: principal and purpose.

    `prober`: of those who write people with indexed values, whoever has the smallest budget of searches.
    """

    reader: Reader
    writer: tuple[str, str]
    auditor: tuple[str, str]
    deleter: tuple[str, str] | None = None
    prober: tuple[str, str] | None = None


def cast(policy: Policy) -> Cast:
    """Return who plays which part. Raises PolicyError: nobody can."""
    people = {c.id: c for c in policy.collections.values() if c.subject == "own"}
    readers, writers, auditors, deleters, probers = [], [], [], [], []
    for principal in policy.principals.values():
        role = policy.roles[principal.role]
        for purpose in (policy.purposes[name] for name in sorted(role.purposes)):
            who = principal.id, purpose.name
            auditors += [who] if purpose.audit else []
            writers += [who] if purpose.write & people.keys() and Counter.WRITE in role.budgets else []
            deleters += [who] if purpose.delete & people.keys() and Counter.DELETE in role.budgets else []
            searches = role.budgets.get(Counter.SEARCH)
            probers += [(searches.per_hour, who)] if searches and who in writers else []
            budget = role.budgets.get(Counter.OPEN)
            searched = {collection for collection, _ in purpose.search}
            for collection, class_id in purpose.open:
                if budget and collection in people and collection in searched and not class_id & RENDITION:
                    name = people[collection].class_name_of(class_id)
                    readers.append((budget.per_hour, *who, people[collection].name, str(name)))
    if not readers or not writers or not auditors:
        raise PolicyError("policy: expected somebody who searches and opens people, somebody who writes, an auditor")
    most = max(readers)  # whoever may open most is whose key is worth most
    writer = max(writers, key=lambda w: budget_of(policy, w[0], Counter.WRITE).per_hour)
    return Cast(Reader(*most[1:]), writer, auditors[0], next(iter(deleters), None), min(probers, default=(0, None))[1])
