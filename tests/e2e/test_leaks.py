"""No plaintext, handle or key in any output: a fault is raised in the middle of an open, and its mark is looked for."""

import subprocess
import sys
import textwrap

import pytest

from .conftest import person

MARK = "Markedplaintext Qzx"


REPORTER = """
import traceback
def hook(kind, error, trace):
    told = traceback.TracebackException(kind, error, trace, capture_locals=True)
    sys.stderr.write("".join(told.format(chain=True)))
sys.excepthook = hook
"""
"""What services do to which applications send their errors."""


@pytest.mark.parametrize("raised", ["ZeroDivisionError", "OpenError"])
@pytest.mark.parametrize("reporter", ["", REPORTER], ids=["python's own", "with locals"])
def test_an_exception_in_the_middle_of_an_open_shows_no_value_in_any_output(vault, connect, tmp_path, reporter, raised):
    number = 90_001 + 2 * bool(reporter) + (raised == "OpenError")
    connect("importer", "intake").put("person", person(number, name=MARK))
    script = tmp_path / "app.py"
    script.write_text(
        textwrap.dedent(f"""
        import logging, sys
        logging.basicConfig(level=logging.DEBUG)
        import anwen
        from anwen.client import rows
        from anwen.errors import OpenError

        def broken(cell, content):
            assert content, "opened"
            raise {raised}

        rows._named = broken
        with anwen.connect({str(vault.path)!r}, key="case_worker", purpose="casework") as clerk:
            (found,) = clerk.find("person", phone={person(number)["phone"]!r})
            print(found, clerk.session, clerk.asynchronous)
            clerk.open([found], ["identity"])
        """)
        + "\n"
    )
    script.write_text(script.read_text().replace("import anwen\n", f"import anwen\n{reporter}", 1))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert raised in done.stderr
    assert not reporter or "classes = " in done.stderr  # locals of the application's own frames
    assert not {line.strip().partition(" = ")[0] for line in done.stderr.splitlines()} & {
        "value",
        "dek",
        "body",
        "content",
    }
    handle = connect("case_worker", "casework").find("person", phone=person(number)["phone"])[0].subject
    logs = [p.read_text(errors="replace") for p in vault.path.rglob("process.log")]
    assert len(logs) == 4
    for text in (done.stderr, *logs):
        assert MARK not in text
        assert MARK.casefold() not in text.casefold()
        assert handle not in text or (reporter and text is done.stderr)  # the application's own `found` has it
    assert MARK not in done.stdout
