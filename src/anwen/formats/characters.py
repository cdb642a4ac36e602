"""Which characters a value may hold, and one form for each: the Unicode side of the normaliser.

Refused in every value: control, surrogate, private-use and unassigned characters (Unicode 14.0, pinned in
`unicode_14`), and those that are invisible or turn the direction of writing. What is left is brought to NFKC.

Source: Unicode 14.0; UAX 15 (NFKC); UTR 36 and UTS 39 (look-alikes); DerivedCoreProperties.txt for the
characters that are invisible. Pure.
"""

from __future__ import annotations

import unicodedata
from functools import cache

from anwen.formats.unicode_14 import Ranges, is_assigned


class RefusalError(ValueError):
    """Why a value is refused. Carries the reason alone, never the value."""


_INVISIBLE = Ranges(
    "ad 34f 61c 115f-1160 17b4-17b5 180b-180f 200b-200f 202a-202e 2060-206f 2800 3164 fe00-fe0f feff ffa0 fff0-fffb "
    "1bca0-1bca3 1d173-1d17a e0000-e0fff"
)
"""Default_Ignorable_Code_Point, the blank Braille pattern, and interlinear annotations."""

_CATEGORY_REASON = {
    "Cc": "a control character",
    "Cf": "an invisible formatting character",
    "Cs": "a lone surrogate",
    "Co": "a private-use character",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
_FOLDED_SCRIPTS = {"HIRAGANA", "KATAKANA", "BOPOMOFO", "HANGUL", "IDEOGRAPHIC", "KATAKANA-HIRAGANA", "HENTAIGANA"}
_JOINERS = str.maketrans(dict.fromkeys("-‐‑‒–'’ʼ·‧•・&,./()", " "))
_good: set[str] = set()  # characters already found good: at most those of Unicode 14


def refusal(character: str) -> str | None:
    """Return why this one character may not stand in a value, or None. About 1 us."""
    if character in _INVISIBLE:
        return "an invisible character"
    category = unicodedata.category(character)
    if category in _CATEGORY_REASON:
        return _CATEGORY_REASON[category]
    if not is_assigned(character):
        return "a character that Unicode 14 does not assign"
    if character == "\ufffd":
        return "a replacement character (the file was decoded wrongly)"
    return None


def check(text: str) -> None:
    """Refuse `text` if any of its characters may not stand in a value. About 0.5 us for 20 characters."""
    if _good.issuperset(text):
        return
    for position, character in enumerate(text, 1):
        if character not in _good:
            reason = refusal(character)
            if reason is not None:
                raise RefusalError(f"holds {reason} at character {position}")
            _good.add(character)


def one_line(text: str) -> str:
    """Return `text` in NFKC, without space at its ends and with one space for every run of white space."""
    if not (text.isascii() and text.isprintable()):
        text = text.replace("\t", " ").replace("\r", " ").replace("\n", " ")
        check(text)
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split())


def lines(text: str) -> str:
    r"""Return `text` in NFKC, without white space at its ends; tabs stay, every line ends in ``\n``."""
    if not (text.isascii() and text.isprintable()):
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        check(text.replace("\n", " ").replace("\t", " "))
        text = unicodedata.normalize("NFKC", text)
    return text.strip()


def folded(text: str) -> str:
    """Return the form that equal values share: case folded, NFKC, white space collapsed."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


@cache
def _script(character: str) -> str | None:
    """Return the script of a letter, by the first word of its (immutable) Unicode name; None for all else."""
    if not character.isalpha() or unicodedata.category(character) == "Lm":
        return None
    word = unicodedata.name(character, "UNKNOWN").split()[0]
    return "CJK" if word in _FOLDED_SCRIPTS else word


def check_scripts(text: str) -> None:
    """Refuse a word that mixes scripts, such as Latin with Cyrillic; Han, kana, bopomofo and hangul count as one.

    Words end at spaces, hyphens, apostrophes and middle dots. Weaker than UTS 39's single-script rule: a word that
    is written in look-alikes throughout is one script, and passes.
    """
    if text.isascii() or len({_script(c) for c in text} - {None}) < 2:
        return
    for word in text.translate(_JOINERS).split():
        if len({_script(c) for c in word} - {None}) > 1:
            raise RefusalError("mixes scripts within one word")
