"""A layer's own blocks against their digests: read back from the storage, or all that it holds."""

from __future__ import annotations

import errno
import logging
from contextlib import closing
from pathlib import Path

import numpy as np

from vdbackup.disks import at_once
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import VirtualDisk
from vdbackup.disks.extents import BlockMap, Ranges, aligned, blocks_of, total
from vdbackup.disks.formats import open_disk
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.transfer import AT_ONCE, WIDE, Width, transfer
from vdbackup.errors import Damaged, Remedy
from vdbackup.jobs import Task
from vdbackup.repository.digests import DigestFold, differ
from vdbackup.translation import tr

_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that cannot read past the cache, when a file is opened or only when it is
read (open(2), O_DIRECT; FUSE and some on networks say the others)."""
_START = 1 << 20
"""Bytes of a file in which every format says where its tables are."""
_log = logging.getLogger(__name__)


def check_layer(
    layer: Path,
    disk_format: DiskFormat,
    digests: DigestFold,
    phase: str,
    task: Task,
) -> None:
    """Raise Damaged unless the file `layer` itself holds every block of `digests` as it should."""

    def check(pieces: Ranges, view: memoryview) -> None:
        blocks = blocks_of(pieces, digests.block)
        order = np.argsort(blocks)  # digests lie in the disk's order, and are read in few pieces
        wrong = differ(digests.digest(view)[order], digests.expected(blocks[order]))
        if wrong.any():
            at = int(blocks[order][wrong][0]) * digests.block
            raise Damaged(
                tr(
                    "{layer} is not as it was captured, at byte {at} of the disk.",
                    layer=layer.name,
                    at=at,
                ),
                tr("No good data was lost."),
                remedy=Remedy.VERIFY,
            )

    with closing(_as_stored(layer, disk_format)) as stored:
        own = Chain([stored])
        ranges, width = _in_file_order(own.map, digests)
        transfer(ranges, own.read, check, phase=phase, task=task, width=width)


def check_whole_layer(
    layer: Path,
    disk_format: DiskFormat,
    digests: Path,
    phase: str,
    task: Task,
) -> None:
    """Raise Damaged unless a layer holds what its digests say, all of it and nothing else."""
    with Chain.alone(layer, disk_format) as data, DigestFold([digests], data.size) as wanted:
        if data.layers[0].info.parent is not None:  # a base owns the whole disk
            own = aligned(data.layers[0].block_map().own_ranges(), wanted.block, data.size)
            if total(own) != total(wanted.held()):
                raise Damaged(tr("{layer} holds other blocks than it did.", layer=layer.name))

        def compare(pieces: Ranges, view: memoryview) -> None:
            if differ(wanted.digest(view), wanted.expected(blocks_of(pieces, wanted.block))).any():
                raise Damaged(tr("{layer} does not hold what was captured.", layer=layer.name))

        transfer(wanted.to_check(data), data.read, compare, phase=phase, task=task)


def _in_file_order(own: BlockMap, digests: DigestFold) -> tuple[Ranges, Width | None]:
    """What a layer holds by its digests, in its file's order, and how much to read at once.

    Several threads captured it, and so neighbours in the file are seldom neighbours in the disk:
    3,277 blocks that lie in a row took 3,021 reads in the disk's order, and half as much of the
    processors again (440 ms, and 295 in this one).
    """
    held, block = digests.held(), digests.block
    run, begins, lengths = own.cut(held)
    hosts = np.where(own.layers[run] < 0, -1, own.hosts[run] + begins - own.starts[run])
    if (begins % block).any():  # another program's layout, which cuts blocks in parts
        return held, _wide()
    if len(lengths) and lengths[-1] % block:
        hosts[-1] = np.iinfo(np.int64).max  # the disk's last block is the last one of a chunk
    order = np.argsort(hosts, kind="stable")
    hosts, lengths = hosts[order], lengths[order]
    rows = 1 + int(np.count_nonzero(hosts[1:] != hosts[:-1] + lengths[:-1]))
    lie_apart = int(lengths.sum()) < rows * WIDE.chunk
    return np.stack([begins[order], lengths], axis=1), _wide() if lie_apart else None


def _wide() -> Width:
    """For blocks that lie apart from each other."""
    return AT_ONCE if at_once.possible() else WIDE


def _as_stored(layer: Path, disk_format: DiskFormat) -> VirtualDisk:
    """A layer, read as its storage holds it, whatever the page cache says.

    What was just written lies in the page cache, and reading that proves nothing of what reached
    the storage. So tables and blocks are read past the cache, which keeps what it has: to let it
    forget a file of 2 GiB stood in the profile of a small merge beside the writing of its blocks.
    How the file begins is read as ever when it is opened, and forgotten before.
    """
    with closing(HostFile.open(layer)) as file:
        file.drop_cached(_START)
    disk = open_disk(layer, disk_format)
    try:
        for file in disk.host_files:
            _read_past_cache(file)
    except BaseException:
        disk.close()
        raise
    return disk


def _read_past_cache(file: HostFile) -> None:
    try:
        file.read_past_cache()
    except OSError as error:
        if error.errno not in _NOT_DIRECT:
            raise
        _log.warning("%s is read back as the page cache has it: %s", file.path, error)
        file.drop_cached()
