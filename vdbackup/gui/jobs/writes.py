"""Jobs about every write of a machine: kept from now on or no more, kept as a point, forgotten."""

from __future__ import annotations

from pathlib import Path

from vdbackup.backup.keep_moment import MomentPlan
from vdbackup.errors import NotProtected
from vdbackup.gui import words
from vdbackup.gui.jobs.outcome import Outcome, facts, said_of
from vdbackup.jobs import Task
from vdbackup.operations import protection
from vdbackup.operations.changed import Changed
from vdbackup.operations.protection import KeptMomentResult
from vdbackup.recovery.sessions.saved import SavedSession, saved_session
from vdbackup.translation import tr


def protect(folder: Path) -> str:
    """Keep every write of the machine that runs in a session's folder; what is to be said of it."""
    _, more = protection.protect(_session(folder))
    return tr("Every write is kept from now on.") + (f" {more}" if more else "")


def unprotect(folder: Path) -> str:
    """Keep no more of them."""
    protection.unprotect(_session(folder))
    return tr("No more writes are kept. Those until now can be used.")


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
