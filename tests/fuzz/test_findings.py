"""What fuzzing found, each with the input that showed it in its smallest form. Each was an error outside the tree unless
the test's name says otherwise."""

import dataclasses
import io
import json
import struct

import numpy as np
import pytest
import seeds
import targets
from feed import Feed
from keeper_rig import QuickDisk
from node_rig import stack
from on_clients import CLASSES, HASTY, PATIENT, Lying, _clients, _recorded
from on_files import _node_folder, scratch, written
from on_formats import KEY, ORIGIN, POLICY, PUBLIC, RECORD, SUBJECT
from on_keepers import _CLOCK, _files, _frames, _peers, _vault, with_frame
from rigs import put_back, run

import vault_texts
from anwen.backup import archive
from anwen.cli import output
from anwen.cli.import_state import ImportFolder
from anwen.client import audit, sealed_file
from anwen.client.rows import Cell, open_cell
from anwen.crypto import envelope as sealing
from anwen.errors import (
    MalformedError,
    NotFoundError,
    OpenError,
    PolicyError,
    ProofError,
    StorageError,
)
from anwen.files import FileFormat, Reject, read_rows
from anwen.formats import checkpoint, policy_file, wire
from anwen.keeper import folder as keeper_files
from anwen.keeper import statement
from anwen.keeper.service import Keeper
from anwen.keeper.side import MonthKeys
from anwen.net import http1, metrics, tls
from anwen.net.connection import Pool
from anwen.net.server import serve
from anwen.node import app as node_app
from anwen.store import engines
from anwen.supervisor import run_ceremony
from anwen.vault_folder import VaultFolder, read_key, read_toml

DEEP = b"[" * 100_000


# --- what a writer may have sealed -----------------------------------------------------------------------------------


def opened(body, class_id=1, name="person"):
    collection = POLICY.collections[name]
    context = sealing.context(POLICY.vault, collection.id, class_id, 1, SUBJECT, RECORD)
    sealed = sealing.seal(b"d" * 32, bytes(12), context, body)
    cell = Cell(collection, SUBJECT, RECORD, class_id, 1, 0, 0, sealed, bytes(24), b"d" * 32)
    return open_cell(POLICY.vault, cell, bytes(32))


@pytest.mark.parametrize(
    "body",
    [DEEP, b'{"1":%s1%s}' % (b"[" * 900, b"]" * 900), b'{"1":NaN}', b'{"1":1e999}', b'{"1":"\\ud800"}', b'{"1":null}', b'{"1":5}'],
    ids=["deep", "nested", "nan", "infinite", "surrogate", "null", "number"],
)  # fmt: skip
def test_a_cell_that_no_writer_of_ours_seals_does_not_open(body):
    with pytest.raises(OpenError):
        opened(body)


def test_a_cell_with_control_characters_opens():
    assert opened(b'{"5":"a\\u0009b"}', name="incident") == {"description": "a\tb"}


def test_output_of_a_lone_surrogate_is_escaped(capsys):
    output.emit({"a": "\ud800"})
    assert capsys.readouterr().out == '{"a":"\\ud800"}\n'


# --- texts and files -------------------------------------------------------------------------------------------------


def test_a_note_with_a_lone_surrogate_is_no_note():
    text = "\ud800\n5\n" + "A" * 43 + "=\n"
    key_id = checkpoint._key_id(ORIGIN, 1, PUBLIC)
    line = seeds.base64.b64encode(key_id + KEY.sign(b"x")).decode()
    note = f"{text}\n\u2014 {ORIGIN} {line}\n"
    with pytest.raises(MalformedError):
        checkpoint.verify_note(note, ORIGIN, PUBLIC)
    with pytest.raises(MalformedError):
        checkpoint.cosignatures(note, {ORIGIN: PUBLIC})
    with pytest.raises(MalformedError):
        checkpoint.cosign(note, "x", KEY, 5)


def test_a_date_that_json_cannot_say_is_no_end_of_a_policy():
    for date in ("1960-01-01", "1970-01-01"):
        text = vault_texts.text().replace("expires = 2030-01-31", f"expires = {date}")
        with pytest.raises(PolicyError, match=r"vault\.expires"):
            policy_file.parse_toml(text)


def test_a_vault_file_in_another_encoding_is_no_policy():
    with pytest.raises(PolicyError, match="UTF-8"):
        read_toml(written("vault.toml", "name = 'M\u00fcller'".encode("latin-1")))


