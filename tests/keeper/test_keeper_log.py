"""The log under crashes, cuts, damage and full disks: nothing is answered that is not durable, nothing durable is lost."""

import asyncio
import errno
import json
import shutil
import struct
import threading
import zlib
from pathlib import Path

import pytest
from keeper_rig import DAY_S, START_S, Crash, CutDisk, People, Rig

from anwen.crypto import merkle
from anwen.errors import AnwenError, GrantError, StorageError
from anwen.keeper import folder as files
from anwen.keeper.folder import Disk
from anwen.keeper.log import Log

DAY = "2024-05-06"


def opened(path, disk=None, days=365, seen=None):
    log = Log(path, disk or Disk())
    log.recover(days, seen.append if seen is not None else lambda _: None)
    return log


def entry(i, op="open"):
    return json.dumps({"op": op, "i": i}).encode()


async def filled(path, count=10, day=DAY, disk=None):
    log = opened(path, disk)
    first = log.next
    for i in range(first, first + count):
        await log.commit(log.append(day, entry(i), bytes([i % 256]) * 40))
    return log


def last_file(path):
    return max(path.glob("*-*.log"))


def indexes(log):
    return [(f.index, json.loads(f.entry)["i"]) for f in log.frames(0)]


async def test_entries_come_back_in_order_over_days(tmp_path):
    log = await filled(tmp_path, 300)
    for day in ("2024-05-07", "2024-06-01"):
        await log.close()
        log = await filled(tmp_path, 5, day)
    root = log.leaves.root()
    await log.close()
    assert [p.name for p in sorted(tmp_path.glob("*-*.log"))] == [
        "000000000000-2024-05-06.log", "000000000300-2024-05-07.log", "000000000305-2024-06-01.log",
    ]  # fmt: skip
    for days, visited in ((365, 310), (27, 310), (26, 10), (25, 5), (2, 5), (1, 5)):
        seen = []
        log = opened(tmp_path, days=days, seen=seen)
        assert len(seen) == visited
        assert indexes(log) == [(i, i) for i in range(310)]
        assert log.leaves.root() == root == merkle.root([merkle.leaf_hash(entry(i)) for i in range(310)])
        for start, count in ((0, 310), (298, 4), (303, 2), (309, 5), (310, 5), (2**64 - 1, 2**32)):
            assert log.read(start, count) == [entry(i) for i in range(310)][start : start + count]
        assert [f.index for f in log.frames(0, "2024-05-07")] == list(range(300, 310))
        await log.close()


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 700])
async def test_roots_and_proofs_agree_with_a_plain_tree(tmp_path, size):
    log = await filled(tmp_path, 0)
    for i in range(size):
        last = log.append(DAY, entry(i), b"")
    await log.commit(last)
    hashes = [merkle.leaf_hash(entry(i)) for i in range(size)]
    plain = merkle.subtree_of(hashes)
    for old in {0, 1, size // 3, size // 2, size - 1, size}:
        assert log.leaves.root_at(old) == merkle.root(hashes[:old])
        proof = merkle.consistency_proof(log.leaves.subtree, old, size)
        assert proof == merkle.consistency_proof(plain, old, size)
    await log.close()


async def test_a_torn_tail_is_cut_off_at_every_byte(tmp_path):
    log = await filled(tmp_path / "log", 4)
    offset = next(log.frames(3)).offset
    await log.close()
    whole = last_file(tmp_path / "log").read_bytes()
    for at in range(offset, len(whole)):
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        shutil.copytree(tmp_path / "log", tmp_path / "cut")
        last_file(tmp_path / "cut").write_bytes(whole[:at])
        log = opened(tmp_path / "cut")
        assert (log.size, log.next) == (3, 3)
        await log.commit(log.append(DAY, entry(3), b"again"))
        assert indexes(log) == [(i, i) for i in range(4)]
        await log.close()


async def test_blocks_of_the_last_write_that_never_reached_the_disk_are_cut_off(tmp_path):
    """A file's length can be durable before its blocks: zeros in the middle of the last write are a torn tail."""
    log = await filled(tmp_path, 3)
    for i in range(3, 8):  # one write
        last = log.append(DAY, entry(i), b"x" * 100)
    await log.commit(last)
    offsets = [f.offset for f in log.frames(0)]
    await log.close()
    data = bytearray(last_file(tmp_path).read_bytes())
    data[offsets[4] : offsets[6]] = bytes(offsets[6] - offsets[4])
    last_file(tmp_path).write_bytes(data)
    log = opened(tmp_path)
    assert log.size == 4
    await log.close()


async def test_a_frame_that_a_caller_made_does_not_pass_for_a_later_write(tmp_path):
    """Else a torn write that held it would look like damage, and no keeper that was sent it would start again."""
    log = await filled(tmp_path, 3)
    head = struct.pack(">4sIIQI", b"ANWE", 0, 0, 2**62, 0)
    made = head[:-4] + zlib.crc32(head).to_bytes(4)
    await log.commit(log.append(DAY, entry(3), made * 20))
    end = next(log.frames(3)).offset
    await log.close()
    whole = last_file(tmp_path).read_bytes()
    assert whole.count(made) == 20
    last_file(tmp_path).write_bytes(whole[:-30])
    log = opened(tmp_path)
    assert (log.size, last_file(tmp_path).stat().st_size) == (3, end)
    await log.close()


@pytest.mark.parametrize("at", range(12))
async def test_a_damaged_seed_is_damage_and_no_torn_write_of_a_whole_day(tmp_path, at):
    await (await filled(tmp_path, 3)).close()
    data = bytearray(last_file(tmp_path).read_bytes())
    data[at] ^= 1
    last_file(tmp_path).write_bytes(data)
    with pytest.raises(StorageError, match="at byte 0"):
        opened(tmp_path)
    assert last_file(tmp_path).read_bytes() == data


@pytest.mark.parametrize("left", [0, 1, 11, 12])
async def test_a_file_that_was_begun_and_has_no_frame_is_removed(tmp_path, left):
    await (await filled(tmp_path, 3)).close()
    await (await filled(tmp_path, 2, "2024-05-07")).close()
    begun = last_file(tmp_path)
    begun.write_bytes(begun.read_bytes()[:left])
    log = opened(tmp_path)
    assert log.size == 3
    assert not begun.exists()
    await log.commit(log.append("2024-05-07", entry(3), b""))
    assert indexes(log) == [(i, i) for i in range(4)]
    await log.close()


@pytest.mark.parametrize("field", ["magic", "length", "crc", "entry", "side"])
async def test_damage_before_the_tail_stops_the_start_and_names_the_place(tmp_path, field):
    log = await filled(tmp_path, 5)
    offset = next(log.frames(2)).offset
    await log.close()
    data = bytearray(last_file(tmp_path).read_bytes())
    data[offset + {"magic": 0, "length": 6, "crc": 21, "entry": 30, "side": 50}[field]] ^= 1
    last_file(tmp_path).write_bytes(data)
    with pytest.raises(StorageError, match=f"at byte {offset}, entry 2"):
        opened(tmp_path)


async def test_damage_in_an_older_day_is_found_when_it_is_read(tmp_path):
    await (await filled(tmp_path, 5)).close()
    await (await filled(tmp_path, 5, "2024-05-09")).close()
    older = min(tmp_path.glob("*-*.log"))
    whole = older.read_bytes()
    for at in (-1, whole.rindex(b'"op"') + 1):  # in side data, which entries are read without; in an entry
        data = bytearray(whole)
        data[at] ^= 1
        older.write_bytes(data)
        log = opened(tmp_path, days=2)
        with pytest.raises(StorageError):
            list(log.frames(0))
        if at == -1:
            assert len(log.read(0, 10)) == 10
        else:
            with pytest.raises(StorageError):
                log.read(0, 10)
        await log.close()
    with pytest.raises(StorageError):
        opened(tmp_path)
    older.unlink()
    with pytest.raises(StorageError, match="missing"):
        opened(tmp_path)


async def test_a_missing_file_in_the_middle_is_noticed(tmp_path):
    for day in ("2024-05-06", "2024-05-07", "2024-05-08"):
        await (await filled(tmp_path, 3, day)).close()
    sorted(tmp_path.glob("*-*.log"))[1].unlink()
    with pytest.raises(StorageError, match="does not follow entry 2"):
        opened(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 39, 40, 41, 200])
