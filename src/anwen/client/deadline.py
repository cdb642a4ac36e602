"""One bound on the time of a whole call of the vault, with everything that it asks again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from anwen.errors import UnavailableError

Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def bounded(method: Method) -> Method:
    """Return a vault's method that ends within `Timing.deadline_s`, with an UnavailableError if need be."""

    @functools.wraps(method)
    async def within(vault: Any, *args: Any, **named: Any) -> Any:
        deadline_s = vault.session.timing.deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                return await method(vault, *args, **named)
        except TimeoutError as error:
            what = f"{method.__name__.strip('_')}: not done within {deadline_s:g} s"
            raise UnavailableError(f"{what}; a write may have been carried out all the same") from error

    return cast("Method", within)
