"""A recovery point in another program's virtual machine: virt-manager, VirtualBox, VMware.

The program gets a child disk of its own above the point's overlay, in a session's folder, with a
description of the machine beside it; the overlay and the layers stay as they are, and the point is
held until the session is discarded. Which program reads chains of which format:

    virt-manager (libvirt, QEMU)    VMDK, QCOW2     a QCOW2 child
    VirtualBox                      VMDK, VHD       a child in the set's own format
    VMware                          VMDK            the same

The machine has a SATA controller, which most real machines have, a BIOS, and no network. libvirt's
file is checked against its schema (docs/formatdomain.rst describes it). VirtualBox's and VMware's
are written by what is generally known of them: neither program was at hand to open one. That their
disks read right through all parents is proven with QEMU and libvhdi.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree as ET

from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.formats import create_disk
from vdbackup.errors import RecoveryError, from_os
from vdbackup.recovery import accelerator, qemu
from vdbackup.recovery.session_folder import SessionFolder
from vdbackup.recovery.session_record import Origin
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import BackupSet, Repository


class Program(StrEnum):
    """Whose virtual machine it is to be."""

    VIRT_MANAGER = "virt-manager"
    VIRTUALBOX = "virtualbox"
    VMWARE = "vmware"


NAMES = {
    Program.VIRT_MANAGER: "virt-manager",
    Program.VIRTUALBOX: "VirtualBox",
    Program.VMWARE: "VMware",
}
FORMATS = {
    Program.VIRT_MANAGER: ("vmdk", "qcow2"),
    Program.VIRTUALBOX: ("vmdk", "vhd"),
    Program.VMWARE: ("vmdk",),
}
"""The formats of which a program reads a child with all its parents correctly."""
_CPUS = 2


@dataclass(frozen=True)
class WrittenMachine:
    """What was written.

    Attributes:
        session: the id of the session that it is.
        file: what the program opens.
        how: a sentence that says how.
    """

    session: str
    file: Path
    how: str


@dataclass(frozen=True)
class _Layer:
    path: Path
    info: DiskInfo


def check_possible(program: Program, disk_format: str, sector_size: int) -> None:
    """Raise RecoveryError where the program cannot boot from chains of that format."""
    if disk_format not in FORMATS[program] or sector_size != 512:
        readable = " and ".join(name.upper() for name in FORMATS[program])
        raise RecoveryError(
            f"{NAMES[program]} cannot boot from this point: it reads chains in {readable} with "
            "sectors of 512 bytes only.",
            "Export the point as one disk and open that, or boot it here.",
        )


def write_machine(
    repository: Repository,
    backup_set: BackupSet,
    point: RecoveryPoint,
    program: Program,
    *,
    sessions_folder: Path,
    memory_mib: int = 1024,
) -> WrittenMachine:
    """Write a disk and a machine for a program, as a kept session of the point.

    Raises:
        RecoveryError: the program cannot read the format, or the folder cannot be written to.
        ParentError, DiskFormatError, Damaged: the chain is not what it should be.
    """
    disk_format = backup_set.settings.format
    check_possible(program, disk_format, point.sector_size)
    backup_set.open_chain(point).close()
    overlay = backup_set.overlay_path(point).absolute()
    with Chain.open(overlay, disk_format) as chain:
        layers = [_Layer(layer.path.absolute(), layer.info) for layer in chain.layers]
    origin = Origin.of(repository, backup_set, point)
    title = f"{backup_set.name} #{point.sequence}"
    options = {"program": str(program), "memory_mib": memory_mib}
    with SessionFolder.create(sessions_folder, title, overlay, origin, options) as folder:
        try:
            file = _WRITERS[program](folder, layers, memory_mib)
            folder.keep()
        except OSError as error:
            folder.remove()
            raise from_os(error) from error
        except BaseException:
            folder.remove()
            raise
    return WrittenMachine(folder.id, file, _HOW[program].format(file=file))


_HOW = {
    Program.VIRT_MANAGER: "Add it with: virsh --connect qemu:///session define '{file}'",
    Program.VIRTUALBOX: "Open it in VirtualBox: Machine, Add, {file}",
    Program.VMWARE: "Open it in VMware: File, Open, {file}",
}


# ------------------------------------------------------------------------------- virt-manager


def _libvirt(folder: SessionFolder, layers: Sequence[_Layer], memory_mib: int) -> Path:
    files = [layer.path for layer in layers]
    backing = qemu.Backing.of_chain(files, layers[-1].info.format)
    qemu.create_session_disk(folder.disk, backing, layers[-1].info.virtual_size)
    kvm = accelerator.choose().accelerator is qemu.Accelerator.KVM
    domain = ET.Element("domain", type="kvm" if kvm else "qemu")
    _add(domain, "name", _machine_name(folder))
    _add(domain, "memory", str(memory_mib), unit="MiB")
    _add(domain, "vcpu", str(_CPUS))
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine="q35")
    _add(system, "boot", dev="hd")
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    _add(domain, "cpu", mode="host-passthrough" if kvm else "maximum")
    devices = _add(domain, "devices")
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type="qcow2", discard="unmap", error_policy="stop")
    _add(disk, "source", file=str(folder.disk))
    above = disk  # each layer is named outright, so that libvirt follows no link in a file
    for layer in reversed(layers):
        above = _add(above, "backingStore", type="file")
        _add(above, "format", type=layer.info.format)
        _add(above, "source", file=str(layer.path))
    _add(above, "backingStore")
    _add(disk, "target", dev="sda", bus="sata")
    _add(devices, "input", type="tablet", bus="usb")
    _add(devices, "graphics", type="vnc", autoport="yes")
    _add(_add(devices, "video"), "model", type="vga")
    _add(devices, "serial", type="pty")
    return _write_xml(folder.path / "domain.xml", domain)


# -------------------------------------------------------------------------------- VirtualBox

_NAMESPACE = "http://www.virtualbox.org/"


def _virtualbox(folder: SessionFolder, layers: Sequence[_Layer], memory_mib: int) -> Path:
    child = _child_disk(folder, layers)
    root = ET.Element("VirtualBox", xmlns=_NAMESPACE, version="1.15-linux")
    machine = _add(
        root,
        "Machine",
        uuid=f"{{{uuid.uuid4()}}}",
        name=_machine_name(folder),
        OSType="Other_64",
        snapshotFolder="Snapshots",
        lastStateChange=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    above = _add(_add(machine, "MediaRegistry"), "HardDisks")
    for number, layer in enumerate([*layers, child]):
        facts = {"uuid": f"{{{layer.info.disk_id}}}", "location": str(layer.path)}
        kind = {} if number else {"type": "Normal"}
        above = _add(above, "HardDisk", **facts, format=layer.info.format.upper(), **kind)
    hardware = _add(machine, "Hardware")
    _add(hardware, "CPU", count=str(_CPUS))
    _add(hardware, "Memory", RAMSize=str(memory_mib))
    _add(_add(hardware, "Boot"), "Order", position="1", device="HardDisk")
    _add(hardware, "Display", VRAMSize="16")
    _add(_add(hardware, "BIOS"), "IOAPIC", enabled="true")
    controller = _add(
        _add(machine, "StorageControllers"),
        "StorageController",
        name="SATA",
        type="AHCI",
        PortCount="1",
        useHostIOCache="true",
        Bootable="true",
    )
    attached = _add(controller, "AttachedDevice", type="HardDisk", port="0", device="0")
    _add(attached, "Image", uuid=f"{{{child.info.disk_id}}}")
    return _write_xml(folder.path / "machine.vbox", root)


# ------------------------------------------------------------------------------------ VMware


def _vmware(folder: SessionFolder, layers: Sequence[_Layer], memory_mib: int) -> Path:
    child = _child_disk(folder, layers)
    settings = {
        ".encoding": "UTF-8",
        "config.version": "8",
        "virtualHW.version": "10",  # the first that knows SATA
        "displayName": _machine_name(folder),
        "guestOS": "other-64",
        "firmware": "bios",
        "memsize": str(-(-memory_mib // 4) * 4),  # in steps of 4 MiB
        "numvcpus": str(_CPUS),
        "pciBridge0.present": "TRUE",
        "pciBridge4.present": "TRUE",
        "pciBridge4.virtualDev": "pcieRootPort",
        "pciBridge4.functions": "8",
        "sata0.present": "TRUE",
        "sata0:0.present": "TRUE",
        "sata0:0.deviceType": "disk",
        "sata0:0.fileName": child.path.name,
        "ethernet0.present": "FALSE",
    }
    path = folder.path / "machine.vmx"
    lines = [f'{name} = "{_vmx_value(value)}"' for name, value in settings.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _vmx_value(text: str) -> str:
    """A value as it stands between quotes: what would end it is written as |XX."""
    return "".join(c if c.isprintable() and c not in '"|' else f"|{ord(c):02X}" for c in text)


# ------------------------------------------------------------------------------------- parts


def _child_disk(folder: SessionFolder, layers: Sequence[_Layer]) -> _Layer:
    """An empty child of the overlay, in its format.

    VMDK names its parent by any path; VHD's locator is one relative to the child.
    """
    parent = layers[-1]
    place = str(parent.path)
    if parent.info.format == "vhd":
        place = os.path.relpath(parent.path.resolve(), folder.path.resolve())
    reference = ParentRef(parent.info.disk_id, parent.info.content_id, place)
    path = folder.path / f"machine.{parent.info.format}"
    disk = create_disk(path, parent.info.format, parent.info.virtual_size, reference)
    try:
        disk.flush()
        return _Layer(path, disk.info)
    finally:
        disk.close()


def _machine_name(folder: SessionFolder) -> str:
    """A name that the programs take, and that no other machine has."""
    title = "".join(c if c.isalnum() or c in " .#+-" else "_" for c in folder.title)
    return f"{title} {folder.id}"


def _add(parent: ET.Element, tag: str, text: str = "", /, **facts: str) -> ET.Element:
    made = ET.SubElement(parent, tag, facts)
    made.text = text or None
    return made


def _write_xml(path: Path, root: ET.Element) -> Path:
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path


_WRITERS = {
    Program.VIRT_MANAGER: _libvirt,
    Program.VIRTUALBOX: _virtualbox,
    Program.VMWARE: _vmware,
}
