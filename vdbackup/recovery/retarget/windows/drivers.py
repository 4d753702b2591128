r"""Drivers that a Windows does not have: their files, and what makes it start them at boot.

The files come from a folder that the user names, such as what virtio-win.iso holds; it is made as
<driver>/<version of Windows>/<architecture>/. Nothing is fetched.

What the registry needs so that a driver binds to a device that Windows has never seen is no secret
of its installer alone: up to Windows 7 an entry in CriticalDeviceDatabase, since Windows 8 a driver
package in DriverDatabase. virt-v2v (mlcustomize/inject_virtio_win.ml in libguestfs-common) does the
same. The package's files go into Windows' folder INF besides, where a running Windows looks for
drivers of new devices, so that it can install the rest. Tried on hives of Windows 7 and 10 as far
as other readers go; not by booting one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vdbackup.errors import NoDriver
from vdbackup.guest.hardware import Controller
from vdbackup.guest.windows.inspect import Windows
from vdbackup.recovery.retarget.windows.hive_edit import (
    BINARY,
    EXPAND_SZ,
    MULTI_SZ,
    Data,
    KeyEdit,
    number,
    text,
)
from vdbackup.translation import tr

DRIVERS = {
    Controller.VIRTIO: ("viostor", ("VEN_1AF4&DEV_1001&REV_00", "VEN_1AF4&DEV_1042&REV_01")),
    Controller.VIRTIO_SCSI: ("vioscsi", ("VEN_1AF4&DEV_1004&REV_00", "VEN_1AF4&DEV_1048&REV_01")),
}
"""By controller: the driver, and the devices that QEMU shows: virtio's of old, and of 1.0."""

_SCSI = "{4D36E97B-E325-11CE-BFC1-08002BE10318}"
_IDE = "{4D36E96A-E325-11CE-BFC1-08002BE10318}"
_SCSI_BYTES = bytes.fromhex("7be9364d25e3ce11bfc108002be10318")

IN_BOX_DEVICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "intelide": (_IDE, ("PCI#VEN_8086&DEV_7010",)),
    "pciide": (_IDE, ("PCI#CC_0101",)),
    "atapi": (_IDE, ("Primary_IDE_Channel", "Secondary_IDE_Channel")),
    "msahci": (_IDE, ("PCI#CC_010601",)),
    "storahci": (_SCSI, ("PCI#CC_010601",)),
    "stornvme": (_SCSI, ("PCI#CC_010802",)),
    "viostor": (_SCSI, tuple(f"PCI#{device}" for device in DRIVERS[Controller.VIRTIO][1])),
    "vioscsi": (_SCSI, tuple(f"PCI#{device}" for device in DRIVERS[Controller.VIRTIO_SCSI][1])),
}
"""Of services: the class of their devices, and these as CriticalDeviceDatabase calls them."""

_FOLDERS = (
    ((10, 0, 26100), "2k25", "w11"),
    ((10, 0, 22000), "2k22", "w11"),
    ((10, 0, 20348), "2k22", "w10"),
    ((10, 0, 17763), "2k19", "w10"),
    ((10, 0, 0), "2k16", "w10"),
    ((6, 3, 0), "2k12R2", "w8.1"),
    ((6, 2, 0), "2k12", "w8"),
    ((6, 1, 0), "2k8R2", "w7"),
    ((6, 0, 0), "2k8", "2k8"),
    ((5, 2, 0), "2k3", "2k3"),
    ((5, 1, 0), "xp", "xp"),
)
"""From which version on virtio-win has a folder, and what it calls it for servers and others."""
_ARCHITECTURES = {
    "x86_64": ("amd64", 0x8664),
    "i386": ("x86", 0x014C),
    "aarch64": ("arm64", 0xAA64),
}
"""virtio-win's word, and the one in a program's header (PE format, "Machine Types")."""
_MAX_FILES = 100_000
_MAX_SIZE = 32 << 20


@dataclass(frozen=True)
class DriverFiles:
    """A driver's files: its program, and what belongs to it (.inf, .cat)."""

    name: str
    program: Path
    others: tuple[Path, ...]


