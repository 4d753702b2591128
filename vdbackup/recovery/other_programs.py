"""A recovery point in another program's virtual machine: virt-manager, VirtualBox, VMware.

The program gets a child disk of its own above the point's overlay, in a session's folder, with a
description of the machine beside it; the overlay and the layers stay as they are, and the point is
held until the session is discarded. Which program reads chains of which format:

    virt-manager (libvirt, QEMU)    VMDK, QCOW2     a QCOW2 child
    VirtualBox                      VMDK, VHD       a child in the set's own format
    VMware                          VMDK            the same

The machine has the controller and the firmware that the point was found to boot with, as far as the
program has them (other_hardware.py), and no network. libvirt's file is checked against its schema
(docs/formatdomain.rst describes it) and booted by its session daemon. VirtualBox's is written by
its own (Main/xml/VirtualBox-settings.xsd), VMware's by what is generally known of it: neither
program was at hand to open one. That their disks read right through all parents is proven with QEMU
and libvhdi.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

from vdbackup import durable, foreign_xml
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.formats import create_disk, open_disk, probe
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.errors import CannotBoot, OtherProgramFailed, SessionUnusable, from_os
from vdbackup.guest.hardware import Controller, Hardware
from vdbackup.guest.model import Firmware
from vdbackup.qemu import accelerator, qemu
from vdbackup.recovery import other_hardware
from vdbackup.recovery.machine_xml import add, virtualbox_hardware
from vdbackup.recovery.retarget.report import chosen_hardware
from vdbackup.recovery.sessions import elsewhere
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.recovery.sessions.folder import SavedSession, SessionFolder
from vdbackup.recovery.sessions.record import Origin
from vdbackup.repository import claims, registered
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

FORMATS = {
    Program.VIRT_MANAGER: (DiskFormat.VMDK, DiskFormat.QCOW2),
    Program.VIRTUALBOX: (DiskFormat.VMDK, DiskFormat.VHD),
    Program.VMWARE: (DiskFormat.VMDK,),
}
"""The formats of which a program reads a child with all its parents correctly."""
MAX_DISKS = {
    Program.VIRT_MANAGER: 200,
    Program.VIRTUALBOX: 250,
    Program.VMWARE: 250,
}
"""Disks of one chain that a program opens, the machine's own among them.

