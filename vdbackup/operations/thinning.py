"""Thin the writes that are kept of a machine: all of its last time stay, then one moment each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdbackup.backup.moments_kept import MomentRules, kept_alone
from vdbackup.backup.space import RESERVE
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.disks.write_log.thin import Thinning
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.errors import Damaged, NotProtected, PlanOutdated, Remedy, UsageError
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.operations.protection import check_may_go
from vdbackup.repository.files import check_space, remove
from vdbackup.repository.kept_logs import KeptLog, kept_log
from vdbackup.repository.policy import MOMENTS_EVERY, WRITES_WITHIN
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import damage
from vdbackup.translation import grouped, tr

WITHIN, EVERY = WRITES_WITHIN, MOMENTS_EVERY
"""Seconds, of what stays where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ThinPlan(Plan):
    """What thinning a log would do.

    Attributes:
        thinning: how; None where all of it stays.
        kept: the log.
        going: numbers of the consistent moments that go, counted as the log does.
    """

    repository: Repository
    set_name: str
    kept: KeptLog
    thinning: Thinning | None
    going: frozenset[int] = frozenset()

    @property
    def frees(self) -> int:
        """Bytes that the log becomes shorter by, at least."""
        return self.thinning.log.entries.end - self.thinning.length if self.thinning else 0


def plan(
    repository: Repository,
    set_name: str,
    session: str,
    sessions_folder: Path,
    within: int = WITHIN,
    every: int = EVERY,
) -> ThinPlan:
    """What thinning the writes that are kept of a session's machine would do.

    Args:
        repository: where they are.
        set_name: beside which set.
        session: whose.
        sessions_folder: where this user's sessions lie.
        within: seconds before its end of which every write stays.
        every: seconds of which one consistent moment stays before, the newest.

    Raises:
        NotWritten: none are kept. PointInUse: they still come, or somebody reads them.
        NotProtected: they are damaged. DiskError, RepositoryError, OSError: they cannot be read.
    """
    if within < 0 or every < 1:
        raise UsageError(
            tr("That is no time."), tr("Give seconds, and one at least between two moments.")
        )
    kept = kept_log(repository.set(set_name).folder, session)
    return plan_by(repository, set_name, kept, sessions_folder, MomentRules(within, every))


def plan_by(
    repository: Repository,
    set_name: str,
    kept: KeptLog,
    sessions_folder: Path | None,
    rules: MomentRules,
    least: float = 0.0,
    until: int | None = None,
) -> ThinPlan:
    """What thinning a log by some rules would do; raises as `plan`.

    Args:
        repository: where it is.
        set_name: beside which set.
        kept: the log.
        sessions_folder: where this user's sessions lie; None where nobody looks there.
        rules: what stays.
        least: what part of the log has to be given back at least; else all of it stays.
        until: number of the write behind which all stays, whatever the rules say; None: of none.
    """
    check_may_go(repository.set(set_name), kept, sessions_folder)
    log = kept.read()
    if log.lost:
        raise NotProtected(
            damage(kept, max(0, log.sound_writes - kept.protection.before)),
            tr("It is left as it is."),
            remedy=Remedy.LIST_MOMENTS,
        )
    moments = consistent(log, kept.protection.before)
    if until is not None:
        moments = [each for each in moments if each[0] <= until]
    alone = kept_alone(moments, rules, log.thinned_until, untimed(log))
    thinning = Thinning.of(log, [kept.protection.before, *alone]) if alone else None
    if thinning is not None and thinning.length >= log.entries.end * (1 - least):
        thinning = None
    return ThinPlan(
        summary=_summary(kept, log, thinning),
        bytes_to_copy=thinning.length if thinning else 0,
        replaces=(kept.path.name, kept.index.name) if thinning else (),
        invalidates=(_gone(log, thinning),) if thinning else (),
        repository=repository,
        set_name=set_name,
        kept=kept,
        thinning=thinning,
        going=_going(log, thinning) if thinning else frozenset(),
    )


def consistent(log: WriteLog, before: int) -> list[tuple[int, int]]:
    """The moments behind a log's first that are consistent for certain: their numbers, and when."""
    found = zip(log.flushes.tolist(), log.flushed.tolist(), strict=True)
    return [(number, time) for number, time in found if time > 0 and number > before]


