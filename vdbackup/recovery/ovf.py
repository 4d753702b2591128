"""OVF: a virtual machine with one disk, described so that other programs make it anew.

Source: DMTF DSP0243 1.1.0 and its schema DSP8023; what VirtualBox reads of it is in its ovfreader
(Main/xml/ovfreader.cpp), what VMware wants beyond it is what its own programs write. The elements
of an Item stand in the alphabet's order, which the schema asks for. There is no network card: the
machine is a second one of a computer that may still run.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from vdbackup.guest.hardware import Controller, Hardware
from vdbackup.guest.model import Firmware
from vdbackup.recovery import other_hardware
from vdbackup.recovery.machine_xml import add, virtualbox_hardware

CPUS = 2
_NAMESPACES = {
    "": "http://schemas.dmtf.org/ovf/envelope/1",
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    "vmw": "http://www.vmware.com/schema/ovf",
    "vbox": "http://www.virtualbox.org/ovf/machine",
}
_STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_PROCESSOR, _MEMORY, _DISK = 3, 4, 17
_LINUX, _OTHER = "101", "102"
"""Of 64 bits each (CIM_OperatingSystem.OSType)."""


@dataclass(frozen=True)
class Appliance:
    """What is described.

    Attributes:
        name: of the machine, as a person gave it.
        linux: whether Linux is on the disk.
        hardware: the machine's; the controller is one of other_hardware.OVF.
        disk_file: the disk's name in the package.
        disk_id: its UUID.
        virtual_size: of the disk, in bytes.
        data_size: bytes of it that are not zeros.
    """

    name: str
    linux: bool
    hardware: Hardware
    disk_file: str
    disk_id: str
    virtual_size: int
    data_size: int


def envelope(appliance: Appliance, file_size: int) -> bytes:
    """The descriptor, as XML.

    Args:
        appliance: what is described.
        file_size: of the disk's file, in bytes.
    """
    spaces = {f"xmlns:{name}" if name else "xmlns": uri for name, uri in _NAMESPACES.items()}
    root = ET.Element("Envelope", {**spaces, "ovf:version": "1.0", "xml:lang": "en-US"})
    add(
        add(root, "References"),
        "File",
        **{"ovf:href": appliance.disk_file, "ovf:id": "file1", "ovf:size": str(file_size)},
    )
    disks = add(root, "DiskSection")
    add(disks, "Info", "The virtual disk")
    facts = {
        "ovf:capacity": str(appliance.virtual_size),
        "ovf:capacityAllocationUnits": "byte",
        "ovf:diskId": "vmdisk1",
        "ovf:fileRef": "file1",
        "ovf:format": _STREAM,
        "ovf:populatedSize": str(appliance.data_size),
        "vbox:uuid": appliance.disk_id,
    }
    add(disks, "Disk", **facts)
    _add_system(root, appliance)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    return text


def _add_system(root: ET.Element, appliance: Appliance) -> None:
    system = add(root, "VirtualSystem", **{"ovf:id": appliance.name})
    add(system, "Info", "A virtual machine")
    add(system, "Name", appliance.name)
    kind, vmware = (_LINUX, "otherLinux64Guest") if appliance.linux else (_OTHER, "otherGuest64")
    running = add(system, "OperatingSystemSection", **{"ovf:id": kind, "vmw:osType": vmware})
    add(running, "Info", "The kind of installed guest operating system")
    _add_hardware(system, appliance)
    known = appliance.hardware.controller in other_hardware.VIRTUALBOX
    if known and appliance.hardware.firmware is Firmware.UEFI:
        _add_virtualbox(system, appliance)


def _add_hardware(system: ET.Element, appliance: Appliance) -> None:
    hardware = appliance.hardware
    section = add(system, "VirtualHardwareSection")
    add(section, "Info", "Virtual hardware requirements")
    family = add(section, "System")
    add(family, "vssd:ElementName", "Virtual Hardware Family")
    add(family, "vssd:InstanceID", "0")
    add(family, "vssd:VirtualSystemIdentifier", appliance.name)
    # the first that know NVMe, and SATA
    version = "vmx-13" if hardware.controller is Controller.NVME else "vmx-10"
    add(family, "vssd:VirtualSystemType", version)
    kind, model = other_hardware.OVF[hardware.controller]
    items = (
        {
            "AllocationUnits": "hertz * 10^6",
            "ElementName": f"{CPUS} virtual CPUs",
            "InstanceID": "1",
            "ResourceType": str(_PROCESSOR),
            "VirtualQuantity": str(CPUS),
        },
        {
            "AllocationUnits": "byte * 2^20",
            "ElementName": f"{hardware.memory_mib} MiB of memory",
            "InstanceID": "2",
            "ResourceType": str(_MEMORY),
            "VirtualQuantity": str(-(-hardware.memory_mib // 4) * 4),  # in VMware's steps
        },
        {
            "Address": "0",
            "ElementName": f"{model} controller",
            "InstanceID": "3",
            "ResourceSubType": model,
            "ResourceType": str(kind),
        },
        {
            "AddressOnParent": "0",
            "ElementName": "Hard disk",
            "HostResource": "ovf:/disk/vmdisk1",
            "InstanceID": "4",
            "Parent": "3",
            "ResourceType": str(_DISK),
        },
    )
    for item in items:
        added = add(section, "Item")
        for name, value in item.items():
            add(added, f"rasd:{name}", value)
    firmware = "efi" if hardware.firmware is Firmware.UEFI else "bios"
    config = {"ovf:required": "false", "vmw:key": "firmware", "vmw:value": firmware}
    add(section, "vmw:Config", **config)


def _add_virtualbox(system: ET.Element, appliance: Appliance) -> None:
    """VirtualBox's own settings, without which it gives every machine a BIOS.

    Where they are there it goes by them alone, and finds the disk by its UUID. For others it is a
    section of an unknown kind that they may pass over (DSP0243, 7.1).
    """
    facts = {
        "ovf:required": "false",
        "version": "1.15-linux",
        "uuid": f"{{{uuid.uuid5(uuid.NAMESPACE_OID, appliance.disk_id)}}}",
        "name": appliance.name,
        "OSType": "Linux_64" if appliance.linux else "Other_64",
        "snapshotFolder": "Snapshots",
    }
    machine = add(system, "vbox:Machine", **facts)
    # VMware refuses an element that it does not know, required or not, without it
    add(machine, "ovf:Info", "The machine as VirtualBox has it")
    virtualbox_hardware(machine, appliance.hardware, CPUS, f"{{{appliance.disk_id}}}")
