"""`postgresql_plain`: the same rows in plaintext, the same B-trees, COPY in batches: the limit of the engine."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import psycopg

from people import FIELDS

NAME = "postgresql_plain"
_SCHEMA = """
CREATE TABLE person (id bigint PRIMARY KEY, id_number text NOT NULL, name text NOT NULL, birth_date text, sex text,
    phone text, email text, address text);
CREATE UNIQUE INDEX person_id_number ON person (id_number);
CREATE INDEX person_name ON person (name);
CREATE INDEX person_phone ON person (phone);
"""


def load(conninfo: str, password: str, file: Path, batch: int) -> float:
    """Load an NDJSON file, each batch committed; return rows a second."""
    with psycopg.connect(conninfo, password=password, autocommit=True) as db:
        db.execute(_SCHEMA)
        numbers, start = itertools.count(), time.perf_counter()
        with file.open(encoding="utf-8") as lines:
            while part := list(itertools.islice(lines, batch)):
                with db.transaction(), db.cursor().copy(f"COPY person (id, {', '.join(FIELDS)}) FROM STDIN") as copy:
                    for row in map(json.loads, part):
                        copy.write_row((next(numbers), *(row[f] for f in FIELDS)))
        taken = time.perf_counter() - start
        db.execute("DROP TABLE person")
        return next(numbers) / taken
