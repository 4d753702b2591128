"""What is not retargeted, because the system would not start, or from what it should not."""

from __future__ import annotations

from collections.abc import Sequence

from vdbackup.errors import NotRetargeted
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Hardware
from vdbackup.guest.model import File, Guest
from vdbackup.recovery.retarget.linux import appliance
from vdbackup.recovery.retarget.linux.names import Names
from vdbackup.translation import tr
from vdbackup.volumes import signatures


def refuse_what_its_loader_would_not_find(guest: Guest, writes: Sequence[appliance.Write]) -> None:
    """Raise NotRetargeted where LILO is to start the system, and would not find what is changed.

    A virtual machine's kernel can be started past it (guest/choice.py), a computer's not.
    """
    read = {file for kernel in guest.kernels for file in (kernel.image, *kernel.initramfs)}
    changed = [each for each in writes if File(each.volume.volume, each.path) in read]
    if guest.by_sectors and changed:
        raise NotRetargeted(
            tr(
                "LILO starts this system, and does not find {path} once that is changed: it has "
                "noted the sectors that it lay in.",
                path=changed[0].path,
            ),
            tr(
                "Start the computer from another medium, change the initramfs from within the "
                "system (chroot), and run lilo there at last. Nothing was changed."
            ),
        )


def refuse_cloned_root(names: Names, hardware: Hardware) -> None:
    """By the UUID that both have, the kernel would start from either, now this one and now that."""
    for name in hardware.edit.names:
        if names.is_root(name.name) and names.is_cloned(name.name):
            raise NotRetargeted(
                tr(
                    "Another disk of this machine has a copy of {name}, with its UUID: the system "
                    "might start from either.",
                    name=name.name,
                ),
                tr("Choose hardware on which the disks have the names that they had."),
            )


def refuse_hibernated(disk: Disk) -> None:
    """A system that goes on where it was holds what is on its disk in memory, as that was."""
    for name, volume in disk.volumes.items():
        swap = volume.filesystem in ("swap", "")
        if swap and signatures.holds_hibernated_system(disk.head(name)):
            raise NotRetargeted(
                tr(
                    "The system in this recovery point is hibernated: it would go on with what it "
                    "remembers of its files, and destroy those that were changed meanwhile."
                ),
                tr("Choose hardware that needs no changes, or use another recovery point."),
            )
