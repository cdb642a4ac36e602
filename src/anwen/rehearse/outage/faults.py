"""What is done to a zone, how it is undone, and how each is proved from outside.

A fault's `begin` returns what was seen of it, or raises NotProvedError when it did not take hold.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from anwen.errors import ClockError, GrantError, UnavailableError
from anwen.rehearse import preload
from anwen.rehearse.outage import steps
from anwen.rehearse.outage.databases import living
from anwen.rehearse.outage.network import ROUND_TRIP_S
from anwen.rehearse.outage.zones import PARTS, ZONES, Zones, zone_folder

SILENT_S = 0.5
SKEW_S = 60
PROOF_S, PROOF_STEP_S = 5.0, 0.01
WHOLE_S = 120.0
LOADED_S = 30.0
"""How long a zone serves the load before the next one stops, as docs/upgrade.md asks: what it runs for the first time
is slow, and with one zone out every quorum waits for it. Nothing tells when that is over."""
LAST_TURN = 2
"""The third run of a zone is harmed in another way: cut off from zones alone, clock behind."""


class NotProvedError(UnavailableError):
    """A fault did not take hold, so a run of it says nothing."""


@dataclass(frozen=True)
class Fault:
    """One way to harm a zone. `needs`: what this machine must be able to do.

    `turn` counts the runs on one zone, from 0. With more than one of `zones_lost`, callers see errors.
    """

    title: str
    begin: Callable[[Zones, str, int], Awaitable[str]]
    restore: Callable[[Zones, str], Awaitable[None]]
    needs: str = ""
    lasts: bool = True  # else it is over when `begin` returns
    repeated: bool = False  # else once for each zone, however many runs are asked for
    zones_lost: int = 1
    seconds: tuple[float, ...] = (30.0,)  # how long it lasts, by turn
    least_s: float = 0.0  # whatever is asked for


async def _nothing(_: Zones, __: str, ___: int = 0) -> str:
    return "nothing was done"


async def _undone(zones: Zones, zone: str) -> None:
    del zones, zone


# --- killed ----------------------------------------------------------------------------------------------------------


def _killing(parts: Collection[str]) -> Callable[[Zones, str, int], Awaitable[str]]:
    async def kill(zones: Zones, zone: str, _: int) -> str:
        pids = zones.pids(zone, parts)
        if not pids:
            raise NotProvedError(f"zone {zone}: no process of {', '.join(parts)}")
        await zones.kill(zone, parts)
        if left := living(pids):
            raise NotProvedError(f"zone {zone}: processes {left} live")
        for host, port in zones.addresses(zone, parts):
            if (said := await _knock(host, port)) != "refused":
                raise NotProvedError(f"zone {zone}: {host}:{port} {said}")
        return f"{len(pids)} processes gone, their ports refuse"

    return kill


async def _start(zones: Zones, zone: str) -> None:
    await zones.restart(zone)


async def _knock(host: str, port: int) -> str:
    """Return what a connection meets: "open", "refused" or "silent"."""
    try:
        async with asyncio.timeout(SILENT_S):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return "refused"
    except (TimeoutError, OSError):
        return "silent"
    writer.transport.abort()
    return "open"


# --- hung ------------------------------------------------------------------------------------------------------------


def _states(pids: Collection[int]) -> set[str]:
    """Return the states of all threads of some processes, as the kernel names them ("T": stopped)."""
    stats = (task.read_text() for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/stat"))
    return {text.rpartition(")")[2].split()[0] for text in stats}


async def _freeze(zones: Zones, zone: str, _: int) -> str:
    pids = zones.pids(zone)
    zones.signal(zone, signal.SIGSTOP)
    await _until(lambda: _states(pids) == {"T"}, f"zone {zone}: not all threads are stopped")
    return f"{len(pids)} processes in state T"


async def _thaw(zones: Zones, zone: str) -> None:
    zones.signal(zone, signal.SIGCONT)


async def _until(seen: Callable[[], bool], problem: str) -> None:
    until = time.monotonic() + PROOF_S
    while not seen():
        if time.monotonic() > until:
            raise NotProvedError(problem)
        await asyncio.sleep(PROOF_STEP_S)  # the kernel gives no event for it


# --- cut off, slow ---------------------------------------------------------------------------------------------------


async def _cut(zones: Zones, zone: str, turn: int) -> str:
    zones.network.cut(zone, clients=turn != LAST_TURN)
    met = {await _knock(host, port) for host, port in zones.addresses(zone)}
    if turn == LAST_TURN:
        heard = await _heard(zones, zone)
        if met != {"open"} or heard:
            raise NotProvedError(f"zone {zone}: clients meet {met}, zones {heard} reach it")
        return "clients reach it, no reply to any other zone"
    if met != {"silent"}:
        raise NotProvedError(f"zone {zone}: {met}")
    return "its ports neither answer nor refuse"


async def _heard(zones: Zones, zone: str) -> list[str]:
    """Return the zones that still get a connection to a zone's keeper."""
    address = next(zones.addresses(zone, ["keeper"]))
    code = f"import socket; socket.create_connection({address!r}, {SILENT_S})"
    heard = []
    for other in ZONES:
        if other != zone:
            command = [*zones.network.prefix(other), sys.executable, "-c", code]
            process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            if await process.wait() == 0:
                heard.append(other)
    return heard


