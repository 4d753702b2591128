"""What has changed between points, found out in the background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.gui import words
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.jobs import Task
from vdbackup.operations import bisect as bisecting
from vdbackup.operations.bisect import BisectResult
from vdbackup.operations.changed import Changed
from vdbackup.recovery.checks import Check
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    from vdbackup.recovery.history.differences import Differences
    from vdbackup.recovery.history.find import Search
    from vdbackup.recovery.history.owners import Sizes


def sizes(folder: Path, set_name: str, point_id: str, keys: Keys, task: Task) -> Sizes:
    """Whose the bytes are that a point holds itself."""
    from vdbackup.recovery.history import owners

    return owners.sizes(Repository.open(folder), set_name, point_id, "/", task, keys)


def differences(
    folder: Path, set_name: str, ids: tuple[str, str], keys: Keys, task: Task
) -> Differences:
    """Which files differ between two points."""
    from vdbackup.recovery.history import differences

    return differences.differences(Repository.open(folder), set_name, ids, "/", task, keys)


def find(
    folder: Path,
    set_name: str,
    text: str,
    where: Callable[[str, str], Path],
    keys: Keys,
    task: Task,
) -> Search:
    """Files by name in all points of a set; `where` as `Locations.names_file`."""
    from vdbackup.recovery.history import find

    repository = Repository.open(folder)
    file = where(repository.id, set_name)
    return find.find(repository, set_name, find.Pattern.typed(text), file, task, keys)


def bisect(
    folder: Path, set_name: str, check: Check, between: tuple[str, str], task: Task
) -> Outcome[BisectResult]:
    """Find the first point that a check calls bad."""
    plan = bisecting.plan(Repository.open(folder), set_name, check, *between)
    found = bisecting.run(plan, task)
    bad, good = found.first_bad, found.last_good
    sentence = tr(
        "The first point that fails is #{bad}, {created}.",
        bad=bad.sequence,
        created=words.when(bad.created),
    )
    if good is None:
        sentence = tr(
            "Already #{bad} fails, {created}: none is before it.",
            bad=bad.sequence,
            created=words.when(bad.created),
        )
    checked = tuple(
        f"#{each.point.sequence}: {tr(each.verdict)}. {each.sentence}" for each in found.checked
    )
    numbers = ", ".join(f"#{each.sequence}" for each in found.untold)
    untold = (
        tr("Of {numbers} nobody can tell, and any may be the first that fails.", numbers=numbers),
    )
    return Outcome(
        sentence,
        checked,
        untold if found.untold else (),
        value=found,
        changed=Changed.only(set_name),  # that they boot, or do not, is noted in the points
    )
