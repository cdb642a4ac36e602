"""Code points that Unicode 14.0 assigns: the version every value is checked against, whatever Python runs.

Python brings its own Unicode tables (14.0 in 3.11, 15.0 in 3.12, 15.1 in 3.13). A value that one client takes and
another refuses, or folds differently, would be indexed twice; normalisation and case folding of characters
that are assigned never change (Unicode stability policies), so it is enough to refuse those assigned later.

Source: general category other than Cn in UnicodeData.txt of Unicode 14.0.0 (2021), as ranges in `unicode_14.txt`; a
test compares them with `unicodedata` of the running Python. A newer version here is a new `NORMALISER_VERSION`.
"""

from __future__ import annotations

from bisect import bisect_right
from importlib.resources import files

UNICODE_VERSION = "14.0.0"


class Ranges:
    """Code points, from text such as `0-377 37a-37f 38c`, ascending."""

    def __init__(self, text: str) -> None:
        pairs = [token.partition("-") for token in text.split()]
        self._first = [int(first, 16) for first, _, _ in pairs]
        self._last = [int(last or first, 16) for first, _, last in pairs]

    def __contains__(self, character: str) -> bool:
        at = bisect_right(self._first, ord(character)) - 1
        return at >= 0 and ord(character) <= self._last[at]


ASSIGNED = Ranges(files("anwen").joinpath("formats", "unicode_14.txt").read_text(encoding="ascii"))


def is_assigned(character: str) -> bool:
    """Return whether Unicode 14.0 assigns this one character."""
    return character in ASSIGNED