def test_toml_of_any_depth_is_read_or_refused():
    for opening, closing in (("[", "]"), ("{a=", "}"), ("[{a=", "}]")):
        for depth in range(100, 500):
            with pytest.raises(PolicyError):
                policy_file.parse_toml(f"a = {opening * depth}1{closing * depth}")


def test_a_number_beyond_all_exponents_costs_its_row_alone():
    path = written("rows.ndjson", b'{"a":1E-99999999999999999999}\n{"a":1}\n')
    first, second = read_rows(path, file_format=FileFormat.NDJSON)
    assert isinstance(first, Reject)
    assert second.values == {"a": 1}


def test_a_date_beyond_the_calendar_costs_its_row_alone():
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    for column in (pa.array([0, 2**31 - 1], pa.date32()), pa.array([0, 2**40], pa.timestamp("s"))):
        out = io.BytesIO()
        pq.write_table(pa.table({"a": column}), out)
        first, second = read_rows(written("rows.parquet", out.getvalue()), file_format=FileFormat.PARQUET)
        assert (first.number, isinstance(second, Reject)) == (1, True)


@pytest.mark.parametrize("read", [sealed_file.read_recipient, sealed_file.read_recipient_key, read_key])
def test_a_key_on_a_curve_that_nobody_knows_is_malformed(read):
    for pem in seeds.pems()[-2:]:
        with pytest.raises(MalformedError):
            read(written("some.key", pem))


@pytest.mark.parametrize("read", [sealed_file.read_recipient_key, read_key])
def test_a_private_key_of_a_length_that_its_curve_does_not_have_is_malformed(read):
    for curve in (0x6E, 0x6F, 0x70, 0x71):
        der = bytes.fromhex(f"3016020100300506032b65{curve:02x}040a0408") + bytes(8)
        pem = b"-----BEGIN PRIVATE KEY-----\n%s-----END PRIVATE KEY-----\n" % seeds.base64.encodebytes(der)
        with pytest.raises(MalformedError):
            read(written("some.key", pem))


def test_a_parquet_file_with_a_name_that_is_no_text_is_malformed():
    with pytest.raises(MalformedError):
        list(read_rows(targets.CORPUS / "parquet_file" / "found-name-not-utf8", file_format=FileFormat.PARQUET))


def test_a_certificate_of_no_version_or_curve_is_malformed():
    for der in seeds.certificates()[2:]:
        with pytest.raises(MalformedError):
            tls.spki_pin(der)


async def test_a_service_with_a_certificate_that_cannot_be_read_is_not_the_pinned_one(monkeypatch):
    key, crt = tls.make_certificate("a")
    paths = written("tls.crt", crt), written("tls.key", key)
    service = await serve(None, "127.0.0.1:0", tls.server_context(*paths))
    monkeypatch.setattr(tls.Channel, "peer_pin", lambda _: tls.spki_pin(seeds.certificates()[2]))
    pool = Pool(service.address, bytes(32))
    with pytest.raises(ProofError):
        await pool.post("/v1/state", "Anwen x", b"", 5)
    await pool.aclose()
    await service.aclose()


def test_a_port_of_any_length_is_refused():
    for port in ("9" * 5000, "\u00b2", "99999", "+1"):
        with pytest.raises(PolicyError):
            http1.split_address(f"a:{port}")


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_manifest_of_any_depth_is_malformed():
    for part in ("bulk", "wraps"):
        written(f"backup/{part}/manifest.json", DEEP)
    with pytest.raises(MalformedError):
        archive.read(scratch() / "backup")


@pytest.mark.parametrize(
    "table", [struct.pack(">I", 2**32 - 1), struct.pack(">IIQ", 1, 0, 2**63), struct.pack(">IIq", 1, 0, -1)]
)
def test_a_backups_table_takes_no_more_memory_than_it_has_bytes_and_no_number_below_zero(table):
    written("backup/bulk/deleted", table)
    folders = {"bulk": scratch() / "backup/bulk", "wraps": scratch() / "backup/wraps"}
    backup = archive.Backup({}, folders, {"bulk": {"deleted": {"rows": 1}}, "wraps": {}}, {})
    with pytest.raises(MalformedError):
        list(backup.table("deleted"))


@pytest.mark.parametrize("changes", [{"done": "a"}, {"counts": {}}, {"counts": 5}, {"done": None}, {"stored": [[1]]}])
def test_an_imports_state_of_other_types_is_malformed(changes):
    folder = ImportFolder(scratch() / "rejects")
    good = json.loads(seeds.states()[0])
    good["counts"] = {"read": 1, "stored": 0, "already": 0, "rejected": 0}
    written("rejects.import/0.json", json.dumps(good).encode())
    assert folder.load(0).done == 2
    for content in (json.dumps(good | changes).encode(), DEEP):
        written("rejects.import/0.json", content)
        with pytest.raises(MalformedError):
            folder.load(0)


