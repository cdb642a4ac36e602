"""A copy that is attacked is apart from the original in everything its processes use, or nothing is started."""

import json
import re

import pytest

import anwen
from anwen.errors import PolicyError
from anwen.rehearse.breach.scene import copied
from anwen.vault_folder import Shape, create


@pytest.fixture
def vault(tmp_path):
    return anwen.create(tmp_path / "v", "commerce").path


def store_at(vault, path):
    file = vault / "nodes" / "a" / "node.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"store": {"path": str(path)}}))


def refused(vault, tmp_path, words):
    with pytest.raises(PolicyError, match=re.escape(words)), copied(vault, tmp_path / "copy"):
        pytest.fail("it is attacked")


def test_a_copy_with_its_own_store_is_given(vault, tmp_path):
    with copied(vault, tmp_path / "copy") as folder:
        assert folder.path == tmp_path / "copy"


@pytest.mark.parametrize("place", ["../../../elsewhere.sqlite", "/var/lib/anwen/anwen.sqlite"])
def test_a_store_outside_the_folder_is_not_attacked(vault, tmp_path, place):
    store_at(vault, place)
    refused(vault, tmp_path, "node a: store: ")


def test_the_original_by_its_absolute_path_is_not_attacked(vault, tmp_path):
    store_at(vault, vault / "store" / "anwen.sqlite")
    refused(vault, tmp_path, f"{vault}/store/anwen.sqlite lies outside the copy; nothing was attacked")


def test_what_a_link_leads_to_is_not_attacked(vault, tmp_path):
    (vault / "keepers" / "b").rename(tmp_path / "another disk")
    (vault / "keepers" / "b").symlink_to(tmp_path / "another disk")
    refused(vault, tmp_path, f"keepers/b: {tmp_path}/another disk lies outside")


@pytest.mark.parametrize("engine", ["postgresql", "cassandra"])
def test_a_vault_on_servers_is_not_attacked(tmp_path, engine):
    vault = create(tmp_path / "s", "commerce", shape=Shape(engine=engine, store={"conninfo": "host=db.example"})).path
    refused(vault, tmp_path, f"node a: engine {engine}, whose servers")
