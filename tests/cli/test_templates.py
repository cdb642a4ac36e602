"""Every ready vault file takes the sample data made for it, through the command line."""

import pytest

from anwen.cli.failures import OK

PLAN = {
    "police": (("person", 40), ("incident", 80)),
    "commerce": (("customer", 40), ("order", 80), ("address", 40)),
    "devices": (("owner", 40), ("device", 60), ("reading", 200)),
}


@pytest.mark.parametrize("template", PLAN)
def test_sample_data_fits_its_template(anwen, tmp_path, template):
    vault = tmp_path / template
    assert anwen("init", vault, "--template", template, vault=tmp_path).code == OK
    assert anwen("policy", "check", vault=vault).code == OK
    people = PLAN[template][0][1]
    for collection, count in PLAN[template]:
        file = tmp_path / f"{collection}.ndjson"
        kind = f"{template}.{collection}"
        made = anwen("sample", kind, "--count", count, "--people", people, "--to", file, vault=vault)
        assert made.code == OK, made.err
        done = anwen("import", collection, file, "--as", "importer", "--embedded", "--json", vault=vault)
        assert done.code == OK, done.err
        assert (done.rows[0]["stored"], done.rows[0]["reasons"]) == (count, {}), file.with_name(
            file.name + ".rejects"
        ).read_text()
    assert anwen("sample", kind, "--to", file, vault=vault).code != OK  # nothing is overwritten
