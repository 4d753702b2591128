"""The point that a merge leaves, and its digests: what both stood for, in the parent's place."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from vdbackup.repository import naming
from vdbackup.repository.digest_writer import DigestWriter
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.files import remove
from vdbackup.repository.model import RecoveryPoint, unreadable_warning
from vdbackup.translation import tr

MAX_MERGED = 100
"""Ids of merged points that a manifest keeps: a policy rolls one after the other into the same
point for years, and each time its whole manifest is written."""
MAX_WARNINGS = 20
"""Warnings that a point takes over from its parent: many say an amount, and so no two are alike."""
_OLDER_WARNINGS = tr(
    "Older warnings, of points that were merged into this one, are no longer kept."
)


def merged_point(parent: RecoveryPoint, child: RecoveryPoint) -> RecoveryPoint:
    """The child's moment and id in the parent's place; what its files hold is not known yet."""
    layer = naming.layer_name(child.sequence, parent.type, naming.ending_of(child.disk))
    # the parent's own id last: by it an interrupted merge's result is known (repair_journal.py),
    # and a verification sees that the point has been merged meanwhile
    gone = (*parent.merged, *child.merged, parent.id)
    before = parent.merged_before + child.merged_before
    return replace(
        child,
        type=parent.type,
        parent=parent.parent,
        disk=layer,
        digests=naming.digests_name(layer),
        verified=None,
        boot_tested=None,
        rehearsed=None,
        merged=gone[-MAX_MERGED:],
        merged_before=before + max(0, len(gone) - MAX_MERGED),
        warnings=tuple(dict.fromkeys((*_lasting_warnings(parent), *child.warnings))),
    )


def _lasting_warnings(parent: RecoveryPoint) -> tuple[str, ...]:
    """Those that hold for its child, too: what the source did not give, the child read again."""
    again = unreadable_warning(parent.unreadable)
    lasting = [each for each in parent.warnings if each not in (again, _OLDER_WARNINGS)]
    older = _OLDER_WARNINGS in parent.warnings or len(lasting) > MAX_WARNINGS
    return ((_OLDER_WARNINGS,) if older else ()) + tuple(lasting[-MAX_WARNINGS:])


def merge_digests(folder: Path, parent: RecoveryPoint, child: RecoveryPoint, path: Path) -> int:
    """Make `path` of the digests of both, newest wins; durable but for its name.

    Returns:
        How many bytes of the disk they cover.
    """
    remove(path)  # of a merge that was interrupted here
    both = [folder / parent.digests, folder / child.digests]
    with (
        DigestFold(both, child.virtual_size) as fold,
        closing(DigestWriter(path, child.virtual_size, fold.block)) as writer,
    ):
        fold.copy_to(writer)
        writer.finish()
    return writer.held_bytes
