"""M9: which look-alikes are one person, which are refused, and which are two: what is compared, and by `unique` too.

Pairs from Unicode's confusables (UTS 39, confusables.txt), from NFKC (UAX 15) and case folding. Where two that look alike stay
two, somebody can be entered twice or hidden from a search: docs/threat-model.md says so under what is not defended.
"""

import pytest
from test_normalise import canonical, index

from anwen.errors import MalformedError

ONE = {
    "name": [
        ("Ada", "Ａｄａ"), ("Ada", "𝐀𝐝𝐚"), ("Ada", "Ⓐda"), ("Sofia", "Soﬁa"), ("Rosa", "Roſa"), ("Karl", "\u212aarl"),
        ("Bo VII", "Bo Ⅶ"), ("Strasse", "Straße"), ("Zoë", "Zoe\u0308"), ("Li Na", "Li\u00a0Na"), ("豈", "\uf900"),
        ("人", "\u2f08"), ("タロウ", "ﾀﾛｳ"), ("O'Neil", "O’Neil"), ("Ada-Bo", "Ada‑Bo"), ("Ada-Bo", "Ada—Bo"),
    ],
    "text": [("A123", "A１２３"), ("A123", "a123"), ("A 123", "A\u00a0123"), ("A 123", "A\u3000123")],
    "address": [("1 Long Road", "１ LONG ROAD")],
    "phone": [("+8613800138000", "＋８６１３８００１３８０００")],
    "email": [("a@b.example", "ａ＠b.example"), ("a@b.example", "A@B.EXAMPLE")],
    "national_id": [("11010519491231002X", "１１０１０５１９４９１２３１００２Ｘ")],
}  # fmt: skip
REFUSED = {
    "name": ["Аda", "Αda", "Ad\u0430", "\u13aada", "A\u200bda", "\u202eadA", "Ada\u3164", "A\u00adda", "Ada\ufe0f", "A\U000e0041da"],
    "text": ["A\u200b123", "A123\u2060", "\u2066A123"],
    "address": ["1\u200d Road"],
    "phone": ["+٨٦١٣٨٠٠١٣٨٠٠٠", "+86138OO138000", "+86l38001380O0"],
    "email": ["\u0430@b.example", "a@b.\u0435xample"],
    "national_id": ["11010519491231002\u0425", "1101051949123l002X"],
}  # fmt: skip
TWO = {  # not defended
    "name": [
        ("POCA", "РОСА"), ("ANNA", "ΑΝΝΑ"), ("GO", "ᏀᎤ"),  # a whole word of another script: UTS 39, section 4.2
        ("Aydin", "Aydın"), ("Ada", "ɑdɑ"), ("Ada", "ᴀda"), ("Allan", "AIIan"), ("Amos", "Arnos"),  # within one script
        ("土", "士"), ("力", "カ"), ("Ada", "Ada\u0336"), ("Olga", "0lga"), ("O'Neil", "O′Neil"), ("O'Neil", "O´Neil"),
    ],
    "text": [("A123", "\u0410123"), ("A123", "A١٢٣"), ("A10", "AlO"), ("A-1", "A‑1"), ("A-1", "A−1")],  # and mixed in a word
    "address": [("1 Long Road", "1 L\u043eng Road")],
}  # fmt: skip


def pairs(table):
    return [(kind, *pair) for kind, found in table.items() for pair in found]


@pytest.mark.parametrize(("kind", "plain", "alike"), pairs(ONE))
def test_these_are_one_person(kind, plain, alike):
    assert plain != alike
    assert index(kind, plain) == index(kind, alike)


@pytest.mark.parametrize(("kind", "alike"), [(k, v) for k, found in REFUSED.items() for v in found])
def test_these_are_nobody(kind, alike):
    with pytest.raises(MalformedError, match=r"^f: ") as refused:
        canonical(kind, alike)
    assert alike not in str(refused.value)


@pytest.mark.parametrize(("kind", "plain", "alike"), pairs(TWO))
def test_these_are_two_people_as_the_threat_model_admits(kind, plain, alike):
    assert index(kind, plain) != index(kind, alike)
