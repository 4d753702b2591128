"""Which boot loaders a disk has: code that a BIOS starts, programs that a UEFI starts.

UEFI 2.10, 3.5.1.1 names the program that a firmware starts from a disk that it has no boot entry
for (EFI/BOOT/BOOTX64.EFI); the others lie where distributions install them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vdbackup.guest import boot_sector
from vdbackup.guest.disk import Disk, disk_of
from vdbackup.guest.linux import menus, unified
from vdbackup.guest.model import File, FileSystem, Firmware, Loader, LoaderKind
from vdbackup.guest.tree import Tree
from vdbackup.text import printable
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.guest.linux.boot_menu import Menu

_FALLBACK = "/EFI/BOOT/BOOTX64.EFI"
_PROGRAMS = (
    ("shimx64.efi", LoaderKind.GRUB),
    ("grubx64.efi", LoaderKind.GRUB),
    ("grub.efi", LoaderKind.GRUB),
    ("systemd-bootx64.efi", LoaderKind.SYSTEMD_BOOT),
    ("refind_x64.efi", LoaderKind.REFIND),
    ("limine_x64.efi", LoaderKind.LIMINE),
    ("syslinux.efi", LoaderKind.SYSLINUX),
)
"""Names of programs, those to be preferred first: a shim starts GRUB."""
_WINDOWS = "bootmgfw.efi"
_UNIFIED = "/EFI/Linux"
"""Where kernel images that are programs lie: of the Boot Loader Specification, type 2."""
_TRIES = re.compile(r"\+\d+(?:-\d+)?(?=\.efi$)")
"""In a name: how often it may still be tried; systemd-boot takes that off when it has come up."""
_NO_LOADER = re.compile(
    r"(mm|fb|fwup|mok|hashtool|keytool|lockdown|memtest|shell|gptsync|gdisk|uefi-?shell|bootmgr"
    r"|memdisk|ipxe|cdboot)[^/]*\.efi"
)
"""Programs beside a loader that start no system."""
_SAYS = (
    (b"systemd-boot", LoaderKind.SYSTEMD_BOOT),
    (b"rEFInd", LoaderKind.REFIND),
    (b"GRUB", LoaderKind.GRUB),
    (b"L\0i\0m\0i\0n\0e", LoaderKind.LIMINE),
    (b"Limine", LoaderKind.LIMINE),
    ("bootmgr.exe".encode("utf-16-le"), LoaderKind.WINDOWS),
)
"""What a program says of itself; Windows' in its version's OriginalFilename, which stays as it is
under whatever name a copy lies."""
_OF_LINUX = {kind for _, kind in _PROGRAMS} | {LoaderKind.UNIFIED}
_MAX_PROGRAM = 4 << 20
_MAX_LOOKED_AT = 200
"""Files of a folder."""


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
            if loader.kind is menu.kind
            or (loader.kind is LoaderKind.OTHER and menu.kind is not LoaderKind.LILO)
            else loader
            for loader in self.loaders
        )

    def of_linux(self) -> Found:
        """The same for a Linux, which may lie beside a Windows.

        What a firmware finds by itself is Windows' then, where that was there first: the Linux is
        started by an entry of its own computer's firmware.
        """
        of_uefi = [each for each in self.loaders if each.firmware is Firmware.UEFI]
        windows = [each for each in of_uefi if each.kind is LoaderKind.WINDOWS]
        if not windows or not any(each.kind in _OF_LINUX for each in of_uefi):
            return self
        own = [each for each in self.loaders if each not in windows]
        reason = _why_uefi(own) if own[0].firmware is Firmware.UEFI else self.reason
        return replace(self, loaders=(*own, *windows), reason=reason)


def find(disk: Disk) -> Found:
    """The boot loaders of a disk."""
    efi = next((name for name, tree in disk.trees.items() if _is_efi(disk, name, tree)), None)
    of_uefi = _of_uefi(disk.trees[efi]) if efi is not None else []
    of_bios = _of_bios(disk, among_others=bool(of_uefi))
    system = disk.file_systems[efi] if efi is not None else None
    if of_uefi and of_bios and of_bios[0].kind is LoaderKind.GRUB:
        reason = tr("The disk starts with a BIOS and with UEFI; a BIOS is the simpler of the two.")
        return Found((*of_bios, *of_uefi), reason, system)
    if of_uefi:
        return Found((*of_uefi, *of_bios), _why_uefi(of_uefi), system)
    return Found(tuple(of_bios), _why_bios(of_bios), system)


def _is_efi(disk: Disk, name: str, tree: Tree) -> bool:
    return disk.file_systems[name].kind.startswith("FAT") and tree.is_folder("/EFI")


def _of_uefi(tree: Tree) -> list[Loader]:
    found = []
    if tree.is_file(_FALLBACK):
        kind = _kind_of(tree, _FALLBACK)
        program = File(tree.volume, tree.real_path(_FALLBACK) or _FALLBACK)
        found.append(Loader(kind, Firmware.UEFI, None, program, fallback=True))
    found += [_program(tree, path, kind) for path, kind in _installed(tree)]
    return list({loader.program: loader for loader in reversed(found)}.values())[::-1]


def _why_bios(found: list[Loader]) -> str:
    if not found:
        return ""
    if found[0].kind is LoaderKind.LILO:
        return tr(
            "LILO starts the disk, by a BIOS: it reads its files from the sectors that they lay in "
            "when it was installed."
        )
    return tr("The disk has a boot loader for a BIOS, and none for UEFI.")


def _why_uefi(found: list[Loader]) -> str:
    first = found[0]
    if first.fallback or first.program is None:
        return tr(
            "The disk has an EFI system partition with a boot loader, so it starts with UEFI."
        )
    return tr(
        "The disk starts with UEFI, by a boot entry of its own computer's firmware; this "
        "machine gets one for {program}.",
        program=printable(first.program.path),
    )


def _program(tree: Tree, path: str, kind: LoaderKind) -> Loader:
    where = File(tree.volume, tree.real_path(path) or path)
    return Loader(kind, Firmware.UEFI, None, where)


def _installed(tree: Tree) -> Iterator[tuple[str, LoaderKind]]:
    """Programs that a firmware needs a boot entry for, those to be preferred first.

    Loaders that are known by their names, then kernels that need none, then Windows', and at last
    whatever a vendor's folder holds that a firmware of a PC could start.
    """
    folders = [
        folder
        for vendor in tree.names("/EFI")
        if vendor.casefold() not in ("boot", "linux")
        for folder in (f"/EFI/{vendor}", f"/EFI/{vendor}/Boot")
    ]
    for name, kind in _PROGRAMS:
        yield from ((f"{each}/{name}", kind) for each in folders if tree.is_file(f"{each}/{name}"))
    for path in unified_images(tree):
        yield path, LoaderKind.UNIFIED
    for each in folders:
        if tree.is_file(f"{each}/{_WINDOWS}"):
            yield f"{each}/{_WINDOWS}", LoaderKind.WINDOWS
    for path in _others(tree, folders):
        yield path, _kind_of(tree, path)


def unified_images(tree: Tree) -> list[str]:
    """The unified kernel images of an EFI system partition, the newest first."""
    names = [name for name in tree.names(_UNIFIED) if name.casefold().endswith(".efi")]
    names.sort(key=lambda name: menus.version_key(_TRIES.sub("", name)), reverse=True)
    failed = [name for name in names if "+0-" in name or "+0." in name]
    ordered = [name for name in names if name not in failed] + failed
    return [path for each in ordered if _starts_here(tree, path := f"{_UNIFIED}/{each}")]


def _others(tree: Tree, folders: list[str]) -> Iterator[str]:
    for folder in (*folders, "/"):
        for name in tree.names(folder)[:_MAX_LOOKED_AT]:
            path = f"{folder.rstrip('/')}/{name}"
            low = name.casefold()
            if low.endswith(".efi") and not _NO_LOADER.fullmatch(low) and _starts_here(tree, path):
                yield path


def _starts_here(tree: Tree, path: str) -> bool:
    return unified.machine(tree.read(path, 4096, whole=False) or b"") == unified.X86_64


def _kind_of(tree: Tree, path: str) -> LoaderKind:
    """Which loader a program is, by what it says of itself."""
    data = tree.read(path, _MAX_PROGRAM, whole=False) or b""
    return next((kind for words, kind in _SAYS if words in data), LoaderKind.OTHER)


def _of_bios(disk: Disk, *, among_others: bool) -> list[Loader]:
    """What a BIOS starts; `among_others`: UEFI starts something, so this may be left over."""
    found = boot_sector.started(disk.sector, disk.sector_size)
    if found is None:
        return []
    if found.kind is LoaderKind.GRUB and not _is_whole(disk, found.sector, among_others):
        return []
    return [Loader(found.kind, Firmware.BIOS)]


def _is_whole(disk: Disk, sector: bytes, among_others: bool) -> bool:
    """Whether the rest of GRUB lies where its boot sector says.

    Nothing takes the boot sector away when a disk is partitioned anew, or starts with UEFI from
    then on. What it names is the beginning of core.img, in the gap behind an MBR or in a BIOS boot
    partition; where a file system lies now, only a piece of it is left.
    """
    at = boot_sector.rest_of_grub(sector)
    if at is None:
        return True
    if not boot_sector.begins_rest_of_grub(disk.sector(at)):
        return False
    within = (
        volume.filesystem
        for name, volume in disk.volumes.items()
        if volume.name and disk_of(name) == 0 and any(o <= at < o + n for o, n in volume.place.runs)
    )
    return not (among_others and any(within))