libvirt goes down 200 disks and calls what is longer "too deeply nested"; with 256 its parser of
XML ends (9.0: 252 were taken, 260 not). VirtualBox takes 300 in its settings, read by the same
parser (SETTINGS_MEDIUM_DEPTH_MAX). VMware names no number: nobody here has seen it take more.
"""
_CPUS = 2
_VIRSH = ("virsh", "-q", "-c", "qemu:///session")


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


def check_possible(program: Program, disk_format: DiskFormat, sector_size: int, disks: int) -> None:
    """Raise RecoveryError where the program cannot boot from such a chain of so many disks."""
    if disk_format not in FORMATS[program] or sector_size != 512:
        readable = " and ".join(name.upper() for name in FORMATS[program])
        raise CannotBoot(
            f"{NAMES[program]} cannot boot from this point: it reads chains in {readable} with "
            "sectors of 512 bytes only.",
            "Export the point as one disk and open that, or boot it here.",
        )
    if disks > MAX_DISKS[program]:
        raise CannotBoot(
            f"{NAMES[program]} cannot open this point: it would have to read through {disks} "
            f"disks, and takes {MAX_DISKS[program]} at most.",
            "Merge older points first; or export the point as one disk and open that; or boot it "
            "here, where long chains are no trouble.",
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
    title = f"{backup_set.name} #{point.sequence}"
    doing = f"writing a machine for {title}"
    with claims.reading(repository, backup_set.name, [point.id], doing) as now:
        point = now.point(point.id)
        place = _place(now, point, program)
        origin = Origin.of(repository, now, point)
        return _write_machine(place, origin, title, program, sessions_folder, memory_mib)


def _write_machine(
    place: _Place,
    origin: Origin,
    title: str,
    program: Program,
    sessions_folder: Path,
    memory_mib: int,
) -> WrittenMachine:
    hardware = replace(place.hardware, memory_mib=memory_mib)
    options = {"program": str(program), "memory_mib": memory_mib}
    with SessionFolder.create(sessions_folder, title, place.overlay, origin, options) as folder:
        try:
            _CHILDREN[program](folder, place.layers)
            file = _WRITERS[program](folder, _own_disks(folder, program), place.layers, hardware)
            folder.keep()
        except OSError as error:
            folder.remove()
            raise from_os(error) from error
        except BaseException:
            folder.remove()
            raise
    return _written(folder, program, file, hardware, place.layers)


def write_again(saved: SavedSession, *, not_running: bool = False) -> WrittenMachine:
    """Write the machine of a session anew, on the disks that it has by now.

    A merge gives the layers below other names, and libvirt's and VirtualBox's machines name each.

    Raises:
        RecoveryError: the machine runs, or what it lies on is not what it was.
        RepositoryError: the point is not there.
    """
    if saved.program not in list(Program):  # its record may say anything
        raise SessionUnusable(f"The session {saved.id} is of no program that is known.")
    program = Program(saved.program)
    ended = saved.ended_machine(not_running=not_running)
    repository, backup_set, point = saved.origin.find()
    doing = f"writing the machine of {saved.title} again"
    with claims.reading(repository, backup_set.name, [point.id], doing) as now:
        place = _place(now, now.point(point.id), program)
        saved.origin.check_unchanged(now, now.point(point.id))
    memory = saved.said.machine.get("memory_mib")
    hardware = replace(place.hardware, memory_mib=memory) if type(memory) is int else place.hardware
    with SessionFolder.reopen(saved.folder) as folder:
        try:
            file = _AGAIN[program](folder, ended.disks, place.layers, hardware)
        except OSError as error:
            raise from_os(error) from error
        folder.keep()
    return _written(folder, program, file, hardware, place.layers)


@dataclass(frozen=True)
class _Place:
    """What a machine is put on."""

    overlay: Path
    layers: tuple[_Layer, ...]
    hardware: Hardware


def _place(backup_set: BackupSet, point: RecoveryPoint, program: Program) -> _Place:
    disk_format = backup_set.settings.format
    disks = len(backup_set.chain(point)) + 2  # its overlay, and the machine's own
    check_possible(program, disk_format, point.sector_size, disks)
    backup_set.open_chain(point).close()
    overlay = backup_set.overlay_path(point).absolute()
    with Chain.open(overlay, disk_format) as chain:
        layers = tuple(_Layer(layer.path.absolute(), layer.info) for layer in chain.layers)
        hardware = other_hardware.hardware_in(program, chain, chosen_hardware(backup_set, point))
    return _Place(overlay, layers, hardware)


def _info(path: Path) -> DiskInfo:
    found = probe(path)
    opened = (
        Qcow2Disk.open_knowing_parent(path) if found == DiskFormat.QCOW2 else open_disk(path, found)
    )
    with closing(opened) as disk:
        return disk.info


def _own_disks(folder: SessionFolder, program: Program) -> list[_Layer]:
    """The session's own disk, just made."""
    if program is Program.VIRT_MANAGER:
        return [_Layer(folder.disk, _info(folder.disk))]
    (path,) = (path for path in folder.path.glob("machine.*") if path.suffix in (".vmdk", ".vhd"))
    return [_Layer(path, _info(path))]


def _written(
    folder: SessionFolder,
    program: Program,
    file: Path,
    hardware: Hardware,
    layers: Sequence[_Layer],
) -> WrittenMachine:
    how = _HOW[program].format(file=file) + other_hardware.notice(hardware)
    return WrittenMachine(folder.id, file, how + _long_chain(program, len(layers)))


def _long_chain(program: Program, layers: int) -> str:
    """What there is to say before a chain is opened that is long for the program, or ""."""
    if layers <= qemu.MAX_LAYERS:
        return ""
    return (
        f"\nThis point reads through {layers} disks, and {NAMES[program]} opens each by itself: "
        "the machine may take minutes to start. If older points are merged first, it is quick."
    )


