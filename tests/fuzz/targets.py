"""Every target by name: a function of bytes that returns, or raises what is a finding.

A target returns when the parser accepts its input, or refuses it with an error that its documentation names; laws that
hold of what was accepted are checked with it. README.md says how to add one.
"""

import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
HERE = Path(__file__).parent
for folder in (HERE, HERE.parent, HERE.parent / "keeper", HERE.parent / "node"):  # the rigs of the other suites
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import on_clients  # noqa: E402
import on_files  # noqa: E402
import on_formats  # noqa: E402
import on_keepers  # noqa: E402
import on_net  # noqa: E402
import on_services  # noqa: E402

CORPUS = HERE / "corpus"
MODULES = (on_formats, on_files, on_net, on_keepers, on_services, on_clients)
TARGETS = {name: target for module in MODULES for name, target in module.TARGETS.items()}

LOGGERS = [logging.getLogger(name) for name in ("anwen.client", "anwen.keeper", "anwen.node", "anwen.net")]


def quieten():
    """Log nothing below a disaster: liars are named by the thousand."""
    for logger in LOGGERS:
        logger.setLevel(logging.CRITICAL)


def corpus(name):
    """The files of a target's corpus, in order."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())
