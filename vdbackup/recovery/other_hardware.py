"""Which controller a point's disk is on in another program's machine: one that its system knows.

Each program has some of the controllers that a machine of ours can have. What the retarget report
chose comes first; where the program has not got that, the first of its own that the system on the
disk needs no change for.
"""

from __future__ import annotations

from vdbackup.disks.chain import Chain
from vdbackup.errors import CannotBoot
from vdbackup.guest.choice import choose
from vdbackup.guest.hardware import Controller, Hardware, HardwareRequest
from vdbackup.guest.inspect import inspect
from vdbackup.guest.model import Firmware, System
from vdbackup.qemu import launch
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.translation import tr

LIBVIRT = {
    Controller.VIRTIO: ("virtio", "vda", ""),
    Controller.VIRTIO_SCSI: ("scsi", "sda", "virtio-scsi"),
    Controller.AHCI: ("sata", "sda", ""),
    Controller.IDE: ("ide", "hda", ""),
    Controller.PVSCSI: ("scsi", "sda", "vmpvscsi"),
    Controller.SAS: ("scsi", "sda", "lsisas1068"),
    Controller.LSI: ("scsi", "sda", "lsilogic"),
}
"""The disk's bus and name, and the model of its SCSI controller (libvirt's formatdomain.rst)."""
VIRTUALBOX = {
    Controller.AHCI: ("SATA", "AHCI"),
    Controller.IDE: ("IDE", "PIIX4"),
    Controller.VIRTIO_SCSI: ("VirtioSCSI", "VirtioSCSI"),
    Controller.NVME: ("NVMe", "NVMe"),
    Controller.SAS: ("SAS", "LsiLogicSas"),
}
"""A name, and the type (VirtualBox-settings.xsd, TStorageControllerType)."""
VMWARE = {
    Controller.AHCI: ("sata", ""),
    Controller.IDE: ("ide", ""),
    Controller.PVSCSI: ("scsi", "pvscsi"),
    Controller.NVME: ("nvme", ""),
    Controller.SAS: ("scsi", "lsisas1068"),
}
"""The bus, and the model of its SCSI controller."""
OVF = {
    Controller.AHCI: (20, "vmware.sata.ahci"),
    Controller.IDE: (5, "PIIX4"),
    Controller.SAS: (6, "lsilogicsas"),
    Controller.LSI: (6, "lsilogic"),
    Controller.NVME: (20, "vmware.nvme.controller"),
    Controller.PVSCSI: (6, "VirtualSCSI"),
    Controller.VIRTIO_SCSI: (20, "VirtioSCSI"),
}
"""The resource's type and subtype, as VMware writes them and VirtualBox reads them too
(Main/xml/ovfreader.cpp); what both have comes first, and VMware has not got the last."""
_CONTROLLERS = {
    Program.VIRT_MANAGER: tuple(LIBVIRT),
    Program.VIRTUALBOX: tuple(VIRTUALBOX),
    Program.VMWARE: tuple(VMWARE),
}


def hardware_in(program: Program, chain: Chain, chosen: Hardware | None) -> Hardware:
    """What the machine gets there.

    Args:
        program: whose it is.
        chain: the point's disk, through its overlay.
        chosen: what the retarget report says; None where there is none, or it does not boot.

    Raises:
        RecoveryError: the system has no driver for any of the program's controllers, or needs what
            only a machine of ours has.
    """
    best = chosen or launch.hardware_for(chain)
    _refuse_what_only_we_boot(best, NAMES[program])
    if best.controller in _CONTROLLERS[program]:
        return best
    requests = (HardwareRequest(controller, best.firmware) for controller in _CONTROLLERS[program])
    others = [launch.hardware_for(chain, request) for request in requests]
    for other in others:
        if not other.edit.needed and other.direct is None:
            return other
    if not best.boots:  # nobody knows what is on it: let the user try
        return others[0]
    raise CannotBoot(
        tr(
            "The system on this disk boots on {controller}, which {names} has not got, and it has "
            "no driver for what that has: {controllers}.",
            controller=best.controller,
            names=NAMES[program],
            controllers=", ".join(_CONTROLLERS[program]),
        ),
        tr(
            "Retarget the point to {controllers} first, or boot it here.",
            controllers=_CONTROLLERS[program][0],
        ),
    )


def _refuse_what_only_we_boot(hardware: Hardware, who: str) -> None:
    if hardware.direct or hardware.partition:
        what = tr("a volume without its disk")
        if hardware.direct:
            what = tr("a kernel without a boot loader that would find it")
        raise CannotBoot(
            tr("{who} cannot boot this point: it holds {what}.", who=who, what=what),
            tr("Boot it here: that starts it all the same."),
        )


def hardware_in_ovf(chain: Chain) -> tuple[System, Hardware]:
    """What is on a disk, and the machine that it gets in an appliance.

    The disk goes there as it was captured, so what a retargeting changed does not count.

    Raises:
        RecoveryError: only a machine of ours can start what is on it.
        DiskError, OSError: it cannot be read.
    """
    guest = inspect(chain)
    sectors = launch.sector_size_for(chain)
    requests = [HardwareRequest(controller) for controller in OVF]
    machines = [choose(guest, request, sector_size=sectors) for request in requests]
    known = [each for each in machines if not each.edit.needed]
    best = next(
        (each for each in known if each.boots and each.direct is None), (known or machines)[0]
    )
    _refuse_what_only_we_boot(best, tr("An appliance"))
    return guest.system, best


def notice(hardware: Hardware) -> str:
    """What the user has to do in the program for the machine to boot, after a space; or ""."""
    if hardware.firmware is Firmware.UEFI and hardware.loader is not None:
        return tr(" In its firmware, boot from the file {loader}.", loader=hardware.loader.path)
    return ""
