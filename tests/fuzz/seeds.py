"""Makes the first corpora, from real messages and files: `python tests/fuzz/seeds.py [TARGET ...]`.

What is there already stays: corpora also hold inputs that a fuzzer found, and those of findings.
"""

import base64
import dataclasses
import io
import json
import random
import sys

import targets
from feed import NUMBERS
from keeper_rig import People, plain
from node_rig import Put, Row, deletion, find, get, listing
from on_files import RECIPIENT, _node_folder, _sealed
from on_formats import KEY, ORIGIN, POLICY, RECORD, SUBJECT, VAULT, WITNESS, WITNESS_KEY

import vault_texts
from anwen.backup import archive
from anwen.client import sealed_file
from anwen.crypto import envelope as sealing
from anwen.crypto import grants, padding
from anwen.errors import AnwenError, BudgetError, DisputeError
from anwen.formats import answer, checkpoint, envelope, policy_chain, problem, wire
from anwen.formats.policy_file import canonical
from anwen.keeper import side
from anwen.net import http1, tls
from anwen.store.copying import BULK

DEEP = b"[" * 3000
MOST_BYTES = 32_768
"""Of one target's committed corpus, seeds and kept inputs together."""


def decisions(count=6, size=24, first=range(1)):
    """Inputs of targets that read decisions: each first one, without and with some edits."""
    chance = random.Random(size)
    return [bytes([i]) for i in first] + [bytes([i % 256]) + chance.randbytes(size) for i in range(count)]


def messages():
    """A message of every operation that has a sender in the rigs, and an empty one of the others."""
    rows = [Row(postings=[(2, True, [b"l" * 16])]), Row()]
    put = Put(*rows)
    made = [
        People(2).put(), People(1).index(), People(2).delete(), People(1).open(bytes(20)), put.encode(),
        get([RECORD], [1]), find([b"l" * 16]), listing(subjects=[SUBJECT]), deletion(rows[0]), plain("state"),
    ]  # fmt: skip
    zeros = {
        op: {c.name: bytes(c.kind) if isinstance(c.kind, int) else 0 for c in schema.scalars}
        for op, schema in wire.SCHEMAS.items()
    }
    return made + [wire.encode(op, bytes(16), scalars) for op, scalars in zeros.items()]


def answers():
    """An answer with components, and one without."""
    import numpy as np

    made = []
    for columns, rows in ((2, 1), (0, 0)):
        parts = np.arange(columns * rows * 32, dtype=np.uint8).reshape(columns, rows, 32)
        hashed = answer.column_hashes(parts)
        header = answer.Header(
            VAULT, "a", "open", bytes(32), bytes(32), bytes(32), hashed, 1, 1, 1, 4, 5, 6, rows, columns
        )
        made.append(answer.encode_answer(header, KEY, b"n" * 20, parts))
    return made


def blobs():
    """A row's cells and wraps."""
    context = sealing.context(VAULT, 1, 1, 1, SUBJECT, RECORD)
    sealed = [sealing.seal(b"d" * 32, bytes([i]) * 12, context, b'{"1":"x"}') for i in range(2)]
    return envelope.join_cells([1, 0x8001], sealed), envelope.join_wraps(b"b" * 20, [1, 2], [0, 1], [b"w" * 32] * 2)


def bodies():
    """Cells' contents: what writers write, and what a reader must refuse."""
    tokens = bytes.fromhex("00020001") + b"t" * 32
    texts = [b'{"1":"a"}', b'{"2":"x","3":"y"}', '{"2":"\u2022\u2022\u2022\u2022 4747"}'.encode(), b"{}", b'{"1":NaN}']
    texts += [b'{"1":"\\ud800"}', b'{"1":1e999}', b'{"9":1}', b"[]", b"", DEEP]
    return [bytes([i]) + text for i in range(2) for text in texts] + [b"\4" + tokens * 2, b"\4" + tokens[:-1], b"\4"]


def grant_texts():
    """A good grant, and its claims in the usual order and in another."""
    key = vault_texts.private_key("grant")
    grant = grants.Grant("alice", grants.keeper_audience(VAULT, "a"), 1_700_000_000, bytes(16), "work", bytes(32))
    token = grants.sign(key, grant)
    claims = grants._decode64(token.split(".")[1])
    other = json.dumps(dict(reversed(json.loads(claims).items()))).encode()
    return token.encode(), claims, other


def notes():
    """A signed note and one with a cosignature."""
    head = checkpoint.encode_checkpoint(checkpoint.Checkpoint(ORIGIN, 5, bytes(32)))
    note = checkpoint.sign_note(head, ORIGIN, KEY)
    return [head.encode(), note.encode(), checkpoint.cosign(note, WITNESS, WITNESS_KEY, 7).encode(), b"\xff\n\n\n"]


