"""The real program, killed at random moments, loses no point; whoever comes next goes on.

Here a few rounds of each format, others in each; `python -m tests.crash.kills` does 200 of each.
The long form kills every kind of work, the short one those that do the most different things, which
stand first in the list.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import kills
from tests.crash.watch import Watch
from vdbackup.disks.formats import FORMATS
from vdbackup.repository import publication

SOME, ALL = 2, -(-len(kills.WORKS) // len(FORMATS))
"""Rounds of each format: together they kill eight kinds of work, or every kind."""


@pytest.mark.parametrize(
    ("formats", "count"),
    [
        pytest.param(("vmdk", "vhd"), SOME, id="vmdk-vhd-some"),
        pytest.param(("vhdx", "qcow2"), SOME, id="vhdx-qcow2-some"),
        *(pytest.param((n,), ALL, id=f"{n}-all", marks=pytest.mark.long) for n in FORMATS),
    ],
)
def test_no_point_is_lost_by_killing_the_program(
    tmp_path: Path, formats: tuple[str, ...], count: int
):
    rounds = []
    for name in formats:
        (tmp_path / name).mkdir()
        first = list(FORMATS).index(name) * count
        rounds.append(kills.tried(tmp_path / name, name, range(first, first + count)))
    assert [fault for each in rounds for fault in each.faults] == []
    assert sum(each.during for each in rounds) > 0, "; ".join(map(str, rounds))


def test_a_point_that_was_lost_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The checks after a kill see a layer that has changed, and one that is gone."""
    merge = next(n for n, work in enumerate(kills.WORKS) if work.name == "merge the newest")
    killed = kills.killed

    def harmed(work: kills.Work, lab: kills.Lab, *rest: object) -> object:
        ended = killed(work, lab, *rest)
        layer = lab.set_folder / lab.file("0005-full")
        layer.chmod(0o600)
        data = bytearray(layer.read_bytes())
        data[-(1 << 20)] ^= 1
        layer.write_bytes(data)
        return ended

    monkeypatch.setattr(kills, "killed", harmed)
    (fault,) = kills.tried(tmp_path, "vmdk", range(merge, merge + 1)).faults
    assert "point 5 reads wrong" in fault


def test_a_backup_that_is_killed_before_its_last_rename_is_finished_without_a_repair(
    tmp_path: Path, disk_format: str, monkeypatch: pytest.MonkeyPatch
):
    """A kill between the two last renames of a backup is too short a moment to wait for.

    In the first of these rounds all is done that any round does; that without a repair, too, goes
    on is not up to the format.
    """
    backup = next(n for n, work in enumerate(kills.WORKS) if work.name == "backup")

    def just_before_the_end(work: kills.Work, lab: kills.Lab, *_: object) -> tuple[bool, int]:
        kills.done(lab, *work.arguments(lab))
        manifest = lab.set_folder / "0006-incremental.json"
        manifest.rename(publication.in_flight(manifest))
        return True, 1

    monkeypatch.setattr(kills, "killed", just_before_the_end)
    times = kills.REPAIRED if disk_format == "vmdk" else 1
    numbers = range(backup, times * len(kills.WORKS), len(kills.WORKS))
    rounds = kills.tried(tmp_path, disk_format, numbers)
    assert rounds.faults == []
    assert rounds.during == times


def test_changes_are_counted_also_in_folders_that_are_new(tmp_path: Path):
    (tmp_path / "old").mkdir()
    with Watch(tmp_path) as watch:
        (tmp_path / ".lock").touch()
        watch.read()
        assert watch.count == 0
        (tmp_path / "new").mkdir()
        watch.read()
        (tmp_path / "old" / "a").touch()
        (tmp_path / "new" / "b").touch()
        (tmp_path / "new" / "b").unlink()
        watch.read()
        assert watch.count >= 4
