"""`anwen audit`: who has seen a person, whether every keeper's log is whole, what it says."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt

import click

from anwen.cli import failures, output, rights
from anwen.cli.finding import field_values
from anwen.cli.settings import Settings, cli, settings_of, stdin_option
from anwen.client import audit
from anwen.client.sync import Vault
from anwen.errors import NotFoundError, from_code
from anwen.formats import wire
from anwen.model import Policy, Purpose
from anwen.vault_folder import SINGLE_MACHINE

HANDLE_DIGITS = 32


@cli.group("audit")
def audit_group() -> None:
    """Read the keepers' logs. Needs a principal with a purpose that has `audit = true`."""


def _audits(_: Policy, purpose: Purpose) -> bool:
    return purpose.audit


@audit_group.command("subject")
@click.argument("who", default="", metavar="[HANDLE | FIELD=VALUE | FIELD]")
@stdin_option
@click.option("--collection", default="", help="Where to look FIELD up (default: the first collection of persons).")
@click.option("--days", type=click.IntRange(min=0), default=0, help="Only the last days (default: all).")
@settings_of
def subject_command(settings: Settings, who: str, stdin: bool, collection: str, days: int) -> None:
    """Show every request about a person, merged over all keepers' logs."""
    if not who and not stdin:
        raise click.UsageError("who? give a HANDLE, FIELD=VALUE, or --stdin")
    with settings.ask(_audits) as vault:
        if len(who) != HANDLE_DIGITS or "=" in who:
            who = _find(settings, vault, field_values([who] if who else [], stdin=stdin), collection)
        since_s = int(dt.datetime.now(dt.UTC).timestamp()) - days * 86_400 if days else 0
        seen = vault.audit_subject(who, since_s)
    items = [dataclasses.asdict(s) for s in seen]
    settings.show([{"time": _moment(item.pop("time_ms")), **item} for item in items])
    doubtful = sum(bool(s.doubt) for s in seen)
    output.say(f"{len(seen)} requests about subject {who}" + (f", {doubtful} of them in doubt" if doubtful else ""))


def _moment(time_ms: int) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _find(settings: Settings, vault: Vault, values: dict[str, str], collection: str) -> str:
    """Return a person's handle by an indexed field, under whichever purpose of the principal may look it up."""
    policy = vault.policy
    name = collection or next(c.name for c in policy.collections.values() if c.subject == "own")
    schema = rights.collection_of(policy, name)
    if len(values) != 1 or not set(values) <= set(schema.field_named):
        raise NotFoundError(f"expected one indexed field of {name}")
    field = schema.field_named[next(iter(values))]
    searching = settings.another(vault, lambda _, purpose: (schema.id, field.id) in purpose.search)
    found = {r.subject for r in searching.find(name, ["_index"], **values)}
    if len(found) != 1:
        raise NotFoundError(f"{len(found)} persons hold this {field.name}; give the subject's handle")
    return found.pop()


@audit_group.command("verify")
@settings_of
def verify_command(settings: Settings) -> None:
    """Check every keeper's log from its first entry to its cosigned checkpoint. Exit code 6 if one is not whole."""
    with settings.ask(_audits) as vault:
        verdicts, policy = vault.audit_verify(), vault.policy
    settings.show([{"ok": not v.problem, **dataclasses.asdict(v)} for v in verdicts])
    if policy.single_machine:
        output.say(SINGLE_MACHINE)
    problems = [from_code(v.problem.partition(":")[0], v.problem) for v in verdicts if v.problem]
    if problems:
        worst = max(problems, key=failures.exit_code)
        output.say(f"hint: {failures.HINTS[worst.code]}")
        raise click.exceptions.Exit(failures.exit_code(worst))


@audit_group.command("log")
@click.option("--keeper", default="", help="Whose log (default: the first keeper's).")
@click.option("--last", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many entries.")
@settings_of
def log_command(settings: Settings, keeper: str, last: int) -> None:
    """Show the newest entries of one keeper's log, as they are."""
    settings.show(asyncio.run(_newest(settings, keeper, last)))


async def _newest(settings: Settings, keeper: str, last: int) -> list[dict[str, object]]:
    async with await settings.ask_async(_audits) as vault:
        chosen = keeper or next(iter(vault.policy.keepers))
        if chosen not in vault.policy.keepers:
            raise NotFoundError(f"no keeper {chosen!r}; there are {', '.join(vault.policy.keepers)}")
        body = wire.encode("log", vault.session.random(wire.SALT_BYTES), {"start": 0, "count": 0})
        answer = wire.decode(await vault.session.keeper(chosen, "log", vault.purpose, body), "entries")
        start = max(0, answer.number("size") - last)
        found: list[bytes] = []
        async for page in audit.pages(vault.session, vault.purpose, chosen, start):
            found += page.entries
            if len(found) >= last:
                break
        return [{"index": i, "entry": audit.members(chosen, e)} for i, e in enumerate(found[:last], start)]
