"""What an overlay itself holds, as a short text: a session's blocks fit only onto the same."""

from __future__ import annotations

from pathlib import Path

from blake3 import blake3

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.transfer import CHUNK, pieces


def contents(overlay: Path, disk_format: DiskFormat) -> str:
    """A digest of the blocks that an overlay holds and where; "" for one that is empty.

    It stays the same while a merge gives the overlay another name or parent, and where an empty one
    was thrown away and made again. Raises DiskError where the file is no such disk.
    """
    with Chain.alone(overlay, disk_format) as alone:
        own = alone.layers[0].block_map().own_ranges()
        hasher = blake3()
        buffer = memoryview(bytearray(CHUNK))
        for offset, length in pieces(own, CHUNK):
            part = buffer[:length]
            alone.readinto(offset, part)
            hasher.update(f"{offset}+{length};".encode())
            hasher.update(part)
        return hasher.hexdigest() if len(own) else ""
