"""The main path, through three keeper processes and a node over TLS: put, find, open, and what must be refused."""

import asyncio
import dataclasses
import itertools

import pytest

import anwen
from anwen.client.session import Timing
from anwen.errors import (
    BudgetError,
    ConflictError,
    DeniedError,
    GrantError,
    MalformedError,
    NotFoundError,
    PolicyError,
    RefusedError,
    UnavailableError,
)
from anwen.vault_folder import Shape

from .conftest import id_number, person, running

NUMBERS = itertools.count(100, 100)


@pytest.fixture
def base():
    """A hundred people's numbers that no other test of the session uses."""
    return next(NUMBERS)


def test_a_person_goes_in_is_found_and_is_opened(connect, base):
    put = connect("importer", "intake").put("person", person(base))
    clerk = connect("case_worker", "casework")
    (found,) = clerk.find("person", phone=person(base)["phone"])
    assert (found.id, found.subject) == (put.record, put.subject)
    (values,) = clerk.open([found], ["identity", "contact"])
    expected = person(base)
    assert {k: values[k] for k in ("name", "birth_date", "sex", "phone", "id_number")} == {
        k: expected[k] for k in ("name", "birth_date", "sex", "phone", "id_number")
    }


def test_values_are_normalised_the_same_way_on_both_sides(connect, base):
    row = person(base, phone=f"0086 138{base:08}", name="ＺＨＡＮＧ　 Wei")
    connect("importer", "intake").put("person", row)
    clerk = connect("case_worker", "casework")
    assert len(clerk.find("person", phone=f"138{base:08}")) == 1
    assert len(clerk.find("person", name="zhang wei", phone=f"+86138{base:08}")) == 1


def test_the_list_view_opens_masks_only(connect, base):
    connect("importer", "intake").put("person", person(base))
    analyst = connect("case_worker", "overview")
    (found,) = analyst.find("person", phone=person(base)["phone"])
    (masked,) = analyst.open([found], ["identity.masked", "contact.masked"])
    assert set(masked) == {"id_number", "phone"}
    assert masked["phone"].endswith(person(base)["phone"][-4:])
    assert person(base)["phone"][:-4] not in str(masked)
    with pytest.raises((GrantError, NotFoundError)):
        analyst.open([found], ["identity"])


def test_many_rows_with_common_names_are_all_found(connect, base):
    rows = [person(base + i, name="Li Na Common") for i in range(90)]
    importer = connect("importer", "intake")
    for start in (0, 30, 60):  # later puts meet taken slots
        assert all(r.error is None for r in importer.put_many("person", rows[start : start + 30]))
    fresh = connect("importer", "intake")  # one that knows nothing of the slots so far
    assert fresh.put("person", person(base + 90, name="Li Na Common")).record
    found = connect("case_worker", "casework").find("person", name="Li Na  COMMON")
    assert len(found) == 91
    assert len({r.subject for r in found}) == 91


def test_more_rows_of_one_value_than_a_posting_has_candidates_go_in_at_once(connect, base):
    rows = [person(1_000_000 + base * 1000 + i, name=f"Crowd Nr{chr(97 + base // 100 % 26)}") for i in range(300)]
    assert all(r.error is None for r in connect("importer", "intake").put_many("person", rows))
    found = connect("case_worker", "casework").find("person", name=rows[0]["name"])
    assert len({r.id for r in found}) == 300


def test_a_bad_row_takes_no_other_with_it(connect, base):
    importer = connect("importer", "intake")
    importer.put("person", person(base))
    rows = [
        person(base + 1),
        person(base + 2, id_number=person(base)["id_number"]),
        person(base + 3, birth_date="31.02.1990"),
        person(base + 4, shoe_size=43),
        person(base + 5, id_number="110101199001011230"),
        {k: v for k, v in person(base + 6).items() if k != "name"},
        person(base + 7, sex="X"),
        person(base + 8, name="bad\x00name"),
    ]
    results = importer.put_many("person", rows)
    kinds = [type(r.error) for r in results]
    assert kinds == [type(None), ConflictError, *[MalformedError] * 6]
    for result, field in zip(
        results[1:], ["id_number", "birth_date", "shoe_size", "id_number", "name", "sex", "name"], strict=True
    ):
        assert field in str(result.error)
        assert "31.02" not in str(result.error)
    clerk = connect("case_worker", "casework")
    assert len(clerk.find("person", phone=person(base + 1)["phone"])) == 1
    assert clerk.find("person", phone=person(base + 2)["phone"]) == []


