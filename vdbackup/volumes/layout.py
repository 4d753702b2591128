"""Where the partitions of a disk go on one of another size: planned, nothing is read or written.

Partitions keep their order, their gaps and how they are aligned: what changes is the size of some,
and by that the place of those behind them, always by whole MiB. On a larger disk one partition
takes what is new. On a smaller one, those that can spare most give it, the largest first.

What must keep its place is told by the caller: GRUB's core image names the sectors that it lies in,
and a Windows that starts from an MBR looks for its partition at its old place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vdbackup.translation import tr

UNIT = 1 << 20
"""Bytes by which sizes change, and partitions move: what all tools align to since 2010."""


@dataclass(frozen=True)
class Volume:
    """A partition as it is.

    Attributes:
        number: as in Linux.
        start, size: in bytes.
        least: bytes that it can be made as small as; its size where it cannot be made smaller.
        grows: whether what lies on it can be made larger.
        moves: whether it may begin elsewhere.
    """

    number: int
    start: int
    size: int
    least: int
    grows: bool = False
    moves: bool = True

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size

    @property
    def spare(self) -> int:
        """Bytes, in whole units, by which it can be made smaller."""
        return max(0, self.size - self.least) // UNIT * UNIT


@dataclass(frozen=True)
class Place:
    """Where a partition is to lie, in bytes."""

    start: int
    size: int


class DoesNotFit(ValueError):
    """The disk is too small.

    Attributes:
        needed: where the space for partitions would have to end, in bytes.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(tr("space up to byte {needed} is needed", needed=needed))
        self.needed = needed


def fitted(volumes: Sequence[Volume], end: int, grown: int | None = None) -> Mapping[int, Place]:
    """Where each partition goes, by its number.

    Args:
        volumes: the partitions, which do not overlap; in any order.
        end: the first byte that no partition may take on the new disk.
        grown: the number of the partition that takes what is new; None for the last one that can.

    Raises:
        DoesNotFit: there is not enough space, as far as sizes may change.
    """
    ordered = sorted(volumes, key=lambda each: each.start)
    if not ordered:
        return {}
    spare = end - ordered[-1].end
    if spare >= 0:
        changes = _growth(ordered, spare // UNIT * UNIT, grown)
    else:
        changes = _shrinkage(ordered, -(spare // UNIT) * UNIT)
    shift, places = 0, {}
    for each, change in zip(ordered, changes, strict=True):
        places[each.number] = Place(each.start + shift, each.size + change)
        shift += change
    return places


def _growth(ordered: Sequence[Volume], spare: int, grown: int | None) -> list[int]:
    """By how much each grows: one of them, behind which all may move, or none."""
    changes = [0] * len(ordered)
    for at in reversed(range(len(ordered))):
        if ordered[at].grows and grown in (None, ordered[at].number):
            changes[at] = spare
            break
        if not ordered[at].moves:
            break
    return changes


def _shrinkage(ordered: Sequence[Volume], missing: int) -> list[int]:
    """By how much each gets smaller, as numbers below 0; what must not move stays where it is."""
    free = [each.spare for each in ordered]
    for at, each in enumerate(ordered):
        if not each.moves:  # nothing before it may change
            free[:at] = [0] * at
    if sum(free) < missing:
        raise DoesNotFit(ordered[-1].end - sum(free))
    changes = [0] * len(ordered)
    for at in sorted(range(len(ordered)), key=lambda at: -free[at]):
        given = min(free[at], missing)
        changes[at], missing = -given, missing - given
    return changes
