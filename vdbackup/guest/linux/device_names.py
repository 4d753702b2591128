"""The devices that a Linux relies on: by fstab(5), crypttab(5) and what starts it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vdbackup.guest.linux.boot_menu import MAX_COMMAND_LINE, Menu
from vdbackup.guest.model import (
    DeviceName,
    File,
    Kernel,
    LoaderKind,
)
from vdbackup.guest.tree import Tree

_UNSTABLE = re.compile(
    r"/dev/(?:(?:[shv]|xv)d[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|mmcblk\d+(?:p\d+)?|disk/by-(?:id|path)/\S+)"
)
"""Names that depend on what a disk is connected to. LVM's are read from the disk itself."""
_UNSTABLE_OPTION = re.compile(rf"(?:^|\s)(root|resume)=({_UNSTABLE.pattern})(?=\s|$)")


@dataclass(frozen=True)
class Mount:
    """A line of fstab."""

    device: str
    point: str
    kind: str
    options: tuple[str, ...]
    line: int


def mounts(tree: Tree) -> list[Mount]:
    """The lines of a system's fstab."""
    return mounts_in(tree.text("/etc/fstab"))


def mounts_in(fstab: str) -> list[Mount]:
    """The lines of fstab."""
    found = []
    for number, line in enumerate(fstab.splitlines(), 1):
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#"):
            options = tuple(words[3].split(",")) if len(words) > 3 else ()
            found.append(Mount(words[0], words[1], words[2], options, number))
    return found


def device_names(tree: Tree | None, menu: Menu | None, kernel: Kernel | None) -> list[DeviceName]:
    """The devices that the system calls by names that depend on the disk's controller."""
    found: list[DeviceName] = []
    if tree is not None:
        found += _in_fstab(tree)
        found += _in_crypttab(tree)
    if menu is not None:
        found += _in_menu(menu, kernel)
    told = [entry.command_line[:MAX_COMMAND_LINE] for entry in menu.entries] if menu else []
    if kernel is not None and kernel.command_line not in told:
        found += _in_unified(kernel)
    return _each_once(found)


def _each_once(found: list[DeviceName]) -> list[DeviceName]:
    """What an entry of a menu and those below it have in common stands there once."""
    once: dict[tuple[str, File, int], DeviceName] = {}
    for each in found:
        place = each.name, each.file, each.line
        if each.essential or place not in once:
            once[place] = each
    return list(once.values())


def _in_fstab(tree: Tree) -> Iterator[DeviceName]:
    file = tree.file("/etc/fstab")
    for mount in mounts(tree):
        if _UNSTABLE.fullmatch(mount.device):
            lenient = mount.kind == "swap" or {"nofail", "noauto"} & set(mount.options)
            yield DeviceName(mount.device, file, mount.line, essential=not lenient)


def _in_crypttab(tree: Tree) -> Iterator[DeviceName]:
    file = tree.file("/etc/crypttab")
    for number, line in enumerate(tree.text("/etc/crypttab").splitlines(), 1):
        words = line.split()
        if len(words) >= 2 and not words[0].startswith("#") and _UNSTABLE.fullmatch(words[1]):
            yield DeviceName(words[1], file, number, essential="nofail" not in line)


def _in_menu(menu: Menu, kernel: Kernel | None) -> Iterator[DeviceName]:
    """Essential only in what starts automatically; a resume= that fails is passed over.

    LILO has copied all of it to where it reads it: the file changes nothing any more.
    """
    fixed = menu.kind is LoaderKind.LILO
    for number, entry in enumerate(menu.entries):
        # rEFInd's options name no kernel: its first start one that has none in itself
        if kernel is not None and (entry.image or kernel.command_line):
            ours = entry.command_line == kernel.command_line
        else:
            ours = not number
        for match in _UNSTABLE_OPTION.finditer(entry.command_line):
            essential = ours and match[1] == "root"
            yield DeviceName(match[2], menu.file, entry.line, essential, fixed=fixed)


def _in_unified(kernel: Kernel) -> Iterator[DeviceName]:
    """A kernel has a command line that no menu gives it only where both are in one program."""
    for match in _UNSTABLE_OPTION.finditer(kernel.command_line):
        yield DeviceName(match[2], kernel.image, 0, match[1] == "root", fixed=True)
