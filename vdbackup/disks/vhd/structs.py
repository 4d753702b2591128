"""On-disk structures of VHD: the footer, the dynamic header, and how a child names its parent.

Source: Microsoft, "Virtual Hard Disk Image Format Specification", 1.0 (2006). Numbers are
big-endian; places in the block allocation table are sectors of 512 bytes, all others are bytes.
What other programs want beyond it was found by experiment and stands beside the code that does it.
"""

from __future__ import annotations

import re
import struct
import time
import urllib.parse
import uuid
from dataclasses import astuple, dataclass, replace
from pathlib import Path, PurePosixPath

from vdbackup.disks.disk import SECTOR, UNIT, ParentRef
from vdbackup.errors import DiskError, DiskFormatError, DoesNotFit
from vdbackup.jobs import readable_size
from vdbackup.translation import tr

COOKIE = b"conectix"
HEADER_COOKIE = b"cxsparse"
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
UNUSED = 0xFFFFFFFF
"""In the block allocation table: the block is not here."""
BLOCK = 2 << 20
"""Bytes in a block that we create, as the specification's default."""

HEADER_SIZE = 1024
SLOTS = (SECTOR, 8192)
"""Where a dynamic header of ours lies, in bytes; the first one is where other programs have it.

Relinking writes the slot that is not in use; then the footer's one sector switches to it.
"""
BAT_AT = 16384
"""Where the block allocation table of ours lies, in bytes: behind both slots."""
MAX_SIZE = 2040 << 30
"""Bytes of disk: the most that Hyper-V, VirtualBox and QEMU take."""

_VERSION = 0x00010000
_EPOCH = 946684800  # 2000-01-01 00:00 UTC, from which time stamps count, in Unix time
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
_FOOTER_CHECKSUM_AT = 64
_HEADER = struct.Struct(">8sQQIIII16sI4x512s192s256x")
_HEADER_CHECKSUM_AT = 36
_LOCATOR = struct.Struct(">4sII4xQ")
_MAX_LOCATOR = 64 << 10  # bytes: paths on Windows have at most 32,767 UTF-16 units
_MAX_SECTORS = 65535 * 16 * 255  # that a geometry can stand for
_NAME_BYTES = 512
_NOWHERE = 0xFFFFFFFFFFFFFFFF
_W2RU_ROOM, _MACX_ROOM = 2048, 4096  # bytes behind the header in each of our slots


