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
_failed: ContextVar[dict[str, AnwenError]] = ContextVar("failed")
"""Of the call at work: what failed last and is being tried again. Its tasks share one dict."""


def bare(error: Error) -> Error:
    """Return an error without the frames that it came through, and without those that came before it."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def failing(error: AnwenError | None) -> None:
    """Note what is tried again, for the error that tells of it when time runs out; or that it came to an end."""
    noted = _failed.get({})
    noted.clear()
    if error is not None:
        noted["last"] = type(error)(str(error))  # without its frames


def bounded(method: Method) -> Method:
    """Return a vault's method that ends within `Timing.deadline_s`: if need be, with the class of what failed last of
    all that it tries again, else with an UnavailableError.

    Of an error that is no AnwenError its class and place are told, as an AnwenError.
    """

    @functools.wraps(method)
    async def within(vault: Any, *args: Any, **named: Any) -> Any:
        deadline_s, work = vault.session.timing.deadline_s, method(vault, *args, **named)
        told: AnwenError
        noted: dict[str, AnwenError] = {}
        _failed.set(noted)
        try:
            async with asyncio.timeout(deadline_s):
                return await work
        except TimeoutError:
            last = noted.get("last", UnavailableError("it was at work"))
            what = f"{method.__name__.strip('_')}: not done within {deadline_s:g} s: {last}"
            told = type(last)(f"{what}; a write may have been carried out all the same")
        except AnwenError as error:
            told = error
        except Exception as error:  # noqa: BLE001 - raised below, without what it may hold
            told = AnwenError(place(error))
        raise bare(told)

    return cast("Method", within)
