"""The formats' names, for whoever chooses between them: no disk is opened here, no numpy loaded."""

from __future__ import annotations

import enum


class DiskFormat(enum.StrEnum):
    """A format that disks are read in; what stands in JSON and in file names is its value."""

    RAW = "raw"
    VMDK = "vmdk"
    VHD = "vhd"
    VHDX = "vhdx"
    QCOW2 = "qcow2"


BACKUP_FORMATS = tuple(each for each in DiskFormat if each is not DiskFormat.RAW)
"""What a backup can be kept in, in the order in which they are offered."""
