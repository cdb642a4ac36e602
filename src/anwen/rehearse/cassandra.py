"""A Cassandra cluster of one's own, for tests and rehearsals: a member a zone, started, killed, hung, stopped.

Members are plain Java processes on loopback addresses that end with whoever started them. Their jars come from Maven
Central once, checked against committed hashes before each start. Durability settings are those that Anwen asks for;
everything else is small, and quick to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from anwen.errors import IntegrityError, UnavailableError
from anwen.rehearse.bound import bound

START_S, STOP_S, FETCH_S = 180.0, 20.0, 600.0
JAVA = 17
READY = b"Startup complete"
_STEP_S = 0.05
_SLACK_NS = 1_000_000
"""Threads of a member that have nothing to do sleep for 10 µs at a time and look again, which on a machine of few
processors takes more of them than statements do: with this they look once in a millisecond."""
_HERE = Path(__file__).parent

_EXPORTS = (
    "java.base/jdk.internal.misc", "java.base/java.lang.ref", "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server", "java.sql/java.sql", "jdk.unsupported/sun.misc",
)  # fmt: skip
_OPENS = (
    "java.base/java.io", "java.base/java.lang", "java.base/java.lang.module", "java.base/java.lang.reflect",
    "java.base/java.math", "java.base/java.net", "java.base/java.nio", "java.base/java.util",
    "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math", "java.base/jdk.internal.module", "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect", "java.base/jdk.internal.util.jar", "java.base/sun.nio.ch",
    "jdk.management/com.sun.management.internal",
)  # fmt: skip
"""Parts of Java 17 that Cassandra reaches into."""

_LOGBACK = """<configuration><appender name="O" class="ch.qos.logback.core.ConsoleAppender"><encoder>
<pattern>%d{HH:mm:ss.SSS} %-5level %thread %logger{0} %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="O"/></root></configuration>
"""


@cache
def missing() -> str | None:
    """Return what this machine lacks to run members; None: nothing."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            return f"{program} is not installed: Java {JAVA} and Maven run and fetch Cassandra"
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=False).stderr  # noqa: S607
    version = next((line for line in said.splitlines() if " version " in line), "none")
    if f' version "{JAVA}.' not in version:
        return f"Java {JAVA} is not installed, but {version}"
    return None


def fetch(cache_folder: Path) -> Path:
    """Return the folder of Cassandra's jars, fetched unless they are there, their hashes checked.

    Raises: UnavailableError: they cannot be fetched. IntegrityError: they are not those that were committed.
    """
    expected = _committed()
    jars = cache_folder / hashlib.sha256(json.dumps(expected).encode()).hexdigest()[:16]
    if not jars.exists():
        cache_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder) as folder:
            _maven(Path(folder))
            with contextlib.suppress(OSError):  # somebody else was faster
                (Path(folder) / "jars").rename(jars)
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(jars.iterdir())}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise IntegrityError(f"{jars.name}: not the jars that were committed: {', '.join(wrong)}")
    return jars


def _committed() -> dict[str, str]:
    lines = (_HERE / "cassandra_jars.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _maven(folder: Path) -> None:
    shutil.copy(_HERE / "cassandra_pom.xml", folder / "pom.xml")
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [*command, f"-DoutputDirectory={folder / 'jars'}"], cwd=folder, capture_output=True, text=True,
            timeout=FETCH_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"Maven did not fetch Cassandra within {FETCH_S:.0f} s") from None
    if done.returncode:
        raise UnavailableError(f"Maven could not fetch Cassandra: {done.stdout.strip().splitlines()[:1]}")


