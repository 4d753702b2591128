"""By which name, and since which moment, a tracker of changes knows a set."""

from __future__ import annotations

from vdbackup.jobs import Task
from vdbackup.repository import checked
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.moment import Follow
from vdbackup.translation import tr

_LETTERS = 40
"""Of a set's name, by which a tracker of changes knows it beside the repository's id."""


def name(repository: Repository, set_name: str) -> str:
    """What the tracker calls a set: two repositories may have one of the same name."""
    short = set_name[:_LETTERS].encode("ascii", "replace").decode()
    return tr("{short} in {id}", short=short, id=repository.id[:8])


def follow(
    repository: Repository, set_name: str, parent: RecoveryPoint | None, task: Task
) -> Follow:
    """Since when the set's next point needs to know what changed: since its parent's moment."""
    since = parent.reading.tracker if parent and parent.reading else None
    unknown = tr("the tracker does not know the point before") if parent and not since else ""
    before = (lambda: checked.opened(repository.set(set_name), parent)) if parent else None
    return Follow(name(repository, set_name), since, unknown, before, task)
