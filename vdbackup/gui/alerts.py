"""Failures reach people: what went wrong while nobody looked at the window, and that it is over.

Never an alarm about nothing: one for each trouble, and one when it is over. Who looks at the window
sees it there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from vdbackup.gui import remedies
from vdbackup.gui.catalogue import Entry
from vdbackup.jobs import Job, JobState
from vdbackup.text import printable
from vdbackup.translation import tr

Trouble = tuple[str, ...]
"""What makes a trouble the same one as before."""
Notify = Callable[[str, str, str], None]


class Alerts:
    """Knows which troubles there are, and which of them the user was told of.

    Args:
        notify: tells something under a name: a title, and a text.
        looked_at: whether the user has the window in front.
    """

    def __init__(self, notify: Notify, looked_at: Callable[[], bool]) -> None:
        self._notify = notify
        self._looked_at = looked_at
        self._there: dict[Trouble, str] = {}
        self._told: set[Trouble] = set()

    def job_ended(self, job: Job[object]) -> None:
        """Tell of a job that has failed, and when one of the same title goes well again."""
        trouble = ("job", job.title)
        if job.state is JobState.FAILED and job.error:
            self._begin(trouble, tr("Failed: {job}", job=job.title), remedies.sentences(job.error))
        elif job.state is JobState.FINISHED:
            self._end(trouble)

    def look(self, entries: Iterable[Entry]) -> None:
        """Tell of what needs somebody in these sources; of one that is away nothing is known."""
        for entry in entries:
            if entry.health is None:
                continue
            which = (*entry.key, "health")
            found: dict[Trouble, str] = {
                (*which, each.about.value): each.sentence
                for each in entry.health.findings
                if each.needs_somebody
            }
            for trouble, sentence in found.items():
                self._begin(trouble, entry.title, sentence)
            gone = [each for each in self._there if each[:-1] == which and each not in found]
            for trouble in gone:
                self._end(trouble)

    def _begin(self, trouble: Trouble, title: str, sentence: str) -> None:
        if trouble in self._there:
            return
        self._there[trouble] = title
        if not self._looked_at():
            self._told.add(trouble)
            self._notify(_name(trouble), printable(title), printable(sentence))

    def _end(self, trouble: Trouble) -> None:
        title = self._there.pop(trouble, "")
        if trouble in self._told:
            self._told.remove(trouble)
            self._notify(_name(trouble), printable(title), tr("This is over."))


def _name(trouble: Trouble) -> str:
    """The same for the same trouble, so that the later word takes the place of the first."""
    return hashlib.sha256("\0".join(trouble).encode(errors="surrogateescape")).hexdigest()[:16]
