"""Makes a restored disk start on this computer, in place: planned, shown, done, and said.

What the retargeting does in an overlay for a virtual machine is done to the disk itself here, as
root: drivers behind the initramfs or in the registry of Windows, names that stay in fstab and the
boot loader's configuration; and a boot entry in the memory of this computer's UEFI.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import NeedsRoot, NoDriver, NotRetargeted, RecoveryError, UnfitTarget
from vdbackup.guest.disk import Disk
from vdbackup.guest.inspect import inspect
from vdbackup.guest.model import FileSystem, Firmware, Guest, Kernel, System
from vdbackup.guest.tree import Tree
from vdbackup.jobs import Plan, Task
from vdbackup.recovery.bootable import computer, firmware, mounted
from vdbackup.recovery.bootable.computer import Computer
from vdbackup.recovery.hindrances import hindrance
from vdbackup.recovery.retarget.edits import (
    Rewriting,
    Wanted,
    rewriting,
    system_modules,
)
from vdbackup.recovery.retarget.linux.appliance import Write
from vdbackup.recovery.retarget.refusals import refuse_what_its_loader_would_not_find
from vdbackup.recovery.retarget.report import FileChange
from vdbackup.recovery.retarget.windows import edits as windows
from vdbackup.recovery.retarget.windows.edits import WindowsEdits
from vdbackup.recovery.target import read_table_again
from vdbackup.translation import tr


@dataclass(frozen=True, kw_only=True)
class BootablePlan(Plan):
    """What it takes for a disk to start on this computer.

    Attributes:
        disk: the device.
        system: what lies on it.
        changes: files that are changed.
        entry: the program that the firmware gets a boot entry for; "" where it needs none.
        notes: what the user has to know, a sentence each.
    """

    disk: Path
    system: Guest
    changes: tuple[FileChange, ...]
    entry: str
    notes: tuple[str, ...]

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.changes or self.entry)


@dataclass(frozen=True)
class MadeBootable:
    """What was done.

    Attributes:
        done: a sentence for each thing.
        warnings: what could not be done, or has to be known, likewise.
    """

    done: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    guest: Guest
    files: Rewriting
    fallback: tuple[Write, ...] = ()
    windows: WindowsEdits | None = None
    notes: tuple[str, ...] = ()


def plan(disk: Path) -> BootablePlan:
    """What would be done to a disk; raises RecoveryError where nothing can be, OSError."""
    _check(disk)
    here = computer.of(disk)
    found = _find(disk, here)
    entry = _entry(found.guest, here)
    changes = tuple(_changes(found))
    return BootablePlan(
        summary=_summary(disk, found.guest, here, changes, entry),
        replaces=tuple(dict.fromkeys(each.path for each in changes)),
        disk=disk,
        system=found.guest,
        changes=changes,
        entry=entry,
        notes=(*found.files.notes, *found.notes, *_firmware_notes(found.guest, here)),
    )


def run(plan: BootablePlan, task: Task) -> MadeBootable:
    """Do it.

    What a journal still holds is replayed first, and all is found anew then: a file may have become
    another one by that.

    Raises:
        RecoveryError: it is another disk than was planned for, or a file cannot be changed.
        OSError: likewise. Cancelled: between two steps.
    """
    _check(plan.disk)
    disk, here = plan.disk, computer.of(plan.disk)
    done: list[str] = []
    warnings = list(plan.notes)
    task.phase(tr("Look at the disk"))
    _check_same(plan, _find(disk, here).guest)
    _replay(disk, plan)
    found = _find(disk, here)
    _check_same(plan, found.guest)
    task.check()
    task.phase(tr("Change files"))
    writes = (*found.files.writes, *found.fallback)
    mounted.write(disk, writes)
    if found.windows is not None:
        _edit_windows(disk, found.guest, found.windows, task)
    done += [_sentence(each) for each in _changes(found)]
    if loader := firmware.own_loader(found.guest) if _entry(found.guest, here) else None:
        task.phase(tr("Boot entry"))
        name = found.guest.name or "Linux"
        try:
            added = firmware.add_entry(disk, _efi(found.guest), loader, name)
        except RecoveryError as error:  # the firmware finds the copy of the loader
            warnings.append(f"{error.title} {error.advice}".rstrip())
        else:
            how = tr("has a boot entry now") if added else tr("had a boot entry already")
            done.append(
                tr("The firmware {how}: {name}, {entry}.", how=how, name=name, entry=plan.entry)
            )
    os.sync()
    return MadeBootable(tuple(done), tuple(warnings))


# --------------------------------------------------------------------------------- what is found


def _check(disk: Path) -> None:
    if os.geteuid() != 0:
        raise NeedsRoot(tr("Only root may change what lies on a disk."), tr("Do it as root."))
    if not disk.is_block_device():
        raise UnfitTarget(
            tr("{disk} is no block device.", disk=disk), tr("Name the disk that was restored to.")
        )
    if problem := hindrance(disk, None):
        raise problem
    with disk.open("rb") as device:
        read_table_again(device.fileno())


def _check_same(plan: BootablePlan, guest: Guest) -> None:
    """Raise UnfitTarget where there is another system than the user has been shown.

    A device's name may have become that of another disk, or the disk been restored to again.
    """
    before = plan.system
    if (before.root, before.boot, before.efi) != (guest.root, guest.boot, guest.efi):
        raise UnfitTarget(
            tr("{disk} does not hold what it held when this was planned.", disk=plan.disk),
            tr("Look at it again, and start anew."),
        )


def _find(disk: Path, here: Computer) -> _Found:
    with Chain.open(disk, DiskFormat.RAW) as chain:
        guest = inspect(chain)
        blocking = [each for each in guest.problems if each.blocks]
        if guest.system in (System.NONE, System.OTHER) or blocking:
            why = blocking[0] if blocking else None
            raise NotRetargeted(
                why.sentence if why else tr("The system on {disk} is not known.", disk=disk),
                why.advice if why else tr("It may start as it is: try it."),
            )
        whole = Disk(chain)
        copies = tuple(firmware.fallback(whole, guest))
        if guest.system is System.LINUX:
            files = rewriting(whole, guest, _drivers(here), computer.has)
            refuse_what_its_loader_would_not_find(guest, files.writes)
            return _Found(guest, files, copies, notes=tuple(_fixed_names(guest)))
        edits, notes = _windows(whole, guest, here)
        return _Found(guest, Rewriting(), copies, edits, notes)


def _fixed_names(guest: Guest) -> Iterator[str]:
    """What of the system's start depends on the hardware, and cannot be changed."""
    for name in guest.device_names if guest.by_sectors else ():
        if name.fixed and name.essential:
            yield tr(
                "LILO has noted that the root is {name}: where the disk is called otherwise, "
                "change that in {path}, and run lilo in the system.",
                name=name.name,
                path=name.file.path,
            )


