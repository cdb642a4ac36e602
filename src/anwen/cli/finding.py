"""`anwen find`, `open`, `list`, `update` and `delete`: records masked first, classes opened on demand, then changed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from anwen.cli import failures, output, rights
from anwen.cli.settings import Settings, cli, settings_of, stdin_option
from anwen.client.records import Record
from anwen.client.sync import Vault
from anwen.errors import AnwenError, NotFoundError
from anwen.model import Policy, Purpose

values_argument = click.argument("values", nargs=-1, metavar="[FIELD=VALUE | FIELD]...")
open_option = click.option("--open", "classes", default="", metavar="CLASSES", help="Open these: identity,contact.")


def field_values(pairs: Sequence[str], *, stdin: bool) -> dict[str, str]:
    """Return FIELD=VALUE pairs by field; of a bare FIELD the value is asked for, of --stdin lines are read.

    Raises: UsageError, which repeats no value.
    """
    lines = list(pairs)
    if stdin:
        lines += [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    values: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.partition("=")
        if not name.isidentifier():
            raise click.UsageError("expected FIELD=VALUE, or FIELD alone to be asked for its value")
        if name in values:
            raise click.UsageError(f"{name}: given twice")
        if not separator:
            value = click.prompt(name, err=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
        values[name] = value
    return values


def _described(record: Record) -> dict[str, object]:
    return {"record": record.id, "subject": record.subject, "version": record.version}


def _show(
    settings: Settings, vault: Vault, records: Sequence[Record], classes: Sequence[str], missing: Sequence[str] = ()
) -> None:
    """Open records and show their values, or why one does not open; then the exit code is the worst reason's."""
    found = [_described(r) for r in records]
    code = failures.OK
    if classes:
        for name in {r.collection for r in records}:
            rights.check_opens(rights.purpose_of(vault), vault.policy.collections[name], classes)
        for item, values in zip(found, vault.open_each(records, classes), strict=True):
            if isinstance(values, AnwenError):
                item["error"], code = values.code, max(code, failures.exit_code(values))
            else:
                item["values"] = values
    settings.show([*found, *({"record": i, "error": "not_found"} for i in missing)])
    if code:
        output.say(f"hint: {failures.HINTS['refused' if code == failures.DENIED else 'integrity']}")
        raise click.exceptions.Exit(code)
    if missing:
        raise NotFoundError(f"{len(missing)} of {len(found) + len(missing)} records are not there")
    output.say(f"{len(found)} records")


def _get(vault: Vault, ids: Sequence[str], classes: Sequence[str], collection: str) -> tuple[list[Record], list[str]]:
    """Return records that are there, and the ids of those that are not."""
    found = vault.get(ids, classes if collection else [], collection=collection)
    return [r for r in found if r is not None], [i for i, r in zip(ids, found, strict=True) if r is None]


@cli.command("find")
@click.argument("collection")
@values_argument
@stdin_option
@open_option
@click.option("--ids", is_flag=True, help="Show ids alone and open nothing.")
@settings_of
def find(settings: Settings, *, collection: str, values: tuple[str, ...], stdin: bool, classes: str, ids: bool) -> None:
    """Find records of COLLECTION that hold all the values; show them masked, as far as the purpose may.

    A FIELD without value is asked for: its value stays out of the shell's history and of the process list.
    """
    wanted = field_values(values, stdin=stdin)

    def fits(policy: Policy, purpose: Purpose) -> bool:
        schema = rights.collection_of(policy, collection)
        return all((schema.id, f.id) in purpose.search for f in schema.fields if f.name in wanted)

    with settings.ask(fits) as vault:
        schema = rights.collection_of(vault.policy, collection)
        if unknown := sorted(set(wanted) - set(schema.field_named)):
            known = ", ".join(schema.field_named)
            raise NotFoundError(f"{collection}: no field {', '.join(unknown)}; there are {known}")
        opening = rights.class_list(classes) or ([] if ids else rights.masked_classes(rights.purpose_of(vault), schema))
        _show(settings, vault, vault.find(collection, opening, **wanted), opening)


@cli.command("open")
@click.argument("records", nargs=-1, required=True, metavar="RECORD...")
@click.option("--classes", required=True, metavar="CLASSES", help="What to open, e.g. identity,contact.masked.")
@click.option("--collection", default="", help="Whose classes these are; narrows what is fetched.")
@settings_of
def open_command(settings: Settings, records: tuple[str, ...], classes: str, collection: str) -> None:
    """Open classes of records by id. Every opening is charged and logged before it is answered."""
    wanted = rights.class_list(classes)
    with settings.ask(rights.may_open(collection, wanted)) as vault:
        found, missing = _get(vault, records, wanted, collection)
        _show(settings, vault, found, wanted, missing)


@cli.command("list")
@click.argument("subject")
@click.argument("collection")
@open_option
@settings_of
def list_command(settings: Settings, subject: str, collection: str, classes: str) -> None:
    """List the records of SUBJECT (a handle, as `find` shows it) in COLLECTION; masked, as far as the purpose may."""

    def fits(policy: Policy, purpose: Purpose) -> bool:
        return any(c == rights.collection_of(policy, collection).id for c, _ in purpose.open)

    with settings.ask(fits) as vault:
        schema = rights.collection_of(vault.policy, collection)
        opening = rights.class_list(classes) or rights.masked_classes(rights.purpose_of(vault), schema)
        _show(settings, vault, vault.list_subject(subject, collection, opening), opening)


@cli.command("update")
@click.argument("record")
@click.argument("class_name", metavar="CLASS")
@values_argument
@stdin_option
@click.option("--keep", is_flag=True, help="Open the class first and keep the fields that are not named.")
@settings_of
def update(
    settings: Settings, *, record: str, class_name: str, values: tuple[str, ...], stdin: bool, keep: bool
) -> None:
    """Replace CLASS of RECORD by the values given: a class is sealed as a whole, so other fields of it are emptied.

    With --keep they stay; that opens the class, which the purpose must allow and which is charged.
    """
    given = field_values(values, stdin=stdin)
    with settings.ask(lambda _, purpose: bool(purpose.write)) as vault:
        (found,) = vault.get([record])
        if found is None:
            raise NotFoundError(f"no record {record}")
        old = vault.open([found], [class_name])[0] if keep else {}
        new = {k: v for k, v in (dict(old) | given).items() if v not in ("", None)}
        done = vault.update(found, class_name, new)
    settings.show([{"record": done.record, "subject": done.subject, "version": done.version}])


@cli.command("delete")
@click.argument("records", nargs=-1, required=True, metavar="RECORD...")
@click.option("--collection", default="", help="Whose records these are; narrows what is fetched.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_of
def delete(settings: Settings, records: tuple[str, ...], collection: str, yes: bool) -> None:
    """Delete records. Keepers log it and refuse them from then on; then the node removes them."""
    with settings.ask(lambda _, purpose: bool(purpose.delete)) as vault:
        reader = settings.another(vault, lambda _, purpose: bool(purpose.open))
        found, missing = _get(reader, records, ["_index"], collection)
        if missing:
            raise NotFoundError(f"no record {', '.join(missing)}; nothing was deleted")
        if not yes:
            click.confirm(f"delete {len(found)} records for good?", abort=True, err=True)
        vault.delete(found)
    settings.show([_described(r) for r in found])
    output.say(f"{len(found)} deleted")
