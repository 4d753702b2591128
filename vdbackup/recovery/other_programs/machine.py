"""A recovery point in another program's virtual machine: virt-manager, VirtualBox, VMware.

The program gets a child disk of its own above the point's overlay, in a session's folder, with a
description of the machine beside it; the overlay and the layers stay as they are, and the point is
held until the session is discarded. Which program reads chains of which format:

    virt-manager (libvirt, QEMU)    VMDK, QCOW2     a QCOW2 child
    VirtualBox                      VMDK, VHD       a child in the set's own format
    VMware                          VMDK            the same

The machine has the controller and the firmware that the point was found to boot with, as far as the
program has them (other_hardware.py), and no network. libvirt's file is checked against its schema
(docs/formatdomain.rst describes it) and booted by its session daemon. VirtualBox's is written by
its own (Main/xml/VirtualBox-settings.xsd), VMware's by what is generally known of it: neither
program was at hand to open one. That their disks read right through all parents is proven with QEMU
and libvhdi.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import CannotBoot, SessionUnusable, from_os
from vdbackup.guest.hardware import Hardware
from vdbackup.qemu import qemu
from vdbackup.recovery import other_hardware
from vdbackup.recovery.other_programs import libvirt, virtualbox, vmware
from vdbackup.recovery.other_programs.parts import (
    Layer,
    child_disk,
    info_of,
)
from vdbackup.recovery.retarget.report import chosen_hardware
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.record import Origin
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.machine import moment_of
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

FORMATS = {
    Program.VIRT_MANAGER: (DiskFormat.VMDK, DiskFormat.QCOW2),
    Program.VIRTUALBOX: (DiskFormat.VMDK, DiskFormat.VHD),
    Program.VMWARE: (DiskFormat.VMDK,),
}
"""The formats of which a program reads a child with all its parents correctly."""
MAX_DISKS = {
    Program.VIRT_MANAGER: 200,
    Program.VIRTUALBOX: 250,
    Program.VMWARE: 250,
}
"""Disks of one chain that a program opens, the machine's own among them.

