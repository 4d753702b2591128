"""Kept writes folded into the point that was made of them: what came before it is thinned.

The point holds what its machine had written by then. So of what led there one consistent moment of
each minute is enough for most, or of as long as the set's policy says; what came behind the point's
moment stays write by write. The first moment, and the newest before the point's, always stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup.keep_moment import MomentPlan
from vdbackup.backup.moments_kept import MomentRules
from vdbackup.errors import VdbackupError, from_os
from vdbackup.jobs import Plan, Task
from vdbackup.operations import protection, thinning
from vdbackup.operations.thinning import ThinPlan
from vdbackup.repository.kept_logs import kept_log
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import WrittenPoint


@dataclass(frozen=True, kw_only=True)
class FoldPlan(Plan):
    """What making a point of a moment, and thinning what led there, would do.

    Attributes:
        point: the first of it.
        thins: the second.
    """

    point: MomentPlan
    thins: ThinPlan


@dataclass(frozen=True)
class Folded:
    """What came of it: bytes that the log is shorter by, and what went wrong, which costs no point.

    Then the log is as it was.
    """

    freed: int = 0
    trouble: tuple[VdbackupError, ...] = ()


def plan(
    repository: Repository,
    set_name: str,
    session: str,
    sessions_folder: Path,
    until: int | None = None,
) -> ThinPlan:
    """What folding a session's log into a point would do; raises as `thinning.plan`.

    Args:
        repository: where it is.
        set_name: beside which set.
        session: whose.
        sessions_folder: where this user's sessions lie.
        until: after which of its writes the point's moment is; None: after all of them.
    """
    backup_set = repository.set(set_name)
    kept = kept_log(backup_set.folder, session)
    rules = MomentRules(0, backup_set.settings.policy.writes.every)
    last = None if until is None else kept.protection.before + until
    return thinning.plan_by(repository, set_name, kept, sessions_folder, rules, until=last)


def plan_point(
    repository: Repository, set_name: str, moment: WrittenPoint, sessions_folder: Path
) -> FoldPlan:
    """What both would do of a moment; raises as `protection.plan_point` and `thinning.plan`."""
    point = protection.plan_point(repository, set_name, moment.id)
    thins = plan(repository, set_name, moment.log, sessions_folder, moment.write)
    return FoldPlan(
        summary=f"{point.summary} {thins.summary}",
        bytes_to_copy=point.bytes_to_copy + thins.bytes_to_copy,
        creates=point.creates,
        replaces=(*point.replaces, *thins.replaces),
        invalidates=(*point.invalidates, *thins.invalidates),
        point=point,
        thins=thins,
    )


def after(plan: ThinPlan | None, sessions_folder: Path, task: Task) -> Folded:
    """Do it once the point is there; nothing where none was planned."""
    if plan is None:
        return Folded()
    try:
        return Folded(thinning.run(plan, sessions_folder, task))
    except VdbackupError as error:  # cancelled, too: the point is there
        return Folded(trouble=(error,))
    except OSError as error:
        return Folded(trouble=(from_os(error),))
