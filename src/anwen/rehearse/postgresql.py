"""A PostgreSQL server of one's own, for tests and rehearsals: made in a folder, started, killed, hung, stopped.

It runs as an unprivileged user and ends with whoever started it. Its durability settings are PostgreSQL's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import pwd
import secrets
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from anwen.errors import UnavailableError
from anwen.net.ports import free_port
from anwen.net.tls import make_certificate
from anwen.rehearse.bound import bound

START_S = 60.0
STOP_S = 20.0
_STEP_S = 0.01
_DEBIAN = "/usr/lib/postgresql"


def programs() -> Path | None:
    """Return the folder of the server's programs: on PATH, else Debian's newest."""
    found = shutil.which("postgres")
    folders = sorted(Path(_DEBIAN).glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    candidates = [Path(found).resolve().parent] if found else []
    return next((f for f in (*candidates, *folders) if (f / "postgres").exists() and (f / "initdb").exists()), None)


def missing() -> str | None:
    """Return what this machine lacks to run a server; None: nothing."""
    return None if programs() else f"PostgreSQL is not installed: no postgres and initdb on PATH or in {_DEBIAN}"


def install() -> None:
    """Install Debian's server package; needs root. Raises UnavailableError."""
    try:
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "postgresql"]):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", *arguments], check=True, timeout=600, env=environment)  # noqa: S603, S607 - fixed
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"postgresql could not be installed ({type(error).__name__})") from error


def user() -> tuple[int, int]:
    """Return user and group to run as: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise UnavailableError("expected a user postgres or nobody to run PostgreSQL as")


class Server:
    """One server in one folder, which the user it runs as must be able to reach."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", port: int = 0, prefix: Sequence[str] = ()) -> None:
        """Take a folder, made at the first start, and an address; port 0: a free one.

        Args:
            prefix: what to run the server under, such as a network namespace; it must not fork.

        Raises: UnavailableError: `missing` says what.
        """
        found = programs()
        if found is None:
            raise UnavailableError(missing() or "")
        self._bin, self.folder, self.address, self._prefix = found, folder, address, list(prefix)
        self.port = port or free_port(address)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id of the postmaster. Raises UnavailableError: it was not started."""
        if self._process is None:
            raise UnavailableError("postgresql: not started")
        return self._process.pid

    def settings(self, login: str = "anwen") -> dict[str, object]:
        """Return "store" of `node.json`. The user is a superuser; the server is its own, so that tests can break it."""
        tls = "sslmode=disable" if self._loopback() else f"sslmode=verify-full sslrootcert={self.folder / 'server.crt'}"
        return {
            "conninfo": f"host={self.address} port={self.port} dbname=postgres user={login} {tls}",
            "password_file": str(self.folder / "password"),
        }

    async def start(self) -> None:
        """Return when the server takes connections, after recovery if it was killed. Raises UnavailableError."""
        if not (self.folder / "data" / "PG_VERSION").exists():
            await asyncio.to_thread(self._make)
        arguments = [
            "-D", str(self.folder / "data"), "-p", str(self.port), "-c", f"listen_addresses={self.address}",
            "-c", "unix_socket_directories=", "-c", "max_connections=64", "-c", "shared_buffers=64MB",
        ]  # fmt: skip
        if not self._loopback():
            arguments += ["-c", "ssl=on", "-c", f"ssl_cert_file={self.folder / 'server.crt'}"]
            arguments += ["-c", f"ssl_key_file={self.folder / 'server.key'}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - returns at once; our own command
                self._command("postgres", *arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                last = (self.folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
                self.kill()
                raise UnavailableError(f"postgresql did not start: {' '.join(last) or 'no reason given'}")
            await asyncio.sleep(_STEP_S)  # builds without systemd tell it by a file alone

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the server, the one that starts others first."""
        for pid in [self.pid, *children(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End all processes of the server at once, as a crash of its machine's kernel would, except for its cache."""
        if self._process is None or self._process.poll() is not None:
            return
        self.signal(signal.SIGSTOP)  # else the first to die tells the others, and they end in good order
        inside = children(self.pid)
        self.signal(signal.SIGKILL)
        self._process.wait()
        wait_gone(inside, STOP_S)  # none of them may hold the shared memory that the next start looks at

    async def stop(self) -> None:
        """End the server in good order: sessions are ended, everything is written. Kills what does not within 20 s."""
        if self._process is None or self._process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGINT)
        try:
            await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    # --- parts ---------------------------------------------------------------------------------------------------

    def _loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [*self._prefix, *bound(str(self._bin / program), *arguments, user=user())]

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key, certificate = make_certificate("postgresql", self.address)
        for name, content in {
            "password": secrets.token_hex(16).encode(), "server.key": key, "server.crt": certificate, "log": b"",
        }.items():  # fmt: skip
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_bytes(content)
            os.chown(path, *user())
        os.chown(self.folder, *user())
        made = subprocess.run(  # noqa: S603 - our own command
            self._command(
                "initdb", "-D", str(self.folder / "data"), "-U", "anwen", "-A", "scram-sha-256", "--data-checksums",
                f"--pwfile={self.folder / 'password'}", "-E", "UTF8", "--locale=C", "--no-sync",
            ),
            capture_output=True, timeout=START_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if made.returncode:
            raise UnavailableError(f"initdb: {made.stderr.decode(errors='replace').strip()}")
        with (self.folder / "data" / "pg_hba.conf").open("a") as rules:  # initdb's own are for loopback addresses
            rules.write("hostssl all all all scram-sha-256\n")

    def _ready(self) -> bool:
        """Whether the lock file of this very process says so: its eighth line."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
            return lines[:1] == [str(self.pid)] and lines[7:8] == ["ready   "]
        return False


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_gone(pids: Iterable[int], within_s: float) -> None:
    """Return when these processes have ended, or each has had its time."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                select.select([process], [], [], within_s)
            finally:
                os.close(process)
