"""How much of a device is not zero, guessed from a sample: so that a full is not begun in vain."""

from __future__ import annotations

import math
import random

import numpy as np

from vdbackup.disks.extents import Int64s, Ranges, total
from vdbackup.errors import Unreadable
from vdbackup.sources.source import Source

BLOCK = 64 << 10
"""Bytes that are looked at in one place: what a backup keeps or leaves out as a whole."""
MAX_PLACES = 384
"""Places looked at: some 4 s on a hard disk, nothing on others, and a margin of 8 % or less."""
_CAUTION = 3.0
"""Standard deviations: the guess is wrong about once in 400 times on each side at most."""


def stored_share(source: Source, ranges: Ranges) -> tuple[int, int]:
    """The least and the most bytes that a full of these ranges, whole blocks, will probably hold.

    Wilson's interval of a share (JASA 22, 1927), which holds for shares near 0 and 1, too. Where
    there are few blocks all are looked at. What cannot be read tells nothing; after the first such
    place no more are tried, for each may take a failing disk many seconds.

    Raises SourceError where the source is gone.
    """
    ends = np.cumsum(-(-ranges[:, 1] // BLOCK))
    blocks, size = int(ends[-1]) if len(ends) else 0, total(ranges)
    places = [
        _nth(ranges, ends, each) for each in random.sample(range(blocks), min(blocks, MAX_PLACES))
    ]
    view = memoryview(bytearray(BLOCK))
    looked = kept = 0
    for place in sorted(places):
        length = min(BLOCK, source.size - place * BLOCK)
        try:
            source.readinto(place * BLOCK, view[:length])
        except Unreadable:
            break
        looked += 1
        kept += view[:length] != bytes(length)
    if looked == blocks:
        return kept * BLOCK, kept * BLOCK
    if not looked or looked < len(places):
        return 0, size  # the first places alone are no sample
    share, square = kept / looked, _CAUTION**2 / looked
    middle = (share + square / 2) / (1 + square)
    margin = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return int((middle - margin) * size), int((middle + margin) * size)


def _nth(ranges: Ranges, ends: Int64s, number: int) -> int:
    """Of all blocks in the ranges that one's number on the disk."""
    row = int(np.searchsorted(ends, number, "right"))
    before = int(ends[row - 1]) if row else 0
    return int(ranges[row, 0]) // BLOCK + number - before
