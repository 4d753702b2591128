"""Block devices as the kernel and udev know them: which there are, and which is which."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdbackup.agent import connection
from vdbackup.agent.block_devices import SYS_BLOCK
from vdbackup.agent.stacking import number_of
from vdbackup.errors import DevicesNotListed
from vdbackup.sources import udisks
from vdbackup.sources.file_identity import file_identity
from vdbackup.sources.identity import Attached, Facts, Kind
from vdbackup.translation import tr

_DEVICES, _SHARED_MEMORY = Path("/dev"), Path("/dev/shm")  # noqa: S108 - named, not used
_LSBLK_COLUMNS = (
    "PATH,MAJ:MIN,SIZE,TYPE,MODEL,MOUNTPOINTS,FSTYPE,LABEL,WWN,SERIAL,PARTUUID,PTUUID,UUID"
)


@dataclass(frozen=True)
class Candidate:
    """A block device that could be backed up.

    Attributes:
        path: the device.
        title: what a person would call it (model, label, or the device's name).
        size: in bytes.
        kind: "disk", "part", "loop", "lvm", "raid1", ... (lsblk's word).
        mountpoints: where it, or a part of it, is mounted.
        readable: whether this user may read it, or ask our agent or UDisks for it.
    """

    path: Path
    title: str
    size: int
    kind: str
    mountpoints: tuple[str, ...]
    readable: bool


def candidates() -> list[Candidate]:
    """All block devices with contents, disks before their parts; raises DevicesNotListed."""
    found: list[Candidate] = []
    for device in lsblk():
        _collect(device, found)
    if all(each.readable for each in found) or not can_be_asked_for():
        return found
    return [replace(each, readable=True) for each in found]


def can_be_asked_for() -> bool:
    """Whether somebody opens a device for a user who may not."""
    return connection.can_be_had() or udisks.can_be_asked()


def _collect(device: dict[str, Any], found: list[Candidate]) -> tuple[str, ...]:
    place = len(found)
    mountpoints = [point for point in device.get("mountpoints") or [] if point]
    for child in device.get("children") or []:
        mountpoints += _collect(child, found)
    path = Path(device["path"])
    if device["size"]:
        title = device.get("model") or device.get("label") or path.name
        candidate = Candidate(
            path, str(title).strip(), int(device["size"]), str(device["type"]),
            tuple(mountpoints), os.access(path, os.R_OK),
        )  # fmt: skip
        found.insert(place, candidate)
    return tuple(mountpoints)


def lsblk(*devices: Path) -> list[dict[str, Any]]:
    """These devices, or all, and what is on each, as lsblk says it; raises DevicesNotListed."""
    command = ["lsblk", "--json", "--bytes", "--output", _LSBLK_COLUMNS, *map(str, devices)]
    try:
        result = subprocess.run(command, capture_output=True, check=False, timeout=30)
        listing = json.loads(result.stdout or b'{"blockdevices": []}')
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise DevicesNotListed(
            tr("The block devices cannot be listed: {error}.", error=error),
            tr("That is done by lsblk, of the package util-linux: check that it works here."),
        ) from error
    devices_found: list[dict[str, Any]] = listing["blockdevices"]
    return devices_found


def device_id(path: Path) -> str:
    """Who a device is: what stays with it wherever it is plugged in, else its path."""
    facts = next(iter(lsblk(path)), {})
    for kind in ("partuuid", "wwn", "serial", "ptuuid", "uuid"):
        if facts.get(kind):
            return f"{kind}:{facts[kind]}"
    return f"device:{path.resolve()}"


def is_among_devices(path: Path) -> bool:
    """Whether a new file of that name would lie where devices do: in memory, until the next start.

    Who names one means a device, which is not there.
    """
    folder = path.parent.resolve()
    return folder.is_relative_to(_DEVICES) and not folder.is_relative_to(_SHARED_MEMORY)


def facts_of_device(path: Path) -> Facts:
    """What the kernel and udev know of a device; without what is written on it."""
    row = next(iter(lsblk(path)), {})
    path = path.resolve()
    place = _place(path)
    kind = _kind(place)
    table = "" if kind is Kind.PARTITION else _said(row, "ptuuid")  # lsblk says its disk's there
    return Facts(
        paths=tuple(dict.fromkeys((str(path), str(lasting_name(path))))),
        kind=kind,
        attached=_attached(place),
        model=_said(row, "model"),
        serial=_said(row, "serial"),
        wwn=_said(row, "wwn"),
        volume=_volume_id(place, path),
        file=_file_behind(place),
        partition=_said(row, "partuuid"),
        table=table,
        contents=tuple(filter(None, [_said(row, "uuid")])),
        twins=_twins(row),
    )


def lasting_name(path: Path) -> Path:
    """A device's name that stays: /dev/dm-3 is another volume after the next start."""
    name = _sysfs(_place(path) / "dm/name") if path.is_block_device() else ""
    return Path("/dev/mapper") / name if name else path


def medium_of(device: Path) -> str:
    """Which medium is in a device, a number that the kernel never gives twice; "" where unknown.

    Linux 5.15 and later say it (Documentation/ABI/stable/sysfs-block, diskseq), a partition's disk
    for it. Of the device mapper's it is not asked: their tables may change below the same data.
    """
    place = _place(device)
    if (place / "dm").exists():
        return ""
    return _sysfs(place / "diskseq") or _sysfs(place.parent / "diskseq")


def _place(device: Path) -> Path:
    """Its folder in sysfs."""
    return (SYS_BLOCK / (number_of(str(device)) or "")).resolve()


def _said(row: dict[str, Any], column: str) -> str:
    return str(row.get(column) or "").strip()


def _sysfs(file: Path) -> str:
    """The text in a file of sysfs; "" where there is none."""
    try:
        return os.fsdecode(file.read_bytes()).strip()
    except OSError:
        return ""


def _kind(place: Path) -> Kind:
    kinds = {"partition": Kind.PARTITION, "dm": Kind.VOLUME, "md": Kind.VOLUME, "loop": Kind.LOOP}
    return next((kind for name, kind in kinds.items() if (place / name).exists()), Kind.DISK)


def _attached(place: Path) -> str:
    """By the bus that it hangs on; a device that is made of others is on none."""
    if re.search(r"/(usb|fw)[0-9]+/", str(place)):
        return Attached.BRIDGE
    return "" if "/virtual/" in str(place) or place.parent == SYS_BLOCK else Attached.DIRECTLY


def _volume_id(place: Path, path: Path) -> str:
    """Of device-mapper or md; that of an opened LUKS is its container's, which clones share."""
    found = _sysfs(place / "dm/uuid") or _sysfs(place / "md/uuid")
    if not found:
        links = Path("/dev/disk/by-id").glob("md-uuid-*")
        found = next((link.name for link in links if link.resolve() == path), "")
    return "" if found.startswith("CRYPT-") else found


def _file_behind(place: Path) -> str:
    """The file of a loop device, and where in it the device begins."""
    backing = _sysfs(place / "loop/backing_file")
    file = file_identity(Path(backing)) if backing else ""
    return f"{file}+{_sysfs(place / 'loop/offset')}" if file else ""


def _twins(row: dict[str, Any]) -> tuple[str, ...]:
    """Other devices with the same ids on them: clones, as long as they are no paths to one disk."""
    if not any(_said(row, column) for column in ("partuuid", "ptuuid", "uuid")):
        return ()
    below = set(_numbers_below(_place(Path(_said(row, "path")))))
    return tuple(
        _said(each, "path")
        for each in _beside(lsblk(), _said(row, "path"))
        if _same_ids(row, each)
        and not _same_numbers(row, each)
        and _said(each, "maj:min") not in below
    )


def _numbers_below(place: Path) -> Iterator[str]:
    """Of all that a device is made of, by its folder in sysfs.

    lsblk shows what lies on two devices below one of them. That is so while a volume's writes are
    logged (agent/write_log.py): it lies on one with its data, and on the log, which may begin with
    a copy of the file system's head.
    """
    for each in (place / "slaves").glob("*"):
        yield _sysfs(each / "dev")
        yield from _numbers_below(each)


def _same_ids(one: dict[str, Any], other: dict[str, Any]) -> bool:
    for column in ("partuuid", "ptuuid", "uuid"):
        if _said(one, column):  # a partition's row has its disk's PTUUID, too
            same = _said(one, column) == _said(other, column)
            return same and bool(_said(one, "partuuid")) == bool(_said(other, "partuuid"))
    return False


def _same_numbers(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether it is one disk, which several cables lead to."""
    numbers = [(_said(row, "wwn"), _said(row, "serial")) for row in (one, other)]
    return numbers[0] == numbers[1] and all(numbers[0])


def _beside(devices: list[dict[str, Any]], path: str) -> Iterator[dict[str, Any]]:
    """All devices but that one, what it lies on, and what lies on it."""
    for device in devices:
        if device.get("path") == path:
            continue
        children = device.get("children") or []
        if not any(_holds(child, path) for child in children):
            yield device
        yield from _beside(children, path)


def _holds(device: dict[str, Any], path: str) -> bool:
    return device.get("path") == path or any(
        _holds(child, path) for child in device.get("children") or []
    )
