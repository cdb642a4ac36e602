"""`anwen import`: rows of a file into a collection, by several processes, so that it can always go on."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from anwen.cli import failures, import_part, import_state, output
from anwen.cli.import_part import Job
from anwen.cli.import_state import ImportFolder, Plan
from anwen.cli.settings import Settings, collection_of, command, settings_of
from anwen.errors import ConflictError, MalformedError, UnavailableError, from_code
from anwen.files import FileFormat, detect_format, read_rows, split
from anwen.model import Policy

TELL_EVERY_S = 5.0
"""How often progress is told where there is no terminal to draw a bar on."""


@dataclass
class Totals:
    """What all parts together have done so far, and how the run ended."""

    position: dict[int, int] = field(default_factory=dict)
    counts: dict[int, dict[str, int]] = field(default_factory=dict)
    errors: list[dict[str, object]] = field(default_factory=list)

    def of(self, name: str) -> int:
        """Return a count over all parts."""
        return sum(c.get(name, 0) for c in self.counts.values())

    def take(self, told: import_part.Progress) -> None:
        """Take in what one part tells."""
        if told.counts:
            self.counts[told.part], self.position[told.part] = told.counts, told.position
        if told.error:
            self.errors.append(told.error)


@command()
@click.argument("collection")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--map", "pairs", multiple=True, metavar="COLUMN=FIELD", help="A column of the file that is another field."
)
@click.option("--skip", multiple=True, metavar="COLUMN", help="A column that is left out.")
@click.option("--format", "file_format", type=click.Choice([f.value for f in FileFormat]), help="Default: by its name.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--batch", type=click.IntRange(1, 4096), default=1024, show_default=True, help="Rows of one request.")
@click.option(
    "--rejects", type=click.Path(path_type=Path), help="Where rejected rows are named (default: FILE.rejects)."
)
@click.option("--resume", is_flag=True, help="Go on with an import that was interrupted.")
@click.option("--restart", is_flag=True, help="Forget an interrupted import and begin anew.")
@settings_of
def import_command(
    settings: Settings, *, collection: str, file: Path, pairs: tuple[str, ...], skip: tuple[str, ...],
    file_format: str | None, processes: int, batch: int, rejects: Path | None, resume: bool, restart: bool,
) -> None:  # fmt: skip
    """Put the rows of FILE (CSV, NDJSON or Parquet) into COLLECTION.

    A row of a collection about another's persons names them by a column such as person_id_number.
    """
    folder = settings.folder()
    policy = folder.policy()
    schema = collection_of(policy, collection)
    purpose = settings.why(policy, lambda _, p: schema.id in p.write)
    size, head = import_state.fingerprint(file)
    kept = ImportFolder((rejects or file.with_name(file.name + ".rejects")).resolve())
    plan = Plan(
        str(file.resolve()), size, head, policy.vault.hex(), collection, settings.principal(policy), purpose,
        FileFormat(file_format) if file_format else detect_format(file), _mapping(pairs, skip), batch,
    )  # fmt: skip
    with kept.lock():
        plan = _plan(kept, plan, policy, 1 if settings.embedded else processes, resume=resume, restart=restart)
        jobs = [
            Job(folder.path.resolve(), _key(settings.key or ""), plan, part, kept.rejects, settings.embedded)
            for part in range(len(plan.spans))
        ]
        before = Totals(counts={j.part: kept.load(j.part).counts for j in jobs})
        started = time.monotonic()
        totals = _run(jobs, kept)
        elapsed = time.monotonic() - started
        states = [kept.load(j.part) for j in jobs]
        reasons = sum((Counter(s.reasons) for s in states), Counter[str]())
        done = all(s.done for s in states) and not totals.errors
        rejected = kept.finish(plan) if done else False
    _summary(settings, totals, reasons, elapsed, totals.of("stored") - before.of("stored"), done=done)
    if rejected:
        output.say(f"rejected rows are named in {kept.rejects} (row, line, field, reason; no values)")
    if totals.errors:
        output.say(f"stopped; what is stored is noted: `anwen import {collection} {file} --resume` goes on")
        raise _worst(totals.errors)
    if not done:
        output.say(f"stopped; what is stored is noted: `anwen import {collection} {file} --resume` goes on")
        raise click.exceptions.Exit(failures.STOPPED)


def _key(key: str) -> str:
    return str(Path(key).resolve()) if key.endswith(".key") else key


def _mapping(pairs: Sequence[str], skip: Sequence[str]) -> dict[str, str | None]:
    mapping: dict[str, str | None] = dict.fromkeys(skip)
    for pair in pairs:
        column, separator, name = pair.rpartition("=")
        if not separator or not column or not name:
            raise click.UsageError("--map: expected COLUMN=FIELD")
        mapping[column] = name
    return mapping


def _plan(kept: ImportFolder, plan: Plan, policy: Policy, processes: int, *, resume: bool, restart: bool) -> Plan:
    """Return the interrupted plan if there is one and it is wanted, else a new one, its parts made and kept."""
    earlier = None if restart else kept.plan()
    if earlier is not None:
        if not plan.continues(earlier):
            raise ConflictError(
                f"{kept.path.name} holds an interrupted import of another file, collection or mapping: "
                "finish that one, or forget it with --restart"
            )
        question = "an import of this file was interrupted; go on where it stopped?"
        if not resume and not (sys.stdin.isatty() and click.confirm(question, default=True, err=True)):
            raise ConflictError(
                "an import of this file was interrupted: --resume goes on with it, --restart begins anew"
            )
        return earlier
    if resume:
        output.say("nothing to resume: beginning anew")
    schema = policy.collections[plan.collection]
    fields = import_part.allowed_fields(policy, schema)
    required = [f.name for f in schema.fields if f.required]
    path = Path(plan.file)
    try:  # a header that does not fit is refused before anything is sent
        read_rows(path, file_format=plan.file_format, mapping=plan.mapping, fields=fields, required=required)
    except MalformedError as error:
        error.add_note("header")
        raise MalformedError(f"{error}. --map COLUMN=FIELD renames a column, --skip COLUMN leaves it out") from None
    spans = split(path, processes, file_format=plan.file_format)
    planned = Plan(**{**plan.__dict__, "spans": tuple(spans)})
    kept.begin(planned)
    return planned


def _run(jobs: Sequence[Job], kept: ImportFolder) -> Totals:
    totals = Totals()
    for job in jobs:
        state = kept.load(job.part)
        totals.counts[job.part], totals.position[job.part] = state.counts, state.left.start
    started, already = time.monotonic(), totals.of("read")
    bar = Progress(
        TextColumn("importing"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True), transient=False, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    whole = sum(s.end - s.start for s in jobs[0].plan.spans) if jobs else 0
    with bar:
        task = bar.add_task("importing", total=whole, rows="")

        told = [started]

        def show() -> None:
            done = sum(p - jobs[i].plan.spans[i].start for i, p in totals.position.items())
            rate = (totals.of("read") - already) / max(time.monotonic() - started, 0.001)
            rows = f"{totals.of('read'):,} rows, {rate:,.0f}/s"
            bar.update(task, completed=done, rows=rows)
            if bar.disable and time.monotonic() - told[0] > TELL_EVERY_S:
                told[0] = time.monotonic()
                output.say(f"importing: {rows}, {100 * done / max(whole, 1):.0f} %")

        if len(jobs) == 1 and jobs[0].embedded:
            _here(jobs[0], totals, show)
        else:
            _supervise(jobs, totals, show)
        show()
    return totals


def _here(job: Job, totals: Totals, show: Callable[[], None]) -> None:
    """Run the only part in this process: an embedded vault has room for one."""

    def tell(told: import_part.Progress) -> None:
        totals.take(told)
        show()

    part = import_part.PartImport(job, tell, lambda: False)
    error = import_part.run_part(part)
    totals.take(import_part.Progress(job.part, part.state.left.start, part.state.counts, ended=True, error=error))


def _supervise(jobs: Sequence[Job], totals: Totals, show: Callable[[], None]) -> None:
    """Run each job in a process of its own. One failure, or Ctrl-C, has all of them finish what is under way."""
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[SpawnProcess, int]] = {}
    for job in jobs:
        ours, theirs = context.Pipe()
        process = context.Process(target=import_part.work, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        running[ours] = (process, job.part)
    try:
        while running:
            try:
                _listen(running, totals)
                show()
            except KeyboardInterrupt:
                _stop(running)
    finally:
        _stop(running)
        for process, _ in running.values():
            process.join(30)
            process.kill()


def _listen(running: dict[Connection, tuple[SpawnProcess, int]], totals: Totals) -> None:
    for channel in wait(list(running)):
        assert isinstance(channel, Connection)
        process, part = running[channel]
        try:
            told = channel.recv()
        except (EOFError, OSError):
            process.join(10)
            told = import_part.Progress(part, 0, {}, ended=True)
            if process.exitcode:
                error = UnavailableError(f"the process of part {part} ended by itself ({process.exitcode})")
                told.error.update(failures.describe(error))
        totals.take(told)
        if told.ended:
            del running[channel]
            channel.close()
            process.join(10)
        if told.error:
            _stop(running)


def _stop(running: dict[Connection, tuple[SpawnProcess, int]]) -> None:
    for channel in running:
        try:
            channel.send("stop")
        except OSError:
            continue


def _worst(errors: Sequence[dict[str, object]]) -> Exception:
    """Return the error that matters most: integrity before denial before what time heals."""
    made = [
        from_code(str(e["code"]), str(e["message"]), float(str(e["retry_after_s"])) if "retry_after_s" in e else None)
        for e in errors
    ]
    return max(made, key=failures.exit_code)


def _summary(
    settings: Settings, totals: Totals, reasons: Counter[str], elapsed: float, stored_now: int, *, done: bool
) -> None:
    rate = stored_now / max(elapsed, 0.001)
    counts = {name: totals.of(name) for name in ("read", "stored", "already", "rejected")}
    if settings.json:
        output.emit(
            {**counts, "reasons": dict(reasons), "seconds": round(elapsed, 3), "rows_per_s": round(rate), "done": done}
        )
        return
    click.echo(f"read      {counts['read']:>10,}")
    click.echo(f"stored    {counts['stored']:>10,}  ({rate:,.0f} rows/s)")
    if counts["already"]:
        click.echo(f"already   {counts['already']:>10,}  (stored by the interrupted run)")
    by_code = ", ".join(f"{code} {n:,}" for code, n in reasons.most_common())
    click.echo(f"rejected  {counts['rejected']:>10,}  {by_code}")
