"""PostgreSQL behind Patroni, for rehearsals: in each zone a server, its Patroni, and a member of etcd.

The peer of a store that needs no election. Timers are Patroni's own defaults, which it supports, and commits wait for
a standby in another zone, else a switch-over could lose them. Patroni and what it needs are installed once in an
environment of their own, checked against committed hashes; etcd and PostgreSQL are Debian's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from anwen.errors import UnavailableError
from anwen.net.tls import make_certificate
from anwen.rehearse import postgresql
from anwen.rehearse.bound import bound

TTL_S, LOOP_WAIT_S, RETRY_TIMEOUT_S = 30, 10, 10
"""Patroni's defaults: a leader that is lost is followed after at most `ttl`, and an election."""
START_S, INSTALL_S, ASK_S, STOP_S = 180.0, 600.0, 1.0, 20.0
_POSTGRESQL, _REST, _ETCD, _ETCD_PEERS = 5432, 8008, 2379, 2380
_STEP_S = 0.2
_HERE = Path(__file__).parent
_APART = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--pid", "--mount-proc", "--fork", "--kill-child")
"""Not as root, which PostgreSQL refuses, yet with this user's files; with the first process all others end."""


def missing() -> str | None:
    """Return what this machine lacks to run it; None: nothing."""
    for program in ("etcd", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if subprocess.run([*_APART, "true"], check=False, capture_output=True).returncode:  # noqa: S603 - our own command
        return "no namespaces of users and processes can be made here"
    return postgresql.missing()


def install(cache_folder: Path) -> Path:
    """Return the program, installed unless it is there. Raises UnavailableError."""
    requirements = _HERE / "patroni.lock"
    environment = cache_folder / f"patroni-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}"
    if not environment.exists():
        cache_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder) as scratch:
            made = Path(scratch) / "environment"
            steps = (
                [sys.executable, "-m", "venv", str(made)],
                [f"{made}/bin/python", "-m", "pip", "install", "-q", "--require-hashes", "-r", str(requirements)],
            )
            for step in steps:
                try:
                    subprocess.run(step, check=True, timeout=INSTALL_S, capture_output=True)  # noqa: S603 - our own
                except (OSError, subprocess.SubprocessError) as error:
                    raise UnavailableError(f"Patroni could not be installed ({type(error).__name__})") from error
            with contextlib.suppress(OSError):  # somebody else was faster
                made.rename(environment)
    return environment