def _drivers(here: Computer) -> Wanted:
    def wanted(kernel: Kernel, tree: Tree) -> tuple[str, ...]:
        there = system_modules(tree, kernel)
        names = here.drivers(there.aliases)
        missing = [name for name in names if name not in {*there.files, *kernel.early}]
        if missing:
            raise NoDriver(
                tr(
                    "Linux {version} has no driver {missing}, by which this computer reaches the "
                    "disk.",
                    version=kernel.version,
                    missing=", ".join(missing),
                ),
                tr("Put the disk on another controller, or install a newer kernel in the system."),
            )
        return names

    return wanted


def _windows(
    disk: Disk, guest: Guest, here: Computer
) -> tuple[WindowsEdits | None, tuple[str, ...]]:
    if here.controller is None:
        unknown = tr(
            "Whether Windows has a driver for this disk ({words}) is not known: nothing of it "
            "was changed.",
            words=here.words,
        )
        return None, (unknown,)
    if guest.root is None:
        raise NotRetargeted(
            tr("The volume of Windows was not found."), tr("It may start as it is.")
        )
    tree = disk.trees[guest.root.volume]
    return windows.plan_windows(tree, guest.root, here.controller), ()


def _entry(guest: Guest, here: Computer) -> str:
    """The program that this computer's firmware has to be told of; "" where there is none."""
    if here.firmware is not Firmware.UEFI or guest.efi is None:
        return ""
    loader = firmware.own_loader(guest)
    return loader.program.path if loader is not None and loader.program is not None else ""


