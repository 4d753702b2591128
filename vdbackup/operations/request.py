"""What may be asked of every backup, of one source or of a machine's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vdbackup.backup.kind import AUTO
from vdbackup.operations import policy
from vdbackup.sources.moment import Wanted


@dataclass(frozen=True, kw_only=True)
class Request:
    """What both hold; None leaves it to the capture, or to the set.

    Attributes:
        kind: as in `capture.plan`.
        disk_format: of a new set.
        parents_in: folders besides its own in which a virtual disk's parents may lie.
        same_source: the user says that each set is its source's, though that looks like another.
        policy: what the sets are to do another way from now on.
        consistency: what the points are to be.
        read_all: read everything, whatever a tracker of changes says.
        all_blocks: whether what is free is read and kept, too.
        merges: the policy is applied after the backup; else it is at another time.
    """

    kind: str = AUTO
    disk_format: str | None = None
    parents_in: tuple[Path, ...] = ()
    same_source: bool = False
    policy: policy.Change = field(default_factory=policy.Change)
    consistency: Wanted = Wanted.AUTO
    read_all: bool = False
    all_blocks: bool = False
    merges: bool = True
