"""The journal of a merge: what is in flight, so that an interrupted one is finished.

`journal.json` is there from before the first byte of the parent changes until after the last
redundant file is gone. A merge that shares extents begins with the second of its phases:

    copy    the child's blocks go into the parent. The child still reads right: every block that is
            torn in the parent is one that the child holds itself. Done again from the start.
    relink  the parent's file holds everything, durable and checked, or a new file in flight beside
            it, which takes the parent's name first. Each step of what follows tells by the disks
            whether it is done (backup/merge_steps.py), and can be done again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vdbackup import records
from vdbackup.errors import DamagedMetadata, Remedy
from vdbackup.repository.files import read_json, remove, sync_folder, write_json
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

JOURNAL_NAME = "journal.json"
_Point = Annotated[RecoveryPoint, RecoveryPoint.checked]


@dataclass(frozen=True)
class _Record:
    """What `journal.json` says; what is in flight is told by `result` alone."""

    operation: str
    phase: str
    parent: _Point
    child: _Point
    result: _Point | None


@dataclass(frozen=True)
class Journal:
    """A merge in flight.

    Attributes:
        parent, child: the two points as they were.
        result: the point that stands for both afterwards; None in phase "copy".
    """

    parent: RecoveryPoint
    child: RecoveryPoint
    result: RecoveryPoint | None = None

    @property
    def phase(self) -> str:
        """Which phase it is in: "copy" or "relink"."""
        return "copy" if self.result is None else "relink"

    @property
    def numbers(self) -> tuple[int, int]:
        """Of the two points: whatever of them lies in flight is the merge's."""
        return self.parent.sequence, self.child.sequence

    @classmethod
    def load(cls, folder: Path) -> Journal:
        """The journal in a set's folder; raises RepositoryError if it cannot be understood."""
        data = read_json(folder / JOURNAL_NAME)
        try:
            record = records.tolerant(_Record, data)
        except (TypeError, ValueError) as error:
            raise DamagedMetadata(
                tr("{folder} is not valid: {error}.", folder=folder / JOURNAL_NAME, error=error),
                tr("How far the merge came can be found out from the disks."),
                remedy=Remedy.REPAIR,
            ) from error
        return cls(record.parent, record.child, record.result)

    def save(self, folder: Path) -> None:
        """Make this state the one that a restart would find."""
        record = _Record("merge", self.phase, self.parent, self.child, self.result)
        write_json(folder / JOURNAL_NAME, records.to_json(record))

    def clear(self, folder: Path) -> None:
        """The merge is complete."""
        remove(folder / JOURNAL_NAME)
        sync_folder(folder)

    def offered(
        self, folder: Path, points: Iterable[RecoveryPoint]
    ) -> tuple[list[RecoveryPoint], list[RecoveryPoint]]:
        """Which points may be used meanwhile, and which only serve those that read through them.

        The parent is neither its old moment nor the new one while it is copied into. From the
        moment that its file bears the result's name, the result stands for both.
        """
        ids = {self.parent.id, self.child.id}
        others = [point for point in points if point.id not in ids]
        if self.result is None:
            return [*others, self.child], [self.parent]
        if not os.path.lexists(folder / self.parent.disk):
            return [*others, self.result], []
        return others, [self.child, self.parent]
