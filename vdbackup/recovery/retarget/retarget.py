"""Retarget a recovery point: choose the hardware, and change on the overlay what that needs.

A plan says what would be done, `run` does it under the repository's lock: the edits are made on a
scratch disk above the point's layers, which are only read; what they come to becomes the new
overlay (overlay.py), and a report is put beside it (report.py). Whatever the old overlay held goes:
retargeting begins with an empty one. Of a machine's moment all disks are retargeted together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup import __version__
from vdbackup.disks.chain import Chain
from vdbackup.errors import NoDriver, NotRetargeted, ProgramMissing, RecoveryError, UsageError
from vdbackup.guest.choice import choose, edited
from vdbackup.guest.disk import Disk, disk_of, name_on_disk
from vdbackup.guest.hardware import Controller, Hardware, HardwareRequest
from vdbackup.guest.inspect import inspect
from vdbackup.guest.model import FileSystem, Guest, System
from vdbackup.jobs import Plan, Task
from vdbackup.qemu import qemu
from vdbackup.recovery.retarget import edits, outcome, virt_v2v
from vdbackup.recovery.retarget.disks import PointDisk, claimed, disks_of, new_identity, opened
from vdbackup.recovery.retarget.edits import Edits
from vdbackup.recovery.retarget.linux import appliance
from vdbackup.recovery.retarget.overlay import scratched
from vdbackup.recovery.retarget.report import FileChange, RetargetReport, save
from vdbackup.recovery.retarget.windows import edits as windows
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

AUTO, NONE = "auto", "none"
"""Wishes besides the names of controllers: whatever boots, changed only if nothing else does; and
an empty overlay, as after the capture. Another one is for what virt-v2v makes of it."""
WISHES = (AUTO, NONE, virt_v2v.VIRT_V2V, *(each.value for each in Controller))


@dataclass(frozen=True, kw_only=True)
class RetargetPlan(Plan):
    """What retargeting a point would do.

    Attributes:
        wish: one of WISHES.
        drivers: a folder with drivers for a Windows.
        sets: whose overlays it changes: of a machine those of all its disks.
        guest: what lies on the disk.
        hardware: what the machine would get; None where the overlay is emptied.
        edits: what would be changed on the overlay.
    """

    repository: Repository
    set_name: str
    point_id: str
    sets: tuple[str, ...]
    wish: str
    drivers: Path | None
    guest: Guest
    hardware: Hardware | None
    edits: Edits


@dataclass(frozen=True)
class _Target:
    guest: Guest
    hardware: Hardware
    edits: Edits


def plan(
    repository: Repository,
    set_name: str,
    point_id: str,
    wish: str = AUTO,
    drivers: Path | None = None,
) -> RetargetPlan:
    """What would be done to the point's overlay.

    Args:
        repository: where the point is.
        set_name: its set.
        point_id: its id.
        wish: one of WISHES.
        drivers: a folder with drivers for a Windows that has none for the wish.

    Raises:
        UsageError: there is no such wish.
        RecoveryError: the guest cannot be made to boot on that hardware.
    """
    _check_wish(wish)
    disks = disks_of(repository, set_name, point_id)
    with claimed(repository, disks) as chains:
        target = (
            _Target(inspect(chains[0], chains[1:]), Hardware(), Edits())
            if wish == NONE
            else _find(disks, chains, wish, drivers)
        )
    points = [each.point for each in disks]
    return RetargetPlan(
        summary=_summary(points, target, wish),
        creates=() if wish == NONE else tuple(point.report for point in points),
        replaces=tuple(point.overlay for point in points),
        repository=repository,
        set_name=set_name,
        point_id=point_id,
        sets=tuple(each.backup_set.name for each in disks),
        wish=wish,
        drivers=drivers,
        guest=target.guest,
        hardware=None if wish == NONE else target.hardware,
        edits=replace(target.edits, errand=None, windows=None),
    )


def run(plan: RetargetPlan, sessions_folder: Path, task: Task) -> RetargetReport | None:
    """Do it; the report, None where the overlay was emptied.

    A recovery point never changes, so what was planned is found again.

    Args:
        plan: what to do.
        sessions_folder: where the scratch disk lies meanwhile.
        task: what it reports to, and what stops it.

    Raises:
        RecoveryError: it failed, and at which stage; the overlay is as it was.
        RepositoryLocked: somebody else writes to the repository.
    """
    return retarget(
        plan.repository,
        plan.set_name,
        plan.point_id,
        plan.wish,
        sessions_folder,
        task,
        plan.drivers,
    )


def retarget(
    repository: Repository,
    set_name: str,
    point_id: str,
    wish: str,
    sessions_folder: Path,
    task: Task,
    drivers: Path | None = None,
) -> RetargetReport | None:
    """Plan and run in one."""
    started = time.monotonic()
    _check_wish(wish)
    with repository.lock(tr("retargeting a point of {set_name}", set_name=set_name), task.cancel):
        disks = disks_of(repository, set_name, point_id)
        for each in disks:
            each.check_free()
        if wish == NONE:
            for each in disks:
                each.forget_boot_test(repository)
                each.empty(task)
            return None
        with opened(disks) as chains:
            target = _find(disks, chains, wish, drivers)
            patches = _patches(chains, target)
        with ExitStack() as stack:
            scratches: Mapping[int, Path]
            if wish == virt_v2v.VIRT_V2V:
                scratches, target = _converted(stack, disks, target, task)
            else:
                scratches = _scratches(stack, disks, target, sessions_folder, task)
            for each in disks:
                each.check_free()  # of one that began meanwhile
            overlays = {}
            for number, each in enumerate(disks):
                each.forget_boot_test(repository)
                overlay = each.publish(scratches.get(number), patches.get(number, {}), task)
                overlays[each.backup_set.name] = overlay
            made = _report(target, wish, len(disks), started)
            for each in disks:
                own = replace(made, overlay=overlays[each.backup_set.name])
                save(each.backup_set, each.point, own)
        return replace(made, overlay=overlays[set_name])


def _patches(chains: Sequence[Chain], target: _Target) -> Mapping[int, Mapping[int, bytes]]:
    """By the disk's number, what is written over blocks of it as they are."""
    edits_ = target.edits
    if edits_.windows is not None:
        return {disk_of(_root(target.guest).volume): edits_.windows.patches}
    if not edits_.new_identity or edits_.errand is None:
        return {}
    sector_size = target.guest.sector_size
    return {n: new_identity(chains[n], sector_size) for n in edits_.errand.on_each_disk()}


