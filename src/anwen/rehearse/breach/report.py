"""A breach rehearsal's outcome for people: rows of a table, and one page with charts that can be read at a glance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from anwen.rehearse import page as parts
from anwen.rehearse.breach.elsewhere import ARGUED
from anwen.rehearse.breach.rehearsal import Outcome
from anwen.rehearse.breach.theft import Theft

WIDTH, BAR, GAP, LABELS, NUMBERS = 960, 13, 16, 330, 90
"""Pixels: a chart's width, a bar's height, the space between groups, room for labels left and numbers right."""

THEFTS = (
    ("dump", "a dump, disk or backup", ("dump",)),
    ("live", "a server of it, live", ("node", "keeper", "zone")),
    ("login", "one stolen login, in an hour", ("key", "key, prepared")),
)
"""What is compared: the key of a system's figure, its name, and the thefts of Anwen that it is the worst of."""

STYLE = """
.ours{fill:#1f6fb2}.theirs{fill:#c9772b}.argued{fill:#e8c8a6}.weak{fill:#c9772b}.weaker{fill:#8a4fbf}.guess{fill:#aab4c0}
.axis{stroke:#d8dde4}
"""


def rows(outcome: Outcome) -> Iterator[dict[str, object]]:
    """Yield a row of the table for each theft."""
    for theft in outcome.thefts:
        yield {
            "theft": theft.name,
            "taken": theft.taken,
            "people": theft.people,
            "at most": theft.bound,
            "values read": theft.values,  # "values" alone is a record's fields to a terminal
            "bound": theft.promise,
            "broken": "; ".join(theft.broken),
        }


def tables(outcome: Outcome) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Yield what a terminal shows: a title and rows of each table."""
    yield "thefts", list(rows(outcome))
    tried: list[dict[str, object]] = [
        {"theft": t.name, "code": f"src/anwen/{t.code}", "tried": what} for t in outcome.thefts for what in t.tried
    ]
    yield "what was tried, and where its code is", tried
    if outcome.columns:
        yield "inference: rows guessed right", outcome.columns
    if outcome.compared:
        yield "people exposed by one theft", compared(outcome)


def page(outcome: Outcome) -> str:
    """Return the page (HTML)."""
    settings = outcome.settings
    notes = [
        f"Vault {outcome.vault}: {outcome.people:,} people. Seed {settings.seed}. {outcome.seconds:.0f} s.",
        *(f"Not rehearsed: {name}: {why}." for name, why in outcome.skipped.items()),
        *([f"Broken on purpose: {settings.broken}."] if settings.broken else []),
    ]
    body = parts.paragraphs(notes) + parts.bounds(outcome.broken)
    if outcome.compared:
        body += "<h2>People exposed by one theft</h2>" + _people(outcome)
        body += parts.table(compared(outcome))
    if outcome.columns:
        body += "<h2>Inference from a stolen store: rows guessed right</h2>" + _columns(outcome.columns)
        body += parts.table(outcome.columns)
    body += "<h2>Thefts</h2>" + parts.table(list(rows(outcome))) + "".join(map(_section, outcome.thefts))
    return parts.page("Breach rehearsal", STYLE, body)


def _section(theft: Theft) -> str:
    tried = "".join(f"<li>{escape(what)}</li>" for what in theft.tried)
    figures = parts.table([{"figure": name, "value": value} for name, value in theft.figures.items()])
    bad = "".join(f"<p class=bad>{escape(problem)}</p>" for problem in theft.broken)
    said = f"Taken: {theft.taken}. Bound: {theft.promise}. Code: {theft.code}."
    return f"<h3>{escape(theft.name)}</h3><p>{escape(said)}</p>{bad}<ul>{tried}</ul>{figures}"


# --- charts --------------------------------------------------------------------------------------------------------


def compared(outcome: Outcome) -> list[dict[str, Any]]:
    """Return what each theft gives in each system, Anwen first; None where it was not tried."""
    people = {theft.name: theft.people for theft in outcome.thefts}
    ours: dict[str, Any] = {"system": "Anwen", "how": "run here", "people": outcome.people}
    for key, _, thefts in THEFTS:
        ours[key] = max((people[name] for name in thefts if name in people), default=None)
    return [ours, *outcome.compared]


def _people(outcome: Outcome) -> str:
    """Draw people exposed, a group of bars for each theft, on a logarithmic scale; nobody has no bar."""
    systems = compared(outcome)
    most = max([10, *(int(s["people"]) for s in systems)])
    room = WIDTH - LABELS - NUMBERS

    def wide(count: int) -> float:
        return room * math.log10(count + 1) / math.log10(most + 1)

    drawn, y = [], 8
    for key, title, _ in THEFTS:
        drawn.append(f'<text x="0" y="{y + 10}" font-weight="600">{escape(title)}</text>')
        y += BAR + 4
        for system in systems:
            count = system[key]
            kind = "ours" if system["system"] == "Anwen" else "argued" if system["how"] == ARGUED else "theirs"
            share = f" of {system['people']:,}" if count else ""
            said = "not run here" if count is None else f"{count:,}{share}"
            drawn.append(_bar(y, str(system["system"]), kind, wide(count or 0), said))
            y += BAR + 2
        y += GAP
    for power in range(1, int(math.log10(most)) + 1):
        x = LABELS + wide(10**power)
        drawn.append(f'<line class=axis x1="{x:.0f}" x2="{x:.0f}" y1="0" y2="{y}"/>')
        drawn.append(f'<text x="{x:.0f}" y="{y + 4}" text-anchor="middle">{10**power:,}</text>')
    note = "Pale bars are argued, not run. Logarithmic scale."
    return f'<svg viewBox="0 0 {WIDTH} {y + 10}" role=img>{"".join(drawn)}</svg><p>{note}</p>'


def _bar(y: float, label: str, kind: str, wide: float, said: str) -> str:
    return (
        f'<text x="{LABELS - 6}" y="{y + 10}" text-anchor="end">{escape(label)}</text>'
        f'<rect class={kind} x="{LABELS}" y="{y}" width="{max(wide, 0.5):.1f}" height="{BAR}"/>'
        f'<text x="{LABELS + wide + 6:.0f}" y="{y + 10}">{escape(said)}</text>'
    )


def _columns(columns: Sequence[Mapping[str, object]]) -> str:
    """Draw what the best attack recovers of each column, store by store, beside a guess."""
    kinds = {"deterministic": "weak", "order-preserving": "weaker", "Anwen": "ours", "guess": "guess"}
    room, drawn, y = WIDTH - LABELS - NUMBERS, [], 8
    for column in dict.fromkeys(str(c["column"]) for c in columns):
        mine = [c for c in columns if c["column"] == column]
        drawn.append(f'<text x="0" y="{y + 10}" font-weight="600">{escape(column)}</text>')
        y += BAR + 4
        shares = [(str(c["store"]), float(str(c["recovered"]))) for c in mine]
        shares.append(("guess", float(str(mine[0]["guess"]))))
        for store, share in shares:
            drawn.append(_bar(y, store, kinds.get(store, "weak"), room * share, f"{share:.1%}"))
            y += BAR + 2
        y += GAP
    return f'<svg viewBox="0 0 {WIDTH} {y}" role=img>{"".join(drawn)}</svg>'
