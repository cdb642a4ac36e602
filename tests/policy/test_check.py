"""Every finding of `anwen policy check` appears when it should, and ready vault files have no errors."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

import vault_texts
from anwen.formats.policy_file import parse_toml
from anwen.model import Counter, Field, Policy, Principal
from anwen.policy.check import explain
from anwen.policy.effect import Effect, effect
from anwen.policy.entropy import index_leak, mask_problem

NOW = int(datetime(2029, 12, 1, tzinfo=UTC).timestamp())


def found(policy: Policy, level: str, path: str) -> str:
    """Return the one finding at this level and path."""
    texts = [f.text for f in explain(policy, NOW) if (f.level, f.path) == (level, path)]
    assert len(texts) == 1, [str(f) for f in explain(policy, NOW)]
    return texts[0]


def edited(*edits: tuple[str, str], one_machine: bool = True) -> Policy:
    text = vault_texts.text(one_machine=one_machine)
    for was, becomes in edits:
        assert was in text
        text = text.replace(was, becomes)
    return parse_toml(text)


@pytest.mark.parametrize("name", vault_texts.NAMES)
@pytest.mark.parametrize(("keepers", "threshold"), [(3, 2), (5, 3), (7, 4)])
def test_ready_vault_files_have_no_errors_and_one_warning(name, keepers, threshold):
    findings = explain(vault_texts.policy(name, keepers, threshold), NOW)
    assert [f.path for f in findings if f.level != "note"] == ["vault.single_machine"]
    on_three = parse_toml(vault_texts.text(name, keepers, threshold, one_machine=False))
    assert [f for f in explain(on_three, NOW) if f.level != "note"] == []


@pytest.mark.parametrize(  # docs/policy-guide.md: n, t, b, thief, thief and keepers, honest, one zone down
    ("n", "t", "row"),
    [(3, 2, (500, 750, 1000, 750, 500)), (5, 3, (333, 555, 999, 555, 444)), (7, 4, (250, 437, 1000, 437, 375))],
)
def test_effective_numbers_are_those_of_the_threat_model(n, t, row):
    policy = vault_texts.policy("police", n, t)
    assert effect(policy, Counter.OPEN, 1000) == Effect(1000, *row)
    text = found(policy, "note", "roles.case_worker.budgets.open")
    b, thief, with_keepers, honest, down = row
    assert f"(1,000); each keeper lets {200 // (n - t + 1)} ({b}) through" in text
    for part in (f"({thief:,})", f"with {t - 1} of {n} keepers", f"({with_keepers:,})", f"({honest})", f"({down})"):
        assert part in text


def test_requests_that_ask_every_keeper_spend_all_parts_at_once():
    e = effect(vault_texts.policy(), Counter.SEARCH, 1000)
    assert (e.keeper, e.thief, e.honest, e.zone_down) == (500, 750, 500, 500)


def test_no_zone_may_fail_when_all_keepers_must_answer():
    policy = vault_texts.policy("police", 3, 3)
    assert "any one that is down stops everything" in found(policy, "warning", "vault.threshold")
    assert effect(policy, Counter.OPEN, 1000).zone_down == effect(policy, Counter.SEARCH, 1000).zone_down == 0
    assert "nothing with one zone down" in found(policy, "note", "roles.case_worker.budgets.open")


LOW = "matches their counts with a census"


@pytest.mark.parametrize(
    ("field", "part"),
    [
        (Field(1, "x", "bool", "c", index="exact"), "a bool has at most 2 values"),
        (Field(1, "x", "bool", "c", index="unique"), "a bool has at most 2 values"),
        (Field(1, "x", "text", "c", index="unique", values=("a", "b", "c")), "has 3 values"),
        (Field(1, "birth_date", "date", "c", index="exact"), "at most 40,000 days"),
        (Field(1, "x", "datetime", "c", index="exact"), "seconds in a year"),
        (Field(1, "x", "int", "c", index="exact"), "kind int"),
        (Field(1, "x", "decimal", "c", index="exact"), "kind decimal"),
        (Field(1, "sex", "text", "c", index="exact"), '"sex" has few values'),
        (Field(1, "gender_code", "text", "c", index="exact"), '("gender")'),
        (Field(1, "nationality", "text", "c", index="exact"), '("nationality")'),
        (Field(1, "household_region", "text", "c", index="exact"), '("region")'),
        (Field(1, "postcode", "address", "c", index="exact"), '("postcode")'),
    ],
)
def test_an_index_on_few_values_is_refused_with_what_it_leaks(field, part):
    leak = index_leak(field)
    assert part in leak
    assert LOW in leak


def test_json_has_no_index_and_identifiers_may_have_one():
    assert "miss records in silence" in index_leak(Field(1, "x", "json", "c", index="exact"))
    for kind, index, name in (
        ("phone", "exact", "phone"),
        ("email", "exact", "email"),
        ("name", "exact", "name"),
        ("national_id", "unique", "id_number"),
        ("text", "unique", "state_number"),
        ("text", "exact", "licence_plate"),
        ("int", "unique", "member_number"),
        ("text", None, "sex"),
    ):
        assert index_leak(Field(1, name, kind, "c", index=index)) is None


def test_the_refused_index_is_found_in_a_vault_file():
    policy = edited(('type = "text", values = ["F", "M"]', 'type = "text", values = ["F", "M"], index = "exact"'))
    assert LOW in found(policy, "error", "collections.person.fields.sex.index")


def test_masks_that_hide_nothing_are_refused():
    for kind in ("bool", "date", "datetime", "int", "decimal", "json"):
        assert "no last four characters" in mask_problem(Field(1, "x", kind, "c", mask="last4"))
    assert "are the value" in mask_problem(Field(1, "x", "text", "c", mask="last4", values=("F", "M")))
    assert mask_problem(Field(1, "x", "phone", "c", mask="last4")) is None
    policy = edited(('class = "identity", type = "date" }', 'class = "identity", type = "date", mask = "last4" }'))
    found(policy, "error", "collections.person.fields.birth_date.mask")
    policy = edited(('type = "email" }', 'type = "email", mask = "last4" }'))
    found(policy, "note", "collections.person.fields.email.mask")


def test_budgets_below_the_number_of_parts_allow_nothing():
    policy = edited(
        ("budgets.delete = { per_hour = 20, per_day = 100 }", "budgets.delete = { per_hour = 1, per_day = 9 }")
    )
    assert "1 / 2 (n - t + 1)" in found(policy, "error", "roles.records_officer.budgets.delete")
    policy = edited(("limits.open = { per_hour = 10_000", "limits.open = { per_hour = 1"))
    assert "below 2 allows nothing" in found(policy, "error", "collections.person.limits.open")


def test_session_binding_is_refused_with_its_worst_case():
    policy = edited(('purposes = ["casework", "overview"]', 'purposes = ["casework", "overview"]\nbinding = "session"'))
    text = found(policy, "error", "roles.case_worker.binding")
    for part in ("not offered yet", "up to 200 people", "person.identity,", "ten minutes"):
        assert part in text


def test_keepers_on_one_machine_need_the_word_for_it():
    policy = replace(vault_texts.policy(), single_machine=False)
    paths = [f.path for f in explain(policy, NOW) if f.level == "error"]
    assert paths == [f"zones.zone_{z}.keeper.address" for z in "abc"]
    assert "3 of the 2 keepers needed" in found(policy, "error", "zones.zone_a.keeper.address")
    spread = edited(("a.example.org:81", "127.0.0.9:81"), one_machine=False)
    assert "reaches no other machine" in found(spread, "error", "zones.zone_a.keeper.address")
    assert "takes the vault" in found(vault_texts.policy(), "warning", "vault.single_machine")


def test_keepers_in_one_zone_one_tls_key_and_nodes():
    policy = vault_texts.policy()
    same = {k: replace(v, zone="zone_a") for k, v in policy.keepers.items()}
    assert len([f for f in explain(replace(policy, keepers=same)) if "fall together" in f.text]) == 3
    pins = {k: replace(v, tls_pin=bytes(32)) for k, v in policy.keepers.items()}
    assert "one TLS key" in found(replace(policy, keepers=pins), "error", "zones")
    assert "nothing can be stored" in found(replace(policy, nodes={}), "error", "zones")
    one = dict(list(policy.nodes.items())[:1])
    spread = parse_toml(vault_texts.text(one_machine=False))
    assert "one node alone" in found(replace(spread, nodes=one), "warning", "zones")


def test_expiry():
    policy = vault_texts.policy()
    assert [f for f in explain(policy) if f.path == "vault.expires"] == []
    late = replace(policy, expires_s=NOW + 100 * 86_400)
    assert "100 days ahead" in found(late, "warning", "vault.expires")
    assert "lies in the past" in found(replace(policy, expires_s=NOW), "error", "vault.expires")


def test_quorum_and_officers():
    policy = vault_texts.policy()
    assert "one of 3 persons alone" in found(replace(policy, quorum=1), "error", "vault.quorum")
    assert "freezes this policy" in found(replace(policy, quorum=3), "warning", "vault.quorum")
    ada = {"ada": policy.officers["ada"]}
    assert "Name a second officer" in found(replace(policy, quorum=1, officers=ada), "warning", "vault.quorum")
    twice = {**policy.officers, "ben": replace(policy.officers["ben"], person="officer  ada")}
    assert "2 keys; in the quorum they count once" in found(
        replace(policy, officers=twice), "warning", "officers.ben.person"
    )
    both = {**policy.principals, "ada": Principal("ada", "dpo", policy.officers["ada"].public_key)}
    assert "also a principal's key" in found(replace(policy, principals=both), "error", "officers.ada.key")


def test_purposes_and_roles():
    bare = edited(('legal_basis = "Directive (EU) 2016/680 art. 14: a person\'s right of access"', ""))
    found(bare, "error", "purposes.subject_access.legal_basis")
    unused = edited(('purposes = ["oversight", "subject_access"]', 'purposes = ["subject_access"]'))
    found(unused, "warning", "purposes.oversight")
    assert "who has seen a person" in found(unused, "warning", "purposes")
    nobody = edited(('role = "dpo"', 'role = "analyst"'))
    found(nobody, "warning", "roles.dpo")
    together = [f.text for f in explain(nobody, NOW) if f.path == "roles.analyst.budgets.list"]
    assert "2 principals have this role: together 200,000 a day" in together
    idle = edited(('purposes = ["statistics"]', "purposes = []"))
    found(idle, "warning", "roles.analyst.purposes")
    empty = edited(("audit = true", ""))
    assert "allows nothing" in found(empty, "warning", "purposes.oversight")
    index = edited(('open = ["incident.report", "person.contact", "person.identity"]', 'open = ["person._index"]'))
    assert "re-index" in found(index, "warning", "purposes.subject_access.open")
    masked = edited(
        ('open = ["incident.report", "person.contact", "person.identity"]', 'open = ["incident.report.masked"]')
    )
    assert "is empty" in found(masked, "warning", "purposes.subject_access.open")


@pytest.mark.parametrize(
    ("role", "counter", "what"),
    [
        ("case_worker", Counter.OPEN, "opens classes"),
        ("case_worker", Counter.LIST, "opens renditions"),
        ("case_worker", Counter.RECORDS, "opens"),
        ("case_worker", Counter.SEARCH, "searches"),
        ("importer", Counter.SEARCH, "writes indexed fields"),
        ("importer", Counter.WRITE, "writes"),
        ("records_officer", Counter.DELETE, "deletes"),
    ],
)
def test_a_budget_that_a_purpose_needs_is_missed(role, counter, what):
    policy = vault_texts.policy()
    budgets = {c: b for c, b in policy.roles[role].budgets.items() if c != counter}
    without = replace(policy, roles={**policy.roles, role: replace(policy.roles[role], budgets=budgets)})
    texts = [f.text for f in explain(without, NOW) if (f.level, f.path) == ("warning", f"roles.{role}.budgets")]
    assert any(what in t and f"no budget {counter} is named" in t for t in texts)


@pytest.mark.parametrize("purposes", ['["intake"]', '["deletion"]'])
def test_a_role_that_writes_or_deletes_without_a_budget_of_records_is_not_signed(purposes):
    """Written before rows were charged: keepers would refuse all that it does, and nobody would know why."""
    was = 'purposes = ["statistics"]\nbudgets.list = { per_hour = 20_000, per_day = 100_000 }\nbudgets.records'
    policy = edited((was, f"purposes = {purposes}\nbudgets.write = {{ per_hour = 9, per_day = 9 }}\nbudgets.list"))
    text = found(policy, "error", "roles.analyst.budgets.records")
    assert "twice the rows that it writes and deletes" in text


def test_many_rows_of_few_people_are_a_warning():
    was = "budgets.delete = { per_hour = 20, per_day = 100 }"
    people = ("budgets.open = { per_hour = 50, per_day = 200 }\nbudgets.records = { per_hour = 1_000, per_day = 4_000 }",
              "budgets.records = { per_hour = 1_000, per_day = 40_000 }")  # fmt: skip
    policy = edited(people, (was, "budgets.delete = { per_hour = 20, per_day = 100 }"))
    assert "300 people a day" in found(policy, "warning", "roles.records_officer.budgets.records")


def test_honest_use_of_rows_is_one_keepers_part_where_every_keeper_is_asked():
    text = found(vault_texts.policy(), "note", "roles.importer.budgets.records")
    assert "cells opened, rows written or deleted" in text
    assert "Honest use reaches 6,000,000 (6,000,000) with all keepers up, 6,000,000" in text
    assert "3,750 (18,750) with all keepers up" in found(
        vault_texts.policy(), "note", "roles.case_worker.budgets.records"
    )


def test_what_a_key_that_only_writes_could_ask():
    """Each put looks up the values it brings: as many as it has rows, of each indexed field."""
    only = ('purposes = ["intake", "registration"]', 'purposes = ["intake"]')
    assert "up to 20,000,000 values an hour" in found(edited(only), "note", "roles.importer")
    few = ("budgets.records = { per_hour = 12_000_000, per_day", "budgets.records = { per_hour = 1_000, per_day")
    assert "up to 3,000 values an hour" in found(edited(only, few), "note", "roles.importer")
    devices = vault_texts.policy("devices")
    reading = frozenset({devices.collections["reading"].id})  # no field of it is indexed
    intake = replace(devices.purposes["intake"], write=reading)
    importer = replace(devices.roles["importer"], purposes=frozenset({"intake"}))
    nothing = replace(
        devices, purposes=devices.purposes | {"intake": intake}, roles=devices.roles | {"importer": importer}
    )
    assert [f for f in explain(nothing, NOW) if f.path == "roles.importer"] == []


def test_import_and_find_in_one_role():
    assert "up to 20,000,000 values a day" in found(vault_texts.policy(), "note", "roles.importer")
    assert "it opens nobody" in found(vault_texts.policy(), "note", "roles.importer")
    both = edited(('purposes = ["intake", "registration"]', 'purposes = ["casework", "intake", "registration"]'))
    assert "Give import and find to roles of their own" in found(both, "warning", "roles.importer")


def test_collections():
    outlasts = edited(("retention_days = 3650", "retention_days = 9000"))
    assert "outlasts the person" in found(outlasts, "warning", "collections.incident.retention_days")
    found(outlasts, "note", "collections.person.retention_days")
    double = edited(('required = true, index = "unique", mask', 'required = true, index = "exact", mask'))
    assert "imported twice is two people" in found(double, "warning", "collections.person")
    bare = edited(("internal = { id = 2 }", "internal = { id = 2 }\nspare = { id = 3 }"))
    found(bare, "warning", "collections.incident.classes.spare")
    seconds = edited(('dates = "day"', 'dates = "second"'))
    found(seconds, "note", "collections.person.dates")
    many = edited(
        (
            "budgets.records = { per_hour = 200, per_day = 1_000 }",
            "budgets.records = { per_hour = 200, per_day = 900_000 }",
        )
    )
    assert "one handle with very many" in found(many, "warning", "roles.dpo.budgets.records")


def test_errors_come_first():
    levels = [f.level for f in explain(replace(vault_texts.policy(), quorum=1), NOW)]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert str(explain(replace(vault_texts.policy(), quorum=1))[0]).startswith("error: vault.quorum: ")
