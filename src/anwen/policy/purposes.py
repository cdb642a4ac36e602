"""What a purpose covers: every check a keeper or node makes before it charges a budget.

Pure: no I/O. Callers bring distinct pairs (`numpy.unique` over a batch), so a check costs about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from anwen.errors import GrantError
from anwen.model import Policy, Purpose

REFUSAL = "the grant does not cover this request"
"""One wording for every cause; the cause is a note on the error (`__notes__`), for the log alone."""

Pairs = Iterable[tuple[int, int]]


def _refused(cause: str) -> GrantError:
    error = GrantError(REFUSAL)
    error.add_note(cause)
    return error


def purpose_of(policy: Policy, principal_id: str, purpose_name: str) -> Purpose:
    """Return the purpose, which the principal's role must have. Raises GrantError."""
    principal = policy.principals.get(principal_id)
    if principal is None:
        raise _refused("unknown principal")
    purpose = policy.purposes.get(purpose_name)
    if purpose is None or purpose_name not in policy.roles[principal.role].purposes:
        raise _refused("not a purpose of the principal's role")
    return purpose


def _covered(kind: str, asked: Iterable[Any], allows: Callable[[Any], bool]) -> None:
    for item in asked:
        plain = int(item) if kind == "collection" else (int(item[0]), int(item[1]))  # they may be numpy's
        if not allows(plain):
            raise _refused(f"{kind} {plain} is not covered by the purpose")


def check_open(policy: Policy, principal_id: str, purpose_name: str, cells: Pairs) -> None:
    """Raise GrantError unless every (collection id, class id) may be opened; renditions under their own ids."""
    _covered("class", cells, purpose_of(policy, principal_id, purpose_name).open.__contains__)


def check_write(
    policy: Policy, principal_id: str, purpose_name: str, collections: Iterable[int], fields: Pairs = ()
) -> None:
    """Raise GrantError unless every collection may be written and every token's field is an indexed one of them."""
    purpose = purpose_of(policy, principal_id, purpose_name)
    _covered("collection", collections, purpose.write.__contains__)
    _covered("field", fields, lambda pair: _is_written(policy, purpose, *pair))


def check_search(policy: Policy, principal_id: str, purpose_name: str, fields: Pairs) -> None:
    """Raise GrantError unless every (collection id, field id) may be searched."""
    _covered("field", fields, purpose_of(policy, principal_id, purpose_name).search.__contains__)


def check_delete(policy: Policy, principal_id: str, purpose_name: str, collections: Iterable[int]) -> None:
    """Raise GrantError unless records of every collection may be deleted."""
    _covered("collection", collections, purpose_of(policy, principal_id, purpose_name).delete.__contains__)


def check_audit(policy: Policy, principal_id: str, purpose_name: str) -> None:
    """Raise GrantError unless the purpose may ask who has seen whom, and read the log."""
    if not purpose_of(policy, principal_id, purpose_name).audit:
        raise _refused("the purpose may not audit")


def check_prehash(policy: Policy, principal_id: str, purpose_name: str, fields: Pairs) -> None:
    """Raise GrantError unless each field is searched by the purpose, or an indexed one of a collection it writes."""
    purpose = purpose_of(policy, principal_id, purpose_name)
    _covered("field", fields, lambda pair: pair in purpose.search or _is_written(policy, purpose, *pair))


def check_verify(policy: Policy, principal_id: str, purpose_name: str, collections: Iterable[int]) -> None:
    """Raise GrantError unless the purpose writes every collection: who wrote rows may ask whether keepers agree."""
    check_write(policy, principal_id, purpose_name, collections)


def _is_written(policy: Policy, purpose: Purpose, collection_id: int, field_id: int) -> bool:
    """Return whether this is an indexed field of a collection that the purpose writes."""
    collection = policy.collection_by_id.get(collection_id) if collection_id in purpose.write else None
    return collection is not None and any(f.id == field_id and f.index is not None for f in collection.fields)
