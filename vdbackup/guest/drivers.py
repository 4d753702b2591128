"""Which of a guest's drivers find a disk or a network on which of QEMU's devices.

A driver is a module of Linux, by its name with underscores, or a service of Windows. What Linux
builds in counts as there. A SCSI disk needs sd_mod besides its controller's driver; what a module
depends on comes with it.

Sources: the drivers' tables of devices in Linux's source; for Windows Microsoft's in-box drivers.
"""

from __future__ import annotations

from vdbackup.guest.hardware import Controller, NetworkCard

LINUX: dict[Controller, tuple[frozenset[str], ...]] = {
    Controller.VIRTIO: (frozenset({"virtio_pci", "virtio_blk"}),),
    Controller.VIRTIO_SCSI: (frozenset({"virtio_pci", "virtio_scsi", "sd_mod"}),),
    Controller.AHCI: (frozenset({"ahci", "sd_mod"}),),
    Controller.IDE: (frozenset({"ata_piix", "sd_mod"}), frozenset({"ata_generic", "sd_mod"})),
    Controller.NVME: (frozenset({"nvme"}),),
    Controller.PVSCSI: (frozenset({"vmw_pvscsi", "sd_mod"}),),
    Controller.LSI: (frozenset({"sym53c8xx", "sd_mod"}),),
    Controller.SAS: (frozenset({"mptsas", "sd_mod"}),),
}
"""By controller: the modules that make a disk of it; any one of the groups does."""

WINDOWS: dict[Controller, tuple[frozenset[str], ...]] = {
    Controller.VIRTIO: (frozenset({"viostor"}),),
    Controller.VIRTIO_SCSI: (frozenset({"vioscsi"}),),
    Controller.AHCI: (frozenset({"storahci"}), frozenset({"msahci"})),
    Controller.IDE: (frozenset({"intelide", "atapi"}), frozenset({"pciide", "atapi"})),
    Controller.NVME: (frozenset({"stornvme"}),),
    Controller.PVSCSI: (frozenset({"pvscsi"}),),
    Controller.SAS: (frozenset({"lsi_sas"}),),
}

LINUX_NETWORK: dict[NetworkCard, frozenset[str]] = {
    NetworkCard.VIRTIO: frozenset({"virtio_net"}),
    NetworkCard.E1000E: frozenset({"e1000e"}),
    NetworkCard.E1000: frozenset({"e1000"}),
    NetworkCard.RTL8139: frozenset({"8139cp"}),
    NetworkCard.VMXNET3: frozenset({"vmxnet3"}),
}

KNOWN = frozenset().union(
    *(group for groups in LINUX.values() for group in groups), *LINUX_NETWORK.values()
)
"""The modules that QEMU's hardware has use for."""
