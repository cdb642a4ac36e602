"""`anwen update` and `anwen delete`."""

from __future__ import annotations

import click

from anwen.cli import output
from anwen.cli.finding import described, field_values, merged
from anwen.cli.settings import Settings, command, settings_of
from anwen.errors import NotFoundError


@command()
@click.argument("record")
@click.argument("class_name", metavar="CLASS")
@click.argument("values", nargs=-1, metavar="[FIELD=VALUE | FIELD]...")
@click.option("--stdin", is_flag=True, help="Read FIELD=VALUE lines from standard input.")
@click.option("--keep", is_flag=True, help="Open the class first and keep the fields that are not named.")
@settings_of
def update_command(
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
        result = vault.update(found, class_name, merged(old, given))
    item = {"record": result.record, "subject": result.subject, "version": result.version}
    output.records([item], as_json=settings.json)


@command()
@click.argument("records", nargs=-1, required=True, metavar="RECORD...")
@click.option("--collection", default="", help="Whose records these are; narrows what is fetched.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_of
def delete_command(settings: Settings, *, records: tuple[str, ...], collection: str, yes: bool) -> None:
    """Delete records. Keepers log it and refuse them from then on; then the node removes them."""
    with settings.ask(lambda _, purpose: bool(purpose.delete)) as vault:
        reader = settings.another(vault, lambda _, purpose: bool(purpose.open))
        found = reader.get(records, ["_index"] if collection else [], collection=collection)
        missing = [i for i, r in zip(records, found, strict=True) if r is None]
        if missing:
            raise NotFoundError(f"no record {', '.join(missing)}; nothing was deleted")
        present = [r for r in found if r is not None]
        if not yes:
            click.confirm(f"delete {len(present)} records for good?", abort=True, err=True)
        vault.delete(present)
    output.records([described(r) for r in present], as_json=settings.json)
    output.say(f"{len(present)} deleted")
