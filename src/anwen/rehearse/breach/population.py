"""People drawn by public statistics, whose true values are known, so that what an attack wins can be counted.

A `World` is what the people are drawn from (the target) and what the attacker knows (the auxiliary: other years,
another census), over one set of values. Values are integers, places in sorted lists, so that their order is that of
the plaintext. Nobody drawn here exists; identity numbers are valid, made up, and different within one draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from anwen.errors import RequestError
from anwen.rehearse.breach import statistics
from anwen.rehearse.breach.statistics import Births, Float64, Int64
from anwen.sample import tables

COLLECTION = "person"
"""Of the template `police`, which rows are made for."""

COLUMNS = ("sex", "birth_year", "given_name", "surname", "chinese_surname", "state")
COHORT_YEARS = 5
SEXES = ("F", "M")
NOWHERE = "us"
"""The only state where the statistics have none."""

_YEARS = (1940, 2005)
_DAYS = 365  # nobody is born on 29 February
_NUMBERS = 500  # identity numbers of one district, day and sex
_MONTH_DAYS = [str(day)[5:] for day in np.datetime64("2023-01-01") + np.arange(_DAYS)]


@dataclass(frozen=True, slots=True)
class Source:
    """Statistics of one place and time. `states`: births by state, where `births` does not tell them."""

    births: Births
    surnames: Mapping[str, float]
    chinese: Mapping[str, float]
    states: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class People:
    """People drawn: for each column the value of each person, shape (n,); the rest comes from `seed`."""

    values: Mapping[str, Int64]
    seed: int

    def __len__(self) -> int:
        return len(self.values["sex"])


@dataclass(frozen=True, slots=True)
class Joint:
    """What the auxiliary says of a column together with others.

    groups: for each of those others the group of each of its values. weights: shape (values, cells), where a cell is
    a combination of groups, the last column's running fastest.
    """

    groups: Mapping[str, Int64]
    weights: Float64

    def cells(self, values: Mapping[str, Int64]) -> Int64:
        """Return the cell of each row. Where a value was not guessed, its group is the first."""
        cell = np.zeros(len(next(iter(values.values()))), np.int64)
        for name, group in self.groups.items():
            cell = cell * (int(group.max()) + 1) + group[np.maximum(values[name], 0)]
        return cell


def published(folder: Path, *, states: bool) -> World:
    """Return the world of the published statistics that `statistics.fetch` brought.

    Target: births of 1940 to 2005, surnames of 2020. Auxiliary: with states, births of the whole country in the same
    years, and of 1930 to 1995 by state; without them, births of 1935 to 2000. Surnames of 2010. Chinese surnames are
    known as they are.
    """
    chinese = statistics.chinese_surnames(folder)
    census, earlier = (statistics.surnames(folder, year) for year in (2020, 2010))
    if not states:
        people, known = (statistics.births_of_nation(folder, *years) for years in (_YEARS, (1935, 2000)))
        return World(Source(people, census, chinese), Source(known, earlier, chinese))
    people = statistics.births_of_states(folder, *_YEARS)
    before = statistics.births_of_states(folder, 1930, 1995)
    counted = np.bincount(before.state, before.births, len(before.states))
    by_state = dict(zip(before.states, counted.tolist(), strict=True))
    known = statistics.births_of_nation(folder, *_YEARS)
    return World(Source(people, census, chinese), Source(known, earlier, chinese, by_state))


class World:
    """Two sources over one set of values: `values` has the sorted list of each column."""

    def __init__(self, target: Source, auxiliary: Source) -> None:
        """Take both. About 5 s where births come by state."""
        both = (target, auxiliary)
        self.target, self.auxiliary = both
        years = [int(year) for s in both for year in (s.births.year.min(), s.births.year.max())]
        states = _merged(s.births.states or s.states for s in both)
        self.values: Mapping[str, Sequence[str]] = {
            "sex": SEXES,
            "birth_year": [str(year) for year in range(min(years), max(years) + 1)],
            "given_name": _merged(s.births.names for s in both),
            "surname": _merged(s.surnames for s in both),
            "chinese_surname": _merged(s.chinese for s in both),
            "state": states or [NOWHERE],
        }

    @cached_property
    def weights(self) -> Mapping[str, Float64]:
        """The attacker's weight of each value of each column; 0: he has not heard of it."""
        births, codes = self.auxiliary.births, self._births(self.auxiliary.births)
        weights: dict[str, Float64] = {
            name: np.bincount(codes[name], births.births, len(self.values[name])).astype(np.float64)
            for name in ("sex", "birth_year", "given_name", "state")
        }
        if self.auxiliary.states:
            weights["state"] = self._weights("state", self.auxiliary.states)
        weights["surname"] = self._weights("surname", self.auxiliary.surnames)
        weights["chinese_surname"] = self._weights("chinese_surname", self.auxiliary.chinese)
        return weights

    @cached_property
    def joints(self) -> Mapping[str, Sequence[Joint]]:
        """What the attacker knows of columns together: of given names by sex, and by sex and five years of birth."""
        births, codes = self.auxiliary.births, self._births(self.auxiliary.births)
        cohort = np.arange(len(self.values["birth_year"]), dtype=np.int64) // COHORT_YEARS
        sex = np.arange(len(SEXES), dtype=np.int64)
        found = []
        for groups in ({"sex": sex}, {"sex": sex, "birth_year": cohort}):
            cells = int(np.prod([int(group.max()) + 1 for group in groups.values()]))
            place = codes["given_name"] * cells + Joint(groups, np.empty((0, 0))).cells(codes)
            weights = np.bincount(place, births.births, len(self.values["given_name"]) * cells)
            found.append(Joint(groups, weights.reshape(-1, cells).astype(np.float64)))
        return {"given_name": found}

    def draw(self, count: int, seed: int) -> People:
        """Return people drawn with the target's weights; the same for the same seed."""
        return self._draw(self.target, count, seed)

    def imagine(self, count: int, seed: int) -> People:
        """Return people as the attacker would make them up: drawn with the auxiliary's weights."""
        return self._draw(self.auxiliary, count, seed)

    def rows(self, people: People, which: Int64 | None = None) -> list[dict[str, str]]:
        """Return people, or those at some places in some order, as rows of `COLLECTION`. About 10 us each.

        The name, which is indexed, is the given name alone: full names hardly repeat, and an index that showed equality
        would show little. The surnames are in address and e-mail address.

        Raises:
            RequestError: more people of one day and sex than there are identity numbers.
        """
        order = np.arange(len(people)) if which is None else which
        columns = self._fields(people)
        chosen = [[column[i] for i in order.tolist()] for column in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*chosen, strict=True)]

    def western_names(self, people: People) -> list[str]:
        """Return given names and surnames, in the order of people."""
        given, last = (self.values[name] for name in ("given_name", "surname"))
        pairs = zip(people.values["given_name"].tolist(), people.values["surname"].tolist(), strict=True)
        return [f"{given[g].title()} {last[s].title()}" for g, s in pairs]

    # --- parts -------------------------------------------------------------------------------------------------------

    def _births(self, births: Births) -> dict[str, Int64]:
        given = _places(births.names, self.values["given_name"])
        state = _places(births.states or self.values["state"][:1], self.values["state"])
        year = births.year - int(self.values["birth_year"][0])
        return {"sex": births.sex, "birth_year": year, "given_name": given[births.name], "state": state[births.state]}

    def _weights(self, column: str, counts: Mapping[str, float]) -> Float64:
        weights = np.zeros(len(self.values[column]))
        weights[_places(counts, self.values[column])] = list(counts.values())
        return weights

    def _draw(self, source: Source, count: int, seed: int) -> People:
        rng = np.random.default_rng([seed, 1])
        chosen = _choose(rng, source.births.births, count)
        values = {name: codes[chosen] for name, codes in self._births(source.births).items()}
        if source.states:
            values["state"] = _choose(rng, self._weights("state", source.states), count)
        values["surname"] = _choose(rng, self._weights("surname", source.surnames), count)
        values["chinese_surname"] = _choose(rng, self._weights("chinese_surname", source.chinese), count)
        return People({name: values[name] for name in COLUMNS}, seed)

    def _fields(self, people: People) -> dict[str, list[str]]:
        rng, count = np.random.default_rng([people.seed, 2]), len(people)
        named = {name: [self.values[name][v] for v in people.values[name].tolist()] for name in COLUMNS}
        day = rng.integers(0, _DAYS, count)
        province = rng.integers(0, len(tables.PROVINCES), count)
        district = rng.integers(0, tables.DISTRICTS, count)
        road, house, number = (rng.integers(0, limit, count).tolist() for limit in (len(tables.ROADS), 400, 100))
        phone = tables.PREFIXES[rng.integers(0, len(tables.PREFIXES), count)] * 10**8 + rng.integers(0, 10**8, count)
        where = tables.DISTRICT_NAMES[province, district].tolist()
        parts = zip(where, named["chinese_surname"], road, house, strict=True)
        births = zip(named["birth_year"], day.tolist(), strict=True)
        return {
            "id_number": _id_numbers(people.values, self.values["birth_year"], day, (province, district)),
            "name": [given.title() for given in named["given_name"]],
            "birth_date": [f"{year}-{_MONTH_DAYS[d]}" for year, d in births],
            "sex": named["sex"],
            "phone": [f"+86{n}" for n in phone.tolist()],
            "email": [
                f"{g}.{s}{n}@example.org" for g, s, n in zip(named["given_name"], named["surname"], number, strict=True)
            ],
            "address": [f"{place}{s}家{tables.ROADS[r]}{h + 1}号" for place, s, r, h in parts],
            "household_region": named["state"],
        }


