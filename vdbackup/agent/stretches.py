"""Stretches of a device: where they meet, and what lies between them.

In plain Python, as all of this room: there are as many as partitions, or as blocks that are read
while nobody writes (2,048 at most). What may be millions is in numpy's hands (disks/extents.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Stretch = tuple[int, int]
"""Offset and length, in bytes of a device."""


def joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same bytes, ascending, none touching the next."""
    found: list[Stretch] = []
    for start, length in sorted(each for each in stretches if each[1] > 0):
        if found and start <= sum(found[-1]):
            first, end = found[-1][0], max(sum(found[-1]), start + length)
            found[-1] = (first, end - first)
        else:
            found.append((start, length))
    return found


def between(stretches: Sequence[Stretch], size: int) -> list[Stretch]:
    """What of a device of `size` bytes lies in none of these, which are as `joined` gives them."""
    edges = [0, *(edge for start, length in stretches for edge in (start, start + length)), size]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return [(start, end - start) for start, end in gaps if start < end]
