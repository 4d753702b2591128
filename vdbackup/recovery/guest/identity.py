"""A file system's UUID and label, as blkid and fstab write them, from its first bytes.

Where each lies: the structures in filesystems/ and libblkid's superblocks/*.c.
"""

from __future__ import annotations

import uuid


def of(kind: str, head: bytes) -> tuple[str, str]:
    """UUID and label; "" where there is none.

    Args:
        kind: as recovery/volumes.py names it.
        head: the volume's first 128 KiB.
    """
    if kind.startswith("ext"):
        return _uuid(head[1128:1144]), _text(head[1144:1160])
    match kind:
        case "XFS":
            return _uuid(head[32:48]), _text(head[108:120])
        case "Btrfs":
            return _uuid(head[0x10020:0x10030]), _text(head[0x1012B:0x1022B])
        case "FAT32":
            return _serial(head[67:71]), _text(head[71:82])
        case "FAT12" | "FAT16":
            return _serial(head[39:43]), _text(head[43:54])
        case "NTFS":
            return head[72:80][::-1].hex().upper(), ""
        case "swap":
            return _uuid(head[1036:1052]), _text(head[1052:1068])
        case "LUKS":
            return _text(head[168:208]), _text(head[24:72]) if head[7:8] == b"\x02" else ""
    return "", ""


def _uuid(data: bytes) -> str:
    return str(uuid.UUID(bytes=data)) if len(data) == 16 and any(data) else ""


def _serial(data: bytes) -> str:
    number = data[::-1].hex().upper()
    return f"{number[:4]}-{number[4:]}"


def _text(data: bytes) -> str:
    text = data.partition(b"\0")[0].decode(errors="replace").rstrip()
    return "" if text == "NO NAME" else text
