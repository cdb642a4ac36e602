"""`anwen export` and `unseal`: a collection into a file, under budget, sealed to a recipient unless told otherwise."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import click
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from anwen.cli import failures, output
from anwen.cli.finding import class_list
from anwen.cli.settings import Settings, check_opens, collection_of, command, settings_of
from anwen.client import sealed_file
from anwen.client.sync import Vault
from anwen.errors import AnwenError, BudgetError, ConflictError, MalformedError
from anwen.files import FileFormat, RowWriter, detect_format, new_file, writing
from anwen.model import Collection

PAGE = 64
"""Records opened at once: all or none of them fit into the budget."""
SEALED = ".sealed"
PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)


@command()
@click.argument("collection")
@click.option("--classes", required=True, metavar="CLASSES", help="What to export, e.g. identity,contact.masked.")
@click.option("--to", "target", type=PATH, required=True, metavar="FILE", help="A new file; it gets mode 0600.")
@click.option("--format", "file_format", type=click.Choice([f.value for f in FileFormat]), help="Default: by its name.")
@click.option("--recipient", type=EXISTING, metavar="KEYFILE.pub", help="Seal to this key (anwen recipient-key).")
@click.option("--plain", is_flag=True, help="Write plaintext; whoever reads the file reads everybody in it.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many records.")
@click.option("--with-ids", is_flag=True, help="Also the ids of record and subject.")
@settings_of
def export_command(
    settings: Settings, *, collection: str, classes: str, target: Path, file_format: str | None,
    recipient: Path | None, plain: bool, limit: int | None, with_ids: bool,
) -> None:  # fmt: skip
    """Open every record of COLLECTION and write it to a file, sealed to a recipient.

    Every record is charged and logged. When the budget is spent, no file is left and the message says how many fit.
    """
    if (recipient is None) != plain:
        raise click.UsageError("to whom? give --recipient KEYFILE.pub, or --plain to write plaintext")
    inner = Path(target.name.removesuffix(SEALED))
    chosen = FileFormat(file_format) if file_format else detect_format(inner)
    key = sealed_file.read_recipient(recipient) if recipient else None
    wanted = class_list(classes)
    with settings.ask(lambda policy, purpose: _opens(collection_of(policy, collection), wanted, purpose.open)) as vault:
        schema = collection_of(vault.policy, collection)
        check_opens(vault.policy, vault.asynchronous.purpose, schema, wanted)
        kinds = {"record": "text", "subject": "text"} if with_ids else {}
        kinds |= _kinds(schema, wanted)
        with _new_file(target, kinds, chosen, key) as writer:
            counts = _write(vault, collection, wanted, writer, limit)
    left_out = {code: n for code, n in counts.items() if code != "written"}
    if settings.json:
        output.emit({"written": counts["written"], "left_out": left_out, "file": str(target), "sealed": not plain})
    output.say(f"{counts['written']:,} records written to {target}{'' if plain else ', sealed'}")
    for code, n in left_out.items():
        output.say(f"left out: {n:,} ({code}): {failures.HINTS[code]}")
    if "open" in left_out:
        raise click.exceptions.Exit(failures.INTEGRITY)


def _opens(schema: Collection, classes: Sequence[str], allowed: frozenset[tuple[int, int]]) -> bool:
    named = schema.class_named
    ids = [(named.get(c.removesuffix(".masked")), c.endswith(".masked")) for c in classes]
    return all(c is not None and (schema.id, c.rendition_id if masked else c.id) in allowed for c, masked in ids)


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


def _write(vault: Vault, collection: str, classes: Sequence[str], writer: RowWriter, limit: int | None) -> Counter[str]:
    """Write all records; return how many were written, and left out by reason. Raises BudgetError, with a number."""
    counts: Counter[str] = Counter({"written": 0})
    found = itertools.islice(vault.scan(collection, classes, page=PAGE), limit)
    while page := list(itertools.islice(found, PAGE)):
        complete = [r for r in page if len(r.cells) == len(classes)]
        counts["not_found"] += len(page) - len(complete)  # a class without wrap in this epoch
        try:
            opened = vault.open_each(complete, classes)
        except BudgetError as error:
            fits = (
                f"{counts['written']:,} records fitted (--limit)" if counts["written"] else f"fewer than {PAGE} fit now"
            )
            message = f"{error}; {fits}; the partial file is removed"
            raise BudgetError(message, retry_after_s=error.retry_after_s) from None
        for record, values in zip(complete, opened, strict=True):
            if isinstance(values, AnwenError):
                counts[values.code] += 1
            else:
                writer.write([{"record": record.id, "subject": record.subject, **values}])
                counts["written"] += 1
    return +counts | Counter({"written": counts["written"]})


@contextlib.contextmanager
def _new_file(
    path: Path, kinds: dict[str, str], file_format: FileFormat, recipient: X25519PublicKey | None
) -> Iterator[RowWriter]:
    """Yield a writer of a file that appears under its name only when it is complete; plain without a recipient."""
    with new_file(path) as file:
        sealed = sealed_file.SealedWriter(file, recipient) if recipient else None
        with writing(cast(BinaryIO, sealed or file), kinds, file_format) as writer:
            yield writer
        if sealed is not None:
            sealed.finish()


@command()
@click.argument("file", type=EXISTING)
@click.option("--key", "key_file", type=EXISTING, required=True, metavar="KEYFILE", help="The recipient's key file.")
@click.option("--to", "target", type=PATH, required=True, metavar="FILE", help="A new file; it gets mode 0600.")
@settings_of
def unseal_command(settings: Settings, file: Path, key_file: Path, target: Path) -> None:
    """Open a file that `anwen export` sealed. Nothing appears unless all of it is whole."""
    key = sealed_file.read_recipient_key(key_file)
    size = 0
    with file.open("rb") as source, new_file(target) as plain:
        for chunk in sealed_file.read(source, key):
            size += plain.write(chunk)
    if settings.json:
        output.emit({"file": str(target), "bytes": size})
    output.say(f"{size:,} bytes written to {target}")


@command("recipient-key")
@click.argument("target", type=PATH, metavar="OUT")
@settings_of
def recipient_key_command(settings: Settings, target: Path) -> None:
    """Make a key pair for sealed exports: OUT (mode 0600, keep it) and OUT.pub (give it to who exports)."""
    try:
        public = sealed_file.make_recipient(target)
    except FileExistsError as error:
        raise ConflictError(f"{target}: exists; a key is never replaced") from error
    if settings.json:
        output.emit({"key": str(target), "public": str(public)})
    output.say(f"{target}: keep it secret. {public}: give it to whoever exports to you")
