"""A Linux on a disk: where its root is, and what it says of itself: os-release(5)."""

from __future__ import annotations

import shlex
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vdbackup.guest.disk import Disk
from vdbackup.guest.linux import menus
from vdbackup.guest.model import (
    FileSystem,
)
from vdbackup.guest.tree import Tree
from vdbackup.text import printable
from vdbackup.translation import tr

_SUBVOLUMES = ("", "@", "root", "@rootfs", "@root", "@/.snapshots/1/snapshot")
"""Where in a Btrfs distributions put their root."""
_MAX_SUBVOLUMES = 50
"""Folders at a Btrfs' top that are looked into for a root."""
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 21: "ppc64", 243: "riscv64"}
_GRAPHICAL = (
    "/etc/systemd/system/display-manager.service",
    "/etc/X11/default-display-manager",
)


@dataclass(frozen=True)
class Root:
    """A volume, or a Btrfs subvolume of it, that a Linux has as its root."""

    file_system: FileSystem
    tree: Tree


def roots(disk: Disk) -> Iterator[Root]:
    """The volumes on which a Linux has its root."""
    for name, tree in disk.trees.items():
        system = disk.file_systems[name]
        for subvolume in _subvolumes(tree) if system.kind == "Btrfs" else ("",):
            below = tree.below(subvolume) if subvolume else tree
            if below is not None and is_root(below):
                yield Root(replace(system, subvolume=subvolume), below)


def _subvolumes(tree: Tree) -> list[str]:
    """Where in a Btrfs a root may be, the likeliest first: what is mounted where nobody names any.

    Going back to a snapshot makes that another one (snapper) or leaves the former root beside it
    (Timeshift), and an installer may be told any name.
    """
    first = tree.default_path()
    return list(dict.fromkeys((first, *_SUBVOLUMES, *tree.names("/")[:_MAX_SUBVOLUMES])))


def is_root(tree: Tree) -> bool:
    """Whether a Linux has its root there."""
    release = tree.is_file("/etc/os-release") or tree.is_file("/usr/lib/os-release")
    return release or (tree.is_file("/etc/fstab") and tree.is_file("/sbin/init"))


def release(tree: Tree) -> tuple[str, str]:
    """Name and version of the distribution."""
    text = tree.text("/etc/os-release") or tree.text("/usr/lib/os-release")
    values = dict(_assignments(text))
    return printable(values.get("PRETTY_NAME") or values.get("NAME") or "Linux")[:200], printable(
        values.get("VERSION_ID", "")
    )[:50]


def architecture(tree: Tree) -> str:
    """By what its programs are made for; "" if it is not known."""
    for path in ("/bin/sh", "/usr/bin/sh", "/sbin/init", "/usr/bin/env"):
        head = tree.read(path, 64, whole=False)
        if head and head.startswith(b"\x7fELF") and len(head) >= 20:
            order = ">" if head[5] == 2 else "<"
            (machine,) = struct.unpack_from(f"{order}H", head, 18)
            return _ELF_MACHINES.get(machine, tr("ELF machine {machine}", machine=machine))
    return ""


def is_graphical(tree: Tree) -> bool:
    """Whether it starts a desktop."""
    return any(tree.find(path) is not None for path in _GRAPHICAL)


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#") and len(value) <= menus.MAX_QUOTED:
            try:
                yield name.strip(), " ".join(shlex.split(value))
            except ValueError:  # a quotation that does not end
                continue
