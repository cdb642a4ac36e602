"""`anwen audit`: who has seen a person, whether every keeper's log is whole, what it says."""

from __future__ import annotations

import asyncio
import datetime as dt
import json

import click

from anwen.cli import failures, output
from anwen.cli.finding import field_values
from anwen.cli.settings import Group, Settings, settings_of
from anwen.client import audit
from anwen.client.sync import Vault
from anwen.errors import NotFoundError, from_code
from anwen.formats import wire
from anwen.model import Policy, Purpose
from anwen.vault_folder import SINGLE_MACHINE

HANDLE_DIGITS = 32


@click.group("audit", cls=Group)
def audit_command() -> None:
    """Read the keepers' logs. Needs a principal with a purpose that has `audit = true`."""


def _audits(_: Policy, purpose: Purpose) -> bool:
    return purpose.audit


def moment(time_ms: int) -> str:
    """Return a log's time as people read it."""
    return (
        dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    )


@audit_command.command("subject")
@click.argument("who", required=False, metavar="[HANDLE | FIELD=VALUE | FIELD]")
@click.option("--stdin", is_flag=True, help="Read FIELD=VALUE from standard input.")
@click.option("--collection", default="", help="Where to look FIELD up (default: the first collection of persons).")
@click.option("--days", type=click.IntRange(min=0), default=0, help="Only the last days (default: all).")
@settings_of
def subject_command(settings: Settings, who: str | None, stdin: bool, collection: str, days: int) -> None:
    """Show every request about a person, merged over all keepers' logs."""
    if not who and not stdin:
        raise click.UsageError("who? give a HANDLE, FIELD=VALUE, or --stdin")
    with settings.ask(_audits) as vault:
        is_handle = who is not None and len(who) == HANDLE_DIGITS and "=" not in who
        subject = who if is_handle and who else _find(settings, vault, who, stdin=stdin, collection=collection)
        since_s = int(dt.datetime.now(dt.UTC).timestamp()) - days * 86_400 if days else 0
        seen = vault.audit_subject(subject, since_s)
    if settings.json:
        for s in seen:
            output.emit(
                {
                    "time_ms": s.time_ms, "principal": s.principal, "purpose": s.purpose, "operation": s.operation,
                    "classes": s.classes, "keepers": s.keepers,
                }
            )  # fmt: skip
        return
    columns = ["time (UTC)", "principal", "purpose", "operation", "classes", "logged by"]
    rows = [
        (moment(s.time_ms), s.principal, s.purpose, s.operation, ", ".join(s.classes), " ".join(s.keepers))
        for s in seen
    ]
    output.table(columns, rows)
    output.say(f"{len(seen)} requests about subject {subject}")


def _find(settings: Settings, vault: Vault, pair: str | None, *, stdin: bool, collection: str) -> str:
    """Return a person's handle by an indexed field, under whichever purpose of the principal may look it up."""
    values = field_values([pair] if pair else [], stdin=stdin)
    policy = vault.policy
    name = collection or next(c.name for c in policy.collections.values() if c.subject == "own")
    schema = policy.collections.get(name)
    if schema is None or len(values) != 1 or next(iter(values)) not in schema.field_named:
        raise NotFoundError(f"expected one indexed field of {name}")
    field = schema.field_named[next(iter(values))]
    searching = settings.another(vault, lambda _, purpose: (schema.id, field.id) in purpose.search)
    found = {r.subject for r in searching.find(name, ["_index"], **values)}
    if len(found) != 1:
        raise NotFoundError(f"{len(found)} persons hold this {field.name}; give the subject's handle")
    return found.pop()


@audit_command.command("verify")
@settings_of
def verify_command(settings: Settings) -> None:
    """Check every keeper's log from its first entry to its cosigned checkpoint. Exit code 6 if one is not whole."""
    with settings.ask(_audits) as vault:
        verdicts, policy = vault.audit_verify(), vault.policy
    for v in verdicts:
        if settings.json:
            item = {"keeper": v.keeper, "entries": v.entries, "root": v.root, "cosigned_by": v.cosigned_by}
            output.emit(item | {"ok": not v.problem, "problem": v.problem})
        elif v.problem:
            click.echo(f"FAIL  keeper {v.keeper}: {v.entries} entries: {v.problem}")
        else:
            click.echo(
                f"ok    keeper {v.keeper}: {v.entries} entries, root {v.root}, cosigned by {', '.join(v.cosigned_by)}"
            )
    if policy.single_machine:
        output.say(SINGLE_MACHINE)
    problems = [from_code(v.problem.partition(":")[0], v.problem) for v in verdicts if v.problem]
    if problems:
        worst = max(problems, key=failures.exit_code)
        output.say(f"hint: {failures.HINTS[worst.code]}")
        raise click.exceptions.Exit(failures.exit_code(worst))


@audit_command.command("log")
@click.option("--keeper", default="", help="Whose log (default: the first keeper's).")
@click.option(
    "--last", type=click.IntRange(min=1, max=100_000), default=20, show_default=True, help="How many entries."
)
@settings_of
def log_command(settings: Settings, keeper: str, last: int) -> None:
    """Show the newest entries of one keeper's log, as they are."""
    for index, entry in asyncio.run(_newest(settings, keeper, last)):
        if settings.json:
            output.emit({"index": index, "entry": entry})
        else:
            click.echo(f"{index}\t{json.dumps(entry, ensure_ascii=True)}")


async def _newest(settings: Settings, keeper: str, last: int) -> list[tuple[int, object]]:
    async with await settings.ask_async(_audits) as vault:
        chosen = keeper or next(iter(vault.policy.keepers))
        if chosen not in vault.policy.keepers:
            raise NotFoundError(f"no keeper {chosen!r}; there are {', '.join(vault.policy.keepers)}")
        body = wire.encode("log", vault.session.random(wire.SALT_BYTES), {"start": 0, "count": 0})
        answer = wire.decode(await vault.session.keeper(chosen, "log", vault.purpose, body), "entries")
        start = max(0, answer.number("size") - last)
        found = [json.loads(e) async for e, _ in audit.entries(vault.session, vault.purpose, chosen, start)]
        return list(enumerate(found, start))[:last]
