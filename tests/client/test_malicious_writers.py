"""A writer with a valid login who seals what no honest client would: it harms its own rows, and nobody else's.

Bodies and postings are made by hand here; keepers and nodes take them, since they cannot see inside.
"""

import datetime as dt

import pytest
from client_rig import person

from anwen.client import frames
from anwen.client.rows import Plain, bodies_of, canonical_values, tokens_of
from anwen.client.spot_check import WRONG_MASK, spot_check
from anwen.errors import NotFoundError, OpenError
from anwen.files.writer import create
from anwen.formats import kinds, normalise
from anwen.model import Field

JUNK = {
    "deep": b'{"1":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"1":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "not a number": b'{"2":NaN}',
    "infinity": b'{"2":1e999}',
    "long digits": b'{"2":' + b"1" * 5000 + b"}",
    "lone surrogate": b'{"2":"\\ud800"}',
    "wrong type": b'{"2":17}',
    "truth for a name": b'{"2":true}',
    "null": b'{"2":null}',
    "list": b'{"2":["x"]}',
    "not its own normal form": b'{"2":"  Zhang   Wei "}',
    "direction of writing": '{"2":"Zhang \u202e Wei"}'.encode(),
    "control character": b'{"2":"Zhang\\u0000Wei"}',
    "date that is none": b'{"3":"1999-02-31"}',
    "date as it came": b'{"3":"19990228"}',
    "empty": b'{"2":""}',
    "another class's field": b'{"5":"+8613800000001"}',
    "unknown field": b'{"99":"x"}',
    "no object": b'["x"]',
    "no JSON": b"{",
    "utf-16": '{"2":"Zhang Wei"}'.encode("utf-16"),
    "no utf-8": b'{"2":"\xff"}',
    "nothing": b"",
}
IDENTITY, IDENTITY_MASKED, CONTACT = 1, 0x8001, 2


class Writer:
    """Stores rows with bodies of its own."""

    def __init__(self, rig):
        self.rig = rig
        self.vault = rig.connect("importer", "intake").asynchronous
        self.schema = rig.policy.collections["person"]

    def put(self, row, under=None, **bodies):
        """Store `row`, with these bodies by class id ("c1") in place of its own, and postings of `under`."""
        return self.rig.loop.run(self._put(row, under or row, {int(k[1:]): v for k, v in bodies.items()}))

    async def _put(self, row, under, bodies):
        schema, session = self.schema, self.vault.session
        names = [c.name for c in schema.classes]
        keys = await self.vault._prehash_keys(schema, schema.fields)
        values = canonical_values(schema, row, names)
        tokens = tokens_of(schema, canonical_values(schema, under, names), names, keys)
        ids = session.random(16), session.random(16)
        today = int(session.clock()) // 86_400 * 86_400
        made = bodies_of(schema, values, names, tokens) | bodies
        (result,) = await self.vault._writer.put("intake", [Plain(schema, *ids, 1, today, 0, made, tokens)])
        assert result.error is None
        return result


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_one_junk_cell_is_an_error_of_its_own_among_good_ones(rig, people, base, junk):
    bad = Writer(rig).put(person(base + 50), c1=junk)
    clerk = rig.connect("case_worker", "casework")
    records = [*(r for p in people for r in clerk.find("person", phone=p["phone"])), *clerk.get([bad.record])]
    opened = clerk.open_each(records, ["identity"])
    assert [v["id_number"] for v in opened[:-1]] == [p["id_number"] for p in people]
    assert type(opened[-1]) is OpenError
    assert str(opened[-1]) == f"record {bad.record}: {OpenError()}"  # one wording, whatever the junk


def test_an_export_in_any_format_takes_what_is_opened(rig, people, base, tmp_path):
    for i, junk in enumerate(JUNK.values()):
        Writer(rig).put(person(base + 50 + i), c1=junk, c32769='{"2":"•••• \\ud800ab"}'.encode())
    clerk = rig.connect("case_worker", "casework")
    records = [r for r in clerk.scan("person") if r.cells]
    for classes in (["identity"], ["identity.masked"]):
        opened = [v for v in clerk.open_each(records, classes) if isinstance(v, dict)]
        assert len(opened) >= len(people)
        for kind in ("csv", "ndjson", "parquet"):
            fields = rig.policy.collections["person"].fields_of("identity")
            columns = {f.name: "text" if "masked" in classes[0] else f.kind for f in fields}
            with create(tmp_path / f"{classes[0]}.{kind}", columns) as writer:
                writer.write(opened)
        frames.arrow(opened)


def test_a_rendition_shows_no_more_than_a_mask(rig, base):
    for i, shown in enumerate(
        ('"Zhang Wei"', '"•••• 12345"', '"•••• a\\ud800bc"', '"•••• \\u202eabc"', "17", '"••••\\n"')
    ):
        bad = Writer(rig).put(person(base + i), c32769=f'{{"2":{shown}}}'.encode())
        analyst = rig.connect("case_worker", "overview")
        (opened,) = analyst.open_each(analyst.get([bad.record]), ["identity.masked"])
        assert type(opened) is OpenError


