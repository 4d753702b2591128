"""At which point something stopped working: found by checking a few of them.

Between a point that is good and a later one that is bad, the one in the middle is checked, and so
on: of a thousand points ten. That is right where what broke once stayed broken.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdbackup.errors import NoPoints, NothingFails
from vdbackup.jobs import Plan, Task
from vdbackup.recovery.checks import Check, Checked, Verdict
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr


@dataclass(frozen=True, kw_only=True)
class BisectPlan(Plan):
    """What would be checked.

    Attributes:
        repository: where the points are.
        set_name: their set.
        points: among which the first bad one is looked for, the oldest first.
        check: what tells good from bad.
    """

    repository: Repository
    set_name: str
    points: tuple[RecoveryPoint, ...]
    check: Check


@dataclass(frozen=True)
class BisectResult:
    """What was found.

    Attributes:
        first_bad: the first point that fails.
        last_good: the last one before it that does not; None where already the first one fails.
        untold: points between these two of which nobody can tell: any may be the first bad one.
        checked: all that were checked, in their order.
    """

    first_bad: RecoveryPoint
    last_good: RecoveryPoint | None
    untold: tuple[RecoveryPoint, ...]
    checked: tuple[Checked, ...]


def plan(
    repository: Repository,
    set_name: str,
    check: Check,
    first: str | None = None,
    last: str | None = None,
) -> BisectPlan:
    """Choose the points: those that were captured, from `first` to `last` (ids; None for the ends).

    Raises NoPoints where there are none; PointNotFound, RepositoryError.
    """
    backup_set = repository.set(set_name)
    begin = backup_set.point(first).sequence if first else 0
    end = backup_set.point(last).sequence if last else backup_set.settings.last_sequence
    points = tuple(
        each
        for each in backup_set.points
        if begin <= each.sequence <= end and each.promoted_from is None
    )
    if not points:
        raise NoPoints(
            tr("{set_name} has no points in between.", set_name=set_name),
            tr("Name an earlier one first, and a later one."),
        )
    steps = min(len(points), 2 + (len(points) - 1).bit_length())
    return BisectPlan(
        summary=tr(
            "Of {count} points of {set_name}, {point} to {point_2}, at most {steps} are checked, "
            "each in a minute or several.",
            count=len(points),
            set_name=set_name,
            point=points[0].sequence,
            point_2=points[-1].sequence,
            steps=steps,
        ),
        repository=repository,
        set_name=set_name,
        points=points,
        check=check,
    )


def run(plan: BisectPlan, task: Task) -> BisectResult:
    """Find the first bad point.

    Raises:
        NothingFails: the last point is good, or nobody can tell.
        RecoveryError: a check cannot be done at all. Cancelled.
    """
    search = _Search(plan, task)
    last = len(plan.points) - 1
    if search.verdict(last) is not Verdict.BAD:
        newest = plan.points[last]
        if search.verdict(last) is Verdict.UNKNOWN:
            raise NothingFails(
                tr(
                    "Whether point {newest} of {set_name} fails nobody can tell: {sentence}",
                    newest=newest.sequence,
                    set_name=plan.set_name,
                    sentence=search.checked[-1].sentence,
                ),
                tr("End at a point of which that can be told, or check in another way."),
            )
        raise NothingFails(
            tr(
                "Point {newest} of {set_name} does not fail: {sentence}",
                newest=newest.sequence,
                set_name=plan.set_name,
                sentence=search.checked[-1].sentence,
            ),
            tr("Look at a later point, or check for something else."),
        )
    good, bad = -1, last
    if last and search.verdict(0) is Verdict.GOOD:
        good = 0
    elif last and search.verdict(0) is Verdict.BAD:
        bad = 0
    while (middle := _middle(good, bad, search.untold)) is not None:
        match search.verdict(middle):
            case Verdict.GOOD:
                good = middle
            case Verdict.BAD:
                bad = middle
            case _:
                continue  # it is passed by from now on
    return BisectResult(
        plan.points[bad],
        plan.points[good] if good >= 0 else None,
        tuple(plan.points[each] for each in sorted(search.untold) if good < each < bad),
        tuple(search.checked),
    )


def _middle(good: int, bad: int, untold: set[int]) -> int | None:
    """What is checked next: the nearest to the middle of which something can be told."""
    left = [each for each in range(good + 1, bad) if each not in untold]
    return min(left, key=lambda each: abs(2 * each - good - bad), default=None)


class _Search:
    """What is known so far."""

    def __init__(self, plan: BisectPlan, task: Task) -> None:
        self.checked: list[Checked] = []
        self.untold: set[int] = set()
        self._plan, self._task = plan, task
        self._verdicts: dict[int, Verdict] = {}

    def verdict(self, number: int) -> Verdict:
        """Of the point at this position; each is checked once."""
        if number not in self._verdicts:
            plan, point = self._plan, self._plan.points[number]
            self._task.phase(tr("Checking point {point}", point=point.sequence))
            found = plan.check.check(plan.repository, plan.set_name, point, self._task)
            self.checked.append(found)
            self._verdicts[number] = found.verdict
            if found.verdict is Verdict.UNKNOWN:
                self.untold.add(number)
        return self._verdicts[number]
