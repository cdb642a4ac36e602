"""Backup and restore: whole or not at all, wraps apart, and the drill that wipes a store and opens people again."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.conftest import person, running
from tests.vectors import golden

import anwen as library
from anwen import vault_folder
from anwen.backup import archive
from anwen.cli import main
from anwen.cli.failures import INTEGRITY, OK, REQUEST, UNAVAILABLE
from anwen.errors import MalformedError, NotFoundError, StorageError
from anwen.store.copying import BULK, columns
from anwen.store.sqlite import SqliteStore

NAME = "Markedname Qzw"
IMPORTER, CLERK, OFFICER = ("importer", "intake"), ("case_worker", "casework"), ("records_officer", "deletion")


def anwen(folder, *arguments):
    return main.run(["--vault", str(folder), *map(str, arguments)])


def put(folder, people):
    with library.connect(folder.path, key=IMPORTER[0], purpose=IMPORTER[1]) as vault:
        return [r.record for r in vault.put_many("person", people) if not r.error]


def opened(folder, records):
    """Names by record id, of those that open; None for those that are not there."""
    with library.connect(folder.path, key=CLERK[0], purpose=CLERK[1]) as vault:
        found = vault.get(records, ["identity"], collection="person")
        there = [r for r in found if r]
        names = {r.id: v["name"] for r, v in zip(there, vault.open(there, ["identity"]), strict=True)}
    return {r: names.get(r) for r in records}


def make(tmp_path):
    text = vault_folder.template("police").replace(
        "per_hour = 200, per_day = 1_000", "per_hour = 9_000, per_day = 9_000"
    )
    return vault_folder.create(tmp_path / "v", text)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A stopped vault with forty people, a backup of it, and their record ids."""
    tmp_path = tmp_path_factory.mktemp("kept")
    folder = make(tmp_path)
    with running(folder):
        records = put(folder, [person(i, name=NAME if i == 7 else f"Name {chr(65 + i)}") for i in range(26)])
        assert anwen(folder.path, "backup", tmp_path / "b") == OK
    return folder, tmp_path / "b", records


@pytest.fixture
def copy(kept, tmp_path):
    """A copy of the backup, to be spoilt."""
    return shutil.copytree(kept[1], tmp_path / "copy")


# --- the drill -------------------------------------------------------------------------------------------------------


def test_after_the_store_is_wiped_every_row_acknowledged_before_the_backup_opens(tmp_path):
    folder = make(tmp_path)
    with running(folder):
        before = put(folder, [person(i) for i in range(200)])
        with library.connect(folder.path, key=OFFICER[0], purpose=OFFICER[1]) as vault:
            vault.delete([r for r in vault.get(before[:5]) if r])
        done, during = threading.Event(), []
        writer = threading.Thread(target=write_until, args=(folder, done, during))
        writer.start()
        while not during:
            assert not done.wait(0.01)
            assert writer.is_alive()
        assert anwen(folder.path, "backup", tmp_path / "b") == OK
        at_least = len(during)
        done.set()
        writer.join()
        assert len(during) >= at_least
        put(folder, [person(90_000)])
    for file in (folder.path / "store").iterdir():
        file.unlink()
    assert anwen(folder.path, "restore", tmp_path / "b") == OK
    with running(folder):
        names = opened(folder, before)
        assert [names[r] for r in before[:5]] == [None] * 5
        assert [names[r] for r in before[5:]] == [person(i)["name"] for i in range(5, 200)]
        with library.connect(folder.path, key=CLERK[0], purpose=CLERK[1]) as vault:
            assert [r.id for r in vault.find("person", phone=person(77)["phone"])] == [before[77]]
            assert vault.find("person", phone=person(2)["phone"]) == []
        assert put(folder, [person(77)]) == []  # its unique number is taken still
        assert len(put(folder, [person(95_000)])) == 1


