"""Where damage hurts in each format, in files as we write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from hypothesis import strategies as st

from tests.disks.damage import Damage, Field, Specimen
from tests.disks.seals import seal_vhd, seal_vhdx
from tests.disks.shelf import MIB
from vdbackup.disks.disk import UNIT

KIB = 1 << 10
NASTY = [
    0, 1, 2, 3, 4, 6, 7, 8, 9, 16, 20, 21, 31, 32, 63, 64, 104, 126, 127, 128, 129, 511, 512, 513,
    4096, 2**16, 2**20, 2**20 | 6, 2**21, 3 * 2**20, 2**22, 2**22 | 7, 2**31, 2**32 - 2, 2**32 - 1,
    2**32, 2**40, 2**41, 2**46, 2**62, 2**63 - 1, 2**63, 2**64 - 2**20, 2**64 - 512, 2**64 - 1,
]  # fmt: skip
ANY = st.sampled_from(NASTY) | st.integers(0, 2**64 - 1)


@st.composite
def numbers(
    draw: st.DrawFn,
    fields: st.SearchStrategy[Field],
    order: Literal["little", "big"],
    values: st.SearchStrategy[int] = ANY,
) -> Damage:
    """One of the fields gets another value, cut to its length."""
    at, size = draw(fields)
    return at, (draw(values) % 2 ** (8 * size)).to_bytes(size, order)


def of(fields: dict[str, Field]) -> st.SearchStrategy[Field]:
    return st.sampled_from(list(fields.values()))


def entries(first: int, count: int, size: int) -> st.SearchStrategy[Field]:
    """The entries of a table."""
    return st.integers(0, count - 1).map(lambda number: (first + number * size, size))


def texts(first: int, length: int) -> st.SearchStrategy[Damage]:
    return st.tuples(st.integers(first, first + length), st.binary(min_size=1, max_size=12))


def flips(*areas: tuple[int, int]) -> st.SearchStrategy[Damage]:
    """A bit in one of the areas (start and length)."""
    places = [st.integers(start, start + length) for start, length in areas]
    return st.one_of(places).map(lambda at: (at, None))


def at(offset: int, fields: Iterable[Field]) -> list[Field]:
    return [(offset + start, size) for start, size in fields]


# --------------------------------------------------------------------------- VMDK

VMDK_HEADER = {
    "version": (4, 4),
    "flags": (8, 4),
    "capacity": (12, 8),
    "grain_size": (20, 8),
    "descriptor_offset": (28, 8),
    "descriptor_size": (36, 8),
    "entries_per_table": (44, 4),
    "redundant_directory": (48, 8),
    "directory": (56, 8),
    "overhead": (64, 8),
}
VMDK = Specimen(
    "vmdk",
    33 * MIB,  # two grain tables
    "little",
    VMDK_HEADER,
    numbers(of(VMDK_HEADER), "little")
    | numbers(entries(21 * 512, 24 * 128, 4), "little", ANY | st.integers(0, 2000))
    | texts(512, 900)
    | flips((0, 12 * KIB)),
    structures=64 * KIB,
    edges=(0, 511, 512, 600, 21 * 512, 64 * KIB),
    beginnings=(b"KDMV",),
)

# --------------------------------------------------------------------------- VHD

VHD_BLOCK = 2 * MIB
VHD_TABLE = 16 * KIB
VHD_FOOTER = {
    "footer": (0, 8),
    "footer_version": (12, 4),
    "data_offset": (16, 8),
    "time_stamp": (24, 4),
    "current_size": (48, 8),
    "geometry": (56, 4),
    "disk_type": (60, 4),
    "unique_id": (68, 8),
}
VHD_HEADER = {
    "cookie": (512, 8),
    "table_offset": (512 + 16, 8),
    "version": (512 + 24, 4),
    "entries": (512 + 28, 4),
    "block_size": (512 + 32, 4),
    "parent_id": (512 + 40, 8),
    "name": (512 + 64, 8),
    "code": (512 + 576, 4),
    "length": (512 + 584, 4),
    "place": (512 + 592, 8),
}
VHD_SIZE = 3 * MIB + 512  # two blocks, the second one cut short
VHD = Specimen(
    "vhd",
    VHD_SIZE,
    "big",
    VHD_FOOTER | VHD_HEADER,
    numbers(of(VHD_FOOTER), "big")
    | numbers(of(VHD_HEADER), "big")
    | numbers(entries(VHD_TABLE, 2, 4), "big", ANY | st.integers(0, 9000))
    | texts(UNIT - 512, 500)  # the first block's bitmap
    | texts(1536, 4000)
    | flips((0, 2000), (-512, 90)),
    structures=VHD_TABLE + 512,
    edges=(0, 511, 512, 600, VHD_TABLE, VHD_TABLE + 512),
    beginnings=(b"conectix",),
    unread=2 * VHD_BLOCK - VHD_SIZE + 512,  # and the footer, of which there are two
    seal=seal_vhd,
)

# --------------------------------------------------------------------------- VHDX

VHDX_HEADERS, VHDX_REGIONS = (64 * KIB, 128 * KIB), (192 * KIB, 256 * KIB)
VHDX_METADATA, VHDX_BAT, VHDX_BITMAP = 2 * MIB, 3 * MIB, 4 * MIB
VHDX_ITEMS, VHDX_LOCATOR = VHDX_METADATA + 64 * KIB, VHDX_METADATA + 128 * KIB
_HEADER = [(8, 8), (48, 16), (64, 2), (66, 2), (68, 4), (72, 8)]
_REGION = [(0, 16), (16, 8), (24, 4), (28, 4)]
_REGIONS = [(8, 4), *at(16, _REGION), *at(48, _REGION)]
_ITEM = [(0, 16), (16, 4), (20, 4), (24, 4)]
_ITEMS = [(0, 8), (10, 2), *(field for number in range(1, 7) for field in at(32 * number, _ITEM))]
VHDX = Specimen(
    "vhdx",
    5 * MIB,
    "little",
    {},
    numbers(st.sampled_from([each for n in VHDX_HEADERS for each in at(n, _HEADER)]), "little")
    | numbers(st.sampled_from([each for n in VHDX_REGIONS for each in at(n, _REGIONS)]), "little")
    | numbers(st.sampled_from(at(VHDX_METADATA, _ITEMS)), "little")
    | numbers(entries(VHDX_ITEMS, 21, 4), "little")
    | numbers(entries(VHDX_ITEMS, 11, 8), "little")
    | numbers(entries(VHDX_BAT, 4, 8), "little")
    | numbers(entries(VHDX_BAT + 8 * 2047, 3, 8), "little")
    | numbers(entries(VHDX_LOCATOR, 101, 2), "little")
    | numbers(entries(VHDX_LOCATOR, 51, 4), "little")
    | flips(*((start, 300) for start in (0, *VHDX_HEADERS, *VHDX_REGIONS, VHDX_METADATA,
                                         VHDX_ITEMS, VHDX_LOCATOR, VHDX_BAT, VHDX_BITMAP))),
    structures=VHDX_BITMAP,
    edges=(0, 7, 8, 600, 68 * KIB, MIB, 2 * MIB, 3 * MIB, 8 * MIB - 1),
    beginnings=(b"vhdxfile",),
    unread=MIB,  # the disk ends in the middle of its last block
    seal=seal_vhdx,
)  # fmt: skip

# --------------------------------------------------------------------------- QCOW2

QCOW2_REFCOUNT_TABLE, QCOW2_L1, QCOW2_REFCOUNTS, QCOW2_L2, QCOW2_DATA = (
    n * UNIT for n in (1, 2, 3, 4, 5)
)
COPIED, COMPRESSED = 1 << 63, 1 << 62
QCOW2_HEADER = {
    "version": (4, 4),
    "backing_offset": (8, 8),
    "backing_size": (16, 4),
    "cluster_bits": (20, 4),
    "size": (24, 8),
    "crypt_method": (32, 4),
    "l1_size": (36, 4),
    "l1_offset": (40, 8),
    "refcount_table_offset": (48, 8),
    "refcount_table_clusters": (56, 4),
    "snapshots": (60, 4),
    "snapshots_offset": (64, 8),
    "incompatible": (72, 8),
    "compatible": (80, 8),
    "autoclear": (88, 8),
    "refcount_order": (96, 4),
    "header_length": (100, 4),
    "compression": (104, 1),
    "extension": (112, 4),
    "extension_length": (116, 4),
    "identity_version": (120, 4),
    "sector_size": (124, 4),
}
_ENTRY = st.builds(
    int.__or__,
    st.sampled_from(NASTY) | st.integers(0, 9).map(lambda number: number * UNIT),
    st.sampled_from([0, COPIED, COMPRESSED, 1, COPIED | 1]),
)
QCOW2 = Specimen(
    "qcow2",
    33 * MIB,
    "big",
    QCOW2_HEADER,
    numbers(of(QCOW2_HEADER), "big")
    | numbers(entries(QCOW2_REFCOUNT_TABLE, 4, 8), "big", _ENTRY)
    | numbers(entries(QCOW2_L1, 4, 8), "big", _ENTRY)
    | numbers(entries(QCOW2_L2, 531, 8), "big", _ENTRY)
    | numbers(entries(QCOW2_REFCOUNTS, 10, 2), "big", st.sampled_from([0, 1, 2, 65535]))
    | texts(112, 200)
    | flips((0, 300), (QCOW2_L2, 5000)),
    structures=QCOW2_DATA,
    edges=(0, 71, 100, 103, QCOW2_L1, QCOW2_L2, QCOW2_DATA),
    beginnings=(b"QFI\xfb", b"QFI\xfb\0\0\0\3" + bytes(64)),
)

SPECIMENS = {each.disk_format: each for each in (VMDK, VHD, VHDX, QCOW2)}
