"""`anwen sample`: made-up people and records about them, the same for the same seed."""

from __future__ import annotations

import time
from pathlib import Path

import click

from anwen import sample
from anwen.cli import output
from anwen.cli.settings import Settings, command, settings_of
from anwen.errors import ConflictError
from anwen.files import FileFormat, detect_format


@command()
@click.argument("kind", type=click.Choice(list(sample.KINDS)))
@click.option("--count", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--people", type=click.IntRange(min=1), help="Persons the rows refer to (default: as many as go with it)."
)
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, metavar="FILE", help="A new file.")
@click.option("--format", "file_format", type=click.Choice([f.value for f in FileFormat]), help="Default: by its name.")
@settings_of
def sample_command(
    settings: Settings, *, kind: str, count: int, seed: int, target: Path, file_format: str | None, people: int | None
) -> None:
    """Write COUNT made-up rows of KIND to a file, the same for the same seed.

    KIND is a template and one of its collections. Rows about others' persons refer to those of the same seed.
    """
    if target.exists():
        raise ConflictError(f"{target}: exists")
    started = time.monotonic()
    chosen = FileFormat(file_format) if file_format else detect_format(target)
    sample.write_sample(kind, count, seed, target, chosen, people=people)
    elapsed = time.monotonic() - started
    if settings.json:
        output.emit({"kind": kind, "count": count, "seed": seed, "file": str(target), "seconds": round(elapsed, 3)})
    output.say(f"{count:,} {kind} written to {target} in {elapsed:.1f} s")
