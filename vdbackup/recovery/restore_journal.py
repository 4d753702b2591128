"""How far a restore that writes in place has come, so that one that was cut off goes on there.

What stands in the journal was durable on the target before the journal said so. It is believed as
far as it has to be: at the end all of it is read back from the target, and written again where it
differs. A journal is of one point, one target and one stretch of it. A disk is known again by the
kernel's number for the medium in it (diskseq) until the next start of this computer; after that, by
its own serial number alone, and one without is restored from the start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from vdbackup import durable, records
from vdbackup.disks.extents import Ranges, as_ranges, runs_of
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.transfer import pieces
from vdbackup.errors import Cancelled, Obstructed
from vdbackup.recovery.placed import Stretch
from vdbackup.repository.digests import BLOCK
from vdbackup.sources.devices import facts_of_device, medium_of
from vdbackup.sources.file_identity import file_identity
from vdbackup.translation import tr

log = logging.getLogger(__name__)

REGION = 16 << 20
"""Bytes that are noted at once: those of 2 TiB are 131,072."""
PAUSE = 5.0
"""Seconds from one note to the next: so much is written again at most."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Target:
    """What a target is known again by; "" where it has none of that.

    Attributes:
        name: its path, or its number by which it is called whatever its path is.
        hardware: serial number and the like, a partition's own id with it.
        medium: the kernel's number for what is in a drive now, and the start of the computer that
            it is a number of.
        file: of a file.
        size: in bytes; of a device.
    """

    name: str
    hardware: str = ""
    medium: str = ""
    file: str = ""
    size: int = 0

    @classmethod
    def of(cls, path: Path, size: int) -> Self:
        """Of a device, of so many bytes, or of a file."""
        if not path.is_block_device():
            return cls(str(path.resolve()), file=file_identity(path))
        facts = facts_of_device(path)
        numbers = [each for each in (facts.wwn, facts.serial) if each]
        hardware = "/".join([*numbers, facts.partition]) if numbers else ""
        medium = medium_of(path)
        return cls(
            hardware or str(path.resolve()),
            hardware,
            f"{medium} of {_BOOT.read_text().strip()}" if medium else "",
            size=size,
        )

    def other_than(self, now: Target) -> str:
        """Why it is not what is there now, for the middle of a sentence; "" where it is that."""
        if self.size != now.size:
            return tr("its size is another one")
        if self.file or now.file:
            return "" if self.file == now.file else tr("it is another file")
        if self.medium and self.medium == now.medium:
            return ""
        if self.hardware and self.hardware == now.hardware and not _same_start(self, now):
            return ""
        return tr("nothing says that it is still the same disk")


def _same_start(one: Target, other: Target) -> bool:
    """Whether both were seen since the same start of this computer."""
    starts = [each.medium.rpartition(" ")[2] for each in (one, other)]
    return bool(starts[0]) and starts[0] == starts[1]


@dataclass(frozen=True)
class Record:
    """What a journal says.

    Attributes:
        point: the id of the point, which stands for the same state for ever.
        start, length, at: which stretch of its disk goes where on the target, in bytes.
        done: regions of the point's disk that are durable on the target: (offset, length).
    """

    target: Target
    point: str
    start: int
    length: int
    at: int
    done: tuple[tuple[int, int], ...] = ()

    @classmethod
    def new(cls, target: Target, point: str, stretch: Stretch) -> Self:
        """Of a restore that begins."""
        return cls(target, point, stretch.start, stretch.size, stretch.at)

    def file_in(self, folder: Path) -> Path:
        """Where such a journal lies: one for each target."""
        name = hashlib.sha256(os.fsencode(self.target.name)).hexdigest()[:16]
        return folder / f"restore-{name}.json"

    @property
    def size(self) -> int:
        """Bytes that are done."""
        return sum(length for _, length in self.done)


@dataclass(frozen=True)
class Found:
    """What an earlier restore to the same target has left.

    Attributes:
        record: to go on from; with nothing done where it begins.
        anew: why an interrupted one is not gone on with, in a sentence; "" where it is, or where
            there was none.
    """

    record: Record
    anew: str = ""


