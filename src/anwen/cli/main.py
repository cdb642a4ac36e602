"""The `anwen` command: a table of commands, each in a module that is loaded when it is called."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from anwen.cli import failures, output
from anwen.cli.settings import Settings, shared_options
from anwen.errors import AnwenError

COMMANDS = {  # name -> module, what it does
    "init": ("making", "Make a vault in a folder."),
    "up": ("making", "Run a vault: its keepers and nodes, until stopped."),
    "import": ("importing", "Put rows of a file into a collection."),
    "find": ("finding", "Find records by indexed fields; show them masked."),
    "open": ("finding", "Open classes of records."),
    "list": ("finding", "List a person's records in a collection."),
    "update": ("changing", "Replace a class of a record."),
    "delete": ("changing", "Delete records."),
    "export": ("exporting", "Write a collection to a file, sealed to a recipient."),
    "unseal": ("exporting", "Open a sealed export."),
    "recipient-key": ("exporting", "Make a key pair for sealed exports."),
    "policy": ("policy", "Check, sign and publish the policy."),
    "audit": ("audit", "Who has seen a person; is every log whole."),
    "sample": ("sampling", "Make sample data."),
    "doctor": ("doctor", "Check the vault and this machine."),
    "bench": ("bench", "Measure."),
}


class Commands(click.Group):
    """Commands by name, loaded on use, so that `anwen --help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"anwen.cli.{COMMANDS[cmd_name][0]}"), cmd_name.replace("-", "_") + "_command")
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.version_option(package_name="anwen", prog_name="anwen")
@click.group(
    cls=Commands,
    params=shared_options(environment=True),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 change the request, 4 denied or budget spent, 5 try again, "
    "6 integrity: stop and alert. docs/cli.md explains each command.",
)
def cli() -> None:
    """Keep personal data in a self-hosted vault."""


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
    except click.Abort:
        output.say("stopped")
        return failures.STOPPED
    except click.ClickException as error:
        error.show()
        return failures.USAGE
    except KeyboardInterrupt:
        output.say("stopped")
        return failures.STOPPED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.OK
    except OSError as error:
        return failures.report_file(error)
    except Exception as error:  # noqa: BLE001 - the process edge
        return failures.report_unexpected(error)


def main() -> NoReturn:
    """Run the command line of this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold plaintext
    failures.guard_process()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:]))
