"""A chain that gets long is said with each backup, and in the list, before it hurts."""

from __future__ import annotations

import json

import pytest

from tests.noise import noise
from vdbackup import cli
from vdbackup.backup.differences import draft_above
from vdbackup.disks import chain
from vdbackup.disks.extents import as_ranges
from vdbackup.disks.transfer import each
from vdbackup.errors import ChainTooLong
from vdbackup.jobs import Task
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


@pytest.fixture
def most(monkeypatch):
    """Layers of which a chain is full: on two points lie an overlay, and a session's."""
    monkeypatch.setattr(long_chains, "MOST_LAYERS", 2)
    monkeypatch.setattr(chain, "MAX_LAYERS", 4)
    return 2


def test_what_lies_on_the_longest_chain_of_points_is_read():
    assert long_chains.MOST_LAYERS + 16 == chain.MAX_LAYERS


@pytest.mark.usefixtures("most")
@pytest.mark.parametrize("kind", ["auto", "incremental"])
def test_a_backup_onto_a_chain_that_is_full_is_a_full_one_and_says_why(lab, kind):
    lab.backup()
    lab.backup()
    lab.poke(0, noise(65536, 3))
    result = lab.capture(kind)
    assert result.point.type == "full"
    assert any("more are not read" in note for note in result.notes)
    lab.check_all()


@pytest.mark.usefixtures("most")
def test_nothing_else_is_put_on_a_chain_that_is_full(lab):
    lab.backup()
    point = lab.backup()
    with (
        pytest.raises(ChainTooLong, match="Point 2 of disk reads through 2 layers"),
        draft_above(lab.set, point, as_ranges([]), each(lambda *_: None), "", Task()),
    ):
        raise AssertionError
    assert not list(lab.set.folder.glob("*.partial"))
