"""Jobs about what is kept between points: every write, or points every some seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vdbackup.backup.keep_moment import MomentPlan
from vdbackup.errors import NotProtected
from vdbackup.gui import remedies, words
from vdbackup.gui.jobs.outcome import Outcome, facts, said_of
from vdbackup.jobs import Task
from vdbackup.operations import (
    folding,
    near_continuous,
    protection,
    thinning,
    tracking,
    volume_protection,
)
from vdbackup.operations.backup import BackupResult
from vdbackup.operations.changed import Changed
from vdbackup.operations.folding import FoldPlan
from vdbackup.operations.machines import Machines
from vdbackup.operations.near_continuous import NearRequest, NearResult
from vdbackup.operations.protection import KeptMomentResult
from vdbackup.operations.thinning import ThinPlan
from vdbackup.operations.volume_protection import VolumeRequest, VolumeResult
from vdbackup.recovery.sessions.saved import SavedSession, saved_session
from vdbackup.repository.kept_logs import KeptLog
from vdbackup.repository.repository import Repository
from vdbackup.translation import grouped, tr, trn

MAX_WARNINGS = 6
"""Different ones that are said at the end: it may have gone on for days."""
NO_MORE = tr("No more writes are kept. Those until now can be used.")


def protect(folder: Path) -> str:
    """Keep every write of the machine that runs in a session's folder; what is to be said of it."""
    _, more = protection.protect(_session(folder))
    return tr("Every write is kept from now on.") + (f" {more}" if more else "")


def unprotect(folder: Path) -> str:
    """Keep no more of them."""
    protection.unprotect(_session(folder))
    return NO_MORE


def near_points(
    request: NearRequest,
    machines: Machines,
    task: Task,
    made: Callable[[], object],
    *,
    track: bool,
) -> Outcome[NearResult]:
    """Make points every so many seconds until that is ended, which is no failure.

    Args:
        request: of what, how often, how long.
        machines: what machines may use that are started for it.
        task: it waits between the points.
        made: is called, in this thread, when there is a point more.
        track: have the changes tracked first.
    """
    if track:
        tracking.begin(request.backup.source.path)
    warnings: list[str] = []

    def tell(told: near_continuous.Told) -> None:
        if told.trouble is not None:
            task.waits(tr("A point was left out: {why}", why=remedies.sentences(told.trouble)))
        elif told.made is not None:
            _add_warnings(warnings, told.made)
            made()
            point = told.made.point
            task.waits(
                tr(
                    "for the next change; point #{point}, {when}, is the newest.",
                    point=point.sequence,
                    when=words.when_exactly(point.created),
                )
            )

    done = near_continuous.run(request, machines, task, tell)
    said = trn(
        "{count} point was made; {unchanged} times nothing had changed.",
        "{count} points were made; {unchanged} times nothing had changed.",
        done.points,
        unchanged=grouped(done.unchanged),
    )
    return Outcome(said, (), tuple(warnings), value=done, changed=Changed.only(done.set_name))


def _add_warnings(warnings: list[str], made: BackupResult) -> None:
    for each in (*made.warnings, *said_of(made.trouble)):
        if each not in warnings and len(warnings) < MAX_WARNINGS:
            warnings.append(each)


def every_write(
    request: VolumeRequest,
    machines: Machines,
    task: Task,
    made: Callable[[], object],
    begun: Callable[[], object],
) -> Outcome[VolumeResult]:
    """Keep every write to a volume until that is ended, which is no failure.

    Args:
        request: to which, in how large a log, how long.
        machines: what machines may use that are started for its points.
        task: it waits while the log goes on.
        made: is called, in this thread, when there is a point more.
        begun: the same, when the log follows on it.
    """
    warnings: list[str] = []

    def tell(told: volume_protection.Told) -> None:
        if told.made is not None:
            _add_warnings(warnings, told.made)
            made()
        if told.begun is not None:
            begun()
        if told.logged is not None:
            task.waits(
                tr(
                    "for the next write; each is kept, and the log takes {used} of {limit}.",
                    used=words.size(told.logged.used),
                    limit=words.size(request.limit),
                )
            )

    done = volume_protection.run(request, machines, task, tell)
    record = done.kept.protection
    if record.ended_early:
        warnings.append(record.why)
    changed = Changed.only(done.kept.folder.name)
    return Outcome(NO_MORE, facts(done.point), tuple(warnings), value=done, changed=changed)


def end_every_write(volume: Path, repository: Path, _task: Task) -> Outcome[KeptLog | None]:
    """Keep no more writes to a volume, whoever began that."""
    ended = volume_protection.end_of(Repository.open(repository), volume)
    if ended is None:
        said = tr("No more writes are kept. Their log does not lie in this folder.")
        return Outcome(said, value=None)
    return Outcome(NO_MORE, value=ended, changed=Changed.only(ended.folder.name))


def _session(folder: Path) -> SavedSession:
    if (saved := saved_session(folder)) is None:
        raise NotProtected(tr("The machine has ended, and what it wrote is gone."))
    return saved


def keep_moment(plan: MomentPlan, sessions_folder: Path, task: Task) -> Outcome[KeptMomentResult]:
    """Make a recovery point of a moment."""
    made = protection.make_point(plan, sessions_folder, task)
    return Outcome(
        tr("Point #{point} is that moment.", point=made.point.sequence),
        facts(made.point),
        said_of(made.trouble),
        value=made,
        changed=made.changed,
    )


def fold_moment(plan: FoldPlan, sessions_folder: Path, task: Task) -> Outcome[KeptMomentResult]:
    """Make a recovery point of a moment, then thin what led there."""
    made = keep_moment(plan.point, sessions_folder, task)
    folded = folding.after(plan.thins, sessions_folder, task)
    said = tr("The log takes {size} less.", size=words.size(folded.freed))
    return replace(
        made,
        sentence=f"{made.sentence} {said}" if folded.freed else made.sentence,
        warnings=(*made.warnings, *said_of(folded.trouble)),
    )


def thin(plan: ThinPlan, sessions_folder: Path, task: Task) -> Outcome[int]:
    """Delete moments of a log that lie close together."""
    freed = thinning.run(plan, sessions_folder, task)
    sentence = tr("The log takes {size} less.", size=words.size(freed))
    return Outcome(sentence, value=freed, changed=Changed.only(plan.set_name))


def forget(plan: protection.ForgetPlan, sessions_folder: Path, _task: Task) -> Outcome[int]:
    """Delete what is kept of a session's machine."""
    freed = protection.forget(plan.repository, plan.set_name, plan.session, sessions_folder)
    sentence = tr("The writes are forgotten; {size} are free again.", size=words.size(freed))
    return Outcome(sentence, value=freed, changed=Changed.only(plan.set_name))
