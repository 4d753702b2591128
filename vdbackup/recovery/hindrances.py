"""Whether a device may be written over: never what this computer runs from, or keeps backups on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vdbackup.agent.block_devices import SYS_BLOCK
from vdbackup.agent.file_systems import swap_on
from vdbackup.agent.stacking import files_under, mounts_of, number_of, stored_on
from vdbackup.errors import TargetInUse
from vdbackup.translation import tr

_SYSTEM = (Path("/"), Path("/boot"), Path("/usr"))
"""Without what lies there this computer stops, or does not start again."""


def hindrance(device: Path, repository: Path | None) -> TargetInUse | None:
    """Why nothing may be written to a device; None where nothing is known.

    What the kernel holds besides, an active volume or what another container has mounted, is seen
    when the device is opened exclusively (target.held_device).

    Args:
        device: a block device.
        repository: the folder of the backups that would be restored from; None without any.
    """
    return next(_hindrances(device, repository), None)


def _hindrances(device: Path, repository: Path | None) -> Iterator[TargetInUse]:
    number = number_of(str(device))
    if any(number in stored_on(folder) for folder in _SYSTEM):
        yield TargetInUse(
            tr("{device} holds the system that this computer runs from.", device=device),
            tr(
                "Choose another disk; to write over this one, start the computer from another "
                "medium."
            ),
        )
    if repository is not None:
        yield from _of_backups(device, repository)
    for swap in swap_on(device):
        yield TargetInUse(
            tr("{device} is swapped to ({swap}).", device=device, swap=swap.path),
            tr("End that first: swapoff {swap}.", swap=swap.path),
        )
    if where := mounts_of(device):
        yield TargetInUse(
            tr(
                "{device} is mounted at {where}.",
                device=device,
                where=", ".join(dict.fromkeys(where)),
            ),
            tr("Unmount it first."),
        )
    if held := _held_by(device):
        yield TargetInUse(
            tr("{device} is a part of {held}.", device=device, held=", ".join(held)),
            tr("Deactivate that first."),
        )
    if loops := _loops_on(device):
        yield TargetInUse(
            tr(
                "{device} lies under {loops}, which shows a part of it as a device.",
                device=device,
                loops=" ".join(loops),
            ),
            tr(
                "Unmount what is on that, and end it: losetup --detach {loops}.",
                loops=" ".join(loops),
            ),
        )


def _of_backups(device: Path, repository: Path) -> Iterator[TargetInUse]:
    if number_of(str(device)) in stored_on(repository):
        yield TargetInUse(
            tr("{device} holds the backups in {repository}.", device=device, repository=repository),
            tr("Choose another disk, or copy them."),
        )
    for file in files_under(device):
        if file.resolve().is_relative_to(repository.resolve()):
            yield TargetInUse(
                tr("{device} is a file of the backups, {file}.", device=device, file=file),
                tr("Choose another device."),
            )


def _held_by(device: Path) -> list[str]:
    """What the kernel has made of a device or its partitions (LVM, RAID, LUKS), by name."""
    place = (SYS_BLOCK / (number_of(str(device)) or "")).resolve()
    holders = [*place.glob("holders/*"), *place.glob("*/holders/*")]
    return sorted({_name(holder) for holder in holders})


def _loops_on(device: Path) -> list[str]:
    """Loop devices that show a part of a device: the kernel names none of them as a holder.

    They are how `mount -o loop,offset=` reaches a partition without a device of its own, and do not
    keep others from opening what lies below exclusively.
    """
    place = (SYS_BLOCK / (number_of(str(device)) or "")).resolve()
    inner = [(_numbers(place / "dev"), (0, 1 << 63))]
    inner += [(_numbers(each.parent / "dev"), (0, 1 << 63)) for each in place.glob("*/partition")]
    if (place / "partition").exists():  # what lies on its disk may reach into it
        start, size = (_sectors(place / name) for name in ("start", "size"))
        inner.append((_numbers(place.parent / "dev"), (start, start + size)))
    return sorted(
        f"/dev/{loop.parent.name}"
        for loop in Path("/sys/block").glob("loop*/loop")
        for number, stretch in inner
        if _shows(loop, number, stretch)
    )


def _shows(loop: Path, number: str, stretch: tuple[int, int]) -> bool:
    """Whether a loop device shows some of a stretch, in bytes, of the device with a number."""
    try:
        backing = Path(os.fsdecode((loop / "backing_file").read_bytes().removesuffix(b"\n")))
        offset, limit = (int((loop / name).read_text()) for name in ("offset", "sizelimit"))
    except OSError:  # it has nothing behind it by now
        return False
    first, end = stretch
    return (
        number_of(str(backing)) == number and offset < end and (not limit or offset + limit > first)
    )


def _numbers(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


def _sectors(file: Path) -> int:
    """Bytes, of a figure of sysfs, which counts in 512 whatever the device does."""
    return int(file.read_text()) * 512


def _name(holder: Path) -> str:
    """Of LVM "vg-root", else the kernel's."""
    try:
        return (holder / "dm/name").read_text().strip()
    except OSError:
        return holder.name
