"""What the machines of all other programs are made of: disks, a name, a file of XML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from vdbackup import durable
from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.formats import create_disk, open_disk, probe
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.recovery.sessions.folder import SessionFolder

CPUS = 2


@dataclass(frozen=True)
class Layer:
    """A disk of a chain, with its facts."""

    path: Path
    info: DiskInfo


def info_of(path: Path) -> DiskInfo:
    """A disk's facts; its parent may be one that we do not follow."""
    found = probe(path)
    opened = (
        Qcow2Disk.open_knowing_parent(path) if found == DiskFormat.QCOW2 else open_disk(path, found)
    )
    with closing(opened) as disk:
        return disk.info


def child_disk(folder: SessionFolder, layers: Sequence[Layer]) -> None:
    """An empty child of the overlay, in its format.

    VMDK names its parent by any path; VHD's locator is one relative to the child.
    """
    parent = layers[-1]
    place = str(parent.path)
    if parent.info.format == DiskFormat.VHD:
        place = os.path.relpath(parent.path.resolve(), folder.path.resolve())
    reference = ParentRef(parent.info.disk_id, parent.info.content_id, place)
    path = folder.files.disk_of_program(parent.info.format)
    disk = create_disk(path, parent.info.format, parent.info.virtual_size, reference)
    with closing(disk):
        disk.flush()


def machine_name(folder: SessionFolder) -> str:
    """A name that the programs take, and that no other machine has."""
    title = "".join(c if c.isalnum() or c in " .#+-" else "_" for c in folder.title)
    return f"{title} {folder.id}"


def write_xml(path: Path, root: ET.Element) -> Path:
    """Write a file anew; its path."""
    ET.indent(root)
    durable.replace(path, ET.tostring(root, encoding="utf-8", xml_declaration=True))
    return path
