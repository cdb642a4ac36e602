"""Packages import only what lies below them, and a keeper's process loads only what it needs (docs/architecture.md)."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "anwen"

MAY_IMPORT = {  # package or module -> what it may import besides itself
    "errors": set(),
    "model": set(),
    "crypto": {"errors"},
    "formats": {"errors", "model", "crypto"},
    "policy": {"errors", "model", "formats.person_names"},
    "net": {"errors", "formats.problem"},
    "keeper": {"errors", "model", "crypto", "formats", "policy", "net"},
    "store": {"errors", "model", "formats"},
    "node": {"errors", "model", "crypto.grants", "crypto.padding", "formats", "policy", "store", "net"},
    "client": {"errors", "model", "crypto", "formats", "policy", "net"},
    "files": {"errors", "model", "formats"},
    "sample": {"errors", "files"},
    "vault_folder": {"errors", "model", "formats", "net.ports", "net.tls", "keeper.folder"},
    "supervisor": {"errors", "model", "formats", "keeper.peers", "keeper.folder", "vault_folder"},
    "embedded": {"errors", "model", "keeper", "node", "store", "supervisor", "vault_folder"},
    "access": {"errors", "client", "vault_folder", "embedded"},
    "signing": {"errors", "model", "formats", "net", "vault_folder"},
    "backup": {"errors", "model", "formats", "store", "client", "node"},
    "rehearse": {
        "errors", "model", "crypto", "client", "sample", "vault_folder", "supervisor", "signing", "access", "policy", "formats",
        "net", "store", "node", "backup",
    },
    "cli": {
        "errors", "model", "client", "files", "sample", "vault_folder", "supervisor", "signing", "access", "policy", "formats",
        "net", "backup", "rehearse",
    },
}  # fmt: skip

OPENS = {"crypto.prf", "crypto.prf_input", "crypto.dprf", "crypto.envelope", "crypto.blind_index"}
"""What can evaluate a key or open an envelope: out of reach for nodes and stores."""


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "anwen":
            base = node.module.removeprefix("anwen").lstrip(".")
            names = (
                [base]
                if (SOURCE / (base.replace(".", "/") + ".py")).exists()
                else [f"{base}.{a.name}" for a in node.names]
            )
            yield from (n.lstrip(".") for n in names)
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("anwen.") for a in node.names if a.name.startswith("anwen."))


def owner(path):
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


FILES = [p for p in SOURCE.rglob("*.py") if owner(p) != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_imports_only_what_lies_below(path):
    package = owner(path)
    assert package in MAY_IMPORT, f"{package} is not in the table"
    for name in imports_of(path):
        allowed = any(name == a or name.startswith(a + ".") for a in {package, *MAY_IMPORT[package]})
        assert allowed, f"{path.relative_to(SOURCE)} imports {name}"
        assert not (package in {"node", "store"} and name in OPENS), f"{package} must not open anything"


@pytest.mark.parametrize("package", ["crypto", "formats", "policy", "model"])
def test_pure_packages_touch_no_clock_no_socket_no_log(package):
    forbidden = {"time", "socket", "asyncio", "logging", "os", "random", "secrets", "subprocess", "ssl"}
    paths = [p for p in FILES if owner(p) == package]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & forbidden, path


@pytest.mark.parametrize("module", ["anwen.keeper.app", "anwen.node.app"])
def test_a_keeper_and_a_node_load_no_more_than_they_need(module):
    code = f"import sys; own = set(sys.modules); import {module}; print(*(m for m in sys.modules if m not in own))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    third_parties = {m.split(".")[0] for m in loaded} - sys.stdlib_module_names - {"anwen"}
    assert third_parties == {"cryptography", "numpy", "_cffi_backend", "_openssl"}, "what a keeper trusts is named here"
    assert not loaded & {"anwen.client", "anwen.formats.normalise", "anwen.files", "anwen.sample"}
    if module == "anwen.keeper.app":
        assert not loaded & {"anwen.node", "anwen.store", "sqlite3"}
    else:
        assert not loaded & {"anwen.keeper", *(f"anwen.{m}" for m in OPENS)}


SERVICES = ["keeper", "node", "net", "store", "policy", "formats", "crypto", "model", "errors"]


@pytest.mark.parametrize("path", [p for p in FILES if owner(p) in SERVICES], ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_switch_of_the_environment_and_no_flag_changes_what_a_service_does(path):
    """No variable makes a keeper lie, skips a pin or charges nothing: rehearsals and debuggers come from outside."""
    allowed = {"OPENBLAS_NUM_THREADS", "ANWEN_LOG"}  # threads that nobody needs; JSON or text
    text = path.read_text()
    tree = ast.parse(text)
    asked = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in {"environ", "environb", "getenv"}]
    for node in asked:
        line = text.splitlines()[node.lineno - 1]
        assert any(f'"{name}"' in line for name in allowed), f"{path}:{node.lineno}: {line.strip()}"
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not imported & {"argparse", "click", "pdb", "code", "cProfile", "faulthandler", "tracemalloc"}


def code_lines(path):
    """Lines that hold code: no blanks, comments or docstrings."""
    text = path.read_text()
    documentation = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return len({i for t in tokens if t.type not in layout for i in range(t.start[0], t.end[0] + 1)} - documentation)


def test_the_code_stays_small_enough_to_be_read_whole():
    # the aim was 8,000 and 1,500 for the vault on one machine. These are where it stands with three zones, two engines on
    # servers, operations, defences against lying keepers, nodes and floods, members made warm, junk in a store that
    # costs its own record alone, callers' bytes that no log takes for its own, figures of what is shed, of disks, silent
    # peers and lost members, and counts that end on a large store, imports in random order, answers that do not keep,
    # ports that nothing else takes, what was replaced and is read by no engine, roles of a database, puts that are stored
    # once under their key, values that are replaced while they are looked for, and mistakes of operators that are named
    # before they harm, keys of other keepers and missing ones among them: whoever raises them says for what.
    # Rehearsals and sample people are no part of a vault
    apart = ("rehearse", "sample")
    assert sum(code_lines(p) for p in FILES if owner(p) not in apart) < 15_600
    assert sum(code_lines(p) for p in FILES if owner(p) in apart) < 6_500
    assert sum(code_lines(p) for p in FILES if owner(p) == "keeper") < 2_055
    assert not {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 450}
