"""NTFS: contents by dissect; records and folders here, which lists 10,000 files ten times as fast.

dissect (3.16) shows names that were deleted long ago where a folder has shrunk, and gives what lies
on the disk where a file was made longer and never written to, which reads as zeros.

Only a file's main stream is read. Specification: https://flatcap.github.io/linux-ntfs/ntfs/
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Hashable, Iterator
from contextlib import suppress
from typing import NamedTuple

from dissect.ntfs.c_ntfs import ATTRIBUTE_TYPE_CODE, IO_REPARSE_TAG
from dissect.ntfs.mft import MftRecord
from dissect.ntfs.ntfs import NTFS
from dissect.ntfs.stream import CompressedRunlistStream
from dissect.ntfs.util import apply_fixup

from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import (
    Content,
    Kind,
    Node,
    Range,
    Stat,
    Unreadable,
    blocks_of,
    data_ranges,
    plausible,
)

_LOG, _VOLUME, _ROOT = 2, 3, 5
_FIRST_USER_FILE = 24
"""Number of the first record that is not one of the file system's own files."""
_IN_USE, _IS_FOLDER = 0x0001, 0x0002
_STANDARD_INFORMATION, _DATA, _REPARSE_POINT = 0x10, 0x80, 0xC0
_END = 0xFFFF_FFFF
_ENCRYPTED, _COMPRESSED = 0x4000, 0x00FF
_READ_ONLY, _SYSTEM, _IS_REPARSE_POINT = 0x0001, 0x0004, 0x0400
_OF_WINDOWS = _SYSTEM | 0x0002  # hidden
_ELSEWHERE = 0x1000 | 0x40000 | 0x400000
"""Attributes of a file whose data are not here: offline, recall on open, recall on data access."""
_WSL_LINK = 0xA000001D
_LINKS = (IO_REPARSE_TAG.SYMLINK.value, IO_REPARSE_TAG.MOUNT_POINT.value, _WSL_LINK)
_INTERIX_LINK, _INTERIX_DEVICES = b"IntxLNK\1", (b"IntxCHR\0", b"IntxBLK\0")
_MAX_INTERIX = 8 + 2 * 4096
"""Bytes of a file that stands for a link: ntfs-3g takes as many letters as Linux has in a path."""
_CLOUD, _CLOUD_VARIANT = 0x9000001A, 0xF000
_DIRTY = 0x0001
_RESTART_PAGE = 4096
_NO_CLIENT, _LOG_IS_CLEAN = 0xFFFF, 0x0002
_DOS_NAME = 2
_LAST_ENTRY = 2
_EPOCH = 11_644_473_600 * 10**9
"""Nanoseconds from 1601 to 1970."""


def open_root(stream: io.BufferedReader) -> tuple[str, NtfsNode]:
    """The name of the file system that lies in `stream`, and its topmost folder."""
    root = NtfsNode(NTFS(stream), _ROOT, None, "")
    root.stat()
    return "NTFS", root


class _Header(NamedTuple):
    """What a record in the master file table says at a glance; None: it is said elsewhere."""

    flags: int
    sequence: int
    modified: int
    changed: int
    accessed: int
    attributes: int
    size: int | None
    resident: bytes | None
    tag: int | None


