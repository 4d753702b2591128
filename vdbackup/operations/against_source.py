"""A set's source read as a whole, and compared with a point: is what its tracker says true?

No point is made, and nothing that is marked as changed is taken from the next backup. Where a
tracker knows since when, whatever differs has to be marked; else it was missed, and nobody believes
the tracker any more: the next backup reads everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vdbackup.backup import following
from vdbackup.backup.belonging import belonging
from vdbackup.backup.comparison import Differences, Unmarked, doubt, not_held
from vdbackup.backup.differences import to_read
from vdbackup.consistency import Consistency
from vdbackup.disks.extents import as_ranges, total, without
from vdbackup.disks.transfer import each
from vdbackup.errors import NotComparable, PointNotFound
from vdbackup.jobs import Plan, Task, sizes_apart
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint, unreadable_warning
from vdbackup.repository.repository import Repository
from vdbackup.sources.opening import Hints, HintsOfFiles, open_source
from vdbackup.sources.reference import SourceRef
from vdbackup.sources.salvage import Salvage
from vdbackup.sources.source import Rounds, Source
from vdbackup.translation import tr

_NOT_IN_USE = tr("it is not in use, and is read as a whole at each backup")
_NO_MOMENT = tr("it could not be read as of one moment")


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan(Plan):
    """What would be compared.

    Attributes:
        source: open.
        point_id: of the point that it is compared with.
    """

    repository: Repository
    set_name: str
    source: Source
    point_id: str


@dataclass(frozen=True)
class Claim:
    """What a tracker says of a source, and how far that is right; all in bytes, whole blocks.

    Attributes:
        marked: what differs from the point, and is marked as changed since.
        missed: what differs without being marked.
    """

    marked: int
    missed: int


@dataclass(frozen=True)
class SourceVerdict:
    """How a source compares with a point.

    Attributes:
        point: the point.
        source: what sentences call the source.
        consistency: as of which moment it was read.
        read_bytes: of it, what was read again included.
        differing_bytes: what is not as the point has it, in whole blocks; what the point does not
            have at all is not among it.
        claim: what is claimed of that; None where nothing is.
        unclaimed: why nothing is, to be put behind "because"; "" where something is.
        warnings: what was not as it should be, a sentence each.
    """

    point: RecoveryPoint
    source: str
    consistency: Consistency
    read_bytes: int
    differing_bytes: int
    claim: Claim | None
    unclaimed: str
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was missed, as far as anything is claimed."""
        return self.claim is None or not self.claim.missed

    @property
    def given_back_bytes(self) -> int:
        """What has become zeros unmarked: space that a file system has given back (discard)."""
        claim = self.claim
        return self.differing_bytes - claim.marked - claim.missed if claim else 0


@contextmanager
def planned(
    repository: Repository, set_name: str | None, point_id: str | None = None
) -> Iterator[ComparisonPlan]:
    """What would be compared; the set's source is open meanwhile, for `run`.

    Args:
        repository: where the set is.
        set_name: the set; may be None where there is only one.
        point_id: of the point; None for the newest that was captured.

    Raises:
        PointNotFound: there is no such set or point.
        NotComparable: the source has another size by now. OtherSource: it is, or may be, another.
        SourceError, DiskError: it cannot be read.
    """
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id) if point_id else _latest(backup_set)
    settings = backup_set.settings
    ref = SourceRef.parse(settings.source.path)
    of_files = HintsOfFiles(point.virtual_size, (repository.path,))
    with open_source(
        ref, Hints(before=settings.source_format or None, of_files=of_files)
    ) as source:
        belonging(repository, source, backup_set.name, same_source=False)
        if (source.size, source.sector_size) != (point.virtual_size, point.sector_size):
            now, then = sizes_apart(source.size, point.virtual_size)
            raise NotComparable(
                tr(
                    "{source} has {now}, and had {then} at point {point}.",
                    source=source.title,
                    now=now,
                    then=then,
                    point=point.sequence,
                ),
                tr("Back it up: the next point is a full, and can be compared."),
            )
        yield ComparisonPlan(
            summary=tr(
                "{source} is read as a whole, and compared with point {point} of {backup_set}.",
                source=source.title,
                point=point.sequence,
                backup_set=backup_set.name,
            ),
            bytes_to_copy=source.size,
            repository=repository,
            set_name=backup_set.name,
            source=source,
            point_id=point.id,
        )


def _latest(backup_set: BackupSet) -> RecoveryPoint:
    point = backup_set.latest_captured()
    if point is None:
        raise PointNotFound(
            tr("{backup_set} has no point that was captured.", backup_set=backup_set.name),
            tr("Back its source up."),
        )
    return point


def run(plan: ComparisonPlan, task: Task) -> SourceVerdict:
    """Read the source and compare; where the tracker has missed something, it is doubted.

    Nothing is locked meanwhile. Raises PointInUse where somebody is just changing what is read.
    """
    doing = tr("comparing {set_name} with its source", set_name=plan.set_name)
    ids = (plan.point_id,)
    with claims.reading(plan.repository, plan.set_name, ids, doing) as backup_set:
        point = backup_set.point(plan.point_id)
        follow = following.follow(plan.repository, plan.set_name, point, task)
        with plan.source.rounds(follow) as rounds:
            return _compared(backup_set, point, plan.source, rounds, task)


def _compared(
    backup_set: BackupSet, point: RecoveryPoint, source: Source, rounds: Rounds, task: Task
) -> SourceVerdict:
    salvage = Salvage(source, rounds, task.cancel)
    read = each(salvage.readinto)
    with backup_set.open_digests(point) as state, backup_set.open_chain(point) as then:
        differences = Differences(state, point.virtual_size)
        unmarked = Unmarked(point, then, rounds)
        unheld = not_held(point)
        first = without(to_read(source, state.held()), unheld)
        differences.look(first, read, unmarked.look, tr("Compare"), task)
        read_bytes = total(first)
        for changed in rounds:
            salvage.forget(changed)
            unmarked.mark(changed)
            differences.look(without(changed, unheld), read, None, tr("Changed meanwhile"), task)
            read_bytes += total(changed)
            task.check()
        damaged = tuple(
            tr("{name} is damaged: what it says nothing sure about is not compared.", name=name)
            for name in sorted(state.damaged)
        )
    unreadable = salvage.unreadable()
    unmarked.mark(as_ranges(unreadable))
    unclaimed = _unclaimed(rounds)
    claim = None if unclaimed else _claim(differences, unmarked)
    if claim and claim.missed:
        rounds.distrust(doubt(claim.missed // BLOCK))
    outcome = rounds.outcome()
    return SourceVerdict(
        point,
        source.title,
        outcome.consistency,
        read_bytes,
        int(differences.differs.sum()) * BLOCK,
        claim,
        unclaimed,
        (*outcome.trouble, *damaged, *([unreadable_warning(unreadable)] if unreadable else ())),
    )


def _claim(differences: Differences, unmarked: Unmarked) -> Claim:
    marked = int((differences.differs & unmarked.is_marked()).sum())
    return Claim(marked * BLOCK, len(unmarked.found()) * BLOCK)


def _unclaimed(rounds: Rounds) -> str:
    """Why nobody claims to know what has changed, to be put behind "because"; "" where one does."""
    if rounds.hindrance:
        return _NO_MOMENT
    return "" if rounds.changed is not None else rounds.scan_reason or _NOT_IN_USE
