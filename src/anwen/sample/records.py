"""Made-up records about residents: incidents, orders, delivery addresses, devices and readings.

Each names its person by the number that the person's table is unique in. Few people have many: half of the records are
about anybody, 35 % about a tenth of all people, 15 % about a hundredth; always about adults. All of this, and what the
records say, is our choice; there is no published source behind it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from anwen.sample.draw import Draws, Int64, Weighted
from anwen.sample.residents import Columns, Residents

FIRST_DAY = np.datetime64("2020-01-01")
DAYS = 1827  # to 2024-12-31
_SECOND = np.timedelta64(1, "s")

# kind, weight, hour at which it is commonest, description
INCIDENTS = (
    ("theft", 30, 15, "Reported that {thing} was taken {where}."),
    ("fraud", 26, 11, "Reported a transfer of money after a call about {thing}."),
    ("traffic accident", 18, 8, "Collision {where}; nobody seriously hurt."),
    ("dispute", 12, 20, "Dispute over {thing} {where}, settled on the spot."),
    ("lost property", 9, 13, "Reported {thing} lost {where}."),
    ("assault", 5, 22, "Reported to have been struck {where}."),
)
_THINGS = ("a bicycle", "a mobile phone", "a wallet", "a scooter battery", "a parcel", "a handbag")
_WHERE = ("at a market", "at a bus stop", "in a stairwell", "in a car park", "outside a school", "at a station")
# article, name, price in fen
PRODUCTS = (
    ("T-1001", "Jasmine tea 250 g", 4_500),
    ("T-1002", "Green tea 500 g", 12_800),
    ("K-2001", "Kettle 1.5 l", 16_900),
    ("K-2002", "Rice cooker 4 l", 29_900),
    ("B-3001", "Notebook A5", 1_250),
    ("B-3002", "Gel pen, box of 12", 1_990),
    ("C-4001", "Rain jacket", 23_900),
    ("C-4002", "Cotton socks, 5 pairs", 3_990),
    ("H-5001", "Desk lamp", 8_900),
    ("H-5002", "Wool blanket", 18_500),
    ("P-6001", "USB cable 1 m", 1_590),
    ("P-6002", "Power bank 10 Ah", 9_990),
)
STATUS = ("delivered", "shipped", "paid", "placed", "returned")
MODELS = ("Aria Meter 2", "Aria Meter 3", "Borealis Thermostat", "Cygnus Smoke Alarm", "Delta Water Meter", "Echo Lock")

_choose_incident = Weighted([weight for _, weight, _, _ in INCIDENTS])
_choose_circle = Weighted((50, 35, 15))
_choose_product = Weighted([1 / (rank + 2) for rank in range(len(PRODUCTS))])
_choose_status = Weighted((80, 6, 5, 4, 5))
_MULTIPLIER = 7_046_029_253  # coprime to 10, so numbers of one table are all different


def number(letter: str, seed: int, rows: Int64) -> list[str | None]:
    """Return a reference number of ten digits for each row, all different."""
    return [f"{letter}{(r * _MULTIPLIER + seed * 1_234_567) % 10**10:010d}" for r in rows.tolist()]


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one seed about the first `people` residents of the same seed."""

    seed: int
    people: int

    def _person(self, draws: Draws, rows: Int64) -> Int64:
        """Return the row of the adult whom each record is about."""
        circle = np.array([max(1, self.people // 10**tier) for tier in range(3)], np.int64)
        rank = draws.below(rows, 0, circle[_choose_circle(draws, rows, 32)])
        # spread over the table, so that they are no neighbours
        stride = next(m for m in range(2_654_435_761 % self.people or 1, 2**32) if gcd(m, self.people) == 1)
        return Residents(self.seed).heads(rank * stride % self.people)

    def _moments(self, draws: Draws, rows: Int64, hour: int | Int64) -> list[str | None]:
        """Return instants in UTC, most of them within a few hours of a time of day."""
        day = draws.below(rows, 1, DAYS)
        second = draws.below(rows, 2, 21_600) + draws.below(rows, 3, 21_600) - 21_600 + hour * 3600
        moments = FIRST_DAY + day.astype("timedelta64[D]") + second * _SECOND
        return [f"{moment}Z" for moment in np.datetime_as_string(moments).tolist()]

    def incidents(self, rows: Int64) -> Columns:
        """Return columns of incidents; the person by `person_id_number`."""
        draws = Draws(self.seed, 10)
        person = self._person(draws, rows)
        kind = _choose_incident(draws, rows, 4)
        hour = np.array([hour for _, _, hour, _ in INCIDENTS], np.int64)[kind] - 8  # China is eight hours ahead of UTC
        thing, where = draws.below(rows, 5, len(_THINGS)), draws.below(rows, 6, len(_WHERE))
        elsewhere = draws.below(rows, 7, self.people)
        table = Residents(self.seed)
        texts = zip(kind.tolist(), thing.tolist(), where.tolist(), strict=True)
        return {
            "person_id_number": table.id_numbers(person),
            "case_number": number("A", self.seed, rows),
            "kind": [INCIDENTS[k][0] for k in kind.tolist()],
            "occurred": self._moments(draws, rows, hour),
            "place": table.addresses(elsewhere),
            "description": [INCIDENTS[k][3].format(thing=_THINGS[t], where=_WHERE[w]) for k, t, w in texts],
        }

    def orders(self, rows: Int64) -> Columns:
        """Return columns of orders; `items` is JSON text, `total` their sum, the person by `customer_number`."""
        draws = Draws(self.seed, 11)
        lines = 1 + Weighted((50, 25, 12, 8, 5))(draws, rows, 4)
        products = np.stack([_choose_product(draws, rows, 8 + i) for i in range(5)], axis=1).tolist()
        quantities = np.stack([1 + Weighted((80, 15, 5))(draws, rows, 16 + i) for i in range(5)], axis=1).tolist()
        items, totals = [], []
        for n, chosen, counts in zip(lines.tolist(), products, quantities, strict=True):
            bought = [(PRODUCTS[p], q) for p, q in zip(chosen[:n], counts, strict=False)]
            items.append(
                json.dumps([{"article": a, "name": w, "price": _yuan(fen), "quantity": q} for (a, w, fen), q in bought])
            )
            totals.append(_yuan(sum(fen * q for (_, _, fen), q in bought)))
        account = draws.below(rows, 24, 10**9).tolist()
        return {
            "customer_number": number("C", self.seed, self._person(draws, rows)),
            "order_number": number("B", self.seed, rows),
            "placed": self._moments(draws, rows, 12),
            "items": list(items),
            "total": list(totals),
            "status": [STATUS[s] for s in _choose_status(draws, rows, 25).tolist()],
            "payment_account": [f"62220000{a:09d}" for a in account],
        }

    def deliveries(self, rows: Int64) -> Columns:
        """Return columns of delivery addresses, the first `people` rows one for each customer."""
        table = Residents(self.seed)
        person = rows % self.people
        resident = table.columns(person)
        streets = [str(address) for address in resident["address"]]
        return {
            "customer_number": number("C", self.seed, person),
            "recipient": resident["name"],
            "phone": resident["phone"],
            "street": list(streets),
            "city": table.cities(person),
            "postcode": [f"{code}00"[:6] for code in (str(r)[:4] for r in resident["household_region"])],
        }

    def devices(self, rows: Int64) -> Columns:
        """Return columns of devices; the person by `owner_number`. Device d is row d here and in `readings`."""
        draws = Draws(self.seed, 12)
        owner = self._person(draws, rows)
        installed = np.datetime_as_string(FIRST_DAY + draws.below(rows, 1, DAYS).astype("timedelta64[D]"))
        return {
            "owner_number": number("E", self.seed, owner),
            "serial_number": number("D", self.seed, rows),
            "model": [MODELS[m] for m in draws.below(rows, 4, len(MODELS)).tolist()],
            "installed": installed.tolist(),
            "place": Residents(self.seed).addresses(owner),
        }

    def readings(self, rows: Int64) -> Columns:
        """Return columns of readings of the first `people` devices; `values` is JSON text."""
        draws, devices = Draws(self.seed, 13), Draws(self.seed, 12)
        device = draws.below(rows, 0, self.people)
        owner = self._person(devices, device)
        temperature = (150 + draws.below(rows, 4, 120)).tolist()
        humidity = (30 + draws.below(rows, 5, 40)).tolist()
        north, east = draws.below(owner, 6, 2_000_000), draws.below(owner, 7, 3_000_000)
        return {
            "owner_number": number("E", self.seed, owner),
            "device_serial": number("D", self.seed, device),
            "taken": self._moments(draws, rows, 12),
            "values": [
                f'{{"temperature": {t // 10}.{t % 10}, "humidity": {h}}}'
                for t, h in zip(temperature, humidity, strict=True)
            ],
            "latitude": [f"{n / 100_000:.5f}" for n in (2_200_000 + north).tolist()],
            "longitude": [f"{n / 100_000:.5f}" for n in (9_000_000 + east).tolist()],
        }


def _yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02d}"


def pick(columns: Columns, names: Sequence[str]) -> Columns:
    """Return some of the columns, in this order."""
    return {name: columns[name] for name in names}