class NtfsNode(Node):
    """A file or folder, by one of its names."""

    __slots__ = ("_fs", "_loaded", "_number", "_sequence")

    def __init__(self, fs: NTFS, number: int, sequence: int | None, name: str) -> None:
        super().__init__(name)
        self._fs = fs
        self._number = number
        self._sequence = sequence
        self._loaded: _Header | None = None

    @property
    def identity(self) -> Hashable:
        """The number of its record in the master file table."""
        return self._number

    def stat(self) -> Stat:
        """From its record: what a folder says of it may be older."""
        header = self._header
        kind, size, mode = self._kind()
        return Stat(
            kind,
            size,
            plausible(header.modified),
            mode,
            inode=self._number,
            accessed=plausible(header.accessed),
            changed=plausible(header.changed),
        )

    def _kind(self) -> tuple[Kind, int, int]:
        """What it is, its size, and the permissions that are given to it here."""
        header = self._header
        special = self._interix()
        if header.tag in _LINKS or special.startswith(_INTERIX_LINK):
            return Kind.LINK, 0, 0o777
        if special.startswith(_INTERIX_DEVICES):
            return Kind.OTHER, 0, 0o666
        if header.flags & _IS_FOLDER:
            return Kind.FOLDER, 0, 0o777
        size = self._record.size() if header.size is None else header.size
        return Kind.FILE, size, 0o444 if header.attributes & _READ_ONLY else 0o666

    def children(self) -> Iterator[Node]:
        """In the order of the folder's blocks, without the file system's own files."""
        for number, sequence, name in self._entries():
            if number >= _FIRST_USER_FILE:
                yield NtfsNode(self._fs, number, sequence, name)

    def content(self) -> Content:
        """The main stream, decompressed."""
        self._check_readable()
        resident = self._header.resident
        if resident and self._header.attributes & _ENCRYPTED:
            raise Unreadable(tr("it is encrypted"))
        if resident is not None:
            return Content(io.BytesIO(resident), len(resident), [(0, len(resident))])
        record = self._record
        attributes = record.attributes.find("", ATTRIBUTE_TYPE_CODE.DATA)
        if attributes.header.flags & _ENCRYPTED:
            raise Unreadable(tr("it is encrypted"))
        stream = record.open()
        size = stream.size
        first = min(attributes, key=lambda attribute: attribute.header.lowest_vcn)
        written = min(size, first.header.header.Form.Nonresident.ValidDataLength)
        if isinstance(stream, CompressedRunlistStream):
            return Content(stream, size, [(0, written)] if written else [])
        runs, cluster_size = stream.runlist, self._fs.cluster_size
        clusters = sum(count for _, count in runs)
        if any(count < 0 for _, count in runs) or clusters * cluster_size < size:
            raise Unreadable(tr("its map of clusters is damaged"))
        return Content(stream, size, data_ranges(runs, cluster_size, written))

    def blocks(self) -> list[Range]:
        """The clusters of its main stream, compressed or not, or of a folder's index."""
        record = self._record
        if self._header.flags & _IS_FOLDER:
            attributes = record.attributes.find("$I30", ATTRIBUTE_TYPE_CODE.INDEX_ALLOCATION)
        else:
            attributes = record.attributes.find("", ATTRIBUTE_TYPE_CODE.DATA)
        if not attributes or attributes.header.resident:
            return []
        return blocks_of(attributes.dataruns(), self._fs.cluster_size)

    def places(self) -> list[tuple[int, int, int]]:
        """Where the file's bytes lie: the first one's number, its place in the volume, how many.

        Raises:
            Unreadable: they do not lie there as they are: compressed, encrypted, with holes, or in
                the file's record.
        """
        content = self.content()
        record = self._record.attributes.find("", ATTRIBUTE_TYPE_CODE.DATA)
        if self._header.resident is not None or record.header.flags & (_COMPRESSED | _ENCRYPTED):
            raise Unreadable(tr("its bytes do not lie on the disk as they are"))
        found: list[tuple[int, int, int]] = []
        position, cluster_size = 0, self._fs.cluster_size
        for start, count in content.stream.runlist:
            length = min(count * cluster_size, content.size - position)
            if length <= 0:
                break
            if start is None:
                raise Unreadable(tr("it has holes"))
            found.append((position, start * cluster_size, length))
            position += length
        return found

    def hibernated(self) -> bool:
        """Whether a Windows sleeps on it, or was shut down with fast startup, which is the same.

        hiberfil.sys begins with HIBR then, with RSTR where it was just going on; as in ntfs-3g's
        ntfs_volume_check_hiberfile().
        """
        sleeping = (child for child in self.children() if child.name.casefold() == "hiberfil.sys")
        file = next(sleeping, None)
        if file is None or file.stat().kind is not Kind.FILE:
            return False
        content = file.content()
        content.stream.seek(0)
        return bool(content.ranges) and content.stream.read(4).lower() in (b"hibr", b"rstr")

    def of_windows(self, name: str) -> list[tuple[int, int, int]]:
        """Where a file in this folder lies that Windows has made for itself, as `places` says it.

        Nothing where it is not such a one, hidden and the system's, or does not lie there as it is.
        """
        for child in self.children():
            if child.name.casefold() != name or not isinstance(child, NtfsNode):
                continue
            is_windows = child._header.attributes & _OF_WINDOWS == _OF_WINDOWS
            if is_windows and child.stat().kind is Kind.FILE:
                with suppress(Unreadable):
                    return child.places()
        return []

    def own_file(self, number: int, length: int) -> bytes:
        """The beginning of one of the file system's own files, by the number of its record."""
        data: bytes = self._fs.mft.get(number).open().read(length)
        return data

    def unclean(self) -> bool:
        """Whether the file system waits for a check, or its log for being applied.

        Specification of the log: "$LogFile" in the documentation of NTFS; what ntfs-3g takes for
        clean in logfile.c.
        """
        volume = self._fs.mft.get(_VOLUME).open("", ATTRIBUTE_TYPE_CODE.VOLUME_INFORMATION)
        (flags,) = struct.unpack_from("<10xH", volume.read(12))
        if flags & _DIRTY:
            return True
        log = self._fs.mft.get(_LOG).open().read(2 * _RESTART_PAGE)
        pages = [log[:_RESTART_PAGE], log[_RESTART_PAGE:]]
        if all(page[:4] == b"\xff\xff\xff\xff" for page in pages):
            return False  # emptied, as after a repair
        found = [_restart_area(page) for page in pages if page[:4] in (b"RSTR", b"CHKD")]
        if not found:
            return True
        _, client, flags = max(found)
        return client != _NO_CLIENT and not flags & _LOG_IS_CLEAN

    def _target(self) -> str:
        """As Windows shows it; a relative one with slashes, as Linux needs it."""
        if special := self._interix():
            return special[len(_INTERIX_LINK) :].decode("utf-16-le", "surrogatepass")
        if self._header.tag == _WSL_LINK:  # behind tag, length and version
            data = self._record.open("", ATTRIBUTE_TYPE_CODE.REPARSE_POINT).read()
            return os.fsdecode(data[12:])
        point = self._record.attributes[ATTRIBUTE_TYPE_CODE.REPARSE_POINT]
        name = point.print_name or point.substitute_name
        return str(name.replace("\\", "/") if point.relative else name)

    def _interix(self) -> bytes:
        """What ntfs-3g puts into a file of the system's to make a link or a device of it, or b"".

        Source: ntfs-3g, include/ntfs-3g/layout.h (INTX_FILE).
        """
        header = self._header
        if not header.attributes & _SYSTEM or header.flags & _IS_FOLDER or header.tag is not None:
            return b""
        data = header.resident
        if data is None:
            size = self._record.size() if header.size is None else header.size
            data = self._record.open().read(size) if size <= _MAX_INTERIX else b""
        known = data.startswith((_INTERIX_LINK, *_INTERIX_DEVICES)) and len(data) <= _MAX_INTERIX
        return data if known else b""

    @property
    def _header(self) -> _Header:
        if self._loaded is None:
            header = _parse_record(self._read_record())
            if not header.flags & _IN_USE or self._sequence not in (None, header.sequence):
                raise Unreadable(tr("the folder names a file that was deleted"))
            if header.tag is None and header.attributes & _IS_REPARSE_POINT:
                points = self._record.attributes[ATTRIBUTE_TYPE_CODE.REPARSE_POINT]
                header = header._replace(tag=int(points.tag))
            self._loaded = header
        return self._loaded

    @property
    def _record(self) -> MftRecord:
        return self._fs.mft.get(self._number)

    def _read_record(self) -> bytes:
        table, size = self._fs.mft.fh, self._fs._record_size
        table.seek(self._number * size)
        data = table.read(size)
        if len(data) != size or data[:4] != b"FILE":
            raise Unreadable(tr("its record is damaged"))
        return bytes(apply_fixup(data))

    def _check_readable(self) -> None:
        header = self._header
        if header.attributes & _ELSEWHERE:
            raise Unreadable(tr("its data are not on this disk but at a cloud service"))
        if header.tag is not None and header.tag & ~_CLOUD_VARIANT != _CLOUD:
            raise Unreadable(
                tr("only Windows knows how (its reparse tag is {tag:#x})", tag=header.tag)
            )

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """The entries of a folder: those in its record, then those in blocks that are in use."""
        if not self._header.flags & _IS_FOLDER:
            raise Unreadable(tr("it is not a folder"))
        record = self._record
        root = record.open("$I30", ATTRIBUTE_TYPE_CODE.INDEX_ROOT).read()
        yield from _parse_index(root, 16)
        blocks = record.attributes.find("$I30", ATTRIBUTE_TYPE_CODE.INDEX_ALLOCATION)
        if not blocks:
            return
        stream, size = blocks.open(), int.from_bytes(root[8:12], "little")
        used = record.open("$I30", ATTRIBUTE_TYPE_CODE.BITMAP).read()
        for number in range(min(stream.size // size, len(used) * 8)):
            if used[number // 8] & 1 << number % 8:
                stream.seek(number * size)
                data = stream.read(size)
                if data[:4] != b"INDX":
                    raise Unreadable(tr("the folder is damaged"))
                yield from _parse_index(bytes(apply_fixup(data)), 24)


def _parse_record(data: bytes) -> _Header:
    sequence, offset, flags = struct.unpack_from("<16xHxxHH", data)
    modified = changed = accessed = attributes = 0
    size: int | None = None
    resident: bytes | None = None
    tag: int | None = None
    while offset + 8 <= len(data):
        kind, length = struct.unpack_from("<II", data, offset)
        if kind == _END:
            break
        if length < 16:
            raise Unreadable(tr("its record is damaged"))
        elsewhere, name_length = data[offset + 8 : offset + 10]
        value_length, value = struct.unpack_from("<IH", data, offset + 16)
        value += offset
        if kind == _STANDARD_INFORMATION:
            modified, changed, accessed, attributes = struct.unpack_from("<8xQQQI", data, value)
        elif kind == _DATA and not name_length:
            if elsewhere:
                first, whole = struct.unpack_from("<Q24xQ", data, offset + 16)
                size = None if first else whole
            else:
                size, resident = value_length, data[value : value + value_length]
                if len(resident) != size:
                    raise Unreadable(tr("its record is damaged"))
        elif kind == _REPARSE_POINT and not elsewhere:
            tag = int.from_bytes(data[value : value + 4], "little")
        offset += length
    modified, changed, accessed = (
        moment * 100 - _EPOCH for moment in (modified, changed, accessed)
    )
    return _Header(flags, sequence, modified, changed, accessed, attributes, size, resident, tag)


def _restart_area(page: bytes) -> tuple[int, int, int]:
    """Of the log: the last number given, its first client, and its flags."""
    (offset,) = struct.unpack_from("<H", page, 24)
    sequence, client, flags = struct.unpack_from("<QxxxxHH", page, offset)
    return sequence, client, flags


def _parse_index(data: bytes, start: int) -> Iterator[tuple[int, int, str]]:
    """The entries of an index whose header lies at `start`: record, sequence number, name."""
    first, end = struct.unpack_from("<II", data, start)
    offset, end = start + first, start + end
    while offset + 16 <= min(end, len(data)):
        reference, length, _, flags = struct.unpack_from("<QHHH", data, offset)
        if flags & _LAST_ENTRY:
            return
        name_length, namespace = struct.unpack_from("<BB", data, offset + 80)
        if length < 82 + 2 * name_length or offset + length > len(data):
            raise Unreadable(tr("the folder is damaged"))
        if namespace != _DOS_NAME:
            name = data[offset + 82 : offset + 82 + 2 * name_length]
            text = name.decode("utf-16-le", "surrogatepass")
            yield reference & (1 << 48) - 1, reference >> 48, text
        offset += length
