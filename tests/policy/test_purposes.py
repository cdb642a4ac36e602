"""Each check lets through what the purpose names and nothing else, in one wording for every cause."""

from __future__ import annotations

import numpy as np
import pytest

import vault_texts
from anwen.errors import GrantError
from anwen.model import INDEX_CLASS, RENDITION
from anwen.policy import purposes
from anwen.policy.purposes import (
    check_audit,
    check_delete,
    check_open,
    check_prehash,
    check_search,
    check_verify,
    check_write,
)

POLICY = vault_texts.policy()
PERSON, INCIDENT = (POLICY.collections[n] for n in ("person", "incident"))
IDENTITY, CONTACT = (PERSON.class_named[n].id for n in ("identity", "contact"))


def field(name: str) -> tuple[int, int]:
    return PERSON.id, PERSON.field_named[name].id


ALLOWED = [
    (check_open, "case_worker", "casework", [(PERSON.id, IDENTITY), (PERSON.id, IDENTITY | RENDITION)]),
    (check_open, "case_worker", "overview", [(PERSON.id, IDENTITY | RENDITION)]),
    (check_open, "case_worker", "casework", np.unique([[1, 1], [1, 1], [1, 2]], axis=0).astype(">u2")),
    (check_search, "case_worker", "casework", [field("phone"), field("name")]),
    (check_search, "importer", "registration", [field("id_number")]),
    (check_write, "importer", "intake", [PERSON.id]),
    (check_write, "importer", "registration", np.array([INCIDENT.id])),
    (check_delete, "records_officer", "deletion", [PERSON.id, INCIDENT.id]),
    (check_prehash, "importer", "intake", [field("id_number"), field("name"), field("phone")]),
    (check_prehash, "case_worker", "casework", [field("id_number")]),
    (check_verify, "importer", "intake", [PERSON.id]),
]


@pytest.mark.parametrize(("check", "who", "why", "what"), ALLOWED)
def test_what_a_purpose_names_is_covered(check, who, why, what):
    check(POLICY, who, why, what)


REFUSED = [
    (check_open, "nobody", "casework", [(PERSON.id, IDENTITY)]),
    (check_open, "analyst", "casework", [(PERSON.id, IDENTITY)]),  # not a purpose of the role
    (check_open, "analyst", "no_such_purpose", []),
    (check_open, "analyst", "statistics", [(PERSON.id, IDENTITY)]),  # the rendition alone
    (check_open, "dpo", "subject_access", [(PERSON.id, IDENTITY | RENDITION)]),  # the full class alone
    (check_open, "case_worker", "casework", [(PERSON.id, INDEX_CLASS)]),
    (check_open, "case_worker", "casework", [(PERSON.id, INDEX_CLASS | RENDITION)]),
    (check_open, "case_worker", "casework", [(PERSON.id, IDENTITY), (PERSON.id, 77)]),
    (check_open, "case_worker", "casework", [(99, IDENTITY)]),
    (check_open, "importer", "intake", [(PERSON.id, IDENTITY)]),
    (check_search, "importer", "registration", [field("id_number"), field("phone")]),
    (check_search, "importer", "intake", [field("id_number")]),
    (check_search, "case_worker", "casework", [field("email")]),
    (check_write, "importer", "intake", [PERSON.id, INCIDENT.id]),
    (check_write, "case_worker", "casework", [PERSON.id]),
    (check_delete, "importer", "intake", [PERSON.id]),
    (check_delete, "records_officer", "rectification", [PERSON.id]),
    (check_prehash, "importer", "intake", [field("email")]),  # not indexed
    (check_prehash, "importer", "intake", [(99, 1)]),
    (check_prehash, "analyst", "statistics", [field("id_number")]),
    (check_verify, "case_worker", "casework", [PERSON.id]),
]


@pytest.mark.parametrize(("check", "who", "why", "what"), REFUSED)
def test_everything_else_is_refused_in_one_wording(check, who, why, what):
    with pytest.raises(GrantError) as caught:
        check(POLICY, who, why, what)
    assert str(caught.value) == purposes.REFUSAL
    assert caught.value.__notes__  # the cause, for the log


def test_tokens_of_a_put_belong_to_indexed_fields_of_written_collections():
    check_write(POLICY, "importer", "intake", [PERSON.id], [field("id_number"), field("phone")])
    for tokens in ([field("email")], [(PERSON.id, 99)], [(99, 1)]):
        with pytest.raises(GrantError):
            check_write(POLICY, "importer", "intake", [PERSON.id], tokens)
    with pytest.raises(GrantError):  # searched by this purpose, but its collection is not written
        check_write(POLICY, "importer", "registration", [INCIDENT.id], [field("id_number")])


def test_audit_needs_a_purpose_that_audits():
    check_audit(POLICY, "dpo", "oversight")
    for who, why in (("dpo", "subject_access"), ("case_worker", "casework"), ("analyst", "oversight")):
        with pytest.raises(GrantError):
            check_audit(POLICY, who, why)


def test_an_empty_request_still_needs_the_purpose():
    check_open(POLICY, "case_worker", "casework", [])
    with pytest.raises(GrantError):
        check_open(POLICY, "importer", "casework", [])