def test_a_nodes_files_of_any_depth_are_refused():
    for name in ("node.json", "root.json"):
        put_back(scratch() / "node", {n: (d, 0o600) for n, d in (_node_folder() | {name: DEEP}).items()})
        with pytest.raises(PolicyError):
            node_app.load(scratch() / "node")
    written("node/node.json", DEEP)
    with pytest.raises(PolicyError):
        metrics._address(scratch() / "node" / "node.json")
    with pytest.raises(NotFoundError):
        archive._settings(scratch() / "node")
    with pytest.raises(MalformedError):
        assert VaultFolder(scratch() / "node").root


async def test_a_store_behind_a_path_with_a_nul_is_refused():
    with pytest.raises(StorageError):
        await engines.connect("sqlite", {"path": "a\0b"}, scratch())


def test_a_contact_point_with_a_port_of_other_digits_is_refused():
    session = pytest.importorskip("anwen.store.cassandra_session", exc_type=ImportError)
    for port in ("\u00b2", "9" * 5000):
        with pytest.raises(PolicyError):
            session.Settings.parse({"contact_points": [f"a:{port}"]}, scratch())
    login = {"contact_points": ["a:1"], "username": "a", "password_file": "a\0"}
    with pytest.raises(PolicyError):
        session.Settings.parse(login, scratch())


def test_a_keepers_files_of_any_depth_are_malformed():
    folder = scratch() / "keeper"
    good = {"identity.key": b"i" * 32, "keeper.json": b'{"id": "a"}', "root.json": b'{"vault": "00", "root": "11"}'}
    for name in ("keeper.json", "root.json"):
        put_back(folder, {n: (d, 0o600) for n, d in (good | {name: DEEP}).items()})
        with pytest.raises(MalformedError):
            keeper_files.read_identity(folder)
    written("keeper/keys/record-1.keys", DEEP)
    with pytest.raises(MalformedError):
        keeper_files.read_keys(folder, "record", 1)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_months_key_of_another_length_is_damage(size):
    path = written("months/2026-01.key", b"k" * size)
    with pytest.raises(StorageError):
        MonthKeys(path.parent, QuickDisk(), bytes).pseudonyms("2026-01", b"h" * 16)


def reopened(files):
    put_back(scratch() / "recovered", files)
    return Keeper.open(scratch() / "recovered", clock=lambda: _CLOCK, peers={}, disk=QuickDisk())


@pytest.mark.parametrize(
    ("op", "changes"),
    [
        ("put", {"op": []}),
        ("put", {"iss": 0.5}),
        ("put", {"t": 10**400}),
        ("put", {"exp": {}}),
        ("policy", {"policy": None}),
    ],
    ids=str,
)
def test_an_entry_with_other_types_is_damage(op, changes):
    files = dict(_files())
    logs = {n: [json.loads(e) for _, e, _ in _frames(files[n][0])] for n in files if n.endswith(".log")}
    name, entries = max((n, entries) for n, entries in logs.items() if op in [e["op"] for e in entries])
    at = next(i for i, entry in enumerate(entries) if entry["op"] == op)
    files[name] = (with_frame(files[name][0], at, json.dumps(entries[at] | changes).encode()), 0o600)
    with pytest.raises(StorageError):
        reopened(files)


def test_an_entry_of_any_depth_or_with_other_side_data_is_damage():
    files = dict(_files())
    name = max(n for n in files if n.endswith(".log"))
    for changed in (with_frame(files[name][0], 0, DEEP), with_frame(files[name][0], 0, extra=b"s" * 20)):
        with pytest.raises(StorageError):
            reopened(files | {name: (changed, 0o600)})


@pytest.mark.parametrize("place", [b"\xff" * 8, (2**20).to_bytes(8)], ids=["far", "beyond"])
def test_a_file_of_leaves_with_places_that_are_none_is_damage_where_it_is_used_and_made_anew_on_start(place):
    files = dict(_files())
    leaves = files["log/leaves"][0]
    changed = leaves[:32] + place + leaves[40:]
    keeper = reopened(files | {"log/leaves": (changed, 0o600)})
    assert len(list(keeper.log.frames(0))) == len(leaves) // 40
    (scratch() / "recovered" / "log" / "leaves").write_bytes(changed)  # as of older days, which no start reads
    with pytest.raises(StorageError):
        list(keeper.log.frames(0))


