"""vault.toml and canonical JSON: every mistake with its line, one reading only, edits that keep comments."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vault_texts
from anwen.errors import PolicyError
from anwen.formats import policy_schema
from anwen.formats.normalise import KINDS
from anwen.formats.policy_file import canonical, fill_template, from_json, parse_toml, to_json, write_version
from anwen.formats.toml_lines import locate, set_value
from anwen.model import (
    INDEX_CLASS,
    RENDITION,
    Budget,
    Collection,
    Counter,
    DataClass,
    Field,
    Officer,
    Policy,
    Principal,
    Purpose,
    Role,
)

ADA_KEY = re.search(r'key = "([^"]+)"', vault_texts.text()).group(1)

MISTAKES = [  # what is replaced (once), by what, the path, a part of the message; the line is that of the new text
    (
        'engine = "sqlite"',
        'engine = "oracle"',
        "vault.engine",
        'expected one of "sqlite", "cassandra", "postgresql", got \'oracle\'',
    ),
    ("threshold = 2 ", "threshold = 1 ", "vault.threshold", "from 2 to 7, got 1"),
    ("threshold = 2 ", "threshold = 4 ", "vault.threshold", "as many as keepers, which are 3 (of at most 7), got 4"),
    ("threshold = 2 ", "threshold = 2.0 ", "vault.threshold", "got 2.0"),
    ("threshold = 2 ", "threshold = true ", "vault.threshold", "got True"),
    ("quorum = 2 ", "quorum = 0 ", "vault.quorum", "from 1"),
    ("quorum = 2 ", "quorum = 4 ", "vault.quorum", "different persons among officers, which are 3, got 4"),
    ("version = 1", "version = 0", "vault.version", "got 0"),
    ("version = 1", "version = 2", "vault.previous", "expected the hash of version 1, got nothing"),
    ("version = 1", f'version = 1\nprevious = "{"0" * 64}"', "vault.previous", "expected nothing in version 1"),
    ("expires = 2030-01-31", 'expires = "2030-01-31"', "vault.expires", "expected a date"),
    ("expires = 2030-01-31", "expires = 2030-01-31T00:00:00Z", "vault.expires", "expected a date"),
    ("single_machine = true", 'single_machine = "yes"', "vault.single_machine", "true or false"),
    ("single_machine = true", "single_machin = true", "vault.single_machin", "got an unknown key"),
    ('id = "0001', 'id = "0X01', "vault.id", "32 lower-case hexadecimal digits"),
    ('name = "police test"', 'name = "po\\u001b[2Jlice"', "vault.name", "visible characters"),
    ('name = "police test"', 'name = "po\\u202elice"', "vault.name", "visible characters"),
    ('name = "police test"', "name = 7", "vault.name", "got 7"),
    ("[officers.ada]", "[officers.Ada]", "officers.Ada", "a-z, 0-9 and _"),
    ('person = "Officer ADA"', 'persn = "Officer ADA"', "officers.ada.persn", "unknown key"),
    (f'key = "{ADA_KEY}"', 'key = "AAAA"', "officers.ada.key", "P-256 public key"),
    (f'key = "{ADA_KEY}"', f'key = "{ADA_KEY} "', "officers.ada.key", "P-256 public key"),
    (f'key = "{ADA_KEY}"', "key = 5", "officers.ada.key", "P-256 public key"),
    ('address = "127.0.0.1:8101"', 'address = "127.0.0.1"', "zones.zone_a.keeper.address", '"host:port"'),
    ('address = "127.0.0.1:8101"', 'address = "127.0.0.1:70000"', "zones.zone_a.keeper.address", '"host:port"'),
    ('address = "127.0.0.1:8101"', 'address = "a b:1"', "zones.zone_a.keeper.address", '"host:port"'),
    ('identity = "' + "41" * 32, 'identity = "' + "42" * 32, "zones.zone_b.keeper", "expected its own identity"),
    ('identity = "' + "42" * 32, 'identity = "' + "42" * 31, "zones.zone_b.keeper.identity", "64 lower-case"),
    ("keeper = { address", 'keeper = { id = "zone_c", address', "zones.zone_c.keeper", "expected its own keeper id"),
    ("keeper = { address", "keeperr = { address", "zones.zone_a.keeper", "got nothing"),
    ("keeper = { address", 'keeper = { id = "a2345678901234567", address', "zones.zone_a.keeper.id", "at most 16 char"),
    ("[zones.zone_a]", "[zones.zone_a23456789012]", "zones.zone_a23456789012.keeper.id", "got the zone's"),
    ("id = 1\nsubject", "id = 0\nsubject", "collections.person.id", "from 1 to 65535, got 0"),
    ("id = 2\nsubject", "id = 1\nsubject", "collections.person", "expected its own id, got 1 of"),
    ('subject = "person"', 'subject = "nobody"', "collections.incident.subject", "got 'nobody'"),
    ('subject = "person"', 'subject = "incident"', "collections.incident.subject", 'whose subject is "own"'),
    ("retention_days = 7300", "retention_days = 0", "collections.person.retention_days", "got 0"),
    ("retention_days = 7300", "", "collections.person.retention_days", "got nothing"),
    ('dates = "day"', 'dates = "week"', "collections.person.dates", '"day", "second"'),
    ("limits.open", "limits.peek", "collections.person.limits.peek", "expected one of open, list"),
    ("contact = { id = 2 }", "contact = { id = 1 }", "collections.person.classes.identity", "expected its own id"),
    ("contact = { id = 2 }", "contact = { id = 32767 }", "collections.person.classes.contact.id", "32766"),
    ("email = { id = 6,", "email = { id = 5,", "collections.person.fields.phone", "expected its own id"),
    ("email = { id = 6,", "email = { ID = 6,", "collections.person.fields.email.ID", "unknown key"),
    ('id = 6, class = "contact"', 'id = 6, class = "secret"', "collections.person.fields.email.class", "got 'secret'"),
    ('type = "email"', 'type = "mail"', "collections.person.fields.email.type", 'one of "text"'),
    ('scheme = "cn.ric", ', "", "collections.person.fields.id_number.scheme", 'with type "national_id"'),
    ('type = "email"', 'type = "email", scheme = "cn.ric"', "collections.person.fields.email.scheme", "national_id"),
    ('scheme = "cn.ric"', 'scheme = "os.path.x"', "collections.person.fields.id_number.scheme", "python-stdnum"),
    ('region = "CN"', 'region = "cn"', "collections.person.fields.phone.region", "two capital letters"),
    ('type = "email"', 'type = "email", values = ["a"]', "collections.person.fields.email.values", '"text" alone'),
    ('values = ["F", "M"]', 'values = ["F", "F"]', "collections.person.fields.sex.values", "without duplicates"),
    ('values = ["F", "M"]', "values = []", "collections.person.fields.sex.values", "a list"),
    ('mask = "last4"', 'mask = "first4"', "collections.person.fields.id_number.mask", '"last4"'),
    ('index = "exact"', 'index = "prefix"', "collections.person.fields.name.index", '"unique", "exact"'),
    ('open = ["person.contact.masked"', 'open = ["person.secret"', "purposes.overview.open[0]", "'person.secret'"),
    ('open = ["person.contact.masked"', 'open = ["people.contact"', "purposes.overview.open[0]", "'people.contact'"),
    ('open = ["person.contact.masked"', 'open = ["person.contact.bare"', "purposes.overview.open[0]", "got 'pers"),
    ('    "person.contact",', '    "person.contct",', "purposes.casework.open[2]", "'person.contct'"),
    ('    "person.contact",', '    "incident.report",', "purposes.casework.open[2]", "each name once"),
    ('search = ["person.id_number"]', 'search = ["person.sex"]', "purposes.registration.search[0]", "an indexed field"),
    ('write = ["person"]', 'write = ["nobody"]', "purposes.intake.write[0]", "expected a collection, got 'nobody'"),
    ('write = ["person"]', 'write = "person"', "purposes.intake.write", "a list of names"),
    ('write = ["person"]', "write = [1]", "purposes.intake.write[0]", "expected a name, got 1"),
    ('delete = ["incident", "person"]', 'delete = ["x"]', "purposes.deletion.delete[0]", "got 'x'"),
    ("audit = true", "audit = 1", "purposes.oversight.audit", "true or false, got 1"),
    (
        'purposes = ["intake", ',
        'purposes = ["intak", ',
        "roles.importer.purposes[0]",
        "expected a purpose, got 'intak'",
    ),
    (
        "budgets.write = { per_hour = 4_000_000,",
        "budgets.write = { ",
        "roles.importer.budgets.write.per_hour",
        "nothing",
    ),
    ("per_hour = 4_000_000", "per_hour = -1", "roles.importer.budgets.write.per_hour", "got -1"),
    ("budgets.write", "budgets.writes", "roles.importer.budgets.writes", "expected one of open"),
    ('purposes = ["statistics"]', 'purposes = ["statistics"]\nbinding = "none"', "roles.analyst.binding", '"session"'),
    ('role = "analyst"', 'role = "analist"', "principals.analyst.role", "expected a role, got 'analist'"),
    ("[principals.analyst]", "[principals.analyst]\nadmin = true", "principals.analyst.admin", "unknown key"),
    ("[principals.analyst]", "[extra]\nx = 1\n[principals.analyst]", "extra", "unknown key"),
]


AT = {  # where something is missing or clashes, the line is that of the table around it, or of the other one
    ("vault.previous", "expected the hash of version 1, got nothing"): "[vault]",
    ("vault.threshold", "as many as keepers, which are 3 (of at most 7), got 4"): "threshold = 4",
    ("zones.zone_a.keeper", "got nothing"): "[zones.zone_a]",
    ("zones.zone_a23456789012.keeper.id", "got the zone's"): "keeper = ",
    ("zones.zone_b.keeper", "expected its own identity"): "keeper = ",
    ("zones.zone_c.keeper", "expected its own keeper id"): "keeper = ",
    ("collections.person", "expected its own id, got 1 of"): "[collections.person]",
    ("collections.person.retention_days", "got nothing"): "[collections.person]",
    ("collections.person.classes.identity", "expected its own id"): "identity = ",
    ("collections.person.fields.phone", "expected its own id"): "phone = ",
}


@pytest.mark.parametrize(
    ("was", "becomes", "path", "message"), MISTAKES, ids=[f"{i}-{m[2]}" for i, m in enumerate(MISTAKES)]
)
def test_each_mistake_is_reported_with_its_line_and_path(was, becomes, path, message):
    text = vault_texts.text()
    at = text.index(was)
    text = text.replace(was, becomes, 1)
    with pytest.raises(PolicyError) as caught:
        parse_toml(text, "vault.toml")
    lines = [line for line in str(caught.value).splitlines() if f" {path}: " in line]
    assert len(lines) == 1, str(caught.value)
    assert message in lines[0]
    number = int(re.fullmatch(r"vault\.toml:(\d+): .*", lines[0]).group(1))
    if (path, message) in AT:
        assert text.splitlines()[number - 1].startswith(AT[path, message])
    else:
        first = text.count("\n", 0, at) + 1
        assert first <= number <= first + becomes.count("\n")


def test_all_mistakes_are_listed_in_order_of_lines():
    text = vault_texts.text().replace("quorum = 2 ", "quorum = 0 ", 1).replace('dates = "day"', "dates = 1")
    text = text.replace('role = "dpo"', 'role = "boss"')
    with pytest.raises(PolicyError) as caught:
        parse_toml(text, "here.toml")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "vault.quorum",
        "collections.person.dates",
        "collections.incident.dates",
        "principals.dpo.role",
    ]
    numbers = [int(line.split(":")[1]) for line in lines]
    assert numbers == sorted(numbers)
    assert [text.splitlines()[n - 1].split(" =")[0] for n in numbers] == ["quorum", "dates", "dates", "role"]


def test_the_same_key_for_two_officers_or_two_principals_is_refused():
    text = vault_texts.text()
    for first, second in (("officer ada", "officer ben"), ("principal dpo", "principal analyst")):
        double = text.replace(_base64(first), _base64(second))
        with pytest.raises(PolicyError, match="expected its own key"):
            parse_toml(double)


def _base64(name: str) -> str:
    import base64

    return base64.b64encode(vault_texts.der(name)).decode()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[vault]\nname = \n", 2),
        ("[vault]\nname = 1\nname = 2\n", 3),
        ("[vault\n", 1),
        ("[vault]\n\n\nx = [1, 2", 4),
        ("x = " + "[" * 5000, 1),
        ("", 1),
        ("[vault]\r\nname = 5\r\n", 2),
        ("version = 1" + "0" * 5000, 1),
    ],
)
def test_what_is_no_toml_is_reported_with_its_line(text, line):
    with pytest.raises(PolicyError) as caught:
        parse_toml(text)
    assert any(row.startswith(f"vault.toml:{line}: ") for row in str(caught.value).splitlines())


def test_no_other_curve_and_no_other_form_of_a_key():
    import base64

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    other = [
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ]
    ders = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in other]
    point = vault_texts.private_key("x").public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    for der in [*ders, compressed, vault_texts.der("officer ada") + b"\0"]:
        with pytest.raises(PolicyError, match=r"officers\.ada\.key: expected a P-256 public key"):
            parse_toml(vault_texts.text().replace(ADA_KEY, base64.b64encode(der).decode(), 1))


@pytest.mark.parametrize("name", vault_texts.NAMES)
@pytest.mark.parametrize(("keepers", "threshold"), [(3, 2), (5, 3), (7, 4)])
def test_templates_become_complete_vault_files(name, keepers, threshold):
    text = vault_texts.text(name, keepers, threshold)
    policy = parse_toml(text)
    assert (len(policy.keepers), policy.threshold, policy.version, policy.previous) == (
        keepers,
        threshold,
        1,
        bytes(32),
    )
    assert list(policy.keepers) == sorted(policy.keepers)
    assert from_json(to_json(policy)) == policy
    comments = [line for line in vault_texts.template(name).splitlines() if line.startswith("# ")]
    assert all(line in text.splitlines() for line in comments)
    assert "#:" not in text


def test_keepers_are_ascending_by_id_whatever_their_zones():
    text = vault_texts.text()
    for zone, keeper in (("127.0.0.1:8101", "z"), ("127.0.0.1:8102", "m"), ("127.0.0.1:8103", "a")):
        text = text.replace(f'keeper = {{ address = "{zone}"', f'keeper = {{ id = "{keeper}", address = "{zone}"')
    assert list(parse_toml(text).keepers) == ["a", "m", "z"]


def test_police_fields_are_those_that_were_agreed():
    person, incident = (vault_texts.policy().collections[n] for n in ("person", "incident"))
    assert list(person.field_named) == [
        "id_number", "name", "birth_date", "sex", "phone", "email", "address", "household_region"
    ]  # fmt: skip
    assert person.field_named["id_number"] == Field(
        1, "id_number", "national_id", "identity", "unique", "last4", required=True, scheme="cn.ric"
    )
    assert person.class_ids == (1, 2, INDEX_CLASS, 1 | RENDITION, 2 | RENDITION)
    assert incident.subject == "person"


def test_kinds_are_those_of_the_normaliser():
    assert set(policy_schema.KINDS) == set(KINDS)


def test_template_and_its_parts_must_fit():
    parts = {
        "vault_id": bytes(16),
        "name": "x",
        "expires": date(2030, 1, 1),
        "officers": {"ada": ("Ada", vault_texts.der("a"))},
        "zones": vault_texts.zones(),
        "single_machine": True,
    }
    with pytest.raises(PolicyError, match="expected keys for principals"):
        fill_template(vault_texts.template("police"), principals={}, **parts)
    with pytest.raises(PolicyError, match="expected a line '#: officers'"):
        fill_template("[vault]\nid = ''\n", principals={}, **parts)
    with pytest.raises(PolicyError, match="expected a header"):
        fill_template("vault.id = ''\n#: officers\n#: zones\n", principals={}, **parts)


def test_names_with_quotes_and_backslashes_survive():
    officers = {"ada": ('Ada "the\\first" 王', vault_texts.der("a"))}
    source = vault_texts.template("police")
    text = fill_template(
        source,
        vault_id=bytes(16),
        name='a "b" \\c',
        expires=date(2030, 1, 1),
        officers=officers,
        zones=vault_texts.zones(),
        principals={p: vault_texts.der(p) for p in tomllib.loads(source)["principals"]},
        single_machine=True,
        quorum=1,
    )
    policy = parse_toml(text)
    assert policy.name == 'a "b" \\c'
    assert policy.officers["ada"].person == officers["ada"][0]


def test_write_version_changes_two_lines_and_keeps_the_rest():
    text = vault_texts.text()
    second = write_version(text, 2, b"\xab" * 32)
    third = write_version(second, 3, b"\xcd" * 32)
    assert parse_toml(third).version == 3
    assert parse_toml(third).previous == b"\xcd" * 32
    assert replace(parse_toml(second), version=1, previous=bytes(32)) == parse_toml(text)
    without = [line for line in third.splitlines() if not line.startswith(("previous", "version"))]
    assert without == [line for line in text.splitlines() if not line.startswith("version")]
    tables = ("vault = { version = 1 }", "vault.version = 1", "vault = { version = 1,\n x = 2 }")
    for bad in ("[vault", "x = 1", *tables, "a = " + "[" * 500, "x = " + "9" * 5000):
        with pytest.raises(PolicyError):
            write_version(bad, 2, bytes(32))


TRICKY = '''\
a.b."c d" = 1 # comment with "quotes" and [brackets]
x = """
many [not.a.header]
lines = \\""" 7
"""   # after
y = \'\'\'raw "[" \\\'\'\'
[ table . "quoted.key" ] # header
list = [ # comment ]
  1, "two, ]", [3, 4], { k = { deep = "}" } },
]
when = 1979-05-27 07:32:00Z
empty = []
none = {}
last = 0x_f'''.replace("0x_f", "0xf")


def _leaves(value, path=()):
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _leaves(inner, (*path, key))


@pytest.mark.parametrize("text", [TRICKY, TRICKY + "\n", *(vault_texts.text(n) for n in vault_texts.NAMES)])
def test_every_value_is_located_where_it_stands(text):
    places = locate(text)
    for path, value in _leaves(tomllib.loads(text)):
        if path and not isinstance(value, dict):
            place = places[path]
            assert tomllib.loads("v = " + text[place.start : place.end])["v"] == value, path
            assert place.line == text.count("\n", 0, place.start) + 1


@given(st.text(alphabet="ab.[]{}\"'#=,\\ \n1", max_size=60))
def test_the_scanner_ends_and_agrees_with_the_parser_on_any_valid_text(text):
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    places = locate(text)
    for path, value in _leaves(data):
        assert not path or isinstance(value, dict) or path in places


def test_set_value_replaces_or_adds_and_keeps_comments():
    text = "[a]\nx = 1 # one\n[b]\n"
    assert set_value(text, ("a",), "x", "2") == "[a]\nx = 2 # one\n[b]\n"
    assert set_value(text, ("b",), "y", '"z"') == '[a]\nx = 1 # one\n[b]\ny = "z"\n'
    for other in (text, "c.x = 1\n", "c = { x = 1 }\n"):
        with pytest.raises(KeyError):
            set_value(other, ("c",), "y", "1")


# --- canonical JSON -----------------------------------------------------------------------------------------------


def jcs(value: object) -> str:
    """RFC 8785 by itself: no call of `json`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        assert abs(value) < 2**53
        return str(value)
    if isinstance(value, str):
        short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
        return '"' + "".join(short.get(ord(c), c if ord(c) >= 32 else f"\\u{ord(c):04x}") for c in value) + '"'
    if isinstance(value, list):
        return "[" + ",".join(map(jcs, value)) + "]"
    assert isinstance(value, dict)
    keys = sorted(value, key=lambda k: k.encode("utf-16-be"))
    return "{" + ",".join(f"{jcs(k)}:{jcs(value[k])}" for k in keys) + "}"


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda n: n != "own")
TEXTS = st.text(st.characters(exclude_categories=["C", "Z"], min_codepoint=33), min_size=1, max_size=12)
BUDGETS = st.dictionaries(
    st.sampled_from(Counter), st.builds(Budget, st.integers(1, 2**40 - 1), st.integers(1, 10**6)), max_size=6
)


@st.composite
def collections(draw, number: int, name: str) -> Collection:
    classes = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    fields = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    made = [
        Field(
            i + 1,
            field,
            kind := draw(st.sampled_from(policy_schema.KINDS)),
            draw(st.sampled_from(classes)),
            draw(st.sampled_from([None, "unique", "exact"])),
            draw(st.sampled_from([None, "last4"])),
            draw(st.booleans()),
            "cn.ric" if kind == "national_id" else None,
            draw(st.sampled_from([None, "CN"])) if kind == "phone" else None,
            tuple(draw(st.lists(TEXTS, min_size=1, unique=True, max_size=3))) if kind == "text" else None,
        )
        for i, field in enumerate(fields)
    ]
    data_classes = tuple(DataClass(i + 1, c) for i, c in enumerate(classes))
    days, unit = draw(st.integers(1, 36_525)), draw(st.sampled_from(["day", "second"]))
    return Collection(number, name, "own", data_classes, tuple(made), days, unit, draw(BUDGETS))


@st.composite
def policies(draw) -> Policy:
    base = vault_texts.policy()
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    held = {n: draw(collections(i + 1, n)) for i, n in enumerate(names)}
    cells = [(c.id, k) for c in held.values() for k in c.class_ids]
    fields = [(c.id, f.id) for c in held.values() for f in c.fields if f.index]
    ids = st.frozensets(st.sampled_from([c.id for c in held.values()]))
    purposes = {
        n: Purpose(
            n,
            draw(st.one_of(st.just(""), TEXTS)),
            draw(st.frozensets(st.sampled_from(cells))),
            draw(st.frozensets(st.sampled_from(fields))) if fields else frozenset(),
            draw(ids),
            draw(ids),
            draw(st.booleans()),
        )
        for n in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    }
    roles = {
        n: Role(n, draw(st.frozensets(st.sampled_from(sorted(purposes)))), draw(BUDGETS), draw(st.sampled_from(["request", "session"])))
        for n in draw(st.lists(NAMES, min_size=1, max_size=2, unique=True))
    }  # fmt: skip
    version = draw(st.integers(1, 9))
    return replace(
        base,
        name=draw(TEXTS),
        version=version,
        previous=draw(st.binary(min_size=32, max_size=32)) if version > 1 else bytes(32),
        expires_s=draw(st.integers(1, 2**40 - 1)),
        single_machine=draw(st.booleans()),
        officers={o: Officer(o, draw(TEXTS), k.public_key) for o, k in base.officers.items()},
        quorum=1,
        collections=held,
        purposes=purposes,
        roles=roles,
        principals={p: Principal(p, draw(st.sampled_from(sorted(roles))), vault_texts.der(p)) for p in ("pa", "pb")},
    )


@given(policies())
def test_canonical_json_is_rfc_8785_and_reads_back(policy):
    data = to_json(policy)
    assert canonical(policy) == jcs(data).encode()
    assert from_json(data) == policy
    assert from_json(json.loads(canonical(policy))) == policy


def test_jcs_of_the_rfc():
    # RFC 8785 section 3.2.2 and 3.2.3, its examples without fractions
    assert jcs({"literals": [None, True, False]}) == '{"literals":[null,true,false]}'
    assert jcs('\u20ac$\u000f\nA\'B"\\\\"/') == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'
    keys = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert [int(n) for n in re.findall(r":(\d)", jcs(keys))] == [2, 4, 6, 7, 1, 5, 3]


def test_canonical_json_has_whole_numbers_and_ascii_keys_alone():
    def numbers(_):
        raise AssertionError

    def pairs(found):
        assert all(key.isascii() for key, _ in found)
        return dict(found)

    for name in vault_texts.NAMES:
        json.loads(canonical(vault_texts.policy(name)), parse_float=numbers, object_pairs_hook=pairs)


def _without(path):
    def change(data):
        *way, last = path
        for part in way:
            data = data[part]
        del data[last]

    return change


def _with(path, value):
    def change(data):
        *way, last = path
        for part in way:
            data = data[part]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(["roles", "dpo", "binding"]), "every default written out"),
        (_without(["collections", "person", "limits"]), "every default written out"),
        (_without(["collections", "person", "fields", "sex", "required"]), "every default written out"),
        (_with(["roles", "dpo", "purposes"], ["subject_access", "oversight"]), "every list ascending"),
        (_with(["vault", "previous"], "00" * 32), "expected nothing in version 1"),
        (_with(["vault", "expires"], "2030-01-31"), "unknown key"),
        (_with(["vault", "expires_s"], 2**40), "vault.expires_s"),
        (_with(["vault", "expires_s"], True), "vault.expires_s"),
        (_with(["vault", "threshold"], 2.0), "vault.threshold"),
        (_with(["vault", "quorum"], "2"), "vault.quorum"),
        (_with(["officers"], []), "expected a table, got"),
        (_with(["vault"], None), "expected a table, got None"),
        (_without(["vault"]), "expected a table [vault]"),
        (_without(["zones"]), "zones"),
        (_with(["colour"], 1), "unknown key"),
        (_with(["collections", "own"], {}), "every record is a person"),
        (_with(["collections", "person", "classes"], {}), "expected a table"),
    ],
)
def test_another_form_of_the_json_is_refused(change, message):
    data = json.loads(canonical(vault_texts.policy()))
    change(data)
    with pytest.raises(PolicyError, match=re.escape(message)):
        from_json(data)


def _keys(schema):
    for key, part in schema.items():
        yield key
        yield from _keys(getattr(part, "schema", {}))


def test_the_guide_explains_every_key_counter_and_type():
    from pathlib import Path

    guide = (Path(__file__).parents[2] / "docs" / "policy-guide.md").read_text(encoding="utf-8")
    keys = set(_keys(policy_schema._TOML))
    assert len(keys) > 35
    for word in (*keys, *Counter, *policy_schema.KINDS):
        assert re.search(rf"[`.{{ \[]{word}[`. }}]", guide), word
