"""On-disk structures of hosted VMDK: the sparse header, the grain marker, the text descriptor.

Source: VMware, "Virtual Disk Format 5.0" (the SparseExtentHeader, grain directory and tables, and
the descriptor file). Numbers are little-endian, places are in sectors of 512 bytes. What QEMU and
VirtualBox want beyond it was found by experiment and stands beside the code that does it.
"""

from __future__ import annotations

import re
import string
import struct
import uuid
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from vdbackup.disks.disk import FINE_UNIT, SECTOR, UNIT, ParentRef
from vdbackup.disks.names import DESCRIPTOR_START
from vdbackup.errors import DiskFormatError, DoesNotFit
from vdbackup.jobs import sizes_apart
from vdbackup.translation import tr

MAGIC = b"KDMV"
NEWLINES = b"\n \r\n"
"""A text-mode transfer alters these four bytes, and so gives itself away."""

FLAG_NEWLINE_TEST = 1 << 0
FLAG_REDUNDANT_TABLE = 1 << 1
FLAG_ZERO_GRAINS = 1 << 2
FLAG_COMPRESSED = 1 << 16
FLAG_MARKERS = 1 << 17
"""Each compressed grain stands behind a GrainMarker."""
DEFLATE = 1
"""As `compression`: RFC 1950 (zlib), the only one there is."""

GRAIN = 128
"""Sectors in a grain that we create: 64 KiB, as every VMDK writer does."""
TABLE_ENTRIES = 512
"""Entries in a grain table."""
DESCRIPTOR_AT = 1
"""QEMU looks for the descriptor in sector 1 (block/vmdk.c: 0x200) and nowhere else."""
DESCRIPTOR_SECTORS = 20
"""QEMU reads CID and parent hint in the first 10 KiB of the descriptor (DESC_SIZE)."""
AT_END = 0xFFFFFFFFFFFFFFFF
"""As grain directory offset: the real header is at the end of the file (streamOptimized)."""
FOOTER_FROM_END = 1024
"""Bytes: the footer is the last sector but one, and only the end-of-stream marker follows it."""
NO_PARENT = "ffffffff"
MAX_DESCRIPTOR = 1 << 20
"""Bytes of text; the largest disk in pieces of 2 GiB takes a tenth of that."""

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_MARKER = struct.Struct("<QI")
_ACCESS = ("RW ", "RW\t", "RDONLY ", "RDONLY\t", "NOACCESS ", "NOACCESS\t")
_EXTENT = re.compile(
    r'(\S+)\s+([0-9]{1,18})\s+([A-Z]+)(?:\s+"([^"]*)"(?:\s+([0-9]{1,18})(?:\s.*)?)?)?',
    re.IGNORECASE,
)
"""Access, sectors, kind, and but for ZERO: file, offset, and what devices have besides."""
_FIRST_LINE = re.compile(DESCRIPTOR_START)
_ENCODING = re.compile(rb'encoding\s*=\s*"?([\w-]{1,20})', re.IGNORECASE)
_ENCODINGS = {"windows-1252", "windows-1251", "windows-1250", "shift_jis", "gbk", "big5", "euc-kr"}