def find_driver(folder: Path, name: str, windows: Windows) -> DriverFiles:
    """The files of a driver for that Windows, in a folder or anywhere below it.

    Raises:
        RecoveryError: there are none, or they are for another architecture.
    """
    wanted = f"{name}.sys"
    found = [path for path in _files(folder) if path.name.lower() == wanted]
    beside = [path for path in found if path.parent == folder]
    program = beside[0] if beside else _best(found, folder, windows)
    if program is None:
        raise NoDriver(
            tr(
                "{folder} has no {wanted} for {windows} ({architecture}).",
                folder=folder,
                wanted=wanted,
                windows=windows.name,
                architecture=windows.architecture or tr("unknown"),
            ),
            tr(
                "Name the folder that holds what virtio-win.iso holds, or the one with that driver."
            ),
        )
    _check_program(program, windows)
    names = (f"{name}.inf", f"{name}.cat")
    others = sorted(path for path in program.parent.iterdir() if path.name.lower() in names)
    return DriverFiles(name, program, tuple(others))


def service_keys(name: str, control_set: str) -> KeyEdit:
    """What starts a driver at boot."""
    return KeyEdit(
        f"{control_set}\\Services\\{name}",
        {
            "Type": number(1),
            "Start": number(0),
            "ErrorControl": number(1),
            "Group": text("SCSI miniport"),
            "ImagePath": text(f"system32\\drivers\\{name}.sys", EXPAND_SZ),
        },
    )


def package_keys(name: str, devices: tuple[str, ...]) -> Iterator[KeyEdit]:
    """A driver package for devices, as Windows 8 and later look for one when they start."""
    package, configuration = f"vdbackup-{name}.inf", f"vdbackup-{name}"
    label = f"{package}_vdbackup"
    yield KeyEdit(
        f"DriverDatabase\\DriverInfFiles\\{package}",
        {
            "": text(label, MULTI_SZ),
            "Active": text(label),
            "Configurations": text(configuration, MULTI_SZ),
        },
    )
    below = f"DriverDatabase\\DriverPackages\\{label}"
    version = bytes.fromhex("00ff090000000000") + _SCSI_BYTES + bytes(24)
    yield KeyEdit(below, {"Version": Data(BINARY, version)})
    yield KeyEdit(
        f"{below}\\Configurations\\{configuration}",
        {"ConfigFlags": number(0), "Service": text(name)},
    )
    for device in devices:
        yield KeyEdit(
            f"DriverDatabase\\DeviceIds\\PCI\\{device}",
            {package: Data(BINARY, bytes.fromhex("01ff0000"))},
        )
        yield KeyEdit(
            f"{below}\\Descriptors\\PCI\\{device}", {"Configuration": text(configuration)}
        )


def critical_keys(name: str, control_set: str) -> Iterator[KeyEdit]:
    """That a service drives its devices, as Windows 7 and earlier look it up when they start."""
    device_class, devices = IN_BOX_DEVICES.get(name, ("", ()))
    for device in devices:
        yield KeyEdit(
            f"{control_set}\\Control\\CriticalDeviceDatabase\\{device}",
            {"Service": text(name), "ClassGUID": text(device_class)},
        )


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise NoDriver(
            tr("{folder} is not a folder.", folder=folder),
            tr("Name the folder with the drivers' files; of an ISO, the folder it is mounted at."),
        )
    walked = ((Path(at) / name) for at, _, names in os.walk(folder) for name in names)
    return itertools.islice(walked, _MAX_FILES)


def _best(found: list[Path], folder: Path, windows: Windows) -> Path | None:
    """The one for this architecture and the version of Windows, or the next older one."""
    word, _ = _ARCHITECTURES.get(windows.architecture, ("", 0))
    version = tuple(int(part) for part in windows.version.split(".") if part.isdecimal())
    server = "server" in windows.name.lower()
    for least, servers, clients in _FOLDERS:
        if version < least:
            continue
        for path in sorted(found):
            parts = {part.lower() for part in path.relative_to(folder).parts[:-1]}
            if {word, (servers if server else clients).lower()} <= parts:
                return path
    return None


def _check_program(program: Path, windows: Windows) -> None:
    """It is a program for the architecture of that Windows."""
    _, wanted = _ARCHITECTURES.get(windows.architecture, ("", 0))
    with program.open("rb") as file:
        head = file.read(4096)
    at = int.from_bytes(head[60:64], "little")
    machine = int.from_bytes(head[at + 4 : at + 6], "little")
    is_program = head[:2] == b"MZ" and head[at : at + 4] == b"PE\0\0"
    if not is_program or program.stat().st_size > _MAX_SIZE or (wanted and machine != wanted):
        raise NoDriver(
            tr(
                "{program} is not a driver for this Windows ({architecture}).",
                program=program,
                architecture=windows.architecture or tr("unknown"),
            ),
            tr("Name the folder with the driver for its version and architecture."),
        )
