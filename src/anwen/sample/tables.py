"""Names, provinces, roads and phone prefixes, each with its weight: `data/residents.toml` made ready to draw from."""

from __future__ import annotations

import re

import numpy as np

from anwen.sample.draw import Weighted, load, zipf

DATA = load("residents")


def _surnames() -> tuple[list[str], list[str], list[float]]:
    """Return surnames, the commonest hundred first, the compound ones last; their pinyin; and shares in per cent."""
    table = DATA["surname"]
    rarer = re.findall("(.)([a-z]+)", table["rarer"])
    compound = [100 * thousands / table["registered_thousands"] for _, _, thousands in table["compound"]]
    top = table["top_ten_percent"]
    # 0.9: from the 23rd, which the report for 2018 puts just above ten million, to the 100th
    tail = [table["hundredth_percent"] * (rank / 100) ** -0.9 for rank in range(11, 101)]
    scale = (table["hundred_percent"] - sum(top)) / sum(tail)
    weights = zipf(rarer, 20).values()
    rest = 100 - table["hundred_percent"] - sum(compound)
    others = [rest * weight / sum(weights) for weight in weights]
    pairs = [*re.findall("(.)([a-z]+)", table["hundred"]), *rarer, *(pair for *pair, _ in table["compound"])]
    shares = [*top, *(share * scale for share in tail), *others, *compound]
    return [surname for surname, _ in pairs], [pinyin for _, pinyin in pairs], shares


def _given(lists: list[str], single_per_mille: int, whole_per_mille: int) -> dict[str, float]:
    """Return given names with their shares in per mille."""
    first, second, single, whole = (zipf(names, 3) for names in (*lists[:3], lists[3].split()))
    pairs = {a + b: x * y for a, x in first.items() for b, y in second.items() if a != b}
    whole_share = whole_per_mille if whole else 0
    shares: dict[str, float] = {}
    for weights, share in (
        (pairs, 1000 - single_per_mille - whole_share),
        (single, single_per_mille),
        (whole, whole_share),
    ):
        for name, weight in weights.items():
            shares[name] = shares.get(name, 0.0) + share * weight / sum(weights.values())
    return shares


SURNAMES, SURNAMES_PINYIN, SURNAME_SHARES = _surnames()
choose_surname = Weighted(SURNAME_SHARES)

_COHORTS = DATA["given"]["cohort"]
COHORT_STARTS = [cohort["born_from"] for cohort in _COHORTS[1:]]
"""Years of birth at which the given names of the second to fourth cohort begin."""
_GIVEN = [_given(c[sex], c["single_per_mille"], DATA["given"]["whole_per_mille"]) for c in _COHORTS for sex in "FM"]
_PINYIN = dict(re.findall("(.)([a-z]+)", DATA["given"]["pinyin"]))
GIVEN = [name for table in _GIVEN for name in table]
GIVEN_PINYIN = ["".join(_PINYIN[character] for character in name) for name in GIVEN]
choose_given = Weighted(*(table.values() for table in _GIVEN))
"""List number 2 * cohort + (1 for M)."""

_PROVINCES = [
    (code, name, [d.split("/") for d in districts]) for code, name, _, *districts in DATA["place"]["province"]
]
PROVINCES = [name for _, name, _ in _PROVINCES]
DISTRICTS = 6
"""Districts of each province."""
CODES_CHANGED = 1983
CODES = np.array(
    [[[int(code + d[i]) for d in districts] for i in (2, 1)] for code, _, districts in _PROVINCES], np.int64
)
"""Code in identity numbers by province, whether somebody is born since `CODES_CHANGED`, and district."""
DISTRICT_NAMES = np.array([[name + d for d, _, _ in districts] for _, name, districts in _PROVINCES], object)
choose_province = Weighted([millions for _, _, millions, *_ in DATA["place"]["province"]])


def _city(province: str, district: str) -> str:
    """Return the city, league or prefecture at the head of a district's name."""
    return province if province.endswith("市") else re.match(".+?(?:市|州|地区)", district)[0]  # type: ignore[index]


CITIES = np.array([[_city(name, d) for d, _, _ in districts] for _, name, districts in _PROVINCES], object)
_ROADS = zipf(DATA["place"]["road"].split(), 4)
ROADS = np.array(list(_ROADS), object)
choose_road = Weighted(_ROADS.values())

_OPERATORS = [(prefixes.split(), percent) for prefixes, percent in DATA["phone"]["operator"]]
PREFIXES = np.array([int(prefix) for prefixes, _ in _OPERATORS for prefix in prefixes], np.int64)
choose_prefix = Weighted([percent / len(prefixes) for prefixes, percent in _OPERATORS for _ in prefixes])
