"""Made-up residents of mainland China: columns in chunks, row r a pure function of seed and r.

A resident's fields fit each other: birth date, sex and district are in the identity number (valid by `stdnum.cn.ric`,
unique in the table); names are those of sex, decade and family; a household has one address, a family one surname;
small children share the phone of the household's head. Identity numbers, names and phones are made up, but may by
chance be somebody's; e-mail domains are reserved for examples (RFC 2606).

Sources: `names`, `places`, `households`; share of those who live outside the province of their identity number, 8.8 %:
seventh census (124.84 of 1,411.78 million); mobile numbers: numbering plan as `phonenumbers` knows it, shares of the
three operators about those of their 2023 reports; who has an e-mail address: our choice. Identity numbers: GB
11643-1999.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from anwen.errors import RequestError
from anwen.sample import names, places
from anwen.sample.draw import Draws, Int64, Weighted, shuffled
from anwen.sample.households import BLOCK, LAST_YEAR, members

CHUNK_ROWS = 16_384
Columns = dict[str, list[str | None]]


def _city(province: str, district: str) -> str:
    """Return the city, league or prefecture at the head of a district's name."""
    return province if province.endswith("市") else re.match(".+?(?:市|州|地区)", district)[0]  # type: ignore[index]


_DAYS = 365  # nobody is born on 29 February
_SEQUENCES = 500
_WINDOW = _DAYS * _SEQUENCES
MAX_RESIDENTS = 1_000_000
"""Beyond DISTRICTS * _WINDOW rows identity numbers would repeat."""

_MOVED_PER_MILLE = 88
_BY_MOTHER_PER_MILLE = 77  # 1 in 13
_PHONE_AGE = 10
_CHANGED = places.CODES_CHANGED
_MONTH_DAY = [int(str(day)[5:].replace("-", "")) for day in np.datetime64("2023-01-01") + np.arange(_DAYS)]
_MONTH_DAYS = np.array(_MONTH_DAY, np.int64)
_CODES = np.array([[p.earlier_codes, p.codes] for p in places.PROVINCES], np.int64)
_DISTRICTS = np.array([[p.name + district for district in p.districts] for p in places.PROVINCES], object)
_CITIES = np.array([[_city(p.name, d) for d in p.districts] for p in places.PROVINCES], object)
_WEIGHTS = np.array([pow(2, 17 - i, 11) for i in range(17)], np.int64)
_SURNAMES, _SURNAMES_PINYIN = np.array(names.SURNAMES, object), np.array(names.SURNAMES_PINYIN, object)
_GIVEN, _GIVEN_PINYIN = np.array(names.GIVEN, object), np.array(names.GIVEN_PINYIN, object)
_ROADS = np.array(places.ROADS, object)
_OPERATORS = (  # prefixes and per cent
    ("134 135 136 137 138 139 147 150 151 152 157 158 159 178 182 183 184 187 188 195 198", 57),
    ("133 153 173 177 180 181 189 191 193 199", 23),
    ("130 131 132 145 155 156 166 175 176 185 186", 20),
)
_PREFIXES = np.array([int(prefix) for prefixes, _ in _OPERATORS for prefix in prefixes.split()], np.int64)
_choose_prefix = Weighted([share / len(ps.split()) for ps, share in _OPERATORS for _ in ps.split()])

(
    _LANE_PROVINCE,
    _LANE_DISTRICT,
    _LANE_MOVED,
    _LANE_OLD_HOME,
    _LANE_SURNAME,
    _LANE_BY_MOTHER,
    _LANE_GIVEN,
    _LANE_PREFIX,
    _LANE_PHONE,
    _LANE_EMAIL,
    _LANE_EMAIL_FORM,
    _LANE_ROAD,
    _LANE_HOUSE,
    _LANE_ROOM,
) = range(16, 30)


