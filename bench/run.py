"""`make bench`: measure the figures of docs/benchmarks.md.

    bench/run.py [NAME ...] [--quick] [--full]

Starts everything, checks what came out, stops everything. `--quick`: a tenth of the size, two rounds; gates
correctness alone. `--full`: the eight rounds of the specification everywhere, and a million rows in bulk; without it
there are three to six, so that all of it takes less than half an hour.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report
from floors import Floors
from rules import Rounds

SUITES = ("keeper", "bulk", "single", "lookup", "overload", "flood", "engines", "inference")
QUICK_SUITES = ("keeper", "bulk", "single")


@dataclass(frozen=True, slots=True)
class Setting:
    """How much to measure, and where."""

    profile: str  # "quick", "bench" or "full"
    folder: Path
    floors: Floors

    @property
    def quick(self) -> bool:
        """Whether only correctness counts."""
        return self.profile == "quick"

    def rounds(self, bench: int) -> int:
        """Return how many rounds there are, the first of which is discarded."""
        return {"quick": 2, "bench": bench, "full": 8}[self.profile]

    def size(self, count: int) -> int:
        """Return a size, a tenth of it when quick."""
        return max(1, count // 10) if self.quick else count


def main(arguments: list[str] | None = None) -> int:
    """Run the suites; return 0 if each passed its gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITES)}; all, if none is named")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument(
        "--folder", type=Path, default=report.OUT / "work", help="where fresh data directories are made"
    )
    parser.add_argument("--out", type=Path, default=report.OUT, help="where results are written")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    profile = "quick" if given.quick else "full" if given.full else "bench"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    names = given.names or (QUICK_SUITES if given.quick else SUITES)
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=given.folder))
    try:
        with Floors(folder, 0.02 if given.quick else 0.1) as floors:
            passed = [_run(name, Setting(profile, folder, floors), given.out) for name in names]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(passed) else 1


def _run(name: str, setting: Setting, out: Path) -> bool:
    suite: Any = importlib.import_module(f"suites.{name}")
    start = time.monotonic()
    about = report.about(setting.profile, setting.folder, {})
    rounds: Rounds
    rounds, settings = suite.run(setting)
    content = report.document(name, rounds, about | {"settings": settings})
    content["took_s"] = time.monotonic() - start
    if setting.quick:
        out = out / "work" / "quick"  # never over a committed figure
    report.write(name, content, out)
    print(report.markdown(content), flush=True)
    print(f"{name}: {content['took_s']:.0f} s, {rounds.gate.passed} checks passed", flush=True)
    for failure in rounds.gate.failures:
        print(f"{name}: VOID: {failure}", flush=True)
    return not rounds.gate.failures


if __name__ == "__main__":
    sys.exit(main())