def _merged(lists: Iterable[Iterable[str]]) -> list[str]:
    return sorted({value for values in lists for value in values})


def _places(values: Iterable[str], all_values: Sequence[str]) -> Int64:
    """Return the place of each of `values` in `all_values`."""
    at = {value: i for i, value in enumerate(all_values)}
    return np.array([at[value] for value in values], np.int64)


def _choose(rng: np.random.Generator, weights: Float64, count: int) -> Int64:
    bounds = np.cumsum(weights)
    chosen: Int64 = np.searchsorted(bounds, rng.random(count) * bounds[-1], side="right")
    return chosen


def number_within(group: Int64) -> Int64:
    """Return how many earlier elements are of the same group."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(group[order]) > 0))
    number = np.empty(len(group), np.int64)
    number[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    return number


def _id_numbers(values: Mapping[str, Int64], years: Sequence[str], day: Int64, place: tuple[Int64, Int64]) -> list[str]:
    """Return identity numbers by GB 11643-1999, all different: people of one day and sex are counted through."""
    year = values["birth_year"] + int(years[0])
    group = (year * _DAYS + day) * 2 + values["sex"]
    number = number_within(group)
    if len(number) and int(number.max()) >= _NUMBERS:
        raise RequestError(f"expected at most {_NUMBERS} people of one day of birth and sex")
    codes = tables.CODES[place[0], (year >= tables.CODES_CHANGED).astype(np.int64), place[1]]
    month_day = np.array([int(text.replace("-", "")) for text in _MONTH_DAYS])[day]
    body = (codes * 10**8 + year * 10**4 + month_day) * 1000 + number * 2 + values["sex"]
    total = sum(body // 10**digit % 10 * pow(2, digit + 1, 11) for digit in range(17))
    return [f"{b}{'10X98765432'[t]}" for b, t in zip(body.tolist(), (total % 11).tolist(), strict=True)]


__all__ = ["COLLECTION", "COLUMNS", "Births", "Joint", "People", "Source", "World", "number_within", "published"]
