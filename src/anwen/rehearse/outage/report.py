"""A rehearsal's outcome for people: rows of a table, and one page with a timeline of every run.

The page needs nothing from elsewhere: styles and drawings are in it, and it has no script.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from anwen.rehearse import page as parts
from anwen.rehearse.outage.faults import FAULTS
from anwen.rehearse.outage.figures import KINDS, OK, Operation
from anwen.rehearse.outage.rehearsal import Outcome, Run

WIDTH, COUNTS, DELAYS, MARGIN = 960, 60, 110, 45
"""Pixels: a drawing's width, the heights of its two parts, and what the scale takes to their left."""
BINS = 240
SLOWEST_S, FASTEST_S = 2.5, 0.001

STYLE = """
.fault{fill:#fbe3c4}.back{fill:#e3edf9}
.ok{fill:#5f9e6e}.error{fill:#c62828}.worst{stroke:#8a4fbf;fill:none}.half{stroke:#1f6fb2;fill:none}
"""


def rows(outcome: Outcome) -> Iterator[dict[str, object]]:
    """Yield a row of the table for each run; times in milliseconds."""
    for run in outcome.runs:
        f = run.figures
        yield {
            "fault": run.fault,
            "zone": run.zone,
            "operations": f.operations,
            "errors": sum(f.errors.values()),
            "lost": run.lost_count,
            "stale": f.stale,
            **{f"{kind} gap": _ms(f.gap_s.get(kind, 0.0)) for kind in KINDS},
            "gap till return": _ms(max(f.gap_fault_s.values(), default=0.0)),
            "p99 before": _ms(max(f.p99_before_s.values(), default=0.0)),
            "p99": _ms(max(f.p99_s.values(), default=0.0)),
            "speed %": round(100 * run.speed),
            "processor ms": " + ".join(f"{ms:g}" for ms in run.processor_ms.values()),
            "back in s": round(run.at.whole - run.at.restore, 1),
            "broken": "; ".join(run.broken),
        }


def _ms(seconds: float) -> int:
    return round(min(seconds, 9e5) * 1000)


def page(outcome: Outcome) -> str:
    """Return the page (HTML)."""
    s = outcome.settings
    notes = [
        f"Store: {s.store}. Its promise: {outcome.promise}.",
        f"Seed {s.seed}. Zones: {outcome.machine}.",
        f"Load: three clients, each starts a {', a '.join(s.kinds)} every {s.every_s * 1000:g} ms.",
        f"At the end: {outcome.people:,} people sought, {len(outcome.lost)} lost, {len(outcome.duplicates)} doubled.",
        *(f"Not rehearsed here: {name}: {why}." for name, why in outcome.skipped.items()),
        *(f"Repeated: {what}." for what in outcome.void),
        *([f"Broken on purpose: {s.broken}."] if s.broken else []),
    ]
    explained = (
        "Times in milliseconds unless they say otherwise. In the drawings: successes and errors, below them median and "
        "worst time from planned start to end; the fault on orange, the return on blue."
    )
    runs = f"<h2>Runs</h2>{parts.table(list(rows(outcome)))}{parts.paragraphs([explained])}"
    body = parts.paragraphs(notes) + parts.bounds(outcome.broken) + runs + "".join(map(_section, outcome.runs))
    return parts.page("Outage rehearsal", STYLE, body)


def _section(run: Run) -> str:
    said = "; ".join(run.broken)
    errors = ", ".join(f"{count} {code}" for code, count in run.figures.errors.items()) or "none"
    text = f"{FAULTS[run.fault].title}. Seen from outside: {run.proof}. Errors: {errors}."
    verdict = f"<p class=bad>{escape(said)}</p>" if said else ""
    title = f"{run.fault}, zone {run.zone}, run {run.turn + 1}"
    return f"<h3>{escape(title)}</h3><p>{escape(text)}</p>{verdict}{_drawing(run)}"


def _drawing(run: Run) -> str:
    """Return a run's timeline: bars of successes and errors, lines of median and worst delay."""
    at, span = run.at, run.at.end - run.at.begin
    if span <= 0:
        return ""
    bins: list[list[Operation]] = [[] for _ in range(BINS)]
    for o in run.operations:
        bins[min(BINS - 1, max(0, int((o.ended - at.begin) / span * BINS)))].append(o)

    def x(moment: float) -> float:
        return (moment - at.begin) / span * WIDTH

    shades = (("fault", at.fault, at.restore), ("back", at.restore, at.whole))
    height = COUNTS + DELAYS
    drawn = [
        f'<rect class={name} x="{x(a):.1f}" width="{x(b) - x(a):.1f}" height="{height}"/>' for name, a, b in shades
    ]
    drawn += _bars(bins)
    drawn += [_line("worst", (max((o.ended - o.planned for o in b), default=None) for b in bins))]
    drawn += [_line("half", (_median([o.ended - o.planned for o in b]) for b in bins))]
    drawn += [
        f'<text x="{-MARGIN}" y="{_y(s):.0f}">{label}</text>'
        for s, label in ((2, "2 s"), (0.1, "100 ms"), (0.01, "10 ms"))
    ]
    drawn += [f'<text x="{x(at.begin + t):.0f}" y="{height - 2}">{t} s</text>' for t in range(10, int(span), 10)]
    return f'<svg viewBox="{-MARGIN} 0 {MARGIN + WIDTH} {height}" role=img>{"".join(drawn)}</svg>'


def _bars(bins: Sequence[Sequence[Operation]]) -> Iterator[str]:
    most, wide = max(1, *map(len, bins)), WIDTH / BINS
    for good in (True, False):
        path = ""
        for i, content in enumerate(bins):
            count = Counter(o.outcome == OK for o in content)
            top = COUNTS * (1 - count[True] / most)
            tall = COUNTS * count[good] / most
            if tall:
                path += f"M{i * wide:.1f} {top if good else top - tall:.1f}h{wide:.1f}v{tall:.1f}h-{wide:.1f}z"
        yield f'<path class={"ok" if good else "error"} d="{path}"/>'


def _line(name: str, delays: Iterable[float | None]) -> str:
    """Return a line that breaks where nothing ended."""
    path, pen = "", "M"
    for i, delay in enumerate(delays):
        if delay is None:
            pen = "M"
        else:
            path += f"{pen}{(i + 0.5) * WIDTH / BINS:.1f} {_y(delay):.1f}"
            pen = "L"
    return f'<path class={name} d="{path}"/>'


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _y(delay: float) -> float:
    """Return where a delay lies, on a logarithmic scale."""
    share = math.log(max(delay, FASTEST_S) / FASTEST_S) / math.log(SLOWEST_S / FASTEST_S)
    return COUNTS + DELAYS * (1 - min(1.0, share))
