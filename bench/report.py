"""Results as files: `out/NAME.json` with everything, `out/NAME.md` with one table."""

from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import machine
from rules import Rounds

OUT = Path(__file__).parent / "out"
SPEC = "docs/benchmarks.md"


def document(name: str, rounds: Rounds, about: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON form of a suite's result; `about` has profile, started_utc, machine, settings and so on."""
    return {
        "suite": name,
        "spec_version": SPEC,
        **about,
        "single_machine": True,
        "floors": rounds.floors,
        "rounds": rounds.rounds,
        "summary": rounds.summary(),
        "void": rounds.gate.failures,
        "checks_passed": rounds.gate.passed,
    }


def about(profile: str, folder: Path, settings: dict[str, Any], trace: str = "") -> dict[str, Any]:
    """Return what every result says about where and when it was made."""
    return {
        "profile": profile,
        "started_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(folder),
        "load_average": machine.load_average(),
        "versions": machine.versions(),
        "trace_sha256": trace,
        "settings": settings,
    }


def write(name: str, content: dict[str, Any], folder: Path = OUT) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = json.dumps(_rounded(content), indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(plain + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(content), encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Return a value with floats at five significant digits: more is noise, and JSON has no NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) or math.isinf(value) else float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def number(value: float) -> str:
    """Return a number as a table shows it."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown(content: dict[str, Any]) -> str:
    """Return one table: metric, median [IQR], ratio to the limit [interval], context, goal, met."""
    lines = [f"# {content['suite']}", ""]
    lines += [f"{content['started_utc']}, profile {content['profile']}, {_machine(content)}", ""]
    if content["void"]:
        lines += ["**void**: " + "; ".join(content["void"]), ""]
    lines += ["| metric | system | median [IQR] | to limit [95 %] | context | goal | met |", "| --- " * 7 + "|"]
    for row in content["summary"]:
        goal = row.get("goal")
        cells = [
            row["metric"],
            row["system"],
            f"{number(row['median'])} {row['unit']} [{number(row['q1'])}, {number(row['q3'])}]",
            _ratio(row.get("limit") or row.get("peer")),
            row.get("context", ""),
            f"{goal['op']} {number(goal['value'])} ({goal['origin']})" if goal else "",
            ("yes" if goal["met"] else "**no**") if goal else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ratio(found: dict[str, float] | None) -> str:
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if found else ""


def _machine(content: dict[str, Any]) -> str:
    m = content["machine"]
    gib = m["memory_bytes"] / 2**30
    return f"{m['cores']} × {m['cpu']}, {gib:.0f} GiB, Linux {m['kernel']}, {m['filesystem']}"