_HOW = {
    Program.VIRT_MANAGER: "Add it with: virsh --connect qemu:///session define '{file}'",
    Program.VIRTUALBOX: "Open it in VirtualBox: Machine, Add, {file}",
    Program.VMWARE: "Open it in VMware: File, Open, {file}",
}


# ------------------------------------------------------------------------------- virt-manager


def _backing(layers: Sequence[_Layer]) -> qemu.Backing:
    return qemu.Backing.of_chain([layer.path for layer in layers], layers[-1].info.format)


def _qcow2_child(folder: SessionFolder, layers: Sequence[_Layer]) -> None:
    qemu.create_session_disk(folder.disk, _backing(layers), layers[-1].info.virtual_size)


def _libvirt(
    folder: SessionFolder, disks: Sequence[_Layer], layers: Sequence[_Layer], hardware: Hardware
) -> Path:
    kvm = accelerator.choose().accelerator is qemu.Accelerator.KVM
    domain = ET.Element("domain", type="kvm" if kvm else "qemu")
    add(domain, "name", _machine_name(folder))
    # always the same, so that defining it again changes the machine that is there
    add(domain, "uuid", str(uuid.uuid5(uuid.NAMESPACE_OID, folder.id)))
    add(domain, "memory", str(hardware.memory_mib), unit="MiB")
    add(domain, "vcpu", str(_CPUS))
    uefi = {"firmware": "efi"} if hardware.firmware is Firmware.UEFI else {}
    system = add(domain, "os", **uefi)
    add(system, "type", "hvm", arch="x86_64", machine=hardware.machine.value)
    if uefi:  # what boots may be signed by nobody
        add(add(system, "firmware"), "feature", enabled="no", name="secure-boot")
    add(system, "boot", dev="hd")
    features = add(domain, "features")
    add(features, "acpi")
    add(features, "apic")
    add(domain, "cpu", mode="host-passthrough" if kvm else "maximum")
    devices = add(domain, "devices")
    disk = add(devices, "disk", type="file", device="disk")
    add(disk, "driver", name="qemu", type="qcow2", discard="unmap", error_policy="stop")
    *below, current = [*layers, *disks]
    add(disk, "source", file=str(current.path))
    _add_backing(disk, below)
    bus, name, model = other_hardware.LIBVIRT[hardware.controller]
    add(disk, "target", dev=name, bus=bus)
    if model:
        add(devices, "controller", type="scsi", index="0", model=model)
    add(devices, "input", type="tablet", bus="usb")
    add(devices, "graphics", type="vnc", autoport="yes")
    add(add(devices, "video"), "model", type="vga")
    add(devices, "serial", type="pty")
    return _write_xml(folder.path / "domain.xml", domain)


def _libvirt_again(
    folder: SessionFolder, disks: Sequence[Path], layers: Sequence[_Layer], hardware: Hardware
) -> Path:
    """Name the layers below the session's disk anew, in libvirt's own copy of the machine too."""
    qemu.name_backing(folder.disk, _backing(layers))
    path = folder.path / "domain.xml"
    domain = foreign_xml.parsed_file(path)
    if domain is None:
        return _libvirt(folder, [_Layer(disk, _info(disk)) for disk in disks], layers, hardware)
    defined = _defined(domain.findtext("uuid") or "-")
    if defined is not None and _name_layers(defined, folder.disk, layers):
        with tempfile.NamedTemporaryFile(suffix=".xml") as file:
            file.write(ET.tostring(defined))
            file.flush()
            if elsewhere.said_by(*_VIRSH, "define", file.name) is None:
                raise OtherProgramFailed(
                    "libvirt does not take the machine with its layers as they are called now.",
                    "Define it again, and start it: it says why.",
                )
    _name_layers(domain, folder.disk, layers)
    return _write_xml(path, domain)


