"""Long chains, said before they hurt, and ended before nothing reads them any more."""

from __future__ import annotations

from vdbackup.errors import ChainTooLong, VdbackupError
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

MANY_LAYERS = 500
"""Layers from which on it is said.

Everything works with 2,000. But each layer costs every backup, restore and boot some 3 ms (2 cores,
the files in the page cache), and one that is damaged takes all later points with it.
"""

MOST_LAYERS = 9_984
"""Layers that points of one chain have at most, 16 fewer than are read (disks/chain.py): on them
lies a point's overlay, on that a session's, and on that what other programs snapshot."""


def check_room(backup_set: BackupSet, parent: RecoveryPoint) -> None:
    """Raise ChainTooLong where no point may be made on this one; else as `BackupSet.chain`."""
    if len(backup_set.chain(parent)) >= MOST_LAYERS:
        raise ChainTooLong(
            tr(
                "Point {parent} of {backup_set} reads through {layers} layers, and more are not "
                "read.",
                parent=parent.sequence,
                backup_set=backup_set.name,
                layers=MOST_LAYERS,
            ),
            tr("Merge points of that chain, or make a full backup."),
        )


def sentence(backup_set: BackupSet) -> str:
    """What there is to say of how many layers the next backup goes on from, or ""."""
    latest = backup_set.latest_captured()
    if latest is None:
        return ""
    try:
        layers = len(backup_set.chain(latest))
    except VdbackupError:  # a chain that is broken has been told of, and is not gone on from
        return ""
    if layers < MANY_LAYERS:
        return ""
    return tr(
        "Point {latest} of {backup_set} reads through {layers} layers: with each, backups, "
        "restores and boots take longer, and a damaged one costs all points after it. Let the "
        "set keep fewer points, or make the next backup a full one.",
        latest=latest.sequence,
        backup_set=backup_set.name,
        layers=layers,
    )
