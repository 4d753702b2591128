"""How the file of a merged layer comes about: in a new file, or in the parent's own.

Where the storage shares extents (XFS, Btrfs), the new file is a clone of the parent's, and takes
the child's blocks by sharing theirs: nothing is copied, and the parent is not touched. Elsewhere
the child's blocks are copied into the parent's file. Either way the file has the parent's identity
afterwards, is durable, and was read back.
"""

from __future__ import annotations

import errno
from contextlib import closing
from pathlib import Path

import numpy as np

from vdbackup.backup.readback import check_layer
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import VirtualDisk
from vdbackup.disks.extents import Int64s, Ranges, aligned, blocks_of, total, union
from vdbackup.disks.formats import check_growth, open_disk
from vdbackup.disks.host_file import HostFile, clone
from vdbackup.disks.one_file import neighbouring_units
from vdbackup.disks.transfer import Read, Target, transfer, write_blocks
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.errors import Damaged
from vdbackup.jobs import Task
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import DigestFold, is_zero
from vdbackup.repository.files import check_file_size, check_space
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

WRITABLE_MODE = 0o600
RESERVE = 16 << 20
"""Bytes that a merge leaves free for tables, manifests and the journal, and for what the storage
notes of shared extents."""
_TABLES = 256
"""A file grows by one byte in so many besides its blocks, at most: a VHD by 4 KiB for 2 MiB."""
_NOT_SHARED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class CannotShare(Exception):
    """The storage refuses to clone after all: the blocks have to be copied."""


# ------------------------------------------------------------------------------------ a new file


def make_new_layer(
    backup_set: BackupSet,
    parent: RecoveryPoint,
    child: RecoveryPoint,
    path: Path,
    task: Task,
) -> None:
    """Make `path`, what the parent's file is with the child's blocks in it, by sharing extents.

    Both files are only read. Whatever is raised, the caller has to remove `path`.

    Raises:
        CannotShare: it has to be done by copying.
        Damaged: the child is not as it was captured.
    """
    check_space(backup_set.folder, _small_files(backup_set, parent, child), _doing(child))
    try:
        if not clone(backup_set.disk_path(parent), path):
            raise CannotShare
        give_to_owner_of_folder(path)
        with (
            _own_digests(backup_set, child) as digests,
            closing(_writable(backup_set, path, digests)) as layer,
            _alone(backup_set, child) as chain,
            closing(HostFile.open(backup_set.disk_path(child))) as source,
        ):
            target = _Sharing(layer, chain, source)
            _roll_in(digests, _read_nothing, target, task)
            layer.flush()
    except OSError as error:
        if (
            error.errno in _NO_ROOM
        ):  # copying may need less: no clone and no notes of what is shared
            raise CannotShare from error
        raise
    try:
        check_held(backup_set, path.name, child, tr("Check"), task)
    except Damaged:
        check_held(backup_set, child.disk, child, tr("Check child"), task)
        raise


