"""No plaintext, handle or key in any output: a fault is raised in the middle of an open, and its mark is looked for."""

import subprocess
import sys
import textwrap

from .conftest import person

MARK = "Markedplaintext Qzx"


def test_an_exception_in_the_middle_of_an_open_shows_no_value_in_any_output(vault, connect, tmp_path):
    connect("importer", "intake").put("person", person(90_001, name=MARK))
    script = tmp_path / "app.py"
    script.write_text(
        textwrap.dedent(f"""
        import logging, sys
        logging.basicConfig(level=logging.DEBUG)
        import anwen
        from anwen.client import rows

        def broken(cell, content):
            assert content, "opened"
            raise ZeroDivisionError

        rows._named = broken
        with anwen.connect({str(vault.path)!r}, key="case_worker", purpose="casework") as clerk:
            (found,) = clerk.find("person", phone={person(90_001)["phone"]!r})
            print(found, clerk.session, clerk.asynchronous)
            clerk.open([found], ["identity"])
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert "ZeroDivisionError" in done.stderr
    handle = connect("case_worker", "casework").find("person", phone=person(90_001)["phone"])[0].subject
    logs = [p.read_text(errors="replace") for p in vault.path.rglob("process.log")]
    assert len(logs) == 4
    for text in (done.stderr, *logs):
        assert MARK not in text
        assert MARK.casefold() not in text.casefold()
        assert handle not in text
    assert MARK not in done.stdout
