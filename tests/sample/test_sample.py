"""Sample data: repeatable, valid, and jointly distributed as the named sources say."""

import hashlib
import json
import re
import stat
import tomllib
from collections import Counter, defaultdict
from importlib import resources

import numpy as np
import phonenumbers
import pytest
from stdnum.cn import ric

from anwen import sample
from anwen.errors import ConflictError, RequestError
from anwen.files import FileFormat, read_rows
from anwen.formats.normalise import normalise
from anwen.model import Field
from anwen.sample import tables
from anwen.sample.draw import Draws, Weighted, shuffled
from anwen.sample.people import BLOCK, People

COUNT = 60_000
REFERENCES = {
    "police.incident": "person_id_number",
    "commerce.order": "customer_number",
    "commerce.address": "customer_number",
    "devices.device": "owner_number",
    "devices.reading": "owner_number",
}


def joined(chunks):
    columns = defaultdict(list)
    for chunk in chunks:
        for name, column in chunk.items():
            columns[name] += column
    return dict(columns)


@pytest.fixture(scope="module")
def people():
    return joined(sample.residents(COUNT, seed=1))


@pytest.fixture(scope="module")
def ages(people):
    return np.array([2024 - int(born[:4]) for born in people["birth_date"]])


def test_the_first_rows_of_seed_1_never_change(tmp_path):
    sample.write_sample("police.person", 1000, 1, tmp_path / "f.ndjson")
    data = (tmp_path / "f.ndjson").read_bytes()
    assert json.loads(data.split(b"\n")[0]) == {
        "id_number": "110102197502049097",
        "name": "陈明勇",
        "birth_date": "1975-02-04",
        "sex": "M",
        "phone": "+8617889094312",
        "email": "chenmingyong7587@example.org",
        "address": "北京市西城区学府路91号23栋1304室",
        "household_region": "110102",
    }
    assert hashlib.sha256(data).hexdigest() == "da38f7d72147e743b53f286ec8bb558df0c683b37a2df18b23e23a61aa6809c0"


def test_a_row_depends_on_seed_and_number_alone(people):
    rows = np.array([59_999, 7, 7, 16_384, 16_383, 0])
    assert People(1, rows).columns() == {name: [column[r] for r in rows] for name, column in people.items()}
    assert joined(sample.residents(100, 1, start=16_300)) == {n: c[16_300:16_400] for n, c in people.items()}
    assert joined(sample.residents(100, 2)) != {n: c[:100] for n, c in people.items()}


def test_identity_numbers_are_valid_different_and_agree_with_the_other_fields(people):
    assert len(set(people["id_number"])) == COUNT
    rows = zip(people["id_number"], people["birth_date"], people["sex"], strict=True)
    for number, born, sex in list(rows)[:5000]:
        assert ric.validate(number) == number
        assert number[6:14] == born.replace("-", "")
        assert "FM"[int(number[16]) % 2] == sex


def test_identity_numbers_stay_different_where_day_and_sequence_repeat():
    seen = set()
    for window in range(5):
        seen.update(People(5, np.arange(20_000) + window * 365 * 500).id_number)
    assert len(seen) == 5 * 20_000


def test_every_region_code_is_in_force_for_everyone_who_bears_it():
    for name, (earlier, codes) in zip(tables.PROVINCES, tables.CODES.tolist(), strict=True):
        assert len(set(codes)) == len(set(earlier)) == tables.DISTRICTS
        for some, years in ((codes, (1983, 2024)), (earlier, (1925, 1982))):
            for code in some:
                for year in years:
                    assert ric.get_birth_place(f"{code}{year}0101")["province"] == name


def test_phones_are_valid_mobile_numbers(people):
    for phone in people["phone"][:3000]:
        number = phonenumbers.parse(phone)
        assert phonenumbers.is_valid_number(number)
        assert phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE


def test_ages_and_sexes_are_near_the_census_of_2020(people, ages):
    groups = [(ages < 15).mean(), ((ages >= 15) & (ages < 60)).mean(), (ages >= 60).mean()]
    assert groups == pytest.approx([0.1795, 0.6335, 0.1870], abs=0.015)
    sexes = Counter(people["sex"])
    assert 100 * sexes["M"] / sexes["F"] == pytest.approx(105.07, abs=3)
    old = [sex for sex, age in zip(people["sex"], ages, strict=True) if age >= 75]
    assert old.count("F") > old.count("M")


