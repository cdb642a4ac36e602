"""Whether records open, and whether their renditions show the masks of what their classes hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from anwen.client.records import Record
from anwen.client.vault import MASKED, AsyncVault
from anwen.errors import AnwenError, NotFoundError
from anwen.formats import normalise
from anwen.model import INDEX_CLASS

WRONG_MASK = "mask"


async def spot_check(vault: AsyncVault, records: Sequence[Record | None]) -> list[str]:
    """Open all that was read of some records, classes and renditions; charged and logged like every opening.

    Returns: for each "", WRONG_MASK, or the code of why it does not open ("refused": deleted, erased or past its time).
    Raises: BudgetError, GrantError, QuorumError: not all were looked at.
    """
    return await asyncio.gather(*(_checked(vault, record) for record in records))


async def _checked(vault: AsyncVault, record: Record | None) -> str:
    if record is None:
        return NotFoundError.code
    schema = vault.policy.collections[record.collection]
    names = {name for c in record.cells if c != INDEX_CLASS and (name := schema.class_name_of(c))}
    masked = {name for name in names if name.endswith(MASKED)}
    (held,), (shown,) = (
        await vault.open_each([record], sorted(names - masked)),
        await vault.open_each([record], sorted(masked)),
    )
    if isinstance(held, AnwenError):
        return held.code
    if isinstance(shown, AnwenError):
        return shown.code
    both = [f for f in schema.fields if {f.class_name, f.class_name + MASKED} <= names]
    wrong = any(shown.get(f.name) != normalise.mask(f, held.get(f.name)) for f in both)
    return WRONG_MASK if wrong else ""