def signed_policies():
    """A small policy, signed."""
    names = ("clerk",)
    roles = {"clerk": dataclasses.replace(next(iter(POLICY.roles.values())), name="clerk")}
    people = {n: dataclasses.replace(next(iter(POLICY.principals.values())), id=n, role="clerk") for n in names}
    small = dataclasses.replace(POLICY, roles=roles, principals=people)
    signature = policy_chain.sign(small, "ada", vault_texts.private_key("officer ada"))
    signed = policy_chain.SignedPolicy(small, {"ada": signature})
    return [json.dumps(json.loads(policy_chain.encode_signed(signed)), separators=(",", ":")).encode(), DEEP, b"{}"]


def toml_texts():
    """Vault files, and the odd corners of TOML in which a scanner of positions may get lost."""
    odd = [
        'a = """\nx"""\n[b]\nc = [1, # x\n 2]\n', "a = {b = 1, c = [{d = 'e'}]}\n", '"a.b"."c" = 1\n[["x y"]]\n', "a=''''''\n",
        'a = """"x""""\n', "a = [[[[[]]]]]\n", "[a.b]\n[a]\nx = 1979-05-27T07:32:00Z\n", "a = 0x_1\n", "[vault]\nversion = 1\n",
        "\r\n[vault]\r\nversion = 1 # x\r\n", "a = \"\\\"\"\nb = '\\'\n", "[vault]\nversion = 1\nexpires = 0001-01-01\n",
    ]  # fmt: skip
    return [text.encode() for text in odd]


def heads():
    """Requests' and answers' heads."""
    request = http1.encode_request("/v1/put", "a:1", "Anwen a.b-c_d", 5)
    return [
        request,
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/policy HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ]


def responses():
    """Answers' heads."""
    return [http1.encode_response(s, "a/b", 5, close=c) for s, c in ((200, False), (429, True))]


