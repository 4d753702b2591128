"""What restoring a point would do: planned, in words and bytes, before anything is touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.device_reads import sector_size_of
from vdbackup.disks.disk import SECTOR
from vdbackup.disks.extents import as_ranges, overlap, total
from vdbackup.disks.formats import check_fits, probe
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.errors import RecoveryError, Remedy, TargetExists, UnfitTarget, UsageError
from vdbackup.guest.hardware import Hardware
from vdbackup.guest.model import System
from vdbackup.jobs import Plan, readable_size
from vdbackup.recovery import loader_files, other_hardware, packages
from vdbackup.recovery.fitting import Fitting, fit
from vdbackup.recovery.packages import PACKAGES, PackageFormat, is_in_order
from vdbackup.recovery.pieces import Goal, Piece, to_devices, to_file, wanted_stretches
from vdbackup.recovery.target import check_not_written, description, losing
from vdbackup.repository import claims
from vdbackup.repository.files import check_space
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.devices import is_among_devices
from vdbackup.translation import tr
from vdbackup.volumes.partitions import read_table


@dataclass(frozen=True)
class RestoreRequest:
    """What somebody wants restored.

    Attributes:
        repository, set_name, point_id: the point.
        target: a new file, or a block device.
        disk_format: of a file; a device is always written raw.
        overwrite: replace an existing file, or write over a device.
        ignore_damage: restore what can be read where some of it is damaged.
        delta: write only what differs from what the device, or raw file, holds.
        partitions: numbers of those that are wanted alone; none for the whole disk.
        resize: whether the disk is fitted to a device, or existing raw file, of another size.
        grown: the partition that takes what a larger one has more; None for the last that can.
        journals: a folder in which to note how far it has come, should it be interrupted.
        sector_size: of the device that a file stands for, in bytes; None for that of the disk.
    """

    repository: Repository
    set_name: str
    point_id: str
    target: Path
    disk_format: str = DiskFormat.RAW
    overwrite: bool = False
    ignore_damage: bool = False
    delta: bool = False
    partitions: tuple[int, ...] = ()
    resize: bool = False
    grown: int | None = None
    journals: Path | None = None
    sector_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class RestorePlan(Plan):
    """What a restore would do.

    Attributes:
        target: a file that will be made, or what will be written over, as it was named.
        pieces: what goes where: the whole disk, or partitions.
        disk_format: that a stand-alone disk can have, or of a package.
        ignore_damage: write damaged blocks as they are, and go on.
        delta: write only what differs from what the target holds.
        in_place: whether what is there is written over; else a file is made.
        fitting: how the disk is fitted to a target of another size; None where it is not.
        journals: the folder where it is noted how far this one comes; None where it is not.
        machine: that an OVA describes, with what is on its disk; else None.
        notes: what the user has to know of it afterwards, a sentence each.
    """

    repository: Repository
    set_name: str
    point_id: str
    target: Path
    pieces: tuple[Piece, ...]
    disk_format: DiskFormat | PackageFormat
    ignore_damage: bool
    delta: bool
    in_place: bool
    fitting: Fitting | None
    journals: Path | None
    machine: tuple[System, Hardware] | None = None
    notes: tuple[str, ...] = ()

    @property
    def resumed(self) -> int:
        """Bytes that a restore which was interrupted has left on the target."""
        return sum(piece.interrupted.record.size for piece in self.pieces)


def plan(request: RestoreRequest) -> RestorePlan:
    """What restoring a point would do.

    Raises:
        RecoveryError: the target cannot be used. Damaged, DiskError: the point cannot.
    """
    point = request.repository.set(request.set_name).point(request.point_id)
    wanted = _named(request.disk_format)
    on_device = request.target.is_block_device()
    if request.resize and request.partitions:
        raise UsageError(
            tr("Single partitions keep their size."),
            tr("Restore the whole disk to fit it to another one."),
        )
    if request.resize and not request.target.exists():
        raise UsageError(
            tr(
                "{target} is a new file, which gets the size of the disk: there is nothing to fit "
                "it to.",
                target=request.target,
            ),
            tr(
                "Make an empty file of the size that you want first (by `truncate -s`), and let "
                "it be written over."
            ),
        )
    fits = request.resize
    in_place = on_device or request.delta or fits
    machine = None
    doing = tr("planning to restore point {point}", point=point.sequence)
    with claims.open_point(request.repository, request.set_name, request.point_id, doing) as chain:
        parts = wanted_stretches(chain, point, request.partitions)
        goal = Goal(
            request.repository.path,
            request.target,
            request.point_id,
            request.overwrite,
            fits,
            None if request.ignore_damage else request.journals,
        )
        if on_device:
            wanted = DiskFormat.RAW
            pieces = to_devices(goal, chain, parts)
        else:
            _check_file(request, wanted, point)
            pieces = (to_file(goal, parts, existing=in_place),)
            if wanted is PackageFormat.OVA:
                machine = other_hardware.hardware_in_ovf(chain)
        fitting = _fitting(request, chain, pieces[0]) if fits else None
        of_loader = loader_files.after_partitions(chain) if request.partitions and on_device else ""
        misnamed = "" if on_device else _misnamed(request.target, wanted)
        held = chain.map.data_ranges()
        stretches = as_ranges([(each.stretch.start, each.stretch.size) for each in pieces])
        size = int(stretches[:, 1].sum()) if on_device else total(overlap(held, stretches))
    if not on_device and not is_in_order(wanted):  # not compressed
        check_space(request.target.parent, size, tr("The restored disk"))
    size = max(0, size - sum(piece.interrupted.record.size for piece in pieces))
    there = [str(piece.target) for piece in pieces]
    return RestorePlan(
        summary=" ".join(
            [
                *_sentences(request, point, wanted, pieces, size),
                *(fitting.sentences if fitting else _as_it_is(fits, pieces[0])),
                *filter(None, [of_loader, misnamed]),
            ]
        ),
        bytes_to_copy=size,
        creates=() if request.target.exists() else tuple(there),
        replaces=tuple(there) if request.target.exists() else (),
        repository=request.repository,
        set_name=request.set_name,
        point_id=request.point_id,
        target=request.target,
        pieces=pieces,
        disk_format=wanted,
        ignore_damage=request.ignore_damage,
        delta=request.delta,
        in_place=in_place,
        fitting=fitting,
        journals=request.journals,
        machine=machine,
        notes=tuple(
            filter(
                None,
                (*_notes(machine), of_loader, misnamed, fitting.loader if fitting else ""),
            )
        ),
    )


def _fitting(request: RestoreRequest, chain: Chain, piece: Piece) -> Fitting | None:
    """How the disk is fitted to what is there; None where that is as large. Raises NotResized."""
    on_device = piece.target.is_block_device()  # which may have other sectors
    if piece.found is None:
        return None
    sectors = request.sector_size
    as_large = request.grown is None and piece.found.size == chain.size
    if as_large and not on_device and sectors is None:
        return None
    disk_format = request.repository.settings(request.set_name).format
    if on_device:
        with piece.target.open("rb") as device:
            sectors = sector_size_of(device.fileno())
    return fit(chain, disk_format, piece.found.size, request.grown, sectors)


# ----------------------------------------------------------------------------------- in words


def _as_it_is(fits: bool, piece: Piece) -> tuple[str, ...]:
    """What is said where a disk was to be fitted, and is not."""
    if not fits or piece.spare <= 0:
        return ()
    return (tr("No partition can take what the target has more: that stays free."),)


def _sentences(
    request: RestoreRequest,
    point: RecoveryPoint,
    disk_format: DiskFormat | PackageFormat,
    pieces: Sequence[Piece],
    size: int,
) -> Iterator[str]:
    """What a plan says, sentence by sentence."""
    of = {"point": point.sequence, "set_name": request.set_name}
    for piece in pieces:
        what = tr("Point {point} of {set_name}", **of)
        if piece.number:
            what = tr(
                "Partition {number} of point {point} of {set_name}", number=piece.number, **of
            )
        if len(pieces) == 1:
            yield tr(
                "{what} is {where}, {size} of data.",
                what=what,
                where=_where(request, disk_format, piece),
                size=readable_size(size),
            )
        else:
            share = readable_size(piece.stretch.size)
            yield tr(
                "{what} ({share}) is {where}.",
                what=what,
                share=share,
                where=_where(request, disk_format, piece),
            )
        if piece.number and piece.spare:
            yield tr("{size} behind it are not used.", size=readable_size(piece.spare))
        if piece.lying_there is not None:
            yield losing(piece.lying_there)
    if request.delta:
        yield tr(
            "What is there is compared with the point first, and only what differs is written."
        )
    if there := sum(piece.interrupted.record.size for piece in pieces):
        yield (
            tr(
                "An earlier restore was interrupted, and is gone on with: {size} are there "
                "already.",
                size=readable_size(there),
            )
        )
    yield from (piece.interrupted.anew for piece in pieces if piece.interrupted.anew)


def _where(request: RestoreRequest, disk_format: DiskFormat | PackageFormat, piece: Piece) -> str:
    """Where a piece goes, for the middle of a sentence."""
    if piece.lying_there is not None:
        device = f"{piece.target} ({description(piece.lying_there)})"
        return tr("written over everything on the device {device}", device=device)
    done = tr("written over") if request.delta else tr("restored to")
    return tr(
        "{done} the {disk_format} disk {target}",
        done=done,
        disk_format=disk_format,
        target=piece.target,
    )


def _named(disk_format: str) -> DiskFormat | PackageFormat:
    """What a point can be restored to, by its name; raises UsageError."""
    if disk_format in PACKAGES:
        return PackageFormat(disk_format)
    if disk_format in list(DiskFormat):
        return DiskFormat(disk_format)
    raise UsageError(
        tr("There is no disk format {disk_format!r}.", disk_format=disk_format),
        tr("Choose raw or {value}.", value=", ".join([*BACKUP_FORMATS, *PACKAGES])),
    )


def _check_format(disk_format: DiskFormat | PackageFormat, point: RecoveryPoint) -> None:
    """Raise DiskError where a point does not fit into a format."""
    if disk_format is DiskFormat.RAW:
        return
    if isinstance(disk_format, PackageFormat):
        inside = PACKAGES[disk_format].disk_format
    else:
        inside = disk_format
    check_fits(inside, packages.size_in(disk_format, point.virtual_size), point.sector_size)


def _notes(machine: tuple[System, Hardware] | None) -> tuple[str, ...]:
    """What the user has to know of an appliance."""
    if machine is None:
        return ()
    _, hardware = machine
    sentences = [problem.sentence for problem in hardware.problems]
    if hardware.edit.needed:
        sentences.append(
            tr(
                "The machine has its disk on {controller}, which the system on it may not start "
                "from as it is.",
                controller=hardware.controller,
            )
        )
    return (*sentences, *filter(None, [other_hardware.notice(hardware).strip()]))


def format_of(target: Path) -> str:
    """The format that a file's ending asks for, raw if it asks for none."""
    suffix = target.suffix.lower().removeprefix(".")
    return suffix if suffix in (*BACKUP_FORMATS, PackageFormat.OVA) else DiskFormat.RAW


