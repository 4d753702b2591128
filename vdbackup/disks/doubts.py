"""What contradicts itself in a disk's file, though each of its tables can be read.

A damaged table, or one that a faulty program wrote, may name only places that are there. Then it is
read as it stands, as other programs do, and whoever reads it is told.
"""

from __future__ import annotations

import numpy as np

from vdbackup.disks.extents import BlockMap, Ranges
from vdbackup.translation import tr

SHARED = tr(
    "has two things in one place, stretches of the disk or its own tables: it is damaged, and what "
    "is read may be wrong"
)
"""A doubt, to follow the file's name."""


def any_shared(own: BlockMap, structures: Ranges, below: int | None = None) -> bool:
    """Whether two stretches of a disk lie in one place of its file, or one in the file's tables.

    Args:
        own: the disk's own map, whose hosts are places in the file.
        structures: offset and length in bytes of what no data lie in.
        below: hosts from here on are no places in the file.
    """
    here = own.layers >= 0
    if below is not None:
        here &= own.hosts < below
    places = np.concatenate([own.hosts[here], structures[:, 0]])
    lengths = np.concatenate([own.lengths[here], structures[:, 1]])
    order = np.argsort(places, kind="stable")
    places, ends = places[order], (places + lengths)[order]
    return bool((ends[:-1] > places[1:]).any())
