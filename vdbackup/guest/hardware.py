"""The virtual hardware that a guest can get: plain values; guest/choice.py chooses among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vdbackup.guest.model import DeviceName, File, Firmware, Problem
from vdbackup.records import LATER, OurWords


class Controller(StrEnum):
    """What the guest finds its disk on."""

    VIRTIO = "virtio"
    VIRTIO_SCSI = "virtio-scsi"
    AHCI = "ahci"
    IDE = "ide"
    NVME = "nvme"
    PVSCSI = "pvscsi"
    LSI = "lsi"
    SAS = "sas"


class MachineType(StrEnum):
    """QEMU's names of the machines of a PC: of 2009, with PCI Express, and of 1996."""

    Q35 = "q35"
    PC = "pc"


class NetworkCard(StrEnum):
    """QEMU's names of network cards."""

    VIRTIO = "virtio-net-pci"
    E1000E = "e1000e"
    E1000 = "e1000"
    RTL8139 = "rtl8139"
    VMXNET3 = "vmxnet3"


@dataclass(frozen=True)
class HardwareRequest:
    """What the user wants; None leaves it to the guest's drivers.

    Attributes:
        network: the guest gets a network of QEMU's own, by which it reaches out and nobody it.
        directly: its kernel is started past a boot loader that finds its files no more.
    """

    controller: Controller | None = None
    firmware: Firmware | None = None
    memory_mib: int | None = None
    network: bool = False
    directly: bool = False


ANYTHING = HardwareRequest()


@dataclass(frozen=True)
class Direct:
    """A kernel that QEMU starts itself, where no boot loader does.

    Attributes:
        kernel, initramfs: files on the guest's disk.
        command_line: complete.
    """

    kernel: File
    initramfs: tuple[File, ...]
    command_line: str


@dataclass(frozen=True)
class Edit:
    """What would have to be changed on the overlay for the chosen hardware to do.

    Attributes:
        drivers: modules (Linux) or services (Windows) that have to be there early.
        names: devices that have to be called by something that stays, such as UUID=; those that
            the system starts without are among them.
        possible: the guest has what is needed: the drivers lie in its /lib/modules.
        fixed: devices that it does not start without, called so where nothing can be changed.
        absent: devices that it must not wait for, because none of the disks has them.
    """

    drivers: tuple[str, ...] = ()
    names: tuple[DeviceName, ...] = ()
    possible: bool = True
    fixed: tuple[DeviceName, ...] = field(default=(), metadata=LATER)
    absent: tuple[DeviceName, ...] = field(default=(), metadata=LATER)

    @property
    def needed(self) -> bool:
        """Whether there is anything to change for the hardware."""
        return bool(self.drivers) or any(name.essential for name in self.names)


@dataclass(frozen=True)
class Hardware:
    """A virtual machine's hardware, as chosen for a guest.

    Attributes:
        controller: of the disk.
        machine: its type.
        firmware: BIOS or UEFI.
        memory_mib: in MiB.
        network_card: that the guest has a driver for; used only where a network is asked for.
        loader: with UEFI: the program on the EFI system partition that a boot entry has to name;
            None where the firmware finds one by itself.
        direct: the kernel to start; None where the firmware boots the disk.
        partition: the number that the guest's volume gets in a disk that is composed around it;
            0 where the disk is used as it is.
        reasons: why, a sentence for each part of the choice.
        edit: what has to be changed on the overlay first.
        problems: why it will not boot, or may not.
    """

    controller: Controller = Controller.VIRTIO
    machine: MachineType = MachineType.Q35
    firmware: Firmware = Firmware.BIOS
    memory_mib: int = 1024
    network_card: NetworkCard = NetworkCard.E1000E
    loader: File | None = None
    direct: Direct | None = None
    partition: int = 0
    reasons: tuple[OurWords, ...] = ()
    edit: Edit = Edit()
    problems: tuple[Problem, ...] = ()

    @property
    def boots(self) -> bool:
        """Whether the guest can be expected to boot with it, as its disk is now."""
        return not self.edit.needed and not any(problem.blocks for problem in self.problems)
