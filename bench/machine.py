"""What the machine is, and what processes take of it, as /proc says."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import ssl
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = ("anwen", "cryptography", "numpy", "phonenumbers", "python-stdnum")


def describe(folder: Path) -> dict[str, object]:
    """Return CPU, cores, memory, kernel and the file system under `folder`."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*:\s*(.*)", info)
    memory = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory[1]) * 1024 if memory else 0,
        "kernel": re.sub(r"(\d+\.\d+\.\d+).*", r"\1", platform.release()),
        "filesystem": _filesystem(folder),
    }


def _filesystem(folder: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    over = [(len(at), kind) for at, kind in mounts if folder.resolve().is_relative_to(at)]
    return max(over)[1] if over else "?"


def versions() -> dict[str, str]:
    """Return the versions that the figures depend on."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "openssl": ssl.OPENSSL_VERSION}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "?"
    return found


def load_average() -> float:
    """Return the load of the last minute."""
    return os.getloadavg()[0]


def cpu_s(pid: int) -> float:
    """Return user and system seconds that a process has taken; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_of(pids: dict[str, int]) -> dict[str, float]:
    """Return the CPU seconds of named processes."""
    return {name: cpu_s(pid) for name, pid in pids.items()}


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return what was taken in between."""
    return {name: after[name] - before.get(name, 0.0) for name in after}


def memory(pid: int) -> dict[str, float]:
    """Return resident and proportional set size, and the highest resident one, in MB (10^6 bytes)."""
    out: dict[str, float] = {}
    for file, keys in (("smaps_rollup", ("Rss", "Pss")), ("status", ("VmHWM",))):
        try:
            text = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8")
        except OSError:
            continue
        for key in keys:
            found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
            if found:
                out[key.lower()] = int(found[1]) * 1024 / 1e6
    return out


def tree_bytes(folder: Path, patterns: Iterable[str] = ("**/*",)) -> int:
    """Return the bytes of the files in a folder."""
    return sum(p.stat().st_size for pattern in patterns for p in folder.glob(pattern) if p.is_file())