def test_a_record_refers_to_a_person_by_a_unique_field_or_by_handle(connect, base):
    put = connect("importer", "intake").put("person", person(base))
    registrar = connect("importer", "registration")
    incident = {"kind": "theft", "occurred": "2024-05-01T10:00:00Z", "description": "a bicycle"}
    results = registrar.put_many(
        "incident",
        [
            {**incident, "person.id_number": person(base)["id_number"]},
            {**incident, "subject": put.subject},
            {**incident, "person.id_number": id_number("11010119000101999")},
            {**incident, "subject": "00" * 16},
            incident,
            {**incident, "person.id_number": "not a number"},
        ],
    )
    assert [r.error and r.error.code for r in results] == [None, None, *["not_found"] * 3, "malformed"]
    assert {r.subject for r in results[:2]} == {put.subject}
    clerk = connect("case_worker", "casework")
    records = clerk.list_subject(put.subject, "incident")
    assert [v["kind"] for v in clerk.open(records, ["report"])] == ["theft", "theft"]


def test_an_update_replaces_a_class_and_its_index_and_a_second_writer_is_told(connect, base):
    connect("importer", "intake").put("person", person(base))
    officer = connect("records_officer", "rectification")
    (found,) = officer.find("person", id_number=person(base)["id_number"])
    new = {"phone": f"+86139{base:08}", "email": "new@example.org", "address": "elsewhere 1"}
    assert officer.update(found, "contact", new).version == 2
    with pytest.raises(ConflictError):
        officer.update(found, "contact", new)
    clerk = connect("case_worker", "casework")
    assert clerk.find("person", phone=person(base)["phone"]) == []
    (again,) = clerk.find("person", phone=new["phone"])
    (values,) = clerk.open([again], ["identity", "contact"])
    assert (values["email"], values["name"]) == ("new@example.org", person(base)["name"])
    assert again.version == 2


def test_a_deleted_record_is_not_found_and_its_old_bytes_are_refused(connect, base):
    connect("importer", "intake").put("person", person(base))
    clerk = connect("case_worker", "casework")
    (first,) = clerk.find("person", phone=person(base)["phone"])
    connect("records_officer", "rectification").update(first, "contact", {"phone": person(base)["phone"]})
    (kept,) = clerk.find("person", phone=person(base)["phone"])
    assert (kept.cells[1].version, kept.cells[2].version) == (1, 2)
    (found,) = connect("records_officer", "deletion").find("person", id_number=person(base)["id_number"])
    connect("records_officer", "deletion").delete([found])
    assert clerk.find("person", phone=person(base)["phone"]) == []
    for class_name in ("identity", "contact"):
        with pytest.raises(RefusedError):
            clerk.open([kept], [class_name])
    assert connect("importer", "intake").put("person", person(base)).error is None  # the unique value is free again


def test_a_purpose_covers_what_it_names_and_nothing_else(connect, base):
    connect("importer", "intake").put("person", person(base))
    with pytest.raises(DeniedError):
        connect("analyst", "statistics").find("person", phone=person(base)["phone"])
    with pytest.raises(DeniedError):
        connect("case_worker", "casework").put("person", person(base + 1))
    with pytest.raises(DeniedError):
        connect("case_worker", "oversight").find("person", phone=person(base)["phone"])
    with pytest.raises(NotFoundError):
        connect("nobody", "casework")


def test_a_stolen_login_opens_at_most_its_budget(tmp_path):
    folder = anwen.create(tmp_path / "v", "police")
    with running(folder):
        with anwen.connect(folder.path, key="importer", purpose="intake") as importer:
            assert all(r.error is None for r in importer.put_many("person", [person(i) for i in range(400)]))
        people = set()
        with anwen.connect(folder.path, key="case_worker", purpose="casework") as thief:
            records = []
            for i in range(0, 300, 50):
                phones = [person(j)["phone"] for j in range(i, i + 50)]
                records += [r for found in thief.find_many("person", "phone", phones) for r in found]
            for size in (20, 5, 1):
                for start in range(0, len(records), size):
                    part = records[start : start + size]
                    try:
                        thief.open(part, ["identity"])
                        people |= {r.subject for r in part}
                    except BudgetError as refused:
                        assert refused.retry_after_s > 3000
        promised = folder.policy().roles["case_worker"].budgets["open"].per_hour
        assert promised * 0.6 <= len(people) <= promised


def test_concurrent_callers_share_requests_and_each_gets_its_own(vault, connect, base):
    rows = [person(base + i) for i in range(40)]
    connect("importer", "intake").put_many("person", rows)

    async def play():
        async with anwen.connect_async(vault.path, key="case_worker", purpose="casework") as clerk:
            calls = clerk.session.transport
            count = 0
            call = calls.call

            async def counted(recipient, *rest):
                nonlocal count
                count += 1
                return await call(recipient, *rest)

            calls.call = counted

            async def one(row):
                (found,) = await clerk.find("person", phone=row["phone"])
                (values,) = await clerk.open([found], ["identity"])
                return values["id_number"]

            return await asyncio.gather(*(one(r) for r in rows)), count

    opened, count = asyncio.run(play())
    assert opened == [r["id_number"] for r in rows]
    assert count < 5 * 40  # by themselves they need six each, and hedges on a busy machine