def test_a_checkpoint_that_is_no_text_is_none():
    reopened(_files() | {"log/checkpoint": (b"\xff", 0o600)})
    targets.TARGETS["seen_note"](b"\xff")


# --- peers -----------------------------------------------------------------------------------------------------------


def test_a_ceremony_names_whoever_announces_a_key_with_which_nothing_is_secret():
    from anwen.keeper.ceremony import _sealed_to

    with pytest.raises(ProofError, match="keeper b"):
        _sealed_to("b", "00" * 1216, b"x", b"")


@pytest.mark.parametrize(
    "said", [b"\xff", b"5\n", DEEP, b'{"confirm": 5, "opened": null}\n', b'{"confirm": {"a": 1}}\n'], ids=repr
)
def test_a_coordinator_names_a_keeper_that_states_nothing(said):
    async def lying(op, body):
        return said

    with pytest.raises(ProofError):
        run(run_ceremony("record", 1, dict.fromkeys("ab", lying)))


@pytest.mark.parametrize(
    "time_s", ["NaN", "Infinity", "1" + "0" * 400, "[" * 100_000], ids=["nan", "inf", "huge", "deep"]
)
def test_a_peer_whose_clock_is_no_number_is_as_good_as_silent(time_s):
    keeper = _peers().keeper
    witnessed, honest = keeper.witnessed, keeper.witnessed.peers

    async def lying(op, body):
        return b'{"time_s": %s, "size": 0, "note": "", "cosignature": null}' % time_s.encode()

    witnessed.peers = honest | {"b": lying}
    try:
        run(witnessed.ask_peers())
        assert abs(keeper.clocks.offset_s) < 1
    finally:
        witnessed.peers = honest


# --- keepers and nodes that lie to clients ---------------------------------------------------------------------------


class Changing(Lying):
    """Changes the answers of one recipient to one operation by a function."""

    def __init__(self, at, who, op, change):
        super().__init__(at, who, Feed(b"\1"))
        self.op, self.change = op, change

    def lie(self, recipient, op, answered):
        return self.change(answered) if op == self.op else answered


@pytest.mark.parametrize("keeper", ["a", "b", "c"])
@pytest.mark.parametrize("field", ["epoch", "generation"])
def test_a_liar_about_epoch_or_generation_stops_nothing(keeper, field):
    at = _clients()

    def change(answered):
        true = seeds.answer.decode_answer(answered)
        header = dataclasses.replace(true.header, **{field: 2**32 - 1})
        return seeds.answer.encode_answer(header, at.vault.identities[keeper], true.nonce_base, true.components)

    client = at.client(Changing(at, f"keeper/{keeper}", "state", change), PATIENT)

    async def use():
        found = await client.find("person", CLASSES, phone=at.rows[0]["phone"])
        assert [v["name"] for v in await client.open(found, ["name"])] == [at.rows[0]["name"]]
        await client.put("person", at.fresh())
        await client.close()

    run(use())


def as_entries(message, **blobs):
    return wire.encode("entries", message.salt, message.scalars, {}, message.blobs | blobs)


GOOD = {"index": 0, "t": 5, "op": "open", "iss": "a", "purpose": "b", "classes": {"1.1": 1}, "jti": "00"}


@pytest.mark.parametrize(
    "entry",
    [
        *({k: v for k, v in GOOD.items() if k != left_out} for left_out in GOOD if left_out != "index"),
        *(GOOD | changes for changes in (
            {"t": "x"}, {"t": []}, {"t": float("inf")}, {"iss": 5}, {"iss": "\x1b[2J"}, {"op": "\ud800"}, {"classes": 5},
            {"classes": {"a.b": 1}}, {"classes": {"1": 1}}, {"classes": [None]},
        )),
        [], None, 5, "\ud800",
    ],
    ids=repr,
)  # fmt: skip
def test_a_keeper_is_named_whose_entry_is_none(entry):
    at, kept = _recorded()
    raw = json.dumps(entry).encode()

    class Telling:
        async def call(self, recipient, op, grant, body, timeout_s):
            return as_entries(kept[recipient, op], entries=[raw])

    client = at.client(Telling(), HASTY)
    with pytest.raises(ProofError, match="keeper a"):
        run(audit.who_has_seen(client.session, "work", at.subjects[0]))


