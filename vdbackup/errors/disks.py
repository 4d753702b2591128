"""A virtual-disk file is not what it should be, or cannot be made so."""

from __future__ import annotations

from pathlib import Path

from vdbackup.errors.base import Remedy, VdbackupError
from vdbackup.translation import tr


class DiskError(VdbackupError):
    """A virtual-disk file cannot be used."""

    code = "disk-unusable"


class DiskFormatError(DiskError):
    """A virtual-disk file breaks its format's rules.

    Attributes:
        path: the file.
        offset: where in the file, in bytes, the broken structure starts.
    """

    code = "disk-damaged"

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        super().__init__(
            tr(
                "{path} is damaged or is not a valid virtual disk: {problem} (at byte {offset}).",
                path=path,
                problem=problem,
                offset=offset,
            ),
            tr("Restore the file from a copy, or use another recovery point."),
        )
        self.path = path
        self.offset = offset


class DamagedDigests(DiskFormatError):
    """A layer's file of digests is damaged; the layer itself may be whole."""

    code = "digests-damaged"

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        VdbackupError.__init__(
            self,
            tr(
                "{path} is damaged: {problem} (at byte {offset}).",
                path=path.name,
                problem=problem,
                offset=offset,
            ),
            tr(
                "Put back a good copy of the file, or let it be computed again from what the disk "
                "is now."
            ),
            remedy=Remedy.REPAIR,
        )
        self.path = path
        self.offset = offset


class ParentError(DiskError):
    """The parent that a child disk names cannot be used."""

    code = "parent-unusable"


class ReadOnlyLayout(DiskError):
    """A disk was made by another program in a layout that is read, and not written to."""

    code = "disk-read-only"


class NotSupported(DiskError):
    """A disk uses something of its format that cannot be read."""

    code = "disk-not-supported"


class DoesNotFit(DiskError):
    """A format cannot hold a disk of that size, those sectors or that name."""

    code = "disk-does-not-fit"


class ChangedWhileRead(DiskError):
    """A disk was written to, moved or replaced while it was read."""

    code = "disk-changed"


class NotLinkable(DiskError):
    """A disk cannot have the parent or the identity that it was to get."""

    code = "disk-not-linkable"


class NeedsCheck(DiskError):
    """A disk has to be checked and mended by its own program before it is written to."""

    code = "disk-needs-check"


class NoSpaceInDisk(DiskError):
    """A disk's own structures have no space for more: it has to be written anew."""

    code = "disk-full"


class NotAFile(DiskError):
    """What was named as a disk is neither a file nor a block device."""

    code = "not-a-file"


class PartMissing(DiskError):
    """A disk lies in several files, and one of them is missing."""

    code = "disk-incomplete"
