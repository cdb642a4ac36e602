"""`anwen rehearse`: put a promise to the test on real processes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from anwen.cli import failures, output
from anwen.cli.settings import PATH, Settings, cli, settings_of
from anwen.rehearse.breach import report as breach_report
from anwen.rehearse.breach import thief
from anwen.rehearse.breach.breaks import BREAKS as DEFENCES
from anwen.rehearse.breach.rehearsal import THEFTS
from anwen.rehearse.breach.rehearsal import Outcome as Robbery
from anwen.rehearse.breach.rehearsal import Settings as Breach
from anwen.rehearse.breach.rehearsal import rehearse as rehearse_breach
from anwen.rehearse.outage import report
from anwen.rehearse.outage.databases import STORES
from anwen.rehearse.outage.faults import FAULTS
from anwen.rehearse.outage.figures import KINDS
from anwen.rehearse.outage.rehearsal import BREAKS, rehearse
from anwen.rehearse.outage.rehearsal import Outcome as Outage
from anwen.rehearse.outage.rehearsal import Settings as Rehearsal
from anwen.rehearse.outage.zones import ZONES

T = TypeVar("T")
Result = TypeVar("Result", Outage, Robbery)
QUICK = Rehearsal(
    faults=("kill", "partition"), zones=("a",), runs=1, seconds=3, before_s=3, after_s=3, every_s=0.2, people=300
)


@cli.group("rehearse")
def rehearse_group() -> None:
    """Break a vault on purpose and see what callers notice."""


@rehearse_group.command("outage")
@click.option("--store", type=click.Choice(list(STORES)), default="sqlite", show_default=True)
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), help="Only this one; repeatable.")
@click.option("--zone", "zones", multiple=True, type=click.Choice(ZONES), help="Only this one; repeatable.")
@click.option("--runs", type=click.IntRange(min=1), help="How often each fault hits each zone (default: 3).")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long each fault lasts (default: by fault).")
@click.option("--every", "every_s", type=click.FloatRange(min=0.01), help="Seconds between a client's steps (0.05).")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these operations; repeatable.")
@click.option("--seed", type=int, default=1, show_default=True, help="Draws the moments at which faults begin.")
@click.option("--quick", is_flag=True, help="Kill and partition, one zone, once, for a few seconds.")
@click.option("--break", "broken", type=click.Choice(BREAKS), help="Break the vault: it must be seen.")
@click.option("--report", "page", type=PATH, help="Write a page (HTML) with a timeline of each run.")
@click.option("--figures", "figures_file", type=PATH, help="Write all figures as JSON.")
@settings_of
def outage(settings: Settings, /, *, quick: bool, page: Path | None, figures_file: Path | None, **given: Any) -> None:
    """Run three zones under load and take one away, in every way there is. Exit code 1 when a bound is broken."""
    stated = {name: value for name, value in given.items() if value not in (None, (), "")}
    plan = dataclasses.replace(QUICK if quick else Rehearsal(), **stated)
    outcome = _run(rehearse(plan, output.say))
    _write(outcome, report.page, page, figures_file)
    if settings.json:
        output.emit(outcome.as_dict())
    else:
        output.table(list(report.rows(outcome)))
    people, lost, doubled = outcome.people, len(outcome.lost), len(outcome.duplicates)
    found = f"{people:,} people looked for at the end: {lost} lost, {doubled} doubled"
    _conclude(outcome, found, f"store {plan.store}; its promise: {outcome.promise}")


@rehearse_group.command("breach")
@click.option("--fresh", type=click.Choice(["police"]), help="A vault of its own, the usual without --vault.")
@click.option("--people", type=click.IntRange(min=300), help="How many are put into a fresh vault (100,000).")
@click.option("--theft", "thefts", multiple=True, type=click.Choice(THEFTS), help="Only this one; repeatable.")
@click.option(
    "--hours", type=click.IntRange(min=2), help="How long the thief of a key works, in the vault's time (26)."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Draws the people and the load.")
@click.option("--quick", is_flag=True, help="1,500 people, three hours, nothing compared.")
@click.option("--break", "broken", type=click.Choice(list(DEFENCES)), help="Switch a defence off: it must be seen.")
@click.option("--report", "page", type=PATH, help="Write a page (HTML) with charts.")
@click.option("--figures", "figures_file", type=PATH, help="Write all figures as JSON.")
@settings_of
def breach(
    settings: Settings, /, *, fresh: str, quick: bool, page: Path | None, figures_file: Path | None, **given: Any
) -> None:
    """Rob a vault of everything that can be taken, and count what it gives. Exit code 1 when a bound is broken.

    With --vault, a copy of it, which must not run meanwhile; else, or with --fresh or --people, a vault of its own.
    """
    copied = settings.vault if not (fresh or given["people"]) else None
    stated = {name: value for name, value in given.items() if value not in (None, (), "")}
    usual = Breach(people=1_500, hours=thief.QUICK_HOURS, compare=False) if quick else Breach()
    plan = dataclasses.replace(usual, vault=str(copied or ""), template=fresh or usual.template, **stated)
    outcome = _run(rehearse_breach(plan, output.say))
    _write(outcome, breach_report.page, page, figures_file)
    if settings.json:
        output.emit(outcome.as_dict())
    else:
        for title, items in breach_report.tables(outcome):
            output.say(title)
            output.table(items)
    _conclude(outcome)


def _write(outcome: Result, page_of: Callable[[Result], str], page: Path | None, figures_file: Path | None) -> None:
    """Write the files that were asked for."""
    if figures_file:
        figures_file.write_text(json.dumps(outcome.as_dict(), indent=1) + "\n")
    if page:
        page.write_text(page_of(outcome), encoding="utf-8")


def _conclude(outcome: Outage | Robbery, *last: str) -> None:
    """Say what was left out and what is broken; exit code 1 when a bound is."""
    for name, why in outcome.skipped.items():
        output.say(f"not rehearsed here: {name}: {why}")
    for line in (*(f"broken: {line}" for line in outcome.broken), *last):
        output.say(line)
    if outcome.broken:
        raise click.exceptions.Exit(failures.FAILED)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a rehearsal; Ctrl-C and SIGTERM end it in good order."""

    async def stoppable() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        raise click.Abort from None
