"""Officers read every difference in words, and every step that lets somebody see or decide more is marked."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vault_texts
from anwen.formats.policy_file import parse_toml
from anwen.model import Budget, Counter, Policy
from anwen.policy.difference import LOOSENS, describe, loosens

BASE = vault_texts.text()
OLD = parse_toml(BASE)

CHANGES = [  # was, becomes, a part of the line, does it loosen; the other way round it must not, where told
    ("threshold = 2", "threshold = 3", "3 instead of 2 keepers must answer", False),
    ("quorum = 2", "quorum = 1", "1 instead of 2 persons must sign", True),
    ("single_machine = true", "single_machine = false", "may no longer run on one machine", False),
    ('name = "police test"', 'name = "city"', "renamed from police test to city", False),
    ("2030-01-31", "2030-03-31", "expires on 2030-03-31 instead of 2030-01-31", False),
    ("[officers.ada]", "[officers.eve]", "officer eve (Officer ADA, key ", True),
    ("Officer ADA", "Officer EVE", "officer ada was Officer ADA, key ", True),
    ("127.0.0.1:8101", "evil.example.org:8101", "address evil.example.org:8101 instead of 127.0.0.1:8101", True),
    ("41" * 32, "4a" * 32, "keeper zone_a has another identity: 4a4a", True),
    ("81" * 32, "8a" * 32, "node zone_a is in zone zone_a at 127.0.0.1:8301, TLS key 8a8a", True),
    ("[zones.zone_c]", "[zones.zone_d]", "keeper zone_d in zone zone_d at 127.0.0.1:8103 joins", True),
    ("[zones.zone_c]", "[zones.zone_d]", "keeper zone_c leaves", False),
    ("[zones.zone_c]", "[zones.zone_d]", "node zone_d in zone zone_d", True),
    ("retention_days = 7300", "retention_days = 8000", "person is kept 8000 instead of 7300 days, records that", True),
    ("retention_days = 7300", "retention_days = 7000", "person is kept 7000 instead of 7300 days", False),
    ("limits.open = { per_hour = 10_000", "limits.open = { per_hour = 20_000", "together: open 20,000 an hour", True),
    ("limits.open = {", "limits.list = {", "together: open has no ceiling any more", True),
    ("limits.open = {", "limits.list = {", "together: list 10,000 an hour and 40,000 a day where there was none", False),
    ('type = "email" }', 'type = "email", mask = "last4" }', "field person.email: mask is last4 instead of none", True),
    ('["F", "M"]', '["F", "M", "X"]', "field person.sex: values is F, M, X instead of F, M", False),
    ("internal = { id = 2 }", "internal = { id = 2 }\nmedia = { id = 3 }", "class incident.media is added", False),
    ("officer_notes = {", 'film = { id = 7, class = "report", type = "text" }\nofficer_notes = {', "field incident.film", False),
    ("Directive (EU) 2016/680 art. 14", "Art. 15 GDPR", "purpose subject_access rests on", False),
    ('write = ["person"]', 'write = ["incident", "person"]', "purpose intake may also write incident", True),
    ('    "person.contact",\n', "", "purpose casework may no longer open person.contact", False),
    ('search = ["person.id_number"]', 'search = ["person.phone"]', "registration may also search by person.phone", True),
    ("[purposes.intake]", "[purposes.spare]\n[purposes.intake]", "purpose spare is added (no legal basis): nothing", False),
    ('purposes = ["statistics"]', 'purposes = ["casework"]', "role analyst may also ask for casework", True),
    ('purposes = ["statistics"]', 'purposes = ["casework"]', "role analyst may no longer ask for statistics", False),
    ('purposes = ["statistics"]', 'purposes = ["statistics"]\nbinding = "session"', "signs once for each session", True),
    ("[roles.analyst]", "[roles.spare]\n[roles.analyst]", "role spare is added", False),
    ("budgets.open = { per_hour = 200,", "budgets.open = { per_hour = 201,", "case_worker: open 201 an hour and 1,000", True),
    ("budgets.open = { per_hour = 200,", "budgets.open = { per_hour = 100,", "case_worker: open 100 an hour and", False),
    ("budgets.delete =", "budgets.list =", "role records_officer: delete is no longer allowed", False),
    ("budgets.delete =", "budgets.list =", "role records_officer: list 20 an hour and 100 a day where there was none", True),
    ("[principals.dpo]", "[principals.eve]", "principal eve (key ", True),
    ("[principals.dpo]", "[principals.eve]", "principal dpo, dpo, is removed", False),
    ('role = "analyst"', 'role = "case_worker"', "principal analyst is case_worker instead of analyst", True),
]  # fmt: skip


@pytest.mark.parametrize(("was", "becomes", "part", "looser"), CHANGES, ids=[str(i) for i in range(len(CHANGES))])
def test_each_change_is_told_and_marked(was, becomes, part, looser):
    new = parse_toml(BASE.replace(was, becomes, 1))
    lines = [line for line in describe(OLD, new) if part in line]
    assert len(lines) == 1, describe(OLD, new)
    assert lines[0].startswith(LOOSENS) == looser
    assert loosens(OLD, new) or not looser


def other_way(was: str, becomes: str) -> list[str]:
    return describe(parse_toml(BASE.replace(was, becomes, 1)), OLD)


@pytest.mark.parametrize(
    ("was", "becomes", "part"),
    [
        ("threshold = 2", "threshold = 3", "2 instead of 3 keepers must answer"),
        ("single_machine = true", "single_machine = false", "all keepers may run on one machine"),
        ("retention_days = 7300", "retention_days = 7000", "kept 7300 instead of 7000"),
        ('    "person.contact",\n', "", "purpose casework may also open person.contact"),
        ("audit = true", "", "purpose oversight may also audit the log"),
    ],
)
def test_what_tightens_loosens_the_other_way_round(was, becomes, part):
    assert any(line.startswith(LOOSENS) and part in line for line in other_way(was, becomes))


def test_an_index_that_is_left_out_is_told():
    person = OLD.collections["person"]
    fields = tuple(replace(f, index=None) if f.name == "name" else f for f in person.fields)
    new = replace(OLD, collections={**OLD.collections, "person": replace(person, fields=fields)})
    assert describe(OLD, new) == ["field person.name: index is none instead of exact"]


def test_a_changed_key_is_told_by_its_hash():
    new = dict(OLD.principals)
    new["dpo"] = replace(new["dpo"], public_key=vault_texts.der("thief"))
    (line,) = describe(OLD, replace(OLD, principals=new))
    assert line.startswith(LOOSENS + "principal dpo has key ")


def test_nothing_but_a_version_is_no_difference_and_loosening_comes_first():
    assert describe(OLD, replace(OLD, version=2, previous=bytes(32))) == []
    assert not loosens(OLD, OLD)
    new = parse_toml(BASE.replace("[principals.dpo]", "[principals.eve]").replace("2030-01-31", "2030-02-01"))
    marks = [line.startswith(LOOSENS) for line in describe(OLD, new)]
    assert marks == sorted(marks, reverse=True)
    assert len(marks) == 3


def _raised(policy: Policy) -> Policy:
    roles = {
        name: replace(role, budgets={c: Budget(b.per_hour + 1, b.per_day + 1) for c, b in role.budgets.items()})
        for name, role in policy.roles.items()
    }
    return replace(policy, roles=roles)


@pytest.mark.parametrize("name", vault_texts.NAMES)
def test_every_raised_budget_is_a_line_of_its_own(name):
    policy = vault_texts.policy(name)
    lines = describe(policy, _raised(policy))
    assert len(lines) == sum(len(role.budgets) for role in policy.roles.values())
    assert all(line.startswith(LOOSENS) for line in lines)
    assert set(Counter) >= {Counter.OPEN}
