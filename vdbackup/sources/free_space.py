"""What of a source need not be read, where its file systems are asked at a moment that counts.

Of a device in use that is after the first freeze of its rounds (live_rounds.py), from which on the
kernel marks what changes: what is written to a free block later is read in a round. What nobody has
mounted says itself whether it was left in order (volumes/allocation.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vdbackup.agent.block_devices import SYS_BLOCK
from vdbackup.disks.extents import union
from vdbackup.errors import SourceError
from vdbackup.sources.file_systems import mounted_on, stretches
from vdbackup.sources.source import OneReading, Rounds, Source
from vdbackup.sources.stacking import number_of
from vdbackup.volumes.allocation import NOTHING, InUse, LeftOut, left_out

_EXT = ("ext2", "ext3", "ext4")


def planned(source: Source, rounds: Rounds) -> LeftOut:
    """What will be left out of a source, as far as can be said before its rounds have begun.

    Nothing of one that cannot be read: who reads it will see.
    """
    try:
        return left_out(source, _in_use(source, are_frozen=not isinstance(rounds, OneReading)))
    except SourceError:
        return LeftOut()


def found(source: Source, rounds: Rounds) -> LeftOut:
    """What may be left out of a source of which nothing has been read in these rounds.

    Raises SourceError where the source is gone.
    """
    are_frozen = not isinstance(rounds, OneReading) and not rounds.hindrance
    return left_out(source, _in_use(source, are_frozen=are_frozen))


def _in_use(source: Source, *, are_frozen: bool) -> InUse:
    """Where file systems lie on it that are mounted; frozen are those of ext that lie directly."""
    every, frozen = [NOTHING], [NOTHING]
    for path in source.files:
        for mounted in mounted_on(path):
            for number in mounted.numbers:
                place = stretches(path, {number})
                every.append(place)
                if are_frozen and mounted.kind in _EXT and _is_direct(path, number):
                    frozen.append(place)
    return InUse(np.concatenate(frozen), union(np.concatenate(every), NOTHING))


def _is_direct(path: Path, number: str) -> bool:
    """Whether that is the device, or a partition of it, and not made of several."""
    is_own = number == number_of(str(path))
    return is_own or not any((SYS_BLOCK / number).resolve().glob("slaves/*"))
