"""The first minutes: the demo is a week of points, made in seconds, to drag along."""

from __future__ import annotations

from pathlib import Path

from tests.gui.user import User
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.repository.repository import Repository


def test_the_demo_has_six_dated_points_with_a_merge_and_a_differential_and_no_warning(
    user: User,
) -> None:
    user.clicks("demoButton")
    user.sees_points(6)
    row = user.sees_job_end("Make a demo disk")
    assert row.sentence.endswith("with 6 points of a week.")
    assert user.window.sources.count() == 1
    points = user.window.panel.timeline.points
    assert [each.type for each in points].count(PointType.DIFFERENTIAL) == 1
    assert [bool(each.merged) for each in points].count(True) == 1
    assert len({each.created[:10] for each in points}) >= 6
    assert not any(each.warnings for each in points)
    entry = user.window.entry
    assert entry is not None
    assert entry.health is not None
    assert entry.health.findings == ()
    user.waits_until(lambda: "eady to boot" in user.window.machine.text)


def test_a_demo_that_is_there_is_shown_as_it_is(user: User) -> None:
    user.clicks("demoButton")
    user.sees_points(6)
    folder = user.window.store.locations.data / "demo" / "backups"
    before = kept(folder)
    user.window.backups.start_demo(folder.parent)
    user.sees_job_end("Make a demo disk")
    user.waits_until(lambda: len(user.window.jobs.rows) == 2)
    assert kept(folder) == before


def kept(folder: Path) -> tuple[RecoveryPoint, ...]:
    return Repository.open(folder).set().points