@dataclass(frozen=True)
class Footer:
    """The file's last sector; a copy of it is the first sector, except in fixed disks.

    Attributes:
        data_offset: where the dynamic header lies.
        time_stamp: of the last change, in seconds since 2000-01-01 UTC.
        cylinders, heads, sectors: the geometry.
        disk_type: FIXED, DYNAMIC or DIFFERENCING.
        saved_state: a virtual machine was suspended on the disk.
    """

    cookie: bytes
    features: int
    version: int
    data_offset: int
    time_stamp: int
    creator: bytes
    creator_version: int
    creator_system: bytes
    original_size: int
    current_size: int
    cylinders: int
    heads: int
    sectors: int
    disk_type: int
    checksum: int
    unique_id: bytes
    saved_state: int

    @classmethod
    def parse(cls, data: bytes, path: Path, offset: int) -> Footer:
        """The footer from 512 bytes, or 511 of an old Virtual PC; raises DiskFormatError."""
        data = data.ljust(SECTOR, b"\0") if len(data) == SECTOR - 1 else data
        if len(data) < SECTOR or not data.startswith(COOKIE):
            raise DiskFormatError(path, offset, tr("there is no VHD footer"))
        footer = cls(*_FOOTER.unpack(data))
        if footer.checksum != _checksum(data, _FOOTER_CHECKSUM_AT):
            raise DiskFormatError(path, offset, tr("the footer's checksum is wrong"))
        if footer.version >> 16 != _VERSION >> 16:
            raise DiskFormatError(
                path, offset, tr("version {version:#x} is unknown", version=footer.version)
            )
        if footer.disk_type not in (FIXED, DYNAMIC, DIFFERENCING):
            raise DiskFormatError(
                path, offset, tr("disk type {disk_type} is unknown", disk_type=footer.disk_type)
            )
        if not footer.current_size or footer.current_size % SECTOR:
            problem = tr(
                "a disk of {current_size} bytes does not consist of sectors",
                current_size=footer.current_size,
            )
            raise DiskFormatError(path, offset, problem)
        return footer

    @classmethod
    def for_disk(cls, virtual_size: int, disk_type: int) -> Footer:
        """The footer of a new disk of `virtual_size` bytes; a fixed one has no dynamic header.

        QEMU believes `current_size` if "win " made the disk; for a creator that it does not know it
        cuts the disk to what the geometry stands for (block/vpc.c).
        """
        header_at = _NOWHERE if disk_type == FIXED else SLOTS[0]
        return cls(
            COOKIE, 2, _VERSION, header_at, max(0, int(time.time()) - _EPOCH), b"win ", 0x000A0000,
            b"Wi2k", virtual_size, virtual_size, *geometry(virtual_size), disk_type, 0,
            uuid.uuid4().bytes, 0,
        )  # fmt: skip

    def pack(self) -> bytes:
        """512 bytes, with their checksum."""
        return _with_checksum(_FOOTER.pack(*astuple(self)), _FOOTER_CHECKSUM_AT)

    @property
    def disk_id(self) -> str | None:
        """The disk's UUID."""
        return uuid_text(self.unique_id)

    @property
    def content_id(self) -> str:
        """The time stamp as 8 hex digits."""
        return f"{self.time_stamp:08x}"


@dataclass(frozen=True)
class ParentLocator:
    """Where the parent's path is written down for one kind of system.

    Attributes:
        code: W2ru and W2ku are paths in UTF-16LE, relative and absolute; MacX is a file URL.
        space: reserved, in bytes as Microsoft's and VirtualBox have it (vhd-util takes sectors,
            which the specification says, as well).
        length: in bytes, without a NUL.
    """

    code: bytes
    space: int
    length: int
    offset: int

    def check(self, path: Path, header_at: int, file_size: int) -> None:
        """Raise DiskFormatError where it names what is not there."""
        if self.length > _MAX_LOCATOR or self.offset + self.length > file_size:
            problem = tr(
                "a parent's path of {length} bytes is said to lie at {offset}",
                length=self.length,
                offset=self.offset,
            )
            raise DiskFormatError(path, header_at, problem)


