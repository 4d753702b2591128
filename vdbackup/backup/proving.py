"""A tracked source read as a whole all the same, so that what its tracker says is proven.

What a tracker has missed is in no point that was made by it, and nobody sees that. So every so many
backups one reads everything: what differs from the point before without being marked was missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vdbackup.backup.comparison import Unmarked, doubt
from vdbackup.backup.differences import Seen
from vdbackup.disks.extents import Ranges, as_ranges
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import ChangesFrom, RecoveryPoint
from vdbackup.repository.policy import Policy
from vdbackup.sources.source import Rounds
from vdbackup.translation import grouped, tr


def unproven(point: RecoveryPoint | None) -> int:
    """How many points after each other hold what a tracker said, up to this one."""
    if point is None or point.reading is None:
        return 0
    tracked = point.reading.changes_from is ChangesFrom.TRACKER
    return max(1, point.reading.unproven) if tracked else 0  # older versions did not count


def why_all(backup_set: BackupSet, policy: Policy, *, asked: bool) -> str:
    """Why the next backup reads everything, to be put behind "because"; "" where it need not."""
    if asked:
        return tr("it was asked for")
    every = policy.read_all_every
    if every is None or unproven(backup_set.latest_captured()) + 1 < every:
        return ""
    return tr("{every} backup reads everything, as a proof", every=nth(every))


def nth(number: int) -> str:
    """Which one of so many: "every 2nd", "every 10th", "each"."""
    if number == 1:
        return tr("each")
    of_ten = 0 if number % 100 in (11, 12, 13) else number % 10
    forms = {1: tr("every {number}st"), 2: tr("every {number}nd"), 3: tr("every {number}rd")}
    return forms.get(of_ten, tr("every {number}th")).format(number=grouped(number))


class Proof:
    """What a capture looks for while it reads everything.

    Attributes:
        why_all: why it does, to be put behind "because"; "" where it does not.
        seen: is shown what is read first; None where there is nothing to look for.
    """

    def __init__(self, why_all: str, unmarked: Unmarked | None) -> None:
        self.why_all, self._unmarked = why_all, unmarked
        self.seen: Seen | None = unmarked.look if unmarked else None

    def mark(self, changed: Ranges) -> None:
        """These changed meanwhile, and are read again."""
        if self._unmarked:
            self._unmarked.mark(changed)

    def missed(self, rounds: Rounds, unreadable: tuple[tuple[int, int], ...]) -> tuple[str, ...]:
        """A sentence where the tracker has missed something; nobody believes it from then on.

        Args:
            rounds: which are done.
            unreadable: what of the source could not be read.
        """
        # where the rounds were given up, what changed meanwhile is not all known
        if self._unmarked is None or rounds.hindrance:
            return ()
        self._unmarked.mark(as_ranges(unreadable))
        count = len(self._unmarked.found())
        if not count:
            return ()
        found = doubt(count, self._unmarked.block)
        rounds.distrust(found)
        sentence = tr(
            "{found}{found_2}: the tracker is not believed any more. This point is right, "
            "because everything was read; those before it, back to the last one for which "
            "everything was, may have older data there.",
            found=found[0].upper(),
            found_2=found[1:],
        )
        return (sentence,)


NOT_PROVED = Proof("", None)


@contextmanager
def proof(
    backup_set: BackupSet, parent: RecoveryPoint | None, rounds: Rounds, why_all: str, block: int
) -> Iterator[Proof]:
    """What to look for; only while this is open.

    Args:
        backup_set: the set.
        parent: the point that the source is compared with, if there is one.
        rounds: in which it is read, begun; they know what has changed since.
        why_all: why everything is read; "" where it is not.
        block: bytes of those that are compared.
    """
    if parent is None or rounds.changed is None or not why_all:
        yield NOT_PROVED
        return
    with backup_set.open_chain(parent) as then:
        yield Proof(why_all, Unmarked(parent, then, rounds, block))