def _scratches(
    stack: ExitStack,
    disks: Sequence[PointDisk],
    target: _Target,
    sessions_folder: Path,
    task: Task,
) -> Mapping[int, Path]:
    """By the disk's number, those on which files were changed, and that they were."""
    edits_, found = target.edits, {}
    if edits_.errand is not None:
        for number, errand in edits_.errand.on_each_disk().items():
            disk = disks[number]
            found[number] = stack.enter_context(
                appliance.edited(
                    disk.backup_set.disk_path(disk.point),
                    disk.backup_set.settings.format,
                    errand,
                    sessions_folder=sessions_folder,
                    sector_size=target.guest.sector_size,
                    task=task,
                )
            )
            disk.check_written(found[number], errand)
    elif edits_.windows is not None and edits_.windows.needs_tools:
        number, volume = _own(_root(target.guest))
        backup_set, point = disks[number].backup_set, disks[number].point
        chain = stack.enter_context(backup_set.open_chain(point))
        found[number] = stack.enter_context(
            windows.edited(edits_.windows, chain, backup_set.settings.format, volume, task.cancel)
        )
        with scratched(backup_set, point, found[number]) as above:
            windows.check_starts(Disk(above).trees[volume.volume], target.hardware.controller)
    return found


def _converted(
    stack: ExitStack, disks: Sequence[PointDisk], target: _Target, task: Task
) -> tuple[Mapping[int, Path], _Target]:
    """The disk on which virt-v2v worked, and what came of it."""
    disk = disks[0]
    below = stack.enter_context(disk.backup_set.open_chain(disk.point))
    scratch, notes = stack.enter_context(virt_v2v.converted(below, task))
    with scratched(disk.backup_set, disk.point, scratch) as above:
        hardware = outcome.hardware(above, virt_v2v.VIRT_V2V)
        done = Edits(changes=tuple(outcome.changes(below, above)), notes=notes)
    return {0: scratch}, replace(target, hardware=hardware, edits=done)


def _own(volume: FileSystem) -> tuple[int, FileSystem]:
    """The number of the disk that a volume lies on, and the volume as it is called there."""
    name = volume.volume
    return disk_of(name), replace(volume, volume=name_on_disk(name))


def _root(guest: Guest) -> FileSystem:
    if guest.root is None:
        raise NotRetargeted(
            tr("The system's own volume was not found."), tr("Choose other hardware.")
        )
    return guest.root


def _report(target: _Target, wish: str, disks: int, started: float) -> RetargetReport:
    """The report, of no overlay yet."""
    notes = target.edits.notes
    if target.edits.new_identity and not target.guest.alone:
        notes += (tr("The disk has another identity, so that it is not taken for the original."),)
    hardware = target.hardware
    if target.edits.errand is not None:
        hardware = edited(target.guest, _hardware_wish(wish), hardware)
    return RetargetReport(
        version=__version__,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        milliseconds=int((time.monotonic() - started) * 1000),
        overlay="",
        wish=wish,
        guest=target.guest,
        hardware=hardware,
        changes=target.edits.changes,
        notes=notes,
        disks=disks,
    )


def _check_wish(wish: str) -> None:
    if wish not in WISHES:
        raise UsageError(
            tr("There is no virtual hardware {wish!r}.", wish=wish),
            tr("Choose one of {wishes}.", wishes=", ".join(WISHES)),
        )


def _hardware_wish(wish: str) -> HardwareRequest:
    if wish == virt_v2v.VIRT_V2V:
        return HardwareRequest(Controller.VIRTIO)
    return HardwareRequest(None if wish == AUTO else Controller(wish))


