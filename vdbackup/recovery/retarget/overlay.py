"""A point's overlay made anew: empty, or with what a scratch disk holds that lay above the point.

The old overlay stays whole until the new one is: it is written beside it (`.partial`), made
durable, renamed over the old one, and the folder is made durable. Whatever happens there is one of
the two, and never a half. The layers are only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT, VirtualDisk
from vdbackup.disks.extents import Ranges, aligned, blocks_of, union
from vdbackup.disks.formats import create_disk
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.disks.transfer import Read, each, transfer, write_blocks
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.errors import MachineRunning
from vdbackup.jobs import Task
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.draft import reference_to
from vdbackup.repository.files import made_beside
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

Patches = Mapping[int, bytes]
"""Bytes that are to stand elsewhere than the scratch disk has them: by their place on the disk."""


def scratched(backup_set: BackupSet, point: RecoveryPoint, scratch: Path) -> Chain:
    """The point's disk as whoever wrote to `scratch` (qcow2) left it; close it."""
    chain = backup_set.open_chain(point)
    try:
        return Chain.topped(chain, Qcow2Disk.open_knowing_parent(scratch))
    except BaseException:
        chain.close()
        raise


def publish_overlay(
    backup_set: BackupSet,
    point: RecoveryPoint,
    scratch: Path | None,
    patches: Patches,
    task: Task,
) -> str:
    """Replace a point's overlay; the caller holds the repository's lock.

    Args:
        backup_set: the set.
        point: whose overlay.
        scratch: a qcow2 disk that lay above the point's layers; None for an empty overlay.
        patches: written over that.
        task: what it reports to, and what stops it.

    Returns:
        The new overlay's identity.

    Raises:
        RecoveryError: a virtual machine runs from the old one.
        Cancelled: by `cancel`; the old one stays.
    """
    final = backup_set.overlay_path(point)
    if who := claims.who_has(final):
        raise MachineRunning(
            tr(
                "A virtual machine is running from point {point}: {who}.",
                point=point.sequence,
                who=who,
            ),
            tr("Shut it down first."),
        )
    with made_beside(final) as partial:
        overlay = create_disk(
            partial,
            backup_set.settings.format,
            point.virtual_size,
            reference_to(backup_set, point),
            point.sector_size,
        )
        try:
            give_to_owner_of_folder(partial)
            if scratch is not None or patches:
                _fill(overlay, backup_set, point, scratch, patches, task)
            overlay.flush()
            disk_id = overlay.info.disk_id or ""
        finally:
            overlay.close()
    return disk_id


def _fill(
    overlay: VirtualDisk,
    backup_set: BackupSet,
    point: RecoveryPoint,
    scratch: Path | None,
    patches: Patches,
    task: Task,
) -> None:
    """Write what differs: a guest touches more than it changes."""
    with backup_set.open_chain(point) as below:
        above = scratched(backup_set, point, scratch) if scratch else backup_set.open_chain(point)
        with above:
            held = above.held_from(len(below.layers))
            read = _patched(above, patches)

            def put(pieces: Ranges, view: memoryview) -> None:
                old = memoryview(bytearray(len(view)))
                below.read(pieces, old)
                changed, zero = _compared(view, old)
                write_blocks(overlay, blocks_of(pieces, UNIT), view, changed, zero)

            ranges = union(held, _units(patches, above.size))
            transfer(ranges, read, put, phase=tr("Overlay"), task=task)


def _patched(chain: Chain, patches: Patches) -> Read:
    def read(offset: int, view: memoryview) -> None:
        chain.readinto(offset, view)
        for place, data in patches.items():
            first, end = max(place, offset), min(place + len(data), offset + len(view))
            if first < end:
                view[first - offset : end - offset] = data[first - place : end - place]

    return each(read)


def _units(patches: Patches, size: int) -> Ranges:
    places = np.array(sorted((at, len(data)) for at, data in patches.items()), np.int64)
    return aligned(places.reshape(-1, 2), UNIT, size)


def _compared(
    new: memoryview, old: memoryview
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Of each unit, whether it differs, and whether it is zeros: bool[units] each."""
    starts = np.arange(0, len(new), UNIT)
    fresh, stale = np.frombuffer(new, np.uint8), np.frombuffer(old, np.uint8)
    return (
        np.logical_or.reduceat(fresh != stale, starts),
        ~np.logical_or.reduceat(fresh != 0, starts),
    )