def _defined(name: str) -> ET.Element | None:
    """A machine as libvirt has it; None where it is known that it has none of that UUID.

    Where libvirt's daemon does not answer, or is not there, its files tell that.

    Raises RecoveryError where it has one, but does not show it: then the session's own file keeps
    its old names, and whoever opens the repository next tries again.
    """
    listed = elsewhere.said_by(*_VIRSH, "list", "--all", "--uuid")
    said = elsewhere.said_by(*_VIRSH, "dumpxml", "--inactive", name)
    there = (each.findtext("uuid") for _, each in registered.libvirts_files())
    names = listed.split() if listed is not None else [uuid or "" for uuid in there]
    if said is None and name in names:
        raise OtherProgramFailed(
            "libvirt does not answer, so that nobody knows what its copy of the machine names.",
            "It is tried again when the repository is opened next.",
        )
    return foreign_xml.parsed(said)


def _name_layers(domain: ET.Element, own: Path, layers: Sequence[_Layer]) -> bool:
    """Let a domain's chain below the session's disk be the layers; whether it names a chain."""
    for disk in domain.iterfind("./devices/disk"):
        place: ET.Element | None = disk
        while place is not None:
            source = place.find("source")
            below = place.find("backingStore")
            named = source.get("file", "") if source is not None else ""
            if below is not None and os.path.realpath(named) == os.path.realpath(own):
                place.remove(below)
                _add_backing(place, layers)
                return True
            place = below
    return False


def _add_backing(above: ET.Element, layers: Sequence[_Layer]) -> None:
    """Each layer is named outright, so that libvirt follows no link in a file."""
    for layer in reversed(layers):
        above = add(above, "backingStore", type="file")
        add(above, "format", type=layer.info.format)
        add(above, "source", file=str(layer.path))
    add(above, "backingStore")


# -------------------------------------------------------------------------------- VirtualBox

_NAMESPACE = "http://www.virtualbox.org/"


