"""What another program has made of a disk: seen by reading it before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vdbackup.disks.chain import Chain
from vdbackup.errors import NotRetargeted
from vdbackup.guest.choice import choose
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Controller, Hardware, HardwareRequest
from vdbackup.guest.inspect import inspect
from vdbackup.guest.linux.initramfs import MAX_PACKED
from vdbackup.guest.model import File, Guest
from vdbackup.recovery.retarget.report import FileChange
from vdbackup.translation import tr


def hardware(chain: Chain, program: str) -> Hardware:
    """What the disk boots on after `program`: virtio, which it has to have drivers for now.

    Raises:
        RecoveryError: it has not, as a Windows may for which there are no drivers.
    """
    guest = inspect(chain)
    found = choose(guest, HardwareRequest(Controller.VIRTIO), sector_size=guest.sector_size)
    if not found.boots:
        raise NotRetargeted(
            tr("{program} has not made the system ready for virtio.", program=program),
            tr(
                "The overlay is as it was. Retarget without {program}, or choose hardware that "
                "fits.",
                program=program,
            ),
        )
    why = tr("virtio, which {program} has made the system ready for.", program=program)
    return replace(found, reasons=(why, *found.reasons[1:]))


def changes(before: Chain, after: Chain) -> Iterator[FileChange]:
    """What became of the files that decide how a system boots: fstab and the like, initramfs."""
    disks = Disk(before), Disk(after)
    files = [file for chain in (before, after) for file in _deciding(inspect(chain))]
    for file in dict.fromkeys(files):
        old, new = (_content(disk, file) for disk in disks)
        if old != new:
            yield FileChange(file.volume, file.path, _shown(old), _shown(new)).cut()


def _deciding(guest: Guest) -> Iterator[File]:
    yield from (name.file for name in (*guest.device_names, *guest.absent))
    yield from (loader.configuration for loader in guest.loaders if loader.configuration)
    yield from (file for kernel in guest.kernels for file in kernel.initramfs)


def _content(disk: Disk, file: File) -> bytes:
    tree = disk.trees.get(file.volume)
    return (tree.read(file.path, MAX_PACKED) or b"") if tree is not None else b""


def _shown(content: bytes) -> str:
    return (
        tr("{count} bytes", count=len(content))
        if b"\0" in content
        else content.decode(errors="replace")
    )
