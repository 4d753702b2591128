"""Reading back what was written: a layer's own blocks against their digests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.transfer import transfer
from vdbackup.errors import Damaged
from vdbackup.jobs import CancelToken, Report
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks


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
                "No good data was lost: `vdbackup verify` shows which points are whole.",
            )

    with Chain.alone(layer, disk_format) as data:
        transfer(digests.held(), data.readinto, check, phase=phase, report=report, cancel=cancel)
