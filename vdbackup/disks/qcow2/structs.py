"""On-disk structures of QCOW2: the header cluster with its extensions, and the entries' bits.

Source: QEMU, docs/interop/qcow2.txt ("Header", "Header extensions", "Cluster mapping"). Numbers are
big-endian, places are in bytes. Where QEMU is stricter than the text, its limit is named.
"""

from __future__ import annotations

import re
import struct
import uuid
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from vdbackup.disks.disk import SECTOR
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.qcow2.backing import Backing, backing_of, has_protocol
from vdbackup.errors import DiskFormatError, DoesNotFit, NotSupported, ParentError
from vdbackup.translation import tr

MAGIC = b"QFI\xfb"

DIRTY = 1 << 0
CORRUPT = 1 << 1
EXTERNAL_DATA = 1 << 2
COMPRESSION_TYPE = 1 << 3
EXTENDED_L2 = 1 << 4
"""Incompatible features."""

END_OF_EXTENSIONS = 0
BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
BITMAPS = 0x23852875
IDENTITY = int.from_bytes(b"VDBI")
"""Our own header extension: see Identity. Whoever does not know it preserves it."""

OFFSET = 0x00FF_FFFF_FFFF_FE00
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO_FLAG = 1
"""Bits of L1 and L2 entries; the offset's are those of refcount table entries, too."""

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
"""Of disks that we create, in bytes: QEMU's default."""
FINE_CLUSTER_BITS = 13
"""Of those that are written in FINE_UNIT."""
REFCOUNT_ORDER = 4
HEADER_LENGTH = 112
MAX_L1_BYTES = 32 << 20
"""QEMU opens no larger L1 table (QCOW_MAX_L1_SIZE)."""
MAX_REFCOUNT_TABLE_BYTES = 8 << 20
"""QEMU opens no larger refcount table (QCOW_MAX_REFTABLE_SIZE)."""
MAX_NAME = 1023
_NAME_SLOTS = {CLUSTER_BITS: (4096, 8192), FINE_CLUSTER_BITS: (4096, 6144)}

_QEMU_NAMES = {each: each.value for each in DiskFormat} | {DiskFormat.VHD: "vpc"}
_OUR_NAMES = {name: ours for ours, name in _QEMU_NAMES.items()}

_VERSION_2 = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_IDENTITY = struct.Struct(">II16s40s16s40s")
_IDENTITY_VERSION = 1


