"""Made-up residents of mainland China: row r of a seed is a pure function of both.

A resident's fields fit each other: birth date, sex and district are in the identity number (GB 11643-1999, valid by
`stdnum.cn.ric`, unique in the table); names are those of sex, decade and family; a household has one address, a family
one surname; small children share the phone of the household's head. Identity numbers, names and phones are made up, but
may by chance be somebody's; e-mail domains are reserved for examples (RFC 2606).

Households are of one to six. The ages of their heads are our choice, fitted so that all residents together come near
the age groups of the seventh census of 2020 (0-14 17.95 %, 15-59 63.35 %, 60 and over 18.70 %) and its sex ratio
(105.07). Boys to girls: 111 to 100, as the registrations of 2020 have it. Of the figures in `data/residents.toml` each
names its source there, or is marked as an assumption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

import numpy as np

from anwen.errors import RequestError
from anwen.sample import tables
from anwen.sample.draw import Draws, Int64, Weighted, shuffled

Columns = dict[str, list[str | None]]
PERSON = ("id_number", "name", "birth_date", "sex", "phone", "email", "address", "household_region")
CHUNK_ROWS = 16_384
BLOCK = 50
"""Residents that are divided into households together; a row's household is known from its block alone."""
LAST_YEAR = 2024
"""Ages are those of the last day of this year."""
_DAYS = 365  # nobody is born on 29 February
_WINDOW = _DAYS * 500  # pairs of a day and a sequence number
MAX_RESIDENTS = 1_000_000
"""Beyond DISTRICTS * _WINDOW rows identity numbers would repeat."""

_MONTH_DAY = [int(str(day)[5:].replace("-", "")) for day in np.datetime64("2023-01-01") + np.arange(_DAYS)]
_MONTH_DAYS = np.array(_MONTH_DAY, np.int64)
_PATTERNS = 256
_SINGLE, _HEAD, _SPOUSE, _CHILD, _GRANDPARENT, _SECOND_GRANDPARENT = range(6)
_LARGEST = (_HEAD, _SPOUSE, _CHILD, _CHILD, _GRANDPARENT, _SECOND_GRANDPARENT)
_HEAD_AGES = tables.DATA["household"]["head_ages"]
_BANDS = np.array([band for bands in _HEAD_AGES for band in bands], np.int64)
_choose_band = Weighted(*([weight for _, _, weight in bands] for bands in _HEAD_AGES))


def _patterns() -> tuple[Int64, Int64, Int64]:
    """Return first member's position, role and household size for each of BLOCK positions of each pattern."""
    choose_size = Weighted(tables.DATA["household"]["size_percent"])
    sizes = choose_size(Draws(0, 0), np.arange(_PATTERNS * BLOCK, dtype=np.int64), 0).reshape(-1, BLOCK) + 1
    first = np.zeros((_PATTERNS, BLOCK), np.int64)
    role, size = first.copy(), first.copy()
    for pattern in range(_PATTERNS):
        position = 0
        for drawn in sizes[pattern].tolist():
            members = min(drawn, BLOCK - position)
            if members == 0:
                break
            where = slice(position, position + members)
            first[pattern, where], size[pattern, where] = position, members
            role[pattern, where] = _LARGEST[:members] if members > 1 else _SINGLE
            position += members
    return first, role, size


_FIRST, _ROLE, _SIZE = _patterns()


@lru_cache(maxsize=4)
def _days(seed: int) -> Int64:
    return shuffled(seed, 2, _WINDOW)


