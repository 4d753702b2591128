"""A machine for libvirt, which virt-manager shows."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from vdbackup import foreign_xml
from vdbackup.errors import OtherProgramFailed
from vdbackup.guest.hardware import Hardware
from vdbackup.guest.model import Firmware
from vdbackup.qemu import accelerator, qemu
from vdbackup.recovery import other_hardware
from vdbackup.recovery.machine_xml import add
from vdbackup.recovery.other_programs.parts import (
    CPUS,
    Layer,
    info_of,
    machine_name,
    write_xml,
)
from vdbackup.recovery.sessions import elsewhere
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.repository import registered
from vdbackup.translation import tr

_VIRSH = ("virsh", "-q", "-c", "qemu:///session")


def _backing(layers: Sequence[Layer]) -> qemu.Backing:
    return qemu.Backing.of_chain([layer.path for layer in layers], layers[-1].info.format)


def child(folder: SessionFolder, layers: Sequence[Layer]) -> None:
    """Make an empty child of the overlay, in QCOW2 whatever that is."""
    qemu.create_session_disk(folder.disk, _backing(layers), layers[-1].info.virtual_size)


def write(
    folder: SessionFolder, disks: Sequence[Layer], layers: Sequence[Layer], hardware: Hardware
) -> Path:
    """Describe the machine; its file."""
    kvm = accelerator.choose().accelerator is qemu.Accelerator.KVM
    domain = ET.Element("domain", type="kvm" if kvm else "qemu")
    add(domain, "name", machine_name(folder))
    # always the same, so that defining it again changes the machine that is there
    add(domain, "uuid", str(uuid.uuid5(uuid.NAMESPACE_OID, folder.id)))
    add(domain, "memory", str(hardware.memory_mib), unit="MiB")
    add(domain, "vcpu", str(CPUS))
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
    return write_xml(folder.files.domain, domain)


def write_again(
    folder: SessionFolder, disks: Sequence[Path], layers: Sequence[Layer], hardware: Hardware
) -> Path:
    """Name the layers below the session's disk anew, in libvirt's own copy of the machine too."""
    qemu.name_backing(folder.disk, _backing(layers))
    path = folder.files.domain
    domain = foreign_xml.parsed_file(path)
    if domain is None:
        return write(folder, [Layer(disk, info_of(disk)) for disk in disks], layers, hardware)
    defined = _defined(domain.findtext("uuid") or "-")
    if defined is not None and _name_layers(defined, folder.disk, layers):
        with tempfile.NamedTemporaryFile(suffix=".xml") as file:
            file.write(ET.tostring(defined))
            file.flush()
            if elsewhere.said_by(*_VIRSH, "define", file.name) is None:
                raise OtherProgramFailed(
                    tr("libvirt does not take the machine with its layers as they are called now."),
                    tr("Define it again, and start it: it says why."),
                )
    _name_layers(domain, folder.disk, layers)
    return write_xml(path, domain)


def _defined(name: str) -> ET.Element | None:
    """A machine as libvirt has it; None where it is known that it has none of that UUID.

    Where libvirt's daemon does not answer, or is not there, its files tell that.

    Raises RecoveryError where it has one, but does not show it: then the session's own file keeps
    its old names, and whoever opens the repository next tries again.
    """
    listed = elsewhere.said_by(*_VIRSH, "list", "--all", "--uuid")
    text = elsewhere.said_by(*_VIRSH, "dumpxml", "--inactive", name)
    there = (each.findtext("uuid") for _, each in registered.libvirts_files())
    names = listed.split() if listed is not None else [uuid or "" for uuid in there]
    if text is None and name in names:
        raise OtherProgramFailed(
            tr("libvirt does not answer, so that nobody knows what its copy of the machine names."),
            tr("It is tried again when the repository is opened next."),
        )
    return foreign_xml.parsed(text)


def _name_layers(domain: ET.Element, own: Path, layers: Sequence[Layer]) -> bool:
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


def _add_backing(above: ET.Element, layers: Sequence[Layer]) -> None:
    """Each layer is named outright, so that libvirt follows no link in a file."""
    for layer in reversed(layers):
        above = add(above, "backingStore", type="file")
        add(above, "format", type=layer.info.format)
        add(above, "source", file=str(layer.path))
    add(above, "backingStore")
