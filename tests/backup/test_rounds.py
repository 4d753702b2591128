"""What has changed while a source was read is read again, and the point is as if it had been first.

The source says what that is; here a story does. How a device finds out: in_use/test_in_use.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest

from tests.backup.lab import SIZE, Lab
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import capture
from vdbackup.consistency import Consistency, How
from vdbackup.disks.extents import Ranges
from vdbackup.errors import Cancelled, NotFrozen, Unreadable
from vdbackup.jobs import CancelToken, Task
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint
from vdbackup.sources.disk_source import DiskSource
from vdbackup.sources.moment import Outcome, Wanted
from vdbackup.sources.source import OneReading

pytestmark = pytest.mark.each_format

Change = Callable[[], None]
BLOCKS = -(-SIZE // BLOCK)
STORED = SIZE - 6 * BLOCK
"""Bytes of the disk that are no hole (conftest.py)."""


class Story(OneReading):
    """Rounds in which the disk is changed as was written down before."""

    def __init__(self, source: DiskSource, *rounds: tuple[list[int], Change]) -> None:
        super().__init__(source)
        self._rounds = rounds

    def __iter__(self) -> Iterator[Ranges]:
        for blocks, change in self._rounds:
            change()
            starts = np.array(blocks, np.int64) * BLOCK
            yield np.stack([starts, np.minimum(BLOCK, SIZE - starts)], axis=1)

    def outcome(self) -> Outcome:
        return Outcome(Consistency(How.UNMOUNTED, rounds=len(self._rounds)))


def capture_in(
    lab: Lab, *rounds: tuple[list[int], Change], cancel: CancelToken | None = None
) -> RecoveryPoint:
    with open_path(lab.image) as source:
        source.rounds = lambda _=None: Story(source, *rounds)  # type: ignore[method-assign]
        plan = capture.plan(lab.repository, source, set_name="disk", disk_format=lab.disk_format)
        point = capture.run(plan, Task(cancel=cancel or CancelToken())).point
    lab.moments[point.id] = lab.folder / f"{point.id}.raw"
    shutil.copyfile(lab.image, lab.moments[point.id])
    return point


def test_what_changed_meanwhile_is_in_the_point(lab):
    lab.poke(16 * BLOCK, BLOCK)

    def change() -> None:
        lab.poke(BLOCK, noise(BLOCK, 2))  # other data
        lab.poke(3 * BLOCK, BLOCK)  # zeros in place of data
        lab.poke(16 * BLOCK, noise(BLOCK, 3))  # data in place of zeros
        lab.poke(-512, noise(512, 4))  # the last block, which is short

    point = capture_in(lab, ([1, 3, 16, BLOCKS - 1], change))
    assert point.reading.consistency.rounds == 1
    assert point.reading.read_bytes == STORED + 3 * BLOCK + SIZE % BLOCK
    lab.check_all()


def test_a_block_that_becomes_what_the_parent_has_again_reads_as_that(lab):
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(2 * BLOCK, 2))
    lab.poke(4 * BLOCK, 2 * BLOCK)

    def change() -> None:
        lab.poke(0, noise(9 * BLOCK, 1))

    capture_in(lab, ([1, 2, 4, 5, 6], change))
    lab.check_all()


def test_the_last_of_many_rounds_counts(lab):
    lab.poke(0, noise(SIZE, 1))
    lab.backup()
    random = Random(1)

    def changes(blocks: list[int]) -> Change:
        def change() -> None:
            for block in blocks:
                length = min(BLOCK, SIZE - block * BLOCK)
                kind, seed = random.randrange(3), random.randrange(1 << 30)
                data = (noise(length, seed), length, noise(SIZE, 1)[block * BLOCK :][:length])
                lab.poke(block * BLOCK, data[kind])

        return change

    chosen = [sorted(random.sample(range(BLOCKS), random.randrange(1, BLOCKS))) for _ in range(8)]
    capture_in(lab, *((blocks, changes(blocks)) for blocks in chosen))
    lab.check_all()
    assert lab.backup().stored_bytes == 0
    lab.check_all()


def test_what_was_lost_and_can_be_read_again_is_not_said_to_be_lost(lab):
    lab.poke(0, noise(9 * BLOCK, 1))
    good: list[int] = []

    class Failing(Story):
        def readinto(self, offset: int, view: memoryview) -> None:
            if not good and offset <= 2 * BLOCK < offset + len(view):
                raise Unreadable("a bad sector")
            super().readinto(offset, view)

    with open_path(lab.image) as source:
        source.rounds = lambda _=None: Failing(source, ([2], lambda: good.append(1)))  # type: ignore[method-assign]
        plan = capture.plan(lab.repository, source, set_name="disk", disk_format=lab.disk_format)
        point = capture.run(plan, Task()).point
    lab.moments[point.id] = lab.image
    assert (point.unreadable, point.warnings) == ((), ())
    lab.check_ours(point)


def test_cancelled_between_two_rounds_nothing_is_there(lab):
    lab.poke(0, noise(9 * BLOCK, 1))
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        capture_in(lab, ([1], lambda: None), ([2], cancel.cancel), cancel=cancel)
    assert lab.set.points == ()
    lab.check_files()


def test_an_image_that_nobody_writes_to_is_as_of_one_moment(lab):
    reading = lab.backup().reading
    assert reading.consistency.how is How.UNMOUNTED
    assert (reading.read_bytes, reading.changes_from) == (STORED, "scan")


def test_an_image_that_is_written_to_is_not_and_can_be_refused(lab):
    with open_path(lab.image) as source:
        lab.poke(0, noise(BLOCK, 1))
        plan = capture.plan(
            lab.repository, source, disk_format=lab.disk_format, consistency=Wanted.FROZEN
        )
        with pytest.raises(NotFrozen, match="was written to during the capture"):
            capture.run(plan, Task())
        plan = capture.plan(lab.repository, source, disk_format=lab.disk_format)
        made = capture.run(plan, Task())
    assert made.point.reading.consistency.how is How.AS_IS
    assert "was written to during the capture" in made.warnings[0]
