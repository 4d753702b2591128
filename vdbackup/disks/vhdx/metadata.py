"""The metadata region of a VHDX: what the disk is, and who its parent is.

Source: [MS-VHDX] 2.6. A table of items, then the items, each somewhere in the region. Known items
are believed after a check; unknown ones are passed over, unless they say that they must not be.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.extents import Int64s
from vdbackup.disks.vhdx.log import Contents
from vdbackup.disks.vhdx.structs import MAX_ENTRIES, MIB, TABLE_BYTES, Region, guid_of
from vdbackup.errors import DiskFormatError, DoesNotFit, ReadOnlyLayout
from vdbackup.jobs import readable_size
from vdbackup.translation import tr

MAX_DISK = 64 << 40
"""Bytes (2.6.2.2)."""
BITMAP_BYTES = MIB
"""Of a sector bitmap block: one bit for each of the 2^23 sectors of a chunk (2.4)."""
MAX_LOCATOR_ENTRIES = 32
"""Five keys are defined. Entries may share their texts, so a small item could name gigabytes."""
SLOT = TABLE_BYTES
"""Parent locators that we write lie at multiples of it in the region."""

FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
VIRTUAL_DISK_ID = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR_SIZE = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR_SIZE = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
VHDX_LOCATOR = uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")
"""The only kind of parent locator that the specification knows (2.6.2.6.3)."""

_TABLE = struct.Struct("<8sHH20s")
_ITEM = struct.Struct("<16sIIII")
_PARAMETERS = struct.Struct("<II")
_LOCATOR = struct.Struct("<16sHH")
_LOCATOR_ENTRY = struct.Struct("<IIHH")

_HAS_PARENT = 2


@dataclass(frozen=True)
class Item:
    """An entry of the metadata table (2.6.1.2); the offset counts from the region's start.

    Attributes:
        number: of the entry in the table.
    """

    IS_USER: ClassVar = 1
    IS_VIRTUAL_DISK: ClassVar = 2
    IS_REQUIRED: ClassVar = 4

    number: int
    guid: uuid.UUID
    offset: int
    length: int
    flags: int

    @property
    def entry_offset(self) -> int:
        """Where offset and length of the item stand, from the region's start: 8 bytes."""
        return _TABLE.size + self.number * _ITEM.size + 16

    @property
    def is_known(self) -> bool:
        """Whether the specification defines it; user's items may have any GUID."""
        defined = self.guid in _LENGTHS or self.guid == PARENT_LOCATOR
        return defined and not self.flags & self.IS_USER

    def pack(self) -> bytes:
        """32 bytes."""
        return _ITEM.pack(self.guid.bytes_le, self.offset, self.length, self.flags, 0)


_LENGTHS = {
    FILE_PARAMETERS: _PARAMETERS.size,
    VIRTUAL_DISK_SIZE: 8,
    VIRTUAL_DISK_ID: 16,
    LOGICAL_SECTOR_SIZE: 4,
    PHYSICAL_SECTOR_SIZE: 4,
}


def parse_items(data: bytes, path: Path, region: Region) -> list[Item]:
    """All entries of the metadata table, from the region's first 64 KiB.

    Raises:
        DiskFormatError: an item is missing, is there twice, lies outside the region, or must be
            understood and is not.
    """
    at = region.offset
    signature, _, count, _ = _TABLE.unpack_from(data)
    if signature != b"metadata" or count > MAX_ENTRIES:
        raise DiskFormatError(path, at, tr("there is no metadata table"))
    items = [_parse_item(number, data, path, region) for number in range(count)]
    known = {item.guid: item for item in items if item.is_known}
    if len(known) != sum(item.is_known for item in items):
        raise DiskFormatError(path, at, tr("a metadata item is there twice"))
    for guid, length in _LENGTHS.items():
        if guid not in known or known[guid].length < length:
            raise DiskFormatError(
                path, at, tr("metadata item {guid} is missing or too short", guid=guid)
            )
    return items


