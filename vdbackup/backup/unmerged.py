"""What a set's policy had to leave once a point was safe, noted in `set.json` until it could do it.

The backup has said so to whoever was there, and at night nobody is: who looks at the set later, by
whatever way, hears of it (operations/health.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from vdbackup.backup.retention import Applied
from vdbackup.errors import Cancelled, LockLost, PointInUse, VdbackupError, from_os
from vdbackup.records import MAX_SENTENCE
from vdbackup.repository.repository import Repository
from vdbackup.translation import original, tr

log = logging.getLogger(__name__)

MAX_NOTED = 6
"""Sentences: who reads of so many looks at the set."""
_PASSING = (Cancelled, LockLost, PointInUse)
"""What is no trouble of the set's, and over with the next backup."""


def after_point(
    repository: Repository, set_names: Sequence[str], apply: Callable[[], Applied]
) -> Applied:
    """Apply a policy now that a point is safe: what fails is a warning; the lock is held.

    Args:
        repository: where it is.
        set_names: whose policy that is: one set's, or a machine's.
        apply: does it.
    """
    try:
        applied = apply()
    except (VdbackupError, OSError) as error:
        applied = Applied((), (not_merged(error),))
        if isinstance(error, _PASSING):
            return applied
    note(repository, set_names, applied.damaged)
    return applied


def note(repository: Repository, set_names: Iterable[str], left: Sequence[str]) -> None:
    """Note in sets what their policy had to leave, a sentence each; the lock is held.

    Costs nothing that was done: what cannot be noted stands in the log.
    """
    said = sentences(left)
    for name in set_names:
        try:
            settings = repository.settings(name)
            if tuple(map(original, settings.unmerged or ())) != said:
                repository.save_settings(name, replace(settings, unmerged=said or None))
        except (VdbackupError, OSError):
            log.warning("what was not merged in %s is not noted", name, exc_info=True)


def sentences(left: Sequence[str]) -> tuple[str, ...]:
    """As they are noted: not too many, and in no language but the records'."""
    return tuple(original(each)[:MAX_SENTENCE] for each in left[:MAX_NOTED])


def not_merged(error: VdbackupError | OSError) -> str:
    """What is said where what follows a point has failed."""
    title = from_os(error).title if isinstance(error, OSError) else error.title
    return tr("The point is safe, but the older ones were not merged: {title}", title=title)