async def test_leaves_are_rebuilt_where_they_are_short(tmp_path, keep):
    log = await filled(tmp_path, 10)
    root = log.leaves.root()
    await log.close()
    path = tmp_path / "leaves"
    path.write_bytes(path.read_bytes()[:keep])
    log = opened(tmp_path, days=1)
    assert log.leaves.root() == root
    assert indexes(log) == [(i, i) for i in range(10)]
    await log.close()
    path.write_bytes(path.read_bytes() + b"x" * 97)
    log = opened(tmp_path)
    assert log.leaves.root() == root
    await log.close()


@pytest.mark.parametrize("left", ["zeros", "zeros from the middle on", "a hash", "an offset", "more"])
async def test_leaves_that_differ_are_made_anew_from_the_entries(tmp_path, left):
    """A power cut leaves zeros of a file that is not synced; a keeper that then needed a hand would be down for long."""
    log = await filled(tmp_path, 10)
    root, path = log.leaves.root(), tmp_path / "leaves"
    await log.close()
    data = bytearray(path.read_bytes())
    match left:
        case "zeros":
            data = bytes(len(data))
        case "zeros from the middle on":
            data[150:] = bytes(len(data) - 150)
        case "a hash":
            data[45] ^= 1
        case "an offset":
            data[79] ^= 1
        case "more":
            data += bytes(4000)
    path.write_bytes(data)
    log = opened(tmp_path)
    assert log.leaves.root() == root
    assert indexes(log) == [(i, i) for i in range(10)]
    await log.commit(log.append(DAY, entry(10), b""))
    await log.close()
    log = opened(tmp_path)
    assert log.size == 11
    await log.close()


