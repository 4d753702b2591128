"""A chain that gets long is said with each backup, and in the list, before it hurts."""

from __future__ import annotations

import json

import pytest

from vdbackup import cli
from vdbackup.repository import long_chains


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(long_chains, "MANY_LAYERS", 3)


def test_a_backup_and_the_list_say_that_a_chain_is_long(lab, capsys):
    assert not any("layers" in note for _ in range(2) for note in lab.capture().notes)
    result = lab.capture()
    assert result.warnings == ()
    assert [note for note in result.notes if "reads through 3 layers" in note]
    cli.main(["list", "-r", str(lab.repository.path)])
    assert "Let the set keep fewer points" in capsys.readouterr().out
    cli.main(["list", "-r", str(lab.repository.path), "--json"])
    assert "3 layers" in json.loads(capsys.readouterr().out)["sets"][0]["long_chain"]


def test_a_new_full_ends_the_warning_of_a_long_chain(lab):
    for _ in range(3):
        lab.backup()
    assert long_chains.sentence(lab.set)
    lab.backup("full")
    assert long_chains.sentence(lab.set) == ""