def _virtualbox(
    folder: SessionFolder, disks: Sequence[_Layer], layers: Sequence[_Layer], hardware: Hardware
) -> Path:
    root = ET.Element("VirtualBox", xmlns=_NAMESPACE, version="1.15-linux")
    machine = add(
        root,
        "Machine",
        uuid=f"{{{uuid.uuid5(uuid.NAMESPACE_OID, folder.id)}}}",
        name=_machine_name(folder),
        OSType="Other_64",
        snapshotFolder="Snapshots",
        lastStateChange=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    _add_media(add(add(machine, "MediaRegistry"), "HardDisks"), [*layers, *disks])
    virtualbox_hardware(machine, hardware, _CPUS, _virtualbox_uuid(disks[-1].info))
    return _write_xml(folder.path / "machine.vbox", root)


def _add_media(above: ET.Element, layers: Sequence[_Layer], tag: str = "HardDisk") -> ET.Element:
    """Name the disks, each in its parent; the last one's element."""
    for number, layer in enumerate(layers):
        facts = {"uuid": _virtualbox_uuid(layer.info), "location": str(layer.path)}
        kind = {} if number else {"type": "Normal"}
        above = add(above, tag, **facts, format=layer.info.format.upper(), **kind)
    return above


def _virtualbox_again(
    folder: SessionFolder, disks: Sequence[Path], layers: Sequence[_Layer], _hardware: Hardware
) -> Path:
    """Name the layers below the session's disk anew; all else is VirtualBox's by now."""
    path = folder.path / "machine.vbox"
    space = f"{{{_NAMESPACE}}}"
    root = foreign_xml.parsed_file(path)
    if root is None:
        raise SessionUnusable(f"{path} cannot be read.", "Discard the session.")
    for media in root.iterfind(f"{space}Machine/{space}MediaRegistry/{space}HardDisks"):
        for base in media.findall(f"{space}HardDisk"):  # beside ours are disks that the user added
            for own in base.iter(f"{space}HardDisk"):
                if (folder.path / own.get("location", "")).resolve() == disks[0].resolve():
                    media.remove(base)
                    _add_media(media, layers, f"{space}HardDisk").append(own)
                    break
    ET.register_namespace("", _NAMESPACE)
    return _write_xml(path, root)


def _virtualbox_uuid(info: DiskInfo) -> str:
    """A disk's UUID as VirtualBox reads it: a VHD footer's little-endian (Storage/VHD.cpp)."""
    own = uuid.UUID(info.disk_id)
    return f"{{{uuid.UUID(bytes_le=own.bytes) if info.format == 'vhd' else own}}}"


# ------------------------------------------------------------------------------------ VMware


def _vmware(
    folder: SessionFolder, disks: Sequence[_Layer], _layers: Sequence[_Layer], hardware: Hardware
) -> Path:
    bus, model = other_hardware.VMWARE[hardware.controller]
    settings = {
        ".encoding": "UTF-8",
        "config.version": "8",
        # the first that know NVMe, and SATA
        "virtualHW.version": "13" if hardware.controller is Controller.NVME else "10",
        "displayName": _machine_name(folder),
        "guestOS": "other-64",
        "firmware": "efi" if hardware.firmware is Firmware.UEFI else "bios",
        "memsize": str(-(-hardware.memory_mib // 4) * 4),  # in steps of 4 MiB
        "numvcpus": str(_CPUS),
        "pciBridge0.present": "TRUE",
        "pciBridge4.present": "TRUE",
        "pciBridge4.virtualDev": "pcieRootPort",
        "pciBridge4.functions": "8",
        f"{bus}0.present": "TRUE",
        **({f"{bus}0.virtualDev": model} if model else {}),
        f"{bus}0:0.present": "TRUE",
        f"{bus}0:0.deviceType": "disk",
        f"{bus}0:0.fileName": disks[-1].path.name,
        "ethernet0.present": "FALSE",
    }
    path = folder.path / "machine.vmx"
    lines = [f'{name} = "{_vmx_value(value)}"' for name, value in settings.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _vmx_value(text: str) -> str:
    """A value as it stands between quotes: what would end it is written as |XX."""
    return "".join(c if c.isprintable() and c not in '"|' else f"|{ord(c):02X}" for c in text)


def _vmware_again(
    folder: SessionFolder, _disks: Sequence[Path], _layers: Sequence[_Layer], _hardware: Hardware
) -> Path:
    """Its file names the session's disk alone, and that the overlay, whose name stays."""
    return folder.path / "machine.vmx"


# ------------------------------------------------------------------------------------- parts


def _child_disk(folder: SessionFolder, layers: Sequence[_Layer]) -> None:
    """An empty child of the overlay, in its format.

    VMDK names its parent by any path; VHD's locator is one relative to the child.
    """
    parent = layers[-1]
    place = str(parent.path)
    if parent.info.format == DiskFormat.VHD:
        place = os.path.relpath(parent.path.resolve(), folder.path.resolve())
    reference = ParentRef(parent.info.disk_id, parent.info.content_id, place)
    path = folder.path / f"machine.{parent.info.format}"
    disk = create_disk(path, parent.info.format, parent.info.virtual_size, reference)
    with closing(disk):
        disk.flush()


def _machine_name(folder: SessionFolder) -> str:
    """A name that the programs take, and that no other machine has."""
    title = "".join(c if c.isalnum() or c in " .#+-" else "_" for c in folder.title)
    return f"{title} {folder.id}"


def _write_xml(path: Path, root: ET.Element) -> Path:
    ET.indent(root)
    durable.replace(path, ET.tostring(root, encoding="utf-8", xml_declaration=True))
    return path


_CHILDREN = {
    Program.VIRT_MANAGER: _qcow2_child,
    Program.VIRTUALBOX: _child_disk,
    Program.VMWARE: _child_disk,
}
_WRITERS = {
    Program.VIRT_MANAGER: _libvirt,
    Program.VIRTUALBOX: _virtualbox,
    Program.VMWARE: _vmware,
}
_AGAIN = {
    Program.VIRT_MANAGER: _libvirt_again,
    Program.VIRTUALBOX: _virtualbox_again,
    Program.VMWARE: _vmware_again,
}
