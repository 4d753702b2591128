"""Which boot loaders a disk has: code that a BIOS starts, programs that a UEFI starts.

UEFI 2.10, 3.5.1.1 names the program that a firmware starts from a disk that it has no boot entry
for (EFI/BOOT/BOOTX64.EFI); the others lie where distributions install them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vdbackup.recovery.guest import boot_sector
from vdbackup.recovery.guest.disk import Disk
from vdbackup.recovery.guest.model import File, FileSystem, Firmware, Loader, LoaderKind
from vdbackup.recovery.guest.tree import Tree

if TYPE_CHECKING:
    from vdbackup.recovery.guest.linux import Menu

_FALLBACK = "/EFI/BOOT/BOOTX64.EFI"
_PROGRAMS = (
    ("shimx64.efi", LoaderKind.GRUB),
    ("grubx64.efi", LoaderKind.GRUB),
    ("grub.efi", LoaderKind.GRUB),
    ("systemd-bootx64.efi", LoaderKind.SYSTEMD_BOOT),
    ("bootmgfw.efi", LoaderKind.WINDOWS),
    ("syslinux.efi", LoaderKind.SYSLINUX),
)
"""Names of programs, those to be preferred first: a shim starts GRUB."""
_SAYS = ((b"systemd-boot", LoaderKind.SYSTEMD_BOOT), (b"GRUB", LoaderKind.GRUB))
_MOST_PROGRAM = 4 << 20


@dataclass(frozen=True)
class Found:
    """The boot loaders of a disk.

    Attributes:
        loaders: the one to be preferred first.
        reason: why its firmware is preferred, in a sentence.
        efi: the EFI system partition.
    """

    loaders: tuple[Loader, ...]
    reason: str
    efi: FileSystem | None

    def with_menu(self, menu: Menu | None) -> tuple[Loader, ...]:
        """The same loaders, each with its configuration where `menu` is one."""
        if menu is None:
            return self.loaders
        return tuple(
            replace(loader, configuration=menu.file, kind=menu.kind)
            if loader.kind in (menu.kind, LoaderKind.OTHER)
            else loader
            for loader in self.loaders
        )


def find(disk: Disk) -> Found:
    """The boot loaders of a disk."""
    efi = next((name for name, tree in disk.trees.items() if _is_efi(disk, name, tree)), None)
    of_uefi = _of_uefi(disk.trees[efi]) if efi is not None else []
    of_bios = _of_bios(disk)
    system = disk.file_systems[efi] if efi is not None else None
    if of_uefi and of_bios and of_bios[0].kind is LoaderKind.GRUB:
        reason = "The disk starts with a BIOS and with UEFI; a BIOS is the simpler of the two."
        return Found((*of_bios, *of_uefi), reason, system)
    if of_uefi:
        reason = "The disk has an EFI system partition with a boot loader, so it starts with UEFI."
        return Found((*of_uefi, *of_bios), reason, system)
    reason = "The disk has a boot loader for a BIOS, and none for UEFI." if of_bios else ""
    return Found(tuple(of_bios), reason, system)


def _is_efi(disk: Disk, name: str, tree: Tree) -> bool:
    return disk.file_systems[name].kind.startswith("FAT") and tree.is_folder("/EFI")


def _of_uefi(tree: Tree) -> list[Loader]:
    found = []
    if tree.is_file(_FALLBACK):
        kind = _kind_of(tree)
        program = File(tree.volume, tree.real_path(_FALLBACK) or _FALLBACK)
        found.append(Loader(kind, Firmware.UEFI, None, program, fallback=True))
    vendors = [name for name in tree.names("/EFI") if name.casefold() != "boot"]
    for name, kind in _PROGRAMS:
        for vendor in vendors:
            for folder in (f"/EFI/{vendor}", f"/EFI/{vendor}/Boot"):
                path = f"{folder}/{name}"
                if tree.is_file(path):
                    where = File(tree.volume, tree.real_path(path) or path)
                    found.append(Loader(kind, Firmware.UEFI, None, where))
    return found


def _kind_of(tree: Tree) -> LoaderKind:
    """Which loader the firmware's fallback is, by what it says of itself."""
    data = tree.read(_FALLBACK, _MOST_PROGRAM, whole=False) or b""
    return next((kind for words, kind in _SAYS if words in data), LoaderKind.OTHER)


def _of_bios(disk: Disk) -> list[Loader]:
    sector = disk.sector(0)
    kind = boot_sector.loader(sector)
    if kind is not None and boot_sector.passes_on(sector):
        start = boot_sector.active_partition(sector)
        kind = None if start is None else boot_sector.loader(disk.sector(start * disk.sector_size))
    return [] if kind is None else [Loader(kind, Firmware.BIOS)]