def _parse_item(number: int, data: bytes, path: Path, region: Region) -> Item:
    start = _TABLE.size + number * _ITEM.size
    raw, offset, length, flags, _ = _ITEM.unpack_from(data, start)
    item = Item(number, guid_of(raw), offset, length, flags)
    at = region.offset + start
    if length > MIB or offset + length > region.length or (length and offset < TABLE_BYTES):
        raise DiskFormatError(
            path, at, tr("metadata item {guid} lies outside its region", guid=item.guid)
        )
    if flags & Item.IS_REQUIRED and not item.is_known:
        raise DiskFormatError(
            path, at, tr("it needs metadata item {guid}, which is unknown", guid=item.guid)
        )
    return item


def pack_items(items: Iterable[Item]) -> bytes:
    """The metadata table, without the unused rest of its 64 KiB."""
    packed = [item.pack() for item in items]
    return _TABLE.pack(b"metadata", 0, len(packed), bytes(20)) + b"".join(packed)


@dataclass(frozen=True)
class Geometry:
    """Sizes of the disk in bytes, and what follows from them (2.4, 2.5)."""

    virtual_size: int
    block_size: int
    sector_size: int
    has_parent: bool

    @classmethod
    def parse(cls, values: Mapping[uuid.UUID, bytes], path: Path, at: int) -> Geometry:
        """From the metadata items' bytes; raises DiskFormatError where they make no sense."""
        block_size, flags = _PARAMETERS.unpack_from(values[FILE_PARAMETERS])
        (virtual_size,) = struct.unpack_from("<Q", values[VIRTUAL_DISK_SIZE])
        (sector_size,) = struct.unpack_from("<I", values[LOGICAL_SECTOR_SIZE])
        geometry = cls(virtual_size, block_size, sector_size, bool(flags & _HAS_PARENT))
        if not MIB <= block_size <= 256 * MIB or block_size & (block_size - 1):
            problem = tr(
                "a block of {block_size} bytes is not a power of two from 1 to 256 MiB",
                block_size=block_size,
            )
        elif sector_size not in (512, 4096):
            problem = tr(
                "sectors of {sector_size} bytes are neither of 512 nor of 4096",
                sector_size=sector_size,
            )
        elif not 0 < virtual_size <= MAX_DISK:
            problem = tr(
                "a disk of {size} is not in the format's 64 TiB", size=readable_size(virtual_size)
            )
        elif virtual_size % sector_size:
            problem = tr(
                "a disk of {virtual_size} bytes does not end with a sector",
                virtual_size=virtual_size,
            )
        else:
            return geometry
        raise DiskFormatError(path, at, problem)

    def pack(self) -> dict[uuid.UUID, bytes]:
        """The metadata items that say it, each with its bytes."""
        return {
            FILE_PARAMETERS: _PARAMETERS.pack(
                self.block_size, _HAS_PARENT if self.has_parent else 0
            ),
            VIRTUAL_DISK_SIZE: struct.pack("<Q", self.virtual_size),
            LOGICAL_SECTOR_SIZE: struct.pack("<I", self.sector_size),
            PHYSICAL_SECTOR_SIZE: struct.pack("<I", 4096),
        }

    @property
    def blocks(self) -> int:
        """Payload blocks; the disk's last one may be used in part."""
        return -(-self.virtual_size // self.block_size)

    @property
    def chunk_ratio(self) -> int:
        """Payload blocks that share a sector bitmap block."""
        return (self.sector_size << 23) // self.block_size

    @property
    def chunk_size(self) -> int:
        """Bytes of disk that one bitmap block speaks of."""
        return self.chunk_ratio * self.block_size

    @property
    def chunks(self) -> int:
        """Sector bitmap blocks, if the disk has a parent."""
        return -(-self.blocks // self.chunk_ratio)

    @property
    def bat_entries(self) -> int:
        """Entries that the block allocation table must have."""
        if self.has_parent:
            return self.chunks * (self.chunk_ratio + 1)
        return self.blocks + (self.blocks - 1) // self.chunk_ratio

    @property
    def bitmap_bytes(self) -> int:
        """Bytes of a sector bitmap that stand for one payload block."""
        return self.block_size // self.sector_size // 8

    def entry_of_block(self, blocks: Int64s) -> Int64s:
        """Where the blocks' entries stand in the table: a bitmap's entry ends each full chunk."""
        return blocks + blocks // self.chunk_ratio

    def entry_of_bitmap(self, chunks: Int64s) -> Int64s:
        """Where the sector bitmaps' entries stand in the table."""
        return chunks * (self.chunk_ratio + 1) + self.chunk_ratio

    def length_of_block(self, blocks: Int64s) -> Int64s:
        """Bytes of the disk that lie in each block."""
        return np.minimum(self.block_size, self.virtual_size - blocks * self.block_size)


@dataclass(frozen=True)
class ParentLocator:
    """How a child names its parent (2.6.2.6): keys and values, both texts."""

    entries: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes, path: Path, at: int) -> ParentLocator:
        """From the item's bytes, which lie at byte `at`; raises DiskFormatError."""
        if len(data) < _LOCATOR.size:
            raise DiskFormatError(path, at, tr("the parent locator is too short"))
        kind, _, count = _LOCATOR.unpack_from(data)
        if guid_of(kind) != VHDX_LOCATOR:
            raise DiskFormatError(
                path, at, tr("the parent is no VHDX but of kind {kind}", kind=guid_of(kind))
            )
        if count > MAX_LOCATOR_ENTRIES or _LOCATOR.size + count * _LOCATOR_ENTRY.size > len(data):
            raise DiskFormatError(
                path, at, tr("the parent locator has no space for {count} entries", count=count)
            )
        entries = {}
        for number in range(count):
            key_at, value_at, key_length, value_length = _LOCATOR_ENTRY.unpack_from(
                data, _LOCATOR.size + number * _LOCATOR_ENTRY.size
            )
            if max(key_at + key_length, value_at + value_length) > len(data):
                raise DiskFormatError(path, at, tr("a text of the parent locator lies outside it"))
            key, value = data[key_at : key_at + key_length], data[value_at:][:value_length]
            entries[key.decode("utf-16-le", "replace")] = value.decode("utf-16-le", "replace")
        return cls(entries)

    def pack(self) -> bytes:
        """The item's bytes; raises struct.error where a text is longer than 64 KiB."""
        table, texts = b"", b""
        start = _LOCATOR.size + len(self.entries) * _LOCATOR_ENTRY.size
        for key, value in self.entries.items():
            raw_key, raw_value = key.encode("utf-16-le"), value.encode("utf-16-le")
            key_at = start + len(texts)
            table += _LOCATOR_ENTRY.pack(
                key_at, key_at + len(raw_key), len(raw_key), len(raw_value)
            )
            texts += raw_key + raw_value
        return _LOCATOR.pack(VHDX_LOCATOR.bytes_le, 0, len(self.entries)) + table + texts

    def linkages(self, path: Path, at: int) -> list[str]:
        """The parent's DataWriteGuid, and a second one while a merge replaces it.

        In lower case, without braces. Raises DiskFormatError where there is none.
        """
        found = []
        for key in ("parent_linkage", "parent_linkage2"):
            if text := self.entries.get(key):
                try:
                    found.append(str(uuid.UUID(text.strip().strip("{}"))))
                except ValueError as error:
                    raise DiskFormatError(
                        path, at, tr("{text!r} is no parent's GUID", text=text)
                    ) from error
        if not found:
            raise DiskFormatError(path, at, tr("the parent locator does not say who the parent is"))
        return found

    @property
    def paths(self) -> list[str]:
        """The parent's paths in the order in which they are to be tried.

        The relative one first, with this system's separators; the others are Windows' own.
        """
        relative = self.entries.get("relative_path", "").replace("\\", "/").removeprefix("./")
        others = (self.entries.get(key, "") for key in ("absolute_win32_path", "volume_path"))
        return [text for text in (relative, *others) if text]


@dataclass(frozen=True)
class TwoLinkages(ParentRef):
    """A parent that may have either of two content ids: a merge was about to replace the first.

    Attributes:
        content_id2: the other one ([MS-VHDX] 2.6.2.6.3, parent_linkage2).
    """

    content_id2: str = ""

    def means(self, disk: DiskInfo) -> bool:
        """Whether that disk is the parent, before or after the merge."""
        return super().means(disk) or self.content_id2 == disk.content_id


@dataclass(frozen=True)
class Metadata:
    """The region's items, and what they say."""

    region: Region
    items: tuple[Item, ...]
    geometry: Geometry
    disk_id: uuid.UUID
    parent: ParentRef | None

    @classmethod
    def read(cls, contents: Contents, region: Region) -> Metadata:
        """From the file; raises DiskFormatError where it makes no sense."""
        path, at = contents.path, region.offset
        if not region.length or at + region.length > contents.size:
            raise DiskFormatError(path, at, tr("the metadata lie outside the file"))
        items = parse_items(contents.read(at, TABLE_BYTES), path, region)
        values = {
            item.guid: contents.read(at + item.offset, item.length)
            for item in items
            if item.is_known
        }
        geometry = Geometry.parse(values, path, at)
        parent = None
        if geometry.has_parent:
            parent = _reference(values.get(PARENT_LOCATOR, b""), path, at)
        return cls(region, tuple(items), geometry, guid_of(values[VIRTUAL_DISK_ID][:16]), parent)

    @staticmethod
    def of_new(
        geometry: Geometry, parent: ParentRef | None, region: Region
    ) -> list[tuple[int, bytes]]:
        """The table and the items of a new disk: (place in the file, bytes).

        Raises DiskError where the parent's name cannot be written.
        """
        values = geometry.pack() | {VIRTUAL_DISK_ID: uuid.uuid4().bytes_le}
        items, written = [], []
        # 16 bytes apart: the id of 16 bytes lies in one sector then
        for number, (name, value) in enumerate(values.items()):
            offset = TABLE_BYTES + 16 * number
            of_file = name == FILE_PARAMETERS
            flags = Item.IS_REQUIRED | (0 if of_file else Item.IS_VIRTUAL_DISK)
            items.append(Item(number, name, offset, len(value), flags))
            written.append((region.offset + offset, value))
        if parent:
            value = pack_reference(parent)
            items.append(Item(len(items), PARENT_LOCATOR, 2 * SLOT, len(value), Item.IS_REQUIRED))
            written.append((region.offset + 2 * SLOT, value))
        return [(region.offset, pack_items(items)), *written]

    def item(self, name: uuid.UUID) -> Item:
        """The known item of that GUID, which is there."""
        return next(item for item in self.items if item.is_known and item.guid == name)

    def free_slot(self, path: Path) -> int:
        """A place in the region, of SLOT bytes, in which no item lies; raises DiskError."""
        for slot in range(2 * SLOT, self.region.length, SLOT):
            if all(
                each.offset + each.length <= slot or slot + SLOT <= each.offset
                for each in self.items
            ):
                return slot
        raise ReadOnlyLayout(
            tr("{path} was made by another program in a layout that is only read.", path=path),
            tr("Export it to a new disk first."),
        )


def _reference(data: bytes, path: Path, at: int) -> ParentRef:
    """The parent that a locator's bytes name, found in the region at byte `at` of the file."""
    locator = ParentLocator.parse(data, path, at)
    linkages, paths = locator.linkages(path, at), locator.paths
    relative, others = (paths[0], tuple(paths[1:])) if paths else ("", ())
    if len(linkages) > 1:
        return TwoLinkages(None, linkages[0], relative, others, content_id2=linkages[1])
    return ParentRef(None, linkages[0], relative, others)


def pack_reference(parent: ParentRef) -> bytes:
    """The locator by which we name a parent; raises DiskError where its name cannot be written."""
    name = parent.relative_path
    if not name.isprintable() or "\\" in name or len(name) > 4096:
        raise DoesNotFit(
            tr("A VHDX cannot be the child of one that is named {name!r}.", name=name),
            tr("Choose a name without backslashes and control characters."),
        )
    return ParentLocator(
        {
            "parent_linkage": f"{{{uuid.UUID(parent.content_id)}}}",
            "relative_path": ".\\" + name.replace("/", "\\"),
        }
    ).pack()
