"""`anwen find`, `open` and `list`: records masked first, classes opened on demand."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click

from anwen.cli import failures, output
from anwen.cli.settings import Settings, check_opens, collection_of, command, masked_classes, settings_of
from anwen.client.records import Record
from anwen.client.sync import Vault
from anwen.errors import AnwenError, NotFoundError
from anwen.model import Policy, Purpose

PAGE = 512


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


def class_list(text: str) -> list[str]:
    """Return "identity,contact" as a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def described(record: Record) -> dict[str, object]:
    """Return what is in clear about a record."""
    return {"record": record.id, "subject": record.subject, "version": record.version}


def opened(vault: Vault, records: Sequence[Record], classes: Sequence[str]) -> tuple[list[dict[str, object]], int]:
    """Return records with their values, or why one does not open, and the exit code of the worst reason."""
    found = [described(r) for r in records]
    if not classes:
        return found, failures.OK
    for name in {r.collection for r in records}:
        check_opens(vault.policy, vault.asynchronous.purpose, vault.policy.collections[name], classes)
    code = failures.OK
    for item, values in zip(found, vault.open_each(records, classes), strict=True):
        if isinstance(values, AnwenError):
            item["error"], code = values.code, max(code, failures.exit_code(values))
        else:
            item["values"] = values
    return found, code


def finish(code: int) -> None:
    """End with an exit code that says that some rows failed."""
    if code:
        output.say(f"hint: {failures.HINTS['refused' if code == failures.DENIED else 'integrity']}")
        raise click.exceptions.Exit(code)


@command()
@click.argument("collection")
@click.argument("values", nargs=-1, metavar="[FIELD=VALUE | FIELD]...")
@click.option("--stdin", is_flag=True, help="Read FIELD=VALUE lines from standard input: nothing lands in a history.")
@click.option(
    "--open", "open_classes", default="", metavar="CLASSES", help="Open these classes, e.g. identity,contact."
)
@click.option("--ids", is_flag=True, help="Show ids alone and open nothing.")
@settings_of
def find_command(
    settings: Settings, *, collection: str, values: tuple[str, ...], stdin: bool, open_classes: str, ids: bool
) -> None:
    """Find records of COLLECTION that hold all the values; show them masked, as far as the purpose may.

    A FIELD without value is asked for: its value stays out of the shell's history and of the process list.
    """
    wanted = field_values(values, stdin=stdin)

    def fits(policy: Policy, purpose: Purpose) -> bool:
        schema = collection_of(policy, collection)
        names = [f.id for f in schema.fields if f.name in wanted]
        return all((schema.id, i) in purpose.search for i in names)

    with settings.ask(fits) as vault:
        schema = collection_of(vault.policy, collection)
        classes = class_list(open_classes)
        if not classes and not ids:
            classes = masked_classes(vault.policy, vault.asynchronous.purpose, schema)
        unknown = sorted(set(wanted) - set(schema.field_named))
        if unknown:
            raise NotFoundError(
                f"{collection}: no field {', '.join(unknown)}; there are {', '.join(schema.field_named)}"
            )
        found = vault.find(collection, classes, **wanted)
        rows, code = opened(vault, found, classes)
    output.records(rows, as_json=settings.json)
    output.say(f"{len(rows)} found")
    finish(code)


@command()
@click.argument("records", nargs=-1, required=True, metavar="RECORD...")
@click.option("--classes", required=True, metavar="CLASSES", help="What to open, e.g. identity,contact.masked.")
@click.option("--collection", default="", help="Whose classes these are; narrows what is fetched.")
@settings_of
def open_command(settings: Settings, records: tuple[str, ...], classes: str, collection: str) -> None:
    """Open classes of records by id. Every opening is charged and logged before it is answered."""
    wanted = class_list(classes)

    def fits(policy: Policy, purpose: Purpose) -> bool:
        names = {c.removesuffix(".masked") for c in wanted}
        schemas = [collection_of(policy, collection)] if collection else list(policy.collections.values())
        return any(
            names <= set(s.class_named)
            and all(
                (s.id, s.class_named[n].rendition_id if f"{n}.masked" in wanted else s.class_named[n].id)
                in purpose.open
                for n in names
            )
            for s in schemas
        )

    with settings.ask(fits) as vault:
        found = vault.get(records, wanted if collection else [], collection=collection)
        missing = [i for i, r in zip(records, found, strict=True) if r is None]
        rows, code = opened(vault, [r for r in found if r is not None], wanted)
    rows += [{"record": i, "error": "not_found"} for i in missing]
    output.records(rows, as_json=settings.json)
    finish(code)
    if missing:
        raise NotFoundError(f"{len(missing)} of {len(records)} records are not there")


@command()
@click.argument("subject")
@click.argument("collection")
@click.option("--open", "open_classes", default="", metavar="CLASSES", help="Open these classes.")
@settings_of
def list_command(settings: Settings, subject: str, collection: str, open_classes: str) -> None:
    """List the records of SUBJECT (a handle, as `find` shows it) in COLLECTION; masked, as far as the purpose may."""
    with settings.ask(lambda policy, purpose: _may_open(policy, purpose, collection)) as vault:
        schema = collection_of(vault.policy, collection)
        classes = class_list(open_classes) or masked_classes(vault.policy, vault.asynchronous.purpose, schema)
        rows, code = opened(vault, vault.list_subject(subject, collection, classes), classes)
    output.records(rows, as_json=settings.json)
    output.say(f"{len(rows)} records")
    finish(code)


def _may_open(policy: Policy, purpose: Purpose, collection: str) -> bool:
    return any(c == collection_of(policy, collection).id for c, _ in purpose.open)


def merged(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
    """Return old values with new ones in their place; an empty new value removes."""
    return {k: v for k, v in (dict(old) | dict(new)).items() if v not in ("", None)}
