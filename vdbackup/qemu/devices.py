"""QEMU's devices for a machine's hardware, as its -device takes them in JSON.

What each is called: `qemu-system-x86_64 -device help`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vdbackup.errors import CannotBoot
from vdbackup.guest.hardware import Controller, Hardware, MachineType, NetworkCard
from vdbackup.translation import tr

Device = dict[str, Any]

_STOP = {"werror": "stop", "rerror": "stop"}  # NVMe alone does not know it
_SCSI = {"driver": "scsi-hd", "bus": "scsi.0", **_STOP}
_SAS_ADDRESS = 0x3525400000000001
"""Of a disk, made up (NAA 3, QEMU's 52:54:00). Without one it is 0, and no disk to Linux."""
_CONTROLLERS: dict[Controller, tuple[Device, ...]] = {
    Controller.VIRTIO: ({"driver": "virtio-blk-pci", **_STOP},),
    Controller.VIRTIO_SCSI: ({"driver": "virtio-scsi-pci", "id": "scsi"}, _SCSI),
    Controller.AHCI: ({"driver": "ide-hd", "bus": "ide.0", **_STOP},),
    Controller.IDE: ({"driver": "ide-hd", "bus": "ide.0", **_STOP},),
    Controller.NVME: ({"driver": "nvme", "serial": "vdbackup"},),
    Controller.PVSCSI: ({"driver": "pvscsi", "id": "scsi"}, _SCSI),
    Controller.LSI: ({"driver": "lsi53c895a", "id": "scsi"}, _SCSI),
    Controller.SAS: ({"driver": "mptsas1068", "id": "scsi"}, _SCSI | {"wwn": _SAS_ADDRESS}),
}
"""The controller, where the machine has none, and the disk."""
MAX_DISKS = 16
_MOST = {Controller.AHCI: 6, Controller.IDE: 4, Controller.LSI: 7, Controller.SAS: 8}
"""Places for disks; of what is not here each disk is a device of its own, or there are many."""
_USB = {MachineType.Q35: "qemu-xhci", MachineType.PC: "piix3-usb-uhci"}
"""Old systems, which need IDE, know no xHCI."""


def pauses(hardware: Hardware) -> bool:
    """Whether QEMU pauses the guest automatically where its disk cannot be written."""
    return "werror" in _CONTROLLERS[hardware.controller][-1]


def check(hardware: Hardware, sector_sizes: Sequence[int]) -> None:
    """Raise RecoveryError where disks of such sectors, or so many, cannot be on that hardware."""
    most = _MOST.get(hardware.controller, MAX_DISKS)
    if len(sector_sizes) > most:
        raise CannotBoot(
            tr(
                "A virtual machine has at most {most} {controller} disks, and this one has "
                "{count}.",
                most=most,
                controller=hardware.controller,
                count=len(sector_sizes),
            ),
            tr(
                "Choose {virtio} or {virtio_scsi}.",
                virtio=Controller.VIRTIO,
                virtio_scsi=Controller.VIRTIO_SCSI,
            ),
        )
    sector_size = max(sector_sizes)
    if sector_size != 512 and hardware.controller in (Controller.AHCI, Controller.IDE):
        raise CannotBoot(
            tr(
                "QEMU has no {controller} disk with sectors of {sector_size} bytes.",
                controller=hardware.controller,
                sector_size=sector_size,
            ),
            tr("Choose {virtio} or {nvme}.", virtio=Controller.VIRTIO, nvme=Controller.NVME),
        )


def devices(
    hardware: Hardware, disks: Sequence[tuple[str, int]], *, first: int | None
) -> list[Device]:
    """All but the network's card.

    Args:
        hardware: the machine's.
        disks: of each its node and the size of its sectors, in bytes.
        first: the number of that which the firmware boots, and nothing else; None where it has
            another thing to boot.
    """
    *controllers, _ = _CONTROLLERS[hardware.controller]
    return [
        *controllers,
        *(
            _disk(hardware.controller, number)
            | {
                "drive": node,
                "logical_block_size": sector_size,
                "physical_block_size": sector_size,
                **({"bootindex": 0} if number == first else {}),
            }
            for number, (node, sector_size) in enumerate(disks)
        ),
        {"driver": "VGA"},
        {"driver": _USB[hardware.machine], "id": "usb"},
        {"driver": "usb-tablet", "bus": "usb.0"},
        {"driver": "pvpanic"},  # a guest that crashes can say so
    ]


def _disk(controller: Controller, number: int) -> Device:
    """A disk on the controller, the first of them number 0."""
    *_, disk = _CONTROLLERS[controller]
    own: dict[Controller, Device] = {
        Controller.AHCI: {"bus": f"ide.{number}"},
        Controller.IDE: {"bus": f"ide.{number // 2}", "unit": number % 2},
        Controller.SAS: {"wwn": _SAS_ADDRESS + number},
        Controller.NVME: {"serial": f"vdbackup{number or ''}"},
    }
    return disk | own.get(controller, {})


def network_card(card: NetworkCard, address: str) -> Device:
    """A card on QEMU's own network, at which nobody can reach the guest."""
    return {"driver": card.value, "netdev": "network", "mac": address}