def _efi(guest: Guest) -> FileSystem:
    if guest.efi is None:
        raise NotRetargeted(tr("The disk has no EFI system partition."))
    return guest.efi


def _firmware_notes(guest: Guest, here: Computer) -> Iterator[str]:
    if guest.firmware and here.firmware not in guest.firmware:
        other = guest.firmware[0].upper()
        yield (
            tr(
                "The disk starts by {other} alone, and this computer was started by {firmware}: "
                "look in its firmware's settings for a way to start by {other}",
                other=other,
                firmware=here.firmware.upper(),
            )
            + (tr(" (CSM, legacy).") if guest.firmware[0] is Firmware.BIOS else ".")
        )


# ------------------------------------------------------------------------------------ what is done


def _replay(disk: Path, plan: BootablePlan) -> None:
    """Have the kernel apply what is left in the journals of the volumes that may be changed."""
    guest = plan.system
    if guest.system is System.LINUX and plan.changes:
        volumes = [each for each in (guest.root, guest.boot, guest.efi) if each is not None]
        with mounted.mounted(disk, volumes):
            pass


def _edit_windows(disk: Path, guest: Guest, edits: WindowsEdits, task: Task) -> None:
    with disk.open("r+b", buffering=0) as device:
        for offset, data in edits.patches.items():
            device.seek(offset)
            device.write(data)
        os.fsync(device.fileno())
    if edits.needs_tools and guest.root is not None:
        part = mounted.device_of(disk, guest.root)
        with (
            tempfile.TemporaryDirectory(prefix="vdbackup-") as folder,
            Chain.open(disk, DiskFormat.RAW) as chain,
        ):
            tree = Disk(chain).trees[guest.root.volume]
            windows.put(edits, tree, part, Path(folder), task.cancel)


# -------------------------------------------------------------------------------------- in words


def _changes(found: _Found) -> Iterator[FileChange]:
    yield from found.files.changes
    for each in found.fallback:
        yield FileChange(
            each.volume.volume, each.path, "", tr("a copy of the system's boot loader")
        )
    if found.windows is not None and found.guest.root is not None:
        for change in found.windows.changes:
            yield FileChange(
                found.guest.root.volume, f"/{change.path}", change.before, change.after
            ).cut()


def _sentence(change: FileChange) -> str:
    if "\n" in change.after or not change.after:
        return tr("{change} was changed.", change=change.path)
    return f"{change.path}: {change.after}."


def _summary(
    disk: Path, guest: Guest, here: Computer, changes: tuple[FileChange, ...], entry: str
) -> str:
    what = tr("{guest} on {disk}", guest=guest.name or tr("The system"), disk=disk)
    how = tr("this computer, which reaches the disk by {words}", words=here.words)
    if not changes and not entry:
        return tr("{what} needs no change to start on {how}.", what=what, how=how)
    steps = []
    if changes:
        one = len(changes) == 1
        steps.append(
            tr("1 file is changed") if one else tr("{count} files are changed", count=len(changes))
        )
    if entry:
        steps.append(tr("the firmware gets a boot entry for {entry}", entry=entry))
    return tr(
        "{what} is made to start on {how}: {steps}.",
        what=what,
        how=how,
        steps=tr(" and ").join(steps),
    )
