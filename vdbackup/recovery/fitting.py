"""A point's disk on a target of another size: which partition changes, moves, or stays, and why.

What can be planned without looking into file systems is (volumes/layout.py). How small one can
become is asked of its own program, on an overlay above the point, which nobody else sees.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import NotResized
from vdbackup.jobs import sizes_apart
from vdbackup.qemu import qemu
from vdbackup.qemu.qemu import Node
from vdbackup.recovery import loader_files, other_sectors
from vdbackup.recovery.exporting import above, exported
from vdbackup.recovery.fat_sizes import check_can_be_made_anew
from vdbackup.recovery.file_system_sizes import FileSystem
from vdbackup.recovery.placed import Stretch
from vdbackup.recovery.scratch import scratch_folder
from vdbackup.recovery.volume_sizes import KINDS, may_change
from vdbackup.sources.inventory import contents_of
from vdbackup.translation import tr
from vdbackup.volumes import lvm, signatures
from vdbackup.volumes.filesystems import journals
from vdbackup.volumes.layout import UNIT, DoesNotFit, Place, Volume, fitted
from vdbackup.volumes.partitions import Partition
from vdbackup.volumes.places import Window
from vdbackup.volumes.relaid import DiskTable

SCRATCH = "scratch.qcow2"
"""The overlay's name in its folder."""


@dataclass(frozen=True)
class Move:
    """What becomes of one partition.

    Attributes:
        number: of the partition.
        filesystem: what lies on it, as volumes/signatures.py names it; "" where that is unknown.
        before, after: where it lies.
    """

    number: int
    filesystem: str
    before: Place
    after: Place

    @property
    def changes_size(self) -> bool:
        """Whether it becomes larger or smaller."""
        return self.before.size != self.after.size

    @property
    def kept(self) -> int:
        """Bytes of it that are copied."""
        return min(self.before.size, self.after.size)

    @property
    def shrinks(self) -> bool:
        """Whether it becomes smaller."""
        return self.after.size < self.before.size

    @property
    def sentence(self) -> str:
        """What becomes of it; "" where nothing does."""
        what = tr("Partition {number}", number=self.number) + (
            f" ({self.filesystem})" if self.filesystem else ""
        )
        if self.changes_size:
            becomes = tr("smaller") if self.shrinks else tr("larger")
            before, after = sizes_apart(self.before.size, self.after.size)
            return tr(
                "{what} becomes {becomes}: {after} instead of {before}.",
                what=what,
                becomes=becomes,
                after=after,
                before=before,
            )
        return (
            tr("{what} keeps its size, and moves.", what=what) if self.before != self.after else ""
        )


