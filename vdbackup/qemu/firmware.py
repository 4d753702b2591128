"""UEFI for a virtual machine: which files it is, and its variables, with a boot entry if needed.

Where a distribution keeps OVMF, its descriptions for QEMU say (docs/interop/firmware.json of
QEMU). The variables are a file that the firmware writes to, so that each machine gets its own copy.

A firmware starts EFI/BOOT/BOOTX64.EFI of a disk that it has no boot entry for. Where a disk has
only a vendor's loader, an entry for that is put into the copy: a variable BootNNNN whose device
path is the file's name alone, which the firmware looks for on each disk (EDK2's short form).

Structures: UEFI 2.10, 3.1.3 (load options) and 10.3.5.4 (file paths); PI 1.8, volume 3, 3.2.1
(firmware volume); EDK2's MdeModulePkg/Include/Guid/VariableFormat.h.
"""

from __future__ import annotations

import json
import logging
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdbackup.errors import CannotBoot, ProgramMissing
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_DESCRIPTIONS = (
    Path("/etc/qemu/firmware"),
    Path("/usr/local/share/qemu/firmware"),
    Path("/usr/share/qemu/firmware"),
)
_UNWANTED = {"requires-smm", "enrolled-keys", "secure-boot", "amd-sev-es", "amd-sev-snp"}
"""Features: keys that are enrolled would refuse a loader that nobody has signed."""
_MACHINE = "pc-q35-"

_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
_AUTHENTICATED = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_STORE = struct.Struct("<16sI8x")
_VARIABLE = struct.Struct("<HBxIQ16xIII16s")
_START, _ADDED = 0x55AA, 0x3F
_KEPT_AND_SEEN = 7
"""Attributes: it outlives a reset, and is there for the firmware and the system."""
_END_OF_PATH = bytes.fromhex("7fff0400")
_ENTRY = 0x9000
"""Number of our boot entry: one that no firmware gives by itself."""


@dataclass(frozen=True)
class Uefi:
    """OVMF: its code, which is read, and variables to begin with."""

    code: Path
    variables: Path


def find() -> Uefi:
    """The UEFI of this computer's QEMU; raises RecoveryError where there is none."""
    for description in _descriptions():
        found = _usable(description)
        if found and found.code.is_file() and found.variables.is_file():
            return found
    raise ProgramMissing(
        tr("The disk starts with UEFI, and there is no such firmware for virtual machines here."),
        tr("Install it with: sudo apt install ovmf"),
    )


def write_variables(firmware: Uefi, target: Path, program: str | None) -> None:
    r"""Make a machine's own variables at `target`.

    Args:
        firmware: whose they are.
        target: a new file.
        program: that is to be started, from the EFI system partition's top on, with slashes; None
            leaves it to the firmware.

    Raises:
        RecoveryError: they are of a kind that is not known.
        OSError: the file cannot be written.
    """
    store = bytearray(firmware.variables.read_bytes())
    if program is not None:
        number = f"Boot{_ENTRY:04X}"
        _append(store, number, _load_option("vdbackup", program.replace("/", "\\")))
        _append(store, "BootOrder", struct.pack("<H", _ENTRY))
    target.write_bytes(store)


def _descriptions() -> Iterator[Any]:
    """By the names of the files, of which the first in order is to be preferred."""
    names: dict[str, Path] = {}
    for folder in _DESCRIPTIONS:
        for path in folder.glob("*.json"):
            names.setdefault(path.name, path)
    for _, path in sorted(names.items()):
        try:
            yield json.loads(path.read_text())
        except (OSError, ValueError):
            log.info("%s cannot be read", path, exc_info=True)


def _usable(description: Any) -> Uefi | None:
    try:
        machines = [
            machine
            for target in description["targets"]
            if target["architecture"] == "x86_64"
            for machine in target["machines"]
        ]
        mapping = description["mapping"]
        fits = (
            "uefi" in description["interface-types"]
            and mapping["device"] == "flash"
            and not _UNWANTED & set(description["features"])
            and any(machine.startswith(_MACHINE) for machine in machines)
        )
        if not fits or mapping["executable"]["format"] != "raw":
            return None
        template = mapping["nvram-template"]["filename"]
        return Uefi(Path(mapping["executable"]["filename"]), Path(template))
    except (KeyError, TypeError, AttributeError):
        return None


def _load_option(title: str, program: str) -> bytes:
    name = f"{program}\0".encode("utf-16-le")
    path = struct.pack("<BBH", 4, 4, 4 + len(name)) + name + _END_OF_PATH
    return struct.pack("<IH", 1, len(path)) + f"{title}\0".encode("utf-16-le") + path


def _append(store: bytearray, name: str, value: bytes) -> None:
    """Add a variable behind those that are there."""
    (header_size,) = struct.unpack_from("<H", store, 48)
    kind, size = _STORE.unpack_from(store, header_size)
    if store[40:44] != b"_FVH" or kind != _AUTHENTICATED:
        raise CannotBoot(
            tr("The variables of this computer's UEFI are of a kind that vdbackup does not know."),
            tr("Start the machine's boot loader from the firmware's own menu."),
        )
    at = header_size + _STORE.size
    while store[at : at + 2] == _START.to_bytes(2, "little"):
        *_, name_size, value_size, _ = _VARIABLE.unpack_from(store, at)
        at = _aligned(at + _VARIABLE.size + name_size + value_size)
    letters = f"{name}\0".encode("utf-16-le")
    header = _VARIABLE.pack(_START, _ADDED, _KEPT_AND_SEEN, 0, 0, len(letters), len(value), _GLOBAL)
    record = header + letters + value
    if at + len(record) > header_size + size:
        raise CannotBoot(tr("There is no space for a boot entry in the UEFI's variables."))
    store[at : at + len(record)] = record


def _aligned(at: int) -> int:
    return -(-at // 4) * 4
