"""What every target holds a parser to."""

import contextlib
import time

from anwen.errors import AnwenError

SECONDS = 5.0
"""No input of a target may take longer, on the slowest machine that runs the tests."""

MEBIBYTES = 1536
"""Nor may a target's process ever take more memory than this, libraries and instrumentation included."""

REFUSED = object()


class BrokenLawError(AssertionError):
    """A target found what must not be."""


def law(holds, what):
    """Raise unless a law holds."""
    if not holds:
        raise BrokenLawError(what)


def tried(kinds, read, *args, **named):
    """What `read` returns, or REFUSED where it raises one of the errors that it may; any other is a finding."""
    try:
        return read(*args, **named)
    except kinds as error:
        law(isinstance(error, AnwenError), f"{type(error).__name__} is not in the error tree")
        return REFUSED


@contextlib.contextmanager
def refusals(*kinds):
    """The block may end in these errors and in no other. For blocks of one step: what follows it may raise the same."""
    try:
        yield
    except kinds as error:
        law(isinstance(error, AnwenError), f"{type(error).__name__} is not in the error tree")


@contextlib.contextmanager
def within(seconds=SECONDS):
    """The block ends in time."""
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    law(took <= seconds, f"took {took:.1f} s")
