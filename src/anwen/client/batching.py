"""Callers of one process share requests: what waits while a request is under way goes out together with the next.

A batch holds only items of one kind, principal and purpose. When a batch of several callers fails, each caller's
part is tried alone, so that one caller's refusal never becomes another's. Not where an answer is missing: that is no
caller's fault, and rows that may be stored would be sealed anew, and told that somebody else was faster.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from anwen.errors import QuorumError, UnavailableError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs `run` on lists of about `most` items, `in_flight` at a time; one result for each item, in order.

    What is not done after `within_s` ends with UnavailableError: it would hold up all callers to come.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[list[Result]]],
        *,
        within_s: float,
        most: int = 4096,
        in_flight: int = 2,
    ) -> None:
        self._run, self._within_s, self._most, self._free = run, within_s, most, in_flight
        self._waiting: deque[tuple[list[Item], asyncio.Future[list[Result]]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Return the results for `items`, which may travel together with other callers' items."""
        if not items:
            return []
        future: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(items), future))
        self._start()
        return await future

    def _start(self) -> None:
        while self._free and self._waiting:
            batch, size = [self._waiting.popleft()], 0
            size = len(batch[0][0])
            while self._waiting and size + len(self._waiting[0][0]) <= self._most:
                batch.append(self._waiting.popleft())
                size += len(batch[-1][0])
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._together(batch))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1
        self._start()

    async def _together(self, batch: list[tuple[list[Item], asyncio.Future[list[Result]]]]) -> None:
        batch = [(items, future) for items, future in batch if not future.cancelled()]
        try:
            async with asyncio.timeout(self._within_s):
                results = await self._run([item for items, _ in batch for item in items])
        except TimeoutError:
            for _, future in batch:
                if not future.done():
                    future.set_exception(UnavailableError(f"not done within {self._within_s:g} s"))
            return
        except BaseException as error:
            if isinstance(error, Exception):
                await self._alone(batch, error)
                return
            for _, future in batch:  # the loop is closing: no caller may wait for ever
                if not future.done():
                    future.set_exception(error)
            raise
        at = 0
        for items, future in batch:
            if not future.done():
                future.set_result(results[at : at + len(items)])
            at += len(items)

    async def _alone(self, batch: list[tuple[list[Item], asyncio.Future[list[Result]]]], error: Exception) -> None:
        # fewer than t keepers may have agreed because of one caller's part
        if len(batch) == 1 or (isinstance(error, UnavailableError) and not isinstance(error, QuorumError)):
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for part in batch:
            await self._together([part])
