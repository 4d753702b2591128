"""Very long chains for QEMU: the layers that hold least of what a disk shows become one file.

QEMU keeps a descriptor open for each file that it reads from, and the files of a map (which QEMU
has to open itself: descriptors that are passed to it count against the same limit) take it longer
than in proportion: 250 files 0.05 s of processor time, 1,000 0.4 s, 2,000 4 s (QEMU 7.2). Years of
hourly incrementals show a few blocks each, so those are copied together, beside the map, and the
large layers are read where they are.

What is copied is a layer's no more: whoever merges or deletes one of those does the machine no
harm. The point's own layer and its overlay always stay, so that QEMU's locks on them show others
that a machine runs here.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import BlockMap, Ranges
from vdbackup.disks.transfer import Read, transfer_in_order
from vdbackup.durable import free_space
from vdbackup.errors import CannotBoot, PointUnreadable, Remedy
from vdbackup.jobs import Task
from vdbackup.translation import tr

MAX_FILES = 256
"""Files of a chain that QEMU is given as they are, where it may have so many."""
MAX_COPIED = 1 << 30
"""Bytes that are copied together at most: some seconds."""
_SHARE = 4
"""Of what is free a quarter may be taken: what the guest writes needs space, too."""
OTHER_FILES = 128
"""Files that QEMU has open besides a chain's layers, libraries and event descriptors included."""
_OF_THE_MAP = 3
"""Files that a map has besides: its text, its tables, and a composed disk's partition tables."""
_STAYING = 2
"""Layers at the top that stay: the point's, and its overlay."""


@dataclass(frozen=True)
class Files:
    """What a disk is read from.

    Attributes:
        flat: the disk's map; its layer numbers are positions in `paths`.
        paths: the files.
    """

    flat: BlockMap
    paths: Sequence[Path]


def gathered(folder: Path, chain: Chain) -> Files:
    """A chain's files, or fewer: what the smallest layers show is then copied into `folder`.

    Raises:
        RecoveryError: QEMU may not open as many files as there have to be, or a layer cannot be
            read.
        OSError: the folder cannot be written to.
    """
    paths = [layer.path.absolute() for layer in chain.layers]
    flat = chain.map
    free = free_space(folder)
    most = MAX_COPIED if free is None else min(MAX_COPIED, free // _SHARE)
    small = _smallest(flat, len(paths), most)
    few = int(small.sum())
    if few > 1:
        data = flat.layers >= 0
        moved = data & small[flat.layers]
        lengths = flat.lengths[moved]
        numbers = np.cumsum(~small) - 1  # of those that stay
        layers = np.where(data, numbers[flat.layers], flat.layers)
        layers[moved] = len(paths) - few
        hosts = flat.hosts.copy()
        hosts[moved] = np.cumsum(lengths) - lengths
        own = folder / "map.gathered"
        with own.open("xb") as file:

            def append(_: Ranges, view: memoryview) -> None:
                file.write(view)

            transfer_in_order(
                flat.ranges(moved),
                _reading(chain),
                append,
                phase=tr("Gather small layers"),
                task=Task(),
            )
        flat = BlockMap(flat.size, flat.starts, layers.astype(np.int32), hosts)
        paths = [*(path for path, gone in zip(paths, small, strict=True) if not gone), own]
    _check_limit(len(chain.layers), len(paths))
    return Files(flat, paths)


def _reading(chain: Chain) -> Read:
    """Reads the chain; what fails there is no trouble of the folder that is written to."""

    def read(pieces: Ranges, view: memoryview) -> None:
        try:
            chain.read(pieces, view)
        except OSError as error:
            raise PointUnreadable(
                tr(
                    "A layer that {layer} reads through cannot be read: {reason}.",
                    layer=chain.layers[-1].path.name,
                    reason=error.strerror,
                ),
                tr("Have the point verified: that says which layer is damaged."),
                remedy=Remedy.VERIFY,
            ) from error

    return read


def _smallest(flat: BlockMap, count: int, most: int) -> NDArray[np.bool_]:
    """bool[count]: the layers that are copied together; none where there are few files anyway.

    Args:
        flat: the chain's map.
        count: how many layers it has.
        most: bytes that are copied at most.
    """
    data = flat.layers >= 0
    shown = np.bincount(flat.layers[data], flat.lengths[data], count).astype(np.int64)
    order = np.argsort(shown[: max(0, count - _STAYING)], kind="stable")
    affordable = int(np.searchsorted(np.cumsum(shown[order]), most, "right"))
    small = np.zeros(count, np.bool_)
    small[order[: min(max(0, count + 1 - _most_files()), affordable)]] = True
    return small


def _most_files() -> int:
    hard = _hard_limit()
    return MAX_FILES if hard is None else min(MAX_FILES, hard - OTHER_FILES - _OF_THE_MAP)


def _check_limit(layers: int, files: int) -> None:
    hard = _hard_limit()
    if hard is not None and files + _OF_THE_MAP + OTHER_FILES > hard:
        raise CannotBoot(
            tr(
                "This point reads through {layers} files, and a program may open {hard} here: no "
                "virtual machine can be started from it.",
                layers=layers,
                hard=hard,
            ),
            tr(
                "Merge older points, so that the chain gets shorter; or restore the point, and "
                "start a machine from that."
            ),
        )


def _hard_limit() -> int | None:
    """How many files a program may be allowed to open; None where there is no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard
