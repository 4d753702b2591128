"""How a lie in a disk is sealed: by right checksums, so that what is behind them is reached."""

from __future__ import annotations

import struct
from collections.abc import Callable

import google_crc32c

Seal = Callable[[bytearray], None]


def no_checksums(_: bytearray) -> None:
    """The format has none."""


def seal_vhd(data: bytearray) -> None:
    """Footers and dynamic headers (VHD specification: the complement of the sum of all bytes)."""
    for at in (0, len(data) // 512 * 512 - 512):
        if len(data) >= 512 and data[at : at + 8] == b"conectix":
            _put_sum(data, at, 512, 64)
    for at in range(0, min(len(data), 1 << 14) - 1023, 512):
        if data[at : at + 8] == b"cxsparse":
            _put_sum(data, at, 1024, 36)


def _put_sum(data: bytearray, at: int, length: int, field: int) -> None:
    struct.pack_into(">I", data, at + field, 0)
    struct.pack_into(">I", data, at + field, ~sum(data[at : at + length]) & 0xFFFFFFFF)


def seal_vhdx(data: bytearray) -> None:
    """Headers and region tables ([MS-VHDX] 2.2.2, 2.2.3: CRC-32C with its own field as zero)."""
    for at, length in ((64, 4), (128, 4), (192, 64), (256, 64)):
        start, end = at << 10, (at + length) << 10
        if len(data) >= end:
            struct.pack_into("<I", data, start + 4, 0)
            struct.pack_into("<I", data, start + 4, google_crc32c.value(bytes(data[start:end])))
