"""Made-up records about residents: incidents, orders, delivery addresses, devices and readings.

Each names its person by the number that the person's table is unique in. Few people have many: half of the records are
about anybody, 35 % about a tenth of all people, 15 % about a hundredth; always about adults. All of this, and what the
records say (`data/records.toml`), is our choice; there is no published source behind it.

Every table is a function of a seed, of how many people (for readings: devices) the table has that it refers to, and of
row numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import gcd

import numpy as np

from anwen.sample.draw import Draws, Int64, Weighted, load, zipf
from anwen.sample.people import Columns, People

_DATA = load("records")
_INCIDENTS, _PRODUCTS, _THINGS, _WHERE = (_DATA[name] for name in ("incidents", "products", "things", "where"))
_FIRST_DAY = np.datetime64("2020-01-01")
_DAYS = 1827  # to 2024-12-31
_SECOND = np.timedelta64(1, "s")
_MULTIPLIER = 7_046_029_253  # coprime to 10, so numbers of one table are all different

_choose_incident = Weighted([weight for _, weight, _, _ in _INCIDENTS])
_choose_circle = Weighted((50, 35, 15))
_choose_product = Weighted(zipf(range(len(_PRODUCTS)), 2).values())
_choose_lines = Weighted((50, 25, 12, 8, 5))
_choose_quantity = Weighted((80, 15, 5))
_choose_status = Weighted(_DATA["status_weights"])


def _number(letter: str, seed: int, rows: Int64) -> list[str | None]:
    """Return a reference number of ten digits for each row, all different."""
    return [f"{letter}{(r * _MULTIPLIER + seed * 1_234_567) % 10**10:010d}" for r in rows.tolist()]


def _person(seed: int, people: int, draws: Draws, rows: Int64) -> Int64:
    """Return the row of the adult whom each record is about."""
    circle = np.array([max(1, people // 10**tier) for tier in range(3)], np.int64)
    rank = draws.below(rows, 0, circle[_choose_circle(draws, rows, 32)])
    # spread over the table, so that they are no neighbours
    stride = next(m for m in range(2_654_435_761 % people or 1, 2**32) if gcd(m, people) == 1)
    return People(seed, rank * stride % people).head


def _moments(draws: Draws, rows: Int64, hour: int | Int64) -> list[str | None]:
    """Return instants in UTC, most of them within a few hours of a time of day."""
    second = draws.below(rows, 2, 21_600) + draws.below(rows, 3, 21_600) - 21_600 + hour * 3600
    return [f"{moment}Z" for moment in np.datetime_as_string(_day(draws, rows) + second * _SECOND).tolist()]


def _day(draws: Draws, rows: Int64) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return _FIRST_DAY + draws.below(rows, 1, _DAYS).astype("timedelta64[D]")


def _persons(seed: int, _people: int, rows: Int64) -> Columns:
    return People(seed, rows).columns()


def _customers(seed: int, _people: int, rows: Int64) -> Columns:
    about = People(seed, rows).columns(("name", "birth_date", "phone", "email"))
    return {"customer_number": _number("C", seed, rows), **about}


def _owners(seed: int, _people: int, rows: Int64) -> Columns:
    about = People(seed, rows).columns(("name", "phone", "email", "address"))
    return {"owner_number": _number("E", seed, rows), **about}


def _incidents(seed: int, people: int, rows: Int64) -> Columns:
    draws = Draws(seed, 10)
    kind = _choose_incident(draws, rows, 4)
    hour = np.array([hour for _, _, hour, _ in _INCIDENTS], np.int64)[kind] - 8  # China is eight hours ahead of UTC
    thing, where = draws.below(rows, 5, len(_THINGS)), draws.below(rows, 6, len(_WHERE))
    texts = zip(kind.tolist(), thing.tolist(), where.tolist(), strict=True)
    return {
        "person_id_number": People(seed, _person(seed, people, draws, rows)).id_number,
        "case_number": _number("A", seed, rows),
        "kind": [_INCIDENTS[k][0] for k in kind.tolist()],
        "occurred": _moments(draws, rows, hour),
        "place": People(seed, draws.below(rows, 7, people)).address,
        "description": [_INCIDENTS[k][3].format(thing=_THINGS[t], where=_WHERE[w]) for k, t, w in texts],
    }


def _orders(seed: int, people: int, rows: Int64) -> Columns:
    """Return orders: `items` is JSON text, `total` the sum of its prices."""
    draws = Draws(seed, 11)
    lines = 1 + _choose_lines(draws, rows, 4)
    products = np.stack([_choose_product(draws, rows, 8 + i) for i in range(5)], axis=1).tolist()
    quantities = np.stack([1 + _choose_quantity(draws, rows, 16 + i) for i in range(5)], axis=1).tolist()
    items: list[str | None] = []
    totals: list[str | None] = []
    for n, chosen, counts in zip(lines.tolist(), products, quantities, strict=True):
        bought = [(*_PRODUCTS[p], q) for p, q in zip(chosen[:n], counts, strict=False)]
        items.append(
            json.dumps([{"article": a, "name": w, "price": _yuan(fen), "quantity": q} for a, w, fen, q in bought])
        )
        totals.append(_yuan(sum(fen * q for _, _, fen, q in bought)))
    return {
        "customer_number": _number("C", seed, _person(seed, people, draws, rows)),
        "order_number": _number("B", seed, rows),
        "placed": _moments(draws, rows, 12),
        "items": items,
        "total": totals,
        "status": [_DATA["status"][s] for s in _choose_status(draws, rows, 25).tolist()],
        "payment_account": [f"62220000{a:09d}" for a in draws.below(rows, 24, 10**9).tolist()],
    }


def _yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02d}"


def _deliveries(seed: int, people: int, rows: Int64) -> Columns:
    """Return delivery addresses, the first `people` rows one for each customer."""
    customer = People(seed, rows % people)
    return {
        "customer_number": _number("C", seed, rows % people),
        "recipient": customer.name,
        "phone": customer.phone,
        "street": customer.address,
        "city": customer.city,
        "postcode": [f"{str(region)[:4]}00" for region in customer.household_region],
    }


def _devices(seed: int, people: int, rows: Int64) -> Columns:
    """Return devices; device d is row d here and in `_readings`."""
    draws = Draws(seed, 12)
    owner = _person(seed, people, draws, rows)
    return {
        "owner_number": _number("E", seed, owner),
        "serial_number": _number("D", seed, rows),
        "model": [_DATA["models"][m] for m in draws.below(rows, 4, len(_DATA["models"])).tolist()],
        "installed": np.datetime_as_string(_day(draws, rows)).tolist(),
        "place": People(seed, owner).address,
    }


def _readings(seed: int, devices: int, rows: Int64) -> Columns:
    """Return readings of the first `devices` devices; `values` is JSON text."""
    draws = Draws(seed, 13)
    device = draws.below(rows, 0, devices)
    owner = _person(seed, devices, Draws(seed, 12), device)
    temperature = (150 + draws.below(rows, 4, 120)).tolist()
    humidity = (30 + draws.below(rows, 5, 40)).tolist()
    measured = zip(temperature, humidity, strict=True)
    north, east = draws.below(owner, 6, 2_000_000), draws.below(owner, 7, 3_000_000)
    return {
        "owner_number": _number("E", seed, owner),
        "device_serial": _number("D", seed, device),
        "taken": _moments(draws, rows, 12),
        "values": [f'{{"temperature": {t // 10}.{t % 10}, "humidity": {h}}}' for t, h in measured],
        "latitude": [f"{n / 100_000:.5f}" for n in (2_200_000 + north).tolist()],
        "longitude": [f"{n / 100_000:.5f}" for n in (9_000_000 + east).tolist()],
    }


TABLES: dict[str, tuple[Callable[[int, int, Int64], Columns], float]] = {
    "police.person": (_persons, 1),
    "police.incident": (_incidents, 2),
    "commerce.customer": (_customers, 1),
    "commerce.order": (_orders, 3),
    "commerce.address": (_deliveries, 1),
    "devices.owner": (_owners, 1),
    "devices.device": (_devices, 1.5),
    "devices.reading": (_readings, 20),
}
"""By kind: the function that makes its rows, and how many of them go with one row of the table they refer to."""
