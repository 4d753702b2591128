"""The logs of writes beside a set as whoever draws them needs them: as arrays.

`protection.moments` lists moments one by one, for who reads; of a hundred thousand that takes long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vdbackup.disks.extents import Int64s
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.errors import VdbackupError, from_os
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.kept_logs import KeptLog, UnreadLog, since, survey
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import WrittenPoint, damage


@dataclass(frozen=True, eq=False)
class ReadLog:
    """A log, as it was when it was read. Writes are counted from the first after its point.

    Attributes:
        kept: where it lies, and whose it is.
        log: what is in it; None where it cannot be read.
        problem: why not.
        stored: bytes of storage that it takes.
        as_of: tells it from what it becomes when it is added to, or thinned.
    """

    kept: KeptLog
    log: WriteLog | None = None
    problem: VdbackupError | None = None
    stored: int = 0
    as_of: tuple[int, ...] = ()

    @property
    def session(self) -> str:
        """The id of the session whose writes it holds."""
        return self.kept.session

    @property
    def point_id(self) -> str:
        """Of the point that the writes lie behind."""
        return self.kept.protection.point

    @property
    def goes_on(self) -> bool:
        """Whether writes are still added."""
        return self.kept.protection.ended is None and self.problem is None

    @property
    def cut_short(self) -> str:
        """Why it holds less than it should, a sentence: it ended too early, or its end is lost."""
        if self.log is not None and self.log.lost:
            return damage(self.kept, self.writes)
        protection = self.kept.protection
        return protection.why if protection.ended_early else ""

    @property
    def set_back(self) -> int:
        """Up to when its times are in doubt, as the clock was set back, ns since 1970; 0: none."""
        return self.log.index.set_back if self.log is not None else 0

    @cached_property
    def writes(self) -> int:
        """How many there are, but for what is lost or not to be trusted."""
        return max(0, self.log.sound_writes - self._before) if self.log else 0

    @cached_property
    def thinned_until(self) -> int:
        """After which write the last moment is before which not every write is kept; 0: none."""
        return max(0, self.log.thinned_until - self._before) if self.log else 0

    def held(self, write: int, *, later: bool = False) -> int:
        """That write, or the nearest before it, or behind it, the moment after which is kept."""
        if self.log is None or not 0 < write < self.thinned_until:
            return write
        number = write + self._before
        find = self.log.oldest_at_or_behind if later else self.log.newest_at_or_before
        found = find(number)
        return max(0, (self._before if found is None else found) - self._before)

    @cached_property
    def moments(self) -> Int64s:
        """int64[n]: after which writes the state is consistent for certain, ascending, 0 first."""
        if self.log is None:
            return np.zeros(0, np.int64)
        own = self.log.flushes[self.log.flushed > 0] - self._before
        own = own[(own > 0) & (own <= self.writes)]
        return np.concatenate([np.zeros(1, np.int64), own])

    @cached_property
    def course(self) -> tuple[Int64s, Int64s]:
        """int64[n], int64[n]: how many writes there were, and when, ns since 1970; both ascend.

        What lies between two of these came between their times. Of writes that nobody has noted
        the time is not known: they are the last, a second behind what is.
        """
        begin = since(self.kept)
        if self.log is None:
            return np.zeros(1, np.int64), np.array([begin])
        counts, after, until = self.log.noted()
        counts = counts - self._before
        own = counts > 0
        counts, after, until = counts[own], after[own], until[own]
        starts = np.concatenate([[0], counts[:-1]]) if len(counts) else counts
        writes = np.concatenate([[0], np.stack([starts, counts], 1).ravel()])
        times = np.concatenate([[begin], np.stack([after, until], 1).ravel()])
        if self.writes > writes[-1]:
            writes = np.append(writes, [writes[-1], self.writes])
            times = np.append(times, [times[-1], max(times) + _UNKNOWN])
        return writes.astype(np.int64), np.maximum.accumulate(times.astype(np.int64))

    def moment(self, point: RecoveryPoint, write: int) -> WrittenPoint:
        """The moment after a write behind its point; raises as `WrittenPoint.of`, or `problem`."""
        if self.log is None:
            raise self.problem or ValueError(self.kept.path)
        return WrittenPoint.of(point, self.kept, self.log, write)

    @property
    def _before(self) -> int:
        return self.kept.protection.before


_UNKNOWN = 1_000_000_000


def read_logs(
    backup_set: BackupSet, known: Sequence[ReadLog] = ()
) -> tuple[tuple[ReadLog, ...], tuple[UnreadLog, ...]]:
    """The logs beside a set, oldest first; `known` ones are not read again where they have ended.

    But where they were thinned since.

    What cannot be read is there with its problem; beside them those of which nobody can tell whose
    they are.
    """
    before = {each.kept: each for each in known if not each.goes_on and each.problem is None}
    points = {each.id: each for each in backup_set.points}
    every = list(survey(backup_set.folder))
    logs = tuple(
        _known(before.get(kept)) or _read(kept, points.get(kept.protection.point))
        for kept in every
        if isinstance(kept, KeptLog)
    )
    return logs, tuple(each for each in every if isinstance(each, UnreadLog) and not each.left)


def _known(log: ReadLog | None) -> ReadLog | None:
    """What was read of a log, where that is as it was."""
    try:
        return log if log is not None and log.as_of == log.kept.as_of() else None
    except OSError:  # which is said when it is read
        return None


def _read(kept: KeptLog, point: RecoveryPoint | None) -> ReadLog:
    try:
        as_of = kept.as_of()
        log = kept.read()
        if point is not None:
            WrittenPoint.of(point, kept, log, 0)  # raises where they do not belong together
        return ReadLog(kept, log, stored=kept.stored, as_of=as_of)
    except VdbackupError as error:
        return ReadLog(kept, problem=error)
    except OSError as error:
        return ReadLog(kept, problem=from_os(error))
