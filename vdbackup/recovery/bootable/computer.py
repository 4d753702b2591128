"""What this computer needs of a system that is to start on it: drivers for a disk, its firmware.

The kernel names each device between the processor and the disk by a line that says what it is
("modalias"), and each kernel says by patterns which of its drivers are for what. So a system's own
kernel is asked which of its drivers reach this disk; only where it does not say are they the ones
that reach it now. Sources: the kernel's Documentation/ABI/testing/sysfs-bus-* and modules.alias as
depmod(8) writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vdbackup.agent.block_devices import SYS_BLOCK
from vdbackup.agent.stacking import number_of
from vdbackup.guest.hardware import Controller
from vdbackup.guest.linux.presence import unescaped
from vdbackup.guest.model import Firmware
from vdbackup.translation import tr

FIRMWARE = Path("/sys/firmware/efi")
"""There only where this computer was started by UEFI."""
NAMES = {"UUID": Path("/dev/disk/by-uuid"), "LABEL": Path("/dev/disk/by-label")}
"""Where udev links what is called so to its device."""
_CONTROLLERS = {
    "virtio_blk": Controller.VIRTIO,
    "virtio_scsi": Controller.VIRTIO_SCSI,
    "ahci": Controller.AHCI,
    "nvme": Controller.NVME,
    "ata_piix": Controller.IDE,
    "vmw_pvscsi": Controller.PVSCSI,
    "mptsas": Controller.SAS,
}
"""What a Windows has drivers for, by the module of Linux that is bound to it."""


@dataclass(frozen=True)
class Step:
    """A device on the way to a disk.

    Attributes:
        alias: what it is, as drivers name it.
        driver: the module that is bound to it now; "" where none is, or it is built in.
    """

    alias: str
    driver: str


@dataclass(frozen=True)
class Computer:
    """What a disk is reached by.

    Attributes:
        firmware: that this computer was started by.
        way: from the disk to the processor.
    """

    firmware: Firmware
    way: tuple[Step, ...]

    @property
    def controller(self) -> Controller | None:
        """What the disk hangs on; None where that is not known by a name of ours."""
        found = (_CONTROLLERS.get(step.driver) for step in self.way)
        return next(filter(None, found), None)

    @property
    def words(self) -> str:
        """What the disk hangs on, for the middle of a sentence."""
        names = [step.driver for step in self.way if step.driver]
        return ", ".join(dict.fromkeys(names)) or tr("what its kernel has built in")

    def drivers(self, aliases: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """What a system has to load before its root is there.

        Args:
            aliases: (pattern, module) of its kernel, of all modules that it has.
        """
        names: dict[str, None] = {}
        for step in self.way:
            fitting = [module for pattern, module in aliases if fnmatchcase(step.alias, pattern)]
            if step.driver in fitting or (step.driver and not fitting):
                fitting = [step.driver]
            names |= dict.fromkeys(fitting)
        return tuple(names)


def has(name: str) -> bool:
    """Whether a name of fstab, such as UUID=..., means a device that this computer has."""
    kind, _, value = name.partition("=")
    if folder := NAMES.get(kind.upper()):
        links = folder.iterdir() if folder.is_dir() else ()
        wanted = unescaped(value.strip('"')).lower()
        return any(unescaped(link.name).lower() == wanted for link in links)
    return name.startswith("/dev/") and Path(name).exists()


def of(disk: Path) -> Computer:
    """What this computer reaches a disk by; raises OSError where the kernel does not say."""
    device = (SYS_BLOCK / (number_of(str(disk)) or "")).resolve(strict=True)
    firmware = Firmware.UEFI if FIRMWARE.is_dir() else Firmware.BIOS
    return Computer(firmware, tuple(_way(device)))


def _way(device: Path) -> Iterator[Step]:
    for place in (device, *device.parents):
        try:
            alias = (place / "modalias").read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            continue
        module = (place / "driver" / "module").resolve()
        loaded = (module / "initstate").exists()  # which what is built in has not
        yield Step(alias, module.name.replace("-", "_") if loaded else "")
