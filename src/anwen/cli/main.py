"""The `anwen` command: all commands, and the edge of the process, where every exception ends."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from anwen.cli import audit, backup, doctor, exporting, failures, finding, importing, making, output, policy, rehearsing
from anwen.cli.settings import Settings, cli
from anwen.errors import AnwenError

MODULES = (audit, backup, doctor, exporting, finding, importing, making, policy, rehearsing)
"""Each adds its commands to `cli` when it is loaded."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: the process edge, where every exception ends."""
    settings = Settings()
    try:
        code = cli.main(list(arguments), prog_name="anwen", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return code if isinstance(code, int) else failures.OK
    except AnwenError as error:
        if settings.json:
            output.emit({"error": failures.describe(error)})
        return failures.report(error)
    except (click.Abort, KeyboardInterrupt):
        output.say("stopped")
        return failures.STOPPED
    except click.ClickException as error:
        error.show()
        return failures.USAGE
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.OK
    except Exception as error:  # noqa: BLE001 - the process edge
        return failures.report_other(error)


def main() -> NoReturn:
    """Run the command line of this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold plaintext
    failures.guard_process()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:]))
