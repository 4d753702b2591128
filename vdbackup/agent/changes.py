"""Which blocks have changed, and as of when: what a harvest gives, and what a point notes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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

    def runs(self) -> Iterator[tuple[int, int]]:
        """Stretches that have changed, in order and apart: offset in the device and length.

        In bytes. They begin and end at multiples of BLOCK of the whole disk, which in a partition
        need not be such of its own, but they stay within the device.
        """
        end = self.start + self.size
        for first, behind in _joined(_runs_of_blocks(self.bitmap)):
            low, high = max(first * BLOCK, self.start), min(behind * BLOCK, end)
            if low < high:
                yield low - self.start, high - low

    @property
    def total(self) -> int:
        """How many bytes that is."""
        return sum(length for _, length in self.runs())


def _runs_of_blocks(bitmap: bytes) -> Iterator[tuple[int, int]]:
    """First block and the one behind the last; runs may touch where pages meet."""
    for at in range(0, len(bitmap), PAGE):
        page = bitmap[at : at + PAGE]
        if page == CLEAN[: len(page)]:
            continue
        bits, block = int.from_bytes(page, "little"), at * 8
        while bits:
            skipped = (bits & -bits).bit_length() - 1
            bits >>= skipped
            length = (~bits & bits + 1).bit_length() - 1
            bits >>= length
            block += skipped
            yield block, block + length
            block += length


def _joined(runs: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same with what touches made one."""
    last: tuple[int, int] | None = None
    for first, behind in runs:
        if last is not None and last[1] == first:
            last = last[0], behind
            continue
        if last is not None:
            yield last
        last = first, behind
    if last is not None:
        yield last


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
