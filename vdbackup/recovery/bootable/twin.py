"""A restored disk in a file is made to start on other hardware, as nobody in particular.

For a rehearsal: what `making.py` does to a device of this computer, as root and by mounting, is
done to a virtual twin of it by the means that points are retargeted with.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Ranges, aligned
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.disks.transfer import transfer
from vdbackup.errors import NoDriver, NotRetargeted
from vdbackup.guest.choice import choose
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Hardware, HardwareRequest
from vdbackup.guest.inspect import inspect
from vdbackup.guest.model import Guest, System
from vdbackup.jobs import Task
from vdbackup.recovery.exporting import exported, raw
from vdbackup.recovery.retarget import edits, refusals
from vdbackup.recovery.retarget.linux import appliance
from vdbackup.recovery.retarget.windows import edits as windows
from vdbackup.translation import tr


def make_ready(disk: Path, wanted: HardwareRequest, sessions_folder: Path, task: Task) -> Hardware:
    """Change a raw disk so that it starts on the hardware that is wanted; what that is.

    Raises RecoveryError where it cannot be, OSError, Cancelled.
    """
    with Chain.open(disk, DiskFormat.RAW) as chain:
        guest = inspect(chain)
        hardware = _for(guest, wanted)
        if not (hardware.edit.needed or hardware.edit.absent):
            return hardware
        if not hardware.edit.possible:
            raise NoDriver(
                tr(
                    "The system in this recovery point has no driver for {controller}.",
                    controller=hardware.controller,
                ),
                tr("Rehearse it on other hardware."),
            )
        whole = Disk(chain)
        if guest.system is System.LINUX:
            found = edits.find(whole, guest, hardware)
            if found.errand is not None:
                refusals.refuse_what_its_loader_would_not_find(guest, found.errand.writes)
                _run_errand(disk, chain, found.errand, guest, sessions_folder, task)
        elif guest.system is System.WINDOWS:
            _edit_windows(disk, whole, guest, hardware, task)
    with Chain.open(disk, DiskFormat.RAW) as chain:
        after = inspect(chain)
        return _for(after, wanted)


def _for(guest: Guest, wanted: HardwareRequest) -> Hardware:
    """The hardware: a computer starts no kernel past a boot loader that does not find it."""
    hardware = choose(guest, wanted, sector_size=guest.sector_size)
    return replace(hardware, direct=None) if guest.by_sectors else hardware


def _run_errand(
    disk: Path,
    chain: Chain,
    errand: appliance.Errand,
    guest: Guest,
    sessions_folder: Path,
    task: Task,
) -> None:
    """Have the system's own kernel change its files, and take over what it has written."""
    with (
        appliance.edited(
            disk,
            DiskFormat.RAW,
            errand,
            sessions_folder=sessions_folder,
            sector_size=guest.sector_size,
            task=task,
        ) as scratch,
        closing(Qcow2Disk.open_knowing_parent(scratch)) as tip,
    ):
        changed = aligned(tip.block_map().own_ranges(), UNIT, chain.size)
        above = Chain.topped(chain, tip)
        with closing(HostFile.open(disk, writable=True)) as file:

            def put(pieces: Ranges, view: memoryview) -> None:
                done = 0
                for offset, length in pieces.tolist():
                    file.write(offset, view[done : done + length])
                    done += length

            transfer(changed, above.read, put, phase=tr("Retarget"), task=task)
            file.sync()


def _edit_windows(disk: Path, whole: Disk, guest: Guest, hardware: Hardware, task: Task) -> None:
    if guest.root is None:
        raise NotRetargeted(
            tr("The volume of Windows was not found."), tr("Rehearse another point.")
        )
    tree = whole.trees[guest.root.volume]
    found = windows.plan_windows(tree, guest.root, hardware.controller)
    with disk.open("r+b") as file:
        for offset, data in found.patches.items():
            file.seek(offset)
            file.write(data)
    if found.needs_tools:
        (run,) = guest.root.runs
        with (
            tempfile.TemporaryDirectory(prefix="vdbackup-") as folder,
            exported(raw(disk), run.offset, run.length, Path(folder)) as part,
        ):
            windows.put(found, tree, part, Path(folder), task.cancel)
