"""What a purpose covers: every check a keeper or node makes before it charges a budget.

Pure: no I/O. Callers bring distinct pairs (`numpy.unique` over a batch), so a check costs about a microsecond.
"""

from __future__ import annotations

from collections.abc import Iterable

from anwen.errors import GrantError
from anwen.model import Policy, Purpose

REFUSAL = "the grant does not cover this request"
"""One wording for every cause; the cause is a note on the error (`__notes__`), for the log alone."""


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
        raise _refused(f"{principal_id}: not a purpose of role {principal.role}")
    return purpose


def _covered(kind: str, asked: Iterable[object], allowed: frozenset[tuple[int, int]] | frozenset[int]) -> None:
    for item in asked:
        if item not in allowed:
            raise _refused(f"{kind} {item} is not covered by the purpose")


def _pairs(pairs: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    return ((int(first), int(second)) for first, second in pairs)


def check_open(policy: Policy, principal_id: str, purpose_name: str, cells: Iterable[tuple[int, int]]) -> None:
    """Raise GrantError unless every (collection id, class id) may be opened; renditions under their own ids."""
    purpose = purpose_of(policy, principal_id, purpose_name)
    _covered("class", _pairs(cells), purpose.open)


def check_write(
    policy: Policy,
    principal_id: str,
    purpose_name: str,
    collections: Iterable[int],
    fields: Iterable[tuple[int, int]] = (),
) -> None:
    """Raise GrantError unless every collection may be written and every token's field is an indexed one of them."""
    purpose = purpose_of(policy, principal_id, purpose_name)
    _covered("collection", (int(c) for c in collections), purpose.write)
    for collection, field in _pairs(fields):
        if collection not in purpose.write or not _is_indexed(policy, collection, field):
            raise _refused(f"field {(collection, field)} is no indexed field of a collection that the purpose writes")


def check_search(policy: Policy, principal_id: str, purpose_name: str, fields: Iterable[tuple[int, int]]) -> None:
    """Raise GrantError unless every (collection id, field id) may be searched."""
    purpose = purpose_of(policy, principal_id, purpose_name)
    _covered("field", _pairs(fields), purpose.search)


def check_delete(policy: Policy, principal_id: str, purpose_name: str, collections: Iterable[int]) -> None:
    """Raise GrantError unless records of every collection may be deleted."""
    purpose = purpose_of(policy, principal_id, purpose_name)
    _covered("collection", (int(c) for c in collections), purpose.delete)


def check_audit(policy: Policy, principal_id: str, purpose_name: str) -> None:
    """Raise GrantError unless the purpose may ask who has seen whom, and read the log."""
    if not purpose_of(policy, principal_id, purpose_name).audit:
        raise _refused("the purpose may not audit")


def check_prehash(policy: Policy, principal_id: str, purpose_name: str, fields: Iterable[tuple[int, int]]) -> None:
    """Raise GrantError unless each field is searched by the purpose, or an indexed one of a collection it writes."""
    purpose = purpose_of(policy, principal_id, purpose_name)
    for pair in _pairs(fields):
        if pair not in purpose.search and not (pair[0] in purpose.write and _is_indexed(policy, *pair)):
            raise _refused(f"field {pair} is neither searched nor written by the purpose")


def check_verify(policy: Policy, principal_id: str, purpose_name: str, collections: Iterable[int]) -> None:
    """Raise GrantError unless the purpose writes every collection: who wrote rows may ask whether keepers agree."""
    purpose = purpose_of(policy, principal_id, purpose_name)
    _covered("collection", (int(c) for c in collections), purpose.write)


def _is_indexed(policy: Policy, collection_id: int, field_id: int) -> bool:
    collection = policy.collection_by_id.get(collection_id)
    return collection is not None and any(f.id == field_id and f.index is not None for f in collection.fields)