async def _slow(zones: Zones, zone: str, _: int) -> str:
    zones.network.slow(zone)
    took = 0.0
    until = time.monotonic() + PROOF_S
    while not 0.9 * ROUND_TRIP_S <= took <= 1.5 * ROUND_TRIP_S:
        if time.monotonic() > until:
            raise NotProvedError(f"zone {zone}: round trip {took * 1000:.0f} ms")
        before = time.monotonic()
        for host, port in zones.addresses(zone, ["keeper"]):
            await _knock(host, port)
        took = time.monotonic() - before
    return f"round trip {took * 1000:.0f} ms"


async def _mend(zones: Zones, zone: str) -> None:
    zones.network.mend(zone)


# --- disk, clock -----------------------------------------------------------------------------------------------------


async def _fill(zones: Zones, zone: str, _: int) -> str:
    folder = zone_folder(zones.folder, zone)
    with (folder / "filling").open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    free = os.statvfs(folder).f_bavail
    if free:
        raise NotProvedError(f"zone {zone}: {free} blocks of its disk are free")
    return "no byte free"


async def _empty(zones: Zones, zone: str) -> None:
    (zone_folder(zones.folder, zone) / "filling").unlink()
    await zones.terminate(zone)  # a keeper whose log met a full disk answers nothing more until it is started again
    await zones.restart(zone)


async def _skew(zones: Zones, zone: str, turn: int) -> str:
    by = -SKEW_S if turn == LAST_TURN else SKEW_S
    preload.set_clock(zone_folder(zones.folder, zone) / "clock", by)
    offset, until = 0.0, time.monotonic() + PROOF_S
    while abs(offset - by) > 1:
        if time.monotonic() > until:
            raise NotProvedError(f"zone {zone}: its clock is {offset:+.1f} s ahead")
        try:
            offset = await zones.clock_offset(zone, by)
        except ClockError:
            return "its keeper says that its clock is wrong, and refuses"
        except (GrantError, UnavailableError):
            pass  # between two clocks, its answers count neither way
        await asyncio.sleep(PROOF_STEP_S)
    return f"its clock reads {offset:+.1f} s"


async def _set_clock(zones: Zones, zone: str) -> None:
    preload.set_clock(zone_folder(zones.folder, zone) / "clock", 0)


# --- several zones ---------------------------------------------------------------------------------------------------


async def _upgrade(zones: Zones, zone: str, _: int) -> str:
    """Stop and start each zone, one after another, from `zone` on."""
    first = ZONES.index(zone)
    for each in ZONES[first:] + ZONES[:first]:
        if each != zone:
            await asyncio.sleep(LOADED_S)
        old = zones.pids(each)
        await zones.terminate(each)
        await zones.restart(each)
        await zones.whole(WHOLE_S)
        if set(old) & set(zones.pids(each)):
            raise NotProvedError(f"zone {each}: the same processes")
    return "every process is another one"


async def _kill_two(zones: Zones, zone: str, turn: int) -> str:
    """Kill all zones but one; they stop at one moment, so that from then on nothing may be acknowledged."""
    others = [each for each in ZONES if each != zone]
    for each in others:
        zones.signal(each, signal.SIGSTOP)
    return "; ".join([await _killing(PARTS)(zones, each, turn) for each in others])


async def _start_two(zones: Zones, zone: str) -> None:
    async with asyncio.TaskGroup() as starting:
        for each in ZONES:
            zones.signal(each, signal.SIGCONT)  # it may have been stopped and not killed
            if each != zone:
                starting.create_task(zones.restart(each))


FAULTS = {
    "none": Fault("nothing: what the figures are without a fault", _nothing, _undone, zones_lost=0),
    "kill": Fault("every process of the zone killed at one moment", _killing(PARTS), _start, repeated=True),
    "hang": Fault("every process of the zone stopped", _freeze, _thaw, repeated=True, seconds=(4.0, 10.0, 30.0)),
    "partition": Fault("the zone cut off: silence, no reset", _cut, _mend, "cut", repeated=True),
    "slow": Fault("200 ms more for every round trip with the zone", _slow, _mend, "slow", repeated=True),
    "disk": Fault("the zone's file system full", _fill, _empty, "mount", repeated=True),
    "skew": Fault("the zone's wall clock a minute wrong", _skew, _set_clock, repeated=True),
    "keeper": Fault("only the zone's keeper killed", _killing(["keeper"]), _start),
    "node": Fault("only the zone's node killed", _killing(["node"]), _start),
    "database": Fault("only the zone's database member killed", _killing(["database"]), _start, "member"),
    "upgrade": Fault("zones stopped and started, the same build, one after another", _upgrade, _undone, lasts=False),
    "steps": Fault(
        "the zone killed, the others started again, a client added, a node moved, a policy signed and published",
        steps.without, steps.catch_up, lasts=False, zones_lost=2,
    ),
    "two": Fault("all zones but this one killed", _kill_two, _start_two, zones_lost=2, least_s=4.0),
}  # fmt: skip
"""By name, in the order in which they are rehearsed."""
