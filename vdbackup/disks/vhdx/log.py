"""The log of a VHDX: what was still to be written when the power failed, found and replayed.

Source: [MS-VHDX] 2.3. The log is a ring of entries, each some updates of 4 KiB sectors of the
file's structures. Only the newest whole sequence of entries counts; all of it is replayed.
We write no log of our own: our order of writes and barriers does what it is for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vdbackup.disks.extents import as_ranges, union
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.vhdx.structs import HEADERS_AT, MIB, Header, checksum_holds
from vdbackup.errors import DiskFormatError
from vdbackup.translation import tr

SECTOR = 4096
_ENTRY = struct.Struct("<4sIIIQII16sQQ")
_DESCRIPTOR = struct.Struct("<4s4s8sQQ")
_FIRST_DESCRIPTORS = (SECTOR - _ENTRY.size) // _DESCRIPTOR.size
_MORE_DESCRIPTORS = SECTOR // _DESCRIPTOR.size
_MAX_FILE = 1 << 47
"""Bytes, twice what a full disk of 64 TiB takes: no log may make a file larger."""


@dataclass(frozen=True)
class Update:
    """`length` bytes of the file from `offset` on: zeros if `data` is None."""

    offset: int
    length: int
    data: bytes | None


@dataclass(frozen=True)
class _Entry:
    """A valid log entry; `at` and `tail` are places in the ring, in bytes."""

    at: int
    length: int
    tail: int
    sequence: int
    flushed_size: int
    last_size: int
    updates: tuple[Update, ...]


@dataclass(frozen=True)
class Replay:
    """What a log says: the updates in their order, and how large the file must be at least."""

    updates: Sequence[Update]
    file_size: int

    @classmethod
    def of(cls, file: HostFile, header: Header) -> Replay:
        """The log's active sequence; the header says that there is one.

        Raises:
            DiskFormatError: there is no whole sequence, or the file was cut off.
        """
        at = header.log_offset
        if not header.log_length or at < MIB or at + header.log_length > file.size:
            raise DiskFormatError(file.path, HEADERS_AT[0], tr("the log lies outside the file"))
        sequence = _Ring(file, header).active_sequence()
        if not sequence:
            problem = tr("the log has no whole sequence of entries, so it cannot be replayed")
            raise DiskFormatError(file.path, at, problem)
        head = sequence[-1]
        if head.flushed_size > file.size:
            problem = tr(
                "the file was cut off: it had {flushed_size} bytes", flushed_size=head.flushed_size
            )
            raise DiskFormatError(file.path, at, problem)
        updates = [update for entry in sequence for update in entry.updates]
        ends = [update.offset + update.length for update in updates]
        if max([head.last_size, *ends]) > _MAX_FILE:
            raise DiskFormatError(file.path, at, tr("the log would make the file too large"))
        return cls(updates, max([file.size, head.last_size, *ends]))

    def write_to(self, file: HostFile) -> None:
        """Do the updates in the file; durable on return. Doing them twice is the same as once."""
        file.grow(self.file_size)
        for update in self.updates:
            if update.data is not None:
                file.write(update.offset, memoryview(update.data))
                continue
            # a hole is zeros already: a few bytes of log could else fill the storage
            for at, length in file.data_segments(update.offset, update.offset + update.length):
                file.zero(at, length)
        file.sync()


class Replayed:
    """A file as it will be once its log is replayed; the file itself stays as it is."""

    def __init__(self, file: HostFile, replay: Replay) -> None:
        self.path = file.path
        self._file = file
        self._replay = replay

    @property
    def size(self) -> int:
        """In bytes."""
        return self._replay.file_size

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes: fewer at the end of the file."""
        data = bytearray(max(min(length, self.size - offset), 0))
        self.readinto(offset, memoryview(data))
        return bytes(data)

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on; raises DiskFormatError if the file ends before."""
        end = offset + len(view)
        if end > self.size:
            problem = tr("the file is shorter than its tables say")
            raise DiskFormatError(self.path, self.size, problem)
        stored = max(min(len(view), self._file.size - offset), 0)
        self._file.readinto(offset, view[:stored])
        view[stored:] = bytes(len(view) - stored)
        for update in self._replay.updates:
            first = max(update.offset, offset)
            last = min(update.offset + update.length, end)
            if first < last:
                new = update.data or bytes(last - first)
                skipped = first - update.offset if update.data else 0
                view[first - offset : last - offset] = new[skipped : skipped + last - first]

    def data_segments(self, start: int, end: int) -> list[tuple[int, int]]:
        """What is stored of bytes [start, end), in the file or in its log: (offset, length)."""
        stored = self._file.data_segments(start, min(end, self._file.size))
        logged = [
            (max(update.offset, start), min(update.offset + update.length, end))
            for update in self._replay.updates
            if update.data is not None
        ]
        stored += [(first, last - first) for first, last in logged if first < last]
        ranges = union(as_ranges(stored), np.empty((0, 2), np.int64))
        return [(at, length) for at, length in ranges.tolist()]


Contents = HostFile | Replayed
"""What a disk is read from."""


class _Ring:
    """The log's ring of sectors; places in it are bytes from the log's start."""

    def __init__(self, file: HostFile, header: Header) -> None:
        self._file = file
        self._header = header

    def active_sequence(self) -> list[_Entry]:
        """The newest whole sequence of valid entries (2.3.3); [] if there is none."""
        best: list[_Entry] = []
        tail = 0
        while tail < self._header.log_length:
            sequence = list(self._sequence_from(tail))
            if not sequence:
                tail += SECTOR
                continue
            head = sequence[-1]
            whole = any(entry.at == head.tail for entry in sequence)
            if whole and (not best or head.sequence > best[-1].sequence):
                best = sequence
            # what begins later in it ends with the same head, so it is no better
            tail += sum(entry.length for entry in sequence)
        return best

    def _sequence_from(self, at: int) -> Iterator[_Entry]:
        """Valid entries that follow each other, each with the next sequence number."""
        space, wanted = self._header.log_length, None
        while space and (entry := self._entry(at % self._header.log_length)):
            if entry.length > space or wanted not in (None, entry.sequence):
                return
            yield entry
            space -= entry.length
            at, wanted = at + entry.length, entry.sequence + 1

    def _read(self, at: int, length: int) -> bytes:
        """Bytes of the ring, which goes on at its start."""
        size = self._header.log_length
        at %= size
        first = self._file.read(self._header.log_offset + at, min(length, size - at))
        return first + self._file.read(self._header.log_offset, length - len(first))

    def _entry(self, at: int) -> _Entry | None:
        """The entry at that place if it is valid in all its parts.

        The signatures of its sectors are looked at before its checksum: a log full of headers that
        all claim the whole ring would else be summed up once for each of them.
        """
        start = self._read(at, _ENTRY.size)
        signature, _, length, tail, sequence, count, _, guid, flushed, last = _ENTRY.unpack(start)
        if (
            signature != b"loge"
            or guid != self._header.log_guid.bytes_le
            or not sequence
            or length % SECTOR
            or not SECTOR <= length <= self._header.log_length
            or count > length // _DESCRIPTOR.size
        ):
            return None
        descriptor_sectors = -(-(_ENTRY.size + count * _DESCRIPTOR.size) // SECTOR)
        numbers = struct.pack("<Q", sequence)
        updates, data_at = [], at + descriptor_sectors * SECTOR
        for number in range(count):
            place = at + _ENTRY.size + number * _DESCRIPTOR.size
            kind, trailing, leading, offset, own = _DESCRIPTOR.unpack(
                self._read(place, _DESCRIPTOR.size)
            )
            if own != sequence or offset % SECTOR:
                return None
            zeros = int.from_bytes(leading, "little")
            if kind == b"zero" and zeros % SECTOR == 0:
                updates.append(Update(offset, zeros, None))
            elif kind == b"desc" and data_at < at + length:
                sector = self._read(data_at, SECTOR)
                # the number's halves stand at both ends, the high one first
                if sector[:8] != b"data" + numbers[4:] or sector[-4:] != numbers[:4]:
                    return None
                updates.append(Update(offset, SECTOR, leading + sector[8:-4] + trailing))
                data_at += SECTOR
            else:
                return None
        if data_at != at + length or not checksum_holds(self._read(at, length)):
            return None
        return _Entry(at, length, tail, sequence, flushed, last, tuple(updates))