def test_surnames_have_their_published_shares(people):
    counts = Counter(name[:2] if name[:2] in tables.SURNAMES[-9:] else name[0] for name in people["name"])
    for surname, share in list(zip(tables.SURNAMES, tables.SURNAME_SHARES, strict=True))[:40]:
        expected = COUNT * share / 100
        # households share a surname: draws are not independent, so the spread is wider than that of single ones
        assert abs(counts[surname] - expected) < 7 * expected**0.5
    assert sum(tables.SURNAME_SHARES) == pytest.approx(100)
    assert sum(tables.SURNAME_SHARES[:100]) == pytest.approx(85.9)


def test_given_names_go_with_sex_and_decade(people):
    born = defaultdict(list)
    for name, date, sex in zip(people["name"], people["birth_date"], people["sex"], strict=True):
        born[name[1:]].append((int(date[:4]), sex))
    assert {(year < 1980, sex) for year, sex in born["建国"]} == {(True, "M")}
    assert all(year >= 2000 for year, _ in born["梓涵"])
    assert Counter(sex for _, sex in born["梓涵"])["F"] > 0.8 * len(born["梓涵"])
    singles = [
        len(name) == 2 for name, date in zip(people["name"], people["birth_date"], strict=True) if date[:3] == "198"
    ]
    assert np.mean(singles) == pytest.approx(0.276, abs=0.02)