class Cluster:
    """A PostgreSQL server, a Patroni and a member of etcd in each zone. What a zone runs ends with this process."""

    def __init__(self, folder: Path, hosts: Mapping[str, str], prefix: Callable[[str], list[str]]) -> None:
        """Take a folder with one for each zone."""
        self._folder, self._hosts, self._prefix = folder, dict(hosts), prefix
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._password = secrets.token_hex(16)
        self._environment = Path()

    async def start(self) -> None:
        """Return when one server leads and the others follow. Raises UnavailableError."""
        if reason := missing():
            raise UnavailableError(reason)
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anwen"
        self._environment = await asyncio.to_thread(install, cache)
        self._configure()
        for zone in self._hosts:
            self._launch(zone)
        await self._until(self.whole, "one server leads and the others follow")

    async def start_member(self, zone: str) -> None:
        """Start a zone's part; return when its server runs."""
        self._launch(zone)
        await self._until(lambda: self._runs(zone), f"the server of zone {zone} runs")

    async def _until(self, seen: Callable[[], object], what: str) -> None:
        until = time.monotonic() + START_S
        while not await asyncio.to_thread(seen):
            if time.monotonic() > until:
                raise UnavailableError(f"Patroni: not within {START_S:.0f} s: {what}")
            await asyncio.sleep(_STEP_S)  # Patroni tells only those who ask

    def whole(self) -> bool:
        """Return whether one server leads and all others follow it, one of them so that each commit waits for it."""
        for zone in self._hosts:
            found = {(str(m.get("role")), str(m.get("state"))) for m in self._members(zone)}
            if found == {("leader", "running"), ("sync_standby", "streaming"), ("replica", "streaming")}:
                return True
        return False

    def _runs(self, zone: str) -> bool:
        return any(m["name"] == zone and m.get("state") in ("running", "streaming") for m in self._members(zone))

    def _members(self, zone: str) -> list[dict[str, object]]:
        try:
            with urllib.request.urlopen(f"http://{self._hosts[zone]}:{_REST}/cluster", timeout=ASK_S) as answer:
                members: list[dict[str, object]] = json.load(answer)["members"]
                return members
        except (OSError, ValueError, KeyError):
            return []

    def pids(self, zone: str) -> list[int]:
        """Return the processes of a zone, those that start others first."""
        found = [p.pid for p in self._processes.get(zone, []) if p.poll() is None]
        for pid in found:  # grows while it is read
            found += postgresql.children(pid)
        return found

    def kill(self, zone: str) -> None:
        """End all processes of a zone at once; returns when they are gone."""
        pids = self.pids(zone)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        for process in self._processes.get(zone, []):
            process.wait()
        postgresql.wait_gone(pids, STOP_S)

    async def stop_member(self, zone: str) -> None:
        """End a zone's processes: Patroni hands its lead over and stops its server, then etcd ends."""
        for process, inside in [(p, postgresql.children(p.pid)) for p in self._processes.get(zone, [])]:
            for pid in inside or [process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, STOP_S)
        self.kill(zone)

    async def stop(self) -> None:
        """End everything."""
        for zone in self._hosts:
            self.kill(zone)

    def settings(self) -> dict[str, object]:
        """Return "store" of `node.json`."""
        hosts = ",".join(self._hosts.values())
        return {
            "conninfo": f"host={hosts} port={_POSTGRESQL} dbname=postgres user=anwen sslmode=verify-full "
            f"sslrootcert={self._folder / 'trusted.crt'}",
            "password_file": str(self._folder / "password"),
        }

    # --- parts ---------------------------------------------------------------------------------------------------

    def _launch(self, zone: str) -> None:
        """Start etcd, and Patroni, which starts its server."""
        folder, host = self._folder / zone, self._hosts[zone]
        url = f"http://{host}"
        members = ",".join(f"{z}=http://{h}:{_ETCD_PEERS}" for z, h in self._hosts.items())
        etcd = [
            "etcd", "--name", zone, "--data-dir", f"{folder}/etcd", "--initial-cluster", members,
            "--listen-peer-urls", f"{url}:{_ETCD_PEERS}", "--initial-advertise-peer-urls", f"{url}:{_ETCD_PEERS}",
            "--listen-client-urls", f"{url}:{_ETCD}", "--advertise-client-urls", f"{url}:{_ETCD}",
        ]  # fmt: skip
        python = f"{self._environment}/bin/python"
        patroni = [*_APART, python, "-m", "patroni", f"{folder}/patroni.yaml"]
        self._processes[zone] = [self._run(zone, "etcd", etcd), self._run(zone, "patroni", patroni)]

    def _run(self, zone: str, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        folder = self._folder / zone
        with (folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                [*self._prefix(zone), *bound(*command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                start_new_session=True, env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )  # fmt: skip

    def _configure(self) -> None:
        _write(self._folder / "password", self._password.encode())
        keys = {zone: make_certificate(f"postgresql {zone}", host) for zone, host in self._hosts.items()}
        _write(self._folder / "trusted.crt", b"".join(certificate for _, certificate in keys.values()))
        for zone, (key, certificate) in keys.items():
            folder = self._folder / zone
            _write(folder / "server.key", key)
            _write(folder / "server.crt", certificate)
            _write(folder / "patroni.yaml", json.dumps(self._yaml(zone, folder)).encode())  # JSON is YAML

    def _yaml(self, zone: str, folder: Path) -> dict[str, object]:
        host, programs = self._hosts[zone], postgresql.programs()
        login = {"username": "anwen", "password": self._password}
        return {
            "scope": "anwen",
            "name": zone,
            "restapi": {"listen": f"{host}:{_REST}", "connect_address": f"{host}:{_REST}"},
            "etcd3": {"hosts": [f"{h}:{_ETCD}" for h in self._hosts.values()]},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_S,
                    "loop_wait": LOOP_WAIT_S,
                    "retry_timeout": RETRY_TIMEOUT_S,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{host}:{_POSTGRESQL}",
                "connect_address": f"{host}:{_POSTGRESQL}",
                "data_dir": f"{folder}/data",
                "bin_dir": str(programs),
                "authentication": {"superuser": login, "replication": login, "rewind": login},
                "parameters": {
                    "ssl": "on",
                    "ssl_cert_file": f"{folder}/server.crt",
                    "ssl_key_file": f"{folder}/server.key",
                    "unix_socket_directories": str(folder),
                    "shared_buffers": "64MB",
                },
                "pg_hba": [
                    "local all all scram-sha-256",
                    "hostssl all all all scram-sha-256",
                    "hostssl replication all all scram-sha-256",
                ],
            },
        }


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
