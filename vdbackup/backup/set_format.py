"""Which format a new set is kept in."""

from __future__ import annotations

from vdbackup.disks.disk import SECTOR
from vdbackup.disks.formats import check_fits, check_format, fitting_formats
from vdbackup.disks.names import DiskFormat
from vdbackup.sources.source import Source
from vdbackup.translation import tr

DEFAULT_FORMAT = DiskFormat.VMDK


def format_for(source: Source, asked: str | None) -> tuple[DiskFormat, str]:
    """What a new set is kept in, and why it is not the usual format; raises DiskError."""
    if asked is not None:
        kept_in = check_format(asked)
        check_fits(kept_in, source.size, source.sector_size)
        return kept_in, ""
    chosen = default_format(source.size, source.sector_size)
    if chosen == DEFAULT_FORMAT:
        return chosen, ""
    reason = (
        tr("is too large for") if source.sector_size == SECTOR else tr("has sectors too large for")
    )
    note = tr(
        "The set is kept in {chosen}: the source {reason} {default_format}.",
        chosen=chosen.upper(),
        reason=reason,
        default_format=DEFAULT_FORMAT.upper(),
    )
    return chosen, note


def default_format(size: int, sector_size: int) -> DiskFormat:
    """What a disk of `size` bytes with such sectors is kept in by itself; raises DiskError."""
    fitting = fitting_formats(size, sector_size)
    if DEFAULT_FORMAT in fitting or not fitting:
        check_fits(DEFAULT_FORMAT, size, sector_size)
        return DEFAULT_FORMAT
    return fitting[0]
