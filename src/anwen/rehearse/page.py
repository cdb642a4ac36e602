"""What the pages of rehearsals share: a look, tables, and nothing from elsewhere: no script, no font, no address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px;display:block;overflow-x:auto}
td,th{padding:.2rem .6rem;border-bottom:1px solid #d8dde4;text-align:left;vertical-align:top}
svg{width:100%;height:auto;background:#fbfcfd;border:1px solid #d8dde4}
text{font:11px system-ui,sans-serif;fill:#3d4756}
.bad{color:#b3261e;font-weight:600}
"""


def page(title: str, style: str, body: str) -> str:
    """Return a whole page (HTML)."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{STYLE}{style}</style><h1>{escape(title)}</h1>{body}</html>\n"
    )


def paragraphs(texts: Sequence[str]) -> str:
    """Return texts, a paragraph each."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def bounds(broken: Sequence[str]) -> str:
    """Return the bounds that do not hold, or that all do."""
    items = "".join(f"<li class=bad>{escape(b)}</li>" for b in broken) or "<li>every bound holds</li>"
    return f"<h2>Bounds</h2><ul>{items}</ul>"


def table(items: Sequence[Mapping[str, object]]) -> str:
    """Return rows of equal keys as a table."""
    if not items:
        return ""
    head = "".join(f"<th>{escape(name)}" for name in items[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(str(v))}" for v in item.values()) for item in items)
    return f"<table><tr>{head}{body}</table>"
