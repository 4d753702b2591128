"""Points of chosen files in each format: each is the tree at its moment, whatever is done after it.

That a point's disk is the tree the kernel says, and e2fsck. From then on a reader that is not ours
has to find that disk in the point's files, also once points were merged, and more were made.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from tests.oracles import readers
from tests.sources.file_sets.kept import check
from tests.sources.file_sets.test_state_machine import ANY, Trees
from tests.sources.file_sets.trees import same
from vdbackup.backup import merge
from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.errors import BackupError
from vdbackup.jobs import Task
from vdbackup.operations import backup, restore
from vdbackup.operations.machines import Machines
from vdbackup.recovery import verify
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets import blank
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.reference import Scheme, SourceRef

pytestmark = pytest.mark.usefixtures("as_root")

NAME = "chosen"


class Points(Trees):
    """The same trees, kept as points of a set, which are merged, verified and read by others."""

    def __init__(self, disk_format: str) -> None:
        super().__init__()
        self.format = disk_format
        self.moments: dict[str, Path] = {}

    @property
    def set(self) -> BackupSet:
        return Repository.open(self.folder / "backups").set(NAME)

    def layer_of(self, point: RecoveryPoint) -> Path:
        return self.set.disk_path(point)

    @initialize()
    def begin(self) -> None:
        """Nothing differs from no point, which a warning would say."""
        self.keep()

    @rule(kind=st.sampled_from(["auto", "auto", "auto", "full", "differential"]))
    def keep(self, kind: str = "auto") -> None:
        choice = Choice.of([os.fsdecode(self.root)])
        ref = SourceRef(Scheme.FILES, str(choice))
        where = self.folder / "backups"
        request = backup.BackupRequest(ref, where, kind=kind, disk_format=self.format)
        made = backup.back_up(request, Machines(self.folder / "sessions"), Task())
        assert made.warnings == ()
        self.kept.image = self.folder / f"{made.point.id}.raw"
        self.restore(made.point, self.kept.image)
        check(self.kept.image)
        with self.kept.mounted() as there:
            same(there, Path(os.fsdecode(self.root)))
        self.moments[made.point.id] = self.kept.image
        self.look()

    def restore(self, point: RecoveryPoint, target: Path) -> None:
        repository = Repository.open(self.folder / "backups")
        request = restore.RestoreRequest(repository, NAME, point.id, target)
        assert restore.run(restore.plan(request), Task()).warnings == ()

    @precondition(lambda self: len(self.moments) > 1)
    @rule(choice=ANY)
    def merge(self, choice: int) -> None:
        points = self.set.points
        child = points[choice % len(points)]
        repository = Repository.open(self.folder / "backups")
        if child.parent is None or len(self.set.children(child.parent)) > 1:
            with pytest.raises(BackupError):
                merge.plan(repository, NAME, child.id)
            return
        merge.run(merge.plan(repository, NAME, child.id), Task())
        del self.moments[child.parent]
        self.look()

    def look(self) -> None:
        """Each point is its moment, by a reader that is not ours."""
        assert [point.id for point in self.set.points] == list(self.moments)
        for point in self.set.points:
            raw = self.moments[point.id]
            readers.assert_library_reads(self.layer_of(point), raw, self.format)

    def teardown(self) -> None:
        """At the end each overlay is read by programs, too, and all is verified."""
        try:
            if self.moments:
                repository = Repository.open(self.folder / "backups")
                for point in self.set.points:
                    overlay = self.set.overlay_path(point)
                    readers.assert_processes_read(overlay, self.moments[point.id], self.format)
                verdicts = verify.run(verify.plan(repository, NAME), Task())
                assert [verdict.findings for verdict in verdicts] == [()] * len(self.moments)
        finally:
            super().teardown()


@pytest.fixture(autouse=True)
def _small_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that are not ours read all of a disk."""
    monkeypatch.setattr(blank, "LEAST", 128 << 20)


def machine(disk_format: str, examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        lambda: Points(disk_format),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=checks,
        ),
    )


def test_any_point_of_files_is_the_tree_at_its_moment(
    disk_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blank, "unit_for", lambda *_: FINE_UNIT)
    machine(disk_format, 2, 20)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("unit", [UNIT, FINE_UNIT])
def test_any_of_many_points_of_files_is_the_tree_at_its_moment(
    disk_format: str, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blank, "unit_for", lambda *_: unit)
    machine(disk_format, 30, 50)