libvirt goes down 200 disks and calls what is longer "too deeply nested"; with 256 its parser of
XML ends (9.0: 252 were taken, 260 not). VirtualBox takes 300 in its settings, read by the same
parser (SETTINGS_MEDIUM_DEPTH_MAX). VMware names no number: nobody here has seen it take more.
"""


@dataclass(frozen=True)
class WrittenMachine:
    """What was written.

    Attributes:
        session: the id of the session that it is.
        file: what the program opens.
        how: a sentence that says how.
    """

    session: str
    file: Path
    how: str


def check_possible(program: Program, disk_format: DiskFormat, sector_size: int, disks: int) -> None:
    """Raise RecoveryError where the program cannot boot from such a chain of so many disks."""
    if disk_format not in FORMATS[program] or sector_size != 512:
        readable = tr(" and ").join(name.upper() for name in FORMATS[program])
        raise CannotBoot(
            tr(
                "{names} cannot boot from this point: it reads chains in {readable} with sectors "
                "of 512 bytes only.",
                names=NAMES[program],
                readable=readable,
            ),
            tr("Export the point as one disk and open that, or boot it here."),
        )
    if disks > MAX_DISKS[program]:
        raise CannotBoot(
            tr(
                "{names} cannot open this point: it would have to read through {disks} disks, and "
                "takes {max_disks} at most.",
                names=NAMES[program],
                disks=disks,
                max_disks=MAX_DISKS[program],
            ),
            tr(
                "Merge older points first; or export the point as one disk and open that; or boot "
                "it here, where long chains are no trouble."
            ),
        )


def _check_alone(
    repository: Repository, backup_set: BackupSet, point: RecoveryPoint, program: Program
) -> None:
    """Raise RecoveryError where it is one disk of several, without which it would be half."""
    moment = moment_of(repository, backup_set, point)
    if moment is not None and len(moment.moment.sets) > 1:
        raise CannotBoot(
            tr(
                "{machine} has {count} disks, and {names} would get one of them.",
                machine=moment.moment.machine,
                count=len(moment.moment.sets),
                names=NAMES[program],
            ),
            tr("Boot it here; or restore all its disks, and attach them there."),
        )


def write_machine(
    repository: Repository,
    backup_set: BackupSet,
    point: RecoveryPoint,
    program: Program,
    *,
    sessions_folder: Path,
    memory_mib: int = 1024,
) -> WrittenMachine:
    """Write a disk and a machine for a program, as a kept session of the point.

    Raises:
        RecoveryError: the program cannot read the format, or the folder cannot be written to.
        ParentError, DiskFormatError, Damaged: the chain is not what it should be.
    """
    _check_alone(repository, backup_set, point, program)
    title = f"{backup_set.name} #{point.sequence}"
    doing = tr("writing a machine for {title}", title=title)
    with claims.reading(repository, backup_set.name, [point.id], doing) as now:
        point = now.point(point.id)
        place = _place(now, point, program)
        origin = Origin.of(repository, now, point)
        return _write_machine(place, origin, title, program, sessions_folder, memory_mib)


def _write_machine(
    place: _Place,
    origin: Origin,
    title: str,
    program: Program,
    sessions_folder: Path,
    memory_mib: int,
) -> WrittenMachine:
    hardware = replace(place.hardware, memory_mib=memory_mib)
    options = {"program": str(program), "memory_mib": memory_mib}
    with SessionFolder.create(sessions_folder, title, place.overlay, origin, options) as folder:
        try:
            _CHILDREN[program](folder, place.layers)
            file = _WRITERS[program](folder, _own_disks(folder), place.layers, hardware)
            folder.keep()
        except OSError as error:
            folder.remove()
            raise from_os(error) from error
        except BaseException:
            folder.remove()
            raise
    return _written(folder, program, file, hardware, place.layers)


def write_again(saved: SavedSession, *, not_running: bool = False) -> WrittenMachine:
    """Write the machine of a session anew, on the disks that it has by now.

    A merge gives the layers below other names, and libvirt's and VirtualBox's machines name each.

    Raises:
        RecoveryError: the machine runs, or what it lies on is not what it was.
        RepositoryError: the point is not there.
    """
    if saved.program not in list(Program):  # its record may say anything
        raise SessionUnusable(tr("The session {id} is of no program that is known.", id=saved.id))
    program = Program(saved.program)
    ended = saved.ended_machine(not_running=not_running)
    repository, backup_set, point = saved.origin.find()
    doing = tr("writing the machine of {saved} again", saved=saved.title)
    with claims.reading(repository, backup_set.name, [point.id], doing) as now:
        place = _place(now, now.point(point.id), program)
        saved.origin.check_unchanged(now, now.point(point.id))
    memory = saved.record.machine.get("memory_mib")
    hardware = replace(place.hardware, memory_mib=memory) if type(memory) is int else place.hardware
    with SessionFolder.reopen(saved.folder) as folder:
        try:
            file = _AGAIN[program](folder, ended.disks, place.layers, hardware)
        except OSError as error:
            raise from_os(error) from error
        folder.keep()
    return _written(folder, program, file, hardware, place.layers)


@dataclass(frozen=True)
class _Place:
    """What a machine is put on."""

    overlay: Path
    layers: tuple[Layer, ...]
    hardware: Hardware


def _place(backup_set: BackupSet, point: RecoveryPoint, program: Program) -> _Place:
    disk_format = backup_set.settings.format
    disks = len(backup_set.chain(point)) + 2  # its overlay, and the machine's own
    check_possible(program, disk_format, point.sector_size, disks)
    backup_set.open_chain(point).close()
    overlay = backup_set.overlay_path(point).absolute()
    with Chain.open(overlay, disk_format) as chain:
        layers = tuple(Layer(layer.path.absolute(), layer.info) for layer in chain.layers)
        hardware = other_hardware.hardware_in(program, chain, chosen_hardware(backup_set, point))
    return _Place(overlay, layers, hardware)


def _own_disks(folder: SessionFolder) -> list[Layer]:
    """The session's own disk, just made."""
    path = folder.files.first_disk
    return [Layer(path, info_of(path))]


def _written(
    folder: SessionFolder,
    program: Program,
    file: Path,
    hardware: Hardware,
    layers: Sequence[Layer],
) -> WrittenMachine:
    how = _HOW[program].format(file=file) + other_hardware.notice(hardware)
    return WrittenMachine(folder.id, file, how + _long_chain(program, len(layers)))


def _long_chain(program: Program, layers: int) -> str:
    """What there is to say before a chain is opened that is long for the program, or ""."""
    if layers <= qemu.MAX_LAYERS:
        return ""
    return tr(
        "\nThis point reads through {layers} disks, and {names} opens each separately: the "
        "machine may take minutes to start. If older points are merged first, it is quick.",
        layers=layers,
        names=NAMES[program],
    )


_HOW = {
    Program.VIRT_MANAGER: tr("Add it with: virsh --connect qemu:///session define '{file}'"),
    Program.VIRTUALBOX: tr("Open it in VirtualBox: Machine, Add, {file}"),
    Program.VMWARE: tr("Open it in VMware: File, Open, {file}"),
}
_CHILDREN = {
    Program.VIRT_MANAGER: libvirt.child,
    Program.VIRTUALBOX: child_disk,
    Program.VMWARE: child_disk,
}
_WRITERS = {
    Program.VIRT_MANAGER: libvirt.write,
    Program.VIRTUALBOX: virtualbox.write,
    Program.VMWARE: vmware.write,
}
_AGAIN = {
    Program.VIRT_MANAGER: libvirt.write_again,
    Program.VIRTUALBOX: virtualbox.write_again,
    Program.VMWARE: vmware.write_again,
}