_KEPT_AS: dict[str, DiskFormat] = {
    PackageFormat.VHD_FIXED: DiskFormat.VHD,
    PackageFormat.VMDK_STREAM: DiskFormat.VMDK,
}
"""What a file is called that only exports make, where that is a format's name."""


def _misnamed(target: Path, disk_format: DiskFormat | PackageFormat) -> str:
    """What there is to say of a name that asks for another format than the file gets; else ""."""
    named = format_of(target)
    if named in (DiskFormat.RAW, disk_format, _KEPT_AS.get(disk_format)):
        return ""
    return tr(
        "{target} holds a {disk_format} disk, though its name ends in {suffix}: programs that go "
        "by names cannot read it. Give it another name, or export the point in that format.",
        target=target,
        disk_format=disk_format,
        suffix=target.suffix,
    )


# ------------------------------------------------------------------------------------ a file


def _check_file(
    request: RestoreRequest, disk_format: DiskFormat | PackageFormat, point: RecoveryPoint
) -> None:
    """Raise UnfitTarget, or DiskError, where the file cannot be made or written over."""
    target = request.target
    if request.partitions and disk_format is not DiskFormat.RAW:
        raise UnfitTarget(
            tr(
                "A partition alone is no disk of the format {disk_format}.", disk_format=disk_format
            ),
            tr("Restore it to a raw file, or to a device."),
        )
    _check_format(disk_format, point)
    _check_folder(request)
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise UnfitTarget(
            tr("{target} is neither a file nor a block device.", target=target),
            tr("Give a new file."),
        )
    if target.exists() and not request.overwrite:
        raise TargetExists(
            tr("{target} exists already.", target=target),
            tr("Give another name."),
            remedy=Remedy.OVERWRITE,
        )
    check_not_written(target)
    if request.delta or (request.resize and target.exists()):
        _check_raw(target, disk_format)
    if request.delta and request.partitions and _is_partitioned(target):
        raise UnfitTarget(
            tr(
                "{target} is a disk with partitions, and would hold nothing but the one of the "
                "point.",
                target=target,
            ),
            tr(
                "Name a file that holds that partition alone, or a device that shows the file "
                "(losetup --find --show --partscan {target}).",
                target=target,
            ),
        )


