"""`anwen bench`: measurements live in the source tree, beside their data; this starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from anwen.cli import failures
from anwen.cli.settings import Settings, command, settings_of
from anwen.errors import NotFoundError


@command()
@click.argument("name", required=False)
@click.option("--quick", is_flag=True, help="Small sizes: checks that answers are right, says nothing about speed.")
@settings_of
def bench_command(settings: Settings, name: str | None, quick: bool) -> None:  # noqa: ARG001 - shared options
    """Run the measurement NAME (default: all) of docs/benchmarks.md."""
    script = Path(__file__).resolve().parents[3] / "bench" / "run.py"
    if not script.is_file():
        raise NotFoundError("measurements are in the source tree, not in the installed package: bench/run.py")
    arguments = [*([name] if name else []), *(["--quick"] if quick else [])]
    done = subprocess.run([sys.executable, str(script), *arguments], check=False)  # noqa: S603 - our own script
    if done.returncode:
        raise click.exceptions.Exit(failures.FAILED)
