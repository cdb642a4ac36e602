"""What a purpose allows: asked of the signed policy before keepers are, so that a mistake is explained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from anwen.client.sync import Vault
from anwen.errors import GrantError, NotFoundError
from anwen.model import Collection, Policy, Purpose

Fits = Callable[[Policy, Purpose], bool]
"""Whether a purpose is one for what is asked."""


def collection_of(policy: Policy, name: str) -> Collection:
    """Return a collection by name. Raises NotFoundError."""
    if name not in policy.collections:
        raise NotFoundError(f"no collection {name!r}; there are {', '.join(policy.collections)}")
    return policy.collections[name]


def class_list(text: str) -> list[str]:
    """Return "identity,contact" as a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def opens(_: Policy, purpose: Purpose) -> bool:
    """Return whether a purpose opens anything."""
    return bool(purpose.open)


def purpose_of(vault: Vault) -> Purpose:
    """Return what the vault was opened for."""
    return vault.policy.purposes[vault.asynchronous.purpose]


def masked_classes(purpose: Purpose, collection: Collection) -> list[str]:
    """Return the renditions of a collection that a purpose may open and that show anything."""
    allowed = purpose.open
    shown = {f.class_name for f in collection.fields if f.mask}
    classes = [c for c in collection.classes if c.name in shown and (collection.id, c.rendition_id) in allowed]
    return [f"{c.name}.masked" for c in classes]


def check_opens(purpose: Purpose, collection: Collection, classes: Sequence[str]) -> None:
    """Say at once what keepers would refuse without saying why. Raises NotFoundError, GrantError."""
    for name in classes:
        plain = name.removesuffix(".masked")
        if plain not in collection.class_named:
            raise NotFoundError(f"{collection.name}: no class {plain!r}; there are {', '.join(collection.class_named)}")
        found = collection.class_named[plain]
        if (collection.id, found.id if plain == name else found.rendition_id) not in purpose.open:
            raise GrantError(f"purpose {purpose.name} may not open {collection.name}.{name}")


def may_open(collection: str, classes: Sequence[str]) -> Fits:
    """Return whether a purpose may open classes of a collection; of any collection if that is empty."""

    def fits(policy: Policy, purpose: Purpose) -> bool:
        for schema in [collection_of(policy, collection)] if collection else policy.collections.values():
            with contextlib.suppress(NotFoundError, GrantError):
                check_opens(purpose, schema, classes)
                return True
        return False

    return fits
