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
DESCRIPTOR_START = (
    rb"(?i:(?:\xef\xbb\xbf)?(?:[ \t]*(?:#[^\r\n]*)?[\r\n])*[ \t]*"
    rb"(?:#\s*Disk\s*Descriptor\s*File|version\s*=\s*[0-9]))"
)
"""How the text of a VMDK begins.

VirtualBox wants the comment, in one of four spellings (Storage/VMDK.cpp,
vmdkPreprocessDescriptor); QEMU the version, behind whatever comments (block/vmdk.c, vmdk_probe).
"""
