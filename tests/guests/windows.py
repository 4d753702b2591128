"""Disks that look like a Windows': NTFS with the registry's real layout, and nothing that runs.

The hives are made by hivexsh from an empty one, the volume by mkntfs and wimlib, without mounting.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.volumes import volumes
from tests.volumes.volumes import MIB

Service = tuple[int, int | None]
"""Start, and what its StartOverride says; None: it has none."""

MODERN: dict[str, Service] = {
    "atapi": (0, None),
    "intelide": (0, 3),
    "LSI_SAS": (3, None),
    "pciide": (0, 3),
    "storahci": (3, 3),
    "stornvme": (0, None),
}
"""Of a Windows 10 that was installed on NVMe: the rest is switched off."""
OF_2009: dict[str, Service] = {
    "atapi": (0, None),
    "intelide": (3, None),
    "msahci": (3, None),
    "pciide": (0, None),
}
"""Of a Windows 7 that was installed on IDE."""
OF_A_RAID: dict[str, Service] = {
    "iaStorV": (0, None),
    "intelide": (0, 3),
    "storahci": (0, 3),
    "stornvme": (0, 3),
}
"""Of a Windows 10 that was installed on a vendor's RAID: nothing starts that QEMU has."""
_ELSEWHERE = {"tcpip": (0, None), "Größe": (3, None)}
"""Services that have nothing to do with disks; one whose name is not ASCII."""

VOLUME_AT, VOLUME_SIZE = 1 * MIB, 16 * MIB
"""Of a disk for a BIOS, in bytes."""


@dataclass(frozen=True)
class Release:
    """What the registry says of a Windows."""

    name: str
    version: tuple[int, int]
    build: int
    services: Mapping[str, Service]
    architecture: str = "AMD64"

    @property
    def modern(self) -> bool:
        """It has a DriverDatabase; before, there was a CriticalDeviceDatabase."""
        return self.version >= (6, 2)


TEN = Release("Windows 10 Pro", (10, 0), 19045, MODERN)
ELEVEN = Release("Windows 10 Home", (10, 0), 22631, MODERN)  # so it says
SEVEN = Release("Windows 7 Professional", (6, 1), 7601, OF_2009)
RAID = Release("Windows 10 Pro", (10, 0), 19045, OF_A_RAID)
SERVER = Release("Windows Server 2019 Standard", (10, 0), 17763, MODERN)


@dataclass
class Script:
    """What hivexsh is told."""

    lines: list[str] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def key(self, path: str, **values: str) -> None:
        """Make a key and all above it; values in hivexsh's notation ("dword:3")."""
        above = ""
        for name in path.split("\\"):
            if f"{above}\\{name}" not in self.made:
                self.lines += [f"cd {above or chr(92) + ' '}", f"add {name}"]
                self.made.add(f"{above}\\{name}")
            above += f"\\{name}"
        self.lines += [f"cd {above}", f"setval {len(values)}"]
        for name, value in values.items():
            self.lines += [name, value]

    def run(self, hive: Path) -> None:
        """Make the hive."""
        hive.write_bytes(empty_hive())
        commands = hive.parent / f"{hive.name}.hivexsh"
        commands.write_text("\n".join([*self.lines, "commit", ""]))
        subprocess.run(["hivexsh", "-w", "-f", commands, hive], check=True)
        commands.unlink()


def empty_hive() -> bytes:
    """A hive with a root key and nothing below it."""

    def cell(data: bytes) -> bytes:
        size = (len(data) + 4 + 7) // 8 * 8
        return struct.pack("<i", -size) + data.ljust(size - 4, b"\0")

    nothing = 0xFFFF_FFFF
    name = b"ROOT"
    fields = (0x2C, 0, 0, nothing, 0, 0, nothing, nothing, 0, nothing)
    node = struct.Struct("<2sHQ" + "I" * 15 + "HH")
    root_size = len(cell(bytes(node.size) + name))
    root = node.pack(b"nk", *fields, 32 + root_size, nothing, *(0,) * 5, len(name), 0) + name
    everybody = "010004800000000000000000000000001400000002001c0001000000000014003f000f000101"
    descriptor = bytes.fromhex(everybody + "00000000000100000000")
    at = 32 + root_size
    security = struct.pack("<2sHIIII", b"sk", 0, at, at, 1, len(descriptor)) + descriptor
    used = cell(root) + cell(security)
    header = struct.pack("<4sII8xQI", b"hbin", 0, 4096, 0, 0)
    free = 4096 - len(header) - len(used)
    bins = header + used + struct.pack("<i", free) + bytes(free - 4)
    base = struct.pack("<4sIIQ7I", b"regf", 1, 1, 0, 1, 5, 0, 1, 32, 4096, 1)
    return sealed(base.ljust(4096, b"\0")) + bins


def sealed(base: bytes) -> bytes:
    """A base block with its checksum."""
    found = 0
    for word in struct.unpack_from("<127I", base):
        found ^= word
    return base[:508] + struct.pack("<I", found) + base[512:]


