"""Texts that attack what stands behind a vault, in every field of every template: they come back, or are refused.

SQL and CQL, header and log lines, terminals, paths, spreadsheets, format strings, templates, shells, NUL. In each vault stands
somebody else, who must be as he was at the end.
"""

import csv
import io
import json
import logging
import re
import unicodedata
from pathlib import Path

import pytest

import anwen
from anwen import vault_folder
from anwen.client import audit
from anwen.errors import DeniedError, MalformedError, NotFoundError
from anwen.files import writing
from anwen.formats import wire
from anwen.net.logs import Formatter

from .conftest import id_number

PAYLOADS = [
    "'; DROP TABLE row; --", "' OR '1'='1", '" OR ""="', "1; DELETE FROM posting", "') UNION SELECT * FROM wrap_1 --",
    "x'; TRUNCATE anwen.row; --", "{'a': 1} USING TIMESTAMP 9", "$1, %s, ?, :name", "\\'; SELECT 1; --", "a%' ESCAPE '_",
    "x\r\nSet-Cookie: a=b", "x\r\n\r\nGET /admin HTTP/1.1", "x\n2026-01-01T00:00:00Z anwen CRITICAL forged", "x\ry", "a\u2028b",
    "a\x85b", "a\x1b[2J\x1b]0;title\x07", "a\x9b31m", "a\bb", "a\x7fb", "../../qzv-outside", "/etc/qzv-outside", "..\\..\\qzv-outside",
    "a/../../qzv-outside\0.txt", "file:///qzv-outside", "=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "'=1+1", "\t=1+1",
    "%n%n%s%x", "{0.__class__}", "{{7*7}}", "${jndi:ldap://a/b}", "$(touch qzv-outside)", "`touch qzv-outside`", "| touch qzv-outside",
    "a\0b", "\0", "<script>alert(1)</script>", "a,b;c\"d'e", "null", "NaN", "a\u202eb", "\ud800",
]  # fmt: skip
FREE = {"text", "name", "address", "json"}
"""Kinds that take any text of visible characters; all others have a form, which no payload has."""
EVERYTHING = """
[purposes.everything]
legal_basis = "a test's"
open = [{open}]
search = [{search}]
write = [{names}]
delete = [{names}]
audit = true

[roles.tester]
purposes = ["everything"]
budgets.open = {most}
budgets.list = {most}
budgets.records = {most}
budgets.search = {most}
budgets.write = {most}
budgets.delete = {most}

[principals.tester]
role = "tester"
"""


def quoted(names):
    return ", ".join(f'"{name}"' for name in names)


def text_of(template):
    """The template, and somebody who may do everything in it."""
    plain = vault_folder.template(template)
    most = "{ per_hour = 4_000_000, per_day = 4_000_000 }"
    text = re.sub(r"\{ per_hour = [\d_]+, per_day = [\d_]+ \}", most, plain)
    found = re.findall(r"(?m)^\[collections\.(\w+)\.classes\]\n((?:\w+ = .*\n)+)", plain)
    classes = [f"{name}.{c}" for name, lines in found for c in re.findall(r"(?m)^(\w+) =", lines)]
    fields = re.findall(r"(?m)^\[collections\.(\w+)\.fields\]\n((?:\w+ = .*\n)+)", plain)
    search = [f"{name}.{f}" for name, lines in fields for f in re.findall(r"(?m)^(\w+) = .*index = ", lines)]
    names = quoted(name for name, _ in found)
    return text + EVERYTHING.format(open=quoted(classes), search=quoted(search), names=names, most=most)


def good(field, i):
    """A value that its field takes, another for each number."""
    kinds = {
        "text": f"T{i:06}", "name": "Ada Berg", "address": f"{i} Road", "email": f"p{i}@example.org", "date": "1990-01-31",
        "datetime": "2026-01-31T00:00:00Z", "decimal": "1.50", "json": {"a": i}, "phone": f"+86138{i:08}",
    }  # fmt: skip
    if field.kind == "national_id":
        return id_number(f"110101{1950 + i // 1000}0101{i % 1000:03}")
    return field.values[0] if field.values else kinds[field.kind]


def given(field, payload):
    """The payload in a value of this field; for a field with a form, behind what would be a good beginning."""
    return {"a": payload, "b": [payload]} if field.kind == "json" else payload