def test_classes_of_a_newer_policy_are_shown_by_number():
    assert audit.class_names(POLICY, "a", {"1.1": 1, "1.32767": 1, "1.32769": 1, "77.2": 1, "1.99": 1}) == (
        "1.99", "77.2", "person._index", "person.identity", "person.identity.masked",
    )  # fmt: skip


def test_a_keeper_that_gives_less_of_its_log_than_there_is_cannot_go_on_for_ever():
    at, kept = _recorded()
    calls = []

    class Telling:
        async def call(self, recipient, op, grant, body, timeout_s):
            if op == "state":
                return await at.vault.call(recipient, op, grant, body, timeout_s)
            calls.append(op)
            message = kept[recipient, op]
            scalars = message.scalars | {"size": 2**63}
            return wire.encode("entries", message.salt, scalars, {}, message.blobs | {"checkpoint": [b"\xff"]})

    client = at.client(Telling(), HASTY)
    verdicts = run(audit.verify(client.session, "work"))
    assert [v.problem.partition(":")[0] for v in verdicts] == ["proof"] * 3
    assert len(calls) == 3


def rows_message(answered, change):
    message = wire.decode(answered, "rows")
    tables, blobs = change(dict(message.tables), dict(message.blobs))
    return wire.encode("rows", message.salt, {}, tables, blobs)


def used(at, op, change, use):
    client = at.client(Changing(at, "node/a", op, change), HASTY)

    async def doing():
        try:
            return await use(client)
        finally:
            await client.close()

    return run(doing())


def test_a_node_that_lists_the_same_page_for_ever_is_refused():
    at = _clients()
    pages = []

    def first_page(answered):
        pages.append(answered)
        return pages[0]

    with pytest.raises(ProofError):
        used(at, "node_list", first_page, lambda client: scanned(client, page=1))
    assert len(pages) <= 3


async def scanned(client, page):
    return [r async for r in client.scan("person", ["name"], page=page)]


def test_a_node_that_lists_more_than_it_was_asked_for_is_refused():
    at = _clients()
    everything = []

    def all_of_it(answered):
        return everything[0]

    used(at, "node_list", lambda a: everything.append(a) or a, lambda client: scanned(client, page=1000))
    with pytest.raises(ProofError):
        used(at, "node_list", all_of_it, lambda client: scanned(client, page=1))


def test_a_hit_of_a_label_that_nobody_asked_for_is_refused():
    at = _clients()

    def change(answered):
        return rows_message(answered, lambda tables, blobs: (tables | {"hits": far_hit()}, blobs))

    def far_hit():
        return {"label_row": np.array([2**32 - 1], np.uint32), "record": stack([b"r" * 16]), "mac": stack([b"m" * 16])}

    with pytest.raises(ProofError):
        used(at, "node_find", change, lambda c: c.find("person", CLASSES, phone=at.rows[0]["phone"]))


def test_a_slot_that_was_not_offered_is_refused_and_not_learnt():
    at = _clients()

    def change(answered):
        message = wire.decode(answered, "outcomes")
        slots = {"slot": np.full(wire.rows_in(message.tables["postings"]), 2**31, np.uint32)}
        return wire.encode("outcomes", message.salt, {}, message.tables | {"postings": slots})

    row = at.fresh()
    with pytest.raises(ProofError):
        used(at, "node_put", change, lambda c: c.put("person", row))


def test_an_embedded_vault_with_a_damaged_node_file_says_so(tmp_path):
    from anwen import access, vault_folder

    folder = vault_folder.create(tmp_path / "v", "police")
    (folder.path / "nodes" / "a" / "node.json").write_bytes(b"{}")
    with pytest.raises(PolicyError):
        access.open(folder.path, key="importer", purpose="intake")


def test_statements_of_any_depth_do_not_verify():
    vault = _vault()
    line = "[" * 100_000
    signature = vault.rig.keepers["b"].identity.key.sign(statement._PREFIX + line.encode()).hex()
    with pytest.raises(ProofError):
        statement.verify(vault.policy, f"{line}\n{signature}", "x", "b")


def test_a_statement_has_one_form():
    vault = _vault()
    line, signature = statement.sign(vault.rig.keepers["b"].identity, "x").split("\n")
    assert statement.verify(vault.policy, f"{line}\n{signature}", "x", "b")
    for other in (signature.upper(), f" {signature}", signature[:2] + " " + signature[2:]):
        with pytest.raises(ProofError):
            statement.verify(vault.policy, f"{line}\n{other}", "x", "b")
