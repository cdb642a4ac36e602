"""How a failure leaves the program: one line that says what, one that says what to do next, and an exit code.

Tracebacks never leave: their last line may hold a value. Of an exception that is not ours only the class and the place
in our code are shown (docs/threat-model.md, side doors).
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

import click

from anwen.errors import AnwenError, BudgetError, DeniedError, IntegrityError, RequestError, UnavailableError, place

OK, FAILED, USAGE, REQUEST, DENIED, UNAVAILABLE, INTEGRITY = range(7)
STOPPED = 130
"""Exit codes (docs/cli.md). 130: stopped from outside, as shells write SIGINT."""

_EXIT = ((RequestError, REQUEST), (DeniedError, DENIED), (UnavailableError, UNAVAILABLE), (IntegrityError, INTEGRITY))

HINTS = {
    "error": "this is a fault in Anwen; please report the line above, it holds no data",
    "request": "change the request; `anwen COMMAND --help` shows what it takes",
    "malformed": "correct the value or the file; `anwen policy show` lists collections, fields and their types",
    "too_large": "ask for less at once: a smaller --batch, or fewer ids",
    "policy": "`anwen policy check` explains the vault file, `anwen doctor` finds expiry and file modes",
    "conflict": "somebody holds this value, version or name already: read it again, then decide",
    "not_found": "check the spelling; `anwen policy show` lists what there is",
    "denied": "ask the officers for the right, or use the principal and purpose that have it (--as, --purpose)",
    "grant": "this principal may not do this for this purpose: see `anwen policy show`, and --as, --purpose",
    "refused": "it is unknown, expired, restricted, erased or deleted; keepers do not say which",
    "budget": "wait, ask for fewer people, or have the officers sign a larger budget; every opening so far is logged",
    "unavailable": "try again; look first whether a write was carried out. `anwen doctor` shows who does not answer",
    "quorum": "is the vault running? `anwen up` starts it, `anwen doctor` shows which keeper does not answer",
    "clock": "set the clock (NTP) on the machine that `anwen doctor` names",
    "storage": "make room on the disk or mend it, then start the service again; what was acknowledged is kept",
    "overloaded": "wait a moment and try again, with fewer processes or a smaller --batch",
    "integrity": "stop, keep the files as they are, and tell the officers; do not try again",
    "open": "sealed bytes were changed or mixed up: keep the store as it is and tell the officers",
    "dispute": "keepers contradict each other: tell the officers, the signed answers are the evidence",
    "rollback": "a service runs on old state: do not restart it, tell the officers",
    "proof": "a service broke its promise: keep its log and tell the officers",
}
"""What to do next, by stable code of the error."""


def exit_code(error: AnwenError) -> int:
    """Return the exit code of an error's kind."""
    return next((code for kind, code in _EXIT if isinstance(error, kind)), FAILED)


def describe(error: AnwenError) -> dict[str, object]:
    """Return an error as the machine-readable answer has it."""
    found: dict[str, object] = {
        "code": error.code,
        "message": str(error),
        "hint": HINTS.get(error.code, HINTS["error"]),
    }
    if error.retry_after_s is not None:
        found["retry_after_s"] = round(error.retry_after_s, 1)
    return found


def report(error: AnwenError) -> int:
    """Print `error[code]: message` and a hint to standard error; return the exit code."""
    wait = ""
    if isinstance(error, BudgetError) and error.retry_after_s is not None:
        wait = f"\nthe oldest charge leaves the window in {waiting(error.retry_after_s)}"
    return _print(error.code, f"{error}{wait}", HINTS.get(error.code, HINTS["error"]), exit_code(error))


def report_other(error: BaseException) -> int:
    """Print what an exception that is not ours may tell: what the system says about a file, or its place."""
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename or 'file'}: {error.strerror}"
        return _print("file", said, "check the path, its permissions and the room on the disk", FAILED)
    return _print("internal", place(error), HINTS["error"], FAILED)


def _print(code: str, message: str, hint: str, result: int) -> int:
    click.echo(f"error[{code}]: {message}\nhint: {hint}", err=True)
    return result


def waiting(seconds: float) -> str:
    """Return a span in words: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _OneLine(logging.Handler):
    """Log records without exception texts; of other libraries only where they come from and the exception's class."""

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        if record.name.startswith("anwen"):
            click.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)
        else:
            click.echo(f"{record.levelname.lower()}: {record.name}: {place(cause) if cause else 'see above'}", err=True)


def guard_process() -> None:
    """Take over every way in which Python prints tracebacks by itself, in this process."""
    logging.basicConfig(handlers=[_OneLine(logging.WARNING)], force=True)

    def hook(found: Any) -> None:
        if found.exc_value is not None:
            report_other(found.exc_value)

    sys.excepthook = lambda _, error, __: report_other(error) and None
    threading.excepthook = sys.unraisablehook = hook