async def test_lasting_entries_are_found_again_from_any_age(tmp_path):
    log = await filled(tmp_path, 3)
    await log.commit(log.append(DAY, entry(3, "delete"), b"", lasting=True))
    await log.close()
    await (await filled(tmp_path, 3, "2024-07-01")).close()
    for content in (None, b""):
        if content is not None:
            (tmp_path / "lasting").write_bytes(content)
            (tmp_path / "leaves").write_bytes(b"")
        seen = []
        await opened(tmp_path, days=2, seen=seen).close()
        assert 3 in [f.index for f in seen]
        assert (tmp_path / "lasting").read_bytes() == (3).to_bytes(8)


async def test_waiting_requests_share_one_fsync(tmp_path):
    disk = CutDisk()
    log = await filled(tmp_path, 1, disk=disk)
    disk.names.clear()
    await asyncio.gather(*(log.commit(log.append(DAY, entry(i), b"")) for i in range(1, 51)))
    assert disk.names.count("sync") == 1
    await log.close()


async def test_an_abandoned_waiter_disturbs_nobody(tmp_path):
    log = await filled(tmp_path, 1)
    waits = [asyncio.create_task(log.commit(log.append(DAY, entry(i), b""))) for i in (1, 2)]
    await asyncio.sleep(0)
    waits[0].cancel()
    await waits[1]
    assert log.size == 3
    await log.close()


# --- whole keepers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EIO])
async def test_a_full_or_failing_disk_stops_the_keeper_before_it_answers(tmp_path, step, kind):
    rig = await Rig(tmp_path).start(ceremonies=("record", "index", "mask"))
    first = People(1)
    await rig.ask("open", first.open(bytes(20)), ["a"])
    rig.keepers["a"]._disk = rig.keepers["a"].log._disk = disk = CutDisk(step, error=OSError(kind, "disk"))
    rig.keepers["a"].log.leaves._disk = disk
    bodies = [People(1).open(bytes(20)) for _ in range(3)]
    got = await asyncio.gather(*(rig.ask("open", b, ["a"]) for b in bodies), return_exceptions=True)
    assert {type(g) for g in got} == {StorageError}
    with pytest.raises(StorageError):
        await rig.ask("open", first.open(bytes(20)), ["a"])
    with pytest.raises(StorageError):
        await rig.ask("index", first.index(), ["a"])
    await rig.ask("open", first.open(bytes(20)), ["b"])
    rig.disks["a"] = Disk()
    await rig.restart("a")
    await rig.ask("open", first.open(bytes(20)), ["a"])
    await rig.close()


async def serve_until_cut(rig, disk):
    """Ask keeper a for three openings, a put and a deletion, one after another; return the bodies that it answered."""
    people = People(2)
    bodies = [("put", people.put()), ("open", people.open(bytes(20))), ("delete", people.delete())]
    rig.keepers["a"].log._disk = rig.keepers["a"].log.leaves._disk = rig.keepers["a"]._months._disk = disk
    answered = []
    for op, body in bodies:
        jti = len(answered).to_bytes(16)
        try:
            await rig.ask(op, body, ["a"], jti=jti)
        except (AnwenError, Crash):
            break
        answered.append((op, body, jti))
    return people, answered


def crash(folder: Path):
    """What the disk holds when the machine stops, copied, since the process that holds it open goes on."""
    copy = folder.with_name(folder.name + "-after")
    shutil.copytree(folder, copy)
    return copy


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(14))
async def test_a_crash_at_any_durable_step_leaves_nothing_answered_unlogged(tmp_path, step, after):
    rig = await Rig(tmp_path).start(ceremonies=("record", "index", "mask"))
    rig.clock.now_s += 31 * DAY_S  # a new month's key and a new day's file are among the steps
    disk = CutDisk(step, after=after)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    people, answered = await serve_until_cut(rig, disk)
    assert (len(answered) < 3) == (disk.steps > step)
    old = rig.path("a")
    copy = crash(old)
    shutil.rmtree(old)
    copy.rename(old)
    rig.disks["a"] = Disk()
    keeper = rig.open("a")
    await keeper.start()
    logged = {json.loads(f.entry).get("jti"): json.loads(f.entry)["op"] for f in keeper.log.frames(0)}
    for op, body, jti in answered:
        assert logged[jti.hex()] == op
        with pytest.raises(GrantError):
            await rig.ask(op, body, ["a"], jti=jti)
    assert len(logged.keys() - {None}) <= len(answered) + 1
    if "delete" in logged.values():
        with pytest.raises(AnwenError, match="not opened"):
            await rig.ask("open", people.open(bytes(20)), ["a"])
    else:
        await rig.ask("open", people.open(bytes(20)), ["a"])
    await rig.close()