def write_until(folder, done, acknowledged):
    with library.connect(folder.path, key=IMPORTER[0], purpose=IMPORTER[1]) as vault:
        i = 10_000
        while not done.is_set() and i < 14_000:
            acknowledged += vault.put_many("person", [person(n) for n in range(i, i + 20)])
            i += 20


def test_the_drill_opens_a_sample_with_todays_keepers_and_leaves_the_store_alone(kept, copy, capsys):
    folder, _, records = kept
    store = folder.path / "store" / "anwen.sqlite"
    with running(folder):
        before = hashlib.sha256(store.read_bytes()).digest()
        arguments = ["--as", CLERK[0], "--purpose", CLERK[1], "--json"]
        assert anwen(folder.path, "backup", "drill", copy, "--sample", "10", *arguments) == OK
        said = json.loads(capsys.readouterr().out)
        assert (said["records"], said["sampled"], said["opened"], said["failed"]) == (len(records), 10, 10, {})
        assert hashlib.sha256(store.read_bytes()).digest() == before
        for name in (copy / "bulk" / "row", copy / "wraps" / "wrap_1"):
            spoil_with_its_manifest(name)
        assert anwen(folder.path, "backup", "drill", copy, "--sample", "26", *arguments) == INTEGRITY
        assert json.loads(capsys.readouterr().out)["failed"] == {"open": 1}


def spoil_with_its_manifest(path):
    """Change the last byte, a ciphertext's or a wrap's, and make the manifest agree: what hashes cannot show."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    manifest = path.parent / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))


def test_a_drill_with_nothing_to_open_says_so(tmp_path, capsys):
    folder = make(tmp_path)
    with running(folder):
        assert anwen(folder.path, "backup", tmp_path / "b") == OK
        assert "no rows at all" in capsys.readouterr().err
        assert anwen(folder.path, "backup", "drill", tmp_path / "b", "--as", CLERK[0], "--purpose", CLERK[1]) == REQUEST
    said = capsys.readouterr().err
    assert "no record to open: the backup holds none of which purpose casework opens a class" in said
    assert "internal" not in said


# --- what a backup holds ---------------------------------------------------------------------------------------------


def test_bulk_holds_no_wrap_and_neither_holds_a_value_or_a_key(kept):
    folder, backup, records = kept
    assert {p.name for p in backup.iterdir()} == {"bulk", "wraps"}
    assert {p.name for p in (backup / "bulk").iterdir()} == {
        "row", "posting", "subject", "policy-0001.json", "root.json", "manifest.json",
    }  # fmt: skip
    assert {p.name for p in (backup / "wraps").iterdir()} == {"wrap_1", "manifest.json"}
    assert not [p for p in backup.rglob("*") if p.stat().st_mode & 0o077]
    found = archive.read(backup)
    wraps = [row[2] for rows in found.table("wrap_1") for row in rows]
    assert len(wraps) == len(records) == 26
    bulk = b"".join(p.read_bytes() for p in (backup / "bulk").iterdir())
    for wrap in wraps:
        assert wrap[-32:] not in bulk
    every = b"".join(p.read_bytes() for p in backup.rglob("*") if p.is_file())
    assert NAME.encode() not in every
    secret = [*folder.path.rglob("*.keys"), *folder.path.rglob("identity.key")]
    assert len(secret) == 15
    for path in secret:
        assert path.read_bytes() not in every
        for key in json.loads(path.read_bytes())["keys"].values() if path.suffix == ".keys" else ():
            assert key.encode() not in every
            assert bytes.fromhex(key) not in every


def test_wraps_that_were_moved_away_are_named_and_those_of_another_backup_refused(kept, copy, tmp_path, capsys):
    folder, backup, _ = kept
    (copy / "wraps").rename(tmp_path / "elsewhere")
    with pytest.raises(NotFoundError, match="no manifest"):
        archive.read(copy)
    assert anwen(folder.path, "backup", "verify", copy, "--wraps", tmp_path / "elsewhere") == OK
    assert anwen(folder.path, "backup", tmp_path / "second") == OK
    assert anwen(folder.path, "backup", "verify", tmp_path / "second", "--wraps", backup / "wraps") == INTEGRITY
    assert anwen(folder.path, "backup", "verify", copy, "--wraps", copy / "bulk") == REQUEST
    capsys.readouterr()


def batches(table):
    columns_of = [st.binary() if kind == "b" else st.integers(0, 2**63 - 1) for kind in columns(table)]
    return st.lists(st.tuples(*columns_of), min_size=1, max_size=5).map(lambda rows: (table, rows))


@given(st.sampled_from([*BULK, "wrap_3"]).flatmap(batches))
def test_rows_come_back_as_they_were(case):
    table, rows = case
    with tempfile.TemporaryFile() as file:
        file.write(archive._encode(columns(table), rows))
        file.seek(0)
        assert archive._decode(file, columns(table)) == rows
        assert file.read() == b""


def test_the_page_has_our_batch():
    rows = [(b"\x11" * 16, 1), (b"\x22" * 16, 5)]
    assert archive._encode(columns("deleted"), rows).hex() == golden("backup.md")["batch"]


# --- what is refused -------------------------------------------------------------------------------------------------


def fresh(kept, tmp_path):
    """The vault's folder with an empty store."""
    folder = vault_folder.VaultFolder(shutil.copytree(kept[0].path, tmp_path / "fresh"))
    for file in (folder.path / "store").iterdir():
        file.unlink()
    return folder


