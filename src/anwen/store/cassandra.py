"""The Cassandra engine: three replicas in three zones, any two of which answer; no leader, no election.

Also speaks to ScyllaDB. Tables, settings and their reasons: docs/store-cassandra.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from anwen.store import cassandra_read as read
from anwen.store import cassandra_schema as schema
from anwen.store.base import Hit, PutResult, PutRow, Statistics, StoredRow
from anwen.store.cassandra_session import Session, Settings
from anwen.store.cassandra_write import Put, Shared, delete, warm_up


async def connect(settings: Mapping[str, object], folder: Path) -> CassandraStore:
    """Return the store in a cluster's keyspace, made if it is not there.

    Args:
        settings: `contact_points`, a list of "address:port"; optional `keyspace`, `zone` (rack or data centre that is
            asked first), `username` and `password_file`, `ca_file`.
        folder: what paths in `settings` are relative to.

    Raises: PolicyError: settings, also the cluster's, that break a promise. UnavailableError: no quorum answers.
    StorageError: a restore is under way, or tables are of an earlier build.
    """
    session = Session(Settings.parse(settings, folder))
    await session.open()
    try:
        await schema.make(session)
        await schema.check(session)
        await schema.check_loaded(session)
    except BaseException:
        await session.close()
        raise
    return CassandraStore(session)


class CassandraStore:
    """A `store.base.Store` in a cluster. For one event loop; several nodes may share a keyspace."""

    engine = "cassandra"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shared = Shared()
        self._epochs: set[int] = set()  # those whose table is known

    async def put(self, epoch: int, rows: Sequence[PutRow]) -> list[PutResult]:
        if not rows:
            return []
        if not await self._has(epoch):
            await schema.make_wrap_table(self._session, epoch)
        return await Put(self._session, self._shared, epoch, rows).run()

    async def get(self, epoch: int, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
        return await read.get(self._session, epoch if await self._has(epoch) else None, records, classes)

    async def find(self, labels: Sequence[bytes]) -> list[Hit]:
        return await read.find(self._session, labels)

    async def list_subjects(self, collection: int, subjects: Sequence[bytes], after: bytes, limit: int) -> list[bytes]:
        return await read.list_subjects(self._session, collection, subjects, after, limit)

    async def delete(self, records: Sequence[tuple[bytes, int]]) -> None:
        await delete(self._session, await self.epochs(), records)

    async def epochs(self) -> list[int]:
        return await schema.epochs(self._session)

    async def statistics(self) -> Statistics:
        settings = await schema.check(self._session) | await schema.members(self._session)
        return await read.statistics(self._session, await schema.size_bytes(self._session), settings)

    def members(self) -> tuple[int, int]:
        hosts = self._session.cluster.metadata.all_hosts()  # the driver hears each member's heartbeat
        return sum(bool(host.is_up) for host in hosts), len(hosts)

    async def warm(self) -> None:
        await self._session.warm(warm_up)

    async def close(self) -> None:
        await self._session.close()

    async def _has(self, epoch: int) -> bool:
        if epoch not in self._epochs:
            self._epochs = set(await self.epochs())
        return epoch in self._epochs
