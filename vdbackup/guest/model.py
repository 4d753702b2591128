"""What a disk holds and what that needs to boot: plain values, as an inspection leaves them.

All of them go into a report and come back through records.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vdbackup.records import LATER, OurWords


class System(StrEnum):
    """What kind of operating system a disk holds.

    OTHER: none that is known, but something that a firmware starts. NONE: nothing that boots.
    """

    LINUX = "linux"
    WINDOWS = "windows"
    OTHER = "other"
    NONE = "none"


class Firmware(StrEnum):
    """What a machine's processor executes first."""

    BIOS = "bios"
    UEFI = "uefi"


class LoaderKind(StrEnum):
    """A boot loader's name; OTHER is code that is none of these."""

    GRUB = "grub"
    SYSTEMD_BOOT = "systemd-boot"
    SYSLINUX = "syslinux"
    LILO = "lilo"
    REFIND = "refind"
    LIMINE = "limine"
    UNIFIED = "unified kernel image"
    WINDOWS = "windows"
    OTHER = "other"


class Generator(StrEnum):
    """What made an initramfs, and would make it again."""

    INITRAMFS_TOOLS = "initramfs-tools"
    DRACUT = "dracut"
    MKINITCPIO = "mkinitcpio"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Run:
    """A stretch of the disk, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True)
class FileSystem:
    """A volume that the system uses.

    Attributes:
        volume: its name in volumes/volumes.py: "p2", "vg-root" of LVM, "" where it is the disk.
        kind: "ext4", "XFS", "Btrfs", "FAT32", "NTFS", ...
        uuid, label: by which a boot loader or fstab finds it; "" if it has none.
        runs: where on the disk it lies; several only for a logical volume of LVM.
        logical: its logical volume as LVM names it ("vg/root"); "" if it is none.
        subvolume: of Btrfs, in which the system lies ("@", "root"); "" if at the top.
    """

    volume: str
    kind: str
    uuid: str = ""
    label: str = ""
    runs: tuple[Run, ...] = ()
    logical: str = ""
    subvolume: str = ""


@dataclass(frozen=True)
class File:
    """A file: the volume's name, and the path in that volume from "/" on."""

    volume: str
    path: str


@dataclass(frozen=True)
class Kernel:
    """A Linux kernel that the disk can boot.

    Attributes:
        version: as `uname -r` says it, "6.1.0-49-amd64".
        image, initramfs: where they lie. Several initramfs are one after the other in memory.
        command_line: from the boot loader's configuration, without the image's name.
        generator: of the initramfs.
        initramfs_drivers: the modules in the initramfs, by name with underscores, sorted.
        built_in: what is built into the kernel, likewise.
        modules: those of all that /lib/modules holds for it that QEMU's hardware has use for.
        architecture: "x86_64", "i386", "aarch64", ...; "" if it is not known.
    """

    version: str
    image: File
    initramfs: tuple[File, ...] = ()
    command_line: str = ""
    generator: Generator = Generator.UNKNOWN
    initramfs_drivers: tuple[str, ...] = ()
    built_in: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    architecture: str = ""

    @property
    def early(self) -> frozenset[str]:
        """The drivers that are there before the root is mounted."""
        return frozenset(self.initramfs_drivers) | frozenset(self.built_in)


@dataclass(frozen=True)
class Loader:
    """A boot loader.

    Attributes:
        firmware: that starts it.
        configuration: where its configuration lies; None if it was not found.
        program: of UEFI: where on the EFI system partition it lies; None with a BIOS.
        fallback: of UEFI: the firmware finds it by itself, as EFI/BOOT/BOOTX64.EFI.
    """

    kind: LoaderKind
    firmware: Firmware
    configuration: File | None = None
    program: File | None = None
    fallback: bool = False


@dataclass(frozen=True)
class DeviceName:
    """A device by the name that the system gives it.

    Attributes:
        name: the device.
        file: that relies on it: fstab, crypttab, a boot loader's configuration.
        line: from 1 on.
        essential: the system does not start where there is no such device.
        fixed: it stands in a program, which may be signed, and cannot be changed.
    """

    name: str
    file: File
    line: int
    essential: bool = True
    fixed: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True)
class Problem:
    """What stands in the way of a boot.

    Attributes:
        sentence: what is wrong.
        advice: what to do.
        blocks: it cannot boot here; else it may, and should be known.
    """

    sentence: OurWords
    advice: OurWords = ""
    blocks: bool = True


@dataclass(frozen=True)
class Guest:
    """What a disk holds and what that needs to boot.

    Attributes:
        name: for a person: "Debian GNU/Linux 12 (bookworm)"; "" if it is not known.
        version: VERSION_ID of Linux ("12"); of Windows "10.0.19045".
        architecture: "x86_64", "i386", "aarch64", ...; "" if it is not known.
        sector_size: that the disk's tables count in, in bytes.
        root: where the system lies; None if there is none.
        boot: what is mounted at /boot; None where that is a folder of the root.
        efi: the EFI system partition, None if there is none.
        loaders: preferred first.
        firmware_reason: why the first one's firmware is preferred, in a sentence.
        kernels: what the boot loader starts automatically first, then by version, newest first.
        services: of Windows: drivers that it starts at boot ("storahci", "stornvme").
        inactive_services: of Windows: those that are there and that it does not start at boot.
        device_names: on which the system relies.
        absent: what its start waits for, and what none of the machine's disks has; `essential`
            where it then gets no further than systemd's emergency mode.
        graphical: it starts a desktop.
        alone: the disk is a single volume, without a partition table.
        problems: what is known to stand in the way, whatever hardware it gets.
    """

    system: System
    name: str = ""
    version: str = ""
    architecture: str = ""
    sector_size: int = 512
    root: FileSystem | None = None
    boot: FileSystem | None = None
    efi: FileSystem | None = None
    loaders: tuple[Loader, ...] = ()
    firmware_reason: OurWords = ""
    kernels: tuple[Kernel, ...] = ()
    services: tuple[str, ...] = ()
    inactive_services: tuple[str, ...] = ()
    device_names: tuple[DeviceName, ...] = ()
    graphical: bool = False
    alone: bool = False
    problems: tuple[Problem, ...] = ()
    absent: tuple[DeviceName, ...] = field(default=(), metadata=LATER)

    @property
    def firmware(self) -> tuple[Firmware, ...]:
        """By which its boot loaders can be started, preferred first."""
        return tuple(dict.fromkeys(loader.firmware for loader in self.loaders))

    @property
    def by_sectors(self) -> bool:
        """Whether what starts it names the sectors of its files, which a change of them moves."""
        return bool(self.loaders) and self.loaders[0].kind is LoaderKind.LILO

    @property
    def kernel(self) -> Kernel | None:
        """The one that boots automatically."""
        return self.kernels[0] if self.kernels else None
