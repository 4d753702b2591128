"""Which files a point is of, and which its set is of by now."""

from __future__ import annotations

from contextlib import suppress

from vdbackup.errors import NotInPoint, SourceNotFound
from vdbackup.repository.model import RecoveryPoint, SetSettings
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr


def choice_of(settings: SetSettings, point: RecoveryPoint) -> Choice:
    """What a point is of: as it was chosen when it was captured; raises NotInPoint."""
    kept = point.captured_from or settings.source
    ref = SourceRef.parse(kept.path)
    if ref.is_files:
        with suppress(SourceNotFound):
            return Choice.parse(ref.rest)
    raise NotInPoint(
        tr("Point {point} is of a disk, not of chosen files.", point=point.sequence),
        tr("Extract what you want of its files, or restore the disk."),
    )


def choice_now(settings: SetSettings) -> Choice | None:
    """What a set is of as it stands; None where it is no set of chosen files."""
    ref = SourceRef.parse(settings.source.path)
    try:
        return Choice.parse(ref.rest) if ref.is_files else None
    except SourceNotFound:
        return None