class People:
    """Some rows of one seed, in any order and number: each property is a column, made when it is asked for.

    Lanes 0 to 7 are drawn for households, 16 to 29 for the rest. About 5 us a row for all columns.
    """

    def __init__(self, seed: int, rows: Int64) -> None:
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < MAX_RESIDENTS:
            raise RequestError(f"expected at most {MAX_RESIDENTS} made-up residents")
        self._draws, self._rows, self._pair = Draws(seed, 1), rows, _days(seed)[rows % _WINDOW]
        self._live_together()

    def columns(self, names: Sequence[str] = PERSON) -> Columns:
        """Return some of the columns by name."""
        return {name: getattr(self, name) for name in names}

    def _live_together(self) -> None:
        """Set what households say: head, mother (the head's spouse), year of birth, sex, and who is a child."""
        draws, rows, block = self._draws, self._rows, self._rows // BLOCK * BLOCK
        pattern = draws.below(block, 0, _PATTERNS)
        self.head = head = block + _FIRST[pattern, rows % BLOCK]
        role, size = _ROLE[pattern, rows % BLOCK], _SIZE[pattern, rows % BLOCK]
        band = _BANDS[_choose_band(draws, head, 1, size - 1)]
        head_age = band[:, 0] + draws.below(head, 2, band[:, 1] - band[:, 0] + 1)
        mother_age = np.maximum(20, head_age + 1 - draws.below(head, 3, 7))
        # a mother's age at birth: 20 to 38, most often in the middle, and no higher than her own
        two_draws = draws.below(rows, 4, 10_000) + draws.below(rows, 5, 10_000)
        at_birth = two_draws * np.minimum(19, mother_age - 19) // 20_000
        is_child = role == _CHILD
        age = np.select(
            [role <= _HEAD, role == _SPOUSE, is_child],
            [head_age, mother_age, mother_age - 20 - at_birth],
            head_age + 20 + draws.below(rows, 4, 15),
        )
        self._year = LAST_YEAR - np.minimum(age, 99)
        father_first = draws.happens(head, 7, 450)  # which of the head's parents lives in, if only one does
        self._male = np.select(
            [role == _HEAD, role == _SPOUSE, role == _GRANDPARENT, role == _SECOND_GRANDPARENT],
            [True, False, father_first, ~father_first],
            draws.happens(rows, 6, np.select([is_child, age >= 60], [527, 440], 560)),
        ).astype(np.int64)
        bears_name = (role <= _HEAD) | is_child | ((role >= _GRANDPARENT) & (self._male == 1))
        by_mother = is_child & draws.happens(rows, 21, tables.DATA["surname"]["by_mother_per_mille"])
        self._named_after = np.select([by_mother, bears_name], [head + 1, head], rows)

    @cached_property
    def _home(self) -> tuple[Int64, Int64]:
        """Province and district of the household; the districts of windows differ, see `id_number`."""
        province = tables.choose_province(self._draws, self.head, 16)
        block = self.head // BLOCK * BLOCK
        # by block, not by household: who forms one differs from window to window, blocks do not
        place = self._draws.below(block % _WINDOW, 17, tables.DISTRICTS)
        return province, (place + block // _WINDOW) % tables.DISTRICTS

    @property
    def id_number(self) -> list[str | None]:
        """Identity numbers, all different.

        Within a window of 365 * 500 rows every row has its own pair of day and sequence number. Rows of the same pair
        in different windows never have the same district: a province's districts follow each other from window to
        window.
        """
        province, district = self._home
        moved = self._draws.happens(self._rows, 18, tables.DATA["place"]["moved_per_mille"])
        elsewhere = tables.choose_province(self._draws, self._rows, 19)
        era = (self._year >= tables.CODES_CHANGED).astype(np.int64)
        code = tables.CODES[np.where(moved, elsewhere, province), era, district]
        body = (code * 10**8 + self._born) * 1000 + self._pair // _DAYS * 2 + self._male
        total = sum(body // 10**place % 10 * pow(2, place + 1, 11) for place in range(17))
        checks = ["10X98765432"[t] for t in (total % 11).tolist()]
        return [f"{b}{check}" for b, check in zip(body.tolist(), checks, strict=True)]

    @property
    def _born(self) -> Int64:
        born: Int64 = self._year * 10_000 + _MONTH_DAYS[self._pair % _DAYS]
        return born

    @property
    def birth_date(self) -> list[str | None]:
        """Days of birth."""
        return [f"{b // 10_000}-{b // 100 % 100:02d}-{b % 100:02d}" for b in self._born.tolist()]

    @property
    def sex(self) -> list[str | None]:
        """F or M."""
        return ["FM"[male] for male in self._male.tolist()]

    @cached_property
    def _names(self) -> list[tuple[int, int]]:
        """Indexes of surname and given name."""
        surname = tables.choose_surname(self._draws, self._named_after, 20)
        cohort = np.searchsorted(tables.COHORT_STARTS, self._year, side="right").astype(np.int64)
        given = tables.choose_given(self._draws, self._rows, 22, 2 * cohort + self._male)
        return list(zip(surname.tolist(), given.tolist(), strict=True))

    @property
    def name(self) -> list[str | None]:
        """Surname and given name."""
        return [tables.SURNAMES[s] + tables.GIVEN[g] for s, g in self._names]

    @property
    def email(self) -> list[str | None]:
        """E-mail addresses, made from name and year of birth; not everybody has one."""
        draws, rows, age = self._draws, self._rows, LAST_YEAR - self._year
        has = draws.happens(rows, 25, np.select([age < 12, age < 60, age < 75], [0, 700, 250], 60)).tolist()
        form, number = draws.below(rows, 26, 3).tolist(), draws.below(rows, 27, 10_000).tolist()
        parts = zip(has, self._names, self._year.tolist(), form, number, strict=True)
        return [_email(s, g, year, f, n) if wanted else None for wanted, (s, g), year, f, n in parts]

    @property
    def phone(self) -> list[str | None]:
        """Mobile numbers in E.164; those of children under ten are their household head's."""
        owner = np.where(LAST_YEAR - self._year < 10, self.head, self._rows)
        prefix = tables.PREFIXES[tables.choose_prefix(self._draws, owner, 23)]
        return [f"+86{n}" for n in (prefix * 10**8 + self._draws.below(owner, 24, 10**8)).tolist()]

    @property
    def address(self) -> list[str | None]:
        """Postal addresses, one for each household."""
        draws, head = self._draws, self.head
        road = tables.ROADS[tables.choose_road(draws, head, 27)].tolist()
        house, room = (draws.below(head, 28, 400) + 1).tolist(), draws.below(head, 29, 24 * 18 * 4).tolist()
        parts = zip(tables.DISTRICT_NAMES[self._home].tolist(), road, house, room, strict=True)
        return [f"{d}{road}{house}号{r % 24 + 1}栋{r // 24 % 18 + 1}0{r // 432 + 1}室" for d, road, house, r in parts]

    @property
    def city(self) -> list[str | None]:
        """The city of each address, or the province where that is a city."""
        return list(tables.CITIES[self._home].tolist())

    @property
    def household_region(self) -> list[str | None]:
        """Today's code of the district of each address."""
        province, district = self._home
        return [str(code) for code in tables.CODES[province, 1, district].tolist()]


def _email(surname: int, given: int, year: int, form: int, number: int) -> str:
    s, g = tables.SURNAMES_PINYIN[surname], tables.GIVEN_PINYIN[given]
    local = (f"{g}.{s}{number}", f"{s}{g}{year % 100:02d}{number % 100}", f"{g}{year}{number}")[form]
    return f"{local}@example.{('com', 'org', 'net')[number % 3]}"


def chunks(count: int, start: int = 0) -> Iterator[Int64]:
    """Yield the row numbers `start` to `start + count - 1` in arrays of at most `CHUNK_ROWS`."""
    for first in range(start, start + count, CHUNK_ROWS):
        yield np.arange(first, min(first + CHUNK_ROWS, start + count), dtype=np.int64)


def residents(count: int, seed: int, start: int = 0) -> Iterator[Columns]:
    """Yield the columns of residents `start` to `start + count - 1` in chunks; the same whatever the chunks.

    Raises:
        RequestError: the table of a seed ends at `MAX_RESIDENTS` rows.
    """
    for rows in chunks(count, start):
        yield People(seed, rows).columns()
