"""A virtual machine in VirtualBox's own XML, and how elements are added to any.

Source: VirtualBox's Main/xml/VirtualBox-settings.xsd.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from vdbackup.guest.hardware import Controller, Hardware
from vdbackup.guest.model import Firmware
from vdbackup.recovery import other_hardware


def add(parent: ET.Element, tag: str, text: str = "", /, **facts: str) -> ET.Element:
    """A new last element in `parent`, with its text and its attributes."""
    made = ET.SubElement(parent, tag, facts)
    made.text = text or None
    return made


def virtualbox_hardware(machine: ET.Element, hardware: Hardware, cpus: int, disk_uuid: str) -> None:
    """Give a Machine element its hardware, with the one disk on it.

    Args:
        machine: the element.
        hardware: with a controller that VirtualBox has.
        cpus: how many.
        disk_uuid: the disk's, in braces.
    """
    built = add(machine, "Hardware")
    add(built, "CPU", count=str(cpus))
    add(built, "Memory", RAMSize=str(hardware.memory_mib))
    if hardware.firmware is Firmware.UEFI:
        add(built, "Firmware", type="EFI")
    add(add(built, "Boot"), "Order", position="1", device="HardDisk")
    add(built, "Display", VRAMSize="16")
    # an adapter that is not spoken of is one that is there, with NAT
    add(add(built, "Network"), "Adapter", slot="0", enabled="false")
    add(add(built, "BIOS"), "IOAPIC", enabled="true")
    name, kind = other_hardware.VIRTUALBOX[hardware.controller]
    controller = add(
        add(machine, "StorageControllers"),
        "StorageController",
        name=name,
        type=kind,
        PortCount="2" if hardware.controller is Controller.IDE else "1",
        useHostIOCache="true",
        Bootable="true",
    )
    attached = add(controller, "AttachedDevice", type="HardDisk", port="0", device="0")
    add(attached, "Image", uuid=disk_uuid)