class Residents:
    """The table of one seed. About 6 us a row."""

    def __init__(self, seed: int) -> None:
        self._draws = Draws(seed, 1)
        self._days = shuffled(seed, 2, _WINDOW)

    def columns(self, rows: Int64) -> Columns:
        """Return all columns of some rows, in any order and number."""
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < MAX_RESIDENTS:
            raise RequestError(f"expected at most {MAX_RESIDENTS} made-up residents")
        home = members(self._draws, rows)
        province, district = self._home(home.head)
        day = self._days[rows % _WINDOW] % _DAYS
        born = (home.birth_year * 10_000 + _MONTH_DAYS[day]).tolist()
        name, email = self._names(rows)
        return {
            "id_number": self.id_numbers(rows),
            "name": name,
            "birth_date": [f"{b // 10_000}-{b // 100 % 100:02d}-{b % 100:02d}" for b in born],
            "sex": ["FM"[male] for male in home.is_male.tolist()],
            "phone": self.phones(rows),
            "email": email,
            "address": self.addresses(rows),
            "household_region": [str(code) for code in _CODES[province, 1, district].tolist()],
        }

    def heads(self, rows: Int64) -> Int64:
        """Return the row of the first member, an adult, of each row's household."""
        return members(self._draws, rows).head

    def _home(self, head: Int64) -> tuple[Int64, Int64]:
        """Return province and district of a household; the districts of windows differ, see `id_numbers`."""
        province = places.choose_province(self._draws, head, _LANE_PROVINCE)
        block = head // BLOCK * BLOCK
        # by block, not by household: who forms one differs from window to window, blocks do not
        place = self._draws.below(block % _WINDOW, _LANE_DISTRICT, places.DISTRICTS)
        return province, (place + block // _WINDOW) % places.DISTRICTS

    def id_numbers(self, rows: Int64) -> list[str | None]:
        """Return identity numbers, all different.

        Within a window of 365 * 500 rows every row has its own pair of day and sequence number. Rows of the same pair
        in different windows never have the same district: a province's districts follow each other from window to
        window.
        """
        home = members(self._draws, rows)
        province, district = self._home(home.head)
        moved = self._draws.happens(rows, _LANE_MOVED, _MOVED_PER_MILLE)
        elsewhere = places.choose_province(self._draws, rows, _LANE_OLD_HOME)
        code = _CODES[np.where(moved, elsewhere, province), (home.birth_year >= _CHANGED).astype(int), district]
        pair = self._days[rows % _WINDOW]
        sequence = pair // _DAYS * 2 + home.is_male
        body = (code * 10**8 + home.birth_year * 10_000 + _MONTH_DAYS[pair % _DAYS]) * 1000 + sequence
        total, rest = np.zeros_like(body), body
        for weight in _WEIGHTS[::-1]:
            total += rest % 10 * weight
            rest = rest // 10
        return [
            f"{b}{c}" for b, c in zip(body.tolist(), ["10X98765432"[t] for t in (total % 11).tolist()], strict=True)
        ]

    def _names(self, rows: Int64) -> tuple[list[str | None], list[str | None]]:
        """Return names and e-mail addresses, which are made from them."""
        draws, home = self._draws, members(self._draws, rows)
        by_mother = home.is_child & draws.happens(rows, _LANE_BY_MOTHER, _BY_MOTHER_PER_MILLE)
        source = np.where(home.bears_household_name, home.head, rows)
        source = np.where(by_mother, home.mother, source)
        surname = names.choose_surname(draws, source, _LANE_SURNAME)
        cohort = np.searchsorted(np.array(names.COHORT_STARTS), home.birth_year, side="right")
        given = names.choose_given(draws, rows, _LANE_GIVEN, 2 * cohort.astype(np.int64) + home.is_male)
        full = (_SURNAMES[surname] + _GIVEN[given]).tolist()
        age = LAST_YEAR - home.birth_year
        has_email = draws.happens(rows, _LANE_EMAIL, np.select([age < 12, age < 60, age < 75], [0, 700, 250], 60))
        form, number = draws.below(rows, _LANE_EMAIL_FORM, 3), draws.below(rows, _LANE_EMAIL_FORM + 1, 10_000)
        parts = zip(
            has_email.tolist(),
            _SURNAMES_PINYIN[surname].tolist(),
            _GIVEN_PINYIN[given].tolist(),
            home.birth_year.tolist(),
            form.tolist(),
            number.tolist(),
            strict=True,
        )
        return full, [_email(s, g, y, f, n) if has else None for has, s, g, y, f, n in parts]

    def phones(self, rows: Int64) -> list[str | None]:
        """Return mobile numbers in E.164; those of small children are their household head's."""
        home = members(self._draws, rows)
        owner = np.where(LAST_YEAR - home.birth_year < _PHONE_AGE, home.head, rows)
        prefix = _PREFIXES[_choose_prefix(self._draws, owner, _LANE_PREFIX)]
        return [f"+86{n}" for n in (prefix * 10**8 + self._draws.below(owner, _LANE_PHONE, 10**8)).tolist()]

    def addresses(self, rows: Int64) -> list[str | None]:
        """Return postal addresses, one for each household."""
        draws, head = self._draws, self.heads(rows)
        parts = zip(
            _DISTRICTS[self._home(head)].tolist(),
            _ROADS[places.choose_road(draws, head, _LANE_ROAD)].tolist(),
            (draws.below(head, _LANE_HOUSE, 400) + 1).tolist(),
            (draws.below(head, _LANE_ROOM, 24 * 18 * 4)).tolist(),
            strict=True,
        )
        return [f"{d}{road}{house}号{r % 24 + 1}栋{r // 24 % 18 + 1}0{r // 432 + 1}室" for d, road, house, r in parts]

    def cities(self, rows: Int64) -> list[str | None]:
        """Return the city of each address, or its district in a city that is a province."""
        return list(_CITIES[self._home(self.heads(rows))].tolist())


def _email(surname: str, given: str, year: int, form: int, number: int) -> str:
    local = (f"{given}.{surname}{number}", f"{surname}{given}{year % 100:02d}{number % 100}", f"{given}{year}{number}")
    return f"{local[form]}@example.{('com', 'org', 'net')[number % 3]}"


def chunks(count: int, start: int = 0) -> Iterator[Int64]:
    """Yield the row numbers `start` to `start + count - 1` in arrays of at most `CHUNK_ROWS`."""
    for first in range(start, start + count, CHUNK_ROWS):
        yield np.arange(first, min(first + CHUNK_ROWS, start + count), dtype=np.int64)


def residents(count: int, seed: int, start: int = 0) -> Iterator[Columns]:
    """Yield the columns of residents `start` to `start + count - 1` in chunks; the same whatever the chunks.

    Raises:
        RequestError: the table of a seed ends at `MAX_RESIDENTS` rows.
    """
    table = Residents(seed)
    for rows in chunks(count, start):
        yield table.columns(rows)