def expected(field, payload):
    """What must come back, or None if it must be refused; said here again, without the normaliser."""
    spaced = payload.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " " if field.kind != "text" else "\t")
    visible = all(unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" for c in re.sub(r"[\n\t]", "", spaced))
    if field.kind not in FREE or field.values or not visible:
        return None
    if field.kind == "name" and not any(c.isalpha() for c in payload):
        return None
    if field.kind == "json":
        return {"a": payload, "b": [payload]}
    return spaced.strip() if field.kind == "text" else " ".join(spaced.split())


def check_refusal(error, field, payload):
    """It says where and why in one line, and not what."""
    assert isinstance(error, MalformedError), payload
    said = str(error)
    assert field.name in said
    assert len(said) > len(field.name) + 10
    assert said.isprintable()
    assert len(payload) < 4 or payload not in said


class Attacked:
    """A vault of one template, a bystander in each collection, and one who may do everything."""

    def __init__(self, folder, template):
        self.folder = vault_folder.create(folder / "v", text_of(template))
        self.vault = anwen.open(self.folder.path, key="tester", purpose="everything")
        found = sorted(self.vault.policy.collections.values(), key=lambda c: c.subject != "own")
        self.collections = {c.name: c for c in found}  # persons first: the others are about them
        self.numbers = iter(range(1, 10**6))
        self.bystanders = {}
        for schema in self.collections.values():
            values = self.row(schema)
            self.bystanders[schema.name] = self.vault.put(schema.name, values), values

    def row(self, schema, **values):
        number = next(self.numbers)
        row = {f.name: good(f, number) for f in schema.fields} | values
        if schema.subject != "own":
            row["subject"] = self.bystanders[schema.subject][0].subject
        return row

    def opened(self, schema, record):
        classes = [c.name for c in schema.classes]
        (found,) = self.vault.get([record], classes, collection=schema.name)
        return self.vault.open([found], classes)[0] if found else None

    def check_bystanders(self):
        for name, (stored, row) in self.bystanders.items():
            due = {k: v for k, v in row.items() if k != "subject"}
            assert self.opened(self.collections[name], stored.record) == due, name
            assert [r.id for r in self.vault.scan(name)] == [stored.record], "nobody else is left"


@pytest.fixture(params=["police", "commerce", "devices"])
def attacked(request, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "anwen")
    inner = tmp_path / "deep" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    rig = Attacked(inner, request.param)
    yield rig
    rig.vault.close()


def check_outside(folder):
    """Nothing was made beside the vault, and nothing in it has a name that somebody chose."""
    vault = folder / "deep" / "deeper" / "v"
    assert set(folder.rglob("*")) - set(vault.rglob("*")) == {vault, *(p for p in vault.parents if folder in p.parents)}
    assert [p for p in vault.rglob("*") if not re.fullmatch(r"[A-Za-z0-9_.-]+", p.name) or "qzv" in p.name] == []
    assert not Path("/etc/qzv-outside").exists()


def test_every_field_returns_an_attack_as_it_was_or_refuses_it_with_place_and_reason(attacked, tmp_path):
    for schema in attacked.collections.values():
        tried = [(f, p) for f in schema.fields for p in PAYLOADS]
        rows = [attacked.row(schema, **{f.name: given(f, p)}) for f, p in tried]
        results = attacked.vault.put_many(schema.name, rows)
        classes = [c.name for c in schema.classes]
        kept = []
        for (f, p), result in zip(tried, results, strict=True):
            due = expected(f, p)
            assert (result.error is None) == (due is not None), (schema.name, f.name, p, result.error)
            if result.error:
                check_refusal(result.error, f, p)
            else:
                kept.append((f, p, due, result.record))
        assert len(kept) > len(PAYLOADS)
        found = attacked.vault.get([record for *_, record in kept], classes, collection=schema.name)
        for (f, _, due, _), values in zip(kept, attacked.vault.open(found, classes), strict=True):
            assert values[f.name] == due
        check_finds(attacked, schema, kept)
        check_updates(attacked, schema)
        attacked.vault.delete(
            [r for r in attacked.vault.scan(schema.name) if r.id != attacked.bystanders[schema.name][0].record]
        )
    attacked.check_bystanders()
    check_outside(tmp_path)


def check_finds(attacked, schema, kept):
    """A payload finds the record that holds it, and never all of them."""
    for f in (f for f in schema.fields if f.index):
        stored = {p: record for g, p, _, record in kept if g == f}
        for payload in PAYLOADS:
            if expected(f, payload) is None:
                with pytest.raises(MalformedError) as refused:
                    attacked.vault.find(schema.name, **{f.name: payload})
                check_refusal(refused.value, f, payload)
            else:
                found = attacked.vault.find(schema.name, **{f.name: payload})
                assert [r.id for r in found] == [stored[payload]], (f.name, payload)


def check_updates(attacked, schema):
    """A class is replaced by attacks in all its fields, or stays as it was."""
    before = attacked.row(schema)
    stored = attacked.vault.put(schema.name, before)
    for data_class in schema.classes:
        fields = schema.fields_of(data_class.name)
        for payload in PAYLOADS:
            (record,) = attacked.vault.get([stored.record], [data_class.name], collection=schema.name)
            if expected(fields[0], payload) is None:
                with pytest.raises(MalformedError):
                    attacked.vault.update(
                        record, data_class.name, {**values_of(fields, before), fields[0].name: payload}
                    )
            else:
                text = payload + "\n2"  # not the unique value of another record
                free = {f.name: given(f, text) for f in fields if expected(f, text) is not None}
                attacked.vault.update(record, data_class.name, values_of(fields, before) | free)
                before |= {f.name: expected(f, text) for f in fields if f.name in free}
            assert attacked.opened(schema, stored.record) == {k: v for k, v in before.items() if k != "subject"}


def values_of(fields, row):
    return {f.name: row[f.name] for f in fields}


def test_names_references_and_claims_that_attack_are_refused_and_every_log_stays_a_line_an_entry(
    attacked, tmp_path, caplog
):
    vault, schemas = attacked.vault, list(attacked.collections.values())
    parent = next(s for s in schemas if s.subject == "own")
    child = next(s for s in schemas if s.subject != "own")
    unique = next(f for f in parent.fields if f.index == "unique")
    for number, payload in enumerate(PAYLOADS):
        row = attacked.row(child) | {"subject": ""}
        for refused in (
            lambda payload=payload: vault.put(payload, {}),
            lambda payload=payload: vault.find(payload, name="x"),
            lambda payload=payload: vault.find(parent.name, **{payload: "x"}),
            lambda payload=payload: vault.put(parent.name, attacked.row(parent) | {payload: "x"}),
            lambda payload=payload: vault.put(parent.name, attacked.row(parent) | {"collected_on": payload}),
            lambda payload=payload, row=row: vault.put(child.name, row | {"subject": payload}),
            lambda payload=payload, row=row: vault.put(child.name, row | {f"{parent.name}.{payload}": "x"}),
            lambda payload=payload, row=row: vault.put(child.name, row | {f"{parent.name}.{unique.name}": payload}),
            lambda payload=payload: vault.get([payload]),
            lambda payload=payload: vault.get([], [payload], collection=parent.name),
            lambda payload=payload: vault.for_purpose(payload).find(parent.name, **{unique.name: good(unique, 1)}),
        ):
            with pytest.raises((MalformedError, NotFoundError, DeniedError)):
                refused()
        claim(vault, number, payload)
    attacked.check_bystanders()
    check_outside(tmp_path)
    check_logs(vault, caplog.records)


def claim(vault, number, payload):
    """A grant whose signed purpose is the attack, to a keeper itself: no client of ours looks at it before."""
    session, keepers = vault.session, list(vault.policy.keepers)
    body = wire.encode("log", session.random(wire.SALT_BYTES), {"start": 0, "count": 0})
    claimed = all("!" <= c <= "~" and c not in '"\\' for c in payload)  # no grant holds another name
    with pytest.raises(DeniedError if claimed else MalformedError):
        vault._loop.run(session.keeper(keepers[number % len(keepers)], "log", payload, body))


def check_logs(vault, records):
    """Logs of services and of keepers: a line an event, and as many as there are entries."""
    words = [logging.makeLogRecord({"name": "anwen.net", "msg": p, "cause": p}) for p in PAYLOADS]
    for record in (*records, *words):
        for as_json in (False, True):
            line = Formatter(as_json=as_json).format(record)
            assert line.isprintable(), record.name
    for verdict in vault.audit_verify():
        assert not verdict.problem, verdict

    async def entries(keeper):
        return [
            e async for page in audit.pages(vault.session, vault.asynchronous.purpose, keeper) for e in page.entries
        ]

    purposes = set()
    for keeper in vault.policy.keepers:
        found = vault._loop.run(entries(keeper))
        exported = "\n".join(json.dumps(audit.members(keeper, e)) for e in found)
        for lines in (b"\n".join(found).decode().split("\n"), exported.splitlines()):
            assert len(lines) == len(found)
            assert all(line.isprintable() for line in lines)
            purposes |= {json.loads(line).get("purpose", "") for line in lines}
    logged = purposes & set(PAYLOADS)
    assert len(logged) > 5, "keepers log what they refuse, some a second"


def test_a_spreadsheet_takes_no_cell_of_an_export_for_a_formula():
    out = io.BytesIO()
    with writing(out, {"a": "text", "b": "text"}, "csv") as writer:
        writer.write([{"a": p, "b": "b"} for p in PAYLOADS if p.isprintable() or "\n" in p or "\t" in p])
    rows = list(csv.reader(io.StringIO(out.getvalue().decode(), newline="")))
    assert len(rows) == 1 + sum(p.isprintable() or "\n" in p or "\t" in p for p in PAYLOADS)
    assert all(b == "b" and not re.match(r"[=+\-@\t\r\0]", a) for a, b in rows[1:])