async def test_a_replaced_file_is_old_or_new_at_every_cut(tmp_path):
    path = tmp_path / "x"
    for after in (False, True):
        for step in range(4):
            Disk().replace(path, b"old")
            with pytest.raises(Crash):
                CutDisk(step, after=after).replace(path, b"new")
            assert path.read_bytes() in (b"old", b"new")
            Disk().replace(path, b"newer")
            assert path.read_bytes() == b"newer"


# --- folder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["identity.key", "keys/record-1.keys", "log/months/2023-11.key", "tls.key"])
async def test_a_key_that_others_may_read_stops_the_start(rig, name):
    from anwen.errors import PolicyError

    await rig.ask("open", People(1).open(bytes(20)), ["a"])
    path = rig.path("a") / name
    if name == "tls.key":
        path.write_bytes(b"x")
    path.chmod(0o640)
    await rig.keepers["a"].close()
    with pytest.raises(PolicyError, match="expected 0600"):
        rig.open("a")
    path.chmod(0o600)
    rig.open("a")


async def test_lost_or_exchanged_files_stop_the_start(rig):
    keeper, path = rig.keepers["a"], rig.path("a")
    await keeper.close()
    keys = path / "keys" / "record-1.keys"
    content = keys.read_bytes()
    at = content.index(b'"transcript":"') + 14
    elsewhere = content[:at] + bytes(reversed(content[at : at + 64])) + content[at + 64 :]  # of another ceremony
    for other in (None, (path / "keys" / "index-1.keys").read_bytes(), b"{}", b"junk", content[:-9], elsewhere):
        keys.unlink()
        if other is not None:
            files.Disk().replace(keys, other, 0o600)
        with pytest.raises(AnwenError, match=r"record-1\.keys"):
            rig.open("a")
        files.Disk().replace(keys, content, 0o600)
    lasting = path / "log" / "lasting"
    whole = lasting.read_bytes()
    lasting.write_bytes(whole + (10**6).to_bytes(8))
    with pytest.raises(StorageError):
        rig.open("a")
    lasting.write_bytes(whole)
    (path / "identity.key").write_bytes(b"short")
    with pytest.raises(AnwenError):
        rig.open("a")


async def test_denials_cannot_be_dropped_from_the_list(rig):
    """Delete, truncate or swap the list."""
    people = People(1)
    await rig.ask("delete", people.delete())
    rig.clock.now_s += 3 * DAY_S
    await rig.ask("open", People(1).open(bytes(20)))
    await rig.keepers["a"].close()
    path = rig.path("a") / "log" / "lasting"
    whole = path.read_bytes()
    for tampered in (b"", whole[:-8], whole[:-8] + whole[:8], whole[:-8] + (4).to_bytes(8), whole + whole[-8:]):
        path.write_bytes(tampered)
        with pytest.raises(StorageError):
            rig.open("a")
    path.write_bytes(whole)
    rig.open("a")
    await rig.keepers["a"].start()
    assert rig.clock.now_s > START_S
    with pytest.raises(AnwenError, match="not opened"):
        await rig.ask("open", people.open(bytes(20)), ["a"])


class GatedDisk(Disk):
    """A disk whose next sync waits for `gate`, and says which threads synced."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.threads = []

    def sync(self, fd):
        assert self.gate.wait(30)
        self.threads.append(threading.current_thread() is threading.main_thread())
        super().sync(fd)


async def test_a_slow_disk_leaves_the_event_loop_free_and_a_fast_one_needs_no_thread(tmp_path, monkeypatch):
    disk = GatedDisk()
    log = opened(tmp_path, disk)
    monkeypatch.setattr("anwen.keeper.log._SHORT_S", 0.0)  # whatever a write takes counts as slow
    for i in range(2):
        disk.gate.clear()
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, disk.gate.set)  # needs a free loop
        await log.commit(log.append(DAY, entry(i), b""))
    assert disk.threads[-2:] == [False, False]
    monkeypatch.setattr("anwen.keeper.log._SHORT_S", 60.0)
    await log.commit(log.append(DAY, entry(2), b""))
    assert disk.threads[-1]
    assert indexes(log) == [(0, 0), (1, 1), (2, 2)]
    await log.close()