@dataclass(frozen=True)
class Fitting:
    """How a disk is fitted to a target.

    Attributes:
        moves: of all partitions, by where they lie.
        writes: the partition table for the target: (offset, bytes), in this order.
        head: what lies before the first partition, and keeps its place, in bytes.
        sector_size: of the target, in bytes.
        converts: whether the disk had others.
        loader: what becomes of what starts the disk, in a sentence; "" where it starts as before.
    """

    moves: tuple[Move, ...]
    writes: tuple[tuple[int, bytes], ...]
    head: int
    sector_size: int
    converts: bool
    loader: str = ""

    @property
    def stretches(self) -> tuple[tuple[int, Stretch], ...]:
        """What of the point's disk goes where, by partition; 0 for what lies before all of them."""
        return (
            (0, Stretch(0, self.head)),
            *(
                (each.number, Stretch(each.before.start, each.kept, each.after.start))
                for each in self.moves
            ),
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """What becomes of the partitions, a sentence each."""
        found = [each.sentence for each in self.moves]
        if self.converts:
            found.append(
                tr(
                    "The partition table is written for sectors of {sector_size} bytes, and what "
                    "is FAT is made anew with the same files.",
                    sector_size=self.sector_size,
                )
            )
        return tuple(filter(None, [*found, self.loader]))


def fit(
    chain: Chain,
    disk_format: DiskFormat,
    size: int,
    grown: int | None,
    sector_size: int | None = None,
) -> Fitting | None:
    """How a point's disk is fitted to a target; None where it goes there as it is.

    Args:
        chain: the point's disk.
        disk_format: of its layers.
        size: of the target, in bytes.
        grown: the number of the partition that takes what is new; None for the last that can.
        sector_size: of the target, in bytes; None for that of the disk.

    Raises:
        NotResized: it cannot be, with the figure that it would take. ProgramMissing: what changes
        a file system is not installed. GuestUnreadable: the disk's table is damaged.
    """
    table = DiskTable.read(chain)
    if table is None:
        _check_unpartitioned(chain, size, sector_size)
        return None
    kinds = {each.number: each.filesystem for each in contents_of(chain)}
    parts = sorted(table.table.partitions, key=lambda part: part.offset)
    _check(parts, chain.size)
    converts = sector_size not in (None, table.table.sector_size)
    if converts and sector_size is not None:
        table = other_sectors.table_for(chain, table, parts, kinds, sector_size)
    if size < chain.size and not all(map(table.may_change, parts)):
        raise NotResized(
            tr("A disk with logical partitions is not made smaller."),
            tr("Choose a target that is at least as large."),
        )
    changeable = _changeable(chain, table, parts, kinds, converts=converts)
    least: dict[int, int] = {}
    reasons: list[str] = []
    if table.end(size) < parts[-1].offset + parts[-1].size:
        least, reasons = _least(chain, disk_format, parts, kinds, changeable)
    volumes = [
        Volume(
            part.number,
            part.offset,
            part.size,
            least.get(part.number, part.size),
            grows=_grows(part, changeable, grown),
            moves=not table.stays(part),
        )
        for part in parts
    ]
    try:
        places = fitted(volumes, table.end(size), grown)
    except DoesNotFit as refusal:
        raise _too_small(size, table.size_for(refusal.needed), reasons) from refusal
    found = _fitting(table, parts, kinds, places, size, converts=converts)
    changed = [each for each in found.moves if each.changes_size]
    if grown is not None and not any(each.number == grown for each in changed):
        raise NotResized(
            tr("Partition {grown} cannot be made larger here.", grown=grown),
            tr(
                "Only ext4, NTFS, FAT32 and swap can, and XFS, Btrfs and LVM by root, where there "
                "is space, and what lies behind can be moved."
            ),
        )
    for each in changed:
        KINDS[each.filesystem].check_programs()
    as_it_was = size >= chain.size and all(each.before == each.after for each in found.moves)
    if as_it_was and not converts:
        return None  # as it is, with whatever lies between partitions
    _check_awake(chain, parts, kinds)
    _check_made_anew(chain, disk_format, found)
    return replace(found, loader=loader_files.after_moves(chain, _changed(found.moves)))


def _changed(moves: Sequence[Move]) -> list[Place]:
    """Where partitions lay in which files get other sectors."""
    return [each.before for each in moves if each.before != each.after]


def _check_unpartitioned(chain: Chain, size: int, sector_size: int | None) -> None:
    if sector_size not in (None, chain.sector_size):
        raise NotResized(
            tr(
                "A disk without partitions does not go to one with sectors of {sector_size} bytes.",
                sector_size=sector_size,
            ),
            tr("Choose a disk with the same sectors, or restore to a file."),
        )
    if size < chain.size:
        reason = tr("It has no partitions that could be made smaller.")
        raise _too_small(size, chain.size, [reason])


def _check_awake(chain: Chain, parts: Sequence[Partition], kinds: Mapping[int, str]) -> None:
    """Raise NotResized where a system is hibernated: it has its file systems in memory as well."""
    for part in parts:
        window = Window.opened(chain, ((part.offset, part.size),))
        asleep = False
        if kinds.get(part.number) == "ntfs":
            with suppress(Exception):  # what is damaged is refused by who changes it
                asleep = journals.warning("ntfs", window) == journals.HIBERNATED
        elif kinds.get(part.number) == "swap":
            asleep = signatures.holds_hibernated_system(window.read(signatures.HEAD))
        elif kinds.get(part.number) == "LVM":
            asleep = _sleeps_in_lvm(window)
        if asleep:
            raise NotResized(
                tr(
                    "The system whose memory lies in partition {part} is hibernated: when it goes "
                    "on it must find all partitions as they were.",
                    part=part.number,
                ),
                tr(
                    "Restore to a disk that is at least as large without fitting it, or a point "
                    "at which the system was shut down."
                ),
            )


def _sleeps_in_lvm(part: io.BufferedReader) -> bool:
    """Whether swap space in a logical volume of a partition holds a hibernated system."""
    for volume in lvm.logical_volumes(part, [0]):
        if volume.runs:
            part.seek(volume.runs[0][0])
            if signatures.holds_hibernated_system(part.read(signatures.HEAD)):
                return True
    return False


def _check_made_anew(chain: Chain, disk_format: DiskFormat, fitting: Fitting) -> None:
    """Raise NotResized where a FAT could not be made anew: once it is on its target, it is late.

    Whether one that becomes smaller can be has been asked with how small it can become.
    """
    fats = [each for each in fitting.moves if each.filesystem == "fat" and not each.shrinks]
    grown = [each for each in fats if each.changes_size]
    if not (grown or (fats and fitting.converts)):
        return
    with overlaid(chain, disk_format) as (nodes, folder):
        for each in fats if fitting.converts else grown:
            with exported(nodes, each.before.start, each.before.size, folder) as file:
                if each.changes_size:
                    KINDS[each.filesystem].check(file)
                check_can_be_made_anew(file)


def _check(parts: Sequence[Partition], size: int) -> None:
    """Raise NotResized where a table says what cannot be kept elsewhere.

    Args:
        parts: by where they begin.
        size: of the disk, in bytes.
    """
    for one, other in pairwise(parts):
        if one.offset + one.size > other.offset:
            raise NotResized(
                tr("Partitions {one} and {other} overlap.", one=one.number, other=other.number),
                tr("Restore the disk to one of the same size."),
            )
    if parts[-1].offset + parts[-1].size > size or not parts[0].offset:
        raise NotResized(
            tr("The disk's partition table names what lies beyond its end, or before its start."),
            tr("Restore the disk to one of the same size."),
        )


def _changeable(
    chain: Chain,
    table: DiskTable,
    parts: Sequence[Partition],
    kinds: Mapping[int, str],
    *,
    converts: bool,
) -> dict[int, FileSystem]:
    """How partitions are made another size, by number; those that cannot be are not in it."""
    found = {}
    for part in parts:
        name = kinds.get(part.number, "")
        kind = KINDS.get(name)
        if kind is None or not kind.possible or not table.may_change(part):
            continue
        if name == "fat" and converts:  # it is made anew for other sectors already
            continue
        if may_change(name, part, Window.opened(chain, ((part.offset, part.size),))):
            found[part.number] = kind
    return found


def _grows(part: Partition, changeable: Mapping[int, FileSystem], grown: int | None) -> bool:
    kind = changeable.get(part.number)
    return kind is not None and (grown == part.number or not kind.only_if_named)


def _too_small(size: int, needed: int, reasons: Sequence[str]) -> NotResized:
    there, wanted = sizes_apart(size, needed)
    return NotResized(
        tr(
            "The target has {there}, and the disk needs {wanted} at least.",
            there=there,
            wanted=wanted,
        ),
        " ".join(reasons),
    )


def _least(
    chain: Chain,
    disk_format: DiskFormat,
    parts: Sequence[Partition],
    kinds: Mapping[int, str],
    changeable: Mapping[int, FileSystem],
) -> tuple[dict[int, int], list[str]]:
    """How small partitions can become, by number in bytes, and why others cannot."""
    found, reasons = {}, []
    with overlaid(chain, disk_format) as (nodes, folder):
        for part in sorted(parts, key=lambda each: each.number):
            kind = changeable.get(part.number)
            if kind is None:
                reasons.append(_no_smaller(part, kinds.get(part.number, "")))
                continue
            kind.check_programs()
            try:
                with exported(nodes, part.offset, part.size, folder) as file:
                    kind.check(file)
                    least = kind.least(file)
            except NotResized as error:
                reasons.append(
                    tr(
                        "Partition {part} ({kind}) cannot be: {advice}",
                        part=part.number,
                        kind=kind.name,
                        advice=error.advice,
                    )
                )
            else:
                found[part.number] = -(-least // UNIT) * UNIT
                if least >= part.size:  # XFS, and what is full
                    reasons.append(_no_smaller(part, kind.name))
    return found, reasons


def _no_smaller(part: Partition, lying: str) -> str:
    return tr(
        "Partition {part} ({lying}) cannot be made smaller.",
        part=part.number,
        lying=lying or tr("unknown contents"),
    )


@contextmanager
def overlaid(chain: Chain, disk_format: DiskFormat) -> Iterator[tuple[Sequence[Node], Path]]:
    """An overlay above a point, which goes with its folder, as QEMU opens it; and the folder.

    Raises RecoveryError where QEMU cannot read the chain, OSError.
    """
    with scratch_folder() as folder:
        backing = qemu.Backing.of(folder, chain, disk_format)
        scratch = folder / SCRATCH
        qemu.create_session_disk(scratch, backing, chain.size)
        yield above(scratch, backing), folder


def _fitting(
    table: DiskTable,
    parts: Sequence[Partition],
    kinds: Mapping[int, str],
    places: Mapping[int, Place],
    size: int,
    *,
    converts: bool,
) -> Fitting:
    moves = tuple(
        Move(
            part.number,
            kinds.get(part.number, ""),
            Place(part.offset, part.size),
            places[part.number],
        )
        for part in parts
    )
    writes = tuple(table.writes(places, size))
    return Fitting(moves, writes, parts[0].offset, table.table.sector_size, converts)
