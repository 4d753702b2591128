"""Whatever is done in whatever order, every recovery point reads as the disk was at its moment.

The model is plain: a bytearray for the disk, one copy of it for each recovery point.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.backup.lab import SIZE, Lab
from tests.crash.faults import power_cut
from tests.oracles import readers
from vdbackup.backup import merge
from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.errors import BackupError
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy

EDGES = st.sampled_from([0, BLOCK - 1, BLOCK, SIZE - BLOCK, SIZE - 512, SIZE - 1])


class Backups(RuleBasedStateMachine):
    """Writes, captures, merges, deletions and interruptions."""

    def __init__(self, disk_format: str, unit: int) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="vdbackup-machine-"))
        self.lab = Lab(self.folder, disk_format=disk_format, unit=unit)
        self.disk = bytearray(SIZE)
        self.states: dict[str, bytes] = {}

    @property
    def points(self) -> tuple[RecoveryPoint, ...]:
        return self.lab.set.points if self.states else ()

    def point(self, choice: int) -> RecoveryPoint:
        return self.points[choice % len(self.points)]

    # ------------------------------------------------------------------ the disk changes

    @rule(offset=st.one_of(EDGES, st.integers(0, SIZE - 1)), length=st.integers(1, 3 * BLOCK))
    def write_anywhere(self, offset: int, length: int) -> None:
        self.write(offset, length, fill=7)

    @rule(first=st.integers(0, 20), blocks=st.integers(1, 8), fill=st.sampled_from([0, 1, 255]))
    def write_whole_blocks(self, first: int, blocks: int, fill: int) -> None:
        self.write(first * BLOCK, blocks * BLOCK, fill)

    @rule(first=st.integers(0, SIZE // FINE_UNIT - 1), fill=st.integers(0, 255))
    def write_a_little(self, first: int, fill: int) -> None:
        self.write(first * FINE_UNIT, FINE_UNIT, fill)

    def write(self, offset: int, length: int, fill: int) -> None:
        data = bytes([fill]) * min(length, SIZE - offset)
        self.disk[offset : offset + len(data)] = data
        self.lab.poke(offset, data)

    # ------------------------------------------------------------------ it is backed up

    @rule(kind=st.sampled_from(["auto", "incremental", "differential", "full"]))
    def capture(self, kind: str) -> None:
        self.is_there(self.lab.backup(kind))

    def is_there(self, point: RecoveryPoint) -> None:
        self.states[point.id] = bytes(self.disk)
        assert self.lab.moments[point.id].read_bytes() == self.disk

    @precondition(lambda self: len(self.states) > 1)
    @rule(keep=st.integers(1, 4))
    def capture_and_keep_the_newest(self, keep: int) -> None:
        before = list(self.states)
        point = self.lab.backup(policy=Policy(keep))
        self.is_there(point)
        left = {each.id for each in self.points}
        newest = [*before, point.id][-keep:]
        assert set(newest) <= left, "a point that was to be kept is gone"
        self.states = {name: state for name, state in self.states.items() if name in left}
        self.lab.repository.set_policy("disk", Policy())

    # ------------------------------------------------------------------ points go

    def mergeable(self, child: RecoveryPoint) -> bool:
        return child.parent is not None and len(self.lab.set.children(child.parent)) == 1

    @precondition(lambda self: self.states)
    @rule(choice=st.integers(0, 50))
    def merge(self, choice: int) -> None:
        child = self.point(choice)
        if not self.mergeable(child):
            before = self.lab.files
            with pytest.raises(BackupError):
                self.lab.merge(child)
            assert self.lab.files == before
            return
        assert self.lab.merge(child).id == child.id
        assert child.parent
        del self.states[child.parent]

    @precondition(lambda self: self.states)
    @rule(choice=st.integers(0, 50), change=st.integers(0, 60))
    def merge_with_a_power_cut(self, choice: int, change: int) -> None:
        child = self.point(choice)
        if not self.mergeable(child):
            return
        with power_cut(change):
            self.lab.merge(child)
        offered = {each.id for each in self.points}
        if self.lab.set.journal:  # neither its old moment nor the new one meanwhile
            assert child.parent not in offered
            assert merge.recover(self.lab.repository, Task()).done
        assert child.parent
        if child.parent not in offered:
            del self.states[child.parent]

    @precondition(lambda self: len(self.states) > 1)
    @rule(choice=st.integers(0, 50))
    def delete(self, choice: int) -> None:
        point = self.point(choice)
        if len(self.lab.set.children(point.id)) > 1:
            with pytest.raises(BackupError):
                self.lab.delete(point)
            return
        self.lab.delete(point)
        del self.states[point.id]

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def every_point_reads_as_its_moment(self) -> None:
        """A point whose files are as they were is not read again (`asked.py`)."""
        assert [each.id for each in self.points] == list(self.states)
        if self.states:
            self.lab.check_offered(())

    def teardown(self) -> None:
        """At the end, readers that are not ours have their say."""
        try:
            raw = self.folder / "moment.raw"
            for point in self.points:
                raw.write_bytes(self.states[point.id])
                readers.assert_library_reads(self.lab.layer(point), raw, self.lab.disk_format)
                readers.assert_holds(self.lab.overlay(point), raw, self.lab.disk_format)
            if self.states:
                with self.lab.repository.lock("sweeping"):
                    merge.finish_interrupted(self.lab.repository, "disk", Task())
                self.lab.check_files()
        finally:
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("unit", [UNIT, FINE_UNIT])
def test_every_point_is_right_whatever_is_done(disk_format: str, unit: int) -> None:
    chosen = settings()
    if chosen.max_examples <= 100:  # the short form; tests/conftest.py has the long one
        chosen = settings(max_examples=12, stateful_step_count=20)
    run_state_machine_as_test(lambda: Backups(disk_format, unit), settings=chosen)
