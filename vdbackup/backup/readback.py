"""Reading back what was written: a layer's own blocks against their digests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import BlockMap, Ranges
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.transfer import transfer
from vdbackup.errors import Damaged, Remedy
from vdbackup.jobs import CancelToken, Report
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks

AHEAD = 16 << 20
"""Bytes that are asked for before they are read.

Reading back 1,600 blocks of 64 KiB from a clone that was not in the page cache took 0.9 to 2.1 s
one after the other and 0.1 to 0.5 s with these ahead (XFS): the storage joins what lies together.
"""
_PIECE = 1 << 20
"""Bytes that are asked for at once: asking returns when all of it is under way."""


def check_layer(
    layer: Path,
    disk_format: str,
    digests: DigestFold,
    phase: str,
    report: Report,
    cancel: CancelToken,
) -> None:
    """Raise Damaged unless the file `layer` itself holds every block of `digests` as it should."""

    def check(offset: int, view: memoryview) -> None:
        actual = digest_blocks(view)
        wrong = differ(actual, digests.expected(offset // BLOCK, len(actual)))
        if wrong.any():
            at = offset + int(np.flatnonzero(wrong)[0]) * BLOCK
            raise Damaged(
                f"{layer.name} is not as it was captured, at byte {at} of the disk.",
                "No good data was lost.",
                remedy=Remedy.VERIFY,
            )

    held = digests.held()
    with Chain.alone(layer, disk_format) as data, closing(HostFile.open(layer)) as file:
        ahead = _Ahead(file, data.map, held)

        def read(offset: int, view: memoryview) -> None:
            ahead.go_on(len(view))
            data.readinto(offset, view)

        transfer(held, read, check, phase=phase, report=report, cancel=cancel)


class _Ahead:
    """Asks the storage for what will be read next; `go_on` may be called from several threads."""

    def __init__(self, file: HostFile, blocks: BlockMap, ranges: Ranges) -> None:
        self._file = file
        self._pieces = _places(blocks, ranges)
        self._left = AHEAD  # bytes that may still be asked for
        self._lock = threading.Lock()

    def go_on(self, length: int) -> None:
        """As many bytes are read now."""
        with self._lock:
            self._left += length
            while self._left > 0 and (piece := next(self._pieces, None)):
                self._file.expect(*piece)
                self._left -= piece[1]


def _places(blocks: BlockMap, ranges: Ranges) -> Iterator[tuple[int, int]]:
    """Where in the layer's file the ranges lie: (place, length), in bytes."""
    for start, length in ranges.tolist():
        at = start
        while at < start + length:
            run = blocks.run_at(at)
            end = min(blocks.end_of(run), start + length, at + _PIECE)
            if blocks.layers[run] >= 0:
                yield int(blocks.hosts[run]) + at - int(blocks.starts[run]), end - at
            at = end
