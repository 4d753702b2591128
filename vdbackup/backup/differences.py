"""What differs of a disk from a point, and how that is kept in a draft.

Whether a block differs is seen from its digest, so the parent's data are never read. Blocks that
neither the source stores nor the parent holds are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from vdbackup.disks.extents import Int64s, Ranges, aligned, blocks_of, union
from vdbackup.disks.transfer import Flags, Read, transfer, write_blocks
from vdbackup.jobs import Task
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks, is_zero
from vdbackup.repository.draft import Draft
from vdbackup.repository.model import RecoveryPoint
from vdbackup.sources.source import Source

Seen = Callable[[Int64s, memoryview, Flags], None]


def state_of(backup_set: BackupSet, parent: RecoveryPoint | None, size: int) -> DigestFold:
    """The digests that a disk is compared with: a full's are those of `size` bytes of zeros."""
    return backup_set.open_digests(parent) if parent else DigestFold([], size)


def to_read(source: Source, held: Ranges) -> Ranges:
    """What the source stores, and what the parent holds (it may have become zeros)."""
    return union(aligned(source.data_ranges(), BLOCK, source.size), held)


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
        state: what the disk through the parent holds.
        ranges: what to look at, whole blocks, in bytes; some may have been looked at before.
        read: fills a view with pieces of the disk (`transfer`).
        phase: what this is called in progress reports.
        task: what it reports to, and what stops it.
        seen: is shown the blocks, their bytes, and which of them surely differ.
    """

    def keep(pieces: Ranges, view: memoryview) -> None:
        blocks, digests = blocks_of(pieces, BLOCK), digest_blocks(view)
        known, sure = state.as_far_as_known(blocks)
        differing = differ(digests, known)
        if seen:
            seen(blocks, view, differing & sure)
        # what the draft holds already hides the parent's, were it the same as that again
        changed = differing | ~sure | draft.digests.holds(blocks)
        write_blocks(draft.disk, blocks, view, changed, is_zero(digests))
        draft.digests.add(blocks, digests, changed)

    transfer(ranges, read, keep, phase=phase, task=task)
