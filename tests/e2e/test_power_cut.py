"""Power fails for a whole vault at once, keepers, node and store, under load: no acknowledged person is lost."""

import asyncio
import contextlib
import itertools
import sqlite3

import pytest

import anwen
from anwen import vault_folder
from anwen.client.session import Timing
from anwen.errors import AnwenError
from anwen.store import sqlite_schema
from power import disk

from .conftest import person, running

__all__ = ["disk"]

WRITERS, ENOUGH = 6, 120


async def written(folder, disk, numbers):
    """Put people until power fails, right in the middle; return those whose put was acknowledged, and all others."""
    acknowledged, tried, enough = {}, {}, asyncio.Event()

    async def write(vault):
        for number in numbers:
            tried[number] = person(number)
            result = await vault.put("person", tried[number])
            acknowledged[number] = result.record
            if len(acknowledged) >= ENOUGH:
                enough.set()

    async with anwen.connect_async(
        folder.path, key="importer", purpose="intake", timing=Timing(deadline_s=1.0)
    ) as vault:
        writers = [asyncio.create_task(write(vault)) for _ in range(WRITERS)]
        await asyncio.wait_for(enough.wait(), 60)
        disk.cut()
        ends = await asyncio.gather(*writers, return_exceptions=True)
    assert all(isinstance(end, AnwenError) for end in ends), ends
    return acknowledged, {n: row for n, row in tried.items() if n not in acknowledged}


def test_no_acknowledged_person_is_lost_when_power_fails_for_everything(disk):
    text = vault_folder.template("police").replace(
        "per_hour = 200, per_day = 1_000", "per_hour = 9_000, per_day = 9_000"
    )
    folder, numbers = vault_folder.create(disk.path / "police", text), itertools.count(1)
    disk.sync()
    with running(folder):
        acknowledged, open_ = asyncio.run(written(folder, disk, numbers))
    disk.gone()
    disk.back()
    with running(folder), anwen.connect(folder.path, key="case_worker", purpose="casework") as clerk:
        for number, record in acknowledged.items():
            (found,) = clerk.find("person", phone=person(number)["phone"])
            assert found.id == record
            assert clerk.open([found], ["identity"])[0]["name"] == person(number)["name"]
        for row in open_.values():  # there and whole, or not there
            for found in clerk.find("person", phone=row["phone"]):
                assert clerk.open([found], ["identity"])[0]["name"] == row["name"]


@pytest.mark.parametrize("synchronous", ["FULL", "OFF"])
def test_the_disk_loses_what_was_not_synced(disk, synchronous):
    """The same cut, seen by an engine that syncs and by one that does not: the test above can fail."""
    path = disk.path / "anwen.sqlite"
    db = sqlite_schema.open_writer(path)
    disk.sync()
    db.execute(f"PRAGMA synchronous = {synchronous}")
    for i in range(50):
        db.execute("INSERT INTO deleted VALUES (?, 1)", (i.to_bytes(16),))
    disk.cut()
    with contextlib.suppress(sqlite3.Error):  # it would write its log back
        db.close()
    disk.gone()
    disk.back()
    db = sqlite_schema.open_writer(path)
    left = db.execute("SELECT count(*) FROM deleted").fetchone()[0]
    db.close()
    assert (left == 50) == (synchronous == "FULL")