@dataclass(frozen=True)
class SparseExtentHeader:
    """The file's first sector. All places and sizes in sectors."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    entries_per_table: int
    redundant_directory: int
    directory: int
    overhead: int
    unclean: int
    newlines: bytes
    compression: int

    @classmethod
    def parse(cls, data: bytes, path: Path, file_size: int, at: int = 0) -> SparseExtentHeader:
        """The header from 512 bytes at byte `at`; raises DiskFormatError where it makes no sense.

        Where `directory` is AT_END, the footer says where everything is.
        """
        if len(data) < SECTOR or not data.startswith(MAGIC):
            raise DiskFormatError(path, at, tr("there is no sparse extent header"))
        header = cls(*_HEADER.unpack(data[:SECTOR]))
        for problem in header._problems(file_size):
            raise DiskFormatError(path, at, problem)
        return header

    def _problems(self, file_size: int) -> list[str]:
        problems = []
        if self.version not in (1, 2, 3):
            problems.append(tr("header version {version} is unknown", version=self.version))
        if self.flags & FLAG_NEWLINE_TEST and self.newlines != NEWLINES:
            problems.append(tr("the file was altered by a text-mode transfer"))
        # QEMU goes by the one, VirtualBox by the other
        if self.compression != (DEFLATE if self.compressed else 0):
            problems.append(
                tr(
                    "compression {compression} is unknown, or its flag is wrong",
                    compression=self.compression,
                )
            )
        elif self.entries_per_table != TABLE_ENTRIES:
            problems.append(
                tr(
                    "grain tables have {entries_per_table} entries instead of 512",
                    entries_per_table=self.entries_per_table,
                )
            )
        elif not 8 <= self.grain_size <= 4096 or self.grain_size & (self.grain_size - 1):
            problems.append(
                tr(
                    "a grain of {grain_size} sectors is not a power of two from 8 to 4096",
                    grain_size=self.grain_size,
                )
            )
        elif not 0 < self.capacity <= 2**32:
            problems.append(
                tr(
                    "a capacity of {capacity} sectors is not in the format's 2 TiB",
                    capacity=self.capacity,
                )
            )
        else:
            problems += self._misplaced(file_size)
        return problems

    def _misplaced(self, file_size: int) -> list[str]:
        problems = []
        end = self.directory * SECTOR + 4 * self.tables
        if self.directory != AT_END and (not self.directory or end > file_size):
            problems.append(tr("the grain directory lies outside the file"))
        if self.descriptor_offset * SECTOR + self.descriptor_size * SECTOR > file_size:
            problems.append(tr("the descriptor lies outside the file"))
        if self.descriptor_size * SECTOR > MAX_DESCRIPTOR:
            problems.append(
                tr(
                    "a descriptor of {descriptor_size} sectors is too large",
                    descriptor_size=self.descriptor_size,
                )
            )
        return problems

    @property
    def compressed(self) -> bool:
        """Whether grains are compressed (streamOptimized)."""
        return bool(self.flags & FLAG_COMPRESSED)

    @property
    def grains(self) -> int:
        """Grains that the capacity takes; the last one may be short."""
        return -(-self.capacity // self.grain_size)

    @property
    def tables(self) -> int:
        """Grain tables, and entries of the grain directory."""
        return -(-self.grains // TABLE_ENTRIES)

    def first_table(self, directory: int) -> int:
        """The sector of the first grain table, which lies right behind the directory in ours."""
        return directory + -(-self.tables * 4 // SECTOR)

    def is_ours(self) -> bool:
        """Whether everything lies where `for_disk` puts it (QEMU does the same)."""
        unit = self.grain_size * SECTOR
        if unit not in (UNIT, FINE_UNIT):
            return False
        ours = SparseExtentHeader.for_disk(self.capacity * SECTOR, unit)
        return self == replace(ours, version=self.version, unclean=self.unclean)

    def pack(self) -> bytes:
        """512 bytes."""
        return _HEADER.pack(*astuple(self))

    @classmethod
    def for_disk(cls, virtual_size: int, unit: int = UNIT) -> SparseExtentHeader:
        """The header of a new disk of `virtual_size` bytes, whose grains have `unit` bytes.

        Then come the descriptor, both directories, each with its tables preallocated one after the
        other (QEMU and VMware do it so), then the grains.
        """
        header = cls(
            MAGIC, 1, FLAG_NEWLINE_TEST | FLAG_REDUNDANT_TABLE, virtual_size // SECTOR,
            unit // SECTOR, DESCRIPTOR_AT, DESCRIPTOR_SECTORS, TABLE_ENTRIES, 0, 0, 0, 0,
            NEWLINES, 0,
        )  # fmt: skip
        tables_sectors = header.tables * TABLE_ENTRIES * 4 // SECTOR
        redundant = DESCRIPTOR_AT + DESCRIPTOR_SECTORS
        primary = header.first_table(redundant) + tables_sectors
        overhead = -(-(header.first_table(primary) + tables_sectors) // GRAIN) * GRAIN
        return replace(header, redundant_directory=redundant, directory=primary, overhead=overhead)


@dataclass(frozen=True)
class GrainMarker:
    """What stands before a compressed grain.

    Attributes:
        sector: of the disk, the grain's first.
        size: of the compressed data, in bytes.
    """

    sector: int
    size: int

    SIZE = _MARKER.size

    @classmethod
    def parse(cls, data: bytes | bytearray) -> GrainMarker:
        """The marker from its 12 bytes."""
        return cls(*_MARKER.unpack(data))

    def pack(self) -> bytes:
        """12 bytes."""
        return _MARKER.pack(self.sector, self.size)


@dataclass(frozen=True)
class ExtentLine:
    """A line of the descriptor that says where the next stretch of the disk is.

    Attributes:
        access: "RW", "RDONLY" or "NOACCESS".
        size: of the stretch, in bytes.
        kind: "FLAT", "SPARSE", "ZERO" or one of ESX's.
        file_name: external text, "" where there is none.
        offset: of the first byte in the file, in bytes.
    """

    access: str
    size: int
    kind: str
    file_name: str
    offset: int

    @classmethod
    def parse_all(cls, text: str, path: Path) -> list[ExtentLine]:
        """The extents in the order of the disk.

        A line that begins like one and is none raises DiskFormatError: to pass over it, as QEMU
        does, would shift all data behind it.
        """
        found = []
        for line in _lines(text):
            if not line.upper().startswith(_ACCESS):
                continue
            match = _EXTENT.fullmatch(line)
            if match is None:
                raise DiskFormatError(path, 0, tr("{line!r} is no extent", line=line[:80]))
            access, sectors, kind, name, offset = match.groups("")
            found.append(
                cls(access.upper(), int(sectors) * SECTOR, kind.upper(), name,
                    int(offset or 0) * SECTOR)
            )  # fmt: skip
        return found

    @classmethod
    def only(cls, text: str, path: Path, header: SparseExtentHeader) -> ExtentLine:
        """The extent of a disk that is all in one sparse file; the header's where no line tells.

        The disk is as large as the line says. The header's capacity may be that in whole grains
        (VirtualBox and VMware write it so: Storage/VMDK.cpp, cNominalSectors); anything else would
        make another disk of it for one reader or the other, and is refused by DiskFormatError.
        """
        lines = [line for line in cls.parse_all(text, path) if line.size]
        if not lines:
            return cls("RW", header.capacity * SECTOR, "SPARSE", "", 0)
        beyond = header.capacity - lines[0].size // SECTOR
        if len(lines) > 1 or not 0 <= beyond < header.grain_size:
            ours, theirs = sizes_apart(lines[0].size, header.capacity * SECTOR)
            problem = tr(
                "the descriptor speaks of {ours} in {count} extents, the header of {theirs}",
                ours=ours,
                count=len(lines),
                theirs=theirs,
            )
            raise DiskFormatError(path, SECTOR, problem)
        return lines[0]


@dataclass(frozen=True)
class Descriptor:
    """The text descriptor, inside a sparse file or as a file of its own.

    Attributes:
        cid, parent_cid: 8 hex digits; QEMU changes a disk's CID when it opens it and then writes.
        uuid, parent_uuid: VirtualBox treats a child without them as parentless.
        parent_hint: the parent's path.
        parent_named: whether the hint stands in the text (VirtualBox writes none).
    """

    virtual_size: int
    file_name: str
    cid: str
    uuid: str | None
    parent_cid: str = NO_PARENT
    parent_uuid: str | None = None
    parent_hint: str | None = None
    create_type: str = "monolithicSparse"
    parent_named: bool = True

    @classmethod
    def parse(cls, text: str, path: Path, virtual_size: int) -> Descriptor:
        """The fields that identify the disk and its parent; unknown lines are passed over.

        The extents are for others to read (ExtentLine): the file's name is the one that it has.
        """
        fields: dict[str, str] = {}
        for line in _lines(text):
            name, _, value = line.partition("=")
            fields.setdefault(name.strip().lower(), value.strip().strip('"'))
        try:
            return cls(
                virtual_size, final_name(path),
                _cid(fields["cid"]), _uuid(fields.get("ddb.uuid.image")),
                _cid(fields.get("parentcid", NO_PARENT)), _uuid(fields.get("ddb.uuid.parent")),
                fields.get("parentfilenamehint"), fields.get("createtype", ""),
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise DiskFormatError(
                path, SECTOR, tr("the descriptor has no valid CID, or a UUID that is none")
            ) from error

    @property
    def parent(self) -> ParentRef | None:
        """How the disk names its parent; VirtualBox may do it by the UUID alone."""
        if self.parent_cid == NO_PARENT and self.parent_uuid is None:
            return None
        content_id = "" if self.parent_cid == NO_PARENT else self.parent_cid
        hint = self.parent_hint or ""
        return ParentRef(self.parent_uuid, content_id, hint, named=self.parent_named)

    def pack(self) -> bytes:
        """The descriptor, padded with NULs to its whole place in the file.

        What a new parent or identity changes fills the first sector, and the rest stays the same:
        storage writes a sector as a whole, so after a power cut it is all old or all new. The names
        in a repository are short enough for that; with both above 30 bytes it would not fit.

        A line break or quote in a name would forge entries: such names are refused by DiskError.
        """
        for name in (self.file_name, self.parent_hint or ""):
            if not name.isprintable() or '"' in name:
                raise DoesNotFit(
                    tr(
                        "A VMDK cannot be named {name!r}, or be the child of one that is.",
                        name=name,
                    ),
                    tr("Choose a name without quotes and control characters."),
                )
        changing = _packed(self._changing_lines())
        if len(changing) < SECTOR:
            changing += b"\n".rjust(SECTOR - len(changing), b"#")
        data = changing + _packed(self._lasting_lines())
        space = DESCRIPTOR_SECTORS * SECTOR
        if len(data) > space:
            raise ValueError(
                tr(
                    "a descriptor of {count} bytes does not fit into {space}",
                    count=len(data),
                    space=space,
                )
            )
        return data.ljust(space, b"\0")

    def _changing_lines(self) -> list[str]:
        lines = [
            "# Disk DescriptorFile", "version=1", 'encoding="UTF-8"',
            f"CID={self.cid}", f"parentCID={self.parent_cid}",
            f'createType="{self.create_type}"',
        ]  # fmt: skip
        if self.parent_hint is not None:
            lines.append(f'parentFileNameHint="{self.parent_hint}"')
        lines += [
            "", "# Extent description",
            f'RW {self.virtual_size // SECTOR} SPARSE "{self.file_name}"',
            "", "# The Disk Data Base", "#DDB", "",
        ]  # fmt: skip
        if self.uuid:
            lines.append(f'ddb.uuid.image="{self.uuid}"')
            lines.append(f'ddb.uuid.modification="{_modification(self.uuid, self.cid)}"')
        if self.parent_uuid:
            lines.append(f'ddb.uuid.parent="{self.parent_uuid}"')
            modification = _modification(self.parent_uuid, self.parent_cid)
            lines.append(f'ddb.uuid.parentmodification="{modification}"')
        return lines

    def _lasting_lines(self) -> list[str]:
        cylinders = min(self.virtual_size // (16 * 63 * SECTOR), 16383)
        return [
            'ddb.virtualHWVersion = "4"', 'ddb.adapterType = "ide"',
            f'ddb.geometry.cylinders = "{cylinders}"',
            'ddb.geometry.heads = "16"', 'ddb.geometry.sectors = "63"',
        ]  # fmt: skip


def new_cid() -> str:
    """A CID that is none of the values that mean something else (0, no parent, its neighbour)."""
    import secrets  # late: with what it brings it takes longer than to read a disk's structures

    return f"{secrets.randbelow(0xFFFFFFFD) + 1:08x}"


def final_name(path: Path) -> str:
    """What a file is called, or will be that is in the making."""
    return path.name.removesuffix(".partial")


def _packed(lines: list[str]) -> bytes:
    return "\n".join([*lines, ""]).encode()


def is_descriptor(start: bytes) -> bool:
    """Whether a file that begins with `start` is a text descriptor."""
    return _FIRST_LINE.match(start) is not None


def decoded(raw: bytes) -> str:
    """A descriptor's text, up to the first NUL.

    VMware names the encoding and writes what Windows uses; others write UTF-8 and name none. What
    is valid UTF-8 beyond ASCII is hardly ever anything else.
    """
    raw = raw.split(b"\0", 1)[0]
    declared = _ENCODING.search(raw)
    name = declared[1].decode().lower() if declared else ""
    for encoding in ("utf-8", name) if name in _ENCODINGS else ("utf-8",):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def _lines(text: str) -> list[str]:
    """Not empty, without blanks around them; ended by LF, CR LF or CR."""
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]


def _cid(text: str) -> str:
    """8 hex digits in lower case; raises ValueError."""
    if not 0 < len(text) <= 8 or not set(text) <= set(string.hexdigits):
        raise ValueError(tr("{text!r} is no CID", text=text))
    return text.lower().rjust(8, "0")


def _uuid(text: str | None) -> str | None:
    """The text if it is a UUID, None for VirtualBox's "none", all zeros; raises ValueError."""
    parsed = uuid.UUID(text) if text is not None else None
    return str(parsed) if parsed and parsed.int else None


def _modification(disk_uuid: str, cid: str) -> str:
    """VirtualBox compares a child's `parentmodification` with the parent's `modification`.

    Deriving it from UUID and CID means that whoever knows the two knows the third.
    """
    return str(uuid.uuid5(uuid.UUID(disk_uuid), cid))
