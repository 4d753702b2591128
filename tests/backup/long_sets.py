"""Sets of very many points, made quickly: by the engine's own drafts, without a capture each.

What a point holds is two blocks (64 KiB) in the upper half of the disk, a few words and noise: one
of its own, as far as there are as many, and one that all points have. Nothing is fsynced meanwhile.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta
from unittest.mock import patch

import numpy as np

from tests.backup.lab import Lab
from tests.noise import noise
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, digest_blocks
from vdbackup.repository.draft import Draft
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType


def lengthen(lab: Lab, points: int) -> BackupSet:
    """Go on in a lab's set, with incrementals each on the last, until it has so many points.

    The lab's disk is as the last point has it. A first backup has to be there.
    """
    backup_set = lab.set
    with patch.object(os, "fsync"):
        while len(backup_set.points) < points:
            backup_set = _with_next(lab, backup_set)
        lab.repository.save_settings(backup_set.name, backup_set.settings)
    return backup_set


def said(number: int) -> bytes:
    """What both blocks of a point begin with."""
    return b"point %06d." % number


SAID = len(said(0))


def _with_next(lab: Lab, backup_set: BackupSet) -> BackupSet:
    parent = backup_set.points[-1]
    number = backup_set.settings.last_sequence + 1
    draft = Draft(
        backup_set, PointType.INCREMENTAL, parent, lab.size, parent.sector_size, sequence=number
    )
    with draft:
        first = lab.size // BLOCK // 2
        for block in (first, first + 1 + number % (first - 1)):
            data = said(number) + noise(BLOCK - SAID, 1000 * number + block)
            lab.poke(block * BLOCK, data)
            draft.disk.write(block * BLOCK, memoryview(data))
            draft.digests.add(np.array([block]), digest_blocks(memoryview(data)))
        draft.complete((), _later(parent))
        point = draft.publish()
    settings = replace(backup_set.settings, last_sequence=number)
    return replace(backup_set, settings=settings, points=(*backup_set.points, point))


def _later(point: RecoveryPoint) -> datetime:
    return datetime.fromisoformat(point.created) + timedelta(hours=1)