def test_a_spot_check_names_what_does_not_open_and_what_shows_another_mask(rig, base):
    writer = Writer(rig)
    good = writer.put(person(base + 50))
    junk = writer.put(person(base + 51), c1=b"{")
    other = writer.put(person(base + 52), c32770='{"5":"•••• 4747"}'.encode())
    none = writer.put(person(base + 53), c32770=b"{}")
    clerk = rig.connect("case_worker", "casework").asynchronous

    async def checked():
        return await spot_check(clerk, await clerk.get([r.record for r in (good, junk, other, none)] + ["00" * 16]))

    assert rig.loop.run(checked()) == ["", OpenError.code, WRONG_MASK, WRONG_MASK, NotFoundError.code]


# --- postings under a value that the record does not hold -----------------------------------------------------------

OTHER = {"another": None, "none": b"{}", "a mask": '{"5":"•••• 4747"}'.encode()}


@pytest.mark.parametrize("contact", OTHER.values(), ids=OTHER)
@pytest.mark.parametrize("how", ["find", "find_many"])
def test_a_record_under_a_value_that_it_does_not_hold_is_not_shown_as_one_that_does(rig, people, base, contact, how):
    victim, mallory = people[0], person(base + 50, id_number=None)
    mallory["id_number"] = person(base + 50)["id_number"]
    under = {**mallory, "phone": victim["phone"]}
    bodies = {} if contact is None else {"c2": contact}
    planted = Writer(rig).put(mallory, under, **bodies)
    clerk = rig.connect("case_worker", "casework")
    if how == "find":
        records = clerk.find("person", phone=victim["phone"])
    else:
        (records,) = clerk.find_many("person", "phone", [victim["phone"]])
    assert planted.record in {r.id for r in records}  # nobody sees before it is opened
    opened = dict(zip([r.id for r in records], clerk.open_each(records, ["identity", "contact"]), strict=True))
    assert type(opened.pop(planted.record)) is OpenError
    assert [v["id_number"] for v in opened.values()] == [victim["id_number"]]


def test_a_rendition_must_show_the_mask_of_the_value_it_was_found_by(rig, people, base):
    victim, mallory = people[0], person(base + 50)
    planted = Writer(rig).put(mallory, {**mallory, "phone": victim["phone"]})
    analyst = rig.connect("case_worker", "overview")
    records = analyst.find("person", phone=victim["phone"])
    opened = dict(zip([r.id for r in records], analyst.open_each(records, ["contact.masked"]), strict=True))
    assert type(opened.pop(planted.record)) is OpenError
    assert [v["phone"] for v in opened.values()] == [f"•••• {victim['phone'][-4:]}"]


def test_a_class_without_the_field_is_opened_on_the_postings_word(rig, people):
    clerk = rig.connect("case_worker", "casework")
    (found,) = clerk.find("person", phone=people[0]["phone"])
    (values,) = clerk.open([found], ["identity"])
    assert values["id_number"] == people[0]["id_number"]
    (both,) = clerk.open([found], ["contact", "contact.masked", "identity"])
    assert both["id_number"] == people[0]["id_number"]


# --- what counts as the one form ------------------------------------------------------------------------------------

FORMS = {
    "text": ("a\tb\nc", [" a", "a ", "a\r\nb", "a\u200bb", 1, "", "e\u0301", "x" * 4097]),
    "name": ("Zhang Wei", ["Zhang  Wei", "123", True, "Zh\u0430ng"]),
    "address": ("1 Road, Town", ["1 Road\nTown", ""]),
    "email": ("a@b.example", ["a@B.example", "a"]),
    "phone": ("+8613800138000", ["13800138000", "+86 13800138000", 8613800138000]),
    "national_id": ("110101199001011237", [" 110101199001011237", "x\u202ey", "", 5]),
    "date": ("1999-02-28", ["19990228", "1999-02-29", dt.date(1999, 2, 28)]),
    "datetime": ("2024-05-01T10:00:00Z", ["2024-05-01T12:00:00+02:00", "2024-05-01"]),
    "int": (17, ["17", 17.0, True, 2**63]),
    "decimal": ("-12.50", [-12.5, "-12.5e0", "+1", float("nan")]),
    "bool": (True, [1, "true"]),
    "json": ({"a": [1, 2.5]}, [{"a": 1.0}, {"b": 1, "a": 2}, "x", {"a": float("inf")}, {"a": "\ud800"}]),
}


@pytest.mark.parametrize("kind", kinds.BY_KIND)
def test_only_the_form_that_is_written_is_read(kind):
    field = Field(1, "f", kind, "c", scheme="cn.ric", region="CN")
    good, bad = FORMS[kind]
    assert normalise.is_canonical(field, good)
    for value in bad:
        assert not normalise.is_canonical(field, value), value


def test_what_lists_schemes_and_numbering_plans_say_today_does_not_matter_to_what_is_sealed():
    assert normalise.is_canonical(Field(1, "f", "text", "c", values=("F", "M")), "X")
    assert normalise.is_canonical(Field(1, "f", "national_id", "c", scheme="cn.ric"), "990101199001011237")
    assert normalise.is_canonical(Field(1, "f", "phone", "c", region="CN"), "+999123456789")
    assert normalise.is_canonical(Field(1, "f", "text", "c", required=True), "a")


@pytest.mark.parametrize("kind", ["phone", "national_id", "date", "int", "email", "name", "decimal"])
def test_an_expected_mask_is_the_mask_wherever_equal_values_have_one(kind):
    field = Field(1, "f", kind, "c", scheme="cn.ric", region="CN", mask="last4")
    canonical = FORMS[kind][0]
    expected = normalise.expected_mask(field, normalise.index_bytes(field, canonical))
    assert expected == (None if kind in ("email", "name", "decimal") else normalise.mask(field, canonical))
