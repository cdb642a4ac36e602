"""A service's log on standard error: a line an event, for people, or with `ANWEN_LOG=json` one JSON object a line.

Tracebacks never get out, whoever logs them: their last line may hold a value. Of libraries beside Anwen only where a
record comes from and the class of its exception are shown. What a stranger sent may be in any text: it is cut, and its
control characters are replaced.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys

from anwen.formats.problem import printable

ALLOWED = ("op", "code", "cause")
"""What a record may carry beside its text, as `extra`."""
MAX_CHARACTERS = 1000
"""Of each part of a line."""


class Formatter(logging.Formatter):
    """Makes one line of a record."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        event = record.getMessage() if record.name.startswith("anwen") else "see the class of its exception"
        about = {k: str(v) for k in ALLOWED if (v := getattr(record, k, ""))}
        event, *parts = (printable(part.replace("\n", " "), MAX_CHARACTERS) for part in (event, *about.values()))
        about = dict(zip(about, parts, strict=True))
        if record.exc_info and record.exc_info[0]:
            about["exception"] = record.exc_info[0].__name__
        time = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "event": event, **about}
        if self._as_json:
            return json.dumps(line, ensure_ascii=True)
        return f"{time} {record.name} {record.levelname} {event}" + "".join(f" {k}={v}" for k, v in about.items())


def configure(level: int) -> None:
    """Take over the log of this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(as_json=os.environ.get("ANWEN_LOG") == "json"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
