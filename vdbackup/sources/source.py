"""What every source owes to those who back it up, whatever kind of source it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from vdbackup.consistency import Consistency, How
from vdbackup.disks.extents import Ranges
from vdbackup.sources.identity import Facts
from vdbackup.sources.moment import Follow, Outcome
from vdbackup.sources.reference import SourceRef


class Rounds(Protocol):
    """What is done while a source is read, so that all that was read is of one moment.

    A context manager. Within its block all of the source is read first; then whatever iteration
    gives is read again, before the next is asked for, through `readinto` of this. When that ends,
    `outcome` says what came of it.
    """

    @property
    def hindrance(self) -> str:
        """Why it will be no single moment, a sentence, as soon as that is known; else ""."""

    def __enter__(self) -> Self:
        """Begin: nothing has been read."""

    def __exit__(self, *_: object) -> None:
        """End it, with or without an outcome."""

    @property
    def changed(self) -> Ranges | None:
        """What has changed since the moment that is known, whole units; None: all must be read."""

    @property
    def scan_reason(self) -> str:
        """Why all must be read, to be put behind "because"; "" where nothing else was expected."""

    @property
    def marks_writes(self) -> bool:
        """Whether what is written from now on is read again: so what is free now need not be."""

    @property
    def restless(self) -> Ranges:
        """What the kernel itself writes to, whatever is frozen: read as of no one moment.

        That is what it wrote to in the last round's moment, and still does after it.
        """

    def distrust(self, why: str) -> None:
        """More had changed than `changed` and what was iterated over: it is not believed any more.

        Args:
            why: to be put behind "because".
        """

    def keep(self) -> None:
        """What was read is stored for good: the next one may go on from here."""

    def __iter__(self) -> Iterator[Ranges]:
        """What has changed since it was read, in whole units (disk.UNIT) of the source.

        Raises SourceError where the source is gone.
        """

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` as `Source.readinto` does."""

    def outcome(self) -> Outcome:
        """As of which moment all that was read is; raises SourceError where the source is gone."""


class OneReading:
    """The Rounds of what is read once: nobody writes to it, or nothing can be done about that."""

    hindrance = ""
    changed = None
    scan_reason = ""
    marks_writes = False

    def __init__(self, source: Source) -> None:
        self._source = source
        self.restless: Ranges = np.empty((0, 2), np.int64)

    def distrust(self, why: str) -> None:
        """Nothing was said of what has changed."""

    def keep(self) -> None:
        """Nobody goes on from here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was begun."""

    def __iter__(self) -> Iterator[Ranges]:
        return iter(())

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` as `Source.readinto` does."""
        self._source.readinto(offset, view)

    def outcome(self) -> Outcome:
        """One moment, where the source does not say that it may have changed meanwhile."""
        trouble = self._source.trouble()
        changed = not set(trouble) <= set(self._source.defects())
        return Outcome(Consistency(How.AS_IS if changed else How.UNMOUNTED), trouble)


class Source(Protocol):
    """What is backed up: one disk, open for reading, from `opening.open_source`.

    A context manager that closes it. Its size, its map and who it is are those of when it was
    opened; from then on it watches for what is written to it, so that a point can say what it may
    have mixed. It writes nothing, anywhere.

    Who made it is free to read more slowly than a disk, but `readinto` may be called from several
    threads at once, and at any offset, in any order, more than once.
    """

    @property
    def ref(self) -> SourceRef:
        """By what it is found again: what a set keeps, and the next backup opens."""

    @property
    def title(self) -> str:
        """What sentences call it: "/dev/sdb"."""

    @property
    def name(self) -> str:
        """What a set of it is called, before anything is changed to make that a name."""

    @property
    def id(self) -> str:
        """The one number by which versions know it that kept no facts; else what finds it."""

    @property
    def size(self) -> int:
        """In bytes, whole sectors."""

    @property
    def sector_size(self) -> int:
        """In bytes: what a partition table on it counts in, and the least that can be lost."""

    @property
    def exact_size(self) -> int | None:
        """Bytes of what ends within its last sector, which is filled up with zeros; else None."""

    @property
    def said(self) -> str | None:
        """What the user says or said that it is, "raw" or a format; None where nobody had to."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Files and devices of this computer that it is read from; it may have none."""

    @property
    def unit(self) -> int:
        """Bytes in which a full of it is compared and kept (disk.UNIT, disk.FINE_UNIT)."""

    @property
    def holes_are_known(self) -> bool:
        """Whether `data_ranges` leaves out what is zeros; else it may be most of the disk."""

    @property
    def unread(self) -> tuple[str, ...]:
        """What is kept in it and in no backup, a sentence each: to be known from the first on."""

    @property
    def remark(self) -> str:
        """What there is to say of it as it is meant to be, sentences; "" where there is nothing."""

    def facts(self) -> Facts:
        """All that tells it from others, as it is now; raises SourceError."""

    def holds(self, folder: Path) -> bool:
        """Whether a folder, which need not be there yet, is stored on it; raises OSError."""

    def data_ranges(self) -> Ranges:
        """What may hold anything but zeros: offset and length in bytes, ascending, apart.

        All else reads as zeros, and is not read.
        """

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the source's bytes from `offset` on, all of it.

        Raises:
            Unreadable: something in there gives a read error; smaller pieces may be had.
            SourceError: it is gone, or shorter than it was, or breaks its format's rules.
            ValueError: beyond the end.
        """

    def check_present(self) -> None:
        """Raise SourceError unless all of it is still there, the same, as long as when opened."""

    def rounds(self, follow: Follow | None = None) -> Rounds:
        """What makes all that is read of it one moment's, as far as can be: see `Rounds`.

        Args:
            follow: who reads it, where all that has not changed since a moment is known already.
        """

    def defects(self) -> tuple[str, ...]:
        """What the user must know of it whenever it is read, a sentence each."""

    def trouble(self) -> tuple[str, ...]:
        """What the user must know of what was read since it was opened, a sentence each.

        What was written to it meanwhile, who else has it open for writing, what of it is missing:
        then the point may be no single moment. Raises SourceError where it is gone.
        """

    def __enter__(self) -> Self:
        """The source."""

    def __exit__(self, *_: object) -> None:
        """Close it; what holds it (a lock, a snapshot) is let go of."""