def _find(
    disks: Sequence[PointDisk], chains: Sequence[Chain], wish: str, drivers: Path | None
) -> _Target:
    """What is on the disks, the hardware for it, and what that needs changed."""
    guest = inspect(chains[0], chains[1:])
    wanted = _hardware_wish(wish)
    hardware = choose(guest, wanted, sector_size=guest.sector_size)
    if wish == virt_v2v.VIRT_V2V:
        _check_on_one_disk(guest, len(disks))
        virt_v2v.check_installed()
        return _Target(guest, hardware, Edits())  # it finds out by itself what is to be done
    edit = hardware.edit
    waits = bool(edit.absent) and hardware.boots
    if not (edit.needed or waits):
        return _Target(guest, hardware, Edits())
    if guest.system is System.WINDOWS:
        found = _find_windows(chains, guest, hardware, wish, drivers)
        services = found.windows.services if found.windows is not None else ()
        after = replace(guest, services=(*guest.services, *services))
        return _Target(guest, choose(after, wanted, sector_size=guest.sector_size), found)
    if not edit.possible or guest.system is not System.LINUX:
        if wish == AUTO:
            return _Target(guest, hardware, Edits())
        raise NoDriver(
            tr("The system in this recovery point has no driver for {wish}.", wish=wish),
            tr("Choose other hardware, or let it be chosen."),
        )
    return _Target(guest, hardware, _find_linux(disks, chains, guest, hardware, wish))


def _find_linux(
    disks: Sequence[PointDisk], chains: Sequence[Chain], guest: Guest, hardware: Hardware, wish: str
) -> Edits:
    """What has to be changed on a Linux; where it starts without that, and it cannot be, why.

    Where there is no QEMU nothing starts it, and nobody is told of that at each backup.
    """
    sources = [each.source for each in disks]
    only_waits = wish == AUTO and not hardware.edit.needed
    try:
        found = edits.find(Disk(chains[0], chains[1:]), guest, hardware, sources)
        if only_waits:
            qemu.find(qemu.SYSTEM)
        return found
    except RecoveryError as error:
        is_without_qemu = isinstance(error, ProgramMissing)
        fails = any(each.essential for each in hardware.edit.absent) and not is_without_qemu
        if fails or not only_waits:
            raise
        return Edits(notes=(tr("Nothing was changed. {error}", error=error.title),))


def _check_on_one_disk(guest: Guest, disks: int) -> None:
    """Raise NotRetargeted where virt-v2v, which gets one disk, would not see all of the system."""
    volumes = [each.volume for each in (guest.root, guest.boot, guest.efi) if each is not None]
    if disks > 1 and any(disk_of(each) for each in volumes):
        raise NotRetargeted(
            tr("virt-v2v changes one disk, and this machine's system lies on several."),
            tr("Retarget it without virt-v2v."),
        )


def _find_windows(
    chains: Sequence[Chain], guest: Guest, hardware: Hardware, wish: str, drivers: Path | None
) -> Edits:
    """What has to be changed on a Windows; where nothing can be and nothing was asked for, why."""
    try:
        number, volume = _own(_root(guest))
        tree = Disk(chains[number]).trees[volume.volume]
        found = windows.plan_windows(tree, volume, hardware.controller, drivers)
    except RecoveryError as error:
        if wish != AUTO:
            raise
        return Edits(notes=(tr("Nothing was changed. {error}", error=error.title),))
    name = _root(guest).volume
    changes = (FileChange(name, f"/{c.path}", c.before, c.after) for c in found.changes)
    cut = tuple(change.cut() for change in changes)
    return Edits(changes=cut, windows=found, notes=(windows.KEEPS_IDENTITY,))


def _summary(points: Sequence[RecoveryPoint], target: _Target, wish: str) -> str:
    number = points[0].sequence
    several = points[0].moment if len(points) > 1 else None
    if wish == NONE:
        if several:
            return tr(
                "The overlays of moment {moment} of {machine} become empty again.",
                moment=several.number,
                machine=several.machine,
            )
        return tr("The overlay of point {point} becomes empty again.", point=number)
    name = target.guest.name or tr("The machine")
    count = len(target.edits.changes)
    files = tr("1 file is") if count == 1 else tr("{count} files are", count=count)
    changed = (
        tr("{files} changed in its overlay", files=files) if count else tr("nothing is changed")
    )
    if wish == virt_v2v.VIRT_V2V:
        changed = tr("virt-v2v changes in its overlay what that needs")
    if several:
        return tr(
            "Moment {moment} of {machine}: {name} gets {count} disks on {controller} and starts by "
            "{firmware}; {changed}.",
            moment=several.number,
            machine=several.machine,
            name=name,
            count=len(points),
            controller=target.hardware.controller,
            firmware=target.hardware.firmware.upper(),
            changed=changed,
        )
    return tr(
        "Point {point}: {name} gets a disk on {controller} and starts by {firmware}; {changed}.",
        point=number,
        name=name,
        controller=target.hardware.controller,
        firmware=target.hardware.firmware.upper(),
        changed=changed,
    )
