"""`make demo`: a whole vault from nothing to a summary, on this machine, in under five minutes.

Run as `python examples/demo/run.py FOLDER`. Every step is a command that a reader can repeat by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter as Counted
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from anwen import supervisor
from anwen.cli import failures, main, output
from anwen.client.sync import Loop
from anwen.errors import AnwenError, IntegrityError, UnavailableError
from anwen.model import Counter
from anwen.rehearse.breach.search import SHORTEST, Needles, files_below, search
from anwen.vault_folder import SINGLE_MACHINE, VaultFolder
from folder import demo_folder
from thief import rob

PEOPLE = int(os.environ.get("ANWEN_DEMO_PEOPLE", "100000"))
KNOWN_VALUES = 100
CLERK, OFFICER, IMPORTER = "case_worker", "dpo", "importer"


@dataclass
class Line:
    """One line of the summary."""

    what: str
    figure: str
    shows: str


@dataclass
class Demo:
    """One run."""

    path: Path
    people: int
    lines: list[Line] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def vault(self) -> Path:
        """The vault's folder."""
        return self.path / "vault"

    @property
    def incidents(self) -> int:
        """How many records about people there are."""
        return 2 * self.people

    def step(self, text: str) -> None:
        """Announce a step."""
        click.secho(f"\n[{time.monotonic() - self.started:5.1f} s] {text}", bold=True)

    def run(self, *arguments: str) -> None:
        """Show and run one `anwen` command against the demo's vault. Raises when it fails."""
        click.secho(f"$ anwen {' '.join(arguments)}", fg="cyan")
        _check(main.run(["--vault", str(self.vault), *arguments]), arguments[0])

    def ask(self, *arguments: str, stdin: str = "") -> list[dict[str, Any]]:
        """Show and run one command; return the rows it printed as JSON. Raises when it fails."""
        piped = f"echo {stdin} | " if stdin else ""
        click.secho(f"$ {piped}anwen {' '.join(arguments)}", fg="cyan")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), _standard_input(stdin):
            _check(main.run(["--vault", str(self.vault), *arguments, "--json"]), arguments[0])
        return [json.loads(line) for line in printed.getvalue().splitlines()]

    def note(self, what: str, figure: str, shows: str) -> None:
        """Keep a line for the summary."""
        self.lines.append(Line(what, figure, shows))


def _check(code: int, name: str) -> None:
    if code == failures.STOPPED:
        raise KeyboardInterrupt
    if code:
        raise UnavailableError(f"`anwen {name}` ended with exit code {code}")


@contextlib.contextmanager
def _standard_input(text: str) -> Iterator[None]:
    before = sys.stdin
    sys.stdin = io.StringIO(text + "\n")
    try:
        yield
    finally:
        sys.stdin = before


@contextlib.contextmanager
def running(demo: Demo) -> Iterator[None]:
    """Run the vault's processes, and stop them however the block ends."""
    loop = Loop()
    try:
        processes = loop.run(supervisor.up(VaultFolder(demo.vault), click.echo))
        try:
            yield
        finally:
            loop.run(processes.stop())
    finally:
        loop.close()  # processes of a start that was interrupted end with this thread


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    before = time.monotonic()
    work()
    return time.monotonic() - before


def make(demo: Demo) -> None:
    """Make the vault and the sample files."""
    demo.step("A vault: three keepers, three officers, a policy for a police force")
    demo.run("init", str(demo.vault), "--template", "police")
    demo.step(f"{demo.people:,} residents and {demo.incidents:,} incidents about them, made up")
    persons, incidents = str(demo.path / "persons.csv"), str(demo.path / "incidents.csv")
    seconds = timed(lambda: demo.run("sample", "police.person", "--count", str(demo.people), "--to", persons))
    seconds += timed(
        lambda: demo.run(
            "sample", "police.incident", "--count", str(demo.incidents), "--people", str(demo.people), "--to", incidents
        )
    )
    rows = demo.people + demo.incidents
    demo.note("sample data", f"{rows:,} rows, {rows / seconds:,.0f}/s", "valid identity numbers, real name frequencies")


def fill(demo: Demo) -> None:
    """Import both files."""
    demo.step("Import: sealed in this process, keys from the keepers, only sealed bytes to the node")
    for collection, count in (("person", demo.people), ("incident", demo.incidents)):
        file = str(demo.path / f"{collection}s.csv")
        seconds = timed(lambda c=collection, f=file: demo.run("import", c, f, "--as", IMPORTER))  # type: ignore[misc]
        demo.note(
            f"import {collection}", f"{count:,} rows, {count / seconds:,.0f}/s", "indexed, sealed, logged, durable"
        )


def look(demo: Demo) -> str:
    """Find a person by phone, masked; open the identity for a stated purpose; return the subject."""
    known = Counted(row["person_id_number"] for row in _each(demo.path / "incidents.csv"))
    person = next(r for r in _each(demo.path / "persons.csv") if known[r["id_number"]] == 3 and r["phone"])
    demo.step("Find a person by phone number; the value comes from standard input and is in no history")
    as_clerk = ("--as", CLERK, "--purpose")
    pair = f"phone={person['phone']}"
    before = time.monotonic()
    found = demo.ask("find", "person", "--stdin", *as_clerk, "overview", stdin=pair)
    seconds = time.monotonic() - before
    output.table(found)
    demo.note("find by phone", f"{len(found)} found, {seconds:.2f} s", "masked: the last digits alone")
    demo.step("Open the identity class, for a stated purpose; keepers charge and log it before they answer")
    record, subject = found[0]["record"], found[0]["subject"]
    before = time.monotonic()
    opened = demo.ask("open", record, "--classes", "identity", *as_clerk, "casework")
    demo.note("open identity", f"{time.monotonic() - before:.2f} s", "two of three keepers answered")
    output.table(opened)
    output.table(demo.ask("list", subject, "incident", "--open", "report", *as_clerk, "casework"))
    return str(subject)


