"""What of a source need not be read, where its file systems are asked at a moment that counts.

Of a device in use that is after the first freeze of its rounds (live_rounds.py), from which on the
kernel marks what changes: what is written to a free block later is read in a round. What nobody has
mounted says itself whether it was left in order (volumes/allocation.py).
"""

from __future__ import annotations

import logging
from pathlib import Path

from vdbackup.agent.block_devices import SYS_BLOCK
from vdbackup.agent.file_systems import Mounted, mounted_on, opened, stretches
from vdbackup.agent.stacking import number_of, numbers_on
from vdbackup.agent.stretches import Stretch, joined
from vdbackup.disks.extents import Ranges, as_ranges
from vdbackup.errors import NotFrozen, SourceError
from vdbackup.sources import fsmap
from vdbackup.sources.source import Rounds, Source
from vdbackup.volumes.allocation import SHORTEST, LeftOut, MountedAreas, left_out

_log = logging.getLogger(__name__)
_READ = ("ext2", "ext3", "ext4", "btrfs")
"""Whose maps are read from the device; XFS is asked."""


def planned(source: Source, rounds: Rounds) -> LeftOut:
    """What will be left out of a source, as far as can be said before its rounds have begun.

    Nothing of one that cannot be read: who reads it will see.
    """
    try:
        return left_out(source, _in_use(source, are_frozen=rounds.marks_writes))
    except SourceError:
        return LeftOut()


def found(source: Source, rounds: Rounds) -> LeftOut:
    """What may be left out of a source of which nothing has been read in these rounds.

    Raises SourceError where the source is gone.
    """
    return left_out(source, _in_use(source, are_frozen=rounds.marks_writes))


def _in_use(source: Source, *, are_frozen: bool) -> MountedAreas:
    """Where file systems lie on it that are mounted; those that lie directly may be frozen."""
    every: list[Stretch] = []
    frozen: list[Stretch] = []
    told: dict[Stretch, Ranges] = {}
    built_on: list[Stretch] = []
    for path in source.files:
        built_on += stretches(path, filter(_has_holders, numbers_on(path)))
        for mounted in mounted_on(path):
            for number in mounted.numbers:
                place = stretches(path, {number})
                every += place
                if not are_frozen or not _is_direct(path, number):
                    continue
                if mounted.kind in _READ:
                    frozen += place
                elif mounted.kind == "xfs" and (free := _told(mounted, number)) is not None:
                    told |= dict.fromkeys(place, free)
    return MountedAreas(
        frozen=as_ranges(sorted(set(frozen))),
        all=as_ranges(joined(every)),
        told=told,
        built_on=as_ranges(joined(built_on)),
    )


def _told(mounted: Mounted, number: str) -> Ranges | None:
    """What a file system says is free on one of its devices; None where this user is not told."""
    try:
        with opened(mounted) as file_system:
            return fsmap.free(file_system.descriptor, number, SHORTEST)
    except (NotFrozen, OSError):
        _log.info("%s does not say what is free", mounted.name, exc_info=True)
        return None


def _has_holders(number: str) -> bool:
    """Whether other devices are made of it: logical volumes, arrays, ciphers, caches."""
    return any((SYS_BLOCK / number / "holders").glob("*"))


def _is_direct(path: Path, number: str) -> bool:
    """Whether that is the device, or a partition of it, and not made of several."""
    is_own = number == number_of(str(path))
    return is_own or not any((SYS_BLOCK / number).resolve().glob("slaves/*"))
