"""What commands print: tables for people, tab-separated lines for pipes, JSON for programs. Messages go to stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_HIDDEN = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def visible(value: object) -> str:
    """Return a value as text that steers no terminal, whoever wrote it: no control, format or bidi characters."""
    if isinstance(value, list | tuple):
        return ", ".join(map(visible, value))
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def say(text: str) -> None:
    """Print a message."""
    click.echo(text, err=True)


def emit(value: object) -> None:
    """Print one JSON value on a line of its own."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    click.echo(_HIDDEN.sub(lambda m: f"\\u{ord(m.group()):04x}", text))  # only strings can hold such characters


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their names."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            click.echo("\t".join(visible(cell) for cell in row))
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(visible(cell)) for cell in row))
    Console(highlight=False).print(drawn)


def records(found: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print records: {"record", "subject", "version", "values"} each, or "error" in place of values."""
    if as_json:
        for item in found:
            emit(item)
        return
    values = [v if isinstance(v := item.get("values"), Mapping) else {} for item in found]
    names = list(dict.fromkeys(name for v in values for name in v))
    errors = ["error"] if any("error" in item for item in found) else []
    rows = [
        [
            item["record"],
            item.get("subject"),
            item.get("version"),
            *(v.get(n) for n in names),
            *(item.get(e) for e in errors),
        ]
        for item, v in zip(found, values, strict=True)
    ]
    table(["record", "subject", "version", *names, *errors], rows)