@dataclass(frozen=True)
class Header:
    """The fields in their order in the file; `additional` is what follows byte 104."""

    magic: bytes
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = REFCOUNT_ORDER
    length: int = _VERSION_2.size
    additional: bytes = b""

    @classmethod
    def parse(cls, data: bytes, path: Path, file_size: int) -> Header:
        """The header from the file's start; raises DiskError where we cannot read such a disk."""
        if len(data) < _VERSION_2.size or not data.startswith(MAGIC):
            raise DiskFormatError(path, 0, tr("there is no QCOW2 header"))
        header = cls(*_VERSION_2.unpack_from(data))
        if header.version not in (2, 3):
            raise DiskFormatError(
                path, 4, tr("version {version} is unknown", version=header.version)
            )
        if header.version == 3:
            header = cls._of_version_3(data, path)
        header._check_supported(path)
        for problem in header._problems(file_size):
            raise DiskFormatError(path, 0, problem)
        return header

    @classmethod
    def _of_version_3(cls, data: bytes, path: Path) -> Header:
        fixed = _VERSION_2.size + _VERSION_3.size
        if len(data) < fixed:
            raise DiskFormatError(path, 0, tr("the header is cut off"))
        header = cls(*_VERSION_2.unpack_from(data), *_VERSION_3.unpack_from(data, _VERSION_2.size))
        if header.length < fixed or header.length % 8 or header.length > len(data):
            raise DiskFormatError(
                path, 100, tr("a header of {length} bytes is none", length=header.length)
            )
        return replace(header, additional=data[fixed : header.length])

    def _check_supported(self, path: Path) -> None:
        """Raise DiskError for what the format allows and we cannot read."""
        unknown = self.incompatible & ~(
            DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2
        )
        for refused, what in (
            (self.crypt_method, tr("is encrypted")),
            (self.incompatible & EXTERNAL_DATA, tr("keeps its data in another file")),
            (unknown, tr("uses unknown features ({unknown:#x})", unknown=unknown)),
            (
                self.compression > 1,
                tr("uses an unknown compression ({compression})", compression=self.compression),
            ),
        ):
            if refused:
                raise NotSupported(
                    tr("{path} {what}, which cannot be read.", path=path, what=what),
                    tr("Convert it with 'qemu-img convert' first."),
                )

    def _problems(self, file_size: int) -> list[str]:
        if not 9 <= self.cluster_bits <= 21:  # QEMU: MIN_CLUSTER_BITS, MAX_CLUSTER_BITS
            return [
                tr(
                    "clusters of 2^{cluster_bits} bytes are not in the format",
                    cluster_bits=self.cluster_bits,
                )
            ]
        problems = []
        if self.extended_l2 and self.cluster_bits < 14:
            problems.append(tr("clusters below 16 KiB have no subclusters"))
        if self.refcount_order > 6:
            problems.append(
                tr(
                    "reference counts of 2^{refcount_order} bits are too wide",
                    refcount_order=self.refcount_order,
                )
            )
        if (self.compression != 0) != (self.incompatible & COMPRESSION_TYPE != 0):
            problems.append(tr("the compression type contradicts its feature bit"))
        if not self.size or self.size % SECTOR:
            problems.append(tr("a size of {size} bytes is no disk's", size=self.size))
        if self.l1_size < self.tables or self.l1_size * 8 > MAX_L1_BYTES:
            problems.append(
                tr("an L1 table of {l1_size} entries is not the disk's", l1_size=self.l1_size)
            )
        elif self.l1_offset % self.cluster_size or not self.l1_offset:
            problems.append(
                tr("an L1 table at byte {l1_offset} is not on a cluster", l1_offset=self.l1_offset)
            )
        elif self.l1_offset + self.l1_size * 8 > file_size:
            problems.append(tr("the L1 table lies outside the file"))
        name_end = self.backing_offset + self.backing_size
        outside = self.backing_offset < self.length or name_end > self.cluster_size
        if self.has_backing and (self.backing_size > MAX_NAME or outside):
            problems.append(tr("the backing file's name lies outside its place"))
        return problems

    @property
    def cluster_size(self) -> int:
        """In bytes."""
        return 1 << self.cluster_bits

    @property
    def clusters(self) -> int:
        """Clusters that the disk takes; the last one may be short."""
        return -(-self.size >> self.cluster_bits)

    @property
    def extended_l2(self) -> bool:
        """Whether L2 entries are 128 bits, with 32 subclusters each."""
        return self.incompatible & EXTENDED_L2 != 0

    @property
    def entry_words(self) -> int:
        """64-bit words in an L2 entry."""
        return 2 if self.extended_l2 else 1

    @property
    def table_entries(self) -> int:
        """Entries of an L2 table."""
        return self.cluster_size // (8 * self.entry_words)

    @property
    def tables(self) -> int:
        """L2 tables that the disk takes."""
        return -(-self.clusters // self.table_entries)

    @property
    def name_slots(self) -> tuple[int, int]:
        """Where in the first cluster we put the parent's name: in turns, see Qcow2Disk._rewrite.

        KeyError for clusters that we do not write.
        """
        return _NAME_SLOTS[self.cluster_bits]

    @property
    def compression(self) -> int:
        """0 zlib, 1 Zstandard."""
        return self.additional[0] if self.additional else 0

    @property
    def has_backing(self) -> bool:
        """Whether there is a parent."""
        return bool(self.backing_offset and self.backing_size)

    def pack(self) -> bytes:
        """`length` bytes."""
        fields = astuple(self)
        return _VERSION_2.pack(*fields[:13]) + _VERSION_3.pack(*fields[13:18]) + self.additional

    @classmethod
    def for_disk(cls, virtual_size: int, cluster_size: int = CLUSTER) -> Header:
        """The header of a new disk of `virtual_size` bytes, in such clusters.

        Then come the refcount table, large enough for all that the disk can ever take, the L1
        table, and what is allocated.
        """
        per_cluster = cluster_size // 8
        clusters = -(-virtual_size // cluster_size)
        tables = -(-clusters // per_cluster)
        l1_clusters = -(-tables // per_cluster)
        refcount_clusters = _refcount_table_clusters(
            1 + l1_clusters + tables + clusters, cluster_size
        )
        return cls(
            MAGIC, 3, 0, 0, cluster_size.bit_length() - 1, virtual_size, 0, tables,
            (1 + refcount_clusters) * cluster_size, cluster_size, refcount_clusters, 0, 0,
            length=HEADER_LENGTH, additional=bytes(8),
        )  # fmt: skip


def _refcount_table_clusters(clusters: int, cluster_size: int) -> int:
    """Clusters of a refcount table that counts `clusters`, its own blocks, and itself.

    One block more, 2 GiB of the file in clusters of 64 KiB: what power cuts leave behind is not
    written to again.
    """
    per_block, per_cluster = cluster_size // 2, cluster_size // 8
    blocks, needed = 0, 1
    while needed > blocks:
        blocks = needed
        needed = -(-(clusters + blocks + -(-blocks // per_cluster)) // per_block)
    return -(-(blocks + 1) // per_cluster)


@dataclass(frozen=True)
class Identity:
    """Our header extension: who the disk and its parent are, which the format does not say.

    In the file (128 bytes with type "VDBI" and length): version 1, the sectors' size in bytes, the
    disk's UUID and content id, the parent's UUID and content id; content ids are ASCII, filled up
    with NULs, what is unknown is NULs alone.
    """

    sector_size: int = SECTOR
    disk_id: str | None = None
    content_id: str = ""
    parent_id: str | None = None
    parent_content_id: str = ""

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Identity:
        """The extension's data; raises DiskFormatError where they are not what we write."""
        if len(data) != _IDENTITY.size:
            raise DiskFormatError(
                path, 0, tr("an identity of {count} bytes is none of ours", count=len(data))
            )
        version, sector_size, disk_id, content_id, parent_id, parent_content = _IDENTITY.unpack(
            data
        )
        if version != _IDENTITY_VERSION or sector_size not in (512, 4096):
            raise DiskFormatError(
                path,
                0,
                tr("version {version} of our identity, or its sector size", version=version),
            )
        return cls(
            sector_size, _uuid(disk_id), _text(content_id, path),
            _uuid(parent_id), _text(parent_content, path),
        )  # fmt: skip

    def pack(self) -> bytes:
        """The extension's data; raises ValueError where an id does not fit."""
        contents = [text.encode("ascii") for text in (self.content_id, self.parent_content_id)]
        if max(map(len, contents)) > 40:
            raise ValueError(tr("{contents} do not fit into the identity", contents=contents))
        ids = [uuid.UUID(each or str(uuid.UUID(int=0))) for each in (self.disk_id, self.parent_id)]
        return _IDENTITY.pack(
            _IDENTITY_VERSION, self.sector_size, ids[0].bytes, contents[0], ids[1].bytes,
            contents[1],
        )  # fmt: skip


@dataclass(frozen=True)
class HeaderCluster:
    """All that the first cluster holds.

    Attributes:
        extensions: type and data of each; the end mark is not among them.
        backing_name: the backing file's, as it stands there; empty without one.
    """

    header: Header
    extensions: tuple[tuple[int, bytes], ...] = ()
    backing_name: bytes = b""

    @classmethod
    def parse(cls, data: bytes, path: Path, file_size: int) -> HeaderCluster:
        """From the first cluster, or what the file has of it; raises DiskError."""
        header = Header.parse(data, path, file_size)
        data = data[: header.cluster_size]
        if not header.has_backing:
            return cls(header, _extensions(data, header.length, path))
        name = data[header.backing_offset : header.backing_offset + header.backing_size]
        if len(name) < header.backing_size:
            raise DiskFormatError(
                path, header.backing_offset, tr("the backing file's name is cut off")
            )
        return cls(header, _extensions(data[: header.backing_offset], header.length, path), name)

    def extension(self, kind: int) -> bytes | None:
        """The data of the first extension of that type."""
        return next((data for each, data in self.extensions if each == kind), None)

    def with_extension(self, kind: int, data: bytes) -> HeaderCluster:
        """The same with that extension, in front of all others, in place of what it had."""
        others = self.without_extension(kind).extensions
        return replace(self, extensions=((kind, data), *others))

    def without_extension(self, kind: int) -> HeaderCluster:
        """The same without extensions of that type."""
        others = tuple(each for each in self.extensions if each[0] != kind)
        return replace(self, extensions=others)

    def identity(self, path: Path) -> Identity:
        """Ours, or one that knows nothing where the disk is another program's."""
        data = self.extension(IDENTITY)
        return Identity() if data is None else Identity.parse(data, path)

    def backing_format(self, path: Path) -> DiskFormat | None:
        """The parent's format by our name for it; None where the disk does not say."""
        if not self.header.has_backing:
            return None
        data = self.extension(BACKING_FORMAT)
        name = self._backing(path).driver if data is None else data.decode("ascii", "replace")
        if name is None:
            return None
        if name not in _OUR_NAMES:
            raise ParentError(
                tr(
                    "{path} has a parent in a format that cannot be read: {name!r}.",
                    path=path,
                    name=name,
                ),
                tr("Convert the disk with 'qemu-img convert' first."),
            )
        return _OUR_NAMES[name]

    def backing_path(self, path: Path) -> str:
        """The parent's path; raises ParentError where it is not a file's."""
        name = self._backing(path).path
        plain = name.removeprefix("./")
        return plain if has_protocol(plain) else name

    def _backing(self, path: Path) -> Backing:
        name = self.backing_name.decode("utf-8", "replace")
        if backing := backing_of(name):
            return backing
        raise ParentError(
            tr("{path} names a parent that is not a file: {name!r}.", path=path, name=name),
            tr("Name a file in its stead with 'qemu-img rebase -u -b FILE -F FORMAT'."),
        )

    def pack(self) -> bytes:
        """Header and extensions, filled up to whole sectors: one, if nothing foreign is there."""
        parts = [self.header.pack()]
        for kind, data in [*self.extensions, (END_OF_EXTENSIONS, b"")]:
            parts.append(
                _EXTENSION.pack(kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
            )
        packed = b"".join(parts)
        return packed.ljust(-(-len(packed) // SECTOR) * SECTOR, b"\0")

    def free_slot(self) -> int:
        """The one of `name_slots` in which the backing file's present name does not lie."""
        first, second = self.header.name_slots
        start = self.header.backing_offset
        taken = start < first + MAX_NAME and start + self.header.backing_size > first
        return second if self.header.has_backing and taken else first


def backing_format_name(disk_format: DiskFormat | None) -> bytes:
    """QEMU's name for one of our formats; a parent whose format nobody says is QCOW2."""
    return _QEMU_NAMES[disk_format or DiskFormat.QCOW2].encode()


def backing_file_name(relative_path: str) -> bytes:
    """A path as QEMU understands it; raises DiskError where it is too long, or no text."""
    plain = f"./{relative_path}" if has_protocol(relative_path) else relative_path
    name = plain.encode("utf-8", "surrogateescape")
    if not relative_path.isprintable() or not 0 < len(name) <= MAX_NAME:
        raise DoesNotFit(
            tr(
                "A QCOW2 disk cannot be the child of one that is named {relative_path!r}.",
                relative_path=relative_path,
            ),
            tr(
                "Choose a name of at most {max_name} bytes, without control characters.",
                max_name=MAX_NAME,
            ),
        )
    return name


def _extensions(data: bytes, start: int, path: Path) -> tuple[tuple[int, bytes], ...]:
    found = []
    at = start
    while at + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, at)
        if kind == END_OF_EXTENSIONS:
            break
        at += _EXTENSION.size
        if at + length > len(data):
            raise DiskFormatError(
                path, at, tr("a header extension of {length} bytes is cut off", length=length)
            )
        found.append((kind, data[at : at + length]))
        at += -(-length // 8) * 8
    return tuple(found)


def _uuid(data: bytes) -> str | None:
    return str(uuid.UUID(bytes=data)) if any(data) else None


def _text(data: bytes, path: Path) -> str:
    text = data.rstrip(b"\0")
    if not re.fullmatch(rb"[!-~]*", text):
        raise DiskFormatError(path, 0, tr("{text!r} is no content id", text=text))
    return text.decode("ascii")
