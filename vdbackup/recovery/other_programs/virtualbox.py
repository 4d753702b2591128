"""A machine for VirtualBox."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

from vdbackup import foreign_xml
from vdbackup.disks.disk import DiskInfo
from vdbackup.errors import SessionUnusable
from vdbackup.guest.hardware import Hardware
from vdbackup.recovery.machine_xml import add, virtualbox_hardware
from vdbackup.recovery.other_programs.parts import (
    CPUS,
    Layer,
    machine_name,
    write_xml,
)
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.translation import tr

_NAMESPACE = "http://www.virtualbox.org/"


def write(
    folder: SessionFolder, disks: Sequence[Layer], layers: Sequence[Layer], hardware: Hardware
) -> Path:
    """Describe the machine; its file."""
    root = ET.Element("VirtualBox", xmlns=_NAMESPACE, version="1.15-linux")
    machine = add(
        root,
        "Machine",
        uuid=f"{{{uuid.uuid5(uuid.NAMESPACE_OID, folder.id)}}}",
        name=machine_name(folder),
        OSType="Other_64",
        snapshotFolder="Snapshots",
        lastStateChange=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    _add_media(add(add(machine, "MediaRegistry"), "HardDisks"), [*layers, *disks])
    virtualbox_hardware(machine, hardware, CPUS, _virtualbox_uuid(disks[-1].info))
    return write_xml(folder.files.virtualbox, root)


def _add_media(above: ET.Element, layers: Sequence[Layer], tag: str = "HardDisk") -> ET.Element:
    """Name the disks, each in its parent; the last one's element."""
    for number, layer in enumerate(layers):
        facts = {"uuid": _virtualbox_uuid(layer.info), "location": str(layer.path)}
        kind = {} if number else {"type": "Normal"}
        above = add(above, tag, **facts, format=layer.info.format.upper(), **kind)
    return above


def write_again(
    folder: SessionFolder, disks: Sequence[Path], layers: Sequence[Layer], _hardware: Hardware
) -> Path:
    """Name the layers below the session's disk anew; all else is VirtualBox's by now."""
    path = folder.files.virtualbox
    space = f"{{{_NAMESPACE}}}"
    root = foreign_xml.parsed_file(path)
    if root is None:
        raise SessionUnusable(tr("{path} cannot be read.", path=path), tr("Discard the session."))
    for media in root.iterfind(f"{space}Machine/{space}MediaRegistry/{space}HardDisks"):
        for base in media.findall(f"{space}HardDisk"):  # beside ours are disks that the user added
            for own in base.iter(f"{space}HardDisk"):
                if (folder.path / own.get("location", "")).resolve() == disks[0].resolve():
                    media.remove(base)
                    _add_media(media, layers, f"{space}HardDisk").append(own)
                    break
    ET.register_namespace("", _NAMESPACE)
    return write_xml(path, root)


def _virtualbox_uuid(info: DiskInfo) -> str:
    """A disk's UUID as VirtualBox reads it: a VHD footer's little-endian (Storage/VHD.cpp)."""
    own = uuid.UUID(info.disk_id)
    return f"{{{uuid.UUID(bytes_le=own.bytes) if info.format == 'vhd' else own}}}"
