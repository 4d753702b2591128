"""What differs of a disk from a point, and how that is kept in a draft.

Whether a block differs is seen from its digest, so the parent's data are never read. Blocks that
neither the source stores nor the parent holds are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vdbackup.disks.extents import Int64s, Ranges, aligned, blocks_of, union
from vdbackup.disks.transfer import Flags, Read, transfer, write_blocks
from vdbackup.jobs import Task
from vdbackup.repository import long_chains
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks, is_zero
from vdbackup.repository.draft import Draft
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.sources.source import Source

Seen = Callable[[Int64s, memoryview, Flags], None]


def state_of(
    backup_set: BackupSet, parent: RecoveryPoint | None, size: int, unit: int = BLOCK
) -> DigestFold:
    """The digests that a disk is compared with: a full's are those of `size` bytes of zeros.

    A full's blocks have `unit` bytes, all others those of the point's that they are compared with.
    """
    return backup_set.open_digests(parent) if parent else DigestFold([], size, unit)


def to_read(source: Source, held: Ranges) -> Ranges:
    """What the source stores, and what the parent holds (it may have become zeros)."""
    return union(aligned(source.data_ranges(), BLOCK, source.size), held)


@contextmanager
def draft_above(
    backup_set: BackupSet,
    parent: RecoveryPoint,
    ranges: Ranges,
    read: Read,
    phase: str,
    task: Task,
) -> Iterator[Draft]:
    """An incremental in the making that keeps what of a disk differs from a point.

    It goes where what is done with it fails. The arguments are those of `keep_changes`.
    Raises ChainTooLong where nothing would read what lies on that point.
    """
    long_chains.check_room(backup_set, parent)
    with state_of(backup_set, parent, parent.virtual_size) as state, Draft(
        backup_set, PointType.INCREMENTAL, parent, parent.virtual_size, parent.sector_size,
        unit=state.block,
    ) as draft:  # fmt: skip
        keep_changes(draft, state, ranges, read, phase, task)
        yield draft


def keep_changes(
    draft: Draft,
    state: DigestFold,
    ranges: Ranges,
    read: Read,
    phase: str,
    task: Task,
    seen: Seen | None = None,
) -> None:
    """Keep in a draft what differs from the parent's state, and where that is not known, all.

    Args:
        draft: takes the blocks and their digests.
        state: what the disk through the parent holds, in blocks as large as the draft's.
        ranges: what to look at, in bytes; some may have been looked at before.
        read: fills a view with pieces of the disk (`transfer`).
        phase: what this is called in progress reports.
        task: what it reports to, and what stops it.
        seen: is shown the blocks, their bytes, and which of them surely differ.
    """
    size = state.block

    def keep(pieces: Ranges, view: memoryview) -> None:
        blocks, digests = blocks_of(pieces, size), digest_blocks(view, size)
        known, sure = state.as_far_as_known(blocks)
        differing = differ(digests, known)
        if seen:
            seen(blocks, view, differing & sure)
        # what the draft holds already hides the parent's, were it the same as that again
        changed = differing | ~sure | draft.digests.holds(blocks)
        write_blocks(draft.disk, blocks, view, changed, is_zero(digests), size)
        draft.digests.add(blocks, digests, changed)

    whole = aligned(ranges, size, draft.point.virtual_size)
    transfer(whole, read, keep, phase=phase, task=task)
