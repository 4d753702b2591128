"""What the boot loader of a Linux starts: its configuration, wherever on a volume it lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vdbackup.guest.linux import menus
from vdbackup.guest.model import (
    File,
    LoaderKind,
)
from vdbackup.guest.tree import Tree

MAX_KERNELS = 50
MAX_COMMAND_LINE = 4096
_CONFIGURATIONS = (
    ("/boot/grub/grub.cfg", LoaderKind.GRUB),
    ("/boot/grub2/grub.cfg", LoaderKind.GRUB),
    ("/grub/grub.cfg", LoaderKind.GRUB),
    ("/grub2/grub.cfg", LoaderKind.GRUB),
    ("/boot/syslinux/syslinux.cfg", LoaderKind.SYSLINUX),
    ("/boot/extlinux/extlinux.conf", LoaderKind.SYSLINUX),
    ("/boot/extlinux.conf", LoaderKind.SYSLINUX),
    ("/syslinux/syslinux.cfg", LoaderKind.SYSLINUX),
    ("/extlinux/extlinux.conf", LoaderKind.SYSLINUX),
    ("/extlinux.conf", LoaderKind.SYSLINUX),
    ("/syslinux.cfg", LoaderKind.SYSLINUX),
)
_OTHER_CONFIGURATIONS: tuple[
    tuple[str, LoaderKind, Callable[[str], list[menus.Entry]]], ...
] = (
    *(
        (f"{folder}/{name}", LoaderKind.GRUB, menus.grub_legacy)
        for folder in ("/boot/grub", "/grub")
        for name in ("menu.lst", "grub.conf")
    ),
    *(
        (f"{folder}/limine.{suffix}", LoaderKind.LIMINE, menus.limine)
        for folder in (
            "", "/boot", "/limine", "/boot/limine", "/EFI/limine", "/EFI/BOOT", "/EFI/arch-limine"
        )
        for suffix in ("conf", "cfg")
    ),
    ("/boot/refind_linux.conf", LoaderKind.REFIND, menus.refind_linux),
    ("/refind_linux.conf", LoaderKind.REFIND, menus.refind_linux),
    ("/EFI/refind/refind.conf", LoaderKind.REFIND, menus.refind),
    ("/EFI/BOOT/refind.conf", LoaderKind.REFIND, menus.refind),
)  # fmt: skip
"""Looked at where there is none of the others, and no entries of systemd-boot."""
_LILO = "/etc/lilo.conf"
_ENTRIES = ("/boot/loader/entries", "/loader/entries")
_ENVIRONMENTS = ("/boot/grub2/grubenv", "/grub2/grubenv", "/boot/grub/grubenv", "/grub/grubenv")


@dataclass(frozen=True)
class Menu:
    """What a boot loader's configuration starts, from which file on which volume."""

    kind: LoaderKind
    file: File
    entries: tuple[menus.Entry, ...]


def menu(tree: Tree, efi: Tree | None = None) -> Menu | None:
    """What the boot loader whose configuration lies on a volume starts.

    Args:
        tree: of the volume.
        efi: the EFI system partition, on which GRUB may keep its variables.
    """
    listed = _listed_entries(tree, efi)
    for path, kind in _CONFIGURATIONS:
        text = tree.text(path)
        if not text:
            continue
        entries = menus.grub(text) if kind is LoaderKind.GRUB else menus.syslinux(text)
        if listed and kind is LoaderKind.GRUB and not entries:  # its command blscfg
            return Menu(kind, listed.file, listed.entries)
        if entries:
            return Menu(kind, tree.file(path), tuple(entries))
    return listed or _other_menu(tree)


def _other_menu(tree: Tree) -> Menu | None:
    for path, kind, read in _OTHER_CONFIGURATIONS:
        if (text := tree.text(path)) and (entries := read(text)):
            return Menu(kind, tree.file(path), tuple(entries))
    return None


def lilo_menu(tree: Tree) -> Menu | None:
    """What LILO was installed to start, as its configuration says it: it lies in /etc."""
    text = tree.text(_LILO)
    if entries := menus.lilo(text):
        return Menu(LoaderKind.LILO, tree.file(_LILO), tuple(entries))
    return None


def vendors_menu(tree: Tree) -> Menu | None:
    """GRUB's on an EFI system partition, where Red Hat's systems had all of it until 2020.

    Others have a few lines there that read the menu elsewhere. It may be an earlier system's, so it
    is looked at last.
    """
    for vendor in tree.names("/EFI"):
        path = f"/EFI/{vendor}/grub.cfg"
        if entries := menus.grub(tree.text(path)):
            return Menu(LoaderKind.GRUB, tree.file(path), tuple(entries))
    return None


def environment_blocks(tree: Tree) -> list[str]:
    """Where on a volume GRUB keeps its variables.

    Red Hat's systems with UEFI have them in the vendor's folder of the EFI system partition, with
    a link in /boot that leads there, to another volume.
    """
    vendors = (f"/EFI/{vendor}/grubenv" for vendor in tree.names("/EFI"))
    return [path for path in (*_ENVIRONMENTS, *vendors) if tree.is_file(path)]


def _listed_entries(tree: Tree, efi: Tree | None) -> Menu | None:
    for folder in _ENTRIES:
        names = [name for name in tree.names(folder) if name.endswith(".conf")]
        if not names:
            continue
        variables: dict[str, str] = {}
        for place in filter(None, (efi, tree)):
            for path in environment_blocks(place):
                variables |= menus.environment_block(place.text(path))
        top = folder.removesuffix("/entries")
        ordered = menus.preferred(names, tree.text(f"{top}/loader.conf"))[:MAX_KERNELS]
        entries = [menus.loader_entry(tree.text(f"{folder}/{name}"), variables) for name in ordered]
        if any(entry.image for entry in entries):
            file = tree.file(f"{folder}/{ordered[0]}")
            entries = [entry for entry in entries if entry.image]
            return Menu(LoaderKind.SYSTEMD_BOOT, file, tuple(entries))
    return None
