"""Block devices as the kernel shows them: what there is, what is mounted, what lies on what."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdbackup.errors import SourceError

SYS_BLOCK = Path("/sys/dev/block")
_MOUNTS = Path("/proc/self/mountinfo")
_LSBLK_COLUMNS = "PATH,SIZE,TYPE,MODEL,MOUNTPOINTS,FSTYPE,LABEL,WWN,SERIAL,PARTUUID,PTUUID,UUID"


@dataclass(frozen=True)
class Candidate:
    """A block device that could be backed up.

    Attributes:
        path: the device.
        title: what a person would call it (model, label, or the device's name).
        size: in bytes.
        kind: "disk", "part", "loop", "lvm", "raid1", ... (lsblk's word).
        mountpoints: where it, or a part of it, is mounted.
        readable: whether this user may read it.
    """

    path: Path
    title: str
    size: int
    kind: str
    mountpoints: tuple[str, ...]
    readable: bool


def candidates() -> list[Candidate]:
    """All block devices with contents, disks before their parts; raises SourceError."""
    found: list[Candidate] = []
    for device in _lsblk():
        _collect(device, found)
    return found


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


def _lsblk(*devices: Path) -> list[dict[str, Any]]:
    command = ["lsblk", "--json", "--bytes", "--output", _LSBLK_COLUMNS, *map(str, devices)]
    try:
        result = subprocess.run(command, capture_output=True, check=False, timeout=30)
        listing = json.loads(result.stdout or b'{"blockdevices": []}')
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise SourceError(
            f"The block devices cannot be listed: {error}.", "Check that `lsblk` works."
        ) from error
    devices_found: list[dict[str, Any]] = listing["blockdevices"]
    return devices_found


def device_id(path: Path) -> str:
    """Who a device is: what stays with it wherever it is plugged in, else its path."""
    facts = next(iter(_lsblk(path)), {})
    for kind in ("partuuid", "wwn", "serial", "ptuuid", "uuid"):
        if facts.get(kind):
            return f"{kind}:{facts[kind]}"
    return f"device:{path.resolve()}"


def mounts_of(path: Path) -> tuple[str, ...]:
    """Where a device, its partitions, or what is built on them (LVM, RAID, loop) is mounted."""
    numbers = numbers_on(path)
    return tuple(
        mount.where
        for mount in _mounts()
        if mount.number in numbers or _rdev(mount.device) in numbers
    )


def is_mounted_writable(path: Path) -> bool:
    """Whether one of the file systems that are mounted from it may be written to."""
    numbers = numbers_on(path)
    return any(
        not mount.read_only
        for mount in _mounts()
        if mount.number in numbers or _rdev(mount.device) in numbers
    )


def device_of(number: str) -> Path | None:
    """The node of the device with that number ("8:1"); None where there is none."""
    try:
        facts = (SYS_BLOCK / number / "uevent").read_text()
    except OSError:
        return None
    name = next((line[8:] for line in facts.splitlines() if line.startswith("DEVNAME=")), None)
    return Path("/dev") / name if name else None


def lies_on(folder: Path, path: Path) -> bool:
    """Whether `folder` is stored on the device or image `path`."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    numbers = numbers_on(path)
    here = folder.stat().st_dev
    if f"{os.major(here)}:{os.minor(here)}" in numbers:
        return True
    # Btrfs gives each subvolume a number of its own: ask for the device that is mounted there
    under = [mount for mount in _mounts() if folder.is_relative_to(mount.where)]
    nearest = max(under, key=lambda mount: len(mount.where), default=None)
    return nearest is not None and _rdev(nearest.device) in numbers


@dataclass(frozen=True)
class _Mount:
    """One line of proc(5), mountinfo.

    Attributes:
        number: of the device, "8:1".
        where: the mount point.
        device: its path, or whatever else the file system calls its source.
        read_only: whether the file system itself is; one mount of it may be that alone.
    """

    number: str
    where: str
    device: str
    read_only: bool


def _mounts() -> list[_Mount]:
    mounts = []
    for line in _MOUNTS.read_bytes().rstrip(b"\n").split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        _, device, options = right.split(b" ")[:3]
        read_only = b"ro" in options.split(b",")
        mounts.append(_Mount(fields[2].decode(), _name(fields[4]), _name(device), read_only))
    return mounts


def _name(field: bytes) -> str:
    """A name as any other path: the kernel writes blanks and backslashes as octal numbers."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), field))


def _rdev(device: str) -> str | None:
    try:
        number = os.stat(device).st_rdev
    except OSError:  # not a device: tmpfs, nfs, ...
        return None
    return f"{os.major(number)}:{os.minor(number)}"


def numbers_on(path: Path) -> set[str]:
    """Device numbers ("8:1") of everything that is stored on a device or image."""
    if path.is_block_device():
        number = _rdev(str(path))
        start = {number} if number else set()
    else:
        start = _loops_of(path)
    found: set[str] = set()
    while start:
        number = start.pop()
        found.add(number)
        start |= _numbers_above(SYS_BLOCK / number) - found
    return found


def _numbers_above(device: Path) -> set[str]:
    """Of a device's partitions and of the devices that hold it open (device-mapper, md)."""
    if not device.exists():
        return set()
    above = [*device.glob("*/partition"), *device.glob("holders/*/dev")]
    return {(path.parent / "dev").read_text().strip() for path in above}


def _loops_of(image: Path) -> set[str]:
    resolved = os.fsencode(image.resolve())
    numbers = set()
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if file.read_bytes().removesuffix(b"\n") == resolved:
                numbers.add((file.parent.parent / "dev").read_text().strip())
        except OSError:  # detached meanwhile
            continue
    return numbers
