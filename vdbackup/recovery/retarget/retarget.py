"""Retarget a recovery point: choose the hardware, and change on the overlay what that needs.

A plan says what would be done, `run` does it under the repository's lock: the edits are made on a
scratch disk above the point's layers, which are only read; what they come to becomes the new
overlay (overlay.py), and a report is put beside it (report.py). Whatever the old overlay held goes:
retargeting begins with an empty one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup import __version__
from vdbackup.disks.chain import Chain
from vdbackup.disks.formats import open_disk
from vdbackup.errors import NoDriver, NotRetargeted, RecoveryError, UsageError
from vdbackup.guest.choice import choose, edited
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Controller, Hardware, HardwareRequest
from vdbackup.guest.inspect import inspect
from vdbackup.guest.model import FileSystem, Guest, System
from vdbackup.jobs import Plan, Task
from vdbackup.recovery.retarget import edits, identity, outcome, virt_v2v
from vdbackup.recovery.retarget.edits import Edits
from vdbackup.recovery.retarget.linux import appliance
from vdbackup.recovery.retarget.overlay import publish_overlay, scratched
from vdbackup.recovery.retarget.report import FileChange, RetargetReport, report_path, save
from vdbackup.recovery.retarget.windows import edits as windows
from vdbackup.repository import claims, holds
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import remove, sync_folder
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
        guest: what lies on the disk.
        hardware: what the machine would get; None where the overlay is emptied.
        edits: what would be changed on the overlay.
    """

    repository: Repository
    set_name: str
    point_id: str
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
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    _check_wish(wish)
    doing = tr("planning to retarget point {point}", point=point.sequence)
    with claims.open_point(repository, set_name, point_id, doing) as chain:
        target = (
            _Target(inspect(chain), Hardware(), Edits())
            if wish == NONE
            else _find(chain, wish, drivers)
        )
    return RetargetPlan(
        summary=_summary(point, target, wish),
        creates=() if wish == NONE else (point.report,),
        replaces=(point.overlay,),
        repository=repository,
        set_name=set_name,
        point_id=point_id,
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
        backup_set = repository.set(set_name)
        point = backup_set.point(point_id)
        holds.check_free(backup_set, [point])  # what a session wrote fits this overlay alone
        if wish == NONE:
            _forget_boot_test(repository, backup_set, point)
            _empty(backup_set, point, task)
            return None
        with backup_set.open_chain(point) as chain:
            target = _find(chain, wish, drivers)
            patches = _patches(chain, target)
        with ExitStack() as stack:
            scratch: Path | None
            if wish == virt_v2v.VIRT_V2V:
                scratch, target = _converted(stack, backup_set, point, target, task)
            else:
                scratch = _scratch(stack, backup_set, point, target, sessions_folder, task)
            overlay = "" if scratch or patches else _overlay_of(backup_set, point)
            holds.check_free(backup_set, [point])  # one that began meanwhile
            _forget_boot_test(repository, backup_set, point)
            if not overlay:
                overlay = publish_overlay(backup_set, point, scratch, patches, task)
        made = _report(target, wish, overlay, started)
        save(backup_set, point, made)
        return made


def _forget_boot_test(repository: Repository, backup_set: BackupSet, point: RecoveryPoint) -> None:
    """What was proven, was proven of the overlay and the hardware that there were until now."""
    if point.boot_tested:
        repository.save_point(backup_set.name, replace(point, boot_tested=None))
    remove(backup_set.folder / point.picture)


def _patches(chain: Chain, target: _Target) -> Mapping[int, bytes]:
    """What is written over blocks of the disk as they are."""
    if target.edits.windows is not None:
        return target.edits.windows.patches
    if target.edits.new_identity and not target.guest.alone:
        return identity.new_disk_identity(_reader(chain), chain.size, target.guest.sector_size)
    return {}


def _scratch(
    stack: ExitStack,
    backup_set: BackupSet,
    point: RecoveryPoint,
    target: _Target,
    sessions_folder: Path,
    task: Task,
) -> Path | None:
    """The disk on which files were changed, and that they were; None where none are to be."""
    disk_format, edits_ = backup_set.settings.format, target.edits
    if edits_.errand is not None:
        scratch = stack.enter_context(
            appliance.edited(
                backup_set.disk_path(point),
                disk_format,
                edits_.errand,
                sessions_folder=sessions_folder,
                sector_size=target.guest.sector_size,
                task=task,
            )
        )
        _check_written(backup_set, point, scratch, edits_.errand)
        return scratch
    if edits_.windows is not None and edits_.windows.needs_tools:
        chain = stack.enter_context(backup_set.open_chain(point))
        volume = _root(target.guest)
        scratch = stack.enter_context(
            windows.edited(edits_.windows, chain, disk_format, volume, task.cancel)
        )
        with scratched(backup_set, point, scratch) as above:
            windows.check_starts(Disk(above).trees[volume.volume], target.hardware.controller)
        return scratch
    return None


def _converted(
    stack: ExitStack,
    backup_set: BackupSet,
    point: RecoveryPoint,
    target: _Target,
    task: Task,
) -> tuple[Path, _Target]:
    """The disk on which virt-v2v worked, and what came of it."""
    below = stack.enter_context(backup_set.open_chain(point))
    scratch, notes = stack.enter_context(virt_v2v.converted(below, task))
    with scratched(backup_set, point, scratch) as above:
        hardware = outcome.hardware(above, virt_v2v.VIRT_V2V)
        done = Edits(changes=tuple(outcome.changes(below, above)), notes=notes)
    return scratch, replace(target, hardware=hardware, edits=done)


def _root(guest: Guest) -> FileSystem:
    if guest.root is None:
        raise NotRetargeted(
            tr("The system's own volume was not found."), tr("Choose other hardware.")
        )
    return guest.root


def _report(target: _Target, wish: str, overlay: str, started: float) -> RetargetReport:
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
        overlay=overlay,
        wish=wish,
        guest=target.guest,
        hardware=hardware,
        changes=target.edits.changes,
        notes=notes,
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


def _find(chain: Chain, wish: str, drivers: Path | None) -> _Target:
    """What is on the disk, the hardware for it, and what that needs changed."""
    guest = inspect(chain)
    wanted = _hardware_wish(wish)
    hardware = choose(guest, wanted, sector_size=guest.sector_size)
    if wish == virt_v2v.VIRT_V2V:
        virt_v2v.check_installed()
        return _Target(guest, hardware, Edits())  # it finds out by itself what is to be done
    edit = hardware.edit
    essential = bool(edit.drivers) or any(name.essential for name in edit.names)
    if not (essential if wish == AUTO else edit.needed):
        return _Target(guest, hardware, Edits())
    if guest.system is System.WINDOWS:
        found = _find_windows(chain, guest, hardware, wish, drivers)
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
    return _Target(guest, hardware, edits.find(Disk(chain), guest, hardware))


def _find_windows(
    chain: Chain, guest: Guest, hardware: Hardware, wish: str, drivers: Path | None
) -> Edits:
    """What has to be changed on a Windows; where nothing can be and nothing was asked for, why."""
    try:
        volume = _root(guest)
        tree = Disk(chain).trees[volume.volume]
        found = windows.plan_windows(tree, volume, hardware.controller, drivers)
    except RecoveryError as error:
        if wish != AUTO:
            raise
        return Edits(notes=(tr("Nothing was changed. {error}", error=error.title),))
    changes = (FileChange(volume.volume, f"/{c.path}", c.before, c.after) for c in found.changes)
    cut = tuple(change.cut() for change in changes)
    return Edits(changes=cut, windows=found, notes=(windows.KEEPS_IDENTITY,))


def _summary(point: RecoveryPoint, target: _Target, wish: str) -> str:
    if wish == NONE:
        return tr("The overlay of point {point} becomes empty again.", point=point.sequence)
    name = target.guest.name or tr("The machine")
    count = len(target.edits.changes)
    files = tr("1 file is") if count == 1 else tr("{count} files are", count=count)
    changed = (
        tr("{files} changed in its overlay", files=files) if count else tr("nothing is changed")
    )
    if wish == virt_v2v.VIRT_V2V:
        changed = tr("virt-v2v changes in its overlay what that needs")
    return tr(
        "Point {point}: {name} gets a disk on {controller} and starts by {firmware}; {changed}.",
        point=point.sequence,
        name=name,
        controller=target.hardware.controller,
        firmware=target.hardware.firmware.upper(),
        changed=changed,
    )


def _empty(backup_set: BackupSet, point: RecoveryPoint, task: Task) -> None:
    """The report goes last: beside an overlay that it does not name it says nothing."""
    if not _overlay_of(backup_set, point):
        publish_overlay(backup_set, point, None, {}, task)
    remove(report_path(backup_set, point))
    sync_folder(backup_set.folder)


def _overlay_of(backup_set: BackupSet, point: RecoveryPoint) -> str:
    """The identity of the point's overlay, if that is there and empty; else ""."""
    path = backup_set.overlay_path(point)
    if not path.exists():
        return ""
    overlay = open_disk(path, backup_set.settings.format)
    try:
        empty = not len(overlay.block_map().own_ranges())
        return (overlay.info.disk_id or "") if empty else ""
    finally:
        overlay.close()


def _reader(chain: Chain) -> identity.Read:
    def read(offset: int, length: int) -> bytes:
        data = bytearray(length)
        chain.readinto(offset, memoryview(data))
        return bytes(data)

    return read


def _check_written(
    backup_set: BackupSet, point: RecoveryPoint, scratch: Path, errand: appliance.Errand
) -> None:
    """Read back what the appliance wrote, by the readers that had read what was there before.

    They do not replay a journal and the guest's kernel did: a file that only the journal had made
    what it was would come out as a mixture of both.
    """
    with scratched(backup_set, point, scratch) as chain, backup_set.open_chain(point) as below:
        now, then = Disk(chain), Disk(below)
        for write in errand.writes:
            before = b""
            if write.append:
                before = then.trees[write.volume.volume].read(write.path, 1 << 30) or b""
            wanted = before + write.content
            if now.trees[write.volume.volume].read(write.path, len(wanted)) != wanted:
                raise NotRetargeted(
                    tr(
                        "The file {write} is not what it should be after it was changed.",
                        write=write.path,
                    ),
                    tr(
                        "The overlay is as it was. Choose hardware that needs no changes, or "
                        "another recovery point."
                    ),
                )