def system_hive(hive: Path, release: Release, filling: int = 0) -> None:
    """SYSTEM, whose current control set is the second one, behind so many keys of 8 KiB."""
    script = Script()
    for number in range(filling):
        for half in "ab":
            value = "hex:3:" + "5a" * 3900
            script.key(f"Setup\\Filling {number}{half}", Data=value)
    script.key(
        "Select", Current="dword:2", Default="dword:2", Failed="dword:0", LastKnownGood="dword:1"
    )
    script.key("MountedDevices", **{r"\DosDevices\C:": "hex:3:11,22,33,44,00,00,10,00,00,00,00,00"})
    for control_set in ("ControlSet001", "ControlSet002"):
        script.key(
            f"{control_set}\\Control\\Session Manager\\Environment",
            PROCESSOR_ARCHITECTURE=f"string:{release.architecture}",
        )
        for name, (start, override) in {**_ELSEWHERE, **release.services}.items():
            path = f"{control_set}\\Services\\{name}"
            image = f"{name.lower()}.sys" if name.isascii() else "other.sys"
            script.key(
                path,
                ErrorControl="dword:3",
                Group="string:SCSI Miniport",
                Start=f"dword:{start}",
                Type="dword:1",
                ImagePath=f"expandstring:\\SystemRoot\\System32\\drivers\\{image}",
            )
            if override is not None:
                script.key(f"{path}\\StartOverride", **{"0": f"dword:{override}"})
        if not release.modern:
            script.key(
                f"{control_set}\\Control\\CriticalDeviceDatabase\\PCI#CC_0101",
                ClassGUID="string:{4D36E96A-E325-11CE-BFC1-08002BE10318}",
                Service="string:pciide",
            )
    if release.modern:
        script.key("DriverDatabase\\DriverInfFiles")
        script.key("DriverDatabase\\DeviceIds\\PCI\\CC_0106", **{"mshdc.inf": "hex:3:01,ff,00,00"})
        script.key("DriverDatabase\\DriverPackages")
    script.run(hive)


def software_hive(hive: Path, release: Release) -> None:
    """SOFTWARE."""
    major, minor = release.version
    numbers = {
        "CurrentMajorVersionNumber": f"dword:{major}",
        "CurrentMinorVersionNumber": f"dword:{minor}",
    }
    script = Script()
    script.key(
        "Microsoft\\Windows NT\\CurrentVersion",
        ProductName=f"string:{release.name}",
        CurrentBuild=f"string:{release.build}",
        CurrentVersion=f"string:{'6.3' if major == 10 else f'{major}.{minor}'}",
        **(numbers if major == 10 else {}),
    )
    script.run(hive)


def files(folder: Path, release: Release = TEN) -> Path:
    """The files of a Windows on its volume, in a folder."""
    config = folder / "Windows/System32/config"
    drivers = folder / "Windows/System32/drivers"
    for each in (config, drivers, folder / "Windows/INF", folder / "Users"):
        each.mkdir(parents=True)
    system_hive(config / "SYSTEM", release)
    software_hive(config / "SOFTWARE", release)
    for name in release.services:
        (drivers / f"{name.lower()}.sys").write_bytes(program())
    return folder


def program(machine: int = 0x8664) -> bytes:
    """What begins as a driver does."""
    head = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    return (head + b"PE\0\0" + struct.pack("<H", machine)).ljust(6000, b"\x90")


def with_bios(folder: Path) -> Path:
    """The boot files of a BIOS beside the system."""
    (folder / "bootmgr").write_bytes(b"bootmgr")
    (folder / "Boot").mkdir()
    (folder / "Boot/BCD").write_bytes(empty_hive())
    return folder


def volume(folder: Path, image: Path) -> Path:
    """An NTFS volume with the folder's files."""
    volumes.ntfs(size=VOLUME_SIZE)(folder, image)
    image.with_suffix(".wim").unlink()
    return image


def mbr_disk(ntfs: Path, disk: Path) -> Path:
    """A disk with the volume as its only, active partition."""
    return _disk(disk, "label: dos\nlabel-id: 0x44332211\n2048,,7,*\n", [(VOLUME_AT, ntfs)])


def gpt_disk(ntfs: Path, disk: Path) -> Path:
    """A disk with an EFI system partition before the volume, which is p2."""
    tree = disk.parent / f"{disk.stem}-esp"
    for path in (
        "EFI/Microsoft/Boot/bootmgfw.efi",
        "EFI/Microsoft/Boot/BCD",
        "EFI/Boot/bootx64.efi",
    ):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(b"MZ")
    esp = disk.parent / f"{disk.stem}-esp.img"
    volumes.fat(32, 40 * MIB, "-s", "1")(tree, esp)
    script = "label: gpt\n2048,81920,U\n83968,,EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n"
    return _disk(disk, script, [(VOLUME_AT, esp), (83968 * 512, ntfs)])


def _disk(disk: Path, script: str, parts: list[tuple[int, Path]]) -> Path:
    end = max(offset + part.stat().st_size for offset, part in parts)
    volumes.blank(disk, end + MIB)
    volumes.partition(disk, script)
    with disk.open("r+b") as file:
        for offset, part in parts:
            file.seek(offset)
            file.write(part.read_bytes())
    return disk


def virtio_win(folder: Path, name: str = "viostor") -> Path:
    """A folder as virtio-win.iso has it; each program says which it is."""
    for version in ("2k19", "w7", "w8.1", "w10", "w11"):
        for architecture, machine in (("amd64", 0x8664), ("x86", 0x014C)):
            here = folder / name / version / architecture
            here.mkdir(parents=True)
            mark = f"{version} {architecture}".encode()
            (here / f"{name}.sys").write_bytes(program(machine) + mark)
            (here / f"{name}.inf").write_bytes(b"; inf " + mark)
            (here / f"{name}.cat").write_bytes(b"cat " + mark)
    return folder
