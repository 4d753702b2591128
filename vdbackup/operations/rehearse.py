"""Rehearse: all of a restore beforehand, in a virtual twin of the target, with the time it takes.

The point is restored to a temporary disk of the target's size, fitted to that, made ready for its
hardware, and booted on it. The point notes what came of it, in words: "back in 14 minutes,
rehearsed yesterday".
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup import durable
from vdbackup.errors import READ_ONLY, NoSpace, NoSystem, RepositoryLocked, UsageError
from vdbackup.jobs import Plan, Task, readable_size, retry_when_cleared
from vdbackup.operations import restore
from vdbackup.records import MAX_SENTENCE
from vdbackup.recovery.scratch import scratch_folder
from vdbackup.repository import claims
from vdbackup.repository.model import Rehearsal
from vdbackup.repository.repository import Repository
from vdbackup.translation import grouped, tr

if TYPE_CHECKING:
    from vdbackup.guest.hardware import HardwareRequest
    from vdbackup.recovery.boot_test.boot_test import BootTestOptions

_SECTOR = 512
"""The smallest one, in bytes."""


@dataclass(frozen=True)
class Twin:
    """What stands for the target.

    Attributes:
        size: of its disk, in bytes; None for that of the point.
        hardware: what is wanted of it; what is not, the system on the disk decides.
        sector_size: of its disk, in bytes; None for that of the point's.
    """

    size: int | None
    hardware: HardwareRequest
    sector_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class RehearsalPlan(Plan):
    """What a rehearsal would do.

    Attributes:
        twin: with its size.
        folder: in which the twin's disk lies meanwhile.
    """

    repository: Repository
    set_name: str
    point_id: str
    twin: Twin
    size: int
    folder: Path


def like(disk: Path) -> Twin:
    """A twin of a disk of this computer; raises UsageError, OSError."""
    from vdbackup.agent.block_devices import Place
    from vdbackup.guest.hardware import HardwareRequest
    from vdbackup.recovery.bootable import computer

    if not disk.is_block_device():
        raise UsageError(tr("{disk} is no disk.", disk=disk), tr("Name a device, or a size."))
    here, place = computer.of(disk), Place.of(disk)  # which needs no right to read it
    wish = HardwareRequest(here.controller, here.firmware)
    return Twin(place.size, wish, place.disk.sector_size)


def plan(
    repository: Repository, set_name: str, point_id: str, twin: Twin, folder: Path | None = None
) -> RehearsalPlan:
    """What a rehearsal would do.

    Args:
        repository: where the point is.
        set_name: its set.
        point_id: its id.
        twin: of what it is to be restored to.
        folder: for the twin's disk; None for that of large temporary files.

    Raises:
        NoSystem: there is nothing on the disk that could come up. NoSpace. UsageError.
    """
    from vdbackup.guest.inspect import has_no_system, inspect

    point = repository.set(set_name).point(point_id)
    size = twin.size or point.virtual_size
    if size % (twin.sector_size or _SECTOR):
        raise UsageError(
            tr("A disk of {size} bytes has no whole sectors.", size=grouped(size)),
            tr("Name its size in MiB or GiB."),
        )
    place = folder or Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108
    with claims.open_point(repository, set_name, point_id, tr("planning a rehearsal")) as chain:
        if has_no_system(guest := inspect(chain)):
            raise NoSystem(
                tr("There is no system on point {point} that could come up.", point=point.sequence),
                guest.problems[0].sentence,
            )
        held = int(chain.map.data_ranges()[:, 1].sum())
    free = durable.free_space(place)
    if free is not None and free < held:
        raise NoSpace(
            tr(
                "The twin's disk takes {size}, and {place} has {size_2} free.",
                size=readable_size(held),
                place=place,
                size_2=readable_size(free),
            ),
            tr("Free some space there, or name another folder."),
        )
    wish = twin.hardware
    kind = ", ".join(filter(None, [wish.controller, wish.firmware and wish.firmware.upper()]))
    return RehearsalPlan(
        summary=tr(
            "Point {point} of {set_name} is restored to a virtual disk of {size} in {place}",
            point=point.sequence,
            set_name=set_name,
            size=readable_size(size),
            place=place,
        )
        + (f" ({kind})" if kind else "")
        + tr(
            ", made ready for it, and booted from it. The disk goes afterwards; how long it took "
            "is noted."
        ),
        bytes_to_copy=held,
        repository=repository,
        set_name=set_name,
        point_id=point_id,
        twin=twin,
        size=size,
        folder=place,
    )


def run(plan: RehearsalPlan, options: BootTestOptions, task: Task) -> Rehearsal:
    """Do it, and note it in the point. A machine that does not come up is a result, and no error.

    Args:
        plan: what to do.
        options: how the machine is watched; its hardware is the twin's.
        task: what it reports to, and what stops it.

    Raises RecoveryError where the restore itself, or what it has to change, fails; Cancelled.
    """
    with scratch_folder(plan.folder) as folder:
        disk = folder / "twin.img"
        with disk.open("xb") as file:
            file.truncate(plan.size)
        found = _rehearsed(plan, disk, options, task)
    _record(plan, found, task)
    return found


def _rehearsed(plan: RehearsalPlan, disk: Path, options: BootTestOptions, task: Task) -> Rehearsal:
    from vdbackup.disks.chain import Chain
    from vdbackup.disks.names import DiskFormat
    from vdbackup.qemu import launch, qemu
    from vdbackup.qemu.guest_agent import AgentChannel
    from vdbackup.recovery.boot_test import boot_test
    from vdbackup.recovery.bootable import twin
    from vdbackup.recovery.sessions.vm import start_session

    started = time.monotonic()
    wanted = restore.RestoreRequest(
        plan.repository,
        plan.set_name,
        plan.point_id,
        disk,
        overwrite=True,
        resize=True,
        sector_size=plan.twin.sector_size,
    )
    restored = restore.run(restore.plan(wanted), task)
    hardware = twin.make_ready(disk, plan.twin.hardware, options.sessions_folder, task)
    with Chain.open(disk, DiskFormat.RAW) as chain:
        sector_size = launch.sector_size_for(chain)
    ready = time.monotonic()
    task.phase(tr("Starting"), 0, 0)
    with (
        AgentChannel() as agent,
        start_session(
            disk,
            sessions_folder=options.sessions_folder,
            title=tr("the rehearsal of a restore"),
            sector_size=sector_size,
            hardware=hardware,
            disk_format=DiskFormat.RAW,
            background=qemu.Background(agent.guests_end.fileno()),
        ) as session,
    ):
        seen = boot_test.watched(session, agent, options, task)
    if seen is None:
        raise AssertionError("a rehearsal gives way to nobody")
    test, _ = seen
    sentence = " ".join([test.sentence, *restored.warnings])[:MAX_SENTENCE]
    return Rehearsal(
        test.at,
        test.ok,
        plan.size,
        hardware.controller.value,
        hardware.firmware.value,
        round(ready - started, 1),
        round(time.monotonic() - ready if not test.ok else test.seconds, 1),
        sentence,
    )


def _record(plan: RehearsalPlan, found: Rehearsal, task: Task) -> None:
    """Note a result in the point's manifest; a repository that cannot be written to takes none."""

    def note(task: Task) -> None:
        with plan.repository.lock(
            tr("recording a rehearsal in {set_name}", set_name=plan.set_name), task.cancel
        ):
            point = plan.repository.set(plan.set_name).point(plan.point_id)
            plan.repository.save_point(plan.set_name, replace(point, rehearsed=found))

    try:
        retry_when_cleared(note, of=RepositoryLocked)(Task(cancel=task.cancel))
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
