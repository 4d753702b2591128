"""A layer's own blocks against their digests: read back from the storage, or all that it holds."""

from __future__ import annotations

import errno
import logging
from contextlib import closing
from pathlib import Path

from vdbackup.disks.chain import Chain, read_pieces
from vdbackup.disks.device_reads import OF_FILES, DeviceReads
from vdbackup.disks.extents import Ranges, aligned, blocks_of, total, union
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.transfer import transfer
from vdbackup.errors import Damaged, DiskFormatError, Remedy
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks

_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that cannot read past the cache, when a file is opened or only when it is
read (open(2), O_DIRECT; FUSE and some on networks say the others)."""
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
        blocks = blocks_of(pieces, BLOCK)
        wrong = differ(digest_blocks(view), digests.expected(blocks))
        if wrong.any():
            at = int(blocks[wrong][0]) * BLOCK
            raise Damaged(
                f"{layer.name} is not as it was captured, at byte {at} of the disk.",
                "No good data was lost.",
                remedy=Remedy.VERIFY,
            )

    with closing(_Storage(layer)) as storage, Chain.alone(layer, disk_format) as data:

        def read(pieces: Ranges, view: memoryview) -> None:
            read_pieces(data.map, [storage], pieces, view)

        transfer(digests.held(), read, check, phase=phase, task=task)


def check_whole_layer(
    layer: Path,
    disk_format: DiskFormat,
    digests: Path,
    phase: str,
    task: Task,
) -> None:
    """Raise Damaged unless a layer holds what its digests say, all of it and nothing else."""
    with Chain.alone(layer, disk_format) as data, DigestFold([digests], data.size) as wanted:
        own, held = data.layers[0].block_map(), wanted.held()
        is_child = data.layers[0].info.parent is not None
        stored = aligned(own.own_ranges() if is_child else own.data_ranges(), BLOCK, data.size)
        if is_child and total(stored) != total(held):
            raise Damaged(f"{layer.name} holds other blocks than it did.")

        def compare(pieces: Ranges, view: memoryview) -> None:
            if differ(digest_blocks(view), wanted.expected(blocks_of(pieces, BLOCK))).any():
                raise Damaged(f"{layer.name} does not hold what was captured.")

        transfer(
            union(stored, held),
            data.read,
            compare,
            phase=phase,
            task=task,
        )


class _Storage:
    """A layer's file as its storage holds it, whatever the page cache says.

    What was just written lies in the page cache, and reading that proves nothing of what reached
    the storage. So what is cached of the file is dropped, for its tables, which are read as ever;
    that may leave pages that somebody else uses. The blocks are read past the cache.
    """

    def __init__(self, path: Path) -> None:
        self._file = HostFile.open(path)
        self._direct: DeviceReads | None = None
        self._said = False
        try:
            self._file.drop_cached()
            self._direct = DeviceReads(path, OF_FILES)
        except BaseException as error:
            if not isinstance(error, OSError) or error.errno not in _NOT_DIRECT:
                self._file.close()
                raise
            self._say(error)

    def _say(self, why: OSError) -> None:
        if not self._said:  # it is asked for each piece
            _log.warning("%s is read back as the page cache has it: %s", self._file.path, why)
        self._said = True

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on; raises DiskFormatError."""
        if self._direct is None:
            self._file.readinto(host, view)
            return
        done = 0
        while done < len(view):
            try:
                got = self._direct.readinto(host + done, view[done:])
            except OSError as error:
                if error.errno not in _NOT_DIRECT:
                    raise
                self._say(error)  # opened, and refused only now
                self._file.readinto(host + done, view[done:])
                return
            if got == 0:
                problem = "the file is shorter than its tables say"
                raise DiskFormatError(self._file.path, host + done, problem)
            done += got

    def close(self) -> None:
        """Close the file."""
        if self._direct is not None:
            self._direct.close()
        self._file.close()
