"""The edge of a call of the vault: a bound on its time, with everything that it asks again, and bare errors.

An error that leaves the vault has left its traceback behind: frames below the edge hold keys and what was opened, and
error reporters that capture locals would show them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from anwen.errors import AnwenError, UnavailableError, place

Error = TypeVar("Error", bound=AnwenError)
Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])
_failed: ContextVar[list[str] | None] = ContextVar("failed", default=None)
"""Of the call at work: why what is being tried again failed last, if it did. Its tasks share one list."""


def bare(error: Error) -> Error:
    """Return an error without the frames that it came through, and without those that came before it."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def failing(error: AnwenError | None) -> None:
    """Note why something is tried again, for the error that tells of it when time runs out; or that it was done."""
    noted = _failed.get()
    if noted is not None:
        noted[:] = [] if error is None else [str(error)]


def failed() -> str:
    """Return what to add to an error that tells that time ran out: why what was tried again failed last."""
    return "".join(f": {said}" for said in _failed.get() or ())


def bounded(method: Method) -> Method:
    """Return a vault's method that ends within `Timing.deadline_s`, with an UnavailableError if need be, which says
    what failed before if it was tried again. Its class is no narrower one: those say that nothing was carried out.

    Of an error that is no AnwenError its class and place are told, as an AnwenError.
    """

    @functools.wraps(method)
    async def within(vault: Any, *args: Any, **named: Any) -> Any:
        deadline_s, work = vault.session.timing.deadline_s, method(vault, *args, **named)
        told: AnwenError
        outer = _failed.get()
        noted: list[str] = [] if outer is None else outer  # a call within another tells that one
        before = _failed.set(noted)
        try:
            async with asyncio.timeout(deadline_s):
                return await work
        except TimeoutError:
            what = f"{method.__name__.strip('_')}: not done within {deadline_s:g} s{failed()}"
            told = UnavailableError(f"{what}; a write may have been carried out all the same")
        except AnwenError as error:
            told = error
        except Exception as error:  # noqa: BLE001 - raised below, without what it may hold
            told = AnwenError(place(error))
        finally:
            _failed.reset(before)
        raise bare(told)

    return cast("Method", within)