def find(folder: Path | None, wanted: Record) -> Found:
    """What is known of an interrupted restore to that target."""
    if folder is None:
        return Found(wanted)
    try:
        text = durable.read_own(wanted.file_in(folder))
    except FileNotFoundError:
        return Found(wanted)
    except (OSError, Obstructed) as error:
        log.info("the journal of an earlier restore cannot be read: %s", error)
        return Found(wanted, _anew(tr("what was noted of it cannot be read")))
    try:
        before = records.exact(Record, json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        log.info("the journal of an earlier restore is damaged: %s", error)
        return Found(wanted, _anew(tr("what was noted of it is damaged")))
    if reason := _unfit(before, wanted):
        return Found(wanted, _anew(reason))
    return Found(replace(wanted, done=before.done))


def _anew(reason: str) -> str:
    return tr(
        "An earlier restore to this target was interrupted; this one begins anew: {reason}.",
        reason=reason,
    )


def _unfit(before: Record, now: Record) -> str:
    if before.point != now.point:
        return tr("it was of another recovery point")
    if (before.start, before.length, before.at) != (now.start, now.length, now.at):
        return tr("it was of another part of the disk")
    ends = [offset + length for offset, length in before.done]
    if any(end > -(-(now.start + now.length) // BLOCK) * BLOCK for end in ends):
        return tr("what was noted of it is damaged")
    return before.target.other_than(now.target)


@dataclass
class Journal:
    """Notes how far a restore has come. Methods may be called from several threads at once.

    Attributes:
        record: as of the last note.
        file: where it is kept; None where nothing is.
    """

    record: Record
    file: Path | None
    _target: HostFile
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _noting: threading.Lock = field(default_factory=threading.Lock)
    _noted: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        end = self.record.start + self.record.length
        self._bounds = self.record.start // BLOCK * BLOCK, -(-end // BLOCK) * BLOCK
        self._missing = np.array([stop - at for at, stop in self._regions()], np.int64)
        self._count(self.done)

    @property
    def done(self) -> Ranges:
        """What is durable already, in whole blocks of the point's disk."""
        return as_ranges(self.record.done)

    def right(self, ranges: Ranges) -> None:
        """What the target holds there, in whole blocks of the point's disk, is right.

        Each block once; now and then all of it is made durable, and noted.
        """
        with self._counting:
            self._count(ranges)
        if self.file is None or time.monotonic() < self._noted + PAUSE:
            return
        if self._noting.acquire(blocking=False):
            try:
                self.note()
            finally:
                self._noting.release()

    def _count(self, ranges: Ranges) -> None:
        first = self._bounds[0] // REGION
        for offset, length in pieces(ranges, REGION):
            self._missing[offset // REGION - first] -= -(-length // BLOCK) * BLOCK

    def note(self) -> None:
        """Make durable what was written, then say so. Order: the target, then the journal."""
        if self.file is None:
            return
        with self._counting:
            whole = self._missing <= 0
        self._target.sync()
        regions = list(self._regions())
        runs = [(regions[first][0], regions[end - 1][1]) for first, end in runs_of(whole)]
        self.record = replace(self.record, done=tuple((at, stop - at) for at, stop in runs))
        self.begin()

    def begin(self) -> None:
        """Say what was durable before."""
        if self.file is None:
            return
        try:
            durable.replace(self.file, json.dumps(records.to_json(self.record)).encode())
        except (OSError, Obstructed) as error:  # the restore itself is what was asked for
            log.warning("how far the restore has come cannot be noted: %s", error)
            self.file = None
        self._noted = time.monotonic()

    def _regions(self) -> Iterator[tuple[int, int]]:
        """Where each begins and ends; the first and the last may be short."""
        first, end = self._bounds
        for at in range(first // REGION * REGION, end, REGION):
            yield max(at, first), min(at + REGION, end)

    def end(self) -> None:
        """The restore is complete."""
        if self.file is not None:
            durable.remove(self.file)
            durable.sync_folder(self.file.parent)


def forget(record: Record, folder: Path | None) -> None:
    """What an earlier restore has left on the target is about to be written over."""
    if folder is not None:
        durable.remove(record.file_in(folder))


@contextmanager
def kept(record: Record, folder: Path | None, target: HostFile) -> Iterator[Journal]:
    """A journal that goes on from a record, and goes when the restore is complete.

    An earlier one of the target goes before anything is written, as it is right no more then.

    Args:
        record: what is done already.
        folder: where it lies; None where nothing is noted. So it is where none can be made.
        target: that is written.
    """
    file = record.file_in(folder) if folder is not None else None
    try:
        if file is not None:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.warning("how far the restore comes cannot be noted: %s", error)
        file = None
    journal = Journal(record, file, target)
    journal.begin()
    try:
        yield journal
    except Cancelled:
        journal.note()  # nobody writes any more
        raise
    journal.end()
