"""Where a zone's processes live: network namespaces joined by a bridge, or addresses of the loopback interface.

Namespaces, bridge and virtual links have names that hold this process's id and are removed by `close`. The clients of a
rehearsal stay outside, at the bridge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from anwen.errors import UnavailableError

COMMAND_S = 20.0
ROUND_TRIP_S = 0.2
"""What a slow link adds to every round trip."""


class Network(Protocol):
    """The links between zones and to the clients."""

    title: str
    hosts: dict[str, str]
    can: frozenset[str]
    """Of "cut", "slow" and "mount": what can be done to a zone here."""

    def prefix(self, zone: str) -> list[str]:
        """Return the command that a zone's processes are started with."""

    def cut(self, zone: str, *, clients: bool = True) -> None:
        """Let nothing through to and from a zone, or only to and from the clients; silence, no reset."""

    def slow(self, zone: str) -> None:
        """Add 200 ms to every round trip with a zone."""

    def mend(self, zone: str) -> None:
        """Undo `cut` and `slow`."""

    def mount(self, folder: Path, size_bytes: int) -> None:
        """Make an empty folder a file system of its own."""

    def close(self) -> None:
        """Remove what was made."""


class Loopback:
    """All zones on one network that cannot be cut."""

    title = "processes on loopback addresses: no root with `ip netns` here, so nothing can be cut off, slowed or filled"
    can: frozenset[str] = frozenset()

    def __init__(self, zones: Sequence[str]) -> None:
        self.hosts = {zone: f"127.0.0.{i + 1}" for i, zone in enumerate(zones)}

    def prefix(self, zone: str) -> list[str]:
        assert zone in self.hosts
        return []

    def cut(self, zone: str, *, clients: bool = True) -> None:
        raise UnavailableError(f"zone {zone}: cannot be cut off {'' if clients else 'from the others '}here")

    def slow(self, zone: str) -> None:
        raise UnavailableError(f"zone {zone}: cannot be slowed here")

    def mend(self, zone: str) -> None:
        assert zone in self.hosts

    def mount(self, folder: Path, size_bytes: int) -> None:
        raise UnavailableError(f"{folder}: no file system of {size_bytes} bytes can be made here")

    def close(self) -> None:
        pass


class Namespaces:
    """Each zone in a network namespace of its own, all of them and the clients at one bridge."""

    can = frozenset({"cut", "slow", "mount"})

    def __init__(self, zones: Sequence[str]) -> None:
        self.name = f"anw{os.getpid()}"
        net = _free_net()
        self.hosts = {zone: f"{net}.{i + 2}" for i, zone in enumerate(zones)}
        self._relays: dict[str, subprocess.Popen[bytes]] = {}
        self._mounts: list[Path] = []
        try:
            _ip("link", "add", self.name, "type", "bridge")
            self._netem = self._has_netem()
            _ip("addr", "add", f"{net}.1/24", "dev", self.name)
            _ip("link", "set", self.name, "up")
            for zone, host in self.hosts.items():
                self._join(zone, host)
        except BaseException:
            self.close()
            raise

        relay = "netem" if self._netem else "a relay in user space (this kernel has no netem)"
        self.title = f"a network namespace for each zone, joined by a bridge; slow links by {relay}"

    def _has_netem(self) -> bool:
        try:
            _run("tc", "qdisc", "add", "dev", self.name, "root", "netem", "delay", "1ms")
            _run("tc", "qdisc", "del", "dev", self.name, "root")
        except UnavailableError:
            return False
        return True

    def _join(self, zone: str, host: str) -> None:
        inside, port = self._namespace(zone), self._port(zone)
        _ip("netns", "add", inside)
        _ip("link", "add", port, "type", "veth", "peer", "name", "zone", "netns", inside)
        _ip("link", "set", port, "master", self.name, "up")
        _ip("-n", inside, "addr", "add", f"{host}/24", "dev", "zone")
        for link in ("lo", "zone"):
            _ip("-n", inside, "link", "set", link, "up")

    def _namespace(self, zone: str) -> str:
        return f"{self.name}-{zone}"

    def _port(self, zone: str) -> str:
        return f"{self.name}{zone}"

    def prefix(self, zone: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(zone)]

    def cut(self, zone: str, *, clients: bool = True) -> None:
        if clients:
            _ip("link", "set", self._port(zone), "down")
            return
        for other, host in self.hosts.items():
            if other != zone:  # what comes from there is not answered either
                _ip("-n", self._namespace(zone), "route", "add", "blackhole", host)

    def slow(self, zone: str) -> None:
        if self._netem:
            delay = f"{ROUND_TRIP_S * 1000:g}ms"
            _run("tc", "qdisc", "add", "dev", self._port(zone), "root", "netem", "delay", delay, "limit", "100000")
            return
        port, side = self._port(zone), f"{self.name}r{zone}"
        _ip("link", "add", side, "type", "veth", "peer", "name", f"{side}b")
        _ip("link", "set", port, "nomaster", "arp", "off")  # between: all of it goes through the relay
        _ip("link", "set", side, "arp", "off", "up")
        _ip("link", "set", f"{side}b", "master", self.name, "up")
        command = [sys.executable, "-m", "anwen.rehearse.outage.delay", port, side, str(ROUND_TRIP_S / 2)]
        self._relays[zone] = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module

    def mend(self, zone: str) -> None:
        port = self._port(zone)
        if zone in self._relays:
            self._end_relay(zone)
            _ip("link", "del", f"{self.name}r{zone}")
        with contextlib.suppress(UnavailableError):  # there is none
            _run("tc", "qdisc", "del", "dev", port, "root")
        _ip("link", "set", port, "master", self.name, "arp", "on", "up")
        for host in self.hosts.values():
            with contextlib.suppress(UnavailableError):  # was not cut off from it
                _ip("-n", self._namespace(zone), "route", "del", "blackhole", host)

    def _end_relay(self, zone: str) -> None:
        with self._relays.pop(zone) as relay:
            relay.kill()

    def mount(self, folder: Path, size_bytes: int) -> None:
        _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(folder))
        self._mounts.append(folder)

    def close(self) -> None:
        for folder in self._mounts:
            with contextlib.suppress(UnavailableError):
                _run("umount", "--lazy", str(folder))
        for zone in list(self._relays):
            self._end_relay(zone)
        for zone in self.hosts:
            links = (("link", "del", self._port(zone)), ("link", "del", f"{self.name}r{zone}"))
            for gone in (*links, ("netns", "del", self._namespace(zone))):
                with contextlib.suppress(UnavailableError):
                    _ip(*gone)
        with contextlib.suppress(UnavailableError):
            _ip("link", "del", self.name)


def network(zones: Sequence[str]) -> Network:
    """Return namespaces where this user may make them, else loopback addresses."""
    if os.geteuid() == 0 and shutil.which("ip"):
        with contextlib.suppress(UnavailableError):
            return Namespaces(zones)
    return Loopback(zones)


def _free_net() -> str:
    """Return the first three numbers of a /24 that no route of this machine touches."""
    routes = _ip("-4", "route", "show", "table", "all")
    return next(net for i in range(256) if f"{(net := f'10.{213 + i % 16}.{(os.getpid() + i) % 256}')}." not in routes)


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=COMMAND_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{' '.join(command)}: {type(error).__name__}") from error
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
