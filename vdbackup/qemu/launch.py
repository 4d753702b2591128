"""What a machine needs in its session's folder before QEMU starts: disk, firmware, kernel.

map.*, layer<n>       the chain, where QEMU cannot read it or a disk is composed around it; what
                      many small layers show is copied together there (gathering.py)
tables.bin            the partition tables of a composed disk
variables.fd          the UEFI's variables
kernel, initramfs     copied out of the disk, where no boot loader starts them
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import CannotBoot, GuestUnreadable, RecoveryError, SessionsFolder
from vdbackup.guest.choice import choose
from vdbackup.guest.disk import Disk, disk_of
from vdbackup.guest.hardware import ANYTHING, Direct, Hardware, HardwareRequest
from vdbackup.guest.inspect import inspect
from vdbackup.guest.linux.initramfs import MAX_PACKED
from vdbackup.guest.model import File, Firmware
from vdbackup.qemu import concatenation, firmware, qemu
from vdbackup.qemu.gathering import gathered
from vdbackup.translation import tr
from vdbackup.volumes import composition

log = logging.getLogger(__name__)

_MAX_KERNEL = 512 << 20


@dataclass(frozen=True)
class Prepared:
    """What QEMU starts with.

    Attributes:
        backing: the disk.
        size: of it, in bytes.
        uefi: the firmware; None with a BIOS.
        kernel: None where the firmware boots the disk.
    """

    backing: qemu.Backing
    size: int
    uefi: qemu.Uefi | None
    kernel: qemu.Kernel | None


def hardware_for(
    chain: Chain,
    request: HardwareRequest = ANYTHING,
    sector_size: int | None = None,
    others: Sequence[Chain] = (),
) -> Hardware:
    """The hardware that suits what a disk holds; raises DiskError, OSError.

    Args:
        chain: the disk.
        request: what the user wants.
        sector_size: that the guest sees, in bytes; that of the disk's tables if None.
        others: the machine's other disks.
    """
    return choose(
        inspect(chain, others),
        request,
        sector_size=sector_size or sector_size_for(chain),
        host_memory_mib=_host_memory_mib(),
    )


def sector_size_for(chain: Chain) -> int:
    """Bytes of a sector as the guest must see it: what its disk's tables count in.

    A raw file says nothing of it, and what was restored to other sectors keeps its tables.
    """
    try:
        return Disk(chain).sector_size
    except RecoveryError:  # a damaged table is told of by whoever chooses the hardware
        return chain.sector_size


def refuse_what_cannot_boot(hardware: Hardware) -> None:
    """Raise RecoveryError with the first reason why it cannot boot, if there is one."""
    for problem in hardware.problems:
        if problem.blocks:
            raise CannotBoot(problem.sentence, problem.advice)


def boot_disk(chain: Chain, others: Sequence[Chain], hardware: Hardware) -> int:
    """Which of a machine's disks its firmware starts from, from 0."""
    if hardware.loader is not None:
        return disk_of(hardware.loader.volume)
    if not others or hardware.firmware is not Firmware.UEFI:
        return 0
    efi = inspect(chain, others).efi
    return disk_of(efi.volume) if efi is not None else 0


def prepare(
    folder: Path,
    chain: Chain,
    disk_format: DiskFormat,
    hardware: Hardware,
    others: Sequence[Chain] = (),
) -> Prepared:
    """Make the files that a machine needs.

    Args:
        folder: the session's.
        chain: the disk; its files are linked to, or of very many the smallest copied together.
        disk_format: of the chain.
        hardware: the machine's.
        others: its other disks, for whose files this is not asked.

    Raises:
        RecoveryError: there is no UEFI here, the chain has no map, a kernel cannot be read, or the
            folder cannot be written to.
    """
    try:
        disk, size = _backing(folder, chain, disk_format, hardware)
        uefi = _uefi(folder, hardware) if hardware.firmware is Firmware.UEFI else None
        direct = hardware.direct
        kernel = _kernel(folder, Disk(chain, others), direct) if direct else None
    except OSError as error:
        raise SessionsFolder(
            tr(
                "The session's folder {folder} cannot be written to: {reason}.",
                folder=folder,
                reason=error.strerror,
            ),
            tr("Choose another folder for sessions, or free some space there."),
        ) from error
    return Prepared(disk, size, uefi, kernel)


def backing(folder: Path, chain: Chain, disk_format: DiskFormat) -> qemu.Backing:
    """A chain as QEMU reads it; raises what `prepare` does of it, and OSError."""
    return qemu.Backing.of(folder, chain, disk_format)


def _backing(
    folder: Path, chain: Chain, disk_format: DiskFormat, hardware: Hardware
) -> tuple[qemu.Backing, int]:
    if hardware.partition:
        files = gathered(folder, chain)
        composed = composition.compose(
            files.flat, len(files.paths), hardware.partition, chain.sector_size
        )
        paths = [*files.paths, composition.write(composed, folder)]
        made = concatenation.build(folder, composed.flat, paths)
        return qemu.Backing.of_map(made), composed.flat.size
    return backing(folder, chain, disk_format), chain.size


def _uefi(folder: Path, hardware: Hardware) -> qemu.Uefi:
    """The firmware; variables that a session kept are its own and stay."""
    found = firmware.find()
    variables = folder / "variables.fd"
    if not variables.exists():
        program = hardware.loader.path if hardware.loader else None
        firmware.write_variables(found, variables, program)
    return qemu.Uefi(found.code, variables)


def _kernel(folder: Path, disk: Disk, direct: Direct) -> qemu.Kernel:
    image = folder / "kernel"
    image.write_bytes(_content(disk, direct.kernel, _MAX_KERNEL))
    initramfs = folder / "initramfs" if direct.initramfs else None
    if initramfs is not None:
        with initramfs.open("wb") as file:
            for part in direct.initramfs:
                file.write(_content(disk, part, MAX_PACKED))
                file.write(bytes(-file.tell() % 512))  # archives begin at multiples of 4
    return qemu.Kernel(image, initramfs, direct.command_line)


def _content(disk: Disk, file: File, most: int) -> bytes:
    tree = disk.trees.get(file.volume)
    content = tree.read(file.path, most) if tree is not None else None
    if not content:
        raise GuestUnreadable(
            tr("{file}, which starts the system on this disk, cannot be read.", file=file.path),
            tr("Try another recovery point."),
        )
    return content


def _host_memory_mib() -> int:
    return (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20