def test_households_share_address_surname_and_sizes(people):
    homes = defaultdict(list)
    for row, address in enumerate(people["address"]):
        homes[row // BLOCK, address].append(row)
    sizes = Counter(len(rows) for rows in homes.values())
    percent = [100 * sizes[size] / sizes.total() for size in range(1, 7)]
    assert percent == pytest.approx(tables.DATA["household"]["size_percent"], abs=2)
    same = [people["name"][rows[0]][0] == people["name"][rows[2]][0] for rows in homes.values() if len(rows) == 3]
    assert np.mean(same) == pytest.approx(12 / 13, abs=0.03)
    years = [[int(people["birth_date"][r][:4]) for r in rows] for rows in homes.values() if len(rows) == 3]
    assert all(20 <= child - mother <= 39 for _, mother, child in years)


def test_most_people_live_where_their_number_was_given(people):
    home = [
        number[:2] == region[:2] for number, region in zip(people["id_number"], people["household_region"], strict=True)
    ]
    assert np.mean(home) == pytest.approx(1 - 0.088 * 0.95, abs=0.01)
    for address, region in zip(people["address"][:2000], people["household_region"], strict=False):
        codes = next(c for p, c in zip(tables.PROVINCES, tables.CODES, strict=True) if address.startswith(p))
        assert int(region) in codes[1]


def test_children_have_no_mail_and_their_parents_phone(people, ages):
    for row in np.flatnonzero(ages < 10)[:500]:
        assert people["email"][row] is None
        assert people["phone"][row] in people["phone"][max(0, row - 5) : row]
    domains = {email.rpartition("@")[2] for email in people["email"] if email}
    assert domains == {"example.com", "example.org", "example.net"}


def fields_of(kind):
    holder, _, collection = kind.partition(".")
    text = resources.files("anwen").joinpath("templates", f"{holder}.toml").read_text(encoding="utf-8")
    fields = tomllib.loads(text)["collections"][collection]["fields"]
    return {
        name: Field(
            f["id"],
            name,
            f["type"],
            f["class"],
            required=f.get("required", False),
            scheme=f.get("scheme"),
            region=f.get("region"),
            values=tuple(f["values"]) if "values" in f else None,
        )
        for name, f in fields.items()
    }


@pytest.mark.parametrize("file_format", list(FileFormat))
@pytest.mark.parametrize("kind", sample.KINDS)
def test_every_file_fits_its_ready_vault_file(tmp_path, kind, file_format):
    path = tmp_path / f"f.{file_format}"
    sample.write_sample(kind, 500, 3, path, file_format)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    fields = fields_of(kind)
    rows = [row.values for row in read_rows(path)]
    assert len(rows) == 500
    for row in rows:
        reference = row.pop(REFERENCES.get(kind), "none")
        assert reference
        canonical = {name: normalise(fields[name], value) for name, value in row.items()}
        assert all(canonical.get(name) is not None for name, field in fields.items() if field.required)


@pytest.mark.parametrize("kind", sample.KINDS)
def test_rows_do_not_depend_on_chunks(kind):
    whole = joined(sample.make(kind, 40, 3, people=17))
    assert joined(sample.make(kind, 10, 3, people=17, start=30)) == {
        name: column[30:] for name, column in whole.items()
    }


@pytest.mark.parametrize(
    ("kind", "key", "of", "unique"),
    [
        ("police.incident", "person_id_number", "police.person", "id_number"),
        ("commerce.order", "customer_number", "commerce.customer", "customer_number"),
        ("commerce.address", "customer_number", "commerce.customer", "customer_number"),
        ("devices.device", "owner_number", "devices.owner", "owner_number"),
    ],
)
def test_records_refer_to_people_that_are_there_and_few_have_many(kind, key, of, unique):
    people = joined(sample.make(of, 2000, 9))[unique]
    assert len(set(people)) == 2000
    records = Counter(joined(sample.make(kind, 4000, 9, people=2000))[key])
    assert set(records) <= set(people)
    if kind != "commerce.address":
        most = [count for _, count in records.most_common(200)]
        assert 0.4 < sum(most) / 4000 < 0.85
        assert most[0] < 200


def test_readings_refer_to_devices_and_their_owners():
    devices = joined(sample.make("devices.device", 50, 9, people=30))
    owner = dict(zip(devices["serial_number"], devices["owner_number"], strict=True))
    assert len(owner) == 50
    assert set(joined(sample.make("devices.owner", 30, 9))["owner_number"]) >= set(owner.values())
    readings = joined(sample.make("devices.reading", 300, 9, people=50))
    assert set(readings["device_serial"]) <= set(owner)


def test_orders_add_up():
    orders = joined(sample.make("commerce.order", 200, 4))
    for items, total in zip(orders["items"], orders["total"], strict=True):
        fen = sum(int(i["price"].replace(".", "")) * i["quantity"] for i in json.loads(items))
        assert int(total.replace(".", "")) == fen


def test_moments_are_instants():
    incidents = joined(sample.make("police.incident", 300, 4))
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment) for moment in incidents["occurred"])


def test_refusals(tmp_path):
    with pytest.raises(RequestError, match=r"expected one of police\.person"):
        list(sample.make("people", 1, 1))
    with pytest.raises(RequestError, match="at most 1000000"):
        list(sample.residents(2, 1, start=sample.MAX_RESIDENTS - 1))
    with pytest.raises(RequestError, match="expected one of csv"):
        sample.write_sample("police.person", 1, 1, tmp_path / "f.xls", "xls")
    with pytest.raises(RequestError, match="at least one row"):
        sample.write_sample("police.person", 0, 1, tmp_path / "f.csv", "csv")
    (tmp_path / "f.csv").touch()
    with pytest.raises(ConflictError, match="it exists"):
        sample.write_sample("police.person", 1, 1, tmp_path / "f.csv", "csv")
    assert [p.name for p in tmp_path.iterdir()] == ["f.csv"]


def test_draws():
    draws, rows = Draws(1, 1), np.arange(100_000)
    assert np.bincount(Weighted((1, 0, 3))(draws, rows, 0), minlength=3) / 100_000 == pytest.approx(
        [0.25, 0, 0.75], abs=0.01
    )
    assert draws.happens(rows, 1, 100).mean() == pytest.approx(0.1, abs=0.01)
    assert not (draws.bits(rows, 0) == draws.bits(rows, 1)).any()
    assert not (draws.bits(rows, 0) == Draws(1, 2).bits(rows, 0)).any()
    assert sorted(shuffled(1, 1, 1000).tolist()) == list(range(1000))
