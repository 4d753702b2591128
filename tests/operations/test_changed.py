"""What an operation has changed is named with its result, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.operations.test_promote import saved
from vdbackup.errors import Remedy, SessionUnusable, VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations import backup, delete, merge, opening, policy, promote, repair
from vdbackup.operations.changed import ANY, NOTHING, Changed
from vdbackup.operations.machines import Machines
from vdbackup.operations.relinking import relink
from vdbackup.recovery import relinking
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.sources.reference import SourceRef

__all__ = ["saved"]


@pytest.fixture
def two_points(lab: Lab) -> Lab:
    lab.backup()
    lab.poke(0, noise(512, 2))
    lab.backup()
    return lab


WORKS: dict[str, Callable[[Lab, Path], Any]] = {
    "backup": lambda lab, folder: backup.back_up(
        backup.BackupRequest(
            SourceRef.of_path(lab.image), lab.repository.path, same_source=True, set_name="disk"
        ),
        Machines(folder),
        Task(),
    ),
    "merge": lambda lab, folder: merge.run(
        merge.plan(lab.repository, "disk", lab.set.points[1].id), folder, Task()
    ),
    "delete": lambda lab, folder: delete.run(
        delete.plan(lab.repository, "disk", lab.set.points[1].id), folder, Task()
    ),
    "repair": lambda lab, folder: repair.run(lab.repository.path, folder, Task()),
    "finish": lambda lab, folder: opening.finish(lab.repository, folder, Task()),
}


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> VdbackupError:
    """Why no machine can be linked anew."""
    error = SessionUnusable("It fits no more.", "End it.", remedy=Remedy.END_SESSION, about="x1")

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(relinking, "relink_all", refuse)
    return error


@pytest.mark.parametrize("name", WORKS)
def test_what_goes_wrong_after_a_merge_is_in_the_result_with_its_remedy(
    two_points: Lab, tmp_path: Path, refusal: VdbackupError, name: str
) -> None:
    (tmp_path / "sessions").mkdir()
    assert WORKS[name](two_points, tmp_path / "sessions").trouble == (refusal,)


def test_what_goes_wrong_after_a_promotion_is_in_its_result(
    saved: SavedSession, refusal: VdbackupError
) -> None:
    result = promote.run(promote.plan(saved, not_running=True), Task())
    assert result.trouble == (refusal,)
    assert result.changed == Changed.only("disk")


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *((name, Changed.only("disk")) for name in ("backup", "merge", "delete")),
        ("repair", ANY),
        ("finish", NOTHING),
    ],
)
def test_a_result_names_the_sets_that_are_other_ones_now(
    two_points: Lab, tmp_path: Path, name: str, changed: Changed
) -> None:
    assert WORKS[name](two_points, tmp_path / "none").changed == changed


def test_a_merge_that_was_cut_off_has_changed_its_set(two_points: Lab, tmp_path: Path) -> None:
    two_points.merge_half(two_points.set.points[1])
    done = opening.finish(two_points.repository, tmp_path / "none", Task())
    assert (len(done.done), done.changed) == (1, Changed.only("disk"))


def test_a_policy_that_is_changed_changes_its_set(two_points: Lab) -> None:
    plan = policy.plan(two_points.repository, "disk", policy.Change(keep=5))
    assert policy.run(plan, Task()).changed == Changed.only("disk")


def test_a_repository_that_is_gone_by_then_is_no_failure(two_points: Lab, tmp_path: Path) -> None:
    (error,) = relink(tmp_path / "unplugged", tmp_path)
    assert "is not a repository of vdbackup" in error.title


def test_any_change_covers_all_others_and_one_covers_what_it_names():
    one, both = Changed.only("a"), Changed.only("a", "b")
    assert ANY.covers(both)
    assert both.covers(one)
    assert one.covers(NOTHING)
    assert not one.covers(both)
    assert not both.covers(ANY)
