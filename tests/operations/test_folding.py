"""Kept writes are folded into a point that is made of them: what stays reads as it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.lab import Lab, sha256
from tests.operations.test_thinning import WRITES, entries, lab, logged, offered, state, truth
from tests.oracles import qemu
from tests.repository.kept import SESSION, expected
from vdbackup.disks.write_log.thin import Thinning
from vdbackup.errors import NoSpace
from vdbackup.jobs import Task
from vdbackup.operations import folding, policy, protection
from vdbackup.operations.policy import Change
from vdbackup.repository.model import RecoveryPoint

__all__ = ["lab"]
MOMENT = 60
"""The write that a point is made of."""


def made_of(lab: Lab, tmp_path: Path, write: int) -> RecoveryPoint:
    _, moment = lab.repository.find_state(f"1@w{write}")
    plan = protection.plan_point(lab.repository, "disk", moment.id)
    return protection.make_point(plan, tmp_path / "sessions", Task()).point


def check_by_qemu(lab: Lab, tmp_path: Path, point: RecoveryPoint) -> None:
    """Raise where QEMU reads the point otherwise than as what the machine had written."""
    raw = tmp_path / "expected.raw"
    raw.write_bytes(expected(entries(), lab.moments[lab.set.points[0].id].read_bytes(), MOMENT))
    assert sha256(raw) == truth(lab, MOMENT)
    qemu.assert_holds(lab.set.disk_path(point), raw, lab.disk_format)


def test_what_led_to_the_point_is_thinned_and_what_came_after_stays_write_by_write(
    lab: Lab, tmp_path: Path
) -> None:
    kept = logged(lab)
    was, length = offered(lab), kept.path.stat().st_size
    plan = folding.plan(lab.repository, "disk", SESSION, tmp_path / "sessions", MOMENT)
    assert offered(lab) == was, "a plan does nothing"
    point = made_of(lab, tmp_path, MOMENT)
    folded = folding.after(plan, tmp_path / "sessions", Task())
    assert folded.trouble == ()
    assert folded.freed == length - kept.path.stat().st_size > 0
    now = [write for write, _ in offered(lab)]
    assert MOMENT in now
    assert [each for each in now if each > MOMENT] == [w for w, _ in was if w > MOMENT]
    assert len([each for each in now if each < MOMENT]) < len([w for w, _ in was if w < MOMENT])
    for write in (*now, *range(MOMENT, WRITES + 1)):
        assert state(lab, write) == truth(lab, write), write
    check_by_qemu(lab, tmp_path, point)


def test_how_close_together_they_may_lie_is_the_policys(lab: Lab, tmp_path: Path) -> None:
    logged(lab)
    policy.run(policy.plan(lab.repository, "disk", Change(moments_every=86400)), Task())
    plan = folding.plan(lab.repository, "disk", SESSION, tmp_path / "sessions")
    assert folding.after(plan, tmp_path / "sessions", Task()).trouble == ()
    there = [write for write, _ in offered(lab)]
    assert (there[0], there[-1], len(there) in (2, 3)) == (0, WRITES, True)
    for write in there:
        assert state(lab, write) == truth(lab, write)


def test_a_log_that_cannot_be_thinned_costs_the_point_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(lab)
    was = offered(lab)
    plan = folding.plan(lab.repository, "disk", SESSION, tmp_path / "sessions", MOMENT)
    point = made_of(lab, tmp_path, MOMENT)

    def full(*_: object) -> None:
        raise NoSpace("It is full.")

    monkeypatch.setattr(Thinning, "write", full)
    folded = folding.after(plan, tmp_path / "sessions", Task())
    assert [error.title for error in folded.trouble] == ["It is full."]
    assert offered(lab) == was
    check_by_qemu(lab, tmp_path, point)
