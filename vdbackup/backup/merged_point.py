"""The point that a merge leaves, and its digests: what both stood for, in the parent's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vdbackup.repository import naming
from vdbackup.repository.digest_writer import DigestWriter
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.files import remove
from vdbackup.repository.model import RecoveryPoint, unreadable_warning


def merged_point(parent: RecoveryPoint, child: RecoveryPoint) -> RecoveryPoint:
    """The child's moment and id in the parent's place; what its files hold is not known yet."""
    layer = naming.layer_name(child.sequence, parent.type, naming.ending_of(child.disk))
    return replace(
        child,
        type=parent.type,
        parent=parent.parent,
        disk=layer,
        digests=naming.digests_name(layer),
        verified=None,
        boot_tested=None,
        merged=(*parent.merged, parent.id, *child.merged),
        warnings=tuple(dict.fromkeys((*_lasting_warnings(parent), *child.warnings))),
    )


def _lasting_warnings(parent: RecoveryPoint) -> tuple[str, ...]:
    """Those that hold for its child, too: what the source did not give, the child read again."""
    again = unreadable_warning(parent.unreadable)
    return tuple(each for each in parent.warnings if each != again)


def merge_digests(folder: Path, parent: RecoveryPoint, child: RecoveryPoint, path: Path) -> int:
    """Make `path` of the digests of both, newest wins; durable but for its name.

    Returns:
        How many bytes of the disk they cover.
    """
    remove(path)  # of a merge that was interrupted here
    writer = DigestWriter(path, child.virtual_size)
    try:
        both = [folder / parent.digests, folder / child.digests]
        with DigestFold(both, child.virtual_size) as fold:
            fold.copy_to(writer)
        writer.finish()
    finally:
        writer.close()
    return writer.held_bytes
