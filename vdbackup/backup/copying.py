"""Copying: what a source holds, on its way into the layer of a new point.

The order: all of it is read (`read`), what has changed meanwhile again and again (`read_again`),
as often as the source's rounds say, then it is `complete`. Whoever copies several sources as of one
moment takes each of these steps with all of them before the next.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from vdbackup.backup import proving, unread
from vdbackup.backup.comparison import not_held
from vdbackup.backup.differences import Seen, keep_changes, state_of, to_read
from vdbackup.disks.extents import Ranges, total, union
from vdbackup.disks.transfer import each
from vdbackup.errors import NotFrozen
from vdbackup.jobs import Task
from vdbackup.repository import long_chains
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.draft import Draft
from vdbackup.repository.model import (
    ChangesFrom,
    Moment,
    Reading,
    RecoveryPoint,
    SourceIdentity,
    unreadable_warning,
)
from vdbackup.repository.naming import PointType
from vdbackup.repository.policy import Policy
from vdbackup.sources.moment import Outcome, Wanted
from vdbackup.sources.salvage import Salvage
from vdbackup.sources.source import Rounds, Source
from vdbackup.translation import tr
from vdbackup.volumes.allocation import LeftOut


@dataclass(frozen=True)
class Wish:
    """How a source is to be copied.

    Attributes:
        kind: what the point will be.
        parent: what it will read through; None for a full.
        identity: what is to be kept of the source.
        consistency: what the copy is to be.
        read_all: read everything, whatever a tracker says.
        all_blocks: whether what is free is read and kept, too.
        left_out: what of the source is not read, as far as that is known before.
        policy: the set's from now on.
        doing: what is said of it while it is read: "Capture".
    """

    kind: PointType
    parent: RecoveryPoint | None
    identity: SourceIdentity
    consistency: Wanted
    read_all: bool
    all_blocks: bool
    left_out: LeftOut
    policy: Policy
    doing: str


class Copying:
    """A source on its way into a draft, which goes where it does not come to the end.

    A context manager; its rounds have begun, and end after it.

    Attributes:
        draft: the point in the making.
    """

    def __init__(
        self, backup_set: BackupSet, source: Source, rounds: Rounds, wish: Wish, task: Task
    ) -> None:
        self._set, self._source, self._rounds = backup_set, source, rounds
        self._wish, self._task = wish, task
        self._read_bytes = 0
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        wish, source, rounds = self._wish, self._source, self._rounds
        if wish.parent:
            long_chains.check_room(self._set, wish.parent)
        with ExitStack() as stack:
            self._state = stack.enter_context(
                state_of(self._set, wish.parent, source.size, source.unit)
            )
            unit = self._state.block
            self.draft = stack.enter_context(
                Draft(self._set, wish.kind, wish.parent, source.size, source.sector_size, unit=unit)
            )
            self._check_wanted(rounds.hindrance)
            self._salvage = Salvage(source, rounds, self._task.cancel)
            self._free = unread.unread(source, rounds, wish.left_out, all_blocks=wish.all_blocks)
            why_all = proving.why_all(self._set, wish.policy, asked=wish.read_all)
            self._proof = stack.enter_context(
                proving.proof(self._set, wish.parent, rounds, why_all, unit)
            )
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.__exit__(*error)  # type: ignore[arg-type] # as the protocol has it

    def read(self) -> None:
        """Keep what has changed since the parent, of all that the source may hold."""
        rounds, proof, parent = self._rounds, self._proof, self._wish.parent
        changed = _changed(rounds, parent) if parent and not proof.why_all else None
        self._all_read = changed is None
        candidates = to_read(self._source, self._state.held()) if changed is None else changed
        self._keep(self._free.first(candidates), self._wish.doing, proof.seen)

    def read_again(self, all_changed: Ranges) -> None:
        """Keep what has changed meanwhile."""
        changed = self._free.again(all_changed, self._rounds.restless)
        self._salvage.forget(changed)
        self._proof.mark(changed)
        self._keep(changed, tr("Changed meanwhile"))
        self._task.check()

    def complete(self, warnings: tuple[str, ...], moment: Moment | None = None) -> RecoveryPoint:
        """Finish the point but for its publication; nothing more is read.

        Args:
            warnings: what else is to be noted in it.
            moment: the machine's to which it belongs.

        Raises NotFrozen where a single moment is wanted, and it is none.
        """
        rounds, source, wish = self._rounds, self._source, self._wish
        missed = self._proof.missed(rounds, self._salvage.unreadable())
        outcome = rounds.outcome()
        if len(rest := self._free.after_all(outcome)):
            self._keep(rest, tr("Free space"))
            outcome = rounds.outcome()
        self._task.check()
        self._check_wanted(rounds.hindrance or " ".join(_of_the_moment(outcome, source)))
        unreadable = self._salvage.unreadable()
        warnings = (*outcome.trouble, *missed, *_kept_again(self._state), *warnings)
        if unreadable:
            warnings += (unreadable_warning(unreadable),)
        return self.draft.complete(
            warnings,
            unreadable=unreadable,
            captured_from=wish.identity,
            exact_size=source.exact_size,
            reading=self._reading(outcome),
            moment=moment,
        )

    def _keep(self, ranges: Ranges, doing: str, seen: Seen | None = None) -> None:
        read = each(self._salvage.readinto)
        keep_changes(self.draft, self._state, ranges, read, doing, self._task, seen)
        self._read_bytes += total(ranges)

    def _reading(self, outcome: Outcome) -> Reading:
        changes_from = self._changes_from()
        return Reading(
            outcome.consistency,
            changes_from,
            self._read_bytes,
            self._rounds.scan_reason or self._proof.why_all,
            outcome.token,
            proving.unproven(self._set.latest_captured()) + 1
            if changes_from is ChangesFrom.TRACKER
            else 0,
            all_blocks=self._wish.all_blocks,
            not_read=self._free.listed(),
            about_free=self._free.sentences,
        )

    def _changes_from(self) -> ChangesFrom:
        """By what it is known what has changed."""
        if self._all_read:
            return ChangesFrom.SCAN
        return ChangesFrom.FILES if self._source.ref.is_files else ChangesFrom.TRACKER

    def _check_wanted(self, hindrance: str) -> None:
        check_wanted(self._source, self._wish.consistency, hindrance)


def check_wanted(source: Source, wanted: Wanted, hindrance: str) -> None:
    """Raise NotFrozen where a single moment is wanted, and something is in its way."""
    if hindrance and wanted is Wanted.FROZEN:
        raise NotFrozen(
            tr(
                "{source} cannot be backed up as of one moment: {hindrance}",
                source=source.title,
                hindrance=hindrance,
            ),
            tr("Do what that says, unmount it, or have it backed up as well as can be."),
        )


def _of_the_moment(outcome: Outcome, source: Source) -> list[str]:
    """What makes the copy less than one moment's; what is always wrong with its source is not."""
    always = source.defects()
    return [sentence for sentence in outcome.trouble if sentence not in always]


def _changed(rounds: Rounds, parent: RecoveryPoint) -> Ranges | None:
    """What may not be as the parent has it, where that is known: what that has lost, or has not."""
    if rounds.changed is None:
        return None
    return union(rounds.changed, not_held(parent))


def _kept_again(state: DigestFold) -> tuple[str, ...]:
    """What the parent's damaged digests meant for a point, a sentence each."""
    return tuple(
        tr(
            "{name} is damaged: what it says nothing sure about was kept again, changed or not.",
            name=name,
        )
        for name in sorted(state.damaged)
    )
