"""What a backup takes of its storage: whether a point fits, and which layers take space unseen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdbackup.disks.extents import aligned, total, without
from vdbackup.jobs import readable_size
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.files import check_file_size, check_space, free_space
from vdbackup.repository.marker import MARKER
from vdbackup.sources.sample import stored_share
from vdbackup.sources.source import Source
from vdbackup.translation import tr
from vdbackup.volumes.allocation import LeftOut

RESERVE = 1 << 20
"""Bytes that a full leaves free for its overlay, manifest and what is small in any format."""
_TABLES = 1024
"""One byte in so many goes into digests (1 in 2048) and the format's tables (1 in 8192 or less)."""


def check(source: Source, repository: Path, left_out: LeftOut, *, full: bool) -> tuple[str, ...]:
    """Refuse a point that cannot fit; a sentence where a full may turn out not to.

    What a full will hold is known of an image, by its holes, and guessed of a device, from a
    sample. Of later points nothing is known but that they need a little.

    Raises NoSpace, FileTooLarge.
    """
    if not full:
        check_space(repository, RESERVE, tr("A backup of {source}", source=source.title))
        return ()
    least, most = _needed(source, left_out)
    doing = tr("A full backup of {source}", source=source.title)
    check_file_size(repository / MARKER, _with_tables(least), doing)
    check_space(repository, _with_tables(least), doing)
    free = free_space(repository)
    if free is None or free >= _with_tables(most):
        return ()
    sentence = tr(
        "{doing} was expected to need {size} to {size_2} (by a sample of the device), and "
        "there were only {size_3} free: free some space before the next one.",
        doing=doing,
        size=readable_size(least),
        size_2=readable_size(most),
        size_3=readable_size(free),
    )
    return (sentence,)


def check_together(fulls: Sequence[tuple[Source, LeftOut]], repository: Path, doing: str) -> None:
    """Refuse fulls of several sources that cannot all fit, though each of them may.

    Raises NoSpace.
    """
    needed = [_with_tables(_needed(source, left_out)[0]) for source, left_out in fulls]
    check_space(repository, sum(needed), doing)


def _needed(source: Source, left_out: LeftOut) -> tuple[int, int]:
    """How many bytes a full of it holds, at least and at most."""
    stored = without(aligned(source.data_ranges(), BLOCK, source.size), left_out.ranges)
    if source.holes_are_known:
        return total(stored), total(stored)
    return stored_share(source, stored)


def _with_tables(size: int) -> int:
    return size + size // _TABLES + RESERVE


def unlisted(backup_set: BackupSet) -> tuple[str, ...]:
    """What is said as long as there are layers without a manifest: they take space unseen."""
    names = backup_set.unlisted_layers()
    if not names:
        return ()
    sentence = tr(
        "No recovery point has {names} in {folder}: a manifest is missing. A repair makes a "
        "point of it.",
        names=", ".join(names),
        folder=backup_set.folder,
    )
    return (sentence,)