def certificates():
    """A certificate in DER and PEM; the same as of a version that X.509 does not have, and with other keys."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    _, pem = tls.make_certificate("a")
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    version = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", 1)
    curve = der.replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030109"))
    return [der, pem, version, curve]


def pems():
    """Keys in PEM: of the kinds that are read, and of others."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    made = []
    for key in (RECIPIENT, ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())):
        made.append(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        made.append(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    der = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    unknown = der.replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030109"))
    for label, body in (("PRIVATE KEY", unknown), ("PUBLIC KEY", _other_curve())):
        text = base64.encodebytes(body)
        made.append(b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label.encode(), text, label.encode()))
    return made


def _other_curve():
    return vault_texts.der("x").replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030109"))


def tables():
    """Tables of a backup."""
    one = {"b": b"x" * 16, "i": 1}
    kinds = {**BULK, "wrap_1": "bib"}
    made = []
    for i, name in enumerate(sorted(kinds)):
        row = tuple(one[k] for k in kinds[name])
        made.append(bytes([i, 1]) + archive._encode(kinds[name], [row, row]))
    return [*made, bytes([0, 1]) + b"\xff" * 8]


def manifests():
    """A backup's manifest, small enough to change."""
    files = {"row": {"sha256": "00", "bytes": 5, "rows": 2}, "root.json": {"sha256": "11", "bytes": 1, "rows": 0}}
    about = {"format": 1, "backup": "b", "vault": "00" * 16, "made": "2026-01-01", "policy": 1, "engine": "sqlite"}
    return [json.dumps({**about, "part": "bulk", "files": files}).encode(), DEEP, b"{}"]


def states():
    """What an import keeps."""
    state = {"done": 2, "stored": [[4, 5]], "counts": {"read": 1}, "reasons": {}, "rejects_bytes": 0}
    plan = {"file": "a", "size": 1, "head": "00", "vault": "00", "collection": "p", "principal": "x", "purpose": "y"}
    plan |= {"file_format": "csv", "mapping": {"a": None}, "batch": 5}
    plan |= {"secret": "00" * 16, "rows": 3, "parts": [[[0, 10, 1, 1]], [[10, 20, 2, 2], [20, 30, 3, 4]]]}
    return [json.dumps(state | {"ended": False}).encode(), json.dumps(plan).encode(), DEEP, b"[]"]


def parquets():
    """Small Parquet files of every type that is read, and of some that are not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "a": pa.array(["x", None]), "b": pa.array([1, 2], pa.int16()), "c": pa.array([0, 1], pa.date32()),
        "d": pa.array([0, 2**62], pa.timestamp("ns")), "e": pa.array([[1], []], pa.list_(pa.int8())),
        "f": pa.array(["k", "k"]).dictionary_encode(), "g": pa.array([{"h": 1}, None]), "i": pa.array([b"x", b"y"]),
        "j": pa.array([0, 2**40], pa.date32().__class__ and pa.timestamp("s")), "k": pa.array([1.5, None]),
    }  # fmt: skip
    made = []
    for names in ("ab", "cd", "efg", "i", "j", "k", ""):
        out = io.BytesIO()
        table = pa.table({n: columns[n] for n in names}) if names else pa.table({"a": pa.array([], pa.string())})
        pq.write_table(table, out, compression="zstd" if names == "ab" else "none", write_page_checksum=names == "k",
                       write_statistics=False, store_schema=names in ("efg", "j"))  # fmt: skip
        made.append(out.getvalue())
    return made


def values():
    """Values of every kind, each behind its kind's number."""
    from anwen.formats.normalise import KINDS

    texts = {
        "text": "a\u0301 b", "name": "Li Na", "date": "2026-01-31", "datetime": "2026-01-31T08:00:00+08:00", "int": "12",
        "decimal": "-1.50", "bool": "true", "phone": "+8613800138000", "email": "a@b.example", "address": "1 Road",
        "json": '{"a":[1,2.5,"x"]}', "national_id": "11010519491231002X",
    }  # fmt: skip
    kinds = sorted(KINDS)
    found = []
    for kind, text in texts.items():
        second = bytes([0]) if kind in {"national_id", "phone"} else b""
        found.append(bytes([kinds.index(kind)]) + second + text.encode())
    return found


def natives():
    """JSON and decimal numbers behind the number of a kind."""
    texts = [
        b"12",
        b"1E-5",
        b"1.50",
        b"0E+50",
        b"true",
        b'"a"',
        b'{"a":[1,null]}',
        b"[1e5]",
        b"1E-99999999999999999999",
        DEEP,
    ]
    return [bytes([i, 0]) + text for i, text in zip(range(12), texts * 2, strict=False)]


def folders():
    """One file of a node's folder, behind its number."""
    files = _node_folder()
    names = ("node.json", "root.json")
    return (
        [bytes([i]) + files[n] for i, n in enumerate(names)] + [bytes([i]) + b"{}" for i in range(4)] + [b"\0" + DEEP]
    )


def keeper_files():
    """One file of a keeper's folder, behind its number."""
    keys = {"series": "record", "number": 1, "transcript": "00", "keys": {"a": "00" * 32}, "checks": {"a": "11" * 16}}
    texts = [b"i" * 32, b'{"id": "a"}', b'{"vault": "00", "root": "11"}', json.dumps(keys).encode(), b"m" * 32, b"{}"]
    return [bytes([i]) + text for i, text in enumerate(texts)] + [bytes([i]) + DEEP for i in (1, 2, 3)] + [b"\4m"]


def settings():
    """Ways to reach stores, behind the number of the engine."""
    given = [
        (0, {"path": "a.sqlite"}), (1, {"conninfo": "host=localhost dbname=a", "statement_timeout_s": 5}),
        (2, {"contact_points": ["127.0.0.1:9042"], "keyspace": "anwen", "zone": "a"}),
        (2, {"contact_points": ["a:\u00b2"]}), (0, {"path": "a\0b"}),
    ]  # fmt: skip
    return [bytes([i]) + json.dumps(value).encode() for i, value in given]


def problems():
    """Refusals."""
    errors = (AnwenError("x"), BudgetError("spent", retry_after_s=5), DisputeError("y"))
    return [b"\0" + problem.encode(e) for e in errors] + [b"\0" + DEEP, b"\0{}"]


def pieces(wholes):
    """What comes on a connection, behind the sizes of the pieces in which it comes."""
    return [sizes + whole for whole in wholes for sizes in (b"\0", b"\2\x00\x10", b"\1\x03")]


def scrapes():
    """What comes to the metrics' listener, behind whether the scraper goes early and the sizes of the pieces."""
    lines = b"GET /metrics HTTP/1.1", b"GET /metrics?a=b HTTP/1.0", b"GET /metricsx HTTP/1.1", b"POST /metrics HTTP/1.1"
    heads = [line + b"\r\nHost: a\r\n\r\n" for line in lines]
    long = b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 8200 + b"\r\n\r\n"
    return [b"\0" + piece for piece in pieces([*heads, heads[0] * 2])] + [
        b"\0\0" + long, b"\1\0" + heads[0], b"\0\0GET /m",
    ]  # fmt: skip


def _good_envelope():
    return sealing.seal(b"d" * 32, bytes(12), sealing.context(VAULT, 1, 1, 1, SUBJECT, RECORD), b"{}")


def _sealed_files():
    out = io.BytesIO()
    writer = sealed_file.SealedWriter(out, RECIPIENT.public_key())
    writer.write(b"x")
    writer.finish()
    zero_point = sealed_file.MAGIC + bytes(32) + b"k" * 48
    return [out.getvalue(), zero_point + b"c" * 17, out.getvalue()[:-1], b"", b"\0\5" + _sealed(0)[:0]]


REQUEST = http1.encode_request("/v1/put", "a:1", "Anwen a.b-c_d", 5)
CSV = [
    b"a,b\n1,2\n",
    b'\xef\xbb\xbfa;b\r\n"1\n""x";2\r\n\r\n"open\n3;4\n',
    b"a\tb\n'=1\t\n",
    b"a\n" + b'"' * 9 + b"\n",
    b"a,a\n",
]
LINES = [
    b'{"a":1}\n{"a":"x"}\n\n{"a":[1,{"b":2.50}]}\r\n', b'{"a":1e999}\n{"a":1,"a":2}\n', b'{"a":"\\ud800"}\n', DEEP,
    b'{"a":1E-99999999999999999999}\n', b"\xef\xbb\xbf{}\n\xff\n",
]  # fmt: skip
SIDE = side.encode(bytes(16), [side.Block.of(side.Kind.OPEN, 1, b"p" * 32), side.Block.count(side.Kind.SEARCH, 1, 5)])

SEEDS = {
    "wire_message": messages, "ends": messages, "answer_bytes": answers,
    "wire_numbers": lambda: decisions(6, 8, range(len(wire.SCHEMAS))), "answer_signed": lambda: decisions(4, 230),
    "cells_blob": lambda: [blobs()[0], b""], "wraps_blob": lambda: [blobs()[1], b"b" * 20],
    "padding_bytes": lambda: [padding.pad(b"x" * n) for n in (0, 127, 128, 300)],
    "envelope_bytes": lambda: [_good_envelope()], "cell_body": bodies, "grant_text": lambda: [grant_texts()[0]],
    "grant_claims": lambda: grant_texts()[1:], "public_key": lambda: [vault_texts.der("x"), _other_curve()],
    "policy_toml": toml_texts, "policy_next": toml_texts, "policy_signed": signed_policies, "policy_lines": lambda: decisions(12, 10), "policy_successor": lambda: decisions(12, 12), "note_text": notes,
    "note_signed": lambda: [bytes([len(n)]) + n for n in notes()[:1]] + [b"\3\xed\xa0\x80", b"\1x\1\0\5aaaa="],
    "proofs": lambda: decisions(8, 16, range(40)), "problem_body": problems, "value_text": values, "value_native": natives,
    "csv_file": lambda: CSV, "ndjson_file": lambda: LINES, "parquet_file": parquets, "sealed_bytes": _sealed_files,
    "key_files": pems, "backup_manifest": manifests, "backup_table": tables, "import_state": states,
    "node_folder": folders, "store_settings": settings, "keeper_folder": keeper_files,
    "vault_root": lambda: [b'{"vault": "00", "root": "11"}', DEEP, b'{"root": 5}'], "request_head": heads,
    "response_head": responses, "address": lambda: [b"a:1", b"[::1]:80", b"a:" + b"9" * 5000, "a:\u00b2".encode()],
    "certificate": certificates,
    "server_bytes": lambda: pieces([REQUEST + b"12345", heads()[1], heads()[2], REQUEST + b"12345" + REQUEST]),
    "client_bytes": lambda: pieces([responses()[0] + b"12345", responses()[1] + b"1234", b"HTTP/1.1 200"]),
    "metrics_bytes": scrapes,
    "side_data": lambda: [SIDE, SIDE[:20]], "log_recovery": lambda: decisions(12, 30, range(12)),
    "leaves_file": lambda: [bytes(40 * n) for n in (0, 1, 3)], "seen_note": lambda: [*notes(), b"\xff"],
    "peer_token": lambda: [b"\0", b"\1e30", b"\1_"], "statement_text": lambda: [b"\0", b"\1", b"\0" + b'{"kind":"x"}'],
    "peer_request": lambda: decisions(16, 20, range(8)), "peer_answer": lambda: decisions(12, 20),
    "ceremony": lambda: [bytes([step, 9, 9, 9, 0, key]) for step in range(3) for key in range(3)] + decisions(9, 20),
    "coordinated": lambda: decisions(8, 20), "keeper_request": lambda: decisions(16, 20, range(10)),
    "keeper_grant": lambda: decisions(8, 12, range(12)), "node_request": lambda: decisions(16, 24, range(8)),
    "lying_keeper": lambda: decisions(18, 24, range(9)), "lying_node": lambda: decisions(18, 24, range(9)),
    "log_answers": lambda: decisions(20, 16, range(5)),
}  # fmt: skip


def main():
    """Write the seeds of the targets named, or of all."""
    for name in sys.argv[1:] or SEEDS:
        folder = targets.CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(SEEDS[name]()):
            (folder / f"seed-{i:02}").write_bytes(data)


if __name__ == "__main__":
    main()
assert NUMBERS
assert canonical
