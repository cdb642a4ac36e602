"""The report of rows that were not taken: NDJSON, one row a line, without any value."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from anwen.errors import MalformedError
from anwen.files.rows import Reject


class RejectsWriter:
    """Appends rejects to a file of mode 0600: ``{"row", "line", "field", "code", "reason"}``; `line` 0 in Parquet."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """Open the report; an earlier one is cut to `keep_bytes`, what `sync` returned in the run that is resumed."""
        if keep_bytes and (not path.is_file() or path.stat().st_size < keep_bytes):
            raise MalformedError(f"{path.name}: expected at least {keep_bytes} bytes of the run that is resumed")
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        os.fchmod(self._file.fileno(), 0o600)
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)

    def write(self, reject: Reject) -> None:
        """Append one reject; durable after the next `sync`."""
        entry = {
            "row": reject.number,
            "line": reject.line,
            "field": reject.field,
            "code": reject.code,
            "reason": reject.reason,
        }
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def sync(self) -> int:
        """Make all rejects durable; return the size in bytes, to be kept with the position of the import."""
        self._file.flush()
        os.fsync(self._file.fileno())
        # a crash from here on leaves whole lines up to this size; later ones are cut off when the import resumes
        return self._file.tell()

    def close(self) -> None:
        """Make all rejects durable and close the file."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