def _check_folder(request: RestoreRequest) -> None:
    """Raise UnfitTarget where no file of that name can be made, or may be."""
    target = request.target
    if target.is_dir():
        raise UnfitTarget(
            tr("{target} is a folder.", target=target), tr("Give the name of a new file in it.")
        )
    if not target.parent.is_dir():
        raise UnfitTarget(
            tr("There is no folder {parent}.", parent=target.parent), tr("Make it first.")
        )
    if is_among_devices(target) and (target.is_file() or not target.exists()):
        raise UnfitTarget(
            tr("There is no device {target}.", target=target),
            tr("Connect the disk, or name a file in a folder of yours."),
        )
    if target.is_symlink() and not target.exists():
        raise UnfitTarget(
            tr("{target} is a link that leads nowhere.", target=target),
            tr("Give the name of a new file."),
        )
    places = (target.parent.resolve(), target.resolve())  # what is in place is where a link leads
    if any(place.is_relative_to(request.repository.path.resolve()) for place in places):
        raise UnfitTarget(
            tr("{target} lies inside the repository.", target=target),
            tr("Restore to another folder."),
        )


def _is_partitioned(file: Path) -> bool:
    with file.open("rb") as disk:
        size = disk.seek(0, os.SEEK_END)
        try:
            return bool(read_table(disk, size, SECTOR).partitions)
        except RecoveryError:  # a damaged table is one, too
            return True


def _check_raw(target: Path, disk_format: DiskFormat | PackageFormat) -> None:
    """Raise UnfitTarget where there is no raw disk that could be compared."""
    if not target.exists():
        raise UnfitTarget(
            tr("There is no {target} to compare the point with.", target=target),
            tr("Restore all of the point."),
        )
    if disk_format is not DiskFormat.RAW or probe(target) is not DiskFormat.RAW:
        raise UnfitTarget(
            tr(
                "{target} is no raw disk, and only those are compared and written over.",
                target=target,
            ),
            tr("Restore all of the point to a new file."),
        )
