"""Processor time shared out among zones, as if each had a machine of its own: a control group for each of them.

Three zones on one machine harm each other in a way that three machines do not: a database member that starts takes the
processors from those that go on. Groups have equal weight, and that of a zone that starts next to none: it gets what
the others leave.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

GONE_S = 5.0
WEIGHTS = {"cpu.shares": (1024, 51), "cpu.weight": (100, 5)}
"""By version of the interface: the usual weight, and that of a zone that starts."""
_ENTER = 'echo $$ > "$0" && exec "$@"'


class Processors:
    """Control groups of equal weight, by name; none where this user may not make them."""

    def __init__(self, names: Sequence[str]) -> None:
        """Make the groups, which `close` removes."""
        self._groups: dict[str, Path] = {}
        parent = _parent()
        try:
            if parent is not None:
                for name in names:
                    group = parent / f"anw{os.getpid()}-{name}"
                    group.mkdir()
                    self._groups[name] = group
        except OSError:
            self.close()
        equal = "an equal share of the processors for each zone and the clients, what is left for a zone that starts"
        self.title = equal if self._groups else "zones and clients take each other's processor time"

    def prefix(self, name: str) -> list[str]:
        """Return the command that starts a process in a group; it does not fork."""
        return ["sh", "-c", _ENTER, f"{self._groups[name]}/cgroup.procs"] if self._groups else []

    def starts(self, name: str) -> None:
        """Let a group have what the others leave, until `started`."""
        self._weigh([name], 1)

    def started(self) -> None:
        """Give all groups equal weight."""
        self._weigh(self._groups, 0)

    def _weigh(self, names: Iterable[str], which: int) -> None:
        for group in (self._groups[name] for name in names if name in self._groups):
            for file, weights in WEIGHTS.items():
                if (group / file).exists():
                    (group / file).write_text(str(weights[which]))

    def close(self) -> None:
        """Remove the groups, whose processes have ended."""
        until = time.monotonic() + GONE_S
        for group in self._groups.values():
            while group.exists() and time.monotonic() < until:
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.05)  # the kernel counts a process that has just ended a little longer
        self._groups.clear()


def taken_s(pid: int) -> float:
    """Return the processor time that a process has taken; 0 if it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _parent() -> Path | None:
    """Return the group in which groups can be made that share out processor time; version 1 or 2 of the interface."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        mount, (system, _, options) = Path(place.split()[4]), kind.split()[:3]
        if system == "cgroup" and "cpu" in options.split(","):
            return mount / _own("cpu")
        if system == "cgroup2":
            own = mount / _own("")
            with contextlib.suppress(OSError):  # not ours to change, or no controller of processor time in it
                (own / "cgroup.subtree_control").write_text("+cpu")
                return own
    return None


def _own(controller: str) -> str:
    """Return this process's group in the hierarchy of a controller; "": in that of version 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    return ""