class Cluster:
    """A member in each zone, which is a rack of one data centre."""

    def __init__(
        self,
        folder: Path,
        zones: Sequence[str] = ("a", "b", "c"),
        addresses: Mapping[str, str] | None = None,
        *,
        ports: tuple[int, int] = (9042, 7000),
        prefix: Callable[[str], list[str]] = lambda _: [],
        options: Mapping[str, object] | None = None,
        cache_folder: Path | None = None,
    ) -> None:
        """Take a folder, made at the first start.

        Args:
            addresses: of each zone's member; 127.0.0.11 and those after it.
            ports: for clients, and between members; the same in all zones.
            prefix: what to run a zone's member under, such as a network namespace; it must not fork.
            options: further settings of `cassandra.yaml`, also others than Anwen's, for tests.
            cache_folder: where jars are kept.
        """
        self.folder, self.zones = folder, tuple(zones)
        self.addresses = dict(addresses or {zone: f"127.0.0.{11 + i}" for i, zone in enumerate(zones)})
        self.ports, self._prefix, self._options = ports, prefix, dict(options or {})
        self._cache = cache_folder or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anwen"
        self._jars: Path | None = None
        self._members: dict[str, subprocess.Popen[bytes]] = {}
        self._log_from: dict[str, int] = {}

    async def start(self) -> None:
        """Start all members; return when they take clients and know of each other, which comes later on a busy machine.

        Raises: UnavailableError, IntegrityError.
        """
        try:
            for zone in self.zones:
                await self.launch(zone)
            for zone in self.zones:
                others = [a for z, a in self.addresses.items() if z != zone]
                await self._logged(zone, READY, *(f"/{a}:{self.ports[1]} is now UP".encode() for a in others))
        except BaseException:
            await self.stop()
            raise

    async def start_member(self, zone: str) -> None:
        """Start one member; return when it takes clients."""
        await self.launch(zone)
        await self.ready(zone)

    async def launch(self, zone: str) -> None:
        """Start one member and return at once. From a thread that outlives it: the member ends with its thread."""
        if reason := missing():
            raise UnavailableError(reason)
        if self._jars is None:
            self._jars = await asyncio.to_thread(fetch, self._cache)
        folder = self.folder / zone
        if not (folder / "cassandra.yaml").exists():
            self._configure(zone, folder)
        with (folder / "log").open("ab") as log:
            self._log_from[zone] = log.tell()
            self._members[zone] = subprocess.Popen(  # noqa: ASYNC220, S603 - returns at once; our own command
                [*self._prefix(zone), *bound(*self._java(folder), slack_ns=_SLACK_NS)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True,
            )  # fmt: skip

    async def ready(self, zone: str) -> None:
        """Return when a member takes clients. Raises UnavailableError: it ended, or it took 180 s."""
        await self._logged(zone, READY)

    async def _logged(self, zone: str, *texts: bytes) -> None:
        member, until = self._members[zone], time.monotonic() + START_S
        while True:
            with (self.folder / zone / "log").open("rb") as log:
                log.seek(self._log_from[zone])
                said = log.read()
            if all(text in said for text in texts):
                return
            if member.poll() is not None or time.monotonic() > until:
                self.kill(zone)
                last = said.decode(errors="replace").strip().splitlines()[-1:]
                raise UnavailableError(f"cassandra {zone} did not start: {' '.join(last) or 'no reason given'}")
            await asyncio.sleep(_STEP_S)  # it says so in its log alone

    def pid(self, zone: str) -> int:
        """Return the process id of a zone's member. Raises UnavailableError: it was not started."""
        if zone not in self._members:
            raise UnavailableError(f"cassandra {zone}: not started")
        return self._members[zone].pid

    def signal(self, zone: str, number: int) -> None:
        """Send a signal to a zone's member."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid(zone), number)

    def kill(self, zone: str) -> None:
        """End a member at once; returns when it is gone."""
        self._members[zone].kill()
        self._members[zone].wait()

    async def stop(self) -> None:
        """End all members in good order; kills those that do not within 20 s."""
        for zone in self._members:
            self.signal(zone, signal.SIGCONT)
            self.signal(zone, signal.SIGTERM)
        for zone, member in self._members.items():
            try:
                await asyncio.to_thread(member.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self.kill(zone)

    def settings(self, zone: str) -> dict[str, object]:
        """Return "store" of `node.json` for a node in a zone."""
        points = [f"{self.addresses[z]}:{self.ports[0]}" for z in self.zones]
        return {"contact_points": points, "keyspace": "anwen", "zone": zone}

    # --- parts ---------------------------------------------------------------------------------------------------

    def _java(self, folder: Path) -> list[str]:
        assert self._jars is not None
        properties = {
            "cassandra.config": f"file://{folder}/cassandra.yaml",
            "cassandra-rackdc.properties": f"file://{folder}/cassandra-rackdc.properties",
            "cassandra.storagedir": folder,
            "logback.configurationFile": f"file://{folder}/logback.xml",
            "cassandra-foreground": "yes",
            # three members that know each other need not wait for a ring to calm down
            "cassandra.skip_wait_for_gossip_to_settle": 0,
            "cassandra.ring_delay_ms": 1000,
            "cassandra.shutdown_announce_in_ms": 0,
            "cassandra.approximate_time_precision_ms": 20,  # else a thread wakes every 2 ms to look at the clock
            "cassandra.set_sep_thread_name": "false",  # a system call for each task
            # where a test has its members ask for passwords; tried again as often while another member is down
            "cassandra.superuser_setup_delay_ms": 1000,
            "jdk.attach.allowAttachSelf": "true",
        }
        return [
            "java", "-Xms256M", "-Xmx768M", "-Xss256k", "-XX:+UseSerialGC", "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            # the second compiler takes a core for minutes, and longer than most members of a test live
            "-XX:TieredStopAtLevel=1",
            *(f"--add-exports={part}=ALL-UNNAMED" for part in _EXPORTS),
            *(f"--add-opens={part}=ALL-UNNAMED" for part in _OPENS),
            *(f"-D{name}={value}" for name, value in properties.items()),
            "-cp", f"{self._jars}/*", "org.apache.cassandra.service.CassandraDaemon",
        ]  # fmt: skip

    def _configure(self, zone: str, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        (folder / "cassandra-rackdc.properties").write_text(f"dc=zones\nrack={zone}\n")
        (folder / "logback.xml").write_text(_LOGBACK)
        # JSON is YAML
        (folder / "cassandra.yaml").write_text(json.dumps(self._yaml(zone, folder) | self._options, indent=1))

    def _yaml(self, zone: str, folder: Path) -> dict[str, object]:
        place = self.zones.index(zone)
        seeds = ",".join(f"{address}:{self.ports[1]}" for address in self.addresses.values())
        return {
            "cluster_name": "anwen",
            "num_tokens": 1,
            "initial_token": str(-(2**63) + (place + 1) * (2**64 // (len(self.zones) + 1))),
            "auto_bootstrap": False,
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "GossipingPropertyFileSnitch",
            "seed_provider": [
                {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider", "parameters": [{"seeds": seeds}]}
            ],
            "listen_address": self.addresses[zone],
            "rpc_address": self.addresses[zone],
            "native_transport_port": self.ports[0],
            "storage_port": self.ports[1],
            "data_file_directories": [f"{folder}/data"],
            **{f"{name}_directory": f"{folder}/{name}" for name in ("commitlog", "saved_caches", "hints", "cdc_raw")},
            "commitlog_sync": "batch",
            "auto_snapshot": False,
            "disk_failure_policy": "die",
            "commit_failure_policy": "die",
            "commitlog_segment_size": "8MiB",
            "commitlog_total_space": "64MiB",
            "memtable_heap_space": "96MiB",
            "memtable_offheap_space": "64MiB",
            "file_cache_size": "32MiB",
            "key_cache_size": "8MiB",
            "concurrent_reads": 16,
            "concurrent_writes": 32,
            "paxos_variant": "v2",
            # what a zone missed comes over some seconds instead of one, in which all members' processors would be full
            "hinted_handoff_throttle": "128KiB",
        }
