"""What of a source need not be read, where its file systems are asked at a moment that counts.

Of a device in use that is after the first freeze of its rounds (live_rounds.py), from which on the
kernel marks what changes: what is written to a free block later is read in a round. What nobody has
mounted says itself whether it was left in order (volumes/allocation.py).
"""

from __future__ import annotations

import numpy as np

from vdbackup.agent.block_devices import SYS_BLOCK
from vdbackup.disks.extents import Ranges
from vdbackup.sources.file_systems import mounted_on, stretches
from vdbackup.sources.source import OneReading, Rounds, Source
from vdbackup.sources.stacking import number_of
from vdbackup.volumes.allocation import NOTHING, LeftOut, left_out

_EXT = ("ext2", "ext3", "ext4")


def planned(source: Source, rounds: Rounds) -> LeftOut:
    """What will be left out of a source, as far as can be said before its rounds have begun.

    Raises SourceError where the source is gone.
    """
    return left_out(source, _frozen(source, rounds))


def found(source: Source, rounds: Rounds) -> LeftOut:
    """What may be left out of a source of which nothing has been read in these rounds.

    Raises SourceError where the source is gone.
    """
    return left_out(source, NOTHING if rounds.hindrance else _frozen(source, rounds))


def _frozen(source: Source, rounds: Rounds) -> Ranges:
    """Where file systems lie on it that the rounds freeze, each directly, and the kernel knows."""
    if isinstance(rounds, OneReading):
        return NOTHING
    places = [
        stretches(path, {number})
        for path in source.files
        for each in mounted_on(path)
        if each.kind in _EXT
        for number in each.numbers
        if number == number_of(str(path)) or not _is_made_of_others(number)
    ]
    return np.concatenate([NOTHING, *places])  # not joined: each is one of its own


def _is_made_of_others(number: str) -> bool:
    return any((SYS_BLOCK / number).resolve().glob("slaves/*"))
