"""One bound on the time of a whole call of the vault, with everything that it asks again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from anwen.client.session import Session
from anwen.errors import UnavailableError


class _HasSession(Protocol):
    session: Session


S = TypeVar("S", bound=_HasSession)
P = ParamSpec("P")
T = TypeVar("T")


def bounded(call: Callable[Concatenate[S, P], Awaitable[T]]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return a method that ends within its session's `Timing.deadline_s`, with an UnavailableError if need be."""

    @functools.wraps(call)
    async def within(vault: S, *args: P.args, **named: P.kwargs) -> T:
        deadline_s = vault.session.timing.deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                return await call(vault, *args, **named)
        except TimeoutError as error:
            what = f"{call.__name__.strip('_')}: not done within {deadline_s:g} s"
            raise UnavailableError(f"{what}; a write may have been carried out all the same") from error

    return within
