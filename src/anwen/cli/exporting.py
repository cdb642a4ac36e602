"""`anwen export`, `unseal` and `recipient-key`: a collection into a file, under budget, sealed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import click

from anwen.cli import failures, output, rights
from anwen.cli.settings import EXISTING, PATH, Settings, cli, format_of, format_option, settings_of, to_option
from anwen.client import sealed_file
from anwen.client.sync import Vault
from anwen.errors import AnwenError, BudgetError, ConflictError, MalformedError
from anwen.files import RowWriter, new_file, writing
from anwen.model import Collection

PAGE = 64
"""Records opened at once: all or none of them fit into the budget."""


@cli.command("export")
@click.argument("collection")
@click.option("--classes", required=True, metavar="CLASSES", help="What to export, e.g. identity,contact.masked.")
@to_option
@format_option
@click.option("--recipient", type=EXISTING, metavar="KEYFILE.pub", help="Seal to this key (anwen recipient-key).")
@click.option("--plain", is_flag=True, help="Write plaintext; whoever reads the file reads everybody in it.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many records.")
@click.option("--with-ids", is_flag=True, help="Also the ids of record and subject.")
@settings_of
def export(
    settings: Settings, *, collection: str, classes: str, target: Path, file_format: str | None,
    recipient: Path | None, plain: bool, limit: int | None, with_ids: bool,
) -> None:  # fmt: skip
    """Open every record of COLLECTION and write it to a file, sealed to a recipient.

    Every record is charged and logged. When the budget is spent, no file is left and the message says how many fit.
    """
    if (recipient is None) != plain:
        raise click.UsageError("to whom? give --recipient KEYFILE.pub, or --plain to write plaintext")
    chosen = format_of(file_format, Path(target.name.removesuffix(".sealed")))
    key = sealed_file.read_recipient(recipient) if recipient else None
    wanted = rights.class_list(classes)
    with settings.ask(rights.may_open(collection, wanted)) as vault:
        schema = rights.collection_of(vault.policy, collection)
        rights.check_opens(rights.purpose_of(vault), schema, wanted)
        kinds = ({"record": "text", "subject": "text"} if with_ids else {}) | _kinds(schema, wanted)
        with new_file(target) as file:
            sealed = sealed_file.SealedWriter(file, key) if key else None
            with writing(cast(BinaryIO, sealed or file), kinds, chosen) as writer:
                left_out = _write(vault, collection, wanted, writer, limit)
            if sealed is not None:
                sealed.finish()
    written = left_out.pop("written")
    said = f"{written:,} records written to {target}{'' if plain else ', sealed'}"
    settings.done(said, written=written, left_out=left_out, file=str(target), sealed=not plain)
    for code, n in left_out.items():
        output.say(f"left out: {n:,} ({code}): {failures.HINTS[code]}")
    if "open" in left_out:
        raise click.exceptions.Exit(failures.INTEGRITY)


def _kinds(schema: Collection, classes: Sequence[str]) -> dict[str, str]:
    """Return columns and their kinds. Raises MalformedError: a class and its rendition have the same fields."""
    plain = [c.removesuffix(".masked") for c in classes]
    if len(set(plain)) != len(plain) or not classes:
        raise MalformedError("--classes: expected each class once, full or masked")
    kinds: dict[str, str] = {}
    for name in classes:
        masked = name.endswith(".masked")
        fields = schema.fields_of(name.removesuffix(".masked"))
        kinds |= {f.name: "text" if masked else f.kind for f in fields if f.mask or not masked}
    return kinds


def _write(vault: Vault, name: str, classes: Sequence[str], writer: RowWriter, limit: int | None) -> dict[str, int]:
    """Write all records; return how many were written, and left out by reason. Raises BudgetError, with a number."""
    counts: Counter[str] = Counter({"written": 0})
    found = itertools.islice(vault.scan(name, classes, page=PAGE), limit)
    while page := list(itertools.islice(found, PAGE)):
        try:
            opened = vault.open_each(page, classes)
        except BudgetError as error:
            done = counts["written"]
            fits = f"{done:,} records fitted (--limit)" if done else f"fewer than {PAGE} fit now"
            said = f"{error}; {fits}; the partial file is removed"
            raise BudgetError(said, retry_after_s=error.retry_after_s) from None
        for record, values in zip(page, opened, strict=True):
            if isinstance(values, AnwenError):
                counts[values.code] += 1
            else:
                writer.write([{"record": record.id, "subject": record.subject, **values}])
                counts["written"] += 1
    return {code: n for code, n in counts.items() if n or code == "written"}


@cli.command("unseal")
@click.argument("file", type=EXISTING)
@click.option("--key", "key_file", type=EXISTING, required=True, metavar="KEYFILE", help="The recipient's key file.")
@to_option
@settings_of
def unseal(settings: Settings, file: Path, key_file: Path, target: Path) -> None:
    """Open a file that `anwen export` sealed. Nothing appears unless all of it is whole."""
    key = sealed_file.read_recipient_key(key_file)
    size = 0
    with file.open("rb") as source, new_file(target) as plain:
        for chunk in sealed_file.read(source, key):
            size += plain.write(chunk)
    settings.done(f"{size:,} bytes written to {target}", file=str(target), bytes=size)


@cli.command("recipient-key")
@click.argument("target", type=PATH, metavar="OUT")
@settings_of
def recipient_key(settings: Settings, target: Path) -> None:
    """Make a key pair for sealed exports: OUT (mode 0600, keep it) and OUT.pub (give it to who exports)."""
    try:
        public = sealed_file.make_recipient(target)
    except FileExistsError as error:
        raise ConflictError(f"{target}: exists; a key is never replaced") from error
    said = f"{target}: keep it secret. {public}: give it to whoever exports to you"
    settings.done(said, key=str(target), public=str(public))
