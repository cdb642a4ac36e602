"""What commands print: tables for people, tab-separated lines for pipes, JSON for programs. Messages go to stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_HIDDEN = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


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


def table(items: Sequence[Mapping[str, object]]) -> None:
    """Print items under their members' names; those of `values`, a record's fields, and `error` come last."""
    values = [v if isinstance(v := item.get("values"), Mapping) else {} for item in items]
    names = dict.fromkeys(name for item in items for name in item if name not in ("values", "error"))
    fields = dict.fromkeys(name for v in values for name in v)
    last = ["error"] if any("error" in item for item in items) else []
    rows = [
        [visible(cell) for cell in (*map(item.get, names), *map(v.get, fields), *map(item.get, last))]
        for item, v in zip(items, values, strict=True)
    ]
    if not sys.stdout.isatty():
        for row in [[*names, *fields, *last], *rows]:
            click.echo("\t".join(row))
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in (*names, *fields, *last):
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console(highlight=False).print(drawn)
