"""A stolen key that writes (D11): postings without end on one value, and unique values that it takes before their owners.

Finds stay right, the harm is under the key's budget, and the logs name the key.
"""

import re

import pytest

import anwen
from anwen import vault_folder
from anwen.client.session import Timing
from anwen.errors import BudgetError, ConflictError, UnavailableError

from .conftest import person

PHONE = "+8613900000001"
BUDGET, BATCH = 2_100, 350
AT_EACH_KEEPER = BUDGET // 2  # 2 of 3
"""More than the 1,024 labels that one call of a search looks at."""


@pytest.fixture(scope="module")
def flooded(tmp_path_factory):
    """A vault in which a stolen key wrote people under one phone number until its budget ended; how many."""
    text = vault_folder.template("police").replace(
        "[principals.importer]", '[principals.stolen]\nrole = "stolen"\n\n[principals.importer]'
    )
    role = re.search(r"(?s)\[roles\.importer\].*?\n\n", text)[0].replace("roles.importer", "roles.stolen")
    role = re.sub(r"(?m)^budgets.write = .*$", f"budgets.write = {{ per_hour = {BUDGET}, per_day = {BUDGET} }}", role)
    folder = vault_folder.create(
        tmp_path_factory.mktemp("flooded") / "v", text.replace("[roles.importer]", role + "[roles.importer]")
    )
    with anwen.open(folder.path, key="importer", purpose="intake") as importer:
        importer.put("person", person(1, phone=PHONE))
        importer.put("person", person(2))
    with anwen.open(folder.path, key="stolen", purpose="intake") as thief:
        written = flood(thief)
    return folder, written


def flood(thief):
    written = 0
    while written <= BUDGET:
        rows = [person(10_000 + written + i, phone=PHONE) for i in range(BATCH)]
        try:
            written += sum(result.error is None for result in thief.put_many("person", rows))
        except BudgetError:
            break
    return written


@pytest.fixture
def connect(flooded):
    """Opens the vault as somebody, after whoever had it before: one process has it at a time."""
    made = []

    def connected(key, purpose, **kw):
        while made:
            made.pop().close()
        made.append(anwen.open(flooded[0].path, key=key, purpose=purpose, **kw))
        return made[-1]

    yield connected
    while made:
        made.pop().close()


def test_a_flood_ends_with_the_budget_of_its_key(flooded):
    assert flooded[1] == AT_EACH_KEEPER <= BUDGET


def test_a_find_of_the_flooded_value_is_whole_and_opens_no_more_than_a_budget(flooded, connect):
    clerk = connect("case_worker", "casework")
    found = clerk.find("person", ["contact"], phone=PHONE)
    assert len({r.id for r in found}) == len(found) == flooded[1] + 1
    assert {values["phone"] for values in clerk.open(found[:20], ["contact"])} == {PHONE}
    with pytest.raises(BudgetError, match=r"budget open of principal case_worker .*: at most 100 in any hour"):
        clerk.open(found, ["contact"])


def test_the_owner_of_the_value_is_found_by_it_and_another_and_nobody_else_is_disturbed(connect):
    clerk = connect("case_worker", "casework")
    (owner,) = clerk.find("person", ["identity"], phone=PHONE, id_number=person(1)["id_number"])
    (other,) = clerk.find("person", ["identity"], phone=person(2)["phone"])
    names = [values["name"] for values in clerk.open([owner, other], ["identity"])]
    assert names == [person(1)["name"], person(2)["name"]]


def test_whoever_shares_the_flooded_value_is_still_put_and_found(connect):
    connect("importer", "intake").put("person", person(3, phone=PHONE))
    (found,) = connect("case_worker", "casework").find("person", phone=PHONE, id_number=person(3)["id_number"])
    assert found.version == 1


def test_a_find_that_takes_too_long_ends_in_time_and_says_so(connect):
    clerk = connect("case_worker", "casework", timing=Timing(deadline_s=0.05))
    with pytest.raises(UnavailableError):
        clerk.find("person", phone=PHONE)


def test_a_unique_value_taken_in_advance_is_refused_to_its_owner_names_the_key_and_is_free_once_deleted(connect):
    owner, pretended = person(4), person(4, name="Somebody Else", phone=person(5)["phone"])
    taken = connect("importer", "intake").put("person", pretended)  # a stolen key of the same role
    with pytest.raises(ConflictError, match="id_number") as refused:
        connect("importer", "intake").put("person", owner)
    assert owner["id_number"] not in str(refused.value)
    assert connect("case_worker", "casework").find("person", phone=owner["phone"]) == [], (
        "nothing of the refused row is left"
    )
    (found,) = connect("case_worker", "casework").find("person", id_number=owner["id_number"])
    assert found.id == taken.record
    seen = connect("dpo", "oversight").audit_subject(found.subject)
    assert ("importer", "put") in {(s.principal, s.operation) for s in seen}
    officer = connect("records_officer", "deletion")
    officer.delete(officer.get([taken.record]))
    stored = connect("importer", "intake").put("person", owner)
    (found,) = connect("case_worker", "casework").find("person", id_number=owner["id_number"])
    assert found.id == stored.record
