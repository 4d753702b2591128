"""Which blocks have changed, and as of when: what a harvest gives, and what a point notes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vdbackup.agent.stretches import Stretch, joined

BLOCK = 64 << 10
"""Bytes for each of which there is one bit."""
PAGE = 4096
"""Bytes of a bitmap that are looked at together: those of 2 GiB of disk."""
CLEAN = bytes(PAGE)


@dataclass(frozen=True)
class Token:
    """A moment that a tracker knows. A recovery point notes the one of its last harvest.

    Attributes:
        nonce: which tracker: 32 hex digits, made up when tracking began, so that none is like it
            after the next boot.
        generation: how often it had been harvested.
        start: where on the whole disk the device begins, in bytes: 0 but for a partition.
        size: of the device, in bytes.
    """

    nonce: str
    generation: int
    start: int
    size: int


@dataclass(frozen=True)
class Changes:
    """What has changed of a device; what is not among it has surely not.

    Attributes:
        bitmap: of the whole disk that the device lies on; a bit for each BLOCK, the first block's
            is the lowest of the first byte (numpy's `bitorder="little"`).
        start: where on that disk the device begins, in bytes.
        size: of the device, in bytes.
    """

    bitmap: bytes
    start: int
    size: int

    @property
    def count(self) -> int:
        """How many blocks of it have changed; the disk's, which need not begin where it does."""
        return self._marks(0, self.size).bit_count()

    def joined(self, others: Changes) -> Changes:
        """These and others of the same device."""
        marks = int.from_bytes(self.bitmap, "little") | int.from_bytes(others.bitmap, "little")
        return Changes(marks.to_bytes(len(self.bitmap), "little"), self.start, self.size)

    def any_in(self, stretches: Iterable[Stretch]) -> bool:
        """Whether a block has changed of which some byte lies in one of these."""
        return any(self._marks(*each) for each in stretches)

    def _marks(self, offset: int, length: int) -> int:
        """Of the blocks in which these bytes of the device lie, the first one's the lowest."""
        first = (self.start + offset) // BLOCK
        end = -(-(self.start + offset + length) // BLOCK)
        part = self.bitmap[first // 8 : -(-end // 8)]
        return int.from_bytes(part, "little") >> first % 8 & (1 << end - first) - 1

    def stretches(self) -> list[Stretch]:
        """What has changed of the device, in whole blocks of its own, in order and joined.

        The last one ends with the device. It is for the few that are read while nobody writes.
        """
        return joined(self._blocks())

    def _blocks(self) -> Iterator[Stretch]:
        for page in range(0, len(self.bitmap), PAGE):
            marks = self.bitmap[page : page + PAGE]
            if marks == CLEAN:
                continue
            for number, byte in enumerate(marks):
                for bit in range(8):
                    if byte >> bit & 1:
                        yield self._block(((page + number) * 8 + bit) * BLOCK - self.start)

    def _block(self, at: int) -> Stretch:
        """The device's own blocks in which that one of the disk lies; none where it is outside."""
        start = max(at // BLOCK * BLOCK, 0)
        end = min(-(-(at + BLOCK) // BLOCK) * BLOCK, self.size)
        return start, end - start


@dataclass(frozen=True)
class Harvest:
    """What a follower is told at one moment.

    Attributes:
        token: names the moment, for the next harvest and for a point's manifest; None where the
            tracker cannot be trusted any more: it has to be begun anew (`tracking.track`).
        changes: since the moment that was asked about; None where that is not known, and
            everything has to be read.
        reason: why it is not known, to be put behind "because"; "" if it is, or nothing was asked.
    """

    token: Token | None
    changes: Changes | None
    reason: str

    def after(self, earlier: Harvest) -> Harvest:
        """What has changed since the moment that the one before this was asked about."""
        if self.changes is None or earlier.changes is None:
            return Harvest(self.token, None, self.reason or earlier.reason)
        return Harvest(self.token, self.changes.joined(earlier.changes), "")
