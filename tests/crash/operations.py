"""Every operation that changes a repository, and what must hold when the storage failed in it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from tests.backup.lab import Lab
from tests.backup.once import once
from tests.crash.damage import lose_the_catalogue
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import adopt, convert, merge, repair
from vdbackup.disks.formats import FORMATS
from vdbackup.errors import NoSpace, PointNotFound, VdbackupError
from vdbackup.jobs import Job, Task, silent
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint

Act = Callable[[Lab], object]


@once
def two_points(lab: Lab) -> None:
    """A full, an incremental, and changes since."""
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(BLOCK, 2))
    lab.backup()
    lab.poke(2 * BLOCK, noise(3 * BLOCK, 3))
    lab.poke(-512, noise(512, 4))


def four_points(lab: Lab) -> None:
    """1 <- 2 <- 3, a full 4, and a disk that has changed since; the chain lies elsewhere, too."""
    _four_points(lab)
    shutil.copytree(lab.set_folder, lab.folder / "elsewhere")
    lab.poke(12 * BLOCK + 5, noise(BLOCK, 5))


@once
def _four_points(lab: Lab) -> None:
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(2 * BLOCK, 2))
    lab.poke(5 * BLOCK, BLOCK)
    lab.backup()
    lab.poke(2 * BLOCK, noise(2 * BLOCK, 3))
    lab.poke(-512, noise(512, 4))
    lab.backup()
    lab.backup("full")


def point(lab: Lab, sequence: int) -> RecoveryPoint:
    return next(each for each in lab.set.points if each.sequence == sequence)


def merged(lab: Lab) -> None:
    merge.recover(lab.repository, Task())
    if lab.set.points[0].sequence == 1:
        lab.merge(point(lab, 2))


def deleted(lab: Lab) -> None:
    with suppress(PointNotFound, StopIteration):
        lab.delete(point(lab, 3))


def converted(lab: Lab) -> None:
    names = list(FORMATS)
    other = names[(names.index(lab.disk_format) + 1) % len(names)]
    if "new" not in lab.repository.names():
        convert.run(convert.plan(lab.repository, "disk", other, "new"), Task())


def adopted(lab: Lab) -> None:
    if "new" not in lab.repository.names():
        with open_path(lab.folder / "elsewhere" / lab.file("0003-incremental")) as source:
            plan = adopt.plan(lab.repository, source, set_name="new")
            adopt.run(plan, Task())


def captured(lab: Lab) -> None:
    lab.capture("incremental")


def repaired(lab: Lab) -> None:
    repair.run(lab.repository.path, Task())


@dataclass(frozen=True)
class Operation:
    """An operation, what comes before it, and the points of "disk" that there may be at the end."""

    act: Act
    ends: tuple[list[int], ...]
    prepare: Act = lambda _: None
    new_set: bool = False


OPERATIONS = {
    "capture": Operation(captured, ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])),
    "merge": Operation(merged, ([2, 3, 4],)),
    "delete": Operation(deleted, ([1, 2, 4], [1, 2, 3, 4])),
    "convert": Operation(converted, ([1, 2, 3, 4],), new_set=True),
    "adopt": Operation(adopted, ([1, 2, 3, 4],), new_set=True),
    "repair": Operation(repaired, ([1, 2, 3, 4],), lose_the_catalogue),
}


def check_offered(lab: Lab) -> None:
    """All that is offered reads right; while a merge waits, what it concerns may be refused.

    A set is damaged only while a repair has not yet got to its catalogue.
    """
    sets, damaged = lab.repository.survey()
    assert all("set.json is missing" in each.problem.title for each in damaged)
    backup_set = next((each for each in sets if each.name == "disk"), None)
    for each in backup_set.points if backup_set else ():
        lab.moments.setdefault(each.id, lab.image)
        with suppress(VdbackupError) if backup_set and backup_set.journal else nullcontext():
            lab.check_ours(each)


def check_new_set(lab: Lab) -> None:
    """It is the same disks again."""
    by_number = {each.sequence: lab.moments[each.id] for each in lab.set.points}
    new = lab.repository.set("new")
    assert [each.sequence for each in new.points] == list(by_number)[: len(new.points)]
    for each in new.points:
        assert contents(new, each) == by_number[each.sequence].read_bytes()


def contents(backup_set: BackupSet, each: RecoveryPoint) -> bytes:
    data = bytearray(each.virtual_size)
    with backup_set.open_chain(each) as chain:
        chain.readinto(0, memoryview(data))
    return bytes(data)


def job(lab: Lab, act: Act) -> Job[object]:
    done = Job("Work", lambda _task: act(lab))
    done.run(silent)
    return done


def assert_said(failed: Job[object], number: int) -> None:
    """The error is one of the user's: what is wrong, and what to do."""
    error = failed.error
    assert type(error) is not VdbackupError, error
    assert error is not None
    assert error.title
    assert error.advice
    assert isinstance(error, NoSpace) == (number in (errno.ENOSPC, errno.EDQUOT)), error
