"""Jobs about what is kept between points: every write of a machine, points every some seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vdbackup.backup.keep_moment import MomentPlan
from vdbackup.errors import NotProtected
from vdbackup.gui import remedies, words
from vdbackup.gui.jobs.outcome import Outcome, facts, said_of
from vdbackup.jobs import Task
from vdbackup.operations import near_continuous, protection, tracking
from vdbackup.operations.changed import Changed
from vdbackup.operations.machines import Machines
from vdbackup.operations.near_continuous import NearRequest, NearResult
from vdbackup.operations.protection import KeptMomentResult
from vdbackup.recovery.sessions.saved import SavedSession, saved_session
from vdbackup.translation import grouped, tr, trn

MAX_WARNINGS = 6
"""Different ones that are said at the end: it may have gone on for days."""


def protect(folder: Path) -> str:
    """Keep every write of the machine that runs in a session's folder; what is to be said of it."""
    _, more = protection.protect(_session(folder))
    return tr("Every write is kept from now on.") + (f" {more}" if more else "")


def unprotect(folder: Path) -> str:
    """Keep no more of them."""
    protection.unprotect(_session(folder))
    return tr("No more writes are kept. Those until now can be used.")


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
            for each in (*told.made.warnings, *said_of(told.made.trouble)):
                if each not in warnings and len(warnings) < MAX_WARNINGS:
                    warnings.append(each)
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


def forget(plan: protection.ForgetPlan, sessions_folder: Path, _task: Task) -> Outcome[int]:
    """Delete what is kept of a session's machine."""
    freed = protection.forget(plan.repository, plan.set_name, plan.session, sessions_folder)
    sentence = tr("The writes are forgotten; {size} are free again.", size=words.size(freed))
    return Outcome(sentence, value=freed, changed=Changed.only(plan.set_name))