def untimed(log: WriteLog) -> frozenset[int]:
    """Of each note that was made after the clock was set back its last consistent moment.

    All of them have one time (`Index.set_back`), and came some second or some hour apart.
    """
    index = log.index
    note = np.searchsorted(index.ends, log.flush_entries, "right")
    known = note < len(index.ends)
    note, numbers = note[known], log.flushes[known]
    last = np.append(note[1:] != note[:-1], True)[: len(note)]
    doubt = (index.since == index.until) & (index.until > 0)
    return frozenset(numbers[last & doubt[note]].tolist())


def _going(log: WriteLog, thinning: Thinning) -> frozenset[int]:
    """Which consistent moments go."""
    there = log.flushes[log.flushed > 0]
    last = thinning.numbers[-1]
    return frozenset(there[there <= last].tolist()) - set(thinning.numbers)


def _moments(log: WriteLog, thinning: Thinning) -> tuple[int, int]:
    """How many consistent moments go, and how many there are."""
    return len(_going(log, thinning)), int((log.flushed > 0).sum())


def _gone(log: WriteLog, thinning: Thinning) -> str:
    going, every = _moments(log, thinning)
    return tr(
        "{going} of {every} consistent moments, and each between them", going=grouped(going),
        every=grouped(every),
    )  # fmt: skip


def _summary(kept: KeptLog, log: WriteLog, thinning: Thinning | None) -> str:
    title = kept.protection.title
    if thinning is None:
        return tr("Nothing of the kept writes of {title} is to go.", title=title)
    going, every = _moments(log, thinning)
    return tr(
        "The kept writes of {title} become {size} of {before} long: {going} of {every} consistent "
        "moments go, and what lies between; all behind write {last} stays.",
        title=title,
        size=readable_size(thinning.length),
        before=readable_size(log.entries.end),
        going=grouped(going),
        every=grouped(every),
        last=grouped(thinning.numbers[-1] - kept.protection.before),
    )


def run(plan: ThinPlan, sessions_folder: Path | None, task: Task) -> int:
    """Do it; how many bytes the log is shorter. If it fails, the log is as it was.

    Raises as `plan`; PlanOutdated where the log is another one by now, NoSpace, Damaged.
    """
    thinning, kept = plan.thinning, plan.kept
    if thinning is None:
        return 0
    repository = plan.repository
    doing = tr("thinning the kept writes of {title}", title=kept.protection.title)
    with repository.lock(doing, task.cancel):
        backup_set = repository.set(plan.set_name)
        check_holds(plan, sessions_folder)
        with kept.alone():
            kept.settle()
        check_space(backup_set.folder, thinning.length + RESERVE, tr("Thinning kept writes"))
        for each in (kept.new_log, kept.new_index):
            remove(each)
        try:
            thinning.write(kept.new_log, kept.new_index, task)
            if not thinning.is_kept_by(kept.new_log, kept.new_index, task):
                raise Damaged(
                    tr(
                        "What {title} wrote reads otherwise when it is thinned.",
                        title=kept.protection.title,
                    ),
                    tr("All stays as it was. Have the storage checked."),
                )
            for each in (kept.new_log, kept.new_index):
                give_to_owner_of_folder(each)
            task.check()
            _put_in_place(plan, sessions_folder)
        except BaseException:
            _clear_away(kept)
            raise
    return thinning.log.entries.end - kept.path.stat().st_size


def check_holds(plan: ThinPlan, sessions_folder: Path | None) -> None:
    """Raise PlanOutdated where the log is another one by now, and what `check_may_go` raises."""
    backup_set = plan.repository.set(plan.set_name)
    now = kept_log(backup_set.folder, plan.kept.session)
    check_may_go(backup_set, now, sessions_folder)
    if now != plan.kept or (plan.thinning and not now.read().is_as(plan.thinning.log)):
        raise PlanOutdated(
            tr("The kept writes of {title} are others now.", title=plan.kept.protection.title),
            tr("Look at what would be done now, and decide again."),
        )


def _put_in_place(plan: ThinPlan, sessions_folder: Path | None) -> None:
    """Give the new log its name, unless the old one is wanted by now.

    To write it may take minutes. Its session may have been opened again meanwhile: what QEMU then
    writes to the old file would be lost with it.
    """
    with plan.kept.alone():
        check_holds(plan, sessions_folder)
        plan.kept.replace_by_new()


def _clear_away(kept: KeptLog) -> None:
    """Remove what was made; not the notes of a log that has its name already."""
    if os.path.lexists(kept.new_log):
        for each in (kept.new_index, kept.new_log):
            remove(each)
