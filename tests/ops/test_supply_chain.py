"""What is built and installed: the same wheel from the same sources, and nothing that no lock file names by its hash."""

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE_LOCK = ROOT / "requirements-service.lock"
LOCKS = [ROOT / "requirements.lock", SERVICE_LOCK, *sorted((ROOT / "src" / "anwen" / "rehearse").rglob("*.lock"))]
SOURCES = ("src", "pyproject.toml", "README.md", "LICENSE")


def built(folder, sources, mode=0o664):
    """Build the wheel from a copy of the sources, as somebody else would at another place and time."""
    for name in SOURCES:
        (shutil.copytree if (sources / name).is_dir() else shutil.copy)(sources / name, folder / name)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file():
            path.touch()
            path.chmod(mode)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", folder / "out", folder], check=True, timeout=120)
    (wheel,) = (folder / "out").glob("*.whl")
    return wheel


def test_two_builds_of_the_same_sources_are_equal_byte_for_byte(tmp_path):
    folders = [tmp_path / "one", tmp_path / "a" / "second place"]
    for folder in folders:
        folder.mkdir(parents=True)
    one, two = (built(folder, ROOT, mode) for folder, mode in zip(folders, (0o664, 0o600), strict=True))
    assert one.name == two.name
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(two.read_bytes()).digest()
    errors = folders[0] / "src" / "anwen" / "errors.py"
    errors.write_text(errors.read_text() + "# one line more\n")
    changed = tmp_path / "changed"
    changed.mkdir()
    assert built(changed, folders[0]).read_bytes() != two.read_bytes()


def test_the_wheel_holds_the_package_and_nothing_of_whoever_built_it(tmp_path):
    wheel = built(tmp_path, ROOT)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert all(n.startswith(("anwen/", "anwen-")) for n in names)
        assert not [n for n in names if re.search(r"\.(pyc|key|pem|sqlite|log)$|(^|/)(tests?|demo|\.)", n)]
        assert not [n for n in names if str(tmp_path).encode() in archive.read(n)]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_every_package_of_a_lock_has_one_version_and_hashes(lock):
    text = re.sub(r"(?m)^\s*#.*$", "", lock.read_text()).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert lines
    for line in lines:
        assert re.match(r"[A-Za-z0-9._-]+==[^\s*]+( ;.*?)?( +--hash=sha256:[0-9a-f]{64})+", line), line


def test_what_is_declared_is_locked():
    """`make install` has pip refuse every package without a hash; here, that nothing declared is left out of the lock."""
    declared = re.findall(
        r'^\s*"([A-Za-z0-9._-]+)(?:\[\w+\])?[><=]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    locked = {re.sub(r"[._-]+", "-", n).lower() for n in re.findall(r"(?m)^([A-Za-z0-9._-]+)==", LOCKS[0].read_text())}
    assert len(declared) > 15
    assert {re.sub(r"[._-]+", "-", n).lower() for n in declared} <= locked
    make = (ROOT / "Makefile").read_text()
    installs = [line for line in make.splitlines() if "pip install" in line]
    assert installs
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation -e ." in line for line in installs)


def pins(lock):
    return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", lock.read_text()))


def named(requirements):
    return {re.match(r"[A-Za-z0-9._-]+", r)[0].lower() for r in requirements}


def test_a_service_is_installed_without_what_only_tests_and_development_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    installed = pins(SERVICE_LOCK)
    assert installed.items() <= pins(LOCKS[0]).items()  # the versions that are tested
    build = named(project["build-system"]["requires"])
    assert named([*project["project"]["dependencies"], *extras["cassandra"], *extras["postgresql"]]) <= set(installed)
    assert not (named(extras["dev"]) - build) & set(installed)
    assert not {"pytest", "mypy", "atheris", "scikit-learn", "pip", "setuptools"} & set(installed)
    recipe = (ROOT / "deploy" / "Containerfile").read_text()
    assert re.findall(r"-r /src/(\S+)", recipe) == [SERVICE_LOCK.name]


def test_an_image_is_built_from_the_sources_alone():
    """What is not allowed by name stays out of the builder: .git, .venv, demo/ with its keys, tests."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    everything, *allowed, compiled = lines
    assert (everything, compiled) == ("*", "**/__pycache__")
    assert set(allowed) == {f"!{name}" for name in (*SOURCES, SERVICE_LOCK.name)}