def test_who_has_seen_a_person_and_every_log_is_whole(connect, base):
    put = connect("importer", "intake").put("person", person(base))
    clerk = connect("case_worker", "casework")
    clerk.open(clerk.find("person", phone=person(base)["phone"]), ["identity"])
    auditor = connect("dpo", "oversight")
    seen = auditor.audit_subject(put.subject)
    assert [(s.principal, s.purpose, s.operation) for s in seen] == [
        ("importer", "intake", "put"),
        ("case_worker", "casework", "open"),
    ]
    assert "person.identity" in seen[1].classes
    verdicts = auditor.audit_verify()
    assert [v.problem for v in verdicts] == ["", "", ""]
    assert all(v.cosigned_by for v in verdicts)
    with pytest.raises(DeniedError):
        connect("case_worker", "casework").audit_subject(put.subject)


def test_no_file_of_the_vault_holds_a_value(vault, connect, base):
    rows = [person(base + i, name=f"Canary Zyx{chr(97 + i)}qv", address=f"{base + i} Hidden Lane") for i in range(20)]
    importer = connect("importer", "intake")
    importer.put_many("person", rows)
    clerk = connect("case_worker", "casework")
    clerk.open(clerk.find("person", name=rows[0]["name"]), ["identity", "contact"])
    values = [str(r[k]).encode() for r in rows for k in ("id_number", "name", "phone", "address")]
    needles = {v for raw in values for v in (raw, raw.lower(), raw.hex().encode(), raw.decode().encode("utf-16-le"))}
    files = [p for p in vault.path.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files if p.name.startswith("anwen.sqlite")) > 50_000
    for path in files:
        content = path.read_bytes()
        assert not [n for n in needles if n in content], path


def test_the_same_works_embedded_in_one_process(tmp_path):
    folder = anwen.create(tmp_path / "v", "police")
    with anwen.open(folder.path, key="importer", purpose="intake") as importer:
        importer.put_many("person", [person(i) for i in range(5)])
        clerk = importer  # one process, one principal: another key needs another opening
        with pytest.raises(ConflictError, match="running already"):
            anwen.open(folder.path, key="case_worker", purpose="casework")
        assert clerk.policy.single_machine
    with anwen.open(folder.path, key="case_worker", purpose="casework") as clerk:
        (found,) = clerk.find("person", phone=person(3)["phone"])
        assert clerk.open([found], ["identity"])[0]["name"] == person(3)["name"]


@pytest.mark.parametrize("down", ["a", "b", "c"])
def test_one_keeper_down_stops_nothing_and_two_stop_cleanly(tmp_path, down):
    folder = anwen.create(tmp_path / "v", "police")
    short = {"timing": Timing(deadline_s=3.0)}
    with (
        running(folder) as processes,
        anwen.connect(folder.path, key="importer", purpose="intake", **short) as importer,
    ):
        importer.put("person", person(1))
        processes.processes[f"keeper {down}"].kill()
        importer.put("person", person(2))
        with anwen.connect(folder.path, key="case_worker", purpose="casework", **short) as clerk:
            for i in (1, 2):
                (found,) = clerk.find("person", phone=person(i)["phone"])
                assert clerk.open([found], ["identity"])[0]["name"] == person(i)["name"]
            with anwen.connect(folder.path, key="dpo", purpose="oversight") as auditor:
                assert "open" in {seen.operation for seen in auditor.audit_subject(found.subject)}
            processes.processes[f"keeper {'b' if down != 'b' else 'c'}"].kill()
            for call in (
                lambda: clerk.find("person", phone=person(1)["phone"]),
                lambda: importer.put("person", person(3)),
            ):
                with pytest.raises(UnavailableError, match="fewer than 2 keepers answered"):
                    call()


def test_all_keepers_on_one_machine_need_the_policy_to_say_so(tmp_path, monkeypatch):
    folder = anwen.create(tmp_path / "v", "police")
    spread = dataclasses.replace(folder.policy(), single_machine=False)
    monkeypatch.setattr(type(folder), "policy", lambda _: spread)
    with pytest.raises(PolicyError, match="single_machine"), running(folder):
        pass


@pytest.mark.parametrize(("zones", "threshold"), [("abcde", 3), ("abcde", 2)])
def test_other_shapes_of_quorum_work_and_bear_as_many_losses(tmp_path, zones, threshold):
    folder = anwen.create(tmp_path / "v", "police", shape=Shape(tuple(zones), threshold))
    with running(folder) as processes, anwen.connect(folder.path, key="importer", purpose="intake") as importer:
        importer.put_many("person", [person(i) for i in range(20)])
        for lost in zones[: len(zones) - threshold]:
            processes.processes[f"keeper {lost}"].kill()
        with anwen.connect(folder.path, key="case_worker", purpose="casework") as clerk:
            found = [r for i in range(20) for r in clerk.find("person", phone=person(i)["phone"])]
            assert [v["name"] for v in clerk.open(found, ["identity"])] == [person(i)["name"] for i in range(20)]
