"""Which sectors of a block are here, as VHD and VHDX say it: a bit for each, a bitmap a block."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import Int64s

_ALL = 0xFF


def runs_of_bits(
    bitmaps: NDArray[np.uint8], count: int, bitorder: Literal["big", "little"]
) -> tuple[Int64s, Int64s, Int64s]:
    """Runs of ones among the first `count` bits of each row of `bitmaps` (uint8[n, bytes]).

    Args:
        bitmaps: a row for each block.
        count: bits of a row; what its last byte has besides is padding.
        bitorder: which bit of a byte is its first (numpy.unpackbits).

    Returns:
        int64[runs] each: the row, the first bit, and how many. Rows and bits ascend.
    """
    if count % 8 == 0 and ((bitmaps == _ALL) | (bitmaps == 0)).all():
        return _runs(bitmaps[:, : count // 8], 8)  # all that we write: an eighth of the work
    return _runs(np.unpackbits(bitmaps, axis=1, count=count, bitorder=bitorder), 1)


def _runs(wanted: NDArray[np.uint8], scale: int) -> tuple[Int64s, Int64s, Int64s]:
    """Runs in each row of what is not 0: row, start and length, the last two times `scale`."""
    edges = np.diff(np.pad(wanted > 0, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges > 0)
    ends = np.nonzero(edges < 0)[1]
    return rows, starts * scale, (ends - starts) * scale
