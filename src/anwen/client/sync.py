"""The same vault for code without an event loop: one background loop, on which all threads' calls share requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

from anwen.client import audit
from anwen.client.records import Record
from anwen.client.rows import Values
from anwen.client.vault import AsyncVault
from anwen.client.writing import PutResult
from anwen.errors import AnwenError

T = TypeVar("T")


class Loop:
    """An event loop in a daemon thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="anwen", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """Stop and forget the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Vault:
    """`AsyncVault` without `await`: the same methods, safe for many threads at once."""

    def __init__(self, vault: AsyncVault, loop: Loop) -> None:
        self.asynchronous, self._loop = vault, loop
        self.policy, self.session = vault.policy, vault.session

    def for_purpose(self, purpose: str) -> Vault:
        """Return the same vault for another purpose; connections are shared."""
        return Vault(self.asynchronous.for_purpose(purpose), self._loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections and of the loop's thread."""
        self._loop.run(self.asynchronous.close())
        self._loop.close()

    def put(self, collection: str, row: Mapping[str, object], *, idempotency_key: str = "") -> PutResult:
        """See `AsyncVault.put`."""
        return self._loop.run(self.asynchronous.put(collection, row, idempotency_key=idempotency_key))

    def put_many(self, collection: str, rows: object, *, idempotency_keys: Sequence[str] = ()) -> list[PutResult]:
        """See `AsyncVault.put_many`."""
        return self._loop.run(self.asynchronous.put_many(collection, rows, idempotency_keys=idempotency_keys))

    def update(self, record: Record, class_name: str, values: Mapping[str, object]) -> PutResult:
        """See `AsyncVault.update`."""
        return self._loop.run(self.asynchronous.update(record, class_name, values))

    def delete(self, records: Sequence[Record]) -> None:
        """See `AsyncVault.delete`."""
        self._loop.run(self.asynchronous.delete(records))

    def get(self, ids: Sequence[str], classes: Sequence[str] = (), *, collection: str = "") -> list[Record | None]:
        """See `AsyncVault.get`."""
        return self._loop.run(self.asynchronous.get(ids, classes, collection=collection))

    def find(self, collection: str, classes: Sequence[str] = (), **values: object) -> list[Record]:
        """See `AsyncVault.find`."""
        return self._loop.run(self.asynchronous.find(collection, classes, **values))

    def find_many(
        self, collection: str, field: str, values: Sequence[object], classes: Sequence[str] = ()
    ) -> list[list[Record]]:
        """See `AsyncVault.find_many`."""
        return self._loop.run(self.asynchronous.find_many(collection, field, values, classes))

    def list_subject(self, subject: str, collection: str, classes: Sequence[str] = ()) -> list[Record]:
        """See `AsyncVault.list_subject`."""
        return self._loop.run(self.asynchronous.list_subject(subject, collection, classes))

    def scan(
        self, collection: str, classes: Sequence[str] = (), *, page: int = 512, after: str = ""
    ) -> Iterator[Record]:
        """See `AsyncVault.scan`."""
        records = self.asynchronous.scan(collection, classes, page=page, after=after)

        async def following() -> Record | None:
            return await anext(records, None)

        while (record := self._loop.run(following())) is not None:
            yield record

    def open(self, records: Sequence[Record], classes: Sequence[str]) -> list[Values]:
        """See `AsyncVault.open`."""
        return self._loop.run(self.asynchronous.open(records, classes))

    def audit_subject(self, subject: str, since_s: int = 0) -> list[audit.Seen]:
        """See `audit.who_has_seen`."""
        return self._loop.run(audit.who_has_seen(self.session, self.asynchronous.purpose, subject, since_s))

    def audit_verify(self) -> list[audit.Verdict]:
        """See `audit.verify`."""
        return self._loop.run(audit.verify(self.session, self.asynchronous.purpose))

    def open_each(self, records: Sequence[Record], classes: Sequence[str]) -> list[Values | AnwenError]:
        """See `AsyncVault.open_each`."""
        return self._loop.run(self.asynchronous.open_each(records, classes))