def steal(demo: Demo) -> None:
    """Open as many people as the clerk's key can."""
    demo.step(f"A thief has the key of {CLERK!r} and opens whom he can, as fast as he can")
    policy = VaultFolder(demo.vault).policy()
    promised = policy.roles[policy.principals[CLERK].role].budgets[Counter.OPEN].per_hour
    before = time.monotonic()
    loot = asyncio.run(rob(demo.vault, CLERK, "casework", "person", "identity"))
    seconds = time.monotonic() - before
    wait = failures.waiting(loot.last.retry_after_s) if loot.last and loot.last.retry_after_s else "unknown"
    click.echo(f"he asked {loot.asked:,} times in {seconds:.1f} s and was refused {loot.refused:,} times")
    click.echo(f"he got {len(loot.people):,} people of {demo.people:,}; promised: at most {promised:,} an hour")
    click.echo(f"the next opening is possible in {wait}; each of his requests is in the logs, with his name")
    if len(loot.people) > promised or not loot.last:
        raise IntegrityError(f"the thief got {len(loot.people)} people, promised were at most {promised}")
    demo.note(
        "stolen login", f"{len(loot.people):,} of {demo.people:,} people", f"budget: at most {promised:,} an hour"
    )


def audit(demo: Demo, subject: str) -> None:
    """Show who has seen the person; verify the logs."""
    demo.step("Who has seen this person? Asked of all keepers' logs by the data protection officer")
    seen = demo.ask("audit", "subject", subject, "--as", OFFICER)
    output.table(seen)
    demo.note("who has seen", f"{len(seen)} requests", "time, who, why, which classes")
    demo.step("Is every log whole? From its first entry to the checkpoint that its peers cosigned")
    time.sleep(1.5)  # keepers cosign each other's newest entries once a second
    verdicts = demo.ask("audit", "verify", "--as", OFFICER)
    output.table(verdicts)
    whole = sum(v["ok"] for v in verdicts)
    demo.note("verify the logs", f"{whole} of {len(verdicts)} whole", "Merkle trees, cosigned by peers")


def dig(demo: Demo) -> None:
    """Look for known plaintext in all files of the vault."""
    people = itertools.islice(_each(demo.path / "persons.csv"), 0, None, demo.people // KNOWN_VALUES)
    known = (row[name] for row in people for name in ("id_number", "phone", "address", "email"))
    values = list(itertools.islice((value for value in known if len(value) >= SHORTEST), KNOWN_VALUES))
    needles = Needles(values)
    demo.step(f"Search every file of the vault for {len(values)} known values, in {needles.forms:,} spellings")
    before = time.monotonic()
    files = files_below(demo.vault)
    found, size = search(files, needles)
    seconds = time.monotonic() - before
    control, _ = search([demo.path / "persons.csv"], needles)
    click.echo(f"{len(files)} files, {size / 2**20:,.0f} MiB, {seconds:.1f} s: {len(found)} of {len(values)} found")
    click.echo(f"the same search in the plaintext file that was imported: {len(control)} of {len(values)} found")
    if found or len(control) != len(values):
        raise IntegrityError(f"{len(found)} known values lie in the vault's files; {len(control)} in the import file")
    demo.note(
        "plaintext in the files",
        f"{len(found)} of {len(values)}, {size / 2**20:,.0f} MiB",
        "only sealed bytes are stored",
    )


def _each(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def summary(demo: Demo) -> None:
    """Print what was done, how fast, and what it shows."""
    table = Table(title=f"done in {time.monotonic() - demo.started:.0f} s", title_justify="left")
    for name in ("what", "result", "shows"):
        table.add_column(name)
    for line in demo.lines:
        table.add_row(line.what, line.figure, line.shows)
    Console(highlight=False, width=110).print(table)
    click.echo(f"the vault stays in {demo.vault}: anwen up {demo.vault}")
    click.echo(SINGLE_MACHINE)


def play(demo: Demo) -> None:
    """Do all steps, with the vault running where it is needed."""
    make(demo)
    demo.step("Start: three keepers and a node, each a process of its own, TLS on loopback")
    before = time.monotonic()
    with running(demo):
        demo.note("start", f"{time.monotonic() - before:.1f} s", "keys made by three keepers, no dealer")
        fill(demo)
        subject = look(demo)
        steal(demo)
        audit(demo, subject)
    demo.step("Stopped")
    dig(demo)
    summary(demo)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--people", type=click.IntRange(min=1000), default=PEOPLE, show_default=True, help="ANWEN_DEMO_PEOPLE")
def cli(folder: Path, people: int) -> None:
    """Play the demo in FOLDER."""
    with demo_folder(folder) as path:
        play(Demo(path, people))


def entry(arguments: Sequence[str]) -> int:
    """Run the demo and return its exit code: a process edge."""
    try:
        cli.main(list(arguments), prog_name="demo", standalone_mode=False)
    except AnwenError as error:
        return failures.report(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; everything that was started has ended", err=True)
        return failures.STOPPED
    except click.ClickException as error:
        error.show()
        return failures.USAGE
    except Exception as error:  # noqa: BLE001 - the process edge
        return failures.report_other(error)
    return failures.OK


def start() -> NoReturn:
    """Run the demo in this process."""
    failures.guard_process()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(entry(sys.argv[1:]))


if __name__ == "__main__":
    start()