class _Sharing:
    """Gives a layer the child's blocks by sharing their extents, or by copying what cannot be."""

    def __init__(self, layer: VirtualDisk, child: Chain, source: HostFile) -> None:
        self._layer, self._child, self._source = layer, child, source
        self.unit = layer.unit

    def write_units(self, units: Int64s, view: memoryview, at: Int64s) -> None:
        """Take the units from the child; the view is space to read them into."""
        for unit, first, end in neighbouring_units(units, at, len(view), self.unit):
            self._take(unit * self.unit, view[first:end])

    def _take(self, offset: int, view: memoryview) -> None:
        shared = self._share(offset, len(view) // self.unit * self.unit)
        if shared < len(view):
            rest = view[shared:]
            self._child.readinto(offset + shared, rest)
            self._layer.write(offset + shared, rest)

    def _share(self, offset: int, length: int) -> int:
        """Share whole units, until there is one that cannot be; how many bytes."""
        blocks, done = self._child.map, 0
        while done < length:
            at = offset + done
            run = blocks.run_at(at)
            count = min(blocks.end_of(run) - at, length - done) // self.unit * self.unit
            if blocks.layers[run] < 0 or not count:
                break
            host = int(blocks.hosts[run]) + at - int(blocks.starts[run])
            try:
                self._layer.share(at, count, self._source, host)
            except OSError as error:  # another program's layout: not by the file system's blocks
                if error.errno not in _NOT_SHARED:
                    raise
                break
            done += count
        return done

    def zero(self, offset: int, length: int) -> None:
        """Zeros are shared with nobody."""
        self._layer.zero(offset, length)


def _read_nothing(_pieces: Ranges, _view: memoryview) -> None:
    """What is shared need not be read."""


# ------------------------------------------------------------------------------ the parent's file


def check_before_copying(
    backup_set: BackupSet,
    parent: RecoveryPoint,
    child: RecoveryPoint,
    task: Task,
) -> None:
    """Space, a file that may be so large, and a child without damage: seen before anything changes.

    Once the journal is written the merge has to be finished, and what then finds no place in the
    parent's file would never be.
    """
    # the parent grows by what only the child holds, and the child goes only afterwards
    with _alone(backup_set, parent) as layer, _own_digests(backup_set, child) as digests:
        info = layer.layers[0].info
        block = max(info.block_size, digests.block)
        stored = aligned(layer.layers[0].block_map().data_ranges(), block, info.virtual_size)
        wanted = aligned(digests.held(), block, info.virtual_size)
        growth = total(union(stored, wanted)) - total(stored)
        check_growth(layer.layers[0], -(-growth // info.block_size))
    needed = growth + _small_files(backup_set, parent, child)
    path = backup_set.disk_path(parent)
    check_file_size(path, path.stat().st_size + growth + growth // _TABLES, _doing(child))
    check_space(backup_set.folder, needed, _doing(child))
    check_held(backup_set, child.disk, child, tr("Check child"), task)


def copy_into_parent(
    backup_set: BackupSet,
    parent: RecoveryPoint,
    child: RecoveryPoint,
    task: Task,
) -> None:
    """The child's blocks into the parent's file, durable and checked; may be done again."""
    path = backup_set.disk_path(parent)
    path.chmod(WRITABLE_MODE)
    with (
        _own_digests(backup_set, child) as digests,
        closing(_writable(backup_set, path, digests)) as layer,
        _alone(backup_set, child) as chain,
    ):
        _roll_in(digests, chain.read, layer, task)
        layer.flush()
    check_held(backup_set, parent.disk, child, tr("Check"), task)


# ------------------------------------------------------------------------------------------- both


def _roll_in(digests: DigestFold, read: Read, target: Target, task: Task) -> None:
    """Every block that the child, whose digests these are, holds."""

    def put(pieces: Ranges, view: memoryview) -> None:
        blocks = blocks_of(pieces, digests.block)
        zero = is_zero(digests.expected(blocks))
        write_blocks(target, blocks, view, np.ones_like(zero), zero, digests.block)

    transfer(digests.held(), read, put, phase=tr("Merge"), task=task)


def _writable(backup_set: BackupSet, path: Path, digests: DigestFold) -> VirtualDisk:
    """The layer that takes the blocks of these digests."""
    return open_disk(path, backup_set.settings.format, writable=True, unit=digests.block)


def check_held(
    backup_set: BackupSet,
    disk: str,
    child: RecoveryPoint,
    phase: str,
    task: Task,
) -> None:
    """Raise Damaged unless the file `disk` holds every block of `child` as it was captured."""
    disk_format = backup_set.settings.format
    with _own_digests(backup_set, child) as digests:
        check_layer(backup_set.folder / disk, disk_format, digests, phase, task)


def _own_digests(backup_set: BackupSet, point: RecoveryPoint) -> DigestFold:
    return DigestFold([backup_set.folder / point.digests], point.virtual_size)


def _alone(backup_set: BackupSet, point: RecoveryPoint) -> Chain:
    return Chain.alone(backup_set.disk_path(point), backup_set.settings.format)


def _small_files(backup_set: BackupSet, parent: RecoveryPoint, child: RecoveryPoint) -> int:
    """Bytes of what is written besides a layer's blocks: the digests of both, and the reserve."""
    paths = [backup_set.folder / each.digests for each in (parent, child)]
    with DigestFold(paths, child.virtual_size) as both:
        return both.space_to_copy() + RESERVE


def _doing(child: RecoveryPoint) -> str:
    return tr("Merging point {child}", child=child.sequence)