@pytest.mark.parametrize("name", ["bulk/row", "bulk/posting", "bulk/subject", "bulk/root.json", "wraps/wrap_1"])
def test_one_changed_or_missing_byte_is_found_before_anything_is_touched(kept, copy, tmp_path, name, capsys):
    path = copy / name
    data = path.read_bytes()
    folder = fresh(kept, tmp_path)
    for spoilt in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], data + b"\0", None):
        path.unlink()
        if spoilt is not None:
            path.write_bytes(spoilt)
        assert anwen(folder.path, "backup", "verify", copy) == INTEGRITY
        assert anwen(folder.path, "restore", copy) == INTEGRITY
        path.write_bytes(data)
    assert anwen(folder.path, "restore", copy) == OK
    assert anwen(folder.path, "restore", copy) == REQUEST  # not empty any more
    assert "error[conflict]: the store is not empty" in capsys.readouterr().err


def test_a_backup_of_another_vault_is_refused(kept, tmp_path):
    other = vault_folder.create(tmp_path / "other", "police")
    assert anwen(other.path, "restore", kept[1]) == REQUEST


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"../row": m["files"]["row"]}),
        lambda m: m["files"].update({"sqlite_schema": m["files"]["row"]}),
        lambda m: m["files"]["row"].update(rows="7"),
        lambda m: m["files"]["row"].pop("sha256"),
        lambda m: m.update(format=2),
        lambda m: m.pop("vault"),
        lambda m: m.update(part="wraps"),
    ],
)
def test_a_manifest_that_leads_elsewhere_or_is_of_another_form_is_refused(copy, change):
    path = copy / "bulk" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(MalformedError):
        archive.read(copy)


async def test_rows_that_the_manifest_does_not_count_right_undo_the_whole_restore(kept, copy, tmp_path):
    path = copy / "wraps" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    store = SqliteStore(tmp_path / "s" / "anwen.sqlite")
    for change, said in ((1, "cut"), (-1, "other rows")):
        manifest["files"]["wrap_1"]["rows"] = 26 + change
        path.write_text(json.dumps(manifest))
        with pytest.raises(MalformedError, match=said):
            await archive.restore(archive.read(copy), store, kept[0].policy().vault)
        assert [batch async for batch in store.dump()] == []
    await archive.restore(archive.read(kept[1]), store, kept[0].policy().vault)
    await store.close()


