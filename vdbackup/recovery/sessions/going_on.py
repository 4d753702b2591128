"""A log of every write is gone on with, when its machine runs again.

What the machine's disk holds by then need not be what its log ends with: it may have run without
the log meanwhile, QEMU may have been killed between the two writes, and discards pass the log by.
So both are read, and where they differ the disk's bytes are written into the log, behind a mark and
with a flush behind them. From there on the log is what the machine does, and all its moments stay.

Behind its last note a log may hold anything, once this computer has been without power since: that
end is cut off. Within the same run of the kernel what was written is there, noted or not, and so is
all of one that came to its end. Where notes are lost that no power cut takes, nothing is cut off,
and nothing added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, runs_of, total, union
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.disks.transfer import pieces
from vdbackup.disks.write_log import begin
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.errors import NotProtected, Remedy
from vdbackup.jobs import readable_size
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.kept_logs import Cause, KeptLog
from vdbackup.repository.lease import Lease
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import damage
from vdbackup.translation import grouped, tr, trn

MARK = b"opened again"
"""Text of the mark before what the log had missed."""


def this_boot() -> str:
    """The id of the kernel's run, "" where it has none."""
    return Lease.of_this_process("").boot


def goes_on_by_itself(kept: KeptLog) -> bool:
    """Whether a log ended only because its machine did, or nobody said that it had ended."""
    return kept.protection.ended is None or kept.protection.cause == Cause.MACHINE


@dataclass(frozen=True)
class GoneOn:
    """What was done to a log before its machine goes on.

    Attributes:
        kept: its record as it is to be; it is not saved yet.
        writes: that it had until then.
        lost: how many more it seemed to have, which nobody had noted before this computer ended.
        missed: how many were added.
    """

    kept: KeptLog
    writes: int
    lost: int
    missed: int

    @property
    def sentence(self) -> str:
        """For a person."""
        lost = (
            trn(
                " Its last write, which nobody had noted before this computer ended, is not kept.",
                " Its last {count} writes, which nobody had noted before this computer ended, are "
                "not kept.",
                self.lost,
            )
            if self.lost
            else ""
        )
        return tr(
            "Every write is kept again: its log goes on behind write {writes}.{lost}",
            writes=grouped(self.writes),
            lost=lost,
        )


def go_on(
    kept: KeptLog,
    backup_set: BackupSet,
    point: RecoveryPoint,
    session_disk: Path,
    limit: int | None = None,
    most: int | None = None,
) -> GoneOn:
    """Bring a log to what its machine's disk holds now; nobody writes to either.

    Args:
        kept: the log.
        backup_set: beside which it lies.
        point: on which it lies.
        session_disk: the machine's own.
        limit: bytes that the log may take from now on; None: as before.
        most: bytes that may be compared; None: however many there are.

    Raises:
        NotProtected: it is damaged, or takes too much. RepositoryError, DiskError, OSError: it, or
        a disk, cannot be read or written.
    """
    record = kept.protection
    kept.settle()
    log = kept.read()
    limit = record.limit if limit is None else limit
    _check(kept, log, limit)
    same_run = bool(record.boot) and record.boot == this_boot()
    all_there = same_run or kept.is_written_out
    if not all_there and log.index.damaged:
        raise _without_notes(kept)
    count = len(log.entries) if all_there else log.proven
    writes = log.number_after(count)
    with ExitStack() as stack:
        was = stack.enter_context(
            Chain.topped(backup_set.open_machine_disk(point), log.disk(writes))
        )
        machine = stack.enter_context(
            Chain.topped(
                backup_set.open_machine_disk(point), Qcow2Disk.open_knowing_parent(session_disk)
            )
        )
        below = len(was.layers) - 1
        held = union(was.held_from(below), machine.held_from(below))
        if most is not None and total(held) > most:
            raise NotProtected(
                tr(
                    "{title} has written {size}, which would have to be compared with its log "
                    "while it waits; {size_2} are the most.",
                    title=record.title,
                    size=readable_size(total(held)),
                    size_2=readable_size(most),
                ),
                tr("End it, and open it again."),
            )
        try:
            missed = begin.go_on(log, count, _differences(was, machine, held, log), MARK)
        except BlockingIOError as error:
            raise NotProtected(
                tr("The kept writes of {title} are just being thinned.", title=record.title),
                tr("End it, and open it again."),
            ) from error
    record = replace(record, ended=None, why="", cause="", limit=limit, boot=this_boot())
    done = writes - record.before
    return GoneOn(replace(kept, protection=record), done, log.writes - writes, missed)


def _without_notes(kept: KeptLog) -> NotProtected:
    """Nobody can tell where the end begins that a power cut may have left: none is cut off."""
    return NotProtected(
        tr(
            "{path} is damaged or missing, so nobody knows which writes of {title} had been "
            "written out.",
            path=kept.index,
            title=kept.protection.title,
        ),
        tr("Make points of the moments that matter, then have these writes forgotten."),
        remedy=Remedy.FORGET_WRITES,
        about=kept.session,
    )


def _check(kept: KeptLog, log: WriteLog, limit: int) -> None:
    """Raise NotProtected where a log cannot be gone on with."""
    if log.lost:
        raise NotProtected(
            damage(kept, max(0, log.sound_writes - kept.protection.before)),
            tr("Make points of the moments that matter, then have these writes forgotten."),
            remedy=Remedy.FORGET_WRITES,
            about=kept.session,
        )
    if kept.stored >= limit:
        raise NotProtected(
            tr(
                "The kept writes of {title} take {size}, and {limit} is their limit.",
                title=kept.protection.title,
                size=readable_size(kept.stored),
                limit=readable_size(limit),
            ),
            tr("Set a higher limit, or have the old writes forgotten."),
            remedy=Remedy.FORGET_WRITES,
            about=kept.session,
        )


def _differences(was: Chain, machine: Chain, held: Ranges, log: WriteLog) -> Iterator[begin.Piece]:
    """What of the machine's disk differs from what its log says, in whole sectors of that."""
    sector = log.entries.sector_size
    for offset, length in pieces(held, begin.AT_ONCE):
        old, new = bytearray(length), bytearray(length)
        was.readinto(offset, memoryview(old))
        machine.readinto(offset, memoryview(new))
        if old == new:
            continue
        pair = [np.frombuffer(each, np.uint8).reshape(-1, sector) for each in (old, new)]
        for first, end in runs_of((pair[0] != pair[1]).any(axis=1)):
            data = bytes(new[first * sector : end * sector])
            place = offset + first * sector
            yield place, data if any(data) else b"", len(data)
