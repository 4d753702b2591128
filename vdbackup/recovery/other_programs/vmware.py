"""A machine for VMware."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdbackup.guest.hardware import Controller, Hardware
from vdbackup.guest.model import Firmware
from vdbackup.recovery import other_hardware
from vdbackup.recovery.other_programs.parts import (
    CPUS,
    Layer,
    machine_name,
)
from vdbackup.recovery.sessions.folder import SessionFolder


def write(
    folder: SessionFolder, disks: Sequence[Layer], _layers: Sequence[Layer], hardware: Hardware
) -> Path:
    """Describe the machine; its file."""
    bus, model = other_hardware.VMWARE[hardware.controller]
    settings = {
        ".encoding": "UTF-8",
        "config.version": "8",
        # the first that know NVMe, and SATA
        "virtualHW.version": "13" if hardware.controller is Controller.NVME else "10",
        "displayName": machine_name(folder),
        "guestOS": "other-64",
        "firmware": "efi" if hardware.firmware is Firmware.UEFI else "bios",
        "memsize": str(-(-hardware.memory_mib // 4) * 4),  # in steps of 4 MiB
        "numvcpus": str(CPUS),
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
    path = folder.files.vmware
    lines = [f'{name} = "{_vmx_value(value)}"' for name, value in settings.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _vmx_value(text: str) -> str:
    """A value as it stands between quotes: what would end it is written as |XX."""
    return "".join(c if c.isprintable() and c not in '"|' else f"|{ord(c):02X}" for c in text)


def write_again(
    folder: SessionFolder, _disks: Sequence[Path], _layers: Sequence[Layer], _hardware: Hardware
) -> Path:
    """Its file names the session's disk alone, and that the overlay, whose name stays."""
    return folder.files.vmware