@pytest.mark.parametrize("left", [None, b""])
def test_a_backup_of_a_store_that_is_not_there_is_none_and_makes_no_store(kept, tmp_path, left, capsys):
    """A mistyped path, a disk that is not mounted: what is empty for that reason would pass for a backup."""
    folder = fresh(kept, tmp_path)
    store = folder.path / "store" / "anwen.sqlite"
    if left is not None:
        store.write_bytes(left)
        store.chmod(0o600)
    for vault in (folder.path, folder.path / "nodes" / "a"):
        assert anwen(vault, "backup", tmp_path / "none") == (REQUEST if left is None else UNAVAILABLE)
        assert "anwen.sqlite: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert left is not None or list(store.parent.iterdir()) == []
    assert anwen(folder.path, "restore", kept[1]) == OK
    assert anwen(folder.path, "backup", tmp_path / "now") == OK
    capsys.readouterr()


def test_a_target_that_is_there_is_left_alone(kept, copy):
    assert anwen(kept[0].path, "backup", copy) == REQUEST
    archive.check(archive.read(copy))


async def test_a_full_disk_leaves_nothing(kept, tmp_path, monkeypatch):
    def full(_self, _data, _rows=0):
        raise OSError(28, "No space left on device")

    store = SqliteStore(kept[0].path / "store" / "anwen.sqlite")
    monkeypatch.setattr(archive._File, "add", full)
    with pytest.raises(StorageError, match="No space left"):
        await archive.back_up(store, kept[0].policy(), {"root.json": b"{}"}, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    await store.close()


# --- killed in the middle --------------------------------------------------------------------------------------------

KILLED = """
import asyncio, sys
from pathlib import Path
from anwen.backup import archive
from anwen.store.sqlite import SqliteStore
from anwen.vault_folder import VaultFolder

folder, source, target, at = VaultFolder(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
step = iter(range(10**6))

def pause():
    if next(step) == at:
        print("here", flush=True)
        sys.stdin.read()

class Pausing(SqliteStore):
    async def dump(self):
        async for batch in super().dump():
            pause()
            yield batch
        pause()

    async def load(self, batches):
        def pausing():
            for batch in batches:
                yield batch
                pause()
        await super().load(pausing())

async def run():
    store = Pausing(folder.path / "store" / "anwen.sqlite")
    if source:
        await archive.restore(archive.read(Path(source)), store, folder.policy().vault)
    else:
        await archive.back_up(store, folder.policy(), {"root.json": b"{}"}, target)

asyncio.run(run())
"""


def kill_at(step, folder, *, source="", target=""):
    """Run a backup or a restore and kill it -9 after so many batches."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), folder.path, source, target, step]
    with subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize("step", [0, 2, 4])
def test_a_backup_killed_in_the_middle_is_none_and_the_next_one_cleans_up(kept, tmp_path, step):
    target = tmp_path / "b"
    kill_at(step, kept[0], target=target)
    assert [p.name for p in tmp_path.iterdir()] == ["b.partial"]
    with pytest.raises(NotFoundError):
        archive.read(target)
    assert anwen(kept[0].path, "backup", target) == OK
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    archive.check(archive.read(target))


@pytest.mark.parametrize("step", [0, 2, 3])
def test_a_restore_killed_in_the_middle_left_nothing_and_is_done_again(kept, tmp_path, step):
    folder = fresh(kept, tmp_path)
    kill_at(step, folder, source=kept[1])
    assert anwen(folder.path, "backup", tmp_path / "nothing") == OK
    assert archive.read(tmp_path / "nothing").rows() == {}
    assert anwen(folder.path, "restore", kept[1]) == OK
    assert anwen(folder.path, "backup", tmp_path / "again") == OK
    before, after = archive.read(kept[1]), archive.read(tmp_path / "again")
    for name in before.rows():
        assert list(after.table(name)) == list(before.table(name))
