"""A file system's UUID and label, as blkid and fstab write them, from its first bytes.

Where each lies: the structures in filesystems/ and libblkid's superblocks/*.c.
"""

from __future__ import annotations

import uuid

_UUIDS = {
    "ext2": (1128, 1144), "ext3": (1128, 1144), "ext4": (1128, 1144), "XFS": (32, 48),
    "Btrfs": (0x10020, 0x10030), "swap": (1036, 1052),
}  # fmt: skip
_SERIALS = {"FAT32": (67, 71), "FAT16": (39, 43), "FAT12": (39, 43)}
_LABELS = {
    "ext2": (1144, 1160), "ext3": (1144, 1160), "ext4": (1144, 1160), "XFS": (108, 120),
    "Btrfs": (0x1012B, 0x1022B), "swap": (1052, 1068),
    "FAT32": (71, 82), "FAT16": (43, 54), "FAT12": (43, 54),
}  # fmt: skip
"""By file system: the bytes in which the volume says it, from its beginning on."""
LABELLED = frozenset(("ext2", "ext3", "ext4", "XFS", "Btrfs", "swap"))
"""Kinds that have no other label: a FAT may have one in its topmost folder, NTFS in a file."""


def of(kind: str, head: bytes) -> tuple[str, str]:
    """UUID and label; "" where there is none.

    Args:
        kind: as volumes/volumes.py names it.
        head: the volume's first 128 KiB.
    """
    label = _text(head[slice(*_LABELS.get(kind, (0, 0)))])
    if kind in _UUIDS:
        return _uuid(head[slice(*_UUIDS[kind])]), label
    if kind in _SERIALS:
        number = head[slice(*_SERIALS[kind])][::-1].hex().upper()
        return f"{number[:4]}-{number[4:]}", label
    if kind == "NTFS":
        return head[72:80][::-1].hex().upper(), label
    if kind == "LUKS":
        return _text(head[168:208]), label
    return "", label


def _uuid(data: bytes) -> str:
    return str(uuid.UUID(bytes=data)) if len(data) == 16 and any(data) else ""


def _text(data: bytes) -> str:
    text = data.partition(b"\0")[0].decode(errors="replace").rstrip()
    return "" if text == "NO NAME" else text
