"""`anwen import`: rows of a file into a collection, by several processes, so that it can always go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from anwen.cli import failures, import_part, import_state, output, rights
from anwen.cli.import_part import Job
from anwen.cli.import_state import SAME, ImportFolder, PartState, Plan
from anwen.cli.settings import EXISTING, PATH, Settings, cli, format_of, format_option, settings_of
from anwen.errors import AnwenError, ConflictError, MalformedError, UnavailableError
from anwen.files import read_rows
from anwen.model import Policy

Running = dict[Connection, SpawnProcess]


@cli.command("import")
@click.argument("collection")
@click.argument("file", type=EXISTING)
@click.option("--map", "pairs", multiple=True, metavar="COLUMN=FIELD", help="A column that is another field.")
@click.option("--skip", multiple=True, metavar="COLUMN", help="A column that is left out.")
@format_option
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--batch", type=click.IntRange(1, 4096), default=1024, show_default=True, help="Rows of one request.")
@click.option("--rejects", type=PATH, help="Where rejected rows are named (default: FILE.rejects).")
@click.option("--resume", is_flag=True, help="Go on with an import that was interrupted.")
@click.option("--restart", is_flag=True, help="Forget an interrupted import and begin anew.")
@settings_of
def import_command(
    settings: Settings, *, collection: str, file: Path, pairs: tuple[str, ...], skip: tuple[str, ...],
    file_format: str | None, processes: int, batch: int, rejects: Path | None, resume: bool, restart: bool,
) -> None:  # fmt: skip
    """Put the rows of FILE (CSV, NDJSON or Parquet) into COLLECTION, in random order.

    A row of a collection about another's persons names them by a column such as person_id_number.
    """
    folder = settings.folder()
    policy = folder.policy()
    schema = rights.collection_of(policy, collection)
    purpose = settings.why(policy, lambda _, p: schema.id in p.write)
    kept = ImportFolder((rejects or file.with_name(file.name + ".rejects")).resolve())
    plan = Plan(
        str(file.resolve()), *import_state.fingerprint(file), policy.vault.hex(), collection,
        settings.principal(policy), purpose, format_of(file_format, file), _mapping(pairs, skip), batch,
    )  # fmt: skip
    key = str(Path(settings.key).resolve()) if settings.key.endswith(".key") else settings.key
    with kept.lock():
        processes = 1 if settings.embedded else processes
        plan = _plan(kept, plan, policy, processes, resume=resume, restart=restart)
        parts = range(len(plan.parts))
        shares = [tuple(parts[i::processes]) for i in range(min(processes, len(parts)))]
        jobs = [Job(folder.path.resolve(), key, plan, share, kept.rejects, settings.embedded) for share in shares]
        before, started = [kept.load(part) for part in parts], time.monotonic()
        errors = _run(jobs, before, plan.rows)
        elapsed, states = time.monotonic() - started, [kept.load(part) for part in parts]
        done = all(s.ended for s in states) and not errors
        rejected = kept.finish(plan) if done else False
    counts: dict[str, object] = {name: _count(states, name) for name in ("read", "stored", "already", "rejected")}
    reasons = sum((Counter(s.reasons) for s in states), Counter[str]())
    rate = (_count(states, "stored") - _count(before, "stored")) / max(elapsed, 0.001)
    figures = {"seconds": round(elapsed, 3), "rows_per_s": round(rate), "done": done}
    settings.show([{**counts, "reasons": dict(reasons), **figures}])
    if rejected:
        output.say(f"rejected rows are named in {kept.rejects} (row, line, field, reason; no values)")
    if not done:
        output.say(f"stopped; what is stored is noted: `anwen import {collection} {file} --resume` goes on")
        if errors:  # integrity before denial before what time heals
            raise max(errors, key=failures.exit_code)
        raise click.exceptions.Exit(failures.STOPPED)


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
        if any(getattr(plan, name) != getattr(earlier, name) for name in SAME):
            raise ConflictError(
                f"{kept.path.name} holds an interrupted import of another file, collection or mapping: "
                "finish that one, or forget it with --restart"
            )
        if not resume:
            said = "an import of this file was interrupted: --resume goes on with it, --restart begins anew"
            raise ConflictError(said)
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
        raise MalformedError(f"{error}. --map COLUMN=FIELD renames a column, --skip COLUMN leaves it out") from None
    planned = plan.cut(processes)
    kept.begin(planned)
    return planned


def _count(states: Sequence[PartState], name: str) -> int:
    return sum(s.counts[name] for s in states)


def _run(jobs: Sequence[Job], before: Sequence[PartState], rows: int) -> list[AnwenError]:
    """Run each job in a process of its own and return how they failed, if they did.

    One failure, or Ctrl-C, has all of them finish what is under way.
    """
    context, states = multiprocessing.get_context("spawn"), list(before)
    running: Running = {}
    errors: list[AnwenError] = []
    with _bar() as bar:
        task = bar.add_task("", total=rows, rows="")
        try:
            for job in jobs:
                ours, theirs = context.Pipe()
                process = context.Process(target=import_part.work, args=(job, theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = process
            while running:
                try:
                    _listen(running, states, errors)
                    done = _count(states, "read")
                    bar.update(task, completed=done, rows=f"{done:,} rows")
                except KeyboardInterrupt:  # wherever it comes: what is under way is finished, and how to go on is said
                    _stop(running)
        finally:
            _stop(running)
            for process in running.values():
                process.join(30)
                process.kill()
    return errors


def _bar() -> Progress:
    return Progress(
        TextColumn("importing"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty(),
    )  # fmt: skip


def _listen(running: Running, states: list[PartState], errors: list[AnwenError]) -> None:
    """Take what processes tell: how far they are, then how they ended."""
    for channel in wait(list(running)):
        assert isinstance(channel, Connection)
        process = running[channel]
        try:
            told = channel.recv()
        except (EOFError, OSError):
            process.join(10)
            told = UnavailableError(f"a process of the import ended by itself ({process.exitcode})")
        if isinstance(told, tuple):
            part, states[part] = told
            continue
        del running[channel]
        channel.close()
        process.join(10)
        if told is not None:
            errors.append(told)
            _stop(running)


def _stop(running: Running) -> None:
    for channel in running:
        with contextlib.suppress(OSError):
            channel.send("stop")