@dataclass(frozen=True)
class DynamicHeader:
    """What dynamic and differencing disks have besides the footer."""

    table_offset: int
    max_table_entries: int
    block_size: int
    parent_id: bytes = bytes(16)
    parent_time_stamp: int = 0
    parent_name: bytes = bytes(_NAME_BYTES)
    locators: tuple[ParentLocator, ...] = ()

    @classmethod
    def parse(
        cls, data: bytes, path: Path, offset: int, virtual_size: int, file_size: int
    ) -> DynamicHeader:
        """The header from 1024 bytes; raises DiskFormatError where it makes no sense."""
        if len(data) < HEADER_SIZE or not data.startswith(HEADER_COOKIE):
            raise DiskFormatError(path, offset, tr("there is no dynamic disk header"))
        (
            _, _, table_offset, version, entries, block_size, checksum, parent_id, stamp, name,
            locators,
        ) = _HEADER.unpack(data)  # fmt: skip
        if checksum != _checksum(data, _HEADER_CHECKSUM_AT):
            raise DiskFormatError(path, offset, tr("the dynamic disk header's checksum is wrong"))
        if version >> 16 != _VERSION >> 16:
            raise DiskFormatError(
                path, offset, tr("header version {version:#x} is unknown", version=version)
            )
        header = cls(
            table_offset, entries, block_size, parent_id, stamp, name,
            tuple(ParentLocator(*fields) for fields in _LOCATOR.iter_unpack(locators)),
        )  # fmt: skip
        for problem in header._problems(virtual_size, file_size):
            raise DiskFormatError(path, offset, problem)
        return header

    def _problems(self, virtual_size: int, file_size: int) -> list[str]:
        size = self.block_size
        if size < SECTOR or size & (size - 1):
            return [tr("a block of {size} bytes is not a power of two from 512 on", size=size)]
        if virtual_size > SECTOR << 32:
            return [tr("{size} are not in the format's 2 TiB", size=readable_size(virtual_size))]
        blocks = -(-virtual_size // size)
        if self.max_table_entries < blocks:
            return [
                tr(
                    "{max_table_entries} blocks of {size} bytes do not hold the disk",
                    max_table_entries=self.max_table_entries,
                    size=size,
                )
            ]
        if self.table_offset < SECTOR or self.table_offset + 4 * blocks > file_size:
            return [tr("the block allocation table lies outside the file")]
        return []

    def in_slot(self, slot: int, parent: ParentRef | None) -> tuple[DynamicHeader, bytes]:
        """This header with another parent, and all bytes of the slot at `slot` that says so.

        A name that would end a path, or that readers would take for a path of another meaning, is
        refused by DiskError.
        """
        if parent is None:
            return self, self.pack()
        path = _checked_name(parent.relative_path)
        texts = [
            (b"W2ru", _windows_path(path).encode("utf-16-le"), _W2RU_ROOM),
            (b"MacX", f"file://./{urllib.parse.quote(path)}".encode(), _MACX_ROOM),
        ]
        locators, stored, at = [], b"", slot + HEADER_SIZE
        for code, text, space in texts:
            if len(text) > space:
                raise _unfit_name(parent.relative_path)
            locators.append(ParentLocator(code, space, len(text), at + len(stored)))
            stored += text.ljust(space, b"\0")
        name = PurePosixPath(path).name.encode("utf-16-be")
        if len(name) > _NAME_BYTES:
            raise _unfit_name(parent.relative_path)
        header = replace(
            self,
            parent_id=uuid_bytes(parent.disk_id),
            parent_time_stamp=time_stamp(parent.content_id) or 0,
            parent_name=name.ljust(_NAME_BYTES, b"\0"),
            locators=tuple(locators),
        )
        return header, header.pack() + stored

    @property
    def bitmap_size(self) -> int:
        """Bytes of the sector bitmap before each block: a bit a sector, in whole sectors."""
        return -(-self.block_size // (SECTOR * 8 * SECTOR)) * SECTOR

    @property
    def table_size(self) -> int:
        """Bytes of the block allocation table, in whole sectors."""
        return -(-self.max_table_entries * 4 // SECTOR) * SECTOR

    @property
    def alignment(self) -> int:
        """On what the payload of new blocks lies in the file, in bytes.

        64 KiB (UNIT), so that a virtual machine can be started from a map of clusters of that size;
        4 KiB in disks beyond some 1985 GiB, where the gaps would not leave space for all blocks
        below 2^32 sectors.
        """
        blocks = self.max_table_entries
        end = self.table_end + (blocks + 1) * (self.block_size + UNIT)
        return UNIT if end <= UNUSED * SECTOR else 4096

    @property
    def table_end(self) -> int:
        """Where the block allocation table ends, in bytes."""
        return self.table_offset + self.table_size

    @classmethod
    def for_disk(cls, virtual_size: int) -> DynamicHeader:
        """The header of a new disk of `virtual_size` bytes, without a parent."""
        return cls(BAT_AT, -(-virtual_size // BLOCK), BLOCK)

    def is_ours(self, virtual_size: int) -> bool:
        """Whether blocks and table are as `for_disk` has them; then both slots are free for us."""
        ours = DynamicHeader.for_disk(virtual_size)
        return (self.table_offset, self.max_table_entries, self.block_size) == (
            ours.table_offset,
            ours.max_table_entries,
            ours.block_size,
        )

    def pack(self) -> bytes:
        """1024 bytes, with their checksum."""
        locators = b"".join(_LOCATOR.pack(*astuple(locator)) for locator in self.locators)
        data = _HEADER.pack(
            HEADER_COOKIE, 0xFFFFFFFFFFFFFFFF, self.table_offset, _VERSION, self.max_table_entries,
            self.block_size, 0, self.parent_id, self.parent_time_stamp, self.parent_name,
            locators.ljust(192, b"\0"),
        )  # fmt: skip
        return _with_checksum(data, _HEADER_CHECKSUM_AT)


def geometry(virtual_size: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors, by the specification's appendix "CHS Calculation"."""
    total = min(virtual_size // SECTOR, _MAX_SECTORS)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    sectors = 17
    tracks = total // sectors
    heads = max(4, -(-tracks // 1024))
    if tracks >= heads * 1024 or heads > 16:
        sectors, heads = 31, 16
        tracks = total // sectors
    if tracks >= heads * 1024:
        sectors = 63
        tracks = total // sectors
    return tracks // heads, heads, sectors


def time_stamp(content_id: str) -> int | None:
    """The seconds that a `content_id` of ours stands for; None if it is none."""
    return int(content_id, 16) if re.fullmatch("[0-9a-f]{8}", content_id) else None


def uuid_bytes(text: str | None) -> bytes:
    """A UUID's 16 bytes; zeros for none."""
    return uuid.UUID(text).bytes if text else bytes(16)


def uuid_text(data: bytes) -> str | None:
    """A UUID as text; None for the one that is all zeros."""
    return str(uuid.UUID(bytes=data)) if any(data) else None


def parent_paths(stored: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """The parent's paths, best first, as the locators (code and text) and the header have them.

    Relative ones come first, since a moved chain keeps them right. Texts are external: what cannot
    be decoded is replaced, and nothing is refused here.
    """
    texts = dict(reversed(stored))
    paths = [
        texts.get(b"W2ru", b"").decode("utf-16-le", "replace").replace("\\", "/"),
        _path_of_url(texts.get(b"MacX", b"").decode("utf-8", "replace")),
        texts.get(b"W2ku", b"").decode("utf-16-le", "replace"),
        name.decode("utf-16-be", "replace").split("\0", 1)[0],
        texts.get(b"Wi2r", b"").decode("cp1252", "replace").replace("\\", "/"),
        texts.get(b"Wi2k", b"").decode("cp1252", "replace"),
    ]
    plain = [path.rstrip("\0").removeprefix("./") for path in paths]
    return list(dict.fromkeys(path for path in plain if path))


def _path_of_url(url: str) -> str:
    """A file URL's path; vhd-util writes file://./name, and percent signs as they are."""
    path = url.removeprefix("file://").removeprefix("localhost/")
    return urllib.parse.unquote(path, errors="replace")


def _windows_path(path: str) -> str:
    path = path.replace("/", "\\")
    return path if path.startswith("..\\") else f".\\{path}"


def _checked_name(path: str) -> str:
    """The path without a leading "./"; raises DiskError where it cannot be a parent's path."""
    path = path.removeprefix("./")
    if not path.isprintable() or "\\" in path or not PurePosixPath(path).name:
        raise _unfit_name(path)
    return path


def _unfit_name(path: str) -> DiskError:
    return DoesNotFit(
        tr("A VHD cannot be the child of one that is named {path!r}.", path=path),
        tr("Choose a shorter name without backslashes and control characters."),
    )


def _checksum(data: bytes, at: int) -> int:
    """The complement of the sum of all bytes but the four at `at`, where the checksum stands."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def _with_checksum(data: bytes, at: int) -> bytes:
    return data[:at] + struct.pack(">I", _checksum(data, at)) + data[at + 4 :]
