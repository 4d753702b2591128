"""A logical volume as LVM2 describes it on its disk, written without device-mapper and root.

Layout: LVM2's source, lib/format_text/layout.h and lib/label/label.h; its own tools in a booted
guest are what reads it.

    sector 1       label, physical volume's header: where data and metadata lie
    4096           metadata's header, then the metadata: text
    1 MiB          the logical volume, in extents of 4 MiB
"""

from __future__ import annotations

import struct
import uuid
import zlib

DATA_OFFSET = 1 << 20
EXTENT = 4 << 20

_SECTOR = 512
_METADATA_OFFSET = 4096
_METADATA_SIZE = DATA_OFFSET - _METADATA_OFFSET
_TEXT_OFFSET = _SECTOR  # from the beginning of the metadata's area

_TEXT = """\
{group} {{
id = "{group_id}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = {extent_sectors}
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {{
pv0 {{
id = "{volume_id}"
device = "/dev/sda1"
status = ["ALLOCATABLE"]
flags = []
dev_size = {device_sectors}
pe_start = {data_sector}
pe_count = {extents}
}}
}}
logical_volumes {{
{name} {{
id = "{logical_id}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {{
start_extent = 0
extent_count = {extents}
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}}
}}
}}
}}
contents = "Text Format Volume Group"
version = 1
description = ""
creation_host = "debian"
creation_time = 1700000000
"""


def volume_size(device_size: int) -> int:
    """Bytes of the logical volume on a physical one of `device_size` bytes."""
    return (device_size - DATA_OFFSET) // EXTENT * EXTENT


def head(device_size: int, group: str, name: str) -> bytes:
    """What stands on a physical volume before the data of its only logical volume."""
    volume_id = uuid.uuid4().hex
    text = _TEXT.format(
        group=group,
        name=name,
        group_id=_dashed(uuid.uuid4().hex),
        volume_id=_dashed(volume_id),
        logical_id=_dashed(uuid.uuid4().hex),
        extent_sectors=EXTENT // _SECTOR,
        device_sectors=device_size // _SECTOR,
        data_sector=DATA_OFFSET // _SECTOR,
        extents=volume_size(device_size) // EXTENT,
    )
    metadata = _metadata_header(text.encode() + b"\0")
    before = bytes(_SECTOR) + _label(volume_id, device_size)
    return before.ljust(_METADATA_OFFSET, b"\0") + metadata.ljust(_METADATA_SIZE, b"\0")


def _label(volume_id: str, device_size: int) -> bytes:
    areas = struct.pack(
        "<8Q",
        *(DATA_OFFSET, 0, 0, 0),  # data, to the end of the device
        *(_METADATA_OFFSET, _METADATA_SIZE, 0, 0),
    )
    extension = struct.pack("<II2Q", 2, 1, 0, 0)  # version, in use, no boot loader's area
    volume = volume_id.encode() + struct.pack("<Q", device_size) + areas + extension
    rest = (struct.pack("<I8s", 32, b"LVM2 001") + volume).ljust(_SECTOR - 20, b"\0")
    return struct.pack("<8sQI", b"LABELONE", 1, _checksum(rest)) + rest


def _metadata_header(text: bytes) -> bytes:
    location = struct.pack("<QQII", _TEXT_OFFSET, len(text), _checksum(text), 0)
    rest = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, _METADATA_OFFSET, _METADATA_SIZE)
    rest = (rest + location).ljust(_SECTOR - 4, b"\0")
    return struct.pack("<I", _checksum(rest)) + rest + text


def _checksum(data: bytes) -> int:
    """CRC-32 as LVM2 has it: another start, and not inverted at the end."""
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _dashed(digits: str) -> str:
    """An id as text: 6-4-4-4-4-4-6."""
    parts, at = [], 0
    for length in (6, 4, 4, 4, 4, 4, 6):
        parts.append(digits[at : at + length])
        at += length
    return "-".join(parts)
